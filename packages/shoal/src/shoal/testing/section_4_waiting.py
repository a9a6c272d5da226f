"""Section 4 on any runner: `wait`, `as_completed`, and awaiting, for futures of one runner or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from shoal import flow, task
from shoal.futures import TaskFuture, as_completed, wait
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.testing.base import LOOPS, SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, add, boom, hold, identity, inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["WaitingTests"]


class WaitingTests(SuiteBase):
    """Section 4: waiting for several runs, and without blocking a loop."""

    # ------------------------------------------------------------------ wait

    @covers("4.4")
    def test_wait(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = [inc.submit(1), boom.submit(), *inc.map([2, 3])]
            done, not_done = wait(futures)
            assert done == set(futures)
            assert not_done == set()
            result = wait(inc.map([1, 2]), timeout=PATIENCE)
            assert len(result.done) == 2
            assert result.not_done == set()
            assert wait([]) == (set(), set())

        main()

    @covers("4.4", needs="concurrent")
    def test_wait_that_expires(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            slow, quick = hold.submit(signals, "go"), inc.submit(1)
            quick.wait()
            assert wait([slow, quick], timeout=0.01) == ({quick}, {slow})
            assert wait([slow], timeout=0) == (set(), {slow})
            signals.set("go")
            assert wait([slow, quick], timeout=PATIENCE) == ({slow, quick}, set())

        main()

    @covers("4.4")
    def test_wait_refuses_what_is_no_future(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(TypeError, match="future"):
                wait([1])  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="future"):
                list(as_completed(["x"]))  # type: ignore[arg-type]

        main()

    # ------------------------------------------------------------------ as_completed

    @covers("4.4")
    def test_as_completed_gives_each_once(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = [inc.submit(1), boom.submit(), *inc.map([2, 3])]
            futures += [futures[0], futures[3]]
            given = list(as_completed(futures))
            assert len(given) == 4
            assert set(given) == set(futures)
            assert all(future.done() for future in given)
            assert len(list(as_completed(inc.map(range(10))))) == 10
            assert list(as_completed([])) == []

        main()

    @covers("4.4", needs="concurrent")
    def test_as_completed_gives_them_as_they_end(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            slow, quick = hold.submit(signals, "go", "slow"), inc.submit(1)
            arriving = iter(as_completed([slow, quick]))
            assert next(arriving) == quick
            assert not slow.done()
            signals.set("go")
            assert next(arriving) == slow
            assert list(arriving) == []

        main()

    @covers("4.4", needs="concurrent")
    def test_as_completed_that_expires(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            slow, quick = hold.submit(signals, "go"), inc.submit(1)
            quick.wait()
            arriving = iter(as_completed([slow, quick], timeout=0.05))
            assert next(arriving) == quick
            with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
                next(arriving)
            signals.set("go")

        main()

    @covers("4.4")
    def test_futures_of_several_runners(self, runner: TaskRunner) -> None:
        with runner as one, ThreadPoolTaskRunner(1) as two, runner.duplicate() as three:
            runners: list[Any] = [one, two, three]
            futures = [r.submit(add, {"x": n}) for n, r in enumerate(runners * 3)]
            assert wait(futures, timeout=PATIENCE).done == set(futures)
            more = [r.submit(add, {"x": n}) for n, r in enumerate(runners)]
            assert set(as_completed(more, timeout=PATIENCE)) == set(more)
            assert sorted(future.result() for future in more) == [10, 11, 12]

    @covers("4.4", "9.1")
    def test_waiting_inside_a_run(self, single_runner: TaskRunner) -> None:
        @task
        def parent() -> Any:
            futures = [inc.submit(1), boom.submit(), *inc.map([2, 3])]
            done, not_done = wait(futures)
            values = sorted(
                future.result() for future in as_completed([inc.submit(4), inc.submit(5)])
            )
            timed = inc.submit(6).result(timeout=PATIENCE)
            return len(done), len(not_done), values, timed

        assert in_flow(single_runner, lambda: parent.submit().result()) == (4, 0, [5, 6], 7)

    # ------------------------------------------------------------------ awaiting

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("4.1")
    def test_awaiting_futures(self, runner: TaskRunner, loop: str) -> None:
        pytest.importorskip(loop)

        @flow(task_runner=runner)
        async def main() -> None:
            future = inc.submit(1)
            assert await future == 2
            assert await future == 2
            with pytest.raises(BoomError):
                await boom.submit()
            assert await inc.map([1, 2]) == [2, 3]
            with pytest.raises(BoomError):
                await boom.map(["a", "b"])
            assert await inc.map([]) == []

        anyio.run(main, backend=loop)

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("4.1", needs="concurrent")
    def test_awaiting_does_not_block_the_loop_and_may_be_cancelled(
        self, runner: TaskRunner, signals: Signals, loop: str
    ) -> None:
        pytest.importorskip(loop)

        @flow(task_runner=runner)
        async def main() -> None:
            future = hold.submit(signals, "go", "value")
            with anyio.move_on_after(0.05) as scope:
                await future
            assert scope.cancelled_caught
            assert not future.done(), "a cancelled await only detaches"
            got: list[Any] = []

            async def await_it() -> None:
                got.append(await future)

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(await_it)
                await anyio.sleep(0.01)
                assert got == []
                signals.set("go")
            assert got == ["value"] * 3

        anyio.run(main, backend=loop)

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("4.4", needs="concurrent")
    def test_as_completed_in_a_loop(self, runner: TaskRunner, signals: Signals, loop: str) -> None:
        pytest.importorskip(loop)

        @flow(task_runner=runner)
        async def main() -> None:
            slow, quick = hold.submit(signals, "go", "slow"), inc.submit(1)
            arriving = aiter(as_completed([slow, quick]))
            assert await anext(arriving) == quick
            assert not slow.done()
            signals.set("go")
            assert await anext(arriving) == slow
            with pytest.raises(StopAsyncIteration):
                await anext(arriving)

        anyio.run(main, backend=loop)

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("4.4")
    def test_as_completed_of_a_map_and_of_several_runners_in_a_loop(
        self, runner: TaskRunner, loop: str
    ) -> None:
        pytest.importorskip(loop)

        async def arrivals(futures: Any) -> list[TaskFuture[Any]]:
            return [future async for future in as_completed(futures, timeout=PATIENCE)]

        @flow(task_runner=runner)
        async def main() -> None:
            futures = inc.map(range(10))
            assert set(await arrivals(futures)) == set(futures)
            assert await arrivals([]) == []
            with ThreadPoolTaskRunner(1) as other:
                mixed = [other.submit(add, {"x": 1}), inc.submit(1), boom.submit()]
                assert set(await arrivals(mixed)) == set(mixed)

        anyio.run(main, backend=loop)

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("4.4", needs="concurrent")
    def test_as_completed_that_expires_in_a_loop(
        self, runner: TaskRunner, signals: Signals, loop: str
    ) -> None:
        pytest.importorskip(loop)

        @flow(task_runner=runner)
        async def main() -> None:
            slow, quick = hold.submit(signals, "go"), inc.submit(1)
            await quick
            arriving = aiter(as_completed([slow, quick], timeout=0.05))
            assert await anext(arriving) == quick
            with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
                await anext(arriving)
            signals.set("go")

        anyio.run(main, backend=loop)

    @covers("4.1", "9.1")
    def test_awaiting_inside_an_async_run(self, single_runner: TaskRunner) -> None:
        @task
        async def parent(depth: int) -> Any:
            if depth == 0:
                return 0
            below = await parent.submit(depth - 1)
            mapped = await inc.map([below])
            return mapped[0] + await identity.submit(0)

        assert in_flow(single_runner, lambda: parent.submit(5).result()) == 5

    @covers("4.1", "9.1")
    def test_sync_runs_and_async_runs_in_turn(self, single_runner: TaskRunner) -> None:
        @task
        def sync_step(depth: int) -> Any:
            return async_step.submit(depth - 1).result() + 1 if depth else 0

        @task
        async def async_step(depth: int) -> Any:
            return await sync_step.submit(depth - 1) + 1 if depth else 0

        assert in_flow(single_runner, lambda: sync_step.submit(6).result()) == 6
