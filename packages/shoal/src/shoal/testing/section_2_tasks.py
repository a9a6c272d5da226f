"""Section 2 on any runner: calling, submitting and configuring tasks."""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from shoal import flow, task
from shoal.exceptions import MissingContextError, ParameterBindError, TaskRunTimeout
from shoal.futures import TaskFuture
from shoal.states import (
    State,
)
from shoal.testing.base import LOOPS, SuiteBase, covers, in_flow
from shoal.testing.samples import (
    Account,
    BoomError,
    Box,
    Pair,
    add,
    boom,
    identity,
    inc,
    note,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["TaskTests"]

VALUES = {
    "nothing": None,
    "numbers": [0, -1, 2**70, 1.5, 2j, True],
    "text": "grüße 🐎",
    "bytes": bytes(range(256)) * 40,
    "nested": {"a": [1, (2, {3: {"b"}})], ("k", 1): frozenset({4})},
    "named-tuple": Pair(1, [2]),
    "dataclass": Box([1]),
    "class": Box,
    "function": len,
    "long-text": "x" * 300_000,
}


def times_two(x: Any) -> Any:
    """No task, but may be wrapped as one."""
    return x * 2


class Tripler:
    """A callable object."""

    def __call__(self, x: Any) -> Any:
        return x * 3


class TaskTests(SuiteBase):
    """Section 2."""

    # ------------------------------------------------------------------ submit

    @covers("2.3")
    def test_submit_gives_a_future(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = add.submit(1, 2)
            assert isinstance(future, TaskFuture)
            assert future.result() == 3

        main()

    @covers("2.3")
    def test_arguments_in_all_their_forms(self, runner: TaskRunner) -> None:
        @task
        def show(a: Any, /, b: Any, *rest: Any, c: Any = 30, **more: Any) -> Any:
            return a, b, rest, c, more

        @flow(task_runner=runner)
        def main() -> None:
            assert show.submit(1, 2).result() == (1, 2, (), 30, {})
            assert show.submit(1, b=2).result() == (1, 2, (), 30, {})
            assert show.submit(1, 2, 3, 4, c=5, d=6).result() == (1, 2, (3, 4), 5, {"d": 6})

        main()

    @covers("2.3")
    def test_values_there_and_back(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for kind, value in VALUES.items():
                result = identity.submit(value).result()
                assert result == value, kind
                assert type(result) is type(value), kind

        main()

    @covers("2.3", "2.8")
    def test_an_exception_that_is_returned_is_a_value(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = identity.submit(ValueError("a value"))
            value = future.result()
            assert future.state.is_completed()
            assert isinstance(value, ValueError)
            assert value.args == ("a value",)

        main()

    @covers("2.2")
    def test_tasks_do_not_coerce(self, runner: TaskRunner) -> None:
        @task
        def number(x: int) -> Any:
            return x

        assert in_flow(runner, lambda: number.submit("1").result()) == "1"  # type: ignore[call-overload]

    @covers("2.3")
    def test_submit_return_state(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            good = inc.submit(1, return_state=True)
            assert isinstance(good, State)
            assert good.is_completed()
            assert good.result() == 2
            bad = boom.submit(return_state=True)
            assert bad.is_failed()

        main()

    @covers("2.3")
    def test_a_runner_works_without_a_flow(self, runner: TaskRunner) -> None:
        with runner as entered:
            assert entered.submit(add, {"x": 1, "y": 2}).result() == 3
            assert entered.submit(add, {"x": 1}).result() == 11

    @covers("2.3")
    def test_submit_without_any_context_says_what_to_do(self) -> None:
        with pytest.raises(MissingContextError, match="inc"):
            inc.submit(1)

    @covers("2.6")
    def test_wrong_arguments_are_refused_before_anything_runs(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        wrongly: Any = note  # type checkers know better

        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(ParameterBindError, match="note") as missing:
                wrongly.submit(signals, "log")
            assert missing.value.argument == "text"
            with pytest.raises(ParameterBindError, match="note") as unknown:
                wrongly.submit(signals, "log", text="x", colour="red")
            assert unknown.value.argument == "colour"
            with pytest.raises(ParameterBindError):
                wrongly.submit(signals, "log", "x", "y")

        main()
        assert signals.lines("log") == []

    # ------------------------------------------------------------------ direct calls

    @covers("2.2")
    def test_a_direct_call_runs_in_the_callers_thread(self, runner: TaskRunner) -> None:
        seen: list[int] = []

        @task
        def here() -> str:
            seen.append(threading.get_ident())
            return "done"

        assert in_flow(runner, here) == "done"
        assert here() == "done"
        assert seen == [threading.get_ident()] * 2

    @covers("2.2")
    def test_a_direct_call_takes_futures_and_raises(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert add(inc.submit(1), [inc.submit(2)][0]) == 5
            with pytest.raises(ZeroDivisionError):
                task(lambda: 1 / 0)()

        main()

    @covers("2.2")
    def test_a_direct_call_return_state(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert inc(1, return_state=True).result() == 2
            bad = boom("no", return_state=True)
            assert bad.is_failed()
            assert "no" in str(bad)

        main()

    @covers("2.2")
    def test_a_direct_call_in_a_run(self, runner: TaskRunner) -> None:
        @task
        def outer(x: Any) -> Any:
            return inc(inc(x)), inc(x, return_state=True).result()

        assert in_flow(runner, lambda: outer.submit(1).result()) == (3, 2)

    # ------------------------------------------------------------------ kinds of functions

    @covers("2.1")
    def test_plain_functions_can_be_wrapped(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            assert task(times_two).submit(2).result() == 4
            assert task(lambda x: x + 5).submit(2).result() == 7
            assert task(functools.partial(times_two, 8)).submit().result() == 16
            assert task(Tripler()).submit(2).result() == 6
            assert task(max).submit(2, 9).result() == 9

        main()

    @covers("2.1", "9.1")
    def test_plain_functions_can_be_wrapped_inside_a_run(self, runner: TaskRunner) -> None:
        @task
        def outer(x: Any) -> Any:
            return task(times_two).submit(x).result() + task(times_two)(x)

        assert in_flow(runner, lambda: outer.submit(2).result()) == 8

    @covers("2.5")
    def test_methods(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            ann, bob = Account("ann"), Account("bob")
            futures = [ann.deposit.submit(1), bob.deposit.submit(2), ann.deposit.submit(amount=3)]
            assert [future.result() for future in futures] == ["ann +1", "bob +2", "ann +3"]
            assert bob.deposit.map([1, 2]).result() == ["bob +1", "bob +2"]
            assert ann.deposit(9) == "ann +9"
            assert ann.deposit.with_options(name="pay").submit(4).result() == "ann +4"

        main()

    @covers("2.5")
    def test_class_and_static_methods(self, runner: TaskRunner) -> None:
        class Other(Account):
            bank = "vault"

        @flow(task_runner=runner)
        def main() -> None:
            assert Account.where.submit("rome").result() == "piggy of rome"
            assert Other.where.submit("rome").result() == "vault of rome"
            assert Other("x").where.map(["a", "b"]).result() == ["vault of a", "vault of b"]
            assert Account.where("oslo") == "piggy of oslo"
            assert Account.double.submit(2).result() == 4
            assert Account("x").double.map([2, 3]).result() == [4, 6]
            assert Account.double(5) == 10

        main()

    @covers("2.5")
    def test_generators_stream_when_called_and_collect_when_submitted(
        self, runner: TaskRunner
    ) -> None:
        made: list[int] = []

        @task
        def count(upto: int) -> Any:
            for number in range(upto):
                made.append(number)
                yield number

        @flow(task_runner=runner)
        def main() -> None:
            stream = count(3)
            assert next(stream) == 0
            assert made == [0]
            assert list(stream) == [1, 2]
            assert count.submit(3).result() == [0, 1, 2]

        main()

    @covers("2.5", "7.3")
    def test_generators_that_are_called_in_a_run(self, runner: TaskRunner) -> None:
        @task(retries=1)
        def flaky() -> Any:
            yield 1
            raise BoomError("emits again")

        @task(timeout_seconds=0.1)
        def late() -> Any:
            yield 1
            while True:
                time.sleep(0.001)

        @task
        def returns() -> Any:
            yield (yield 1)
            return "its value"

        def drained(stream: Any) -> list[Any]:
            got = []
            while True:
                try:
                    got.append(next(stream))
                except Exception as end:
                    return [*got, type(end), getattr(end, "value", None)]

        @task
        def work() -> Any:
            return [drained(each()) for each in (flaky, late, returns)]

        right = [
            [1, 1, BoomError, None],
            [1, TaskRunTimeout, None],
            [1, None, StopIteration, "its value"],
        ]
        assert in_flow(runner, work) == right
        assert in_flow(runner, lambda: work.submit().result()) == right

    @covers("2.1", "2.5")
    def test_async_tasks(self, runner: TaskRunner) -> None:
        @task
        async def later(x: Any) -> Any:
            await anyio.sleep(0.001)
            return x + 1

        @task
        async def count(upto: int) -> Any:
            for number in range(upto):
                await anyio.lowlevel.checkpoint()
                yield number

        @flow(task_runner=runner)
        def main() -> None:
            assert later.submit(later.submit(1)).result() == 3
            assert later.map(range(50)).result() == list(range(1, 51))
            assert count.submit(3).result() == [0, 1, 2]
            assert inc.submit(later.submit(inc.submit(0))).result() == 3

        main()

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("2.2", "3.1")
    def test_async_tasks_in_an_async_flow(self, runner: TaskRunner, loop: str) -> None:
        pytest.importorskip(loop)

        @task
        async def later(x: Any) -> Any:
            await anyio.sleep(0.001)
            return x + 1

        @flow(task_runner=runner)
        async def main() -> Any:
            state = await later(1, return_state=True)
            assert state.is_completed()
            return await later(5), await later.submit(6), await inc.submit(7), inc(8)

        assert anyio.run(main, backend=loop) == (6, 7, 8, 9)

    @covers("2.5")
    def test_partials(self, runner: TaskRunner) -> None:
        async def add_async(x: int, y: int) -> int:
            await anyio.lowlevel.checkpoint()
            return x + y

        @flow(task_runner=runner)
        def main() -> list[Any]:
            partial = functools.partial(functools.partial(add_async, 1), y=2)
            return [
                task(name="adds")(partial).submit().result(),
                task(name="adds")(functools.partial(add_async, 1)).map([2]).result(),
                task(name="adds")(functools.partial(add, 1)).submit(2).result(),
                task(name="emits")(functools.partial(emit, 2)).submit().result(),
            ]

        assert main() == [3, [3], 3, [0, 1]]

    # ------------------------------------------------------------------ options

    @covers("2.4")
    def test_with_options(self, runner: TaskRunner, signals: Signals) -> None:
        @task(name="flaky", retries=0, tags=["a"])
        def flaky() -> int:
            signals.append("tries", "x")
            if len(signals.lines("tries")) < 3:
                raise ValueError("not yet")
            return len(signals.lines("tries"))

        @flow(task_runner=runner)
        def main() -> None:
            patient = flaky.with_options(retries=5, name="patient")
            future = patient.submit()
            assert future.result() == 3
            assert future.name.startswith("patient-")
            assert (flaky.retries, flaky.name) == (0, "flaky")
            assert patient.tags == flaky.tags

        main()

    @covers("2.7")
    def test_batch_changes_nothing_about_the_results(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for batch in (True, False, 3):
                together = inc.with_options(batch=batch)
                assert together.map(range(40)).result() == list(range(1, 41)), batch

        main()


def emit(count: int) -> Iterator[int]:
    """Emits numbers."""
    yield from range(count)
