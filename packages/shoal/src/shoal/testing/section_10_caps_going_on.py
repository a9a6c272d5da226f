"""Section 10.3 on any runner: runs under a cap that go on after a wait."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.futures import as_completed, wait
from shoal.testing.base import SuiteBase, covers
from shoal.testing.section_10_caps import crowds
from shoal.testing.section_10_caps_of_calls import in_thread
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["CapGoingOnTests"]


class CapGoingOnTests(SuiteBase):
    """Section 10.3, as far as it is about who takes a place again."""

    @pytest.mark.parametrize("kind", ["sync", "timed", "async", "thread", "stream", "flow"])
    @covers("10.3", "9.1", needs=("concurrent", "nests"))
    def test_whatever_ends_a_wait_who_goes_on_has_its_place(
        self, runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        """The first of several ends, or a time limit."""

        def goes_on() -> None:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
                time.sleep(0.002)

        @task
        def child(x: int) -> int:
            time.sleep(0.001 * x)
            return x

        def waits(x: int) -> Iterator[None]:
            timeout = PATIENCE if kind == "timed" else None
            for _ in as_completed([child.submit(n) for n in range(3)], timeout=timeout):
                goes_on()
                yield
            wait([child.submit(5 * x)], timeout=0.01)
            goes_on()
            yield

        @task(max_concurrency=1)
        def stream(x: int) -> Iterator[None]:
            yield from waits(x)

        @task
        def uncapped(x: int) -> int:
            list(stream(x) if kind == "stream" else waits(x))
            return x

        @task(max_concurrency=1)
        def parent(x: int) -> int:
            if kind == "thread":
                in_thread(lambda: list(waits(x)))
            else:
                list(waits(x))
            return x

        @task(max_concurrency=1)
        async def parent_async(x: int) -> int:
            async for _ in as_completed([child.submit(n) for n in range(3)]):
                goes_on()
            with suppress(TimeoutError):
                await asyncio.wait_for(child.submit(5 * x), 0.01)
            goes_on()
            return x

        of_kind: dict[str, Any] = {"async": parent_async, "stream": uncapped, "flow": uncapped}

        @flow(task_runner=runner, max_concurrency=1 if kind == "flow" else None)
        def main() -> list[int]:
            return list(of_kind.get(kind, parent).map(range(4)).result(timeout=PATIENCE))

        assert main() == list(range(4))
        assert crowds(signals) == [1] * 16

    @pytest.mark.parametrize("kind", ["run", "call"])
    @covers("10.3", "9.1", needs=("concurrent", "nests"))
    def test_who_would_go_on_and_waits_again_meanwhile(
        self, runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        """Of two tasks of its loop one waits for its turn as the other begins to wait for a run."""

        @task
        async def child(after: str, then: str) -> str:
            await asyncio.to_thread(signals.wait, after)
            signals.set(then)
            return then

        @task(max_concurrency=1)
        async def work(what: str) -> list[str]:
            if what == "holder":
                signals.set("held")
                await asyncio.to_thread(signals.wait, "second")
                return [what]
            first = child.submit("held", "first")
            ended, loop = asyncio.Event(), asyncio.get_running_loop()
            first.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
            signals.set("begun")

            async def after_first() -> str:
                await ended.wait()
                await asyncio.sleep(0.1)  # the other asks for its place meanwhile
                return await child.submit("first", "second")

            async def wait() -> str:
                return await first

            return list(await asyncio.gather(wait(), after_first()))

        @task
        async def caller() -> list[str]:
            return await work("both")

        @flow(task_runner=runner)
        def main() -> list[list[str]]:
            both = work.submit("both") if kind == "run" else caller.submit()
            signals.wait("begun")
            runs = [both, work.submit("holder"), work.submit("holder")]
            return [run.result(timeout=PATIENCE) for run in runs]

        assert main() == [["first", "second"], ["holder"], ["holder"]]

    @covers("10.3", "7.4", "9.1", needs=("concurrent", "nests", "stops"))
    def test_who_is_cancelled_while_it_would_go_on_leaves_nothing(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        async def child() -> None:  # beside what its worker is at
            await asyncio.to_thread(signals.wait, "child may end")

        @task(max_concurrency=1)
        def work(what: str) -> str:
            signals.set(f"{what} has begun")
            if what == "parent":
                child.submit().result()
                signals.set("the parent went on")
            elif what == "holder":
                signals.wait("holder may end")
            return what

        @flow(task_runner=runner)
        def main() -> list[str]:
            parent = work.submit("parent")
            signals.wait("parent has begun")
            holder = work.submit("holder")
            signals.wait("holder has begun")  # in the place that the parent has lent
            signals.set("child may end")
            assert parent.cancel()
            assert parent.state.name == "Cancelled"
            signals.set("holder may end")
            last = work.submit("last")
            return [run.result(timeout=PATIENCE) for run in (holder, last)]

        assert main() == ["holder", "last"]
        assert not signals.is_set("the parent went on")

    @covers("10.3", "7.4", "9.1", needs=("concurrent", "nests", "stops"))
    def test_a_coroutine_that_is_cancelled_while_it_would_go_on_frees_no_place_of_others(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        async def child() -> None:
            await asyncio.sleep(0.2)  # others begin in the places that are lent meanwhile

        @task(max_concurrency=1)
        async def work(what: str) -> str:
            signals.set(f"{what} has begun")
            if what != "holder":
                await child.submit()
                signals.append("log", f"{what} goes on")
                return what
            signals.append("log", "holder goes on")
            await asyncio.to_thread(signals.wait, "holder may end")
            signals.append("log", "holder ends")
            return what

        @flow(task_runner=runner)
        def main() -> list[str]:
            runs = {}
            for what in ("first", "second", "holder"):
                runs[what] = work.submit(what)
                signals.wait(f"{what} has begun")
            child.submit().result(timeout=PATIENCE)  # the others' have ended, too
            runs["second"].cancel()
            child.submit().result(timeout=PATIENCE)
            signals.set("holder may end")
            return [runs[what].result(timeout=PATIENCE) for what in ("first", "holder")]

        assert main() == ["first", "holder"]
        log = signals.lines("log")
        assert log[log.index("holder goes on") + 1] == "holder ends"
