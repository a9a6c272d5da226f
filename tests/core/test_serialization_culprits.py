"""What cannot be pickled is named."""

from __future__ import annotations

import dataclasses
import functools
import signal
import textwrap
import threading
import types
from collections import OrderedDict, deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy.random
import pytest
from shoal.exceptions import SerializationError
from shoal.serialization import (
    dumps,
    find_culprit,
    loads,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK = threading.Lock()


def _locks() -> bool:
    return LOCK.locked()


class Slotted:
    __slots__ = ("lock", "other")

    def __init__(self) -> None:
        self.other = 1
        self.lock = threading.Lock()


@dataclasses.dataclass
class Config:
    name: str
    lock: Any


class Stateful:
    def __getstate__(self) -> Any:
        return {"inner": [1, threading.Lock()]}


class Reducing:
    def __reduce__(self) -> Any:
        return dict, ((1, threading.Lock()),)


class Listing(list[Any]):
    pass


class Node:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def by_value(source: str, name: str) -> Any:
    """Something of a module that is not importable."""
    names: dict[str, Any] = {"__name__": "__main__", "threading": threading, "functools": functools}
    exec(textwrap.dedent(source), names)
    return names[name]


def culprits() -> dict[str, tuple[Any, str]]:
    lock = threading.Lock()
    mine = threading.Lock()

    def calls_cached() -> Any:
        return cached_indirect()

    of_main = """
        LOCK = threading.Lock()
        def direct(): return LOCK
        def default(x, y=LOCK, *, z=1): return y
        def keyword(*, z=LOCK): return z
        def indirect(): return direct()
        class Table:
            lock = threading.Lock()
            def method(self): return 1
        class Using:
            def method(self): return LOCK
        def uses(): return Table()
        @functools.cache
        def cached(): return LOCK
        @functools.cache
        def cached_indirect(): return indirect()
        @functools.singledispatch
        def dispatched(x): return LOCK
        class Base:
            pass
    """
    cached_indirect = by_value(of_main, "cached_indirect")
    error = ValueError("a")
    error.lock = lock  # type: ignore[attr-defined]
    return {
        "itself": (lock, "v"),
        "deep": ({"a": [(1, {lock})]}, "an element of v['a'][0][1]"),
        "key": ({(1, lock): 2}, "a key of v[1]"),
        "attribute": (Node(a=Node(lock=lock)), "v.a.lock"),
        "slots": (Slotted(), "v.lock"),
        "dataclass": ([Config("a", lock)], "v[0].lock"),
        "getstate": (Stateful(), "v.inner[1]"),
        "reduce": (Reducing(), "v[1]"),
        "list subclass": (Listing([1, lock]), "v[1]"),
        "ordered": (OrderedDict(a=lock), "v['a']"),
        "deque": (deque([1, lock]), "v[1]"),
        "namespace": (SimpleNamespace(a=lock), "v.a"),
        "proxy": (types.MappingProxyType({"a": lock}), "v['a']"),
        "closure": (lambda: mine, "v.<closure>.mine"),
        "partial": (functools.partial(print, 1, a=lock), "v.keywords['a']"),
        "partial argument": (functools.partial(print, lock), "v.args[0]"),
        "partial function": (functools.partial(lambda: mine), "v.func.<closure>.mine"),
        "method": (Slotted.__init__.__get__(lock), "v.__self__"),
        "builtin method": ([lock].append, "v.__self__[0]"),
        "exception": (error, "v.lock"),
        "argument of exception": (ValueError(1, lock), "v.args[1]"),
        "array": (numpy.array([1, lock], dtype=object), "v.<state>[4][1]"),
        "global": (by_value(of_main, "direct"), "v.<globals>.LOCK"),
        "global of another": (by_value(of_main, "indirect"), "v.<globals>.direct.<globals>.LOCK"),
        "default": (by_value(of_main, "default"), "v.<defaults>.y"),
        "keyword": (by_value(of_main, "keyword"), "v.<defaults>.z"),
        "class attribute": (by_value(of_main, "Table"), "v.lock"),
        "global class": (by_value(of_main, "uses"), "v.<globals>.Table.lock"),
        "class's method": (by_value(of_main, "Using")(), "v.method.<globals>.LOCK"),
        "cached": (by_value(of_main, "cached"), "v.<globals>.LOCK"),
        "cached in lambda": (
            calls_cached,
            "v.<closure>.cached_indirect.<globals>.indirect.<globals>.direct.<globals>.LOCK",
        ),
        "dispatched": (by_value(of_main, "dispatched"), "<globals>.LOCK"),
    }


@pytest.mark.parametrize("name", culprits())
def test_what_cannot_be_pickled_is_named(name: str) -> None:
    """SPEC 7.7."""
    value, path = culprits()[name]
    with pytest.raises(Exception):  # noqa: B017, PT011  of any class, and any text
        dumps(value)
    error = find_culprit(value, "v", "run-1")
    assert error.path.startswith("v") or "of v" in error.path
    assert error.path.endswith(path), error.path
    assert "lock" in error.type_name
    assert error.run_name == "run-1"
    assert isinstance(loads(dumps(error)), SerializationError)


def test_importable_functions_are_not_looked_into() -> None:
    """Nothing travels of them, so they are not to blame."""
    assert loads(dumps(_locks)) is _locks
    error = find_culprit([_locks, threading.Lock()], "v")
    assert error.path == "v[1]"


class Part:
    """Says how often it was asked how it is pickled."""

    asked = 0

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def __getstate__(self) -> Any:
        Part.asked += 1
        return {"inner": self.inner}


@pytest.mark.parametrize("shape", ["wide", "deep", "shared", "circular"])
def test_finding_the_culprit_asks_each_part_once(shape: str) -> None:
    """SPEC 7.7: it takes time that grows with the value."""
    lock = threading.Lock()
    count = 100
    value: Any
    if shape == "wide":
        value = [*[Part() for _ in range(count - 1)], Part(lock)]
        path = f"v[{count - 1}].inner"
    elif shape == "deep":
        value, path = Part(lock), "v.inner" + ".inner" * (count - 1)
        for _ in range(count - 1):
            value = Part(value)
    elif shape == "shared":
        shared = [Part() for _ in range(count - 1)]
        value, path = [shared] * 10 + [Part(lock)], "v[10].inner"
    else:
        value = [Part() for _ in range(count)]
        for index, part in enumerate(value):
            part.inner = value[index - 1]
        value[-1].inner, path = [value[0], lock], "inner[1]"
    Part.asked = 0
    error = find_culprit(value, "v")
    assert error.path.endswith(path) or "..." in error.path
    assert Part.asked <= count


class Proxy:
    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "target", target)

    __class__ = property(lambda self: type(self.target))  # type: ignore[assignment]


class LoudProxy:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise SystemExit("not me")


class Odd:
    """Whose every look raises."""

    def __init__(self, error: BaseException) -> None:
        vars(self)["error"] = error
        vars(self)["lock"] = threading.Lock()

    def _raises(self, *_: Any) -> Any:
        raise vars(self)["error"]

    __repr__ = __str__ = __bool__ = __eq__ = __getattr__ = __len__ = __iter__ = _raises  # type: ignore[assignment]

    def __hash__(self) -> int:
        return 1


class Reduces:
    def __init__(self, to: Any) -> None:
        self.to = to

    def __reduce__(self) -> Any:
        if isinstance(self.to, BaseException):
            raise self.to
        return self.to


class Endless:
    def __reduce__(self) -> Any:
        return Endless, (Endless(),)


def bad_items() -> Iterator[Any]:
    yield 1
    raise RuntimeError("in the middle")


class OddMessage(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


ODD: dict[str, Callable[[], Any]] = {
    "mock": lambda: Mock(spec=dict),
    "proxy": lambda: Proxy({1: threading.Lock()}),
    "loud proxy": LoudProxy,
    "runtime": lambda: Odd(RuntimeError("odd")),
    "exit": lambda: Odd(SystemExit(3)),
    "odd message": lambda: Odd(OddMessage()),
    "key": lambda: {Odd(SystemExit(3)): threading.Lock()},
    "reduce exits": lambda: [1, Reduces(SystemExit(9))],
    "reduce raises oddly": lambda: [1, Reduces(OddMessage())],
    "reduce to nothing": lambda: [1, Reduces(None)],
    "reduce to nonsense": lambda: [1, Reduces((1, 2, 3, 4, 5, 6, 7))],
    "reduce to text": lambda: [1, Reduces("no such name")],
    "bad items": lambda: [1, Reduces((list, (), None, bad_items()))],
    "endless": Endless,
    "recursion": lambda: functools.reduce(lambda inner, _: [inner], range(5000), None),
}


@pytest.mark.parametrize("name", ODD)
def test_naming_a_culprit_never_fails(name: str) -> None:
    """SPEC 7.7."""
    value = ODD[name]()
    error = find_culprit({"x": value}, "parameters", "run-1")
    assert isinstance(error, SerializationError)
    assert error.path.startswith(("parameters", "a key of parameters")), error.path
    assert len(error.path) < 500
    again = loads(dumps(error))
    assert again.path == error.path


class Interrupted:
    """Ctrl-C is pressed while it is pickled."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGINT)
        return str, ()


def test_ctrl_c_goes_through() -> None:
    """In the main thread; not what an object raises itself."""
    with pytest.raises(KeyboardInterrupt):
        find_culprit(Interrupted(), "v")
    found = [find_culprit(Reduces(KeyboardInterrupt()), "v")]
    thread = threading.Thread(
        target=lambda: found.append(find_culprit(Reduces(KeyboardInterrupt()), "v"))
    )
    thread.start()
    thread.join()
    assert [type(error) for error in found] == [SerializationError] * 2
