"""The thread runner beside `concurrent.futures.ThreadPoolExecutor`, and for async tasks beside asyncio."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from shoal import task

from shoal_bench import workloads
from shoal_bench.fresh_process import in_fresh_process
from shoal_bench.measurement import BYTES, SECONDS, Figure, Measurement
from shoal_bench.suites import imports

__all__ = ["MEASUREMENTS"]

#: Threads of both pools, unless a measurement is about one.
WORKERS = 2
RUNNER = f"threads:{WORKERS}"

#: Seconds that each of the async tasks sleeps.
NAP = 0.1


def submit(count: int) -> float:
    """Seconds for a task."""
    return workloads.runner_submit(RUNNER, count)


def mapped(count: int) -> float:
    """Seconds for a task."""
    return workloads.runner_map(RUNNER, count)


def executor_submit(count: int) -> float:
    """Seconds for a task."""
    return workloads.executor_submit(ThreadPoolExecutor(WORKERS), count)


def round_trips(count: int) -> float:
    """Seconds for a task."""
    return workloads.runner_round_trips(RUNNER, count)


def executor_round_trips(count: int) -> float:
    """Seconds for a task."""
    return workloads.executor_round_trips(ThreadPoolExecutor(WORKERS), count)


def chain(links: int) -> float:
    """Seconds for 100 links."""
    return 100 * workloads.runner_chain("threads:1", links)


def executor_chain(links: int) -> float:
    """Seconds for 100 links."""
    return 100 * workloads.executor_chain(ThreadPoolExecutor(1), links)


@in_fresh_process
def pending_submit(count: int) -> float:
    """Bytes for a task."""
    return workloads.runner_pending_submit("threads:1", count)


@in_fresh_process
def pending_map(count: int) -> float:
    """Bytes for a task."""
    return workloads.runner_pending_map("threads:1", count)


@in_fresh_process
def executor_pending(count: int) -> float:
    """Bytes for a task."""
    return workloads.executor_pending(ThreadPoolExecutor(1), count)


async def nap(x: int) -> int:
    """An async task that waits."""
    await asyncio.sleep(NAP)
    return x


nap_task = task(nap)


def async_map(count: int) -> float:
    """Seconds for all."""
    return workloads.seconds_in_flow(
        "threads", lambda: nap_task.map(range(count)).result(), list(range(count))
    )


def asyncio_gather(count: int) -> float:
    """Seconds for all."""

    async def gather() -> list[int]:
        return await asyncio.gather(*[nap(i) for i in range(count)])

    return workloads.seconds(lambda: asyncio.run(gather()), list(range(count)))


MEASUREMENTS = (
    Measurement(
        name="submit",
        compares="no-ops submitted in a loop, then every result taken, 2 workers: time a task",
        ours=submit,
        bare=executor_submit,
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=2,
        aim=5,
        size=50_000,
        quick_size=5_000,
    ),
    Measurement(
        name="map",
        compares="no-ops in one map, every result taken; beside the executor's submit loop: time a task",
        ours=mapped,
        bare=executor_submit,
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=4,
        aim=15,
        size=100_000,
        quick_size=10_000,
    ),
    Measurement(
        name="round-trip",
        compares="one no-op after another, `submit(x).result()`, 2 workers: time a task",
        ours=round_trips,
        bare=executor_round_trips,
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1.5,
        aim=1,
        size=10_000,
        quick_size=1_000,
    ),
    Measurement(
        name="chain",
        compares="each task takes the one before as its argument, 1 worker; the executor's caller waits "
        "for each: time for 100 links",
        ours=chain,
        bare=executor_chain,
        unit=SECONDS,
        figure=Figure.COST,
        floor=3e-3,
        aim=0.6e-3,
        size=1_000,
        repeats=3,
    ),
    Measurement(
        name="memory-submit",
        compares="no-ops submitted, none started, futures held: growth of resident memory a task",
        ours=pending_submit,
        bare=executor_pending,
        unit=BYTES,
        figure=Figure.COST,
        floor=700,
        aim=400,
        size=100_000,
        repeats=1 / 3,
    ),
    Measurement(
        name="memory-map",
        compares="no-ops in one map, none started, the list of futures held; beside the executor's submit "
        "loop: growth of resident memory a task",
        ours=pending_map,
        bare=executor_pending,
        unit=BYTES,
        figure=Figure.COST,
        floor=300,
        aim=150,
        size=100_000,
        repeats=1 / 3,
    ),
    *imports.MEASUREMENTS,
    Measurement(
        name="async",
        compares="async tasks that each sleep 0.1 s, in one map; beside `asyncio.gather`: time for all 10,000",
        ours=async_map,
        bare=asyncio_gather,
        unit=SECONDS,
        figure=Figure.COST,
        floor=1.5,
        aim=0.6,
        size=10_000,
    ),
)
