"""The Ray runner beside Ray itself, on the same instance of two CPUs in the same run.

An instance takes seconds to start, so all samples of a process share one, except where the start is what is measured. The
workers of a sample are there before the clock starts. Native code is what a user of Ray would write: `.remote()` in a loop,
and one `ray.get` for all. What is measured is in `clusters`, but for what only Ray has.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import ray
from shoal_ray import RayTaskRunner
from shoal_ray.connection import Connection
from shoal_ray.settings import ClusterSettings

from shoal_bench import workloads
from shoal_bench.contestants.ray import taken_from_store
from shoal_bench.contestants.traffic import carried
from shoal_bench.fresh_process import first_result
from shoal_bench.measurement import SECONDS, Figure, Measurement
from shoal_bench.suites.clusters import ClusterSamples, Native, cold

__all__ = ["MEASUREMENTS", "leave"]

T = TypeVar("T")

#: CPUs of the instance, and so worker processes.
WORKERS = 2


# ---------------------------------------------------------------------- the two sides


@cache
def instance() -> Connection:
    """The instance of this process, started when it is first asked for. It ends with the process, or by `leave`."""
    connection = Connection(ClusterSettings("local", {"num_cpus": WORKERS}))
    connection.acquire()
    atexit.register(leave)
    return connection


def leave() -> None:
    """Ends it, if there is one."""
    if instance.cache_info().currsize:
        instance().release(1.0)
        instance.cache_clear()
        atexit.unregister(leave)


@cache
def remote(function: Callable[[Any], Any]) -> Any:
    """A remote function, made once, as by a decorator: so Ray sends it to the workers in the warm-up."""
    return ray.remote(function)


class RayNative:
    """Ray; see `Native`."""

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """See `Native`."""
        return remote(function).remote(argument)

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Any:
        """See `Native`."""
        call = remote(function).remote
        return [call(argument) for argument in arguments]

    def gather(self, futures: Any) -> Any:
        """See `Native`."""
        return ray.get(futures)

    def arrived(self, module: str | None) -> None:
        """Waits until all workers are there, and have imported a module."""
        seen: set[int] = set()
        while len(seen) < WORKERS:
            seen.update(self.gather(self.map(workloads.arrive, [module] * WORKERS)))


class RaySamples(ClusterSamples):
    """See `ClusterSamples`: they share an instance."""

    size_of_map = 100_000
    fewer_mapped = 20

    def ours(self, work: Callable[[], T], expected: T, module: str | None = None) -> float:
        """See `ClusterSamples`."""
        instance()
        return workloads.seconds_in_flow(RayTaskRunner(), work, expected, WORKERS, module)

    def native(self, work: Callable[[Native], T], expected: T, module: str | None = None) -> float:
        """See `ClusterSamples`."""
        instance()
        client = RayNative()
        client.arrived(module)
        return workloads.seconds(lambda: work(client), expected)

    @contextmanager
    def traffic(self) -> Iterator[Callable[[], int]]:
        """Counts meanwhile what TCP carries from and to this process, and the values that it takes from the object store."""

        before = Counter(carried())
        with taken_from_store() as taken:
            yield lambda: taken() + sum((Counter(carried()) - before).values())


# ---------------------------------------------------------------------- starting

# Under `uv run` Ray would make an environment anew, which takes much longer; ours has that turned off.
NATIVE_COLD = """
import os
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
import time
import ray

ray.init(address="local", num_cpus=2, include_dashboard=False)
print(time.perf_counter())
"""

NATIVE_FIRST = NATIVE_COLD.replace(
    "print(",
    """
@ray.remote
def one():
    return 1

print(ray.get(one.remote()) and """,
)


MEASUREMENTS = (
    *RaySamples().measurements(
        {
            "submit": (20, 80),
            "map": (60, 200),
            "round-trip": (1.15, 1),
            "chain": (4, 20),
            "chain-of-work": (1, 0.75),
            "long": (1.05, 1.02),
            "array": (1.3, 1.1),
            "array-bytes": (1_000_000, 100_000),
        }
    ),
    Measurement(
        name="first-result",
        compares="from the start of an interpreter to the first result, beside one that ends with `ray.init`: time of it",
        ours=first_result(cold("ray:2")),
        bare=first_result(NATIVE_COLD),
        also={"its first result": first_result(NATIVE_FIRST)},
        unit=SECONDS,
        figure=Figure.EXTRA_COST,
        floor=1,
        aim=0.2,
        size=1,
        repeats=1 / 2,
    ),
)
