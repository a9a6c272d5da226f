"""The canonical walk: a value as bytes that are the same in every process, whatever the hash seed and the sharing.

Each kind of value has an encoder, which begins with a letter for the kind and says how long it is, so that no two values
share an encoding:

    leaves        numbers, texts, bytes, dates …: here, and asked first
    containers    lists and tuples in their order, dicts and sets sorted: here
    all else      by `kinds`: objects, arrays, functions

What is encoded to more than a few bytes is replaced by its hash, so that a deep value is not copied at each level, and
is remembered during the walk, so that a value that is shared a thousand times is walked once. What contains itself is
encoded as "so many levels up". May import `buffers` and `exceptions`.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
import re
import struct
import uuid
from hashlib import sha256
from types import EllipsisType, MappingProxyType, NotImplementedType
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.results.keys.buffers import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["LEAVES", "Unstable", "Walk", "is_constant", "text"]

#: Bytes from which on the hash stands for an encoding.
_LONG = 256
#: A list of so many is asked whether all are of one kind.
_MANY = 32
_LISTS = (list, tuple)
_pack_float = struct.Struct(">d").pack
_NAN = b"f" + _pack_float(float("nan"))


class Unstable(Exception):
    """Something has no stable key. Its path grows as the walk is left.

    Attributes:
        kind: the type of what has none.
        problem: why, a part of a sentence.
        path: where it is, from the outside in, say `["['conn']", ".lock"]`.
    """

    def __init__(self, kind: type, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
        self.path: list[str] = []

    def within(self, step: str) -> Unstable:
        """The same, seen from one level further out."""
        self.path.insert(0, step)
        return self


# ---------------------------------------------------------------------- leaves


def text(value: str) -> bytes:
    """A text; surrogates, which file names may have, included."""
    return _bytes_as(b"s", value.encode("utf-8", "surrogatepass"))


def _bytes_as(tag: bytes, data: bytes | bytearray | memoryview) -> bytes:
    length = len(data)
    if length <= _LONG:
        return b"%c%d:%b" % (tag, length, bytes(data))
    return b"%c%d#%b" % (tag, length, hash_bytes(data))


def _float(value: float) -> bytes:
    return b"f" + _pack_float(value) if value == value else _NAN  # all NaN alike


def _complex(value: complex) -> bytes:
    return b"c" + _float(value.real) + _float(value.imag)


def _memoryview(value: memoryview) -> bytes:
    shape = ",".join(map(str, value.shape or ()))
    data = value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
    return b"m" + text(f"{value.format}[{shape}]") + _bytes_as(b"b", data)


def _range(value: range) -> bytes:
    return b"r%x,%x,%x;" % (value.start, value.stop, value.step)


#: The types that have no parts, and stand for themselves; by exact type, a subclass is an object of its class.
LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: b"i%x;".__mod__,
    float: _float,
    complex: _complex,
    str: text,
    bytes: lambda value: _bytes_as(b"b", value),
    bytearray: lambda value: _bytes_as(b"a", value),
    memoryview: _memoryview,
    range: _range,
    EllipsisType: lambda _: b"E",
    NotImplementedType: lambda _: b"I",
    datetime.date: lambda value: b"d" + text(value.isoformat()),
    datetime.timedelta: lambda v: b"D%d,%d,%d;" % (v.days, v.seconds, v.microseconds),
    decimal.Decimal: lambda value: b"n" + text(str(value)),
    fractions.Fraction: lambda value: b"q%x/%x;" % (value.numerator, value.denominator),
    uuid.UUID: lambda value: b"u" + value.bytes,
}

_CONSTANTS = (
    *(kind for kind in LEAVES if kind not in (bytearray, memoryview)),
    *(re.Pattern, datetime.datetime, datetime.time, datetime.tzinfo),
)


def is_constant(value: Any) -> bool:
    """Whether it is a value that cannot change, and always has a key."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(is_constant, value))
    if issubclass(kind, enum.Enum):
        return True
    return kind in _CONSTANTS or issubclass(kind, (pathlib.PurePath, datetime.tzinfo))


# ---------------------------------------------------------------------- the walk


class Walk:
    """One walk through one value.

    Attributes:
        open: the values that the walk is inside of, by id: at which depth.
        lowest: the least depth that something has referred to since it was last looked at.
        choose: gives the encoder of a type that has none here; set by `kinds`.
        kept: what was walked and may be met again, by id; with the values, so that no id is given out twice.
    """

    __slots__ = ("kept", "lowest", "open")

    choose: ClassVar[Any]

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.lowest = 1 << 30
        self.kept: dict[int, tuple[Any, bytes]] = {}

    def encode(self, value: Any) -> bytes:
        """A value's bytes, never many.

        Raises:
            Unstable: it has no stable key, or something in it.
        """
        kind = type(value)
        leaf = LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        key = id(value)
        depth = self.open.get(key)
        if depth is not None:
            self.lowest = min(self.lowest, depth)
            return b"^%d;" % (len(self.open) - depth)
        kept = self.kept.get(key)
        if kept is not None:
            return kept[1]
        encoder = _CONTAINERS.get(kind)
        if encoder is None:
            encoder = self.choose(kind)
        depth = self.open[key] = len(self.open)
        lowest, self.lowest = self.lowest, 1 << 30
        data = encoder(value, self)
        del self.open[key]
        if len(data) > _LONG:
            data = b"#" + sha256(data).digest()
            if self.lowest >= depth:  # the same wherever it is met
                self.kept[key] = value, data
        self.lowest = min(lowest, self.lowest) if self.lowest < depth else lowest
        return data

    def sequence(self, values: Any) -> bytes:
        """Values in their order."""
        if type(values) in _LISTS and len(values) >= _MANY:
            kinds = set(map(type, values))
            leaf = LEAVES.get(kinds.pop()) if len(kinds) == 1 else None
            if leaf is not None:
                return b"%d:%b" % (len(values), b"".join(map(leaf, values)))
        encode = self.encode
        parts = []
        try:
            for value in values:
                parts.append(encode(value))  # noqa: PERF401  # its length is where the walk is
        except Unstable as unstable:
            raise unstable.within(f"[{len(parts)}]") from unstable.__cause__
        return b"%d:%b" % (len(parts), b"".join(parts))

    def mapping(self, values: Any, *, ordered: bool = False) -> bytes:
        """Keys and values; sorted unless their order is part of what the mapping is."""
        encode = self.encode
        parts = []
        key: Any = None
        try:
            for key, value in values.items():
                parts.append(encode(key) + encode(value))
        except Unstable as unstable:
            raise unstable.within(f"[{_short(key)}]") from unstable.__cause__
        if not ordered:
            parts.sort()
        return b"%d:%b" % (len(parts), b"".join(parts))

    def unordered(self, values: Iterable[Any]) -> bytes:
        """Values in no order."""
        encode = self.encode
        try:
            parts = sorted([encode(value) for value in values])
        except Unstable as unstable:
            raise unstable.within("{…}") from unstable.__cause__
        return b"%d:%b" % (len(parts), b"".join(parts))

    def attributes(self, values: dict[str, Any]) -> bytes:
        """An object's attributes by name."""
        encode = self.encode
        parts = []
        name = ""
        try:
            for name, value in values.items():
                parts.append(encode(name) + encode(value))
        except Unstable as unstable:
            raise unstable.within(f".{name}") from unstable.__cause__
        parts.sort()
        return b"%d:%b" % (len(parts), b"".join(parts))


def _short(key: Any) -> str:
    if isinstance(key, (str, int, float, bytes, tuple)):
        shown = repr(key)
        return shown if len(shown) <= 40 else f"{shown[:37]}..."
    return type(key).__name__


def _slice(value: slice, walk: Walk) -> bytes:
    return b":" + walk.sequence((value.start, value.stop, value.step))


def _pattern(value: re.Pattern[Any], walk: Walk) -> bytes:
    return b"/" + walk.sequence((value.pattern, value.flags))


_CONTAINERS: dict[type, Callable[[Any, Walk], bytes]] = {
    list: lambda value, walk: b"l" + walk.sequence(value),
    tuple: lambda value, walk: b"t" + walk.sequence(value),
    dict: lambda value, walk: b"{" + walk.mapping(value),
    MappingProxyType: lambda value, walk: b"p" + walk.mapping(value),
    set: lambda value, walk: b"S" + walk.unordered(value),
    frozenset: lambda value, walk: b"Z" + walk.unordered(value),
    slice: _slice,
    re.Pattern: _pattern,
}
