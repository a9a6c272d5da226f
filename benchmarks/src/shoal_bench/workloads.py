"""What is measured: the same work for a task runner and for a bare executor, as users of each would write it.

The functions take a runner, by its name (`"threads:2"`) or as it is, or an executor, and give what one task cost. Every runner's
suite picks from them; work that only one engine can do is in its suite.

* A pool is made for each sample. Threads start within the clock, on both sides. Processes, whose start costs as much
  as thousands of tasks, start before it (`warm`), and have measurements of their own for that. The flow around ours
  begins before the clock and ends after it.
* Results are held until the clock stops and are then compared with what they should be, so that nothing is timed that
  did not happen.
* Shoal logs at WARNING, as a program would that counts microseconds.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from shoal import flow, task
from shoal.task_runners import BaseTaskRunner

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "CONSUMERS",
    "WrongResults",
    "arrive",
    "check",
    "executor_chain",
    "executor_pending",
    "executor_round_trips",
    "executor_submit",
    "growth",
    "make_array",
    "runner_chain",
    "runner_map",
    "runner_pending_map",
    "runner_pending_submit",
    "runner_round_trips",
    "runner_submit",
    "seconds_in_flow",
    "start_executor",
    "start_runner",
    "sum_up",
    "sums",
    "sums_of_one",
]

T = TypeVar("T")


class WrongResults(Exception):
    """The work that was timed did not give what it should have."""


def no_op(x: int) -> int:
    """Nothing, with an argument and a result to carry."""
    return x


def increment(x: int) -> int:
    """A link of a chain."""
    return x + 1


no_op_task = task(no_op)
increment_task = task(increment)


# ---------------------------------------------------------------------- the clock


def seconds_in_flow(
    runner: str | BaseTaskRunner,
    work: Callable[[], T],
    expected: T,
    warm: int = 0,
    module: str | None = None,
) -> float:
    """Seconds that a piece of work takes in the body of a flow on this runner.

    Args:
        runner: it, or its name.
        work: what is timed.
        expected: what it should give.
        warm: how many worker processes are to be there before.
        module: what they are to have imported then.
    """

    @flow(task_runner=runner)
    def measured() -> float:
        start_runner(warm, module)
        return seconds(work, expected)

    with logging_at_warning():
        return measured()


def seconds(work: Callable[[], T], expected: T) -> float:
    """Seconds that a piece of work takes.

    Raises:
        WrongResults: it does not give what is expected.
    """
    started = time.perf_counter()
    result = work()
    stopped = time.perf_counter()
    check(result, expected)
    return stopped - started


def check(result: object, expected: object) -> None:
    """Compares what work gave with what it should have given.

    Raises:
        WrongResults: they differ.
    """
    if result != expected:
        raise WrongResults(f"{result!r:.200} instead of {expected!r:.200}")


@contextmanager
def logging_at_warning() -> Iterator[None]:
    """Sets the level of the library's loggers meanwhile."""
    logger = logging.getLogger("shoal")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------------- worker processes


def arrive(module: str | None) -> int:
    """What a worker process is made to do before the clock starts: time for another one to start as well.

    Returns:
        The process's id.
    """
    if module is not None:
        importlib.import_module(module)
    time.sleep(0.05)
    return os.getpid()


arrive_task = task(arrive)


def start_runner(count: int, module: str | None = None) -> None:
    """In a flow: waits until its pool has so many worker processes."""
    seen: set[int] = set()
    while len(seen) < count:
        seen.update(arrive_task.map([module] * count).result())


def start_executor(executor: Any, count: int, module: str | None = None) -> None:
    """Waits until an executor has so many worker processes."""
    seen: set[int] = set()
    while len(seen) < count:
        futures = [executor.submit(arrive, module) for _ in range(count)]
        seen.update(future.result() for future in futures)


# ---------------------------------------------------------------------- many tasks: seconds for each


def runner_submit(runner: str | BaseTaskRunner, count: int, warm: int = 0) -> float:
    """All submitted, then every result taken."""

    def work() -> list[int]:
        futures = [no_op_task.submit(i) for i in range(count)]
        return [future.result() for future in futures]

    return seconds_in_flow(runner, work, list(range(count)), warm) / count


def runner_map(runner: str | BaseTaskRunner, count: int, warm: int = 0) -> float:
    """All of them one map, then every result taken."""

    def work() -> list[int]:
        return no_op_task.map(range(count)).result()

    return seconds_in_flow(runner, work, list(range(count)), warm) / count


def executor_submit(executor: Executor, count: int, warm: int = 0) -> float:
    """All submitted, then every result taken."""

    def work() -> list[int]:
        futures = [executor.submit(no_op, i) for i in range(count)]
        return [future.result() for future in futures]

    with executor:
        start_executor(executor, warm)
        return seconds(work, list(range(count))) / count


# ---------------------------------------------------------------------- one task after another: seconds for each


def runner_round_trips(runner: str | BaseTaskRunner, count: int, warm: int = 0) -> float:
    """Each submitted when the result of the one before is there."""

    def work() -> list[int]:
        return [no_op_task.submit(i).result() for i in range(count)]

    return seconds_in_flow(runner, work, list(range(count)), warm) / count


def executor_round_trips(executor: Executor, count: int, warm: int = 0) -> float:
    """Each submitted when the result of the one before is there."""

    def work() -> list[int]:
        return [executor.submit(no_op, i).result() for i in range(count)]

    with executor:
        start_executor(executor, warm)
        return seconds(work, list(range(count))) / count


def runner_chain(runner: str | BaseTaskRunner, links: int, warm: int = 0) -> float:
    """A chain of tasks, each of which takes the future of the one before; submitted as a whole."""

    def work() -> int:
        future = increment_task.submit(0)
        for _ in range(links - 1):
            # `submit` is typed with the parameters of the function, which takes the number and not its future.
            future = increment_task.submit(future)  # type: ignore[call-overload]
        return future.result()

    return seconds_in_flow(runner, work, links, warm) / links


def executor_chain(executor: Executor, links: int, warm: int = 0) -> float:
    """The same without dependencies, which an executor does not have: the caller waits for each link."""

    def work() -> int:
        value = 0
        for _ in range(links):
            value = executor.submit(increment, value).result()
        return value

    with executor:
        start_executor(executor, warm)
        return seconds(work, links) / links


# ---------------------------------------------------------------------- many pending tasks: bytes for each


class Gate:
    """A task that keeps the only thread of a pool until it is opened, so that all behind it is pending."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        """What the pool is to run."""
        self._entered.set()
        self._opened.wait()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Waits until the thread is in the gate, and lets it go at the end."""
        self._entered.wait()
        try:
            yield
        finally:
            self._opened.set()


def runner_pending_submit(runner: str | BaseTaskRunner, count: int) -> float:
    """All submitted, their futures in a list."""

    def fill(numbers: list[int]) -> object:
        return [no_op_task.submit(number) for number in numbers]

    return _growth_in_flow(runner, fill, count) / count


def runner_pending_map(runner: str | BaseTaskRunner, count: int) -> float:
    """All of them one map, whose list of futures is held and not looked into."""
    return _growth_in_flow(runner, no_op_task.map, count) / count


def executor_pending(executor: Executor, count: int) -> float:
    """All submitted, their futures in a list."""

    def fill(numbers: list[int]) -> object:
        return [executor.submit(no_op, number) for number in numbers]

    gate = Gate()
    with executor:
        executor.submit(gate.pass_through)
        with gate.closed():
            return growth(fill, count) / count


def _growth_in_flow(
    runner: str | BaseTaskRunner, fill: Callable[[list[int]], object], count: int
) -> float:
    @flow(task_runner=runner)
    def measured() -> float:
        gate = Gate()
        task(gate.pass_through).submit()
        with gate.closed():
            return growth(fill, count)

    with logging_at_warning():
        return measured()


def growth(fill: Callable[[list[int]], object], count: int) -> float:
    """Bytes of memory that the process has gained while it holds what `fill` made of distinct integers.

    Counted is resident memory, so all that the tasks cost: objects, what the allocator loses to rounding, and what is
    not allocated through Python. The integers are there before.
    """
    process = psutil.Process()
    numbers = list(range(1_000_000, 1_000_000 + count))
    gc.collect()
    before = process.memory_info().rss
    held = fill(numbers)
    gc.collect()
    growth = process.memory_info().rss - before
    del held
    return float(growth)


# ---------------------------------------------------------------------- large values

#: How many tasks sum up what one has made.
CONSUMERS = 4
MEGABYTE = 1_000_000


def make_array(megabytes: int) -> np.ndarray[Any, Any]:
    """A large value."""
    import numpy as np

    return np.ones(megabytes * MEGABYTE // 8)


def sum_up(array: np.ndarray[Any, Any]) -> float:
    """What is done with it."""
    return float(array.sum())


make_array_task = task(make_array)
sum_up_task = task(sum_up)


def sums(megabytes: int) -> list[float]:
    """What the consumers should give."""
    return [float(megabytes * MEGABYTE // 8)] * CONSUMERS


def sums_of_one(megabytes: int) -> list[float]:
    """In a flow: one task makes the value, others sum it up."""
    made: Any = make_array_task.submit(megabytes)
    return [future.result() for future in [sum_up_task.submit(made) for _ in range(CONSUMERS)]]
