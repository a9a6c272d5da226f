"""Section 11 on any runner: settings, entering and leaving, how many runs at once, several users at once."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from shoal import flow, task
from shoal.task_runners import TaskRunner
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, add, hold, inc, note
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from shoal.testing.tools import Signals

__all__ = ["RunnerTests"]


class RunnerTests(SuiteBase):
    """Section 11."""

    # ------------------------------------------------------------------ as a value

    @covers("11.1")
    def test_it_is_a_task_runner(self, runner: TaskRunner) -> None:
        assert isinstance(runner, TaskRunner)
        assert isinstance(runner.name, str)
        assert runner.name
        assert type(runner).__name__ in repr(runner)

    @covers("11.1")
    def test_duplicates_and_equality(self, runner: TaskRunner) -> None:
        other = runner.duplicate()
        assert type(other) is type(runner)
        assert other is not runner
        assert other == runner
        assert hash(other) == hash(runner)
        assert runner != object()
        with other as entered:
            assert entered.submit(inc, {"x": 1}).result() == 2
            assert other == runner

    @pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
    @covers("11.1")
    def test_it_can_be_pickled(self, runner: TaskRunner, pickler: Any) -> None:
        again = pickler.loads(pickler.dumps(runner))
        assert again == runner
        with again as entered:
            assert entered.submit(inc, {"x": 1}).result() == 2
            third = pickler.loads(pickler.dumps(again))
            with third as also_entered:
                assert also_entered.submit(inc, {"x": 2}).result() == 3

    @covers("11.1")
    def test_it_can_be_copied(self, runner: TaskRunner) -> None:
        assert copy.copy(runner) == runner
        assert copy.deepcopy(runner) == runner

    # ------------------------------------------------------------------ entering and leaving

    @covers("11.1")
    def test_entering_twice(self, runner: TaskRunner) -> None:
        with runner as entered:
            assert entered is runner
            with pytest.raises(RuntimeError, match="entered"), runner:
                pass
            assert runner.submit(inc, {"x": 1}).result() == 2

    @covers("11.1")
    def test_use_before_and_after(self, runner: TaskRunner) -> None:
        def refuses() -> None:
            with pytest.raises(RuntimeError, match="entered"):
                runner.submit(inc, {"x": 1})
            with pytest.raises(RuntimeError, match="entered"):
                runner.map(inc, {"x": [1]})

        refuses()
        with runner:
            pass
        refuses()

    @covers("11.1", "3.5")
    def test_leaving_waits(self, runner: TaskRunner, signals: Signals) -> None:
        with runner as entered:
            futures = [
                entered.submit(note, {"signals": signals, "log": "log", "text": number})
                for number in range(20)
            ]
            mapped = entered.map(note, {"signals": signals, "log": "log", "text": range(20, 40)})
        assert all(future.done() for future in [*futures, *mapped])
        assert sorted(map(int, signals.lines("log"))) == list(range(40))
        assert [future.result() for future in futures] == list(range(20))
        assert mapped.result() == list(range(20, 40)), "values outlive the runner"

    @covers("11.1", "3.5", needs=("concurrent", "stops"))
    def test_leaving_with_an_exception(self, single_runner: TaskRunner, signals: Signals) -> None:
        futures: list[Any] = []

        def use() -> None:
            with single_runner as entered:
                futures.append(entered.submit(hold, {"signals": signals, "name": "never"}))
                futures.append(
                    entered.submit(note, {"signals": signals, "log": "log", "text": "x"})
                )
                signals.wait("never began")
                raise BoomError("in the block")

        with pytest.raises(BoomError, match="in the block"):
            use()
        assert all(future.state.is_cancelled() for future in futures)
        assert signals.lines("log") == []

    @covers("2.3", "11.1")
    def test_parameters_by_name(self, runner: TaskRunner) -> None:
        @task
        def show(a: Any, /, b: Any, *rest: Any, c: Any = 3, **more: Any) -> Any:
            return a, b, rest, c, more

        with runner as entered:
            everything = {"a": 1, "b": 2, "rest": (5, 6), "c": 4, "more": {"d": 7}}
            assert entered.submit(show, everything).result() == (1, 2, (5, 6), 4, {"d": 7})
            assert entered.submit(show, {"a": 1, "b": 2}).result() == (1, 2, (), 3, {})
            first = entered.submit(inc, {"x": 1})
            assert entered.submit(inc, {"x": first}, wait_for=[first]).result() == 3
            with pytest.raises(TypeError, match="colour"):
                entered.submit(inc, {"x": 1, "colour": 2})

    # ------------------------------------------------------------------ side by side

    @covers("11.1", needs="concurrent")
    def test_two_slots_are_two_runs_at_once(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def meet(name: str) -> str:
            signals.meet(name, 2)
            return name

        @flow(task_runner=runner)
        def main() -> None:
            assert [future.result() for future in [meet.submit("a"), meet.submit("a")]] == ["a"] * 2
            assert meet.map(["b", "b"]).result() == ["b", "b"]

        main()

    @covers("9.1")
    def test_never_more_runs_than_slots(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def crowd(number: int) -> int:
            import time

            with signals.inside("room") as now:
                time.sleep(0.002)
                return now

        @flow(task_runner=runner)
        def main() -> None:
            futures = [crowd.submit(number) for number in range(50)]
            futures += crowd.map(range(50))
            assert max(future.result() for future in futures) <= 2

        main()

    @covers("9.1")
    def test_never_more_runs_than_slots_in_nests(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def child() -> int:
            with signals.inside("room") as now:
                return now

        @task
        def parent(number: int) -> int:
            return max(child.submit().result() for _ in range(3))

        assert max(in_flow(runner, lambda: parent.map(range(20)).result())) <= 2

    @covers("11.1")
    def test_several_threads_submit(self, runner: TaskRunner) -> None:
        sums: list[int] = []

        def use(entered: TaskRunner, base: int) -> None:
            futures = [entered.submit(add, {"x": base, "y": number}) for number in range(50)]
            sums.append(sum(future.result(timeout=PATIENCE) for future in futures))

        with runner as entered:
            threads = [threading.Thread(target=use, args=(entered, n * 1000)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(2 * PATIENCE)
        assert sorted(sums) == [n * 50_000 + sum(range(50)) for n in range(8)]

    @covers("3.3", "11.1")
    def test_several_flows_share_one_runner_object(self, runner: TaskRunner) -> None:
        results: list[Any] = []

        def use(number: int) -> None:
            results.append(in_flow(runner, lambda: inc.map([number] * 10).result()))

        threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        assert sorted(results) == [[number + 1] * 10 for number in range(4)]
