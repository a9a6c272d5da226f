"""Keys of values: one for each content, the same however it is made; and what has none."""

from __future__ import annotations

import asyncio
import collections
import copy
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import itertools
import operator
import pathlib
import pickle
import re
import socket
import sqlite3
import threading
import uuid
import weakref
import zoneinfo
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from shoal.exceptions import UnstableKeyError
from shoal.results.keys import digest, digest_arguments, digest_call

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass
class Point:
    x: Any = 1
    y: Any = 2

    @functools.cached_property
    def length(self) -> float:
        return float(self.x)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: Any = 1


class Model(pydantic.BaseModel):
    x: int = 1
    inner: dict[str, int] = {}


class Wide(pydantic.BaseModel, extra="allow"):
    x: int = 1


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Sentinel(enum.Enum):
    A = object()
    B = threading.Lock()


@dataclasses.dataclass
class Items(list):  # type: ignore[type-arg]
    name: str = ""


@dataclasses.dataclass
class Locked:
    x: int = 1
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x}


class Unit(np.ndarray):  # type: ignore[type-arg]
    unit: str = "m"


def in_units(unit: str) -> Unit:
    array = np.zeros(2).view(Unit)
    array.unit = unit
    return array


def items(*values: int) -> Items:
    made = Items("name")
    made.extend(values)
    return made


class Flags(enum.Flag):
    A = 1
    B = 2


class Plain:
    def __init__(self, x: Any = 1) -> None:
        self.x = x

    @functools.cached_property
    def double(self) -> Any:
        return self.x * 2

    def method(self) -> Any:
        return self.x


class Bare:
    @functools.cached_property
    def double(self) -> int:
        return 2


class BareError(Bare, Exception):
    pass


class BareSlots(Bare):
    __slots__ = ("x",)


class BareFilledSlots(Bare):
    __slots__ = ("x",)

    def __init__(self) -> None:
        self.x = 1


class Pair(NamedTuple):
    a: int
    b: int


class Number(int):
    pass


class Names(dict):  # type: ignore[type-arg]
    pass


class Broken(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Made:
    """Goes through pickle as what something else makes, which is bound to a number."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __reduce__(self) -> Any:
        return self.make, ()

    @classmethod
    def of_class(cls) -> Any:
        return cls(None)


class MadeOtherwise(Made):
    pass


def closure(number: int) -> Any:
    return lambda: number


@dataclasses.dataclass
class Initialised:
    x: dataclasses.InitVar[int]
    y: int = 1

    def __post_init__(self, x: int) -> None:
        self.inner = x


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NOON = datetime.datetime(2026, 1, 1, 12)  # noqa: DTZ001  a naive one is a subject

#: No two of these are the same.
ALL_DIFFERENT: list[Any] = [
    *(None, ..., NotImplemented, True, False, 0, 1, -1, 10**5000, 1.0, 0.0, -0.0, 1j, complex(1, -0.0)),
    *(float("nan"), float("inf"), "", "1", "\udc80", "é", "e\u0301", b"", b"1", bytearray(b"1"), memoryview(b"1")),
    *([], (), {}, set(), frozenset(), [[]], [()], ([],), [1, 2], [2, 1], [1, [2]], [[1], 2], (1, 2), [12], ["1", "2"], ["12"]),
    *({1: 2}, {2: 1}, {"1": 2}, {1: 2, 3: 4}, {1, 2}, frozenset({1, 2}), {1: {2: 3}}, MappingProxyType({1: 2})),
    *(collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), collections.Counter("ab"), Names(a=1)),
    *(collections.defaultdict(list, a=1), collections.defaultdict(int, a=1), collections.deque([1]), collections.deque([1], 2)),
    *(Pair(1, 2), Number(1), Point(), Point(2), Point(1.0), Slotted(), Slotted(2), Plain(), Plain(2), SimpleNamespace(x=1)),
    *(Model(), Model(x=2), Model(inner={"a": 1}), Wide(), Wide(y=1)),
    *(Sentinel.A, Sentinel.B, items(), items(1), Locked(), Locked(2), in_units("m"), in_units("s")),
    *(Colour.RED, Colour.BLUE, Level.LOW, Flags.A, Flags.A | Flags.B, Colour, Level, Point, Plain, int, str, list[int], int | str),
    *(pathlib.Path("a"), pathlib.Path("a/b"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a")),
    *(NOON, NOON.date(), NOON.time(), NOON.replace(tzinfo=datetime.UTC), NOON.replace(tzinfo=BERLIN), NOON.replace(fold=1)),
    *(NOON.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Paris")), NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1)))),
    *(datetime.timedelta(1), datetime.timedelta(0, 1), datetime.UTC, BERLIN, NOON.time().replace(tzinfo=datetime.UTC)),
    *(decimal.Decimal(1), decimal.Decimal("1.0"), decimal.Decimal("NaN"), fractions.Fraction(1, 2), uuid.UUID(int=1)),
    *(range(3), range(0, 3, 2), slice(1), slice(1, 2), re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a")),
    *(ValueError("a"), ValueError("b"), KeyError("a"), OSError(2, "no", "f"), OSError(2, "no", "g"), Broken(1), Broken(2)),
    *(len, max, str.upper, "a".upper, "b".upper, operator.itemgetter(1), operator.itemgetter(2), Plain().method, Plain(2).method),
    *(functools.partial(max, 1), functools.partial(max, 2), functools.partial(max, default=1), lambda x: x, lambda x: x + 1),
    *(operator.methodcaller("f", x=1), operator.methodcaller("f", x=2), Initialised(1), Initialised(2)),
    *(Made(Plain(1).method), Made(Plain(2).method), Made(functools.partial(Made, 1)), Made(functools.partial(Made, 2))),
    *(Made(closure(1)), Made(closure(2)), Made(Made.of_class), Made(MadeOtherwise.of_class), Made([1].copy), Made([2].copy)),
    *(memoryview(np.zeros((0, 3))), memoryview(np.zeros((0, 4)))),
    *(io.BytesIO(b"a"), io.StringIO("a"), re, asyncio),
    *(np.arange(4), np.arange(4.0), np.arange(4, dtype="i4"), np.arange(4).reshape(2, 2), np.arange(5)[1:]),
    *(np.zeros((0, 3)), np.zeros((3, 0)), np.array(1), np.int64(1), np.float64(1.0), np.bool_(True), np.array([True]), np.array("1")),
    *(np.array(["1"], dtype=object), np.array([1], dtype=object), np.array([[1]], dtype=object), np.array([b"1"]), np.array(["1"])),
    *(np.array([(1, 2.0)], dtype="i4,f8"), np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.dtype("i4"), np.dtype("i8")),
    *(np.datetime64("2020-01-01"), np.datetime64("2020-01-01", "s"), np.timedelta64(1, "s"), np.ma.array([1, 2], mask=[0, 1]), np.sin),
    *(np.array(["a"], dtype=np.dtypes.StringDType()), np.random.default_rng(1), np.random.default_rng(2), np.cos),
    *("a" * 300, "a" * 301, b"a" * 300, list(range(300)), list(range(301)), tuple(range(300)), [*range(40), True], [*range(40), 1.0]),
]  # fmt: skip


def test_how_others_pickle_exceptions_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does tblib, which Dask loads, in the driver and on its workers and nowhere else."""
    error = ValueError("a")
    key = digest(error)
    try:
        raise error
    except ValueError:
        monkeypatch.setitem(
            copyreg.dispatch_table,
            ValueError,
            lambda error: (type(error), error.args, None, error.__traceback__),
        )
    assert digest(error) == key


def test_different_content_has_different_keys() -> None:
    seen: dict[bytes, Any] = {}
    for value in ALL_DIFFERENT:
        key = digest(value)
        assert key not in seen, (value, seen[key])
        seen[key] = value
        assert digest(value) == key, value
        assert len(key) == 32


def test_a_copy_has_the_same_key() -> None:
    # Python makes other ones of these, or refuses to.
    no_copies = (
        Items,
        Unit,
        Sentinel,
        Locked,
        Made,
        memoryview,
        type(re),
        MappingProxyType,
        Broken,
    )
    for value in ALL_DIFFERENT:
        if getattr(getattr(value, "dtype", None), "kind", "") == "T":
            continue  # NumPy 2.1 crashes when it copies one
        if not callable(value) and not isinstance(value, no_copies):
            assert digest(copy.deepcopy(value)) == digest(value), value
            assert digest(pickle.loads(pickle.dumps(value))) == digest(value), value


def strided() -> np.ndarray[Any, Any]:
    return np.arange(64.0).reshape(8, 8)[::2, ::2]


def padded(junk: int) -> np.ndarray[Any, Any]:
    array = np.zeros(2, dtype=np.dtype("u1,f8", align=True))
    array.view(np.uint8)[1] = junk
    return array


def with_cached(kind: Any) -> Any:
    value = kind()
    value.length if kind is Point else value.double  # noqa: B018  asked for, it is kept
    return value


SAME: dict[str, tuple[Any, Any]] = {
    "the order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "the order of a set": ({*range(100)}, {*reversed(range(100))}),
    "the order of a counter": (collections.Counter("abc"), collections.Counter("cba")),
    "NaN": (float("nan"), -float("nan")),
    "what is shared": ([[1]] * 2, [[1], [1]]),
    "what is kept of a dataclass": (Point(), with_cached(Point)),
    "what is kept of an object": (Plain(), with_cached(Plain)),
    "what is kept of one that has nothing else": (Bare(), with_cached(Bare)),
    "what is kept of an exception": (BareError(), with_cached(BareError)),
    "what is kept beside empty slots": (BareSlots(), with_cached(BareSlots)),
    "what is kept beside slots": (BareFilledSlots(), with_cached(BareFilledSlots)),
    "which fields were given": (Model(), Model(x=1)),
    "the layout of an array": (strided(), np.ascontiguousarray(strided())),
    "the order in memory": (strided(), np.asfortranarray(strided())),
    "the order of bytes": (np.arange(4, dtype=">i8"), np.arange(4, dtype="<i8")),
    "what is between fields": (padded(1), padded(2)),
    "what is masked": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 3], mask=[0, 1])),
    "a slice of a buffer": (memoryview(b"aXbX")[::2], memoryview(b"ab")),
}


@pytest.mark.parametrize("case", SAME)
def test_does_not_count(case: str) -> None:
    one, other = SAME[case]
    assert digest(one) == digest(other)


def test_a_memory_map_is_its_array(tmp_path: pathlib.Path) -> None:
    mapped = np.memmap(tmp_path / "a", dtype="f8", mode="w+", shape=(3,))
    assert digest(mapped) == digest(np.zeros(3))


@pytest.mark.parametrize("cut", [slice(None), slice(None, None, -1), slice(1, None, 3)], ids=str)
def test_long_arrays_in_pieces(cut: slice) -> None:
    array = np.arange(3_000_000, dtype="i4").reshape(2, -1)[:, cut]
    assert digest(array) == digest(np.ascontiguousarray(array)) == digest(np.asfortranarray(array))
    changed = array.copy()
    changed[-1, -1] += 1
    assert digest(changed) != digest(array)


def test_what_contains_itself() -> None:
    def loop(n: int) -> Any:
        inner: dict[str, Any] = {"n": n}
        outer = [inner, Point(x=inner)]
        inner["outer"] = outer
        inner["self"] = inner
        return outer

    assert digest(loop(1)) == digest(loop(1)) != digest(loop(2))
    flat: list[Any] = []
    flat.append(flat)
    assert digest(flat) != digest([flat]) != digest([[]])


def test_what_is_shared_often_is_walked_once() -> None:
    value: Any = ["so that it is long enough to be worth it" * 8]
    for _ in range(200):
        value = [value, value]
    assert digest(value) == digest(value)


@pytest.mark.parametrize("make", [lambda: [1], lambda: {"a": [Point()]}], ids=["list", "dict"])
def test_the_walk_leaves_values_as_they_are(make: Callable[[], Any]) -> None:
    value = make()
    digest(value)
    assert value == make()


# ---------------------------------------------------------------------- what has no key


async def coroutine() -> None: ...


class Refuses:
    def __reduce__(self) -> Any:
        raise RuntimeError("not this one")


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


UNSTABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "a lock": (threading.Lock, "lock"),
    "a generator": (lambda: (i for i in ()), "what it will do next"),
    "an iterator": (lambda: iter([1]), "make a list of it"),
    "map": (lambda: map(len, []), "make a list of it"),
    "itertools": (lambda: itertools.chain([1]), "make a list of it"),
    "count": (itertools.count, "make a list of it"),
    "a thread": (lambda: threading.Thread(target=len), "pickle"),
    "a weak reference": (lambda: weakref.ref(Plain), "may be gone"),
    "object()": (object, "identity alone"),
    "code": (lambda: UNSTABLE["code"][0].__code__, "pass the function"),
    "a tensor": (type("Tensor", (), {"__module__": "torch"}), "pass its numpy"),
    "what refuses": (Refuses, "not this one"),
    "deep nesting": (lambda: functools.reduce(lambda inner, _: [inner], range(20_000), []), "too deep"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSTABLE)
def test_has_no_stable_key(case: str) -> None:
    make, reason = UNSTABLE[case]
    with pytest.raises(UnstableKeyError, match=reason) as raised:
        digest_arguments({"x": 1, "conn": make()}, "load")
    assert raised.value.path.startswith("parameters['conn']")
    assert raised.value.task_name == "load"
    assert "cache_policy=INPUTS - 'conn'" in str(raised.value)
    with pytest.raises(UnstableKeyError, match=reason):
        digest_call("load", {"x": 1, "conn": make()})


def test_what_is_open_has_no_stable_key(tmp_path: pathlib.Path) -> None:
    (tmp_path / "f").touch()
    waiting = coroutine()
    with (
        open(tmp_path / "f") as file,
        socket.socket() as connection,
        sqlite3.connect(":memory:") as database,
    ):
        for value in (file, connection, database, database.cursor(), waiting):
            with pytest.raises(UnstableKeyError):
                digest(value)
    database.close()
    waiting.close()


PATHS: dict[str, Callable[[Any], Any]] = {
    "[0]": lambda x: [x],
    "['a'][1]": lambda x: {"a": (1, x)},
    ".held": Holder,
    ".x.held": lambda x: Point(x=Holder(x)),
    "{…}": lambda x: {functools.partial(len, x)},
    "[Slotted]": lambda x: {Slotted(1): x},
}


@pytest.mark.parametrize("path", PATHS)
def test_the_error_names_the_path(path: str) -> None:
    with pytest.raises(UnstableKeyError) as raised:
        digest(PATHS[path](threading.Lock()), "config")
    assert raised.value.path.startswith(f"config{path}")
    assert raised.value.type_name == "_thread.lock"
    assert "INPUTS" not in str(raised.value)


# ---------------------------------------------------------------------- arguments


def test_arguments_have_one_digest_each() -> None:
    digests = digest_arguments({"a": 1, "b": [1]})
    assert digests == {"a": digest(1), "b": digest([1])}


def test_a_call_is_its_name_and_its_arguments() -> None:
    call = digest_call("f", {"a": 1, "b": 2})
    assert call == digest_call("f", {"b": 2, "a": 1})
    others = [("g", {"a": 1, "b": 2}), ("f", {"a": 2, "b": 1}), ("f", {"a": 1}), ("f", {})]
    assert len({call, *(digest_call(name, arguments) for name, arguments in others)}) == 5


# ---------------------------------------------------------------------- any value

LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary()),
    *(st.dates(), st.datetimes(timezones=st.none() | st.timezones()), st.timedeltas(), st.decimals().filter(lambda d: not d.is_snan()), st.fractions()),
    *(st.uuids(), st.sampled_from([*Colour, Level.LOW, Flags.A | Flags.B, Plain, len])),
)  # fmt: skip
HASHABLE = st.recursive(LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.builds(Point, inner, inner)
        | st.builds(Plain, inner)
    ),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same content, made the other way round."""
    if type(value) is dict:
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    if type(value) is set:
        return set(value)
    if type(value) is list:
        return [shuffled(inner) for inner in value]
    return value


@settings(max_examples=30)
@given(VALUES)
def test_the_same_content_has_the_same_key(value: Any) -> None:
    assert digest(shuffled(copy.deepcopy(value))) == digest(value)


@settings(max_examples=50)
@given(st.lists(LEAVES, max_size=3), st.lists(LEAVES, max_size=3))
def test_only_the_same_content_has(one: list[Any], other: list[Any]) -> None:
    def exactly(values: list[Any]) -> list[Any]:
        return [(type(value), repr(value)) for value in values]

    assert (digest(one) == digest(other)) == (exactly(one) == exactly(other))
