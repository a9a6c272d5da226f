"""What it costs to import Shoal, over an interpreter that imports nothing."""

from __future__ import annotations

import time

from shoal_bench.fresh_process import run_python
from shoal_bench.measurement import SECONDS, Figure, Measurement, Sampler

__all__ = ["MEASUREMENTS"]


def interpreter(code: str) -> Sampler:
    """Samples the seconds from the start to the end of an interpreter that runs this code."""

    def sample(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            run_python("-c", code)
        return (time.perf_counter() - started) / count

    return sample


MEASUREMENTS = (
    Measurement(
        name="import",
        compares="`import shoal` and an empty interpreter: time from start to end of the process",
        ours=interpreter("import shoal"),
        bare=interpreter(""),
        unit=SECONDS,
        figure=Figure.EXTRA_COST,
        floor=70e-3,
        aim=35e-3,
        size=1,
        repeats=3,
    ),
    Measurement(
        name="import-names",
        compares="the same for `from shoal import flow, task`, with which every program begins",
        ours=interpreter("import shoal; from shoal import flow, task"),
        bare=interpreter(""),
        unit=SECONDS,
        figure=Figure.EXTRA_COST,
        floor=70e-3,
        aim=35e-3,
        size=1,
        repeats=3,
    ),
)
