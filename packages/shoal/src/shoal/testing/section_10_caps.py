"""Section 10.3 on any runner: caps of tasks and of flows."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.exceptions import TaskRunTimeout, WorkerDied
from shoal.futures import wait
from shoal.testing.base import SuiteBase, covers
from shoal.testing.section_7_crashes import die
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["CapTests"]


def crowds(signals: Signals, room: str = "room") -> list[int]:
    """How many were inside whenever somebody had come in."""
    return [int(line) for line in signals.lines(room)]


class CapTests(SuiteBase):
    """Section 10.3, as far as it is about caps."""

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("10.3", "7.4", needs=("concurrent", "stops"))
    def test_no_more_runs_of_a_task_at_once_than_its_cap(
        self, runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        @task(max_concurrency=1)
        def work(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
                if x == 0:
                    signals.set("began")
                    signals.wait("go")
            return x

        @task(max_concurrency=1)
        async def work_async(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
                if x == 0:
                    signals.set("began")
                    await asyncio.to_thread(signals.wait, "go")
            return x

        capped: Any = work if kind == "sync" else work_async

        @flow(task_runner=runner)
        def main() -> list[int]:
            first = capped.submit(0)
            signals.wait("began")
            mapped = capped.map(range(1, 9))
            queued = [capped.submit(x) for x in (9, 10)]
            copy = capped.with_options(name="copy").submit(11)
            given_up = capped.submit(12)
            assert [run.state.name for run in (*queued, copy, given_up)] == ["Queued"] * 4
            assert given_up.cancel()
            signals.set("go")
            return [run.result(timeout=PATIENCE) for run in (first, *mapped, *queued, copy)]

        assert main() == list(range(12))
        assert crowds(signals) == [1] * 12

    @covers("10.3", needs="concurrent")
    def test_as_many_as_the_cap_are_at_work_at_once(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=2, batch=False)
        def work(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
                if x < 2:
                    signals.meet("two", 2)
            return x

        @flow(task_runner=runner)
        def main() -> list[int]:
            runs = [work.submit(x) for x in range(6)]
            return [run.result(timeout=PATIENCE) for run in runs]

        assert main() == list(range(6))
        assert max(crowds(signals)) == 2

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("10.3", "9.1")
    def test_a_recursion_under_a_cap_of_one_ends(
        self, single_runner: TaskRunner, kind: str
    ) -> None:
        @task(max_concurrency=1)
        def deep(n: int) -> int:
            return 0 if n == 0 else 1 + deep.submit(n - 1).result()

        @task(max_concurrency=1)
        async def deep_async(n: int) -> int:
            return 0 if n == 0 else 1 + await deep_async.submit(n - 1)

        capped: Any = deep if kind == "sync" else deep_async

        @flow(task_runner=single_runner)
        def main() -> list[int]:
            return capped.map([3, 1, 2]).result()  # type: ignore[no-any-return]

        assert main() == [3, 1, 2]

    @covers("10.3", "9.1", needs="concurrent")
    def test_runs_that_wait_lend_their_places_and_take_them_again(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=1)
        def tree(n: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            made = sum(run.result() for run in [tree.submit(n - 1), tree.submit(n - 1)]) if n else 1
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return made

        @flow(task_runner=runner)
        def main() -> list[int]:
            return tree.map([2, 2]).result()

        assert main() == [4, 4]
        assert set(crowds(signals)) == {1}

    @covers("10.3", "7.1", needs=("concurrent", "stops"))
    def test_who_waits_for_a_retry_has_no_place(self, runner: TaskRunner) -> None:
        @task(max_concurrency=1, retries=1, retry_delay_seconds=10 * PATIENCE)
        def flaky(fails: bool) -> str:
            if fails:
                raise ValueError("not yet")
            return "done"

        @flow(task_runner=runner)
        def main() -> str:
            first = flaky.submit(True)
            eventually(lambda: first.state.name == "AwaitingRetry", "its first attempt has failed")
            second = flaky.submit(False).result(timeout=PATIENCE)
            assert first.cancel()
            return second

        assert main() == "done"

    @covers("10.3", "2.2")
    def test_direct_calls_count(
        self, runner: TaskRunner, signals: Signals, flags: dict[str, bool]
    ) -> None:
        @task(max_concurrency=1)
        def work(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x if x < 10 else work(x - 10)

        @task(max_concurrency=2)
        async def work_async(x: int) -> int:
            with signals.inside("another room") as crowd:
                signals.append("another", crowd)
                await asyncio.sleep(0)
            return x if x < 10 else await work_async(x - 10)

        @task
        def caller(x: int) -> int:
            return work(x)

        @task
        async def caller_async(x: int) -> int:
            return max(await asyncio.gather(*(work_async(x) for _ in range(4))))

        @flow(task_runner=runner)
        def main() -> list[int]:
            threads = [
                threading.Thread(target=copy_context().run, args=(work, x)) for x in (1, 12, 3)
            ]
            for thread in threads:
                thread.start()
            runs = [work.submit(14), caller.submit(25), caller.submit(6)]
            asynchronous = caller_async.submit(11)
            results = [run.result(timeout=PATIENCE) for run in runs]
            results.append(asynchronous.result(timeout=PATIENCE))
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()
            return [*results, work(27)]

        assert main() == [4, 5, 6, 1, 7]
        assert max(crowds(signals, "another")) <= 2
        if flags["nests"]:
            assert set(crowds(signals)) == {1}

    @covers("10.3", "3.1", "9.1")
    def test_a_cap_of_a_flow_counts_all_its_runs(
        self, runner: TaskRunner, signals: Signals, flags: dict[str, bool]
    ) -> None:
        @task
        def leaf(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x

        @task
        async def leaf_async(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x

        @task
        def inner(x: int) -> int:
            leaf.fn(x)
            return leaf.submit(x).result()

        @flow(task_runner=runner, max_concurrency=1)
        def main() -> list[int]:
            mapped = leaf.map(range(6))
            runs = [leaf.submit(6), inner.submit(7), leaf_async.submit(8)]
            direct = leaf(9)
            wait(list(mapped), timeout=PATIENCE)
            return [*mapped.result(), *(run.result(timeout=PATIENCE) for run in runs), direct]

        assert main() == list(range(10))
        if flags["nests"]:
            assert set(crowds(signals)) == {1}

    @covers("10.3", "6.5")
    def test_a_long_map_under_a_cap(self, runner: TaskRunner, signals: Signals) -> None:
        @task(max_concurrency=2)
        def work(x: int) -> int:
            if x % 5_000 == 0:
                with signals.inside("a room") as crowd:
                    signals.append("room", crowd)
            return x + 1

        @flow(task_runner=runner)
        def main() -> int:
            return sum(work.map(range(100_000)).result(timeout=2 * PATIENCE))

        assert main() == 100_000 * 100_001 // 2
        assert len(crowds(signals)) == 20
        assert max(crowds(signals)) <= 2

    @covers("10.3", "5.2")
    def test_chains_under_a_cap(self, runner: TaskRunner, signals: Signals) -> None:
        @task(max_concurrency=1)
        def step(x: int) -> int:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
            return x + 1

        @flow(task_runner=runner)
        def main() -> list[int]:
            ends: list[Any] = [0, 100, 200]
            for _ in range(12):
                ends = [step.submit(end) for end in ends]
            return [end.result(timeout=PATIENCE) for end in ends]

        assert main() == [12, 112, 212]
        assert crowds(signals) == [1] * 36

    @covers("10.3", "2.5", needs="concurrent")
    def test_a_generator_has_its_place_to_its_end(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=1)
        def numbers(n: int) -> Any:
            with signals.inside("a room") as crowd:
                signals.append("room", crowd)
                yield from range(n)

        @flow(task_runner=runner)
        def main() -> list[Any]:
            mapped = numbers.map([1, 2, 3]).result(timeout=PATIENCE)
            stream = numbers(3)
            first = next(stream)
            queued = numbers.submit(2)
            assert queued.state.name == "Queued"
            return [mapped, [first, *stream], queued.result(timeout=PATIENCE)]

        assert main() == [[[0], [0, 1], [0, 1, 2]], [0, 1, 2], [0, 1]]
        assert crowds(signals) == [1] * 5

    @covers("10.3", "7.4", needs=("concurrent", "stops"))
    def test_who_is_cancelled_while_it_waits_for_a_place_ends_at_once(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=1)
        def work(x: int) -> int:
            signals.append("began", x)
            if x == 0:
                signals.set("at work")
                signals.wait("go")
            return x

        @flow(task_runner=runner)
        def main() -> list[int]:
            first = work.submit(0)
            signals.wait("at work")
            queued: list[Any] = [*map(work.submit, (1, 2)), *work.map([3, 4, 5])]
            dependent = work.submit(queued[0])
            last = work.submit(6)
            assert [run.cancel() for run in queued] == [True] * 5
            assert [run.state.name for run in queued] == ["Cancelled"] * 5
            assert dependent.state.name == "NotReady"
            signals.set("go")
            return [run.result(timeout=PATIENCE) for run in (first, last)]

        assert main() == [0, 6]
        assert signals.lines("began") == ["0", "6"]

    @covers("10.3", "7.3", needs=("concurrent", "stops"))
    def test_who_is_past_its_time_limit_has_its_place_until_its_code_has_stopped(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(max_concurrency=1)
        def work(x: int) -> int:
            signals.append("log", f"{x} begins")
            try:
                if x == 0:
                    signals.wait("never", timeout=2 * PATIENCE)
            finally:
                time.sleep(0.1)
                signals.append("log", f"{x} ends")
            return x

        @flow(task_runner=runner)
        def main() -> int:
            late = work.with_options(timeout_seconds=0.5).submit(0)
            following = work.submit(1)
            with pytest.raises(TaskRunTimeout):
                late.result(timeout=PATIENCE)
            return following.result(timeout=PATIENCE)

        assert main() == 1
        begins, *stopped = signals.lines("log")
        assert begins == "0 begins"
        if stopped[0] == "0 ends":  # it was not stopped by force before it came to that
            del stopped[0]
        assert stopped == ["1 begins", "1 ends"]

    @covers("10.3", "7.5", needs=("isolated", "survives_crashes"))
    def test_the_place_of_who_dies_is_free(self, runner: TaskRunner) -> None:
        driver = os.getpid()

        @task(max_concurrency=1)
        def work(x: int) -> int:
            if x < 0:
                die(driver, "killed")
            return x

        @flow(task_runner=runner)
        def main() -> list[int]:
            crashed = work.submit(-1)
            following = [work.submit(1), *work.map([2, 3, 4])]
            with pytest.raises(WorkerDied):
                crashed.result(timeout=PATIENCE)
            return [run.result(timeout=PATIENCE) for run in following]

        assert main() == [1, 2, 3, 4]
