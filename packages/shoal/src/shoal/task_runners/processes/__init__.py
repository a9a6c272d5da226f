"""The process pool: worker processes of this machine.

driver     runner.py        `ProcessPoolTaskRunner`: what users configure
           backend.py       what the scheduler asks for; holds what follows together
           pool.py          the workers at their slots, and what they leave behind
           sender.py        how batches go to them
           link.py          the thread that reads what they say
           listener.py      what becomes of that, where it is not the same for all workers
           members.py       the books about workers
           cores.py         how many threads libraries may use in each
           driver_store.py  large arguments and results, also of runs that workers submit
           spawning.py      how workers start
           fork_server.py   the driver's side of the server
           worker_process.py  a worker process, and how it ends
server     server.py        the process that workers are forked from
worker     worker.py        its receiver, and what it says; the rest is in `remote`
between    wire.py          how messages cross a socket
           record.py        outcomes, in memory that outlives the worker
           stored.py        large values, in segments (segments.py) of shared memory
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.task_runners.processes.runner import ProcessPoolTaskRunner

__all__ = ["ProcessPoolTaskRunner"]


def __getattr__(name: str) -> Any:
    # On use only: a worker imports this package too, and has no use for the driver's half.
    if name != "ProcessPoolTaskRunner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shoal.task_runners.processes.runner import ProcessPoolTaskRunner

    return ProcessPoolTaskRunner
