"""How many threads numerical libraries may use in each worker.

Every library assumes that the machine is its own: with one worker a core, each of which computes on all cores, threads
spend their time waiting for each other (2.5 to 4.4 times as long for fits of scikit-learn, measured on 2 cores). So a
worker gets a share, through the variables that these libraries read when they are loaded, as in joblib.

Imports the standard library only.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["cores", "shares"]

#: What OpenMP reads; the others of the first kind read it too if their own is not set.
OPENMP = "OMP_NUM_THREADS"
FOLLOW_OPENMP = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
OF_THEIR_OWN = ("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")

CGROUPS = "/sys/fs/cgroup"


def shares(workers: int, given: Collection[str]) -> dict[str, str]:
    """The variables that give each of some workers its share of the cores.

    Args:
        workers: how many there are at most.
        given: names of variables that the user has set; they stand, and so does `OMP_NUM_THREADS` for those who read it.
    """
    share = str(max(cores() // workers, 1))
    names = [*OF_THEIR_OWN, *(() if OPENMP in given else (OPENMP, *FOLLOW_OPENMP))]
    return {name: share for name in names if name not in given}


def cores() -> int:
    """How many processors' time this process may use: those that it may run on, and what its control groups allow."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(min([count, *map(math.ceil, _quotas())]), 1)


def _quotas() -> Iterator[float]:
    """The limits of the control groups around this process, in processors."""
    own = next((line[3:] for line in _read("/proc/self/cgroup") if line.startswith("0::/")), "/")
    while True:
        for line in _read(f"{CGROUPS}{own.rstrip('/')}/cpu.max"):
            quota, period = line.split()
            if quota != "max":
                yield int(quota) / int(period)
        if own == "/":
            break
        own = os.path.dirname(own)
    # Version 1.
    for quota, period in zip(
        _read(f"{CGROUPS}/cpu/cpu.cfs_quota_us"),
        _read(f"{CGROUPS}/cpu/cpu.cfs_period_us"),
        strict=False,
    ):
        if int(quota) > 0:
            yield int(quota) / int(period)


def _read(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []  # there are no such groups here
