"""The Dask runner beside Dask itself: `distributed`'s client, on the same kind of cluster in the same run.

Both have a local cluster of two worker processes with one thread each, which is made for each sample, and is there before
the clock starts, except where the start is what is measured. Native code is what a user of Dask would write: results
are gathered together, keys are not hashed from arguments (`pure=False`).

A task costs Dask the same however many there are, so it gets fewer of them where it would take many seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands import State, flow, task
from manyhands_dask import DaskTaskRunner
from manyhands_dask.connection import Connection
from manyhands_dask.settings import ClusterSettings

from manyhands_bench import workloads
from manyhands_bench.fresh_process import first_result, in_fresh_process
from manyhands_bench.measurement import BYTES, SECONDS, Figure, Measurement

if TYPE_CHECKING:
    from distributed import Client

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


def ours(work: Callable[[], T], expected: T, module: str | None = None) -> float:
    """Seconds that work takes in a flow."""
    with connected(module) as connection:
        runner = DaskTaskRunner(connection.cluster)
        return workloads.seconds_in_flow(runner, work, expected, WORKERS)


def native(work: Callable[[Client], T], expected: T, module: str | None = None) -> float:
    """Seconds that work takes which is given Dask's client."""
    with connected(module) as connection:
        client = connection.client
        client.gather(client.map(workloads.no_op, range(WORKERS), pure=False))
        return workloads.seconds(lambda: work(client), expected)


# ---------------------------------------------------------------------- many tasks


def submit(count: int) -> float:
    """Seconds for a task."""

    def work() -> list[int]:
        futures = [workloads.no_op_task.submit(i) for i in range(count)]
        return [future.result() for future in futures]

    return ours(work, list(range(count))) / count


def native_submit(count: int) -> float:
    """Seconds for a task; of fewer."""
    count //= 5

    def work(client: Client) -> Any:
        return client.gather([client.submit(workloads.no_op, i, pure=False) for i in range(count)])

    return native(work, list(range(count))) / count


def mapped(count: int) -> float:
    """Seconds for a task whose result and state are read."""
    states: list[State[int]] = []

    def work() -> list[int]:
        futures = workloads.no_op_task.map(range(count))
        results = futures.result()
        states.extend([future.state for future in futures])
        return results

    taken = ours(work, list(range(count)))
    workloads.check(sum(state.is_completed() for state in states), count)
    return taken / count


def native_mapped(count: int) -> float:
    """Seconds for a task; of fewer."""
    count //= 5

    def work(client: Client) -> Any:
        return client.gather(client.map(workloads.no_op, range(count), pure=False))

    return native(work, list(range(count))) / count


# ---------------------------------------------------------------------- one task after another


def round_trips(count: int) -> float:
    """Seconds for a task."""

    def work() -> list[int]:
        return [workloads.no_op_task.submit(i).result() for i in range(count)]

    return ours(work, list(range(count))) / count


def native_round_trips(count: int) -> float:
    """Seconds for a task."""

    def work(client: Client) -> list[int]:
        return [client.submit(workloads.no_op, i, pure=False).result() for i in range(count)]

    return native(work, list(range(count))) / count


def chain(links: int) -> float:
    """Seconds for a link that does nothing."""
    return _chain(workloads.increment_task, links)


def native_chain(links: int) -> float:
    """Seconds for a link that does nothing."""
    return _native_chain(workloads.increment, links)


#: Seconds that a link takes which does something.
LINK = 5e-3


def slow_increment(x: int) -> int:
    """A link that does something: it sleeps, which takes as long on a busy machine."""
    time.sleep(LINK)
    return x + 1


slow_increment_task = task(slow_increment)


def working_chain(links: int) -> float:
    """Seconds for a link."""
    return _chain(slow_increment_task, links)


def native_working_chain(links: int) -> float:
    """Seconds for a link."""
    return _native_chain(slow_increment, links)


def bare_work(links: int) -> float:
    """Seconds for a link, of a loop that calls the function."""

    def work() -> int:
        value = 0
        for _ in range(links):
            value = slow_increment(value)
        return value

    return workloads.seconds(work, links) / links


def _chain(link: Any, links: int) -> float:
    def work() -> int:
        future = link.submit(0)
        for _ in range(links - 1):
            future = link.submit(future)
        result: int = future.result()
        return result

    return ours(work, links) / links


def _native_chain(link: Callable[[int], int], links: int) -> float:
    def work(client: Client) -> int:
        future: Any = client.submit(link, 0, pure=False)
        for _ in range(links - 1):
            future = client.submit(link, future, pure=False)
        result: int = future.result()
        return result

    return native(work, links) / links


# ---------------------------------------------------------------------- tasks that are worth a message

#: Seconds that each takes.
LONG = 0.1


def sleep(number: int) -> int:
    """A task of a length that does not depend on the machine."""
    time.sleep(LONG)
    return number


sleep_task = task(sleep)


def long_tasks(count: int) -> float:
    """Seconds for all."""
    return ours(lambda: sleep_task.map(range(count)).result(), list(range(count)))


def native_long_tasks(count: int) -> float:
    """Seconds for all."""

    def work(client: Client) -> Any:
        return client.gather(client.map(sleep, range(count), pure=False))

    return native(work, list(range(count)))


# ---------------------------------------------------------------------- large values


def array(megabytes: int) -> float:
    """Seconds for all."""
    return ours(lambda: workloads.sums_of_one(megabytes), workloads.sums(megabytes), "numpy")


def native_array(megabytes: int) -> float:
    """Seconds for all."""
    return native(
        lambda client: _sums_of_one_on(client, megabytes), workloads.sums(megabytes), "numpy"
    )


def _sums_of_one_on(client: Client, megabytes: int) -> Any:
    made = client.submit(workloads.make_array, megabytes, pure=False)
    futures = [
        client.submit(workloads.sum_up, made, pure=False) for _ in range(workloads.CONSUMERS)
    ]
    return client.gather(futures)


@contextmanager
def traffic() -> Iterator[Callable[[], int]]:
    """Counts the bytes that pass through this process's sockets meanwhile.

    The scheduler of a local cluster lives in the driver's process, so what it says to the workers counts too.
    """
    from tornado.iostream import IOStream

    def move(original: Any, stream: Any, data: Any) -> Any:
        moved = original(stream, data)
        return moved, moved or 0

    with (
        workloads.counted(IOStream, "read_from_fd", move) as received,
        workloads.counted(IOStream, "write_to_fd", move) as sent,
    ):
        yield lambda: received() + sent()


def array_bytes(megabytes: int) -> float:
    """Bytes through the driver's sockets."""
    moved = 0

    def work() -> list[float]:
        nonlocal moved
        with traffic() as count:
            given = workloads.sums_of_one(megabytes)
            moved = count()
        return given

    ours(work, workloads.sums(megabytes), "numpy")
    return float(moved)


def native_array_bytes(megabytes: int) -> float:
    """Bytes through the driver's sockets."""
    moved = 0

    def work(client: Client) -> Any:
        nonlocal moved
        with traffic() as count:
            given = _sums_of_one_on(client, megabytes)
            moved = count()
        return given

    native(work, workloads.sums(megabytes), "numpy")
    return float(moved)


# ---------------------------------------------------------------------- starting

COLD = """
import os
os.environ["MANYHANDS_LOGGING_LEVEL"] = "WARNING"
import time
from manyhands import flow, task

@task
def one():
    return 1

@flow(task_runner="dask:2")
def first():
    print(one.submit().result() and time.perf_counter())

first()
"""

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
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as folder:
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


ARRAYS = (
    Measurement(
        name="array",
        compares="one task makes an array of 100 MB, four sum it up: time for all",
        ours=array,
        bare=native_array,
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1.3,
        aim=1.1,
        size=100,
        quick_size=10,
    ),
    Measurement(
        name="array-bytes",
        compares="the same: bytes that the driver and the scheduler send and receive",
        ours=array_bytes,
        bare=native_array_bytes,
        unit=BYTES,
        figure=Figure.COST,
        floor=1_000_000,
        aim=100_000,
        size=100,
        quick_size=10,
        repeats=1 / 3,
    ),
)

MEASUREMENTS = (
    Measurement(
        name="submit",
        compares="no-ops submitted in a loop, then every result taken: time a task",
        ours=submit,
        bare=native_submit,
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=30,
        aim=150,
        size=10_000,
        quick_size=1_000,
    ),
    Measurement(
        name="map",
        compares="no-ops in one map, every result and state read; Dask's client knows no states: time a task",
        ours=mapped,
        bare=native_mapped,
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=100,
        aim=400,
        size=10_000,
        quick_size=1_000,
    ),
    Measurement(
        name="round-trip",
        compares="one no-op after another, `submit(x).result()`: time a task",
        ours=round_trips,
        bare=native_round_trips,
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1.15,
        aim=0.6,
        size=200,
        quick_size=50,
    ),
    Measurement(
        name="chain",
        compares="200 no-ops, each takes the one before as its argument: time a link",
        ours=chain,
        bare=native_chain,
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=5,
        aim=40,
        size=200,
        quick_size=50,
    ),
    Measurement(
        name="chain-of-work",
        compares="60 tasks of 5 ms, each takes the one before as its argument; beside a loop too: time a link",
        ours=working_chain,
        bare=native_working_chain,
        also={"a loop": bare_work},
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1,
        aim=0.75,
        size=60,
        quick_size=20,
    ),
    Measurement(
        name="long",
        compares="200 tasks of 100 ms in one map: time for all",
        ours=long_tasks,
        bare=native_long_tasks,
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1.05,
        aim=1.02,
        size=200,
        quick_size=40,
        repeats=1 / 3,
    ),
    *(ARRAYS if find_spec("numpy") else ()),
    Measurement(
        name="first-result",
        compares="from the start of an interpreter to the first result, beside a default LocalCluster's: time of it",
        ours=first_result(COLD),
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
