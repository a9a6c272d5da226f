"""The pickler for what plain pickling does not do right: cloudpickle's, with what that leaves open.

    defined in `__main__`, or registered   by value, with the file name that tracebacks show
    of an importable module                by reference: its functions, and bound methods that have a name there
    under a decorator there, say @task     by value; by reference if it uses what cannot be copied, or had better not be:
                                           a lock, a generator of random numbers
    generators of random numbers there     by reference, where functions use them
    lru_cache, cache, singledispatch       anew around the function, with empty caches
    cached_property                        without the lock that old Pythons give it
    exceptions                             see `errors`

Importing this module loads cloudpickle. May import `errors` and `references`.
"""

from __future__ import annotations

import functools
import io
import pickle
import random
import weakref
from types import BuiltinMethodType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import cloudpickle

from shoal.serialization import errors
from shoal.serialization.guarded import from_a_signal
from shoal.serialization.references import (
    attribute_of,
    depth_under,
    is_generator,
    module_attribute,
    travels_by_value,
    uses_state,
    wrapped_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pickler", "dumps"]

_PROTOCOL = 5

_cloudpickles_code: Any = cloudpickle.Pickler.dispatch_table[CodeType]
#: What cloudpickle makes functions and classes with: in every pickle of one, and always found by name.
_MAKERS = frozenset(
    value for value in vars(cloudpickle.cloudpickle).values() if type(value) is FunctionType
)
_Cached = type(functools.lru_cache(len))
#: What all functions have in common that `functools.singledispatch` makes.
_DISPATCHING = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


def dumps(
    value: Any, callback: Any = None, care: int = errors.TRUSTING, *, asking: bool = False
) -> bytes:
    """Pickles a value.

    Args:
        value: the value.
        callback: as for `pickle.dumps`.
        care: how exceptions in it are pickled.
        asking: whether it is only asked if that can be done.
    """
    file = io.BytesIO()
    pickler = Pickler(file, _PROTOCOL, buffer_callback=callback)
    pickler.care = care
    pickler.asking = asking
    pickler.dump(value)
    return file.getvalue()


# ---------------------------------------------------------------------- code


def _reduce_code(code: CodeType) -> Any:
    make, args = _cloudpickles_code(code)
    # cloudpickle writes "<dynamic-code>" there. A copy, as it does it: pickles must not depend on what is shared.
    filename = "".join((code.co_filename, ""))
    return make, (*args[:10], filename, *args[11:])


def _reduce_system_generator(generator: random.SystemRandom) -> Any:
    return type(generator), ()  # it has no state, and refuses to give one


# ---------------------------------------------------------------------- caches


def _new_cached(maxsize: int | None, typed: bool, make: Any, args: tuple[Any, ...]) -> Any:
    return functools.lru_cache(maxsize, typed)(make(*args))


def _fill_cached(cached: Any, state: tuple[Any, Any, dict[str, Any]]) -> None:
    fill, inner, attributes = state
    function = cached.__wrapped__
    if fill is not None:
        fill(function, inner)
    functools.update_wrapper(cached, function)
    cached.__dict__.update(attributes)


class _Later:
    """Stands in a cache for a callable object, which may refer to the cache, and so is unpickled after it."""

    function: Any = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _fill_later(later: _Later, function: Any) -> None:
    later.function = function


def _is_found(value: Any) -> bool:
    """Whether an importable module offers it by its own name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or travels_by_value(module):
        return False
    try:
        found = attribute_of(module, name)
    except (ImportError, AttributeError):
        return False
    return found is value


def _reduce_dispatching(function: Any) -> Any:
    attributes = {
        name: value
        for name, value in function.__dict__.items()
        if name not in ("registry", "dispatch", "register", "_clear_cache")
    }
    state = dict(function.registry), attributes
    return _new_dispatching, (), state, None, None, _fill_dispatching


def _new_dispatching() -> Any:
    return functools.singledispatch(len)


def _fill_dispatching(function: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    registry, attributes = state
    for kind, implementation in registry.items():
        function.register(kind, implementation)
    functools.update_wrapper(function, registry[object])
    function.__dict__.update(attributes)


def _reduce_property(cached: Any) -> Any:
    state = {name: value for name, value in cached.__dict__.items() if name != "lock"}
    return object.__new__, (type(cached),), state, None, None, _fill_property


def _fill_property(cached: Any, state: dict[str, Any]) -> None:
    cached.__dict__.update(vars(functools.cached_property(len)))  # with a lock, where there is one
    cached.__dict__.update(state)


def _reduce_weak_mapping(mapping: Any) -> Any:
    return type(mapping), (dict(mapping),)


# ---------------------------------------------------------------------- functions


def _function_of(module: str, qualname: str, depth: int, copy: bytes | None) -> Any:
    """A function under decorators in its module; where that cannot be imported, the copy that came along."""
    try:
        return wrapped_in(module, qualname, depth)
    except Exception:
        if copy is None:
            raise
        return pickle.loads(copy)


# ---------------------------------------------------------------------- the pickler

_REDUCERS: dict[type, Callable[[Any], Any]] = {
    CodeType: _reduce_code,
    random.SystemRandom: _reduce_system_generator,
    weakref.WeakKeyDictionary: _reduce_weak_mapping,
    weakref.WeakValueDictionary: _reduce_weak_mapping,
}


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # which has no types
    """See the module.

    Attributes:
        care: how exceptions are pickled, see `errors`.
        copying: the module whose functions are copied, as it may not be found; `None` for none.
        asking: whether it is only asked if something travels: exceptions in it do, as each leaves behind what cannot.
            Were they looked into, one that refers to itself would be asked about for ever.
    """

    asking: bool = False
    care: int = errors.TRUSTING
    copying: str | None = None

    def reducer_override(self, obj: Any) -> Any:
        """Called for all but the plainest objects, before anything else is asked how to reduce them. Hot."""
        kind = type(obj)
        if kind is FunctionType:
            return NotImplemented if obj in _MAKERS else self._reduce_function(obj)
        if kind is type:
            return super().reducer_override(obj)
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(obj)
        if kind is MethodType or kind is BuiltinMethodType or is_generator(kind):
            return self._reduce_offered(obj)
        if kind is _Cached:
            return self._reduce_cached(obj)
        if issubclass(kind, BaseException):
            if self.asking:
                return str, ()
            return errors.reduce_error(obj, self.care, self._travels)
        if issubclass(kind, functools.cached_property):
            return _reduce_property(obj)
        return super().reducer_override(obj)

    def _reduce_function(self, function: FunctionType) -> Any:
        reduced = self._function_reduce(function)
        if reduced is NotImplemented:
            return reduced
        if function.__code__ is _DISPATCHING:
            return _reduce_dispatching(function)
        module: Any = function.__module__
        if module == "__main__":
            return reduced
        place = self._place(function)
        if place is not None:
            return attribute_of, place
        names = reduced[2][1]["__globals__"]
        if self.copying is not None or not uses_state(names):
            return reduced
        depth = depth_under(function)
        if depth is None:
            return reduced
        copy = _copy(function, module)
        if copy is not None and not any(is_generator(type(value)) for value in names.values()):
            return reduced
        return _function_of, (module, function.__qualname__, depth, copy)

    def _place(self, value: Any) -> tuple[str, str] | None:
        place = module_attribute(value)
        return None if place is not None and place[0] == self.copying else place

    def _reduce_offered(self, value: Any) -> Any:
        """Bound methods and generators: by the name that a module has for them, if one has."""
        place = self._place(value)
        if place is not None:
            return attribute_of, place
        if type(value) is MethodType:
            return MethodType, (value.__func__, value.__self__)
        return value.__reduce_ex__(_PROTOCOL)

    def _travels(self, value: Any) -> bool:
        if issubclass(type(value), BaseException):
            return True  # in its turn it leaves behind what cannot
        try:
            pickle.loads(dumps(value, care=self.care, asking=True))
        except BaseException as failure:
            if from_a_signal(failure):
                raise
            return False
        return True

    def _reduce_cached(self, cached: Any) -> Any:
        if _is_found(cached):
            return cached.__qualname__
        options = cached.cache_parameters()
        function = cached.__wrapped__
        attributes = {
            name: value
            for name, value in cached.__dict__.items()
            if name not in ("__wrapped__", "cache_parameters")
        }
        make: Any
        reduced = self.reducer_override(function)
        if isinstance(reduced, tuple) and len(reduced) == 6:  # by value: made now, filled later
            make, args, inner, _, _, fill = reduced
        elif reduced is NotImplemented and type(function) is not FunctionType:
            make, args, inner, fill = _Later, (), function, _fill_later
        else:
            make, args, inner, fill = _itself, (function,), None, None
        new = (options["maxsize"], options["typed"], make, args)
        return _new_cached, new, (fill, inner, attributes), None, None, _fill_cached


def _itself(value: Any) -> Any:
    return value


def _copy(function: FunctionType, module: str) -> bytes | None:
    file = io.BytesIO()
    pickler = Pickler(file, _PROTOCOL)
    pickler.copying = module
    try:
        pickler.dump(function)
    except Exception:  # with its module's state it cannot travel; where that is found, it need not
        return None
    return file.getvalue()
