"""Finds by which name of an importable module something can be had, to pickle it by reference.

Plain pickling and cloudpickle find functions and classes under their own name only. What a module offers under another
one they copy, with the state it refers to: `random.random`, a method of the module's own generator; such a generator
itself; the function under a decorator. Importing this module loads cloudpickle.
"""

from __future__ import annotations

import importlib
import logging
import random
import re
import sys
import threading
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from cloudpickle import list_registry_pickle_by_value

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "attribute_of",
    "depth_under",
    "is_generator",
    "module_attribute",
    "travels_by_value",
    "uses_state",
    "wrapped_in",
]

_NUMPYS = ("RandomState", "Generator")
_METHODS = (MethodType, BuiltinMethodType)
_MAINS = ("__main__", "__mp_main__")

#: Types of objects that do not change, or travel by their names.
_CONSTANT = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, type(...), range, slice, re.Pattern),
        *(FunctionType, BuiltinMethodType, MethodType, logging.Logger),
    }
)

#: Decorators around a function that are looked through.
_DEEPEST = 20


def travels_by_value(module: str | None) -> bool:
    """Whether what a module defines is unknown on workers, and so taken along."""
    if module is None or module in _MAINS or module not in sys.modules:
        return True
    registered = list_registry_pickle_by_value()
    while registered:
        if module in registered:
            return True
        module, dot, _ = module.rpartition(".")
        if not dot:
            break
    return False


def module_attribute(value: Any) -> tuple[str, str] | None:
    """The module and name by which something can be imported, `None` if there are none.

    Args:
        value: a function that cannot be found by its own name, a bound method, or a generator of random numbers.
    """
    key = _key(value)
    if key is None:
        return None
    name = getattr(value, "__name__", None)
    own = {getattr(value, "__module__", None), type(getattr(value, "__self__", None)).__module__}
    places = [(module, name) for module in own if isinstance(module, str) and isinstance(name, str)]
    found = next((place for place in places if _leads_to(place, key)), None)
    return found or _INDEX.find(key)


def attribute_of(module: str, name: str) -> Any:
    """What `module_attribute` found, elsewhere."""
    return getattr(importlib.import_module(module), name)


def _key(value: Any) -> tuple[int, Any] | None:
    """Identifies a function or generator, or what a bound method is bound to and by which function."""
    kind = type(value)
    if kind is FunctionType or is_generator(kind):
        return id(value), None
    if kind in _METHODS:
        owner = value.__self__
        if owner is None or issubclass(type(owner), (type, ModuleType)):
            return None  # a plain function, or found by its class
        return id(owner), id(value.__func__) if kind is MethodType else value.__name__
    return None


def is_generator(kind: type) -> bool:
    """Whether it is a class of generators of random numbers, copies of which give the same ones."""
    if kind is random.Random:
        return True
    return kind.__name__ in _NUMPYS and kind.__module__.startswith("numpy.random")


def _leads_to(place: tuple[str, str], key: tuple[int, Any]) -> bool:
    module, name = place
    if travels_by_value(module):
        return False
    return _key(_namespace(sys.modules[module]).get(name)) == key


def _namespace(module: Any) -> dict[str, Any]:
    """A module's names; a lazy one is not loaded for it."""
    if not issubclass(type(module), ModuleType) or _plainly(module, "__spec__") is None:
        return {}
    names: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return names


class _Index:
    """Closures, bound methods and generators that modules have names for.

    Reading a module takes some microseconds, a large program's some milliseconds; each is read once, when something
    is looked for after it was imported.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: WeakValueDictionary[str, ModuleType] = WeakValueDictionary()
        self._seen = 0  # how many modules there were
        self._places: dict[tuple[int, Any], list[tuple[str, str]]] = {}

    def find(self, key: tuple[int, Any]) -> tuple[str, str] | None:
        """A place that still holds it."""
        with self._lock:
            self._update()
            places = list(self._places.get(key, ()))
        return next((place for place in places if _leads_to(place, key)), None)

    def _update(self) -> None:
        modules = sys.modules.copy()
        newest, last = next(reversed(modules.items()))
        if len(modules) == self._seen and self._read.get(newest) is last:
            return
        self._seen = len(modules)
        for name, module in modules.items():
            if self._read.get(name) is module or name in _MAINS:
                continue
            if getattr(_plainly(module, "__spec__"), "_initializing", False):
                self._seen = 0  # it will hold more when it is looked at again
                continue
            if issubclass(type(module), ModuleType):
                self._read[name] = module
            for attribute, value in _namespace(module).copy().items():
                kind = type(value)
                if kind is FunctionType:
                    if "<locals>" not in value.__qualname__:
                        continue  # found by its own name
                elif kind not in _METHODS and not is_generator(kind):
                    continue
                key = _key(value)
                if key is not None:
                    self._places.setdefault(key, []).append((name, attribute))


_INDEX = _Index()


# ---------------------------------------------------------------------- under decorators


def depth_under(function: FunctionType) -> int | None:
    """Under how many decorators its module offers a function by its name; `None` if it does not."""
    if travels_by_value(function.__module__):
        return None
    first, *rest = function.__qualname__.split(".")
    found: Any = _namespace(sys.modules[function.__module__]).get(first)
    for name in rest:
        found = _plainly(found, name)
    for depth in range(_DEEPEST):
        if found is function:
            return depth
        found = _plainly(found, "__wrapped__")
        if found is None:
            return None
    return None


def uses_state(names: Mapping[str, Any]) -> bool:
    """Whether there are objects among the globals that a function uses that may hold a state."""
    return not all(map(_is_constant, names.values()))


def _is_constant(value: Any) -> bool:
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))
    return (
        kind in _CONSTANT
        or issubclass(kind, (type, ModuleType))
        or _plainly(value, "__wrapped__")
        is not None  # a task, or another function under a decorator
        or kind.__module__ == "typing"
    )


def _plainly(owner: Any, name: str) -> Any:
    """An attribute as it stands in an object's own namespace: no user code is called."""
    try:
        return object.__getattribute__(owner, "__dict__").get(name)
    except AttributeError:
        return None


def wrapped_in(module: str, qualname: str, depth: int) -> Any:
    """The function that `depth_under` was asked about, elsewhere.

    Raises:
        LookupError: there is no such module, or it does not offer it.
    """
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise LookupError(module) from error
    for name in [*qualname.split("."), *["__wrapped__"] * depth]:
        found = _plainly(found, name)
    if type(found) is not FunctionType:
        raise LookupError(f"{module}.{qualname}")
    return found
