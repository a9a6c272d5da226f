"""Section 9 on any runner: runs that wait in threads which they have started themselves."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.exceptions import CancelledRun, WaitCycle
from shoal.futures import as_completed, wait
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import add, inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["SideThreadTests"]


def _by_wait(x: int) -> Any:
    future = inc.submit(x)
    assert not wait([future], timeout=PATIENCE).not_done
    return future.result()


def _within_a_direct_call(x: int) -> Any:
    @task
    def direct() -> Any:
        return inc.submit(x).result()

    return direct()


#: Ways to have `inc` run by the runner, and to wait for it.
_WAYS: dict[str, Callable[[int], Any]] = {
    "result": lambda x: inc.submit(x).result(),
    "timed": lambda x: inc.submit(x).result(timeout=PATIENCE),
    "wait": _by_wait,
    "as_completed": lambda x: next(iter(as_completed([inc.submit(x)]))).result(),
    "map": lambda x: inc.map([x]).result()[0],
    "direct argument": lambda x: add(inc.submit(x), 0),
    "direct call": _within_a_direct_call,
}


class SideThreadTests(SuiteBase):
    """Section 9: threads of a run."""

    @covers("9.1", "4.4", needs=("nests", "concurrent"))
    def test_waits_in_threads_that_a_run_has_started(self, single_runner: TaskRunner) -> None:
        @task
        def parent(way: str) -> Any:
            ask = _WAYS[way]
            with ThreadPoolExecutor(2) as pool:
                asked = [pool.submit(copy_context().run, ask, x) for x in range(3)]
                return sum(one.result() for one in asked)

        def main() -> Any:
            parents = [parent.submit(way) for way in _WAYS]
            return [one.result(timeout=PATIENCE) for one in parents]

        assert in_flow(single_runner, main) == [6] * len(_WAYS)

    @covers("9.1", needs=("nests", "concurrent"))
    def test_waits_in_threads_that_know_no_run(self, runner: TaskRunner) -> None:
        @task
        def parent(x: int) -> Any:
            futures = [*(inc.submit(y) for y in range(2)), *inc.map(range(2))]
            with ThreadPoolExecutor(4) as pool:
                return sum(pool.map(lambda future: future.result(), futures)) + x

        assert in_flow(runner, lambda: parent.map(range(4)).result()) == [6, 7, 8, 9]

    @covers("9.1", "4.1", needs=("nests", "concurrent"))
    def test_waits_in_threads_that_a_coroutine_has_started(self, runner: TaskRunner) -> None:
        @task
        async def parent(x: int) -> Any:
            loop = asyncio.get_running_loop()
            known = asyncio.to_thread(_WAYS["result"], x)
            future = inc.submit(x)
            return await known + await loop.run_in_executor(None, future.result)

        def main() -> Any:
            parents = [parent.submit(x) for x in range(3)]
            return [one.result(timeout=PATIENCE) for one in parents]

        assert in_flow(runner, main) == [2, 4, 6]

    @covers("9.1", "4.4", needs=("nests", "concurrent"))
    def test_a_part_of_a_coroutine_gives_its_place_up(self, single_runner: TaskRunner) -> None:
        @task
        async def part(x: int) -> Any:
            return await inc.submit(x)

        @task
        async def calls(x: int) -> Any:
            return await part(x)

        @task
        async def iterates(x: int) -> Any:
            return sum([await future async for future in as_completed([inc.submit(x)])])

        def main() -> Any:
            runs = [calls.submit(1), iterates.submit(2)]
            return [run.result(timeout=PATIENCE) for run in runs]

        assert in_flow(single_runner, main) == [2, 3]

    @covers("9.1", needs=("nests", "concurrent"))
    def test_a_run_lends_its_worker_once(self, single_runner: TaskRunner, signals: Signals) -> None:
        @task
        def child(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x

        @task
        def parent() -> int:
            with ThreadPoolExecutor(6) as pool:
                asked = [
                    pool.submit(copy_context().run, lambda x=x: child.submit(x).result())
                    for x in range(6)
                ]
                here = child.submit(6).result()  # itself, too
                return here + sum(one.result() for one in asked)

        @flow(task_runner=single_runner)
        def main() -> Any:
            assert parent.submit().result(timeout=PATIENCE) == 21
            return child.map(range(10)).result()

        assert main() == list(range(10))
        assert {int(line) for line in signals.lines("room")} <= {1, 2}

    @covers("10.3", "9.1", needs=("nests", "concurrent"))
    def test_a_place_of_a_cap_is_lent_and_taken_again(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=1)
        def work(levels: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            below = 0
            if levels:
                with ThreadPoolExecutor(1) as pool:
                    future = work.submit(levels - 1)
                    below = pool.submit(copy_context().run, future.result).result()
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return below + 1

        @task(max_concurrency=1)
        async def work_async(levels: int) -> int:
            if not levels:
                return 0
            below = work_async.submit(levels - 1)
            return 1 + await asyncio.to_thread(below.result)

        @flow(task_runner=runner)
        def main() -> Any:
            return [
                work.submit(3).result(timeout=PATIENCE),
                work_async.submit(2).result(timeout=PATIENCE),
            ]

        assert main() == [4, 2]
        assert {int(line) for line in signals.lines("room")} == {1}

    @covers("9.1", needs=("nests", "concurrent"))
    def test_threads_that_a_run_leaves_behind(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def child(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x

        @task
        def late() -> None:
            signals.wait("parents have ended")

        @task
        def parent(x: int) -> int:
            future = late.submit() if x else child.submit(0)
            left = threading.Thread(target=copy_context().run, args=(future.wait,), daemon=True)
            left.start()
            return x

        @flow(task_runner=single_runner)
        def main() -> Any:
            parents = [parent.submit(x) for x in range(4)]
            wait(parents[:1], timeout=PATIENCE)
            signals.set("parents have ended")
            assert [run.result(timeout=PATIENCE) for run in parents] == [0, 1, 2, 3]
            return child.map(range(20)).result()

        assert main() == list(range(20))
        assert {int(line) for line in signals.lines("room")} == {1}

    @covers("7.4", "9.1", needs=("nests", "concurrent", "stops"))
    def test_what_waits_for_a_stopped_run_is_woken(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def child() -> None:
            signals.set("child runs")
            while not signals.is_set("test over"):
                time.sleep(0.01)

        @task
        def parent() -> None:
            def ask() -> None:
                try:
                    child.submit().result()
                except CancelledRun:
                    signals.set("woken")
                    raise

            with ThreadPoolExecutor(1) as pool:
                pool.submit(copy_context().run, ask).result()

        @flow(task_runner=runner)
        def main() -> None:
            run = parent.submit()
            signals.wait("child runs")
            assert run.cancel()
            signals.wait("woken")
            signals.set("test over")
            assert inc.map(range(4)).result() == [1, 2, 3, 4]

        main()

    @covers("9.1", needs=("nests", "shares_memory", "concurrent"))
    def test_a_thread_that_waits_for_its_own_run(self, runner: TaskRunner) -> None:
        own: list[Any] = []

        @task
        def waits() -> Any:
            while not own:
                time.sleep(0.001)
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(copy_context().run, own[0].result).result()

        @flow(task_runner=runner)
        def main() -> None:
            own.append(waits.submit())
            with pytest.raises(WaitCycle):
                own[0].result(timeout=PATIENCE)

        main()
