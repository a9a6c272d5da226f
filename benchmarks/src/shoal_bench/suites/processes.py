"""The process pool beside `concurrent.futures.ProcessPoolExecutor`; beside loky and joblib too where they are installed.

All pools have two worker processes. Except where the start is what is measured, these are there before the clock starts.
The executor's start by forkserver, ours by a server of the same kind; loky and joblib have their own way.

An executor costs the same for each task however many there are, so it gets fewer of them where it would take seconds.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from shoal import State, task, unmapped
from shoal.task_runners import ProcessPoolTaskRunner

from shoal_bench import workloads
from shoal_bench.fresh_process import first_result
from shoal_bench.measurement import SECONDS, Figure, Measurement
from shoal_bench.suites import process_arrays
from shoal_bench.suites.process_pools import (
    RUNNER,
    WORKERS,
    executor,
    joblib_seconds,
    loky_executor,
    others,
)

__all__ = ["MEASUREMENTS"]

T = TypeVar("T")

# ---------------------------------------------------------------------- many tasks


def submit(count: int) -> float:
    """Seconds for a task."""
    return workloads.runner_submit(RUNNER, count, WORKERS)


def executor_submit(count: int) -> float:
    """Seconds for a task; of fewer."""
    return workloads.executor_submit(executor(), count // 4, WORKERS)


def loky_submit(count: int) -> float:
    """Seconds for a task; of fewer."""
    return workloads.executor_submit(loky_executor(), count // 4, WORKERS)


def joblib_all(count: int) -> float:
    """Seconds for a task, in joblib's own batches."""
    from joblib import delayed

    def work(parallel: Any) -> list[int]:
        results: list[int] = parallel(delayed(workloads.no_op)(i) for i in range(count))
        return results

    return joblib_seconds(work, list(range(count))) / count


def mapped(count: int) -> float:
    """Seconds for a task whose result and state are read."""
    states: list[State[int]] = []

    def work() -> list[int]:
        futures = workloads.no_op_task.map(range(count))
        results = futures.result()
        states.extend([future.state for future in futures])
        return results

    taken = workloads.seconds_in_flow(RUNNER, work, list(range(count)), WORKERS)
    workloads.check(sum(state.is_completed() for state in states), count)
    return taken / count


def executor_submit_a_tenth(count: int) -> float:
    """Seconds for a task; of fewer."""
    return workloads.executor_submit(executor(), count // 10, WORKERS)


def loky_submit_a_tenth(count: int) -> float:
    """Seconds for a task; of fewer."""
    return workloads.executor_submit(loky_executor(), count // 10, WORKERS)


# ---------------------------------------------------------------------- one task after another


def round_trips(count: int) -> float:
    """Seconds for a task."""
    return workloads.runner_round_trips(RUNNER, count, WORKERS)


def executor_round_trips(count: int) -> float:
    """Seconds for a task."""
    return workloads.executor_round_trips(executor(), count, WORKERS)


def loky_round_trips(count: int) -> float:
    """Seconds for a task."""
    return workloads.executor_round_trips(loky_executor(), count, WORKERS)


def chain(links: int) -> float:
    """Seconds for a link."""
    return workloads.runner_chain(RUNNER, links, WORKERS)


def executor_chain(links: int) -> float:
    """Seconds for a link."""
    return workloads.executor_chain(executor(), links, WORKERS)


def loky_chain(links: int) -> float:
    """Seconds for a link."""
    return workloads.executor_chain(loky_executor(), links, WORKERS)


# ---------------------------------------------------------------------- starting


COLD = """
import os
os.environ["SHOAL_LOGGING_LEVEL"] = "WARNING"
import time
from shoal import flow, task

@task
def one():
    return 1

@flow(task_runner="processes:2")
def first():
    print(one.submit().result() and time.perf_counter())

first()
"""

# What an executor runs must be importable; so that this costs it nothing, it is a built-in function.
EXECUTOR_COLD = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as executor:
        print(executor.submit(abs, -1).result() and time.perf_counter())
"""

LOKY_COLD = """
import time
from loky import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        print(executor.submit(abs, -1).result() and time.perf_counter())
"""


#: Nothing that a worker would have to import first: this module would be most of the time.
where_task = task(os.getpid)


def first_result_again(count: int) -> float:
    """Seconds from the making of a runner to its first result, where another one has been before."""

    def first() -> float:
        started = time.perf_counter()
        with ProcessPoolTaskRunner(WORKERS) as runner:
            result = runner.submit(where_task, {}).result()
            taken = time.perf_counter() - started
        workloads.check(result == os.getpid(), False)
        return taken

    with workloads.logging_at_warning():
        first()
        return sum(first() for _ in range(count)) / count


def executor_first_result_again(count: int) -> float:
    """The same of executors."""

    def first() -> float:
        started = time.perf_counter()
        with executor() as pool:
            result = pool.submit(os.getpid).result()
            taken = time.perf_counter() - started
        workloads.check(result == os.getpid(), False)
        return taken

    first()
    return sum(first() for _ in range(count)) / count


# ---------------------------------------------------------------------- workers that die

#: One task in so many ends its worker.
DEADLY = 100
NUMBER = struct.Struct("<I")


def note_or_die(number: int, file: str, deadly: bool) -> int:
    """Writes down that it ran; then ends its process, or does not."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, NUMBER.pack(number))
    os.close(descriptor)
    if deadly:
        os._exit(1)
    return number


note_or_die_task = task(note_or_die)


@contextmanager
def noted() -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """A file for `note_or_die`, and what gives the numbers that are in it, sorted."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        file = Path(folder, "ran")
        file.touch()
        yield str(file), lambda: sorted(n for (n,) in NUMBER.iter_unpack(file.read_bytes()))


def crashes(count: int) -> float:
    """Seconds for all, of which some kill their worker."""
    deadly = [number % DEADLY == DEADLY // 2 for number in range(count)]

    def work() -> list[str]:
        futures = note_or_die_task.map(range(count), unmapped(file), deadly)
        futures.wait()
        return [future.state.type.value for future in futures]

    expected = ["CRASHED" if dies else "COMPLETED" for dies in deadly]
    with noted() as (file, ran):
        taken = workloads.seconds_in_flow(
            RUNNER, lambda: _without_warnings(work), expected, WORKERS
        )
        workloads.check(ran(), list(range(count)))  # each exactly once
    return taken


def _without_warnings(work: Callable[[], T]) -> T:
    logger = logging.getLogger("shoal.task_runs")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that runs crash is what was asked for
    try:
        return work()
    finally:
        logger.setLevel(level)


def executor_no_crashes(count: int) -> float:
    """Seconds for all, of which none kills its worker: the executor would break, and all of them fail."""

    def work() -> list[int]:
        futures = [pool.submit(note_or_die, number, file, False) for number in range(count)]
        return [future.result() for future in futures]

    with noted() as (file, ran), executor() as pool:
        workloads.start_executor(pool, WORKERS)
        taken = workloads.seconds(work, list(range(count)))
        workloads.check(ran(), list(range(count)))
    return taken


# ---------------------------------------------------------------------- tasks of unlike length

FAST, SLOW = 0.1e-3, 1.0
#: Fast tasks before each slow one; all of the fast ones come first.
FAST_FOR_EACH_SLOW = 250


def take(seconds: float) -> float:
    """Computes so long; a slow one sleeps, which is as long on a busy machine."""
    if seconds > FAST:
        time.sleep(seconds)
    else:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
    return seconds


take_task = task(take)


def durations(slow: int) -> list[float]:
    """Of the tasks, in order."""
    return [FAST] * (slow * FAST_FOR_EACH_SLOW) + [SLOW] * slow


def fast_then_slow(slow: int) -> float:
    """Seconds for all."""
    given = durations(slow)
    return workloads.seconds_in_flow(RUNNER, lambda: take_task.map(given).result(), given, WORKERS)


def ideal(slow: int) -> float:
    """Seconds for all if tasks cost nothing but what they take, and no worker waits."""
    return sum(durations(slow)) / WORKERS


def executor_fast_then_slow(slow: int) -> float:
    """Seconds for all."""
    return _fast_then_slow_on(executor(), slow)


def loky_fast_then_slow(slow: int) -> float:
    """Seconds for all."""
    return _fast_then_slow_on(loky_executor(), slow)


def _fast_then_slow_on(pool: Executor, slow: int) -> float:
    given = durations(slow)
    with pool:
        workloads.start_executor(pool, WORKERS)
        return workloads.seconds(lambda: list(pool.map(take, given)), given)


def joblib_fast_then_slow(slow: int) -> float:
    """Seconds for all, in joblib's own batches."""
    from joblib import delayed

    given = durations(slow)
    return joblib_seconds(lambda parallel: parallel(delayed(take)(s) for s in given), given)


MEASUREMENTS = (
    Measurement(
        name="submit",
        compares="no-ops submitted in a loop, then every result taken: time a task",
        ours=submit,
        bare=executor_submit,
        also=others(loky=loky_submit, joblib=joblib_all),
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=10,
        aim=20,
        size=20_000,
        quick_size=2_000,
    ),
    Measurement(
        name="map",
        compares="no-ops in one map, every result and state read; beside the executor's submit loop: time a task",
        ours=mapped,
        bare=executor_submit_a_tenth,
        also=others(loky=loky_submit_a_tenth, joblib=joblib_all),
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=15,
        aim=50,
        size=100_000,
        quick_size=10_000,
    ),
    Measurement(
        name="round-trip",
        compares="one no-op after another, `submit(x).result()`: time a task",
        ours=round_trips,
        bare=executor_round_trips,
        also=others(loky=loky_round_trips),
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1,
        aim=0.6,
        size=2_000,
        quick_size=200,
    ),
    Measurement(
        name="first-result",
        compares="from the start of an interpreter to the first result: time of it",
        ours=first_result(COLD),
        bare=first_result(EXECUTOR_COLD),
        also=others(loky=first_result(LOKY_COLD)),
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1.7,
        aim=1.2,
        size=1,
    ),
    Measurement(
        name="first-result-again",
        compares="a second pool in the same process, from its making to its first result: time of it",
        ours=first_result_again,
        bare=executor_first_result_again,
        unit=SECONDS,
        figure=Figure.COST,
        floor=30e-3,
        aim=15e-3,
        size=5,
        quick_size=1,
    ),
    Measurement(
        name="chain",
        compares="200 tasks, each takes the one before as its argument; the executor's caller waits for each: "
        "time a link",
        ours=chain,
        bare=executor_chain,
        also=others(loky=loky_chain),
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=1,
        aim=10,
        size=200,
        quick_size=50,
        repeats=3,
    ),
    *(process_arrays.MEASUREMENTS if find_spec("numpy") else ()),
    Measurement(
        name="crashes",
        compares="1,000 tasks of which 10 end their worker process; beside an executor's with none that does: "
        "time for all",
        ours=crashes,
        bare=executor_no_crashes,
        unit=SECONDS,
        figure=Figure.COST,
        floor=2,
        aim=1,
        size=1_000,
        quick_size=100,
    ),
    Measurement(
        name="fast-then-slow",
        compares="one map of 2,000 tasks of 0.1 ms and behind them 8 of 1 s; beside the ideal: time for all",
        ours=fast_then_slow,
        bare=ideal,
        also=others(
            executor=executor_fast_then_slow, loky=loky_fast_then_slow, joblib=joblib_fast_then_slow
        ),
        unit=SECONDS,
        figure=Figure.TIMES_THE_COST,
        floor=1.3,
        aim=1.1,
        size=8,
        quick_size=2,
        repeats=1 / 3,
    ),
)
