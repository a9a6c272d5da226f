"""Containers: which objects are looked into for futures, and how each kind is taken apart and put together again.

    list, deque, tuple, dict, set, frozenset, and subclasses of these (named tuples, defaultdicts, ...)
    dataclass instances     their fields
    pydantic models         their fields and extras

Nothing else is a container: not other objects, arrays, strings, generators, nor dict-likes that are no dicts.

A container is put together as a shallow copy that is then changed, so that its type and whatever else it carries stay
and no `__init__`, validator or `__post_init__` runs. Tuples and frozensets cannot be changed: they are made anew.

May import the standard library only, and neither pydantic nor dataclasses before somebody uses them.
"""

from __future__ import annotations

import copy
import sys
from collections import deque
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

__all__ = ["ATOMS", "TUPLE", "Container", "container_of"]

#: Exact types of things without parts: nearly all arguments, so the first thing to look at.
ATOMS: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, bytearray, type(None), type(...), range, slice, type}
    | {FunctionType, BuiltinFunctionType}
)

_UNSET: Final = object()


class Container:
    """How one kind of container is taken apart and put together again."""

    #: Whether it can be copied first and changed later, so that a cycle can be closed through it.
    open = True

    def parts(self, whole: Any) -> list[Any]:
        """What it holds, in an order that `rebuilt` knows."""
        return list(whole)

    def copied(self, whole: Any) -> Any:
        """A shallow copy, for an open container."""
        return copy.copy(whole)

    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        """The container with other parts: `new`, what `copied` gave, changed; or, if not open, one made here."""
        raise NotImplementedError


class _Sequence(Container):
    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        for index, (before, after) in enumerate(zip(old, parts, strict=True)):
            if before is not after:
                new[index] = after
        return new


class _Set(Container):
    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        new.clear()
        new.update(parts)
        return new


class _Dict(Container):
    def parts(self, whole: Any) -> list[Any]:
        return [*whole, *whole.values()]

    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        size = len(parts) // 2
        same_keys = all(before is after for before, after in zip(old[:size], parts, strict=False))
        if not same_keys:
            new.clear()
        for key, before, after in zip(parts[:size], old[size:], parts[size:], strict=True):
            if before is not after or not same_keys:
                new[key] = after
        return new


class _Fixed(Container):
    """A tuple or frozenset, or a subclass, whose `__new__` may want other arguments."""

    open = False

    def __init__(self, base: type) -> None:
        self.base: Any = base

    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        made = self.base.__new__(type(whole), parts)
        if hasattr(whole, "__dict__"):
            vars(made).update(vars(whole))
        return made


class _Dataclass(Container):
    def __init__(self, cls: type) -> None:
        from dataclasses import fields  # loaded already, or there were no dataclass

        self.names = [field.name for field in fields(cls)]

    def parts(self, whole: Any) -> list[Any]:
        return [getattr(whole, name, _UNSET) for name in self.names]

    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        for name, before, after in zip(self.names, old, parts, strict=True):
            if before is not after:
                object.__setattr__(new, name, after)  # frozen ones too
        return new


class _Model(Container):
    def copied(self, whole: Any) -> Any:
        # As pickling does. `RootModel.__copy__` would copy its root too, which may be a future.
        cls: Any = type(whole)
        new = cls.__new__(cls)
        new.__setstate__({name: copy.copy(value) for name, value in whole.__getstate__().items()})
        return new

    def parts(self, whole: Any) -> list[Any]:
        return [value for values in self._values(whole) for value in values.values()]

    def rebuilt(self, whole: Any, new: Any, old: list[Any], parts: list[Any]) -> Any:
        rest = iter(parts)
        for values in self._values(new):
            for name in values:
                values[name] = next(rest)
        return new

    def _values(self, model: Any) -> list[dict[str, Any]]:
        """Where a model keeps its fields, and what it was given beyond them."""
        extra = getattr(model, "__pydantic_extra__", None)
        return [vars(model)] if extra is None else [vars(model), extra]


TUPLE: Final = _Fixed(tuple)

_BUILT_IN: list[tuple[type, Container]] = [
    (list, _Sequence()),
    (tuple, TUPLE),
    (dict, _Dict()),
    (set, _Set()),
    (frozenset, _Fixed(frozenset)),
    (deque, _Sequence()),
]


def container_of(cls: type) -> Container | None:
    """How instances of a class are taken apart; `None` if they are not. Not cached."""
    for base, container in _BUILT_IN:
        if issubclass(cls, base):
            return container
    model = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    if model is not None and issubclass(cls, model):
        return _Model()
    if isinstance(getattr(cls, "__dataclass_fields__", None), dict):
        return _Dataclass(cls)
    return None
