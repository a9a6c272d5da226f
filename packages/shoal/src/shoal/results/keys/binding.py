"""What a function was bound to before it became a task: those arguments count as any others. May import `specs`.

partial(load, conn)   of `def load(conn, day)`      {"conn": conn}
store.load            of `def load(self, day)`      {"self": store}
model                 whose class has `__call__`    {"self": model}
"""

from __future__ import annotations

import functools
import inspect
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any

from shoal.specs import FlowSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["bound_arguments", "freed"]

#: Methods of classes written in C.
_UNBOUND = (ClassMethodDescriptorType, MethodDescriptorType, WrapperDescriptorType)


def bound_arguments(function: Any) -> dict[str, Any]:
    """The arguments that are bound to a function, by name; a call may give others for those of a partial's keywords.

    Args:
        function: a function, task, flow, method, partial, class or callable object.
    """
    if type(function) is FunctionType:  # most are
        return {}
    inner, bound = _taken_apart(function)
    return {} if inner is function else {**bound_arguments(inner), **bound}


def freed(function: Any, names: frozenset[str]) -> Any:
    """A function without some of what is bound to it.

    Args:
        function: as for `bound_arguments`.
        names: of the arguments.
    """
    if names.isdisjoint(bound_arguments(function)):
        return function
    inner, bound = _taken_apart(function)
    left = {name: value for name, value in bound.items() if name not in names}
    return functools.partial(freed(inner, names), **left)


def _taken_apart(function: Any) -> tuple[Any, dict[str, Any]]:
    """What is beneath, and what it was bound to; itself, and nothing, if there is nothing beneath."""
    kind = type(function)
    if kind is FunctionType:
        return function, {}
    if issubclass(kind, (TaskSpec, FlowSpec)):
        return function.fn, {}
    if issubclass(kind, functools.partial):
        return function.func, {**_by_name(function.func, function.args), **function.keywords}
    if kind is MethodType:
        return function.__func__, _by_name(function.__func__, (function.__self__,))
    if kind in (BuiltinFunctionType, MethodWrapperType):
        owner = function.__self__
        if owner is None or isinstance(owner, (ModuleType, type)):
            return function, {}
        return getattr(type(owner), function.__name__), {"self": owner}
    if issubclass(kind, (type, *_UNBOUND)):
        return function, {}
    if "__wrapped__" in getattr(function, "__dict__", ()):  # of functools.cache
        return function.__wrapped__, {}
    return kind, {"self": function}


def _by_name(function: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by what they are called; by their numbers where the function does not say."""
    parameters: Iterable[inspect.Parameter] = ()
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        pass
    names = [each.name for each in parameters if each.kind <= each.POSITIONAL_OR_KEYWORD]
    return {(names[i] if i < len(names) else str(i)): value for i, value in enumerate(args)}
