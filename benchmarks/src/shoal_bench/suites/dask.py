"""The Dask runner beside Dask itself: `distributed`'s client, on the same kind of cluster in the same run.

Both have a local cluster of two worker processes with one thread each, which is made for each sample, and is there before
the clock starts, except where the start is what is measured. Native code is what a user of Dask would write: results
are gathered together, keys are not hashed from arguments (`pure=False`). What is measured is in `clusters`, but for what
only Dask has.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from shoal import flow, task
from shoal_dask import DaskTaskRunner
from shoal_dask.connection import Connection
from shoal_dask.settings import ClusterSettings

from shoal_bench import workloads
from shoal_bench.contestants.traffic import counted
from shoal_bench.fresh_process import first_result, in_fresh_process
from shoal_bench.measurement import BYTES, SECONDS, Figure, Measurement
from shoal_bench.suites.clusters import ClusterSamples, Native, cold

__all__ = ["MEASUREMENTS"]

T = TypeVar("T")

#: Worker processes of each cluster, with a thread each.
WORKERS = 2


# ---------------------------------------------------------------------- the two sides


@contextmanager
def connected(module: str | None = None) -> Iterator[Connection]:
    """A local cluster whose workers are there, and have imported a module; and a client."""
    connection = Connection(ClusterSettings(cluster_kwargs={"n_workers": WORKERS}))
    connection.acquire()
    try:
        connection.client.run(workloads.arrive, module)
        yield connection
    finally:
        connection.release(1.0)


class DaskNative:
    """Dask's client; see `Native`.

    Args:
        client: it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.gather = client.gather

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """See `Native`."""
        return self._client.submit(function, argument, pure=False)

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Any:
        """See `Native`."""
        return self._client.map(function, arguments, pure=False)


class DaskSamples(ClusterSamples):
    """See `ClusterSamples`: each sample has a cluster of its own."""

    def ours(self, work: Callable[[], T], expected: T, module: str | None = None) -> float:
        """See `ClusterSamples`."""
        with connected(module) as connection:
            runner = DaskTaskRunner(connection.cluster)
            return workloads.seconds_in_flow(runner, work, expected, WORKERS)

    def native(self, work: Callable[[Native], T], expected: T, module: str | None = None) -> float:
        """See `ClusterSamples`."""
        with connected(module) as connection:
            client = DaskNative(connection.client)
            client.gather(client.map(workloads.no_op, range(WORKERS)))
            return workloads.seconds(lambda: work(client), expected)

    @contextmanager
    def traffic(self) -> Iterator[Callable[[], int]]:
        """Counts the bytes that pass through this process's sockets meanwhile.

        The scheduler of a local cluster lives in the driver's process, so what it says to the workers counts too.
        """
        from tornado.iostream import IOStream

        def move(original: Any, stream: Any, data: Any) -> Any:
            moved = original(stream, data)
            return moved, moved or 0

        with (
            counted(IOStream, "read_from_fd", move) as received,
            counted(IOStream, "write_to_fd", move) as sent,
        ):
            yield lambda: received() + sent()


# ---------------------------------------------------------------------- starting

# A default cluster but for its size, which would be this machine's, and for the port of its dashboard.
NATIVE_COLD = """
import time
from distributed import Client, LocalCluster

def one():
    return 1

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            print(client.submit(one).result() and time.perf_counter())
"""


# ---------------------------------------------------------------------- many pending tasks


def hold(file: str) -> None:
    """Keeps a worker until a file is there."""
    while not os.path.exists(file):
        time.sleep(0.01)


hold_task = task(hold)


@contextmanager
def held() -> Iterator[str]:
    """The file that `hold` waits for; it is there at the end."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        file = Path(folder, "go")
        try:
            yield str(file)
        finally:
            file.touch()
            time.sleep(0.1)  # for all to see it


@in_fresh_process
def memory_map(count: int) -> float:
    """Bytes for a task, all of them one map, whose list of futures is held and not looked into."""
    with connected() as connection, workloads.logging_at_warning():

        @flow(task_runner=DaskTaskRunner(connection.cluster))
        def measured() -> float:
            workloads.start_runner(WORKERS)
            with held() as file:
                hold_task.map([file] * WORKERS)
                time.sleep(0.5)
                return workloads.growth(workloads.no_op_task.map, count) / count

        return measured()


@in_fresh_process
def native_memory_map(count: int) -> float:
    """Bytes for a task, all of them one map, their futures in a list; of fewer."""
    count //= 10
    with connected() as connection:
        client: Any = connection.client  # its types allow for coroutines

        def fill(numbers: list[int]) -> object:
            futures = client.map(workloads.no_op, numbers, pure=False)
            # The client sends them when it can, and the scheduler has its own record of each.
            while client.run_on_scheduler(_known_tasks) < count:
                time.sleep(0.05)
            return futures

        with held() as file:
            holding = client.map(hold, [file] * WORKERS, pure=False)
            time.sleep(0.5)
            grown = workloads.growth(fill, count) / count
        client.gather(holding)
        return grown


def _known_tasks(dask_scheduler: Any = None) -> int:
    return len(dask_scheduler.tasks)


MEASUREMENTS = (
    *DaskSamples().measurements(
        {
            "submit": (30, 150),
            "map": (100, 400),
            "round-trip": (1.15, 0.6),
            "chain": (5, 40),
            "chain-of-work": (1, 0.75),
            "long": (1.05, 1.02),
            "array": (1.3, 1.1),
            "array-bytes": (1_000_000, 100_000),
        }
    ),
    Measurement(
        name="first-result",
        compares="from the start of an interpreter to the first result, beside a default LocalCluster's: time of it",
        ours=first_result(cold("dask:2")),
        bare=first_result(NATIVE_COLD),
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=0.7,
        aim=0.45,
        size=1,
    ),
    Measurement(
        name="memory-map",
        compares="memory for each of 100,000 runs of one map, none started, the list of futures held",
        ours=memory_map,
        bare=native_memory_map,
        unit=BYTES,
        figure=Figure.COST,
        floor=600,
        aim=250,
        size=100_000,
        repeats=1 / 3,
    ),
)
