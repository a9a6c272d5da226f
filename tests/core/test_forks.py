"""The library in processes that user code forks: in tasks, in flows, and of their own accord (SPEC 7.5, 7.6)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from shoal import flow, get_run_logger, task
from shoal.engine import handlers
from shoal.futures import as_completed, wait
from shoal.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

RUNNERS = {"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}


def in_child(function: Callable[[], object]) -> str:
    """Calls a function in a forked child, and says what it gave or raised there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = f"{function()!r}"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        answer = said.read()
    os.waitpid(child, 0)
    return answer


def flow_on(runner: str) -> list[int]:
    @flow(task_runner=runner)
    def inner() -> list[int]:
        return inc.map(inc.map(range(5))).result(timeout=PATIENCE)

    return inner()


@pytest.mark.parametrize("outer", RUNNERS)
@pytest.mark.parametrize("inner", ["threads:2", "processes:1"])
def test_a_flow_in_a_child_of_a_task(outer: str, inner: str) -> None:
    @task
    def forks() -> str:
        return in_child(lambda: flow_on(inner))

    @flow(task_runner=RUNNERS[outer](1))
    def main() -> str:
        return forks.submit().result(timeout=PATIENCE)

    assert main() == "[2, 3, 4, 5, 6]"


@pytest.mark.parametrize("inner", ["threads:2", "processes:1"])
def test_a_flow_in_a_child_of_a_flow(inner: str) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> str:
        inc.map(range(10)).result(timeout=PATIENCE)
        return in_child(lambda: flow_on(inner))

    assert main() == "[2, 3, 4, 5, 6]"


@pytest.mark.parametrize("outer", RUNNERS)
def test_what_a_child_inherits_of_a_runner_is_its_parents(outer: str) -> None:
    @task
    def forks() -> list[str]:
        here = inc.submit(1)
        here.wait()
        go = threading.Event()
        held = task(lambda: go.wait(PATIENCE)).submit() if outer == "threads" else None
        said = [
            in_child(lambda: inc.submit(1)),
            in_child(lambda: inc.map([1])),
            in_child(lambda: here.result()),
        ]
        if held is not None:
            said += [
                in_child(lambda: held.result()),
                in_child(lambda: wait([held])),
                in_child(lambda: list(as_completed([held]))),
                in_child(lambda: flow(lambda: inc.submit(held).result(), name="inner")()),
            ]
        go.set()
        return said

    @flow(task_runner=RUNNERS[outer](2))
    def main() -> list[str]:
        return forks.submit().result(timeout=PATIENCE)

    submitted, mapped, result, *waits = main()
    assert submitted.startswith("RunnerStateError")
    assert "forked" in submitted
    assert mapped == submitted
    assert result == "2"
    for refused in waits:
        assert refused.startswith("RunnerStateError")
        assert "forked" in refused


def test_a_child_may_leave_the_flow_that_forked_it() -> None:
    """As `os.fork` in any function: both return. What is open is the parent's to wait for, and to stop."""
    go = threading.Event()
    read, write = os.pipe()

    @task
    def held() -> None:
        assert go.wait(PATIENCE)

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> int:
        held.submit()
        return os.fork()

    child = main() if go.set() is None else 0
    if child == 0:
        os.write(write, b"left")
        os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"left"
    os.close(read)
    os.waitpid(child, 0)


def logs(number: int) -> int:
    print("printed")
    get_run_logger().info("logged")
    return number


def test_a_pool_in_a_task_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    """A line that nobody takes must not end the worker of somebody's pool, which would wait for its answer for ever."""
    caplog.set_level(logging.INFO, "shoal")

    @task(log_prints=True)
    def pooled() -> list[int]:
        with multiprocessing.get_context("fork").Pool(2) as inner:
            return inner.map(logs, range(4))

    for kind in RUNNERS.values():

        @flow(task_runner=kind(1))
        def main() -> list[int]:
            return pooled.submit().result(timeout=PATIENCE)

        assert main() == [0, 1, 2, 3]


def test_a_signal_that_comes_before_a_child_runs_ends_it() -> None:
    """A pool that is left at once ends its workers before they have begun, and waits for their end."""

    @flow
    def main() -> None:
        for _ in range(30):
            child = os.fork()
            if child == 0:
                time.sleep(PATIENCE)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM

    main()


def test_a_signal_that_comes_while_a_process_forks_is_not_lost() -> None:
    """An exception in a hook of a fork would be, and with it the end that was asked for."""
    caught: list[int] = []
    handlers.install(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        for count in range(1, 30):
            handlers._before_fork()
            signal.raise_signal(signal.SIGUSR1)
            assert len(caught) == count - 1
            handlers._after_fork_in_parent()
            deadline = time.monotonic() + PATIENCE
            while len(caught) < count and time.monotonic() < deadline:
                time.sleep(0.0005)
            assert len(caught) == count
    finally:
        handlers.remove(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_handlers_of_others_stay() -> None:
    handlers.install(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        handlers.remove(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
