"""What a job costs the driver's process besides: the client of the cluster's own system. Measured, where it is installed.

    dask   its client and its scheduler, which live in the driver's process with a local cluster
    ray    its driver; what its own processes do takes none of the driver's time

Measured is the CPU time of a process in which nothing else happens, with all its threads: no-ops on one worker,
submitted in a loop, and their results taken.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

from shoal_bench.fresh_process import run_python

__all__ = ["Engine", "cost_of_job"]

Engine = Literal["none", "dask", "ray"]

#: Jobs that are measured, after a few that are not.
JOBS = 2000
WARM_UP = 50

#: What each is imported by.
MODULES = {"dask": "distributed", "ray": "ray"}


def cost_of_job(engine: Engine) -> float:
    """CPU seconds that a job takes the driver's process, on top of what Shoal does; measured in a process of its own.

    Raises:
        MissingExtraError: it is not installed.
        SampleFailed: it could not be measured; the error has what that process wrote.
    """
    if engine == "none":
        return 0.0
    from shoal.exceptions import MissingExtraError

    if find_spec(MODULES[engine]) is None:
        raise MissingExtraError(feature=f"--engine {engine}", requirement=f"shoal-{engine}")
    return float(run_python("-m", __name__, engine).split()[-1])


def no_op(number: int) -> int:
    """A job."""
    return number


def _dask() -> float:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def run(jobs: int) -> Any:
            return client.gather([client.submit(no_op, n, pure=False) for n in range(jobs)])

        return _cost(run)


def _ray() -> float:
    # Under `uv run` each worker would set the project's environment up anew, for minutes where there is no network.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        remote: Any = ray.remote(no_op)

        def run(jobs: int) -> Any:
            return ray.get([remote.remote(n) for n in range(jobs)])

        return _cost(run)
    finally:
        ray.shutdown()


def _cost(run: Callable[[int], Any]) -> float:
    run(WARM_UP)
    started = time.process_time()
    results = run(JOBS)
    taken = time.process_time() - started
    if results != list(range(JOBS)):
        raise ValueError("the jobs have other results than they should")
    return taken / JOBS


if __name__ == "__main__":
    print({"dask": _dask, "ray": _ray}[sys.argv[1]]())
