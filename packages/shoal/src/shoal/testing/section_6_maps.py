"""Section 6 on any runner: `map`, what it maps over, and that each element is a run of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shoal import allow_failure, flow, quote, runtime, task, unmapped
from shoal.exceptions import MappingLengthMismatch, MappingMissingIterable, ParameterBindError
from shoal.states import State
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, add, boom, hold, identity, inc, note

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["MapTests"]

ITERABLES: dict[str, tuple[Callable[[], Any], list[Any]]] = {
    "list": (lambda: [1, 2], [1, 2]),
    "tuple": (lambda: (1, 2), [1, 2]),
    "range": (lambda: range(3), [0, 1, 2]),
    "set": (lambda: {7}, [7]),
    "dict": (lambda: {"a": 1, "b": 2}, ["a", "b"]),
    "dict-values": ({"a": 1}.values, [1]),
    "generator": (lambda: (n * n for n in range(3)), [0, 1, 4]),
    "iterator": (lambda: iter("ab"), ["a", "b"]),
    "list-of-lists": (lambda: [[1, 2], [3]], [[1, 2], [3]]),
    "strings": (lambda: ["ab", "cd"], ["ab", "cd"]),
    "empty": (list, []),
    "empty-iterator": (lambda: iter(()), []),
}


@task
def pair(x: Any, y: Any) -> Any:
    """A value, and another as text."""
    return x, str(y)


class MapTests(SuiteBase):
    """Section 6."""

    # ------------------------------------------------------------------ what is mapped over

    @covers("6.1")
    def test_iterables(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for kind, (make, expected) in ITERABLES.items():
                assert identity.map(make()).result() == expected, kind
                assert identity.map(x=make()).result() == expected, kind

        main()

    @covers("6.1", "6.2")
    def test_side_by_side_and_static(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert add.map([1, 2, 3], [10, 20, 30]).result() == [11, 22, 33]
            assert add.map([1, 2], 5).result() == [6, 7]
            assert add.map(5, [1, 2]).result() == [6, 7]
            assert add.map(["a", "b"], "cd").result() == ["acd", "bcd"]
            assert add.map([b"a"], b"cd").result() == [b"acd"]
            assert add.map([1, 2], 3.5).result() == [4.5, 5.5]
            assert add.map([[1], [2]], unmapped([9])).result() == [[1, 9], [2, 9]]
            assert add.map(x=[1, 2], y=unmapped(1)).result() == [2, 3]

        main()

    @covers("6.2")
    def test_defaults_are_never_mapped(self, runner: TaskRunner) -> None:
        @task
        def join(x: Any, others: Any = (1, 2, 3)) -> Any:
            return x, others

        assert in_flow(runner, lambda: join.map([7, 8]).result()) == [
            (7, (1, 2, 3)),
            (8, (1, 2, 3)),
        ]

    @covers("6.2")
    def test_starred_arguments_map_one_by_one(self, runner: TaskRunner) -> None:
        @task
        def show(*args: Any, **kwargs: Any) -> Any:
            return args, kwargs

        @flow(task_runner=runner)
        def main() -> None:
            assert show.map([1, 2], [3, 4]).result() == [((1, 3), {}), ((2, 4), {})]
            assert show.map(a=[1, 2], b=[3, 4], c=0).result() == [
                ((), {"a": 1, "b": 3, "c": 0}),
                ((), {"a": 2, "b": 4, "c": 0}),
            ]
            assert show.map([1, 2], key=unmapped([5])).result() == [
                ((1,), {"key": [5]}),
                ((2,), {"key": [5]}),
            ]

        main()

    @covers("6.1", "6.2")
    def test_what_cannot_be_mapped(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(MappingLengthMismatch) as mismatch:
                add.map([1, 2], [1, 2, 3])
            assert mismatch.value.lengths == {"x": 2, "y": 3}
            assert "'x' has 2" in str(mismatch.value)
            with pytest.raises(MappingMissingIterable, match="add"):
                add.map(1, "text")
            with pytest.raises(MappingMissingIterable):
                add.map(unmapped([1]))
            with pytest.raises(ParameterBindError):
                note.map(signals, "log", text=[1], colour=[2])

            def breaks() -> Any:
                yield 1
                raise BoomError("in the iterable")

            with pytest.raises(BoomError, match="in the iterable"):
                note.map(signals, "log", breaks())

        main()
        assert signals.lines("log") == []

    @covers("11.1", "6.1")
    def test_map_of_a_runner(self, runner: TaskRunner) -> None:
        with runner as entered:
            futures = entered.map(add, {"x": [1, 2], "y": unmapped(5)})
            assert futures.result() == [6, 7]
            with pytest.raises(MappingMissingIterable):
                entered.map(add, {"x": 1})

    # ------------------------------------------------------------------ over futures

    @covers("6.3")
    def test_over_futures(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = [inc.submit(1), inc.submit(2)]
            assert inc.map(futures).result() == [3, 4]
            assert inc.map(inc.map(inc.map([1, 2]))).result() == [4, 5]
            assert add.map(futures, inc.map([10, 20])).result() == [13, 24]
            assert identity.map([[futures[0]], {"a": futures[1]}]).result() == [[2], {"a": 3}]
            assert add.map([1, 2], unmapped(futures[0])).result() == [3, 4]

        main()

    @covers("6.3")
    def test_over_a_future_of_a_list(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            numbers = identity.submit([1, 2, 3])
            assert inc.map(numbers).result() == [2, 3, 4]
            assert add.map([1, 2], inc.submit(5)).result() == [7, 8]

        main()

    @covers("6.3", needs="concurrent")
    def test_over_futures_lazily(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            slow = hold.submit(signals, "go", 1)
            mapped = inc.map([slow, inc.submit(1)])
            assert mapped[1].result() == 3
            assert not mapped[0].done(), "one element waited for the other's upstream"
            signals.set("go")
            assert mapped.result() == [2, 3]

        main()

    @covers("6.3", "5.3")
    def test_over_futures_that_failed(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = [inc.submit(1), boom.submit(), inc.submit(2)]
            mapped = inc.map(futures)
            mapped.wait()
            assert [future.state.name for future in mapped] == [
                "Completed",
                "NotReady",
                "Completed",
            ]
            allowed = identity.map(allow_failure(futures)).result()
            assert [type(value) for value in allowed] == [int, BoomError, int]

        main()

    @covers("6.1", "6.3", "5.4", "5.6")
    def test_over_states_and_what_is_annotated(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            numbers = identity.submit([1, 2])
            numbers.wait()
            failed = boom.submit("no")
            failed.wait()
            assert inc.map(numbers.state).result() == [2, 3]
            assert inc.map(quote([1, 2])).result() == [2, 3]
            assert inc.map(allow_failure(numbers)).result() == [2, 3]
            for given in (failed, failed.state, unmapped(failed)):
                values = pair.map([1, 2], allow_failure(given)).result()
                assert values == [(1, "no"), (2, "no")]
            assert pair.map([1, 2], allow_failure(identity.submit(5))).result()[1] == (2, "5")
            with pytest.raises(BoomError):
                inc.map(failed)

        main()

    # ------------------------------------------------------------------ each element is a run

    @covers("6.4", "6.5")
    def test_return_state(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            states = inc.map([1, 2], return_state=True)
            assert all(isinstance(state, State) for state in states)
            assert [state.result() for state in states] == [2, 3]
            assert [state.name for state in boom.map(["a"], return_state=True)] == ["Failed"]
            assert inc.map([], return_state=True) == []

        main()

    @covers("6.5")
    def test_elements_are_runs(self, runner: TaskRunner) -> None:
        @task
        def whoami(x: int) -> Any:
            run = runtime.task_run
            return run.id, run.name, run.parameters, run.run_count

        @flow(task_runner=runner)
        def main() -> None:
            futures = whoami.map(range(30))
            for number, (future, (run_id, name, parameters, count)) in enumerate(
                zip(futures, futures.result(), strict=True)
            ):
                assert future.task_run_id == run_id
                assert future.name == name
                assert (parameters, count) == ({"x": number}, 1)
                assert future.state.is_completed()
            assert len({future.task_run_id for future in futures}) == 30

        main()

    @covers("6.5", "7.1", "8.1")
    def test_elements_retry_and_fail_alone(self, runner: TaskRunner, signals: Signals) -> None:
        def failed(a_task: Any, run: Any, state: Any) -> None:
            signals.append("hooks", run.parameters["x"])

        @task(retries=1, on_failure=[failed], task_run_name="element {x}")
        def fragile(x: int) -> int:
            signals.append("tries", x)
            if x % 5 == 2:
                raise BoomError(f"element {x}")
            return x

        @flow(task_runner=runner)
        def main() -> None:
            futures = fragile.map(range(10))
            futures.wait()
            for number, future in enumerate(futures):
                assert future.state.is_failed() == (number % 5 == 2)
                assert future.name == f"element {number}"
            with pytest.raises(BoomError, match="element 2"):
                futures[2].result()

        main()
        assert sorted(map(int, signals.lines("tries"))) == sorted([*range(10), 2, 7])
        assert sorted(signals.lines("hooks")) == ["2", "7"]

    @covers("6.5", "4.3")
    def test_a_large_map(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = inc.map(range(5000))
            assert futures[4321].result() == 4322
            futures[17].add_done_callback(lambda future: None)
            assert futures.result() == list(range(1, 5001))
            assert futures[0].state.is_completed()
            assert inc.map(futures[:100]).result() == list(range(2, 102))

        main()

    @covers("6.5")
    def test_slow_and_quick_elements(self, runner: TaskRunner) -> None:
        @task
        def uneven(x: int) -> int:
            import time

            if x % 20 == 0:
                time.sleep(0.05)
            return x

        assert in_flow(runner, lambda: uneven.map(range(100)).result()) == list(range(100))

    @covers("6.5", needs=("concurrent", "stops"))
    def test_a_stuck_element_does_not_hold_its_neighbours(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def element(x: int) -> int:
            if x == 50:
                signals.wait("go")
            return x

        @flow(task_runner=runner)
        def main() -> None:
            inc.map(range(50)).wait()
            futures = element.map(range(100))
            others = [future for number, future in enumerate(futures) if number != 50]
            assert sum(future.result() for future in others) == sum(range(100)) - 50
            assert not futures[50].done()
            signals.set("go")
            assert futures.result() == list(range(100))

        main()

    @covers("6.5", "7.4", needs="concurrent")
    def test_cancelling_elements(
        self, single_runner: TaskRunner, signals: Signals, flags: dict[str, bool]
    ) -> None:
        cancelled = [0, 10, 49] if flags["stops"] else [10, 49]  # the first was handed over

        @flow(task_runner=single_runner)
        def main() -> None:
            gate = hold.submit(signals, "go")
            signals.wait("go began")
            futures = note.map(signals, "log", range(50))
            assert all(futures[number].cancel() for number in cancelled)
            assert not futures[10].cancel()
            assert futures[10].state.is_cancelled()
            signals.set("go")
            futures.wait()
            found = [number for number in range(50) if futures[number].state.is_cancelled()]
            assert found == cancelled
            gate.wait()

        main()
        ran = set(map(int, signals.lines("log")))
        assert ran == set(range(50)).difference(cancelled)
