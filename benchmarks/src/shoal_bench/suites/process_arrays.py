"""Large values on process pools: how long they take, and what of them goes through the driver. Needs NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from shoal.task_runners.processes.wire import DriverChannel, Inbox

from shoal_bench import workloads
from shoal_bench.contestants.traffic import counted
from shoal_bench.measurement import BYTES, SECONDS, Figure, Measurement
from shoal_bench.suites.process_pools import (
    RUNNER,
    WORKERS,
    executor,
    joblib_seconds,
    loky_executor,
    others,
)

__all__ = ["MEASUREMENTS", "driver_traffic"]


def array(megabytes: int) -> float:
    """Seconds for all."""
    return workloads.seconds_in_flow(
        RUNNER,
        lambda: workloads.sums_of_one(megabytes),
        workloads.sums(megabytes),
        WORKERS,
        "numpy",
    )


def executor_array(megabytes: int) -> float:
    """Seconds for all; the array goes through the driver."""
    return _array_on(executor(), megabytes)


def loky_array(megabytes: int) -> float:
    """Seconds for all; the array goes through the driver."""
    return _array_on(loky_executor(), megabytes)


def _array_on(pool: Executor, megabytes: int) -> float:
    with pool:
        workloads.start_executor(pool, WORKERS, "numpy")
        return workloads.seconds(
            lambda: _sums_of_one_on(pool, megabytes), workloads.sums(megabytes)
        )


def _sums_of_one_on(pool: Executor, megabytes: int) -> list[float]:
    made = pool.submit(workloads.make_array, megabytes).result()
    futures = [pool.submit(workloads.sum_up, made) for _ in range(workloads.CONSUMERS)]
    return [future.result() for future in futures]


def joblib_array(megabytes: int) -> float:
    """Seconds for all; the array goes through the driver, and from there into a file that the workers map."""
    from joblib import delayed

    def work(parallel: Any) -> list[float]:
        (made,) = parallel([delayed(workloads.make_array)(megabytes)])
        result: list[float] = parallel([delayed(workloads.sum_up)(made)] * workloads.CONSUMERS)
        return result

    return joblib_seconds(work, workloads.sums(megabytes), "numpy")


#: Bytes of a message of the pool's besides its body.
HEADER = 8


def array_bytes(megabytes: int) -> float:
    """Bytes through the driver's sockets."""
    moved = 0

    def work() -> list[float]:
        nonlocal moved
        with driver_traffic() as count:
            given = workloads.sums_of_one(megabytes)
            moved = count()
        return given

    workloads.seconds_in_flow(RUNNER, work, workloads.sums(megabytes), WORKERS, "numpy")
    return float(moved)


@contextmanager
def driver_traffic() -> Iterator[Callable[[], int]]:
    """Counts meanwhile what passes through the sockets between our driver and its worker processes."""

    def send(original: Any, channel: Any, kind: int, body: bytes = b"", *fds: Any) -> Any:
        return original(channel, kind, body, *fds), HEADER + len(body)

    def receive(original: Any, inbox: Any) -> Any:
        before = len(inbox._data)
        return original(inbox), len(inbox._data) - before

    with (
        counted(DriverChannel, "send", send) as sent,
        counted(Inbox, "receive", receive) as received,
    ):
        yield lambda: sent() + received()


def executor_array_bytes(megabytes: int) -> float:
    """Bytes through the driver's pipes."""

    def send(original: Any, connection: Any, data: Any, *rest: Any) -> Any:
        return original(connection, data, *rest), len(data)

    def receive(original: Any, connection: Any, size: int, *rest: Any) -> Any:
        return original(connection, size, *rest), size

    with executor() as pool:
        workloads.start_executor(pool, WORKERS, "numpy")
        with (
            counted(Connection, "_send", send) as sent,
            counted(Connection, "_recv", receive) as received,
        ):
            workloads.check(_sums_of_one_on(pool, megabytes), workloads.sums(megabytes))
            return float(sent() + received())


MEASUREMENTS = (
    Measurement(
        name="array",
        compares="one task makes an array of 100 MB, four sum it up: time for all",
        ours=array,
        bare=executor_array,
        also=others(loky=loky_array, joblib=joblib_array),
        unit=SECONDS,
        figure=Figure.COST,
        floor=300e-3,
        aim=120e-3,
        size=100,
        quick_size=10,
    ),
    Measurement(
        name="array-bytes",
        compares="the same: bytes that the driver sends and receives",
        ours=array_bytes,
        bare=executor_array_bytes,
        unit=BYTES,
        figure=Figure.COST,
        floor=100_000,
        aim=4_000,
        size=100,
        quick_size=10,
        repeats=1 / 3,
    ),
)
