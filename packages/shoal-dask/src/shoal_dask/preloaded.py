"""What the server process imports before it forks workers; imported nowhere else.

A worker that is forked from it finds these modules loaded. Whatever starts threads or opens files on import must not
be among them.
"""

from __future__ import annotations

import signal
from importlib import import_module

#: By name: with none of them in use here, import statements look like left-overs.
_MODULES = (
    "distributed.nanny",
    "distributed.worker",
    "shoal.engine.batch_run",
    "shoal_dask.nanny",
    "shoal_dask.session",
)

# An interrupt from the terminal is the driver's business, from the first moment on.
signal.signal(signal.SIGINT, signal.SIG_IGN)

for _name in _MODULES:
    import_module(_name)
