"""Which encoder a type has that is neither a leaf nor a plain container.

    enums, paths, dates, sets,          each by what it is made of: here
    dataclasses, pydantic models
    functions, classes and their like   by their code, `callables`
    arrays and tables                   by their data: `arrays`, `of_pandas`, `of_polars`, `of_arrow`
    all other objects                   by what they would give to pickle: here

May import `naming` and `walk`.
"""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import datetime
import enum
import functools
import itertools
import pathlib
import weakref
import zoneinfo
from importlib import import_module
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import TYPE_CHECKING, Any, cast

from shoal.results.keys.naming import name_of
from shoal.results.keys.walk import Unstable, Walk, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["add_exact", "add_family", "encode_object", "named"]

#: What has content beside its attributes.
_BUILT_IN = (list, dict, tuple, str, bytes, bytearray, int, float, complex)

_known: weakref.WeakKeyDictionary[type, Callable[[Any, Walk], bytes]] = weakref.WeakKeyDictionary()


def add_exact(kind: type, encoder: Callable[[Any, Walk], bytes]) -> None:
    """Gives a type an encoder, not its subclasses."""
    _EXACT[kind] = encoder


def add_family(kind: type, encoder: Callable[[Any, Walk], bytes]) -> None:
    """Gives a type and its subclasses an encoder, unless they are of a family that was added earlier."""
    _FAMILIES[kind] = encoder


def _encoder_of(kind: type) -> Callable[[Any, Walk], bytes]:
    encoder = _known.get(kind)
    if encoder is None:
        encoder = _known[kind] = _choose(kind)
    return encoder


def _choose(kind: type) -> Callable[[Any, Walk], bytes]:
    if kind in _EXACT:
        return _EXACT[kind]
    for base, encoder in _FAMILIES.items():
        if issubclass(kind, base):
            return encoder
    for base in kind.__mro__:
        chosen = _of_library(base)
        if chosen is not None:
            return chosen
    if dataclasses.is_dataclass(kind) and _is_its_fields(kind):
        return _dataclass
    if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
        return _gone_through_once
    return encode_object


def _is_its_fields(kind: type) -> bool:
    """Whether a dataclass is nothing but its fields, and does not say itself what its state is."""
    plain: Any = object
    made: Any = kind
    getstate = made.__getstate__
    return (
        (getstate is plain.__getstate__ or getstate.__name__ == "_dataclass_getstate")
        and made.__reduce_ex__ is plain.__reduce_ex__
        and made.__reduce__ is plain.__reduce__
        and not issubclass(kind, _BUILT_IN)
    )


def _of_library(kind: type) -> Callable[[Any, Walk], bytes] | None:
    """The encoder of what belongs to a library that is looked into, which is loaded if such a value is there."""
    root = kind.__module__.partition(".")[0]
    if root == "pydantic" and kind.__name__ == "BaseModel":
        return _model
    if root == "torch" and kind.__name__ in ("Tensor", "UntypedStorage", "TypedStorage"):
        return _unstable("what it gives to pickle holds an address: pass its numpy()")
    module = _LIBRARIES.get(root)
    if module is None:
        return None
    try:
        chosen = import_module(f"shoal.results.keys.{module}").encoder_of(kind)
    except ImportError as error:  # a library without NumPy, which says what its columns hold
        return _unstable(f"its data is read by way of {error.name}, which is not installed")
    return cast("Callable[[Any, Walk], bytes] | None", chosen)


#: The modules here that look into a library's types, by the library.
_LIBRARIES = {
    "numpy": "arrays",
    "pandas": "of_pandas",
    "polars": "of_polars",
    "pyarrow": "of_arrow",
}


# ---------------------------------------------------------------------- values of Python's own types


def named(tag: bytes, value: Any) -> bytes:
    return tag + text(name_of(value))


def _enum(value: Any, walk: Walk) -> bytes:
    try:
        content = Walk().encode(value._value_)
    except Unstable:  # an object() or a lock is there to be told from others, which the name does
        content = b"?"
    return named(b"e", type(value)) + walk.encode(value._name_) + content


def _path(value: Any, walk: Walk) -> bytes:
    kind = "windows" if isinstance(value, pathlib.PureWindowsPath) else "posix"
    pure = "" if isinstance(value, pathlib.Path) else "pure"
    return b"P" + text(pure + kind) + text(str(value))


def _datetime(value: datetime.datetime, walk: Walk) -> bytes:
    plain = value.replace(tzinfo=None).isoformat()
    return named(b"h", type(value)) + text(plain) + b"%d" % value.fold + walk.encode(value.tzinfo)


def _time(value: datetime.time, walk: Walk) -> bytes:
    plain = value.replace(tzinfo=None).isoformat()
    return b"H" + text(plain) + b"%d" % value.fold + walk.encode(value.tzinfo)


def _timezone(value: datetime.timezone, walk: Walk) -> bytes:
    return b"z" + walk.sequence(value.__getinitargs__())  # type: ignore[attr-defined]


def _zone(value: zoneinfo.ZoneInfo, walk: Walk) -> bytes:
    if value.key is None:
        raise Unstable(type(value), "a time zone that was read from a file has no name")
    return b"z" + text(value.key)


def _set(value: Any, walk: Walk) -> bytes:
    tag = b"S" if isinstance(value, set) else b"Z"
    return named(tag, type(value)) + walk.unordered(value) + _extra(value, walk)


def _ordered(value: Any, walk: Walk) -> bytes:
    return named(b"o", type(value)) + walk.mapping(value, ordered=True) + _extra(value, walk)


def _extra(value: Any, walk: Walk) -> bytes:
    return walk.attributes(_without_cached(type(value), getattr(value, "__dict__", {})))


def _module(value: ModuleType, walk: Walk) -> bytes:
    return b"M" + text(value.__name__)


# ---------------------------------------------------------------------- what has no key


def _unstable(problem: str) -> Callable[[Any, Walk], bytes]:
    def refuse(value: Any, walk: Walk) -> bytes:
        raise Unstable(type(value), problem)

    return refuse


_gone_through_once = _unstable("it can be gone through only once: make a list of it")
_running = _unstable("what it will do next is known to nobody")


# ---------------------------------------------------------------------- objects


def _dataclass(value: Any, walk: Walk) -> bytes:
    """Its fields, and what else was set, say by `__post_init__` from what is no field."""
    fields = {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if hasattr(value, field.name)
    }
    fields.update(_without_cached(type(value), getattr(value, "__dict__", {})))
    return named(b"O", type(value)) + walk.attributes(fields)


def _model(value: Any, walk: Walk) -> bytes:
    """A pydantic model: fields, extra ones, and private ones; not which of them were given."""
    own = _without_cached(type(value), value.__dict__)
    rest = (value.__pydantic_extra__ or {}, value.__pydantic_private__ or {})
    return named(b"O", type(value)) + walk.attributes(own) + b"".join(map(walk.attributes, rest))


def encode_object(value: Any, walk: Walk) -> bytes:
    """As pickle would take it apart: how it is made, and its state."""
    kind = type(value)
    reduced: Any
    try:
        # Where Dask is loaded, tblib has exceptions pickled with their tracebacks, which are no part of their content.
        reduce = None if issubclass(kind, BaseException) else copyreg.dispatch_table.get(kind)
        reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception as error:
        raise Unstable(kind, str(error) or type(error).__name__) from error
    if isinstance(reduced, str):
        return b"g" + text(f"{name_of(kind)}:{reduced}")
    make, args, state, items, pairs = (*reduced, None, None, None)[:5]
    parts = [b"O"]
    if make is copyreg.__newobj__ or make is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        make, args = args[0], args[1:]
    parts.append(_maker(make, walk))
    parts.append(walk.sequence(args))
    parts.append(_state(kind, state, walk))
    parts.append(walk.sequence(items) if items is not None else b"-")
    parts.append(walk.mapping(dict(pairs)) if pairs is not None else b"-")
    return b"".join(parts)


def _maker(make: Any, walk: Walk) -> bytes:
    """What makes an object: by its name, and by what it is bound to, where a name does not tell it from others."""
    kind = type(make)
    if kind is MethodType:
        to = make.__self__
        return named(b"y", make.__func__) + (
            named(b"k", to) if isinstance(to, type) else walk.encode(to)
        )
    if isinstance(make, type) or (kind is FunctionType and make.__closure__ is None):
        return text(name_of(make))
    if kind is BuiltinFunctionType and isinstance(make.__self__, ModuleType | type | None):
        return text(name_of(make))
    return walk.encode(make)


def _state(kind: type, state: Any, walk: Walk) -> bytes:
    if isinstance(state, dict):
        own = _without_cached(kind, state)
        # Who has no attributes gives pickle no state, and not an empty one.
        return b"." + walk.attributes(own) if own else walk.encode(None)
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # with slots
        return b"," + _state(kind, state[0], walk) + walk.attributes(state[1])
    return walk.encode(state)


def _without_cached(kind: type, state: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes, but for those that follow from the others and are there once somebody has asked for them."""
    cached = functools.cached_property
    return {
        name: value
        for name, value in state.items()
        if not isinstance(getattr(kind, str(name), None), cached)
    }


# ---------------------------------------------------------------------- the tables

_EXACT: dict[type, Callable[[Any, Walk], bytes]] = {
    object: _unstable("an object() is told from others by its identity alone"),
    datetime.time: _time,
    datetime.timezone: _timezone,
    ModuleType: _module,
    CodeType: _unstable("it is bare code; pass the function"),
    FrameType: _running,
    TracebackType: _running,
    itertools.count: _gone_through_once,
    weakref.ref: _unstable("what it refers to may be gone"),
}

#: Asked in this order: an enum may be a number too, a class an enum's.
_FAMILIES: dict[type, Callable[[Any, Walk], bytes]] = {
    enum.Enum: _enum,
    pathlib.PurePath: _path,
    datetime.datetime: _datetime,
    zoneinfo.ZoneInfo: _zone,
    set: _set,
    frozenset: _set,
    collections.OrderedDict: _ordered,
    ModuleType: _module,
    GeneratorType: _running,
    CoroutineType: _running,
    AsyncGeneratorType: _running,
}

Walk.choose = staticmethod(_encoder_of)
