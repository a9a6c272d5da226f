"""How values are written that are kept."""

from __future__ import annotations

import datetime
import enum
import math
import pickle
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr, field_validator
from shoal.exceptions import InvalidOption
from shoal.results import serializers
from shoal.results.serializers import (
    CompressedJSONSerializer,
    CompressedPickleSerializer,
    CompressedSerializer,
    JSONSerializer,
    PickleSerializer,
    Serializer,
    serializer_of,
)

NAMES = ["pickle", "json", "compressed/pickle", "compressed/json"]


class Colour(enum.Enum):
    RED = "r"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Point:
    x: int
    tags: tuple[str, ...] = ()
    derived: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        raise AssertionError("what is read is not made anew")


@dataclass(slots=True)
class Slotted:
    x: object


class Model(BaseModel):
    when: datetime.date
    inner: Any = None

    @field_validator("when")
    @classmethod
    def later(cls, when: datetime.date) -> datetime.date:
        return when + datetime.timedelta(days=1)


class Secretive(BaseModel):
    _secret: int = PrivateAttr(default=1)


class Pair(NamedTuple):
    a: int
    b: int


def point(x: int) -> Point:
    made = object.__new__(Point)
    for name, value in {"x": x, "tags": ("a",), "derived": 7}.items():
        object.__setattr__(made, name, value)
    return made


def there_and_back(value: Any, name: str = "json") -> Any:
    serializer = serializer_of(name)
    return serializer.loads(memoryview(serializer.dumps(value)))


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
)
KEYS = st.text() | st.integers() | st.sampled_from(["__type__", "__class__", "data"])
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
        | st.sets(st.integers(), max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(VALUES)
def test_json_gives_back_what_it_was_given(value: Any) -> None:
    assert same(there_and_back(value), value)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_each_kind(name: str) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    values: list[Any] = [
        {(1, "a"): {2: [None]}, True: -0.0},
        datetime.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1),
        datetime.time(12, tzinfo=datetime.UTC),
        Path("a/b"),
        PurePosixPath("/x"),
        PureWindowsPath("c:\\x"),
        Decimal("1.10"),
        uuid.uuid4(),
        Colour.RED,
        Rights.READ | Rights.WRITE,
        Level.LOW,
        point(3),
        Slotted({1: Slotted(())}),
        Model(when=datetime.date(2026, 1, 1), inner=[(1,), {2}]),
        math.inf,
    ]
    for value in values:
        assert same(there_and_back(value, name), value), value
    assert math.isnan(there_and_back(math.nan, name))
    moment = there_and_back(values[1], name)
    assert (moment.tzinfo, moment.fold) == (berlin, 1)


class Bare:
    pass


@dataclass
class Point3(Slotted):
    z: int = 0


def test_json_refuses_what_would_come_back_as_something_else() -> None:
    class Local(enum.Enum):
        A = 1

    more = Point3(1)
    more.extra = 2  # type: ignore[attr-defined]
    loop: list[Any] = []
    loop.append((loop,))
    refused: list[tuple[Any, str]] = [
        (Bare(), r"the value\['x'\]\[0\] \(.*Bare\).*object_encoder"),
        (Pair(1, 2), "Pair"),
        (OrderedDict(a=1), "OrderedDict"),
        (Local.A, "its class is not found"),
        (more, "beside its fields it has 'extra'"),
        (Secretive(), "private attributes"),
        (datetime.datetime(2026, 1, 1, tzinfo=Odd()), "its zone is of Odd"),
        (pickle.PickleBuffer(b""), "PickleBuffer"),
    ]
    for value, problem in refused:
        with pytest.raises(TypeError, match=problem):
            serializer_of("json").dumps({"x": [value]})
    with pytest.raises(RecursionError):
        serializer_of("json").dumps(loop)


class Odd(datetime.tzinfo):
    def utcoffset(self, _: object) -> datetime.timedelta:
        return datetime.timedelta(hours=1)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ('{"__class__": ["os", "gone"], "data": {}}', "no class os.gone"),
        ('{"__class__": ["shoal_not_imported", "X"], "data": {}}', "not imported"),
        ('{"__class__": ["subprocess", "Popen"], "data": {"args": "true"}}', "of another kind"),
        ('{"__class__": ["os", "system"], "data": "true"}', "no class os.system"),
        ('{"__type__": "Popen", "data": "true"}', "Popen"),
    ],
    ids=["gone", "not imported", "any class", "function", "unknown type"],
)
def test_reading_json_runs_no_code(data: str, problem: str) -> None:
    with pytest.raises((LookupError, TypeError), match=problem):
        serializer_of("json").loads(data.encode())


def test_fields_that_are_gone() -> None:
    data = serializer_of("json").dumps(Slotted(1)).replace(b'"x"', b'"y"')
    with pytest.raises(LookupError, match="no field 'y' any more"):
        serializer_of("json").loads(data)


def test_an_encoder_and_a_decoder() -> None:
    serializer = JSONSerializer(
        object_encoder=lambda value: {"bare": type(value).__name__},
        object_decoder=lambda data: Bare() if "bare" in data else data,
        dumps_kwargs={"indent": 1},
    )
    assert b"\n" in serializer.dumps([Bare()])
    (value,) = serializer.loads(serializer.dumps([Bare()]))
    assert type(value) is Bare


# ---------------------------------------------------------------------- names


def test_serializers_by_name() -> None:
    kinds = [type(serializer_of(name)) for name in (*NAMES, None)]
    assert kinds == [
        PickleSerializer,
        JSONSerializer,
        CompressedPickleSerializer,
        CompressedJSONSerializer,
        PickleSerializer,
    ]
    assert [serializer_of(name).type for name in NAMES] == NAMES
    own = CompressedSerializer(JSONSerializer(), compressionlib="lzma")
    assert serializer_of(own) is own
    assert own.type == "compressed/json"
    assert own.loads(own.dumps([1])) == [1]
    with pytest.raises(InvalidOption, match="did you mean 'pickle'"):
        serializer_of("pickel")
    wrong: Any = 7
    with pytest.raises(InvalidOption, match="result_serializer"):
        serializer_of(wrong)


def test_a_serializer_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Serializer, "_known", dict(Serializer.known()))

    class Text(Serializer):
        type = "text"

        def dumps(self, obj: Any) -> bytes:
            return str(obj).encode()

        def loads(self, blob: Any) -> Any:
            return bytes(blob).decode()

    assert there_and_back(1, "text") == "1"


def test_another_library_for_pickles() -> None:
    serializer = PickleSerializer(picklelib="cloudpickle")
    double = serializer.loads(serializer.dumps(lambda x: 2 * x))
    assert double(4) == 8


def test_compression_is_smaller() -> None:
    value = ["the same line"] * 1000
    for name in ("pickle", "json"):
        assert len(serializer_of(f"compressed/{name}").dumps(value)) < 0.2 * len(
            serializers.serializer_of(name).dumps(value)
        )


# ---------------------------------------------------------------------- pickles


def test_large_data_is_beside_the_pickle() -> None:
    array = numpy.arange(6_000.0).reshape(60, 100)
    frozen = array.copy()
    frozen.flags.writeable = False
    fortran = numpy.asfortranarray(array)
    large = bytes(range(256)) * 400
    value = [
        array,
        {"rows": array[::2], "fortran": fortran},
        frozen,
        large,
        bytearray(large),
        large,
    ]
    data = serializer_of("pickle").dumps(value)
    found = serializer_of("pickle").loads(memoryview(data))
    for kept, was in zip(
        [found[0], found[1]["rows"], found[1]["fortran"], found[2]],
        [array, array[::2], fortran, frozen],
        strict=True,
    ):
        assert (kept == was).all()
        assert kept.flags.f_contiguous == was.flags.f_contiguous
    assert found[0].flags.writeable
    assert found[3:] == value[3:]
    assert [type(item) for item in found[3:]] == [bytes, bytearray, bytes]
    assert serializer_of("pickle").loads(serializer_of("pickle").dumps(large)) == large


def test_what_has_no_large_data_is_a_plain_pickle() -> None:
    assert pickle.loads(serializer_of("pickle").dumps({"a": [Decimal(1)]})) == {"a": [Decimal(1)]}
