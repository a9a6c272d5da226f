"""Values as JSON that come back as they were. Pure.

    None, bool, int, float, str, list, dict with texts as keys   as JSON has them
    tuple, set, frozenset, bytes, other dicts, dates and times, timedelta, Decimal, UUID, complex, paths
                                                                 {"__type__": "tuple", "data": …}
    enums, dataclasses, pydantic models                          {"__class__": ["module", "Class"], "data": …}

Exact types only: of a subclass, JSON would lose which. What is read runs no code: a class is looked for among the modules that are
imported, and made from its fields without its `__init__`. May import `classes`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import sys
from decimal import Decimal
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from shoal.results.classes import class_at, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["decoded", "encoded"]

_TYPE, _CLASS, _DATA = "__type__", "__class__", "data"
_PLAIN = frozenset({type(None), bool, int, float, str})
_GROUPS: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}


def _moment(value: datetime.datetime | datetime.time) -> Any:
    """A time of day; one in a zone that has a name keeps the name, of which the text has the offset only."""
    zone = value.tzinfo
    if zone is None or type(zone) is datetime.timezone:
        return value.isoformat()
    name = getattr(zone, "key", None)
    if type(zone).__module__.partition(".")[0] != "zoneinfo" or not isinstance(name, str):
        raise TypeError(f"its zone is of {type(zone).__qualname__}")
    return [value.replace(tzinfo=None).isoformat(), value.fold, name]


def _moment_of(kind: Any) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        if isinstance(data, str):
            return kind.fromisoformat(data)
        from zoneinfo import ZoneInfo

        text, fold, name = data
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=ZoneInfo(name))

    return read


#: By type, its name and what writes it.
_WRITE: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
    datetime.datetime: ("datetime", _moment),
    datetime.time: ("time", _moment),
    datetime.date: ("date", datetime.date.isoformat),
    datetime.timedelta: ("timedelta", lambda span: [span.days, span.seconds, span.microseconds]),
    Decimal: ("Decimal", str),
    UUID: ("UUID", str),
    complex: ("complex", lambda value: [value.real, value.imag]),
    PurePosixPath: ("PurePosixPath", str),
    PureWindowsPath: ("PureWindowsPath", str),
    PosixPath: ("Path", str),
    WindowsPath: ("Path", str),
}
#: By name, what makes it of that.
_READ: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "bytes": base64.b64decode,
    "datetime": _moment_of(datetime.datetime),
    "time": _moment_of(datetime.time),
    "date": datetime.date.fromisoformat,
    "timedelta": lambda data: datetime.timedelta(*data),
    "Decimal": Decimal,
    "UUID": UUID,
    "complex": lambda data: complex(*data),
    "PurePosixPath": PurePosixPath,
    "PureWindowsPath": PureWindowsPath,
    "Path": Path,
}


# ---------------------------------------------------------------------- to JSON


def encoded(
    value: Any, encoder: Callable[[Any], Any] | None = None, path: str = "the value"
) -> Any:
    """A value as what `json` writes.

    Args:
        value: the value.
        encoder: makes something plain of what cannot be written otherwise.
        path: what the value is called.

    Raises:
        TypeError: something in it cannot be written so that it comes back as it was; the message names it.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [encoded(item, encoder, f"{path}[{index}]") for index, item in enumerate(value)]
    if kind is dict:
        return _encoded_dict(value, encoder, path)
    if name := _GROUPS.get(kind):
        items = [encoded(item, encoder, f"{path}[{index}]") for index, item in enumerate(value)]
        return {_TYPE: name, _DATA: items}
    try:
        if kind in _WRITE:
            name, write = _WRITE[kind]
            return {_TYPE: name, _DATA: write(value)}
        if (facts := _facts(value)) is not None:
            data = (
                facts
                if isinstance(value, enum.Enum)
                else _encoded_dict(facts, encoder, path, "{}.{}")
            )
            return {_CLASS: place_of(kind), _DATA: data}
        if encoder is not None:
            return encoder(value)
        problem = "give the serializer an object_encoder, or use pickle"
    except RecursionError:
        problem = "it holds itself, or is too deep"
    except TypeError as error:
        if str(error).startswith("the value"):
            raise
        problem = str(error)
    raise TypeError(
        f"{path} ({kind.__module__}.{kind.__qualname__}) cannot be written as JSON so that it comes back as it was:"
        f" {problem}"
    )


def _encoded_dict(
    items: dict[Any, Any],
    encoder: Callable[[Any], Any] | None,
    path: str,
    form: str = "{}[{!r}]",
) -> Any:
    values = [encoded(item, encoder, form.format(path, key)) for key, item in items.items()]
    if all(type(key) is str for key in items) and not {_TYPE, _CLASS} & items.keys():
        return dict(zip(items, values, strict=True))
    keys = [encoded(key, encoder, f"a key of {path}") for key in items]
    return {_TYPE: "dict", _DATA: [list(pair) for pair in zip(keys, values, strict=True)]}


def _facts(value: Any) -> Any:
    """What an enum, a dataclass or a pydantic model is made of; `None` of anything else.

    Raises:
        TypeError: there is more to it.
    """
    kind = type(value)
    if isinstance(value, enum.Enum):
        facts: Any = value.value if isinstance(value, enum.Flag) else value.name
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        facts = {name: getattr(value, name) for name in names if hasattr(value, name)}
        if more := vars(value).keys() - facts.keys() if hasattr(value, "__dict__") else ():
            raise TypeError(f"beside its fields it has {', '.join(map(repr, sorted(more)))}")
    elif _is_model(kind):
        if value.__pydantic_private__:
            raise TypeError("it has private attributes")
        facts = {**vars(value), **(value.__pydantic_extra__ or {})}
    else:
        return None
    if class_at(*place_of(kind)) is not kind:
        raise TypeError("its class is not found in its module")
    return facts


# ---------------------------------------------------------------------- from JSON


def decoded(data: Any, decoder: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of what `json` has read.

    Args:
        data: what it has read.
        decoder: makes values of further objects of JSON.

    Raises:
        LookupError: a class is no longer where it was.
        ValueError: it was not written by `encoded`.
    """
    if isinstance(data, list):
        return [decoded(item, decoder) for item in data]
    if not isinstance(data, dict):
        return data
    if _TYPE in data:
        return _READ[data[_TYPE]](decoded(data[_DATA], decoder))
    if _CLASS in data:
        module, name = data[_CLASS]
        return _object(module, name, decoded(data[_DATA], decoder))
    items = {key: decoded(item, decoder) for key, item in data.items()}
    return items if decoder is None else decoder(items)


def _object(module: str, name: str, facts: Any) -> Any:
    kind: Any = class_at(module, name)
    if kind is None:
        raise LookupError(
            f"there is no class {module}.{name} any more, or its module is not imported"
        )
    if issubclass(kind, enum.Flag):
        return kind(facts)
    if issubclass(kind, enum.Enum):
        return kind.__members__[facts]
    if _is_model(kind):
        return kind.model_construct(**facts)
    if not dataclasses.is_dataclass(kind):
        raise LookupError(f"{module}.{name} is of another kind than it was")
    if unknown := facts.keys() - {field.name for field in dataclasses.fields(kind)}:
        raise LookupError(
            f"{module}.{name} has no field {', '.join(map(repr, sorted(unknown)))} any more"
        )
    value: Any = object.__new__(kind)  # type: ignore[arg-type]
    for field, fact in facts.items():
        object.__setattr__(value, field, fact)
    return value


def _is_model(kind: type) -> bool:
    """Whether it is a class of pydantic's models; without importing that."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)
