"""Exceptions as they cross to another process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import traceback
import types
import urllib.error
from typing import Any, Self

import pytest
from pydantic import BaseModel, ValidationError
from shoal.exceptions import SerializationError, UpstreamTaskError
from shoal.serialization import (
    Portable,
    dumps,
    loads,
    loads_each,
    portable_error,
)


class Refused(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


class KeywordOnly(ValueError):
    def __init__(self, *, name: str) -> None:
        super().__init__(name)
        self.name = name


class Made(Exception):
    """With a `__new__` and slots of its own."""

    __slots__ = ("where",)

    def __new__(cls, where: str, *, loud: bool) -> Self:
        self = super().__new__(cls, where)
        self.where = where
        return self

    def __init__(self, where: str, *, loud: bool) -> None: ...


class Own(Exception):
    """That says itself how it is reduced."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)
        self.b = b

    def __reduce__(self) -> Any:
        return Own, (self.args[0], self.b)


class OddFile(OSError):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Several(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception], code: int) -> Self:
        self = super().__new__(cls, "several", errors)
        self.code = code  # type: ignore[attr-defined]
        return self

    def __init__(self, errors: list[Exception], code: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    key: int


class Model(BaseModel):
    x: int


def validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Model(x="a")  # type: ignore[arg-type]
    return caught.value


def syntax_error() -> SyntaxError:
    with pytest.raises(SyntaxError) as caught:
        compile("a b", "odd.py", "exec")
    return caught.value


def attribute_error() -> AttributeError:
    with pytest.raises(AttributeError) as caught:
        threading.Lock().missing  # type: ignore[attr-defined]  # noqa: B018
    return caught.value


def changed() -> UnicodeDecodeError:
    error = UnicodeDecodeError("ascii", b"abc", 0, 1, "why")
    error.reason = "another"
    return error


ERRORS: dict[str, tuple[BaseException, str]] = {
    "plain": (ValueError("a", 1), ""),
    "other arguments": (Refused(7, "no"), "code"),
    "keywords": (KeywordOnly(name="n"), "name"),
    "new": (Made("there", loud=True), "where"),
    "own": (Own(1, 2), "b"),
    "frozen": (Frozen(3), "key"),
    "oserror": (
        FileNotFoundError(2, "gone", "a.txt", None, "b.txt"),
        "errno strerror filename filename2",
    ),
    "odd oserror": (OddFile(4), "code errno"),
    "http": (urllib.error.HTTPError("http://x.test", 404, "no", {}, None), "code msg filename"),  # type: ignore[arg-type]
    "process": (subprocess.CalledProcessError(2, "ls", b"out"), "returncode cmd output"),
    "unicode": (changed(), "encoding object start end reason"),
    "syntax": (syntax_error(), "msg filename lineno offset text end_lineno"),
    "import": (ImportError("no", name="n", path="p"), "msg name path"),
    "attribute": (attribute_error(), "name"),
    "stop": (StopIteration(5), "value"),
    "exit": (SystemExit(3), "code"),
    "key": (KeyError("k"), ""),
    "pydantic": (validation_error(), "title"),
    "ours": (UpstreamTaskError(run_name="a", task_name="b", state="Failed"), "run_name state"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_exceptions_arrive_as_they_are(name: str) -> None:
    """SPEC 7.8."""
    error, attributes = ERRORS[name]
    again: Any = loads(portable_error(error, "run"))
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    for attribute in attributes.split():
        assert getattr(again, attribute) == getattr(error, attribute)
    twice: Any = loads(dumps([again]))[0]  # say as the argument of another run
    assert type(twice) is type(error)
    assert vars(twice).keys() == vars(error).keys()


def test_what_belongs_to_an_exception_arrives_with_it() -> None:
    def chained() -> BaseException:
        try:
            try:
                raise Refused(1, "first")
            except Refused:
                raise KeyError("second")  # noqa: B904
        except KeyError as error:
            try:
                raise ValueError("third") from error
            except ValueError as last:
                last.add_note("a note")
                return last
        raise AssertionError

    again: Any = loads(portable_error(chained(), "run"))
    assert again.__notes__ == ["a note"]
    assert isinstance(again.__cause__, KeyError)
    assert again.__suppress_context__
    assert again.__cause__.__context__.code == 1
    assert not again.__cause__.__suppress_context__
    text = "".join(traceback.format_exception(again))
    assert 'raise Refused(1, "first")' in text
    assert 'raise ValueError("third") from error' in text
    assert text.count(os.path.basename(__file__)) == 3

    with pytest.raises(ValueError, match="hidden") as caught:
        raise ValueError("hidden") from None
    assert loads(portable_error(caught.value, "run")).__suppress_context__


@pytest.mark.parametrize("kind", ["plain", "own class"])
def test_groups(kind: str) -> None:
    inner = ExceptionGroup("inner", [Refused(2, "b"), OSError(5, "io")])
    inner.__cause__ = Refused(3, "c")
    members: list[Exception] = [Refused(1, "a"), inner]
    error = ExceptionGroup("several", members) if kind == "plain" else Several(members, 9)
    again: Any = loads(portable_error(error, "run"))
    assert type(again) is type(error)
    assert again.message == "several"
    assert again.exceptions[0].code == 1
    assert again.exceptions[1].exceptions[0].code == 2
    assert again.exceptions[1].exceptions[1].errno == 5
    assert again.exceptions[1].__cause__.code == 3
    if kind == "own class":
        assert again.code == 9
    assert len(again.split(Refused)[0].exceptions) == 2


def test_what_cannot_travel_stays_behind() -> None:
    """SPEC 7.7."""
    error = Refused(7, "no")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.args = ("text", threading.Lock())
    error.__cause__ = cause = ValueError("cause")
    cause.file = open(os.devnull, "wb")  # type: ignore[attr-defined]  # noqa: SIM115
    again: Any = loads(portable_error(error, "run"))
    cause.file.close()  # type: ignore[attr-defined]
    assert type(again) is Refused
    assert again.code == 7
    assert again.args[0] == "text"
    assert "lock" in again.args[1]
    assert not hasattr(again, "lock")
    assert again.__notes__ == ["Left behind, as it cannot be pickled: args[1] (lock), .lock (lock)"]
    assert type(again.__cause__) is ValueError
    assert again.__cause__.__notes__ == [
        "Left behind, as it cannot be pickled: .file (BufferedWriter)"
    ]


class Shy(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Deaf(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class Leaving(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(9)


class Lost(Exception):
    def __reduce__(self) -> Any:
        return Lost._gone, ()

    @staticmethod
    def _gone() -> Any:
        raise SystemExit(9)


@pytest.mark.parametrize("kind", [Shy, Deaf, Leaving, Lost])
def test_exceptions_that_misbehave(kind: type[Exception]) -> None:
    """SPEC 7.7."""
    try:
        raise kind("x")
    except kind as error:
        again = loads(portable_error(error, "run"))
    assert type(again) is kind
    assert again.args == ("x",)
    assert os.path.basename(__file__) in "".join(
        frame.filename for frame in traceback.extract_tb(again.__traceback__)
    )


class E(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class Counted:
    """With many bytes, that counts how often it is pickled."""

    pickled = 0

    def __reduce__(self) -> Any:
        Counted.pickled += 1
        return bytes, (os.urandom(1_000_000),)


def test_a_short_name_of_an_exception_is_not_found_in_random_bytes() -> None:
    """Once it has crossed; values that hold one are still pickled with care (SPEC 5.7)."""
    loads(portable_error(E(code=1), "run"))
    assert loads(dumps([E(code=2)]))[0].args == (2,)
    Counted.pickled = 0
    for _ in range(5):
        dumps(Counted())
    assert Counted.pickled == 5


def test_an_exception_that_cannot_be_made_again() -> None:
    module = types.ModuleType("nowhere")
    exec("class Gone(Exception): pass", module.__dict__)
    kind = module.Gone
    kind.lock = threading.Lock()
    try:
        raise kind("x")
    except Exception as error:
        told = loads(portable_error(error, "run-1"))
    assert isinstance(told, SerializationError)
    assert (told.path, told.type_name, told.run_name) == ("exception", "Gone", "run-1")
    assert told.__notes__ == ["The task raised Gone: x"]
    assert traceback.extract_tb(told.__traceback__)[-1].line == 'raise kind("x")'


def test_a_context_that_is_endless() -> None:
    first = error = ValueError("0")
    for number in range(5000):
        error = ValueError(str(number))
        error.__context__, first = first, error
    again = loads(portable_error(error, "run"))
    assert type(again) is ValueError
    assert again.args == error.args


def test_portable_stands_for_its_exception() -> None:
    error = Refused(1, "a")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    portable = Portable(error, "run")
    first, second = loads(dumps([portable, portable]))
    assert first is second
    assert first.code == 1


def test_results_that_do_not_unpickle_are_told_each() -> None:
    values = loads_each([dumps(1), dumps(_Trap()), b"nonsense"])
    assert values[0] == 1
    assert "SystemExit: 3" in values[1].problem
    assert isinstance(values[2], SerializationError)


class _Trap:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


@pytest.mark.parametrize("depth", [1, 20])
def test_exceptions_within_what_an_exception_was_given(depth: int) -> None:
    """SPEC 7.8. One that refers to itself, and many in each other, beside what cannot travel: soon, and all of them."""
    innermost = error = ValueError(0)
    for _ in range(depth):
        error = ValueError([error], threading.Lock())
    innermost.args = ([error], threading.Lock())
    again = loads(portable_error(error, "run-1"))
    found = again
    for _ in range(depth + 1):
        assert type(found) is ValueError
        assert "lock" in found.args[1]
        found = found.args[0][0]
    assert found is again


def test_an_exception_among_its_own_arguments() -> None:
    """SPEC 7.8."""
    error = ValueError("boom")
    error.args = ("boom", error)
    again = loads(portable_error(error, "run-1"))
    assert type(again) is ValueError
    assert again.args == ("boom", again)
