"""Interrupts land in the run they are meant for, or nowhere (DESIGN: traps, decided; SPEC 7.3, 7.4).

Each test fires thousands of them at moments as unlucky as can be had: around the begin and the end of runs that last
microseconds. A stray one would fail a neighbour, kill a worker (an unhandled exception in a thread fails the test) or
end the test itself, for it is a BaseException.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, get_run_logger, task
from shoal.exceptions import CancelledRun, TaskRunTimeout
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 2400

# Python code that the interpreter runs between two bytecodes of a run (a weak reference's callback, a finalizer) is a
# place too where an interrupt may land; the interpreter reports and ignores it there, and the library fires again.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


def spin(turns: int) -> int:
    """Keeps the interpreter busy with bytecode."""
    total = 0
    for _ in range(turns):
        total += 1
    return total


@task
def work(turns: int) -> int:
    """A short run."""
    return spin(turns)


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """Threads take turns every 20 µs, not every 5 ms: so an interrupt finds every place there is in a run."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00002)
    yield
    sys.setswitchinterval(interval)


def until_it_runs(future: Any, turns: int) -> None:
    """Waits until a run is under way, or over, and a little longer."""
    while not (future.state.is_running() or future.done()):
        pass
    spin(turns)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of runs that end badly have as many lines, if one asks for them."""
    caplog.set_level("CRITICAL", "shoal")


def test_cancels_around_the_end_of_runs() -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        cancelled = 0
        for number in range(ROUNDS):
            turns = (
                number * 6
            )  # the last ones take longer than it may take another thread to get its turn
            future, neighbour = work.submit(turns), work.submit(20)
            until_it_runs(future, number % 97)
            hit = future.cancel()
            cancelled += hit
            assert neighbour.result(timeout=PATIENCE) == 20
            value = future.result(timeout=PATIENCE, raise_on_failure=False)
            if hit:
                assert isinstance(value, CancelledRun)
                assert future.state.is_cancelled()
            else:
                assert value == turns
        assert cancelled > 0
        assert work.map([1, 2, 3]).result(timeout=PATIENCE) == [1, 2, 3]

    main()


def test_cancels_of_elements() -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        for number in range(ROUNDS // 15):
            futures = work.map([30] * 60)
            hits = set()
            for index in range(0, 60, 3):
                until_it_runs(futures[index], number * 3)
                if futures[index].cancel():
                    hits.add(index)
            values = futures.result(timeout=PATIENCE, raise_on_failure=False)
            for index, value in enumerate(values):
                assert isinstance(value, CancelledRun) if index in hits else value == 30

    main()


def test_cancels_of_runs_that_wait() -> None:
    """The interrupt comes while the run is inside the library: submitting, waiting, running its child in place."""

    @task
    def parent(turns: int) -> int:
        return work.submit(turns).result() + work.submit(turns).result(timeout=PATIENCE)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        for number in range(ROUNDS // 3):
            future = parent.submit(number % 30)
            until_it_runs(future, number % 113 * 20)
            hit = future.cancel()
            value = future.result(timeout=PATIENCE, raise_on_failure=False)
            assert isinstance(value, CancelledRun) if hit else value == number % 30 * 2
            if number % 50 == 0:
                assert inc.submit(number).result(timeout=PATIENCE) == number + 1

    main()


def test_limits_around_the_end_of_runs() -> None:
    @task(timeout_seconds=0.001)
    def brief(turns: int) -> int:
        return spin(turns)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        futures = [brief.submit(number * 100) for number in range(ROUNDS // 3)]
        neighbours = [work.submit(10) for _ in range(ROUNDS // 3)]
        for number, future in enumerate(futures):
            value = future.result(timeout=PATIENCE, raise_on_failure=False)
            assert value == number * 100 or isinstance(value, TaskRunTimeout)
        assert [future.result(timeout=PATIENCE) for future in neighbours] == [10] * len(neighbours)

    main()


def test_limits_of_direct_calls_stay_out_of_the_caller() -> None:
    @task(timeout_seconds=0.0005)
    def brief(turns: int) -> int:
        return spin(turns)

    ended = {"in time": 0, "late": 0}
    for number in range(ROUNDS // 3):
        try:
            assert brief(number * 40) == number * 40
        except TaskRunTimeout:
            ended["late"] += 1
        else:
            ended["in time"] += 1
        spin(300)  # a stray one would land here
    assert ended["in time"] > 0
    assert ended["late"] > 0


def test_limits_of_direct_calls_inside_each_other() -> None:
    @task(timeout_seconds=0.0006)
    def inner(turns: int) -> int:
        return spin(turns)

    @task(timeout_seconds=0.0011)
    def outer(turns: int) -> str:
        try:
            inner(turns)
        except TaskRunTimeout:
            spin(turns)
            return "inner"
        return "none"

    seen = set()
    for number in range(ROUNDS // 5):
        state = outer(number * 150, return_state=True)
        error = state.exception()
        if isinstance(error, TaskRunTimeout):
            assert error.run_name is not None
            seen.add(error.run_name.partition("-")[0])
        spin(300)
    assert seen == {"outer"}


def test_flow_limits_stay_out_of_the_caller() -> None:
    @flow(timeout_seconds=0.001, task_runner=ThreadPoolTaskRunner(max_workers=1))
    def brief(turns: int) -> int:
        futures = [work.submit(5) for _ in range(3)]
        spin(turns)
        return sum(future.result() for future in futures)

    ended = set()
    for number in range(ROUNDS // 20):
        limit = 0.001 if number % 4 else 0.02  # within which some complete on a busy machine too
        state = brief.with_options(timeout_seconds=limit)(number * 400, return_state=True)
        assert state.is_completed() or state.name == "TimedOut"
        ended.add(state.name)
        spin(300)
    assert ended == {"Completed", "TimedOut"}


def test_a_run_that_catches_everything_harms_only_itself() -> None:
    @task
    def stubborn(turns: int) -> str:
        until = time.monotonic() + 0.0005
        while time.monotonic() < until:
            try:
                spin(turns)
            except BaseException:  # what users should not do, and do
                continue
        return "ended"

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        for number in range(ROUNDS // 5):
            future, neighbour = stubborn.submit(10), work.submit(30)
            until_it_runs(future, number % 40 * 5)
            hit = future.cancel()
            assert neighbour.result(timeout=PATIENCE) == 30
            assert future.state.is_cancelled() == hit

    main()


def test_cleaning_up_after_an_interrupt() -> None:
    """`finally` and `with` run, and may take their time and use the library."""
    cleaned: list[Any] = []
    began, go = threading.Event(), threading.Event()

    @task
    def careful() -> None:
        try:
            began.set()
            while not go.is_set():
                time.sleep(0.001)
        finally:
            spin(50_000)
            cleaned.append(inc(1))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        for _ in range(10):
            began.clear()
            future = careful.submit()
            assert began.wait(PATIENCE)
            assert future.cancel()
            assert work.submit(7).result(timeout=PATIENCE) == 7

    main()
    assert cleaned == [2] * 10


def test_an_interrupt_leaves_no_handler_locked(caplog: pytest.LogCaptureFixture) -> None:
    """Raised inside `logging`, it could leave a handler's lock taken, and every later line would hang."""
    caplog.set_level("INFO", "shoal")
    began = threading.Event()

    @task
    def talks() -> None:
        logger = get_run_logger()
        began.set()
        while True:
            logger.info("and another thing")

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        for number in range(50):
            began.clear()
            future = talks.submit()
            assert began.wait(PATIENCE)
            spin(number * 100)
            assert future.cancel()
            caplog.clear()
            assert inc.submit(number).result(timeout=PATIENCE) == number + 1

    main()
