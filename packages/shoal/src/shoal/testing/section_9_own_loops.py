"""Section 9 on any runner: sync runs that wait on an event loop of their own."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.exceptions import CancelledRun, WaitCycle
from shoal.futures import as_completed
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["OwnLoopTests"]


async def _gathered(x: int) -> Any:
    return sum(await asyncio.gather(*(inc.submit(x + more) for more in (0, 1, -1)))) - 2 * x - 2


async def _as_completed(x: int) -> Any:
    return sum([await future async for future in as_completed(inc.map([x, x]))]) - x - 1


async def _in_time(x: int) -> Any:
    return await asyncio.wait_for(inc.submit(x), PATIENCE)


async def _in_a_thread(x: int) -> Any:
    return await asyncio.to_thread(lambda: inc.submit(x).result())


async def _by_a_call(x: int) -> Any:
    @task
    async def part() -> Any:
        return await inc.submit(x)

    return await part()


async def _by_a_call_under_a_cap(x: int) -> Any:
    @task(max_concurrency=1)
    async def part() -> Any:
        return await inc.submit(x)

    return await part()


async def _in_a_thread_of_a_call_under_a_cap(x: int) -> Any:
    @task(max_concurrency=1)
    async def part() -> Any:
        return await _in_a_thread(x)

    return await part()


async def _by_an_argument(x: int) -> Any:
    @task
    async def part(given: Any) -> Any:
        return given

    return await part(inc.submit(x))


async def _by_a_flow(x: int) -> Any:
    @flow
    async def part() -> Any:
        return await inc.submit(x)

    return await part()


async def _awaited(x: int) -> Any:
    return await inc.submit(x)


async def _a_coroutine(x: int) -> Any:
    @task
    async def part(more: int) -> Any:
        return await inc.submit(x + more)

    runs = [part.submit(0), part.submit(1), *part.map([2, 3])]
    return sum(await asyncio.gather(*runs)) - 3 * x - 9


async def _coroutines_of_a_map(x: int) -> Any:
    @task
    async def part(number: int) -> int:
        return number

    return sum([await run async for run in as_completed(part.map([x, 1]))])


#: Ways to have `inc` run, and to wait for it on a loop.
_WAYS: dict[str, Callable[[int], Coroutine[Any, Any, Any]]] = {
    "await": _awaited,
    "gather": _gathered,
    "as_completed": _as_completed,
    "timed": _in_time,
    "to_thread": _in_a_thread,
    "direct call": _by_a_call,
    "to_thread under a cap": _in_a_thread_of_a_call_under_a_cap,
    "direct call under a cap": _by_a_call_under_a_cap,  # now that there is a loop of coroutines
    "direct argument": _by_an_argument,
    "flow": _by_a_flow,
    "coroutine": _a_coroutine,
    "coroutines of a map": _coroutines_of_a_map,
}


class OwnLoopTests(SuiteBase):
    """Section 9: sync runs with a loop of their own."""

    @covers("9.1", "4.1", "4.4", needs=("nests", "concurrent"))
    def test_waits_on_a_loop_in_the_run_s_own_thread(self, single_runner: TaskRunner) -> None:
        @task
        def parent(way: str) -> Any:
            async def ask() -> Any:
                return await _WAYS[way](1)

            return asyncio.run(ask())

        @task
        def deep(levels: int) -> Any:
            async def ask() -> Any:
                return await deep.submit(levels - 1)

            return asyncio.run(ask()) + 1 if levels else 0

        def main() -> Any:
            parents = {way: parent.submit(way) for way in _WAYS}
            assert deep.submit(4).result(timeout=PATIENCE) == 4
            return {way: one.result(timeout=PATIENCE) for way, one in parents.items()}

        assert in_flow(single_runner, main) == dict.fromkeys(_WAYS, 2)

    @covers("9.1", needs=("nests", "concurrent"))
    def test_waits_on_loops_in_threads_that_a_run_has_started(
        self, single_runner: TaskRunner
    ) -> None:
        async def wait_for(future: Any) -> Any:
            return await future

        @task
        def parent(x: int) -> Any:
            with ThreadPoolExecutor(3) as pool:
                known = pool.submit(copy_context().run, asyncio.run, _gathered(x))
                unknown = pool.submit(asyncio.run, wait_for(inc.submit(x)))
                return known.result() + unknown.result()

        def main() -> Any:
            parents = [parent.submit(x) for x in range(3)]
            return [one.result(timeout=PATIENCE) for one in parents]

        assert in_flow(single_runner, main) == [2, 4, 6]

    @covers("9.1", "3.5", needs=("nests", "concurrent"))
    def test_a_sync_flow_awaits_its_runs_on_its_own_loop(self, single_runner: TaskRunner) -> None:
        def main() -> Any:
            return [asyncio.run(_WAYS[way](1)) for way in _WAYS if "cap" not in way]

        assert in_flow(single_runner, main) == [2] * (len(_WAYS) - 2)

    @covers("10.3", "9.1", needs=("nests", "concurrent"))
    def test_a_place_of_a_cap_is_lent_on_a_loop_and_taken_again(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        def visit() -> None:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)

        @task(max_concurrency=1)
        def work(levels: int) -> int:
            async def ask() -> int:
                visit()
                below = [await work.submit(levels - 1) for _ in range(2)]
                visit()
                return sum(below) + 1

            return asyncio.run(ask()) if levels else 1

        @flow(task_runner=runner)
        def main() -> Any:
            return [one.result(timeout=PATIENCE) for one in work.map([2, 2])]

        assert main() == [7, 7]
        assert {int(line) for line in signals.lines("room")} == {1}

    @covers("4.1", "9.1", needs=("nests", "concurrent"))
    def test_a_wait_that_is_given_up_lends_no_more(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def child() -> int:
            signals.set("child runs")
            signals.wait("child may end")
            return 1

        @task
        def other(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x

        @task
        def parent() -> Any:
            future = child.submit()

            async def ask() -> Any:
                waiting = asyncio.ensure_future(_result_of(future))
                await asyncio.to_thread(signals.wait, "child runs")
                signals.set("child may end")  # whose place it may need to go on
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                return await future

            answer = asyncio.run(ask())
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return answer

        @flow(task_runner=single_runner)
        def main() -> Any:
            run = parent.submit()
            others = other.map(range(10))
            return run.result(timeout=PATIENCE), others.result()

        assert main() == (1, list(range(10)))
        assert {int(line) for line in signals.lines("room")} == {1}

    @covers("7.4", "9.1", needs=("nests", "concurrent", "stops"))
    def test_what_waits_on_a_loop_for_a_stopped_run_is_woken(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def child() -> None:
            signals.set("child runs")
            while not signals.is_set("test over"):
                time.sleep(0.01)

        @task
        def parent() -> None:
            async def ask() -> None:
                await child.submit()

            try:
                asyncio.run(ask())
            finally:
                signals.set("woken")

        @flow(task_runner=runner)
        def main() -> None:
            run = parent.submit()
            signals.wait("child runs")
            assert run.cancel()
            signals.wait("woken")
            signals.set("test over")
            with pytest.raises(CancelledRun):
                run.result(timeout=PATIENCE)
            assert inc.map(range(4)).result() == [1, 2, 3, 4]

        main()

    @covers("9.1", needs=("nests", "shares_memory", "concurrent"))
    def test_a_run_that_awaits_itself_on_its_own_loop(self, runner: TaskRunner) -> None:
        own: list[Any] = []

        @task
        def waits() -> Any:
            while not own:
                time.sleep(0.001)
            return asyncio.run(_result_of(own[0]))

        @flow(task_runner=runner)
        def main() -> None:
            own.append(waits.submit())
            with pytest.raises(WaitCycle):
                own[0].result(timeout=PATIENCE)

        main()


async def _result_of(future: Any) -> Any:
    return await future
