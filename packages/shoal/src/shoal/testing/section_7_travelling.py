"""Section 7.7 and 7.8 on any runner: what travels by reference, exceptions as they are, what cannot travel is named."""

from __future__ import annotations

import functools
import random
import threading
import traceback
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from urllib.error import HTTPError

import pytest

from shoal import allow_failure, flow, task
from shoal.exceptions import SerializationError
from shoal.testing.base import SuiteBase, covers
from shoal.testing.samples import identity, inc
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners import TaskRunner

__all__ = ["ExceptionTests", "OddObjectTests", "TravellingTests"]


class RefusedError(Exception):
    """Whose constructor takes other arguments than it passes on."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


def divides(number: int) -> float:
    """Fails."""
    return number / (number - number)


@task
def fails(how: str) -> None:
    """Raises something."""
    if how == "other arguments":
        error = RefusedError(7, "no")
        error.add_note("a note")
        raise error
    if how == "group":
        inner = ExceptionGroup("inner", [OSError(2, "gone", "a.txt")])
        raise ExceptionGroup("several", [ValueError(1), RefusedError(8, "no"), inner])
    if how == "http":
        raise HTTPError("http://x.test", 404, "not there", {}, None)  # type: ignore[arg-type]
    if how == "lock":
        error = RefusedError(9, "no")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error
    if how == "line":
        divides(3)
    try:
        raise RefusedError(10, "first")
    except RefusedError as first:
        if how == "cause":
            raise ValueError("second") from first
        if how == "hidden":
            raise ValueError("second") from None
        raise ValueError("second")  # noqa: B904  in the context of the first


class ExceptionTests(SuiteBase):
    """Section 7.8."""

    @covers("7.8")
    def test_exceptions_arrive_as_they_are(self, runner: TaskRunner) -> None:
        hows = ("other arguments", "group", "http", "lock", "cause", "hidden", "context")

        @flow(task_runner=runner)
        def main() -> dict[str, Any]:
            runs = {how: fails.submit(how) for how in hows}
            again = identity.submit(allow_failure(runs["other arguments"]))
            errors: dict[str, Any] = {
                how: run.exception(timeout=PATIENCE) for how, run in runs.items()
            }
            return {**errors, "again": again.result(timeout=PATIENCE)}

        got = main()
        for how in ("other arguments", "again"):
            assert isinstance(got[how], RefusedError)
            assert got[how].code == 7
            assert got[how].__notes__ == ["a note"]
        value, refused, inner = got["group"].exceptions
        assert (value.args, refused.code) == ((1,), 8)
        assert (inner.exceptions[0].errno, inner.exceptions[0].filename) == (2, "a.txt")
        assert isinstance(got["http"], HTTPError)
        assert got["http"].code == 404
        assert isinstance(got["lock"], RefusedError)
        assert got["lock"].code == 9
        assert got["cause"].__cause__.code == 10
        assert got["context"].__cause__ is None
        assert got["context"].__context__.code == 10
        assert got["hidden"].__suppress_context__

    @covers("4.2", "7.8")
    def test_a_traceback_shows_the_users_lines_and_no_others(self, runner: TaskRunner) -> None:
        def multiplies(number: int) -> float:
            return 2 * divides(number)

        @task
        def travels(number: int) -> float:
            return multiplies(number) + 1

        @task
        async def travels_later(number: int) -> float:
            return multiplies(number) + 1

        @flow(task_runner=runner)
        def main(each: Any, how: str) -> Any:
            if how == "submit":
                return each.submit(3).result(timeout=PATIENCE)
            return each.map([3, 4]).result(timeout=PATIENCE)

        for each in (travels, travels_later):
            for how in ("submit", "map"):
                with pytest.raises(ZeroDivisionError) as caught:
                    main(each, how)
                shown = traceback.extract_tb(caught.value.__traceback__)
                assert {frame.filename for frame in shown} == {__file__}
                names = [frame.name for frame in shown]
                assert names[1:] == ["main", each.__name__, "multiplies", "divides"]
                assert [frame.line for frame in shown[-3:]] == [
                    "return multiplies(number) + 1",
                    "return 2 * divides(number)",
                    "return number / (number - number)",
                ]


class TravellingTests(SuiteBase):
    """Sections 5.1 and 7.7: by value or by reference."""

    @covers("7.7")
    def test_functions_of_modules_are_the_workers_own(self, runner: TaskRunner) -> None:
        drawing: Any = task(random.random)

        def default(x: Callable[[], float] = random.random) -> bool:
            return getattr(x, "__self__", None) is random._inst

        @task
        def is_its_own(given: Any) -> bool:
            method = given.func if isinstance(given, functools.partial) else given[0]
            return method == random.random

        @flow(task_runner=runner)
        def main() -> list[Any]:
            runs = [
                task(default).submit(),
                is_its_own.submit([random.random]),
                is_its_own.submit(functools.partial(random.random)),
                drawing.submit(),
            ]
            return [run.result(timeout=PATIENCE) for run in runs]

        *own, drawn = main()
        assert own == [True, True, True]
        assert 0 <= drawn < 1

    @covers("7.7")
    def test_caches_travel_with_their_functions(self, runner: TaskRunner) -> None:
        @functools.cache
        def fibonacci(n: int) -> int:
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

        @functools.singledispatch
        def kind(x: object) -> str:
            return "object"

        @kind.register
        def _(x: int) -> str:
            return "int"

        class Table:
            def __init__(self, n: int) -> None:
                self.n = n

            @functools.cached_property
            def square(self) -> int:
                return self.n**2

        given = Table(4)
        kind(1.0)
        calls: list[Callable[[], Any]] = [
            lambda: fibonacci(20),
            lambda: kind(1),
            lambda: Table(3).square,
            lambda: given.square,
        ]

        @flow(task_runner=runner)
        def main() -> list[Any]:
            runs = [task(call).submit() for call in calls]
            runs.append(task(fibonacci).submit(10))
            return [run.result(timeout=PATIENCE) for run in runs]

        assert main() == [6765, "int", 9, 16, 55]

    @covers("7.7", needs="isolated")
    def test_what_cannot_be_pickled_is_named(self, runner: TaskRunner) -> None:
        mine = threading.Lock()

        def locks() -> bool:
            return mine.locked()

        @task
        def indirect() -> bool:
            return locks()

        @task
        def defaults(x: Any = mine) -> bool:
            return True

        class Holder:
            __slots__ = ("lock",)
            lock: Any

        held = Holder()
        held.lock = mine

        @flow(task_runner=runner)
        def main() -> list[str]:
            runs: list[Any] = [
                task(locks).submit(),
                indirect.submit(),
                defaults.submit(),
                identity.submit(locks),
                identity.submit(functools.partial(inc.fn, mine)),
                identity.submit({"a": held}),
            ]
            errors: list[Any] = [run.exception(timeout=PATIENCE) for run in runs]
            assert {type(error) for error in errors} == {SerializationError}
            return [error.path for error in errors]

        assert main() == [
            "the function of task 'locks'.<closure>.mine",
            "the function of task 'indirect'.<closure>.locks.<closure>.mine",
            "the function of task 'defaults'.<defaults>.x",
            "parameters['x'].<closure>.mine",
            "parameters['x'].args[0]",
            "parameters['x']['a'].lock",
        ]


class Pretender:
    """Says that it is of another class."""

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "target", target)

    __class__: Any = property(lambda self: type(self.target))


class Odd:
    """Raises whatever is asked of it."""

    def __init__(self) -> None:
        vars(self)["lock"] = threading.Lock()

    def _raises(self, *_: Any) -> Any:
        raise RuntimeError("not me")

    __repr__ = __str__ = __bool__ = __getattr__ = _raises


class ShyError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class StiffError(Exception):
    """Refuses attributes."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class RaisesShyError:
    """Fails to be pickled with an error that has no text."""

    def __reduce__(self) -> Any:
        raise ShyError


class OddObjectTests(SuiteBase):
    """Section 7.7: objects that misbehave."""

    @covers("7.7", needs="isolated")
    def test_odd_objects_fail_their_own_runs(self, runner: TaskRunner) -> None:
        def odd() -> dict[str, Any]:
            return {
                "mock": Mock(spec=dict),
                "proxy": Pretender({1: threading.Lock()}),
                "odd": Odd(),
                "key": {Odd(): 1},
                "shy": RaisesShyError(),
            }

        @task
        def gives(name: str) -> Any:
            return odd()[name]

        @flow(task_runner=runner)
        def main() -> None:
            values = odd()
            runs = {f"argument {name}": identity.submit(value) for name, value in values.items()}
            runs.update({f"result {name}": gives.submit(name) for name in values})
            mapped = identity.map([1, *values.values(), 2])
            for name, run in runs.items():
                assert type(run.exception(timeout=PATIENCE)) is SerializationError, name
            ends = [run.exception(timeout=PATIENCE) for run in mapped]
            assert [type(end).__name__ for end in ends] == [
                "NoneType",
                *["SerializationError"] * len(values),
                "NoneType",
            ]

        main()

    @covers("7.7", "7.8", needs="isolated")
    def test_odd_exceptions_arrive(self, runner: TaskRunner) -> None:
        @task
        def raises(kind: type[Exception]) -> None:
            raise kind(1)

        @flow(task_runner=runner)
        def main() -> None:
            kinds = (ShyError, StiffError)
            runs = [raises.submit(kind) for kind in kinds]
            for kind, run in zip(kinds, runs, strict=True):
                error = run.exception(timeout=PATIENCE)
                assert type(error) is kind
                assert error.args == (1,)
                assert run.state.is_failed()

        main()
