"""Section 9 on any runner: runs that start runs, and wait for them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from shoal import allow_failure, flow, task
from shoal.exceptions import NestingTooDeep, UpstreamTaskError, WaitCycle
from shoal.futures import as_completed
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, add, boom, identity, inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["NestingTests"]


class NestingTests(SuiteBase):
    """Section 9."""

    @covers("9.1")
    def test_submitting_inside_a_run(self, runner: TaskRunner) -> None:
        @task
        def parent(x: int) -> Any:
            first = inc.submit(x)
            return add.submit(first, inc.submit(first)).result(), inc.map([x, first]).result()

        @flow(task_runner=runner)
        def main() -> None:
            assert parent.submit(1).result() == (5, [2, 3])
            assert parent.map([1, 2]).result() == [(5, [2, 3]), (7, [3, 4])]

        main()

    @covers("9.1", "4.2")
    def test_failures_inside(self, runner: TaskRunner) -> None:
        @task
        def parent() -> Any:
            failed = boom.submit("inner", code=3)
            caught = None
            try:
                failed.result()
            except BoomError as error:
                caught = error.code
            after = inc.submit(failed)
            after.wait()
            allowed = identity.submit(allow_failure(failed)).result()
            return caught, after.state.name, str(allowed)

        @task
        def passes_on() -> Any:
            return boom.submit("passed on").result()

        @flow(task_runner=runner)
        def main() -> None:
            assert parent.submit().result() == (3, "NotReady", "inner")
            with pytest.raises(BoomError, match="passed on"):
                passes_on.submit().result()
            with pytest.raises(UpstreamTaskError, match="passes_on"):
                inc.submit(passes_on.submit()).result()

        main()

    @pytest.mark.parametrize("slots", [1, 2])
    @covers("9.1")
    def test_fifty_levels(
        self, runner: TaskRunner, request: pytest.FixtureRequest, slots: int
    ) -> None:
        pool = runner if slots == 2 else request.getfixturevalue("single_runner")

        @task
        def down(levels: int) -> int:
            return down.submit(levels - 1).result() + 1 if levels else 0

        assert in_flow(pool, lambda: down.submit(50).result()) == 50

    @covers("9.1")
    def test_a_tree_with_one_slot(self, single_runner: TaskRunner) -> None:
        @task
        def tree(depth: int) -> int:
            if depth == 0:
                return 1
            return sum(tree.map([depth - 1] * 3).result()) + tree.submit(depth - 1).result()

        assert in_flow(single_runner, lambda: tree.submit(3).result()) == 64

    @covers("9.1", needs=("nests", "concurrent"))
    def test_a_nested_map_runs_side_by_side(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def meet(number: int) -> int:
            signals.meet("children", 2)
            return number

        @task
        def parent() -> Any:
            return meet.map([1, 2]).result()

        assert in_flow(runner, lambda: parent.submit().result()) == [1, 2]

    @covers("9.1", needs="concurrent")
    def test_parents_that_wait_leave_their_slots(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def child(number: int) -> int:
            return number

        @task
        def parent(number: int) -> int:
            signals.meet("parents", 2)  # both slots are taken by parents
            return sum(child.map([number] * 10).result()) + child.submit(number).result()

        assert in_flow(runner, lambda: parent.map([1, 2]).result()) == [11, 22]

    @covers("9.1", "3.3")
    def test_flows_inside_runs(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def inner(x: Any) -> Any:
            return add.submit(inc.submit(x), 1).result()

        @task
        def parent(x: int) -> Any:
            return inner(x), inner(inc.submit(x))

        @flow(task_runner=runner)
        def main() -> None:
            assert parent.submit(1).result() == (3, 4)
            assert parent.map([1, 2]).result() == [(3, 4), (4, 5)]

        main()

    @covers("9.1", "3.5")
    def test_children_outlive_their_parents(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def grandchild(number: int, after: Any = None) -> None:
            signals.append("log", number)

        @task
        def parent() -> str:
            last = grandchild.submit(0)
            for number in range(1, 10):
                last = grandchild.submit(number, last)
            return "gone"

        assert in_flow(runner, lambda: parent.submit().result()) == "gone"
        assert sorted(map(int, signals.lines("log"))) == list(range(10))

    @covers("9.1", "4.4")
    def test_waiting_inside_in_every_way(self, single_runner: TaskRunner) -> None:
        @task
        def parent() -> Any:
            futures = inc.map(range(5))
            first = next(iter(as_completed(futures)))
            timed = inc.submit(10)
            timed.wait(timeout=PATIENCE)
            return first.done(), timed.result(timeout=0), futures[4].result(timeout=PATIENCE)

        assert in_flow(single_runner, lambda: parent.submit().result()) == (True, 11, 5)

    @covers("9.1", "4.4", "2.2")
    def test_a_coroutine_waits_inside_in_every_way(self, single_runner: TaskRunner) -> None:
        @task
        async def called(x: Any, ready: Any = None) -> Any:
            return await inc.submit(x)

        @task
        async def emits(x: int) -> Any:
            yield await inc.submit(x)

        @task
        async def parent() -> Any:
            each = [await future async for future in as_completed(inc.map(range(3)))]
            together = await asyncio.gather(called(10), called(20), inc.submit(30))
            after = await called(inc.submit(40), wait_for=[inc.submit(50)])
            emitted = [item async for item in emits(60)]
            return sorted(each), together, after, emitted

        ended = in_flow(single_runner, lambda: parent.submit().result())
        assert ended == ([1, 2, 3], [11, 21, 31], 42, [61])

    @covers("9.1", "3.3", needs="nests")
    def test_a_coroutine_waits_in_a_flow_that_it_runs(self, single_runner: TaskRunner) -> None:
        outer: list[Any] = []

        @flow(task_runner="threads:1")
        async def inner() -> Any:
            return await outer[0] + await inc.submit(1)

        @task
        async def parent() -> Any:
            outer[:] = [inc.submit(10)]
            return await inner()

        assert in_flow(single_runner, lambda: parent.submit().result()) == 13

    @covers("9.2", needs=("nests", "isolated"))
    def test_children_use_the_flows_workers(self, runner: TaskRunner) -> None:
        @task
        def where() -> int:
            return os.getpid()

        @task
        def parent() -> Any:
            return os.getpid(), where.submit().result()

        here, child = in_flow(runner, lambda: parent.submit().result())
        assert os.getpid() not in (here, child)

    @covers("9.1", needs=("nests", "shares_memory", "concurrent"))
    def test_a_run_that_waits_for_itself(self, single_runner: TaskRunner) -> None:
        own: list[Any] = []

        @task
        def waits() -> Any:
            while not own:
                pass
            return own[0].result()

        @task
        def waits_below() -> Any:
            return waits.submit().result()

        @flow(task_runner=single_runner)
        def main() -> None:
            for a_task in (waits, waits_below):
                own.clear()
                own.append(a_task.submit())
                with pytest.raises(WaitCycle):
                    own[0].result(timeout=PATIENCE)
                assert own[0].state.is_failed()

        main()

    @covers("9.1", needs=("nests", "shares_memory", "concurrent"))
    def test_runs_that_wait_for_each_other(self, runner: TaskRunner, signals: Signals) -> None:
        runs: dict[str, Any] = {}

        @task
        def waits(other: str) -> Any:
            signals.meet("both", 2)
            while other not in runs:
                pass
            return runs[other].result()

        @flow(task_runner=runner)
        def main() -> None:
            runs["a"], runs["b"] = waits.submit("b"), waits.submit("a")
            errors = [runs[name].exception(timeout=PATIENCE) for name in "ab"]
            assert any(isinstance(error, WaitCycle) for error in errors)
            assert all(isinstance(error, Exception) for error in errors)

        main()

    @covers("9.1")
    def test_recursion_without_end(self, single_runner: TaskRunner) -> None:
        @task
        def down(levels: int) -> int:
            return down.submit(levels - 1).result() + 1 if levels else 0

        @flow(task_runner=single_runner)
        def main() -> None:
            deep = down.submit(400)
            ended = deep.result(timeout=2 * PATIENCE, raise_on_failure=False)
            assert ended == 400 or isinstance(ended, NestingTooDeep)
            assert deep.state.is_final()
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()
