"""Section 3 on any runner: what a flow makes of its runs, at its end and when things go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from shoal import flow, task
from shoal.exceptions import UpstreamTaskError
from shoal.futures import TaskFuture
from shoal.states import Failed
from shoal.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from shoal.testing.base import LOOPS, SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, add, boom, hold, identity, inc, note

if TYPE_CHECKING:
    from shoal.states import State
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["FlowTests"]


class FlowTests(SuiteBase):
    """Section 3."""

    # ------------------------------------------------------------------ final states

    @covers("3.4")
    def test_returned_futures_are_summed_up(self, runner: TaskRunner) -> None:
        good = final_state(runner, lambda: [inc.submit(1), inc.submit(2)])
        assert good.is_completed()
        assert good.result() == [2, 3]
        assert final_state(runner, lambda: inc.submit(1)).result() == 2
        bad = final_state(runner, lambda: [inc.submit(1), boom.submit(), boom.submit()])
        assert bad.is_failed()
        assert bad.message == "2/3 states failed."
        with pytest.raises(BoomError):
            bad.result()

    @covers("3.4")
    def test_returned_maps_and_states_are_summed_up(self, runner: TaskRunner) -> None:
        assert final_state(runner, lambda: inc.map([1, 2])).result() == [2, 3]
        assert final_state(runner, lambda: boom.map(["a", "b"])).message == "2/2 states failed."
        assert final_state(runner, lambda: inc.submit(1, return_state=True)).result() == 2
        assert final_state(runner, lambda: boom.submit(return_state=True)).is_failed()

    @covers("3.4")
    def test_what_there_is_in_place_of_values(self, runner: TaskRunner) -> None:
        several = final_state(
            runner, lambda: (inc.submit(1), boom.submit(), inc.submit(boom.submit()))
        )
        values: Any = several.result(raise_on_failure=False)
        two, failed, not_begun = values
        assert (two, type(failed), type(not_begun)) == (2, BoomError, UpstreamTaskError)
        single = final_state(runner, lambda: boom.submit("one"))
        assert str(single.result(raise_on_failure=False)) == "one"
        assert final_state(runner, lambda: Failed("m", data=5)).result(raise_on_failure=False) == 5

    @covers("3.4", "3.6")
    def test_a_run_that_never_started_stands_for_its_flow(self, runner: TaskRunner) -> None:
        attempts: list[int] = []

        @flow(task_runner=runner, retries=1)
        def main() -> Any:
            attempts.append(1)
            return inc.submit(boom.submit())

        state = main(return_state=True)
        assert state.is_failed()
        assert isinstance(state.result(raise_on_failure=False), UpstreamTaskError)
        assert len(attempts) == 2

    @covers("3.4", needs="concurrent")
    def test_a_cancelled_run_among_those_returned(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        def body() -> Any:
            failed, going = boom.submit(), hold.submit(signals, "go")
            waiting = identity.submit(going)
            assert waiting.cancel()
            signals.set("go")
            return [failed, waiting, going]

        state = final_state(runner, body)
        assert state.is_cancelled()

    @covers("3.4")
    def test_futures_nested_in_the_value_become_results(self, runner: TaskRunner) -> None:
        value = in_flow(runner, lambda: {"a": inc.submit(1), "b": [(inc.submit(2), "x")], "c": 3})
        assert value == {"a": 2, "b": [(3, "x")], "c": 3}

    @covers("3.4")
    def test_a_failure_that_is_neither_raised_nor_returned(self, runner: TaskRunner) -> None:
        def body() -> str:
            boom.submit().wait()
            return "fine"

        state = final_state(runner, body)
        assert state.is_completed()
        assert state.result() == "fine"

    @covers("3.4", "4.2")
    def test_a_failure_that_is_raised_fails_the_flow(self, runner: TaskRunner) -> None:
        state = final_state(runner, lambda: boom.submit("raised").result())
        assert state.is_failed()
        assert "raised" in str(state)
        with pytest.raises(BoomError, match="raised"):
            in_flow(runner, lambda: boom.submit("raised").result())

    # ------------------------------------------------------------------ the end of a flow

    @covers("3.5", "4.6")
    def test_a_flow_waits_for_runs_that_nobody_waits_for(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def slow(number: int, after: Any = None) -> None:
            signals.append("ended", number)

        def body() -> str:
            last: Any = None
            for number in range(10):
                last = slow.submit(number, last)
            slow.map(range(10, 20))
            return "returned"

        assert in_flow(runner, body) == "returned"
        assert sorted(map(int, signals.lines("ended"))) == list(range(20))

    @covers("3.5", "9.1")
    def test_a_flow_waits_for_what_its_runs_submitted(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def parent(depth: int) -> None:
            signals.append("ended", depth)
            if depth:
                parent.submit(depth - 1)

        in_flow(runner, lambda: parent.submit(5))
        assert signals.lines("ended") == ["5", "4", "3", "2", "1", "0"]

    @covers("3.5", needs=("concurrent", "stops"))
    def test_a_flow_that_raises_takes_its_runs_along(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        futures: list[TaskFuture[Any]] = []

        @flow(task_runner=single_runner)
        def main() -> None:
            futures.append(hold.submit(signals, "never"))
            futures.append(note.submit(signals, "log", "queued"))
            futures.append(note.submit(signals, "log", futures[0]))
            signals.wait("never began")
            raise BoomError("the flow's own")

        with pytest.raises(BoomError, match="the flow's own"):
            main()
        assert all(future.done() for future in futures)
        assert [future.state.is_cancelled() for future in futures[:2]] == [True, True]
        assert not futures[2].state.is_completed()
        assert signals.lines("log") == []

    @covers("3.5", "7.3", needs=("concurrent", "stops"))
    def test_a_flow_past_its_time_takes_its_runs_along(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        futures: list[TaskFuture[Any]] = []

        @flow(task_runner=single_runner, timeout_seconds=1)
        def main() -> None:
            futures.append(hold.submit(signals, "never"))
            futures.append(note.submit(signals, "log", "queued"))
            signals.wait("never began")
            futures[0].result()

        state = main(return_state=True)
        assert state.is_failed()
        assert state.name == "TimedOut"
        with pytest.raises(TimeoutError):
            state.result()
        assert all(future.state.is_cancelled() for future in futures)
        assert signals.lines("log") == []

    @covers("3.6", "3.3")
    def test_flow_retries_enter_a_fresh_runner(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner, retries=2, retry_delay_seconds=0.01)
        def main() -> Any:
            signals.append("tries", "x")
            futures = inc.map([1, 2])
            if len(signals.lines("tries")) < 3:
                boom.submit("again").result()
            return futures.result()

        assert main() == [2, 3]
        assert len(signals.lines("tries")) == 3

    @covers("3.3")
    def test_a_runner_serves_flow_after_flow(self, runner: TaskRunner) -> None:
        for number in range(3):
            assert in_flow(runner, lambda: inc.submit(number).result()) == number + 1  # noqa: B023

    # ------------------------------------------------------------------ flows in flows

    @covers("3.3", "5.8")
    def test_a_nested_flow_takes_futures(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def inner(x: Any, more: Any) -> Any:
            return add.submit(x, more["y"]).result()

        @flow(task_runner=runner)
        def outer() -> Any:
            return inner(inc.submit(1), {"y": inc.submit(2)})

        assert outer() == 5

    @covers("3.3", "5.5")
    def test_a_nested_flow_waits_for(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def inner() -> list[str]:
            return signals.lines("order")

        @flow(task_runner=runner)
        def outer() -> Any:
            return inner(wait_for=[note.submit(signals, "order", "task")])

        assert outer() == ["task"]

    @covers("3.3", "5.3")
    def test_a_nested_flow_with_a_failed_upstream_is_not_entered(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=runner)
        def inner(x: Any) -> None:
            signals.append("entered", x)

        @flow(task_runner=runner)
        def outer() -> None:
            with pytest.raises(Exception, match="boom"):
                inner(boom.submit())

        outer()
        assert signals.lines("entered") == []

    @pytest.mark.parametrize("other", [ThreadPoolTaskRunner(2), SequentialTaskRunner()], ids=repr)
    @covers("5.8", "4.4")
    def test_values_cross_from_runner_to_runner(
        self, runner: TaskRunner, other: TaskRunner
    ) -> None:
        @flow(task_runner=other)
        def elsewhere(outer: list[Any]) -> Any:
            here = inc.submit(outer[0])
            return [add.submit(here, outer[0]).result(), *add.map(outer, here).result()]

        @flow(task_runner=runner)
        def main() -> Any:
            futures = [inc.submit(1), inc.submit(2)]
            values = elsewhere(futures)
            return inc.map(values).result()

        assert main() == [6, 6, 7]

    @covers("5.8", "2.3")
    def test_futures_of_another_runner_as_arguments(self, runner: TaskRunner) -> None:
        with runner as one, ThreadPoolTaskRunner(1) as two:
            first = one.submit(inc, {"x": 1})
            second = two.submit(inc, {"x": first})
            third = one.submit(add, {"x": second, "y": first})
            assert third.result() == 5
            failed = two.submit(boom, {})
            after = one.submit(inc, {"x": failed})
            after.wait()
            assert after.state.name == "NotReady"

    # ------------------------------------------------------------------ flows that stream

    @covers("3.7")
    def test_a_generator_flow_streams(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def numbers() -> Any:
            for number in (1, 2):
                signals.append("log", f"makes {number}")
                yield inc.submit(number)
            return inc.submit(9)

        stream = numbers()
        assert signals.lines("log") == []
        for value in (2, 3):
            assert next(stream) == value
            signals.append("log", f"has {value}")
        with pytest.raises(StopIteration) as end:
            next(stream)
        assert end.value.value == 10
        assert signals.lines("log") == ["makes 1", "has 2", "makes 2", "has 3"]

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("3.7")
    def test_an_async_generator_flow_streams(
        self, runner: TaskRunner, signals: Signals, loop: str
    ) -> None:
        pytest.importorskip(loop)

        @flow(task_runner=runner)
        async def numbers() -> Any:
            for number in (1, 2):
                signals.append("log", f"makes {number}")
                yield await inc.submit(number)

        async def main() -> None:
            async for value in numbers():
                signals.append("log", f"has {value}")

        anyio.run(main, backend=loop)
        assert signals.lines("log") == ["makes 1", "has 2", "makes 2", "has 3"]

    @covers("3.7", "3.5", needs=("concurrent", "stops"))
    def test_a_generator_flow_that_is_closed_takes_its_runs_along(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        futures: list[TaskFuture[Any]] = []

        @flow(task_runner=single_runner)
        def main() -> Any:
            futures.append(hold.submit(signals, "never"))
            futures.append(note.submit(signals, "log", "queued"))
            signals.wait("never began")
            yield 1

        for value in main():
            assert value == 1
            break
        assert [future.state.is_cancelled() for future in futures] == [True, True]

    # ------------------------------------------------------------------ async flows

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("3.1", "3.4", "4.1")
    def test_async_flows(self, runner: TaskRunner, loop: str) -> None:
        pytest.importorskip(loop)

        @flow(task_runner=runner)
        async def inner(x: Any) -> Any:
            return [inc.submit(x), await inc.submit(x)]

        @flow(task_runner=runner)
        async def main() -> Any:
            futures = inc.map([1, 2])
            assert await futures == [2, 3]
            with pytest.raises(BoomError):
                await boom.submit()
            return await inner(futures[0])

        assert anyio.run(main, backend=loop) == [3, 3]

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("3.5", needs=("concurrent", "stops"))
    def test_a_cancelled_async_flow_takes_its_runs_along(
        self, single_runner: TaskRunner, signals: Signals, loop: str
    ) -> None:
        pytest.importorskip(loop)
        futures: list[TaskFuture[Any]] = []

        @flow(task_runner=single_runner)
        async def main() -> None:
            futures.append(hold.submit(signals, "never"))
            futures.append(note.submit(signals, "log", "queued"))
            await futures[0]

        async def driver() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(main)
                await anyio.to_thread.run_sync(signals.wait, "never began")
                group.cancel_scope.cancel()

        anyio.run(driver, backend=loop)
        assert all(future.state.is_cancelled() for future in futures)
        assert signals.lines("log") == []


def final_state(runner: TaskRunner, body: Any) -> State[Any]:
    """Runs a function as a flow, and gives its final state."""
    return in_flow(runner, body, return_state=True)  # type: ignore[no-any-return]
