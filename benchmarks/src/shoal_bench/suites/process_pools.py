"""The process pools of others, which ours is measured beside: those of the standard library, of loky and of joblib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any, TypeVar

from shoal_bench import workloads
from shoal_bench.measurement import Sampler

__all__ = ["RUNNER", "WORKERS", "executor", "joblib_seconds", "loky_executor", "others"]

T = TypeVar("T")

#: Processes of all pools.
WORKERS = 2
RUNNER = f"processes:{WORKERS}"


def executor() -> ProcessPoolExecutor:
    """The bare engine."""
    return ProcessPoolExecutor(WORKERS, mp_context=get_context("forkserver"))


def loky_executor() -> Executor:
    """Loky's executor."""
    import loky

    pool: Executor = loky.ProcessPoolExecutor(WORKERS)
    return pool


def joblib_seconds(work: Callable[[Any], T], expected: T, module: str | None = None) -> float:
    """Seconds that a piece of work takes which is given a `joblib.Parallel` with its workers."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    try:
        pool: Any = Parallel(n_jobs=WORKERS)
        with pool as parallel:
            seen: set[int] = set()
            while len(seen) < WORKERS:
                seen.update(parallel([delayed(workloads.arrive)(module)] * WORKERS))
            return workloads.seconds(lambda: work(parallel), expected)
    finally:
        get_reusable_executor().shutdown()


def others(**samplers: Sampler) -> Mapping[str, Sampler]:
    """Those of these engines that are installed."""
    return {
        name: sampler for name, sampler in samplers.items() if name == "executor" or find_spec(name)
    }
