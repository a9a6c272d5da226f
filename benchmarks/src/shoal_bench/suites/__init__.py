"""The measurements of each runner, in a module of its own with a tuple `MEASUREMENTS`; `clusters` has what several share.
`process_pools` and `process_arrays` are parts of `processes`.

A suite is imported only when it is asked for, so that its engine need not be installed for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Literal

from shoal_bench.measurement import Measurement

__all__ = ["Runner", "measurements_of"]

#: The runners that have a suite.
Runner = Literal["threads", "processes", "dask", "ray"]

_SUITES: dict[Runner, str] = {
    "threads": "shoal_bench.suites.threads",
    "processes": "shoal_bench.suites.processes",
    "dask": "shoal_bench.suites.dask",
    "ray": "shoal_bench.suites.ray",
}


def measurements_of(runner: Runner) -> Sequence[Measurement]:
    """The measurements of a runner, in the order in which they are reported."""
    measurements: Sequence[Measurement] = import_module(_SUITES[runner]).MEASUREMENTS
    return measurements
