"""The suite on `SequentialTaskRunner` (SPEC 11.4), and what is its own: everything in place (SPEC 2.3)."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from shoal import flow, task
from shoal.exceptions import InvalidOption
from shoal.task_runners import SequentialTaskRunner
from shoal.testing import TaskRunnerSuite
from shoal.testing.samples import boom, inc


class TestSequential(TaskRunnerSuite):
    @pytest.fixture
    def runner(self) -> SequentialTaskRunner:
        return SequentialTaskRunner()

    @pytest.fixture
    def single_runner(self) -> SequentialTaskRunner:
        return SequentialTaskRunner()


def test_runs_happen_in_the_submitting_thread_and_in_order() -> None:
    seen: list[Any] = []

    @task
    def look(x: Any) -> None:
        seen.append((x, threading.get_ident()))

    @flow(task_runner="sequential")
    def main() -> None:
        for number in range(3):
            future = look.submit(number)
            assert future.done()  # SPEC 2.3: it runs in place first
            assert len(seen) == number + 1
        mapped = look.map([3, 4, 5])
        assert all(future.done() for future in mapped)

    main()
    assert seen == [(number, threading.get_ident()) for number in range(6)]


def test_it_starts_no_thread() -> None:
    before = set(threading.enumerate())

    @flow(task_runner=SequentialTaskRunner)
    def main() -> Any:
        link = inc.submit(0)
        for _ in range(100):
            link = inc.submit(link)
        assert boom.submit().state.is_failed()
        return link.result()

    assert main() == 101
    new = [t for t in threading.enumerate() if t not in before and "shoal-w" in t.name]
    assert new == []


def test_async_runs_are_done_when_submit_returns() -> None:
    @task
    async def later(x: int) -> int:
        await anyio.sleep(0.01)
        return x

    @flow(task_runner=SequentialTaskRunner())
    def main() -> None:
        future = later.submit(1)
        assert future.done()
        assert all(each.done() for each in later.map([1, 2]))
        assert future.result() == 1

    main()


def test_an_exception_leaves_at_the_debuggers_feet() -> None:
    """What is raised keeps the frames of the task, so that `pdb.post_mortem` stands in it."""

    @flow(task_runner=SequentialTaskRunner())
    def main() -> None:
        boom.submit("here").result()

    with pytest.raises(Exception, match="here") as caught:
        main()
    assert caught.traceback[-1].name == "boom"


def test_it_takes_no_argument() -> None:
    with pytest.raises(InvalidOption, match="sequential"):
        flow(task_runner="sequential:2")(lambda_free)()


def lambda_free() -> None:
    """A flow's body."""
