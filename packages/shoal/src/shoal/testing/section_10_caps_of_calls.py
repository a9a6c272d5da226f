"""Section 10.3 on any runner: caps of tasks that runs, flows and threads call directly, and of generators that they are at."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.testing.base import SuiteBase, covers
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["CapOfCallTests"]


def in_thread(body: Callable[[], Any]) -> Any:
    """What a function gives in a thread of its own."""
    got: list[Any] = []
    context = copy_context()
    thread = threading.Thread(target=lambda: got.append(context.run(body)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return got[0]


class CapOfCallTests(SuiteBase):
    """Section 10.3, as far as it is about caps of what is called."""

    @pytest.mark.parametrize("kind", ["in its steps", "between them", "side by side", "in a call"])
    @covers("10.3", "2.5", "9.1")
    def test_who_waits_with_a_generator_under_a_cap_of_one(
        self, single_runner: TaskRunner, kind: str
    ) -> None:
        """Whoever waits lends all places that it has, so what it waits for has one."""

        @task(max_concurrency=1)
        def down(n: int) -> Any:
            yield n
            if n:
                yield from down.submit(n - 1).result()

        @task(max_concurrency=1)
        def total(n: int) -> list[int]:
            return [n, *(total.submit(n - 1).result() if n else list(down(0))[1:])]

        @task(max_concurrency=1)
        def caller(_: int) -> Any:
            if kind == "in its steps":
                return list(down(2))
            if kind == "between them":
                return [m for _ in down(0) for m in down.submit(2).result()]
            if kind == "side by side":
                return [m for _ in down(0) for m in down(2)]
            return [m for _ in down(0) for m in total(2)]

        @flow(task_runner=single_runner)
        def main() -> list[Any]:
            here = caller.fn(0)
            return [here, caller(0), caller.submit(0).result(timeout=PATIENCE)]

        assert main() == [[2, 1, 0]] * 3

    @covers("10.3", "2.5", "9.1", needs="concurrent")
    def test_a_thread_of_a_run_that_waits_under_a_cap_of_one(self, runner: TaskRunner) -> None:
        @task(max_concurrency=1)
        def total(n: int) -> int:
            return n and n + total.submit(n - 1).result()

        @task(max_concurrency=1)
        def down(n: int) -> Any:
            yield total(n)
            if n:
                yield from down.submit(n - 1).result()

        @task
        def caller() -> Any:
            return in_thread(lambda: [[*down(2)], [(m, n) for m in down(0) for n in down(1)]])

        @flow(task_runner=runner)
        def main() -> Any:
            return [caller.fn(), caller.submit().result(timeout=PATIENCE)]

        assert main() == [[[3, 1, 0], [(0, 1), (0, 0)]]] * 2

    @pytest.mark.parametrize("kind", ["called", "generator"])
    @covers("10.3", "2.5", "9.1")
    def test_coroutines_that_wait_under_a_cap_of_one(
        self, single_runner: TaskRunner, kind: str
    ) -> None:
        """What a run calls is a part of it, and lends its place; async generators have one while they make an item."""

        @task
        async def helper(n: int) -> int:
            return await deep.submit(n)

        @task
        async def items(n: int) -> Any:
            yield await deep.submit(n)

        @task(max_concurrency=1)
        async def down(n: int) -> Any:
            yield n
            if n:
                for m in await down.submit(n - 1):
                    yield m

        @task(max_concurrency=1)
        async def deep(n: int) -> int:
            if n == 0:
                return 0
            if kind == "called":
                return 1 + await helper(n - 1)
            ones = [m - m + 1 async for _ in down(0) async for m in down(1)]
            return (ones[0] + sum([m async for m in items(n - 1)])) if len(ones) == 2 else -1

        @flow(task_runner=single_runner)
        def main() -> int:
            return deep.submit(2).result(timeout=PATIENCE)

        @flow(task_runner=single_runner)
        async def main_async() -> list[int]:
            return [m async for _ in down(0) async for m in down(0)]

        assert main() == 2
        assert asyncio.run(main_async()) == [0]

    @covers("10.3", "2.5", "5.2")
    def test_what_an_async_generator_waits_for_has_its_place(
        self, single_runner: TaskRunner
    ) -> None:
        @task
        async def slow() -> int:
            await asyncio.sleep(0.05)  # the generator is called meanwhile
            return 1

        @task(max_concurrency=1)
        async def items(n: Any) -> Any:
            yield n

        @task
        async def caller() -> list[Any]:
            return [m async for m in items(items.submit(slow.submit()))]

        @flow(task_runner=single_runner)
        def main() -> list[Any]:
            return caller.submit().result(timeout=PATIENCE)

        assert main() == [[1]]

    @covers("10.3", "2.5")
    def test_what_is_sent_to_and_thrown_into_an_async_generator_arrives(
        self, runner: TaskRunner
    ) -> None:
        @task(max_concurrency=1)
        async def echo() -> Any:
            heard = yield "first"
            try:
                yield heard
            except ValueError as error:
                yield error.args[0]

        @task
        async def caller() -> list[Any]:
            items = echo()
            heard = [await anext(items), await items.asend("sent")]
            heard.append(await items.athrow(ValueError("thrown")))
            return [*heard, await anext(items, "over")]

        @flow(task_runner=runner)
        def main() -> list[Any]:
            return caller.submit().result(timeout=PATIENCE)

        assert main() == ["first", "sent", "thrown", "over"]

    @covers("10.3", "2.5", "9.1", needs=("concurrent", "nests"))
    def test_runs_that_are_at_generators_under_each_others_caps(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        """Both have the place that the other needs next."""

        @task
        def leaf() -> None:
            pass

        @task(max_concurrency=1)
        def left(n: int) -> Any:
            yield from way("left", n, right)

        @task(max_concurrency=1)
        def right(n: int) -> Any:
            yield from way("right", n, left)

        def way(name: str, n: int, other: Any) -> Any:
            if n == 1:
                signals.meet("both", 2)
                yield from other(0)
            for number in range(3):
                with signals.inside(name) as crowd:
                    signals.append(name, crowd)
                leaf.submit().result()
                yield number

        @flow(task_runner=runner)
        def main() -> list[Any]:
            runs = [left.submit(1), right.submit(1)]
            return [run.result(timeout=PATIENCE) for run in runs]

        assert main() == [[0, 1, 2] * 2] * 2
        assert signals.lines("left") == signals.lines("right") == ["1"] * 6

    @covers("10.3", "2.5")
    def test_who_is_at_an_async_generator_has_its_own_place_in_between(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=9)
        async def numbers() -> Any:
            for number in range(3):
                await asyncio.sleep(0)
                yield number

        @task(max_concurrency=1)
        async def sums() -> int:
            total = 0
            async for number in numbers():
                with signals.inside("a room") as crowd:
                    signals.append("room", crowd)
                    await asyncio.sleep(0.01)
                total += number
            return total

        @flow(task_runner=runner)
        def main() -> list[int]:
            runs = [sums.submit() for _ in range(4)]
            return [run.result(timeout=PATIENCE) for run in runs]

        assert main() == [3] * 4
        assert set(signals.lines("room")) == {"1"}

    @covers("10.3", "2.5", needs="concurrent")
    def test_generators_that_are_closed_early_or_elsewhere_leave_no_place_taken(
        self, runner: TaskRunner
    ) -> None:
        @task(max_concurrency=1)
        def numbers() -> Any:
            yield from range(3)

        @task(max_concurrency=1)
        async def numbers_async() -> Any:
            for number in range(3):
                yield number

        @task
        def leaves() -> list[int]:
            streams = [numbers(), numbers(), numbers()]
            first = [next(stream) for stream in streams]
            streams[0].close()
            in_thread(lambda: [*streams[1]])
            del streams[0]
            return first

        @task
        async def leaves_async() -> list[int]:
            streams = [numbers_async(), numbers_async()]
            first = [await anext(stream) for stream in streams]
            for stream in streams:
                await stream.aclose()
            return first

        @flow(task_runner=runner)
        def main() -> list[Any]:
            here = leaves.fn()
            runs = [leaves.submit(), leaves_async.submit()]
            found = [run.result(timeout=PATIENCE) for run in runs]
            more = [numbers.submit(), numbers_async.submit()]
            return [here, *found, *(run.result(timeout=PATIENCE) for run in more)]

        assert main() == [[0] * 3, [0] * 3, [0] * 2, [0, 1, 2], [0, 1, 2]]
