"""The encoders of what can be called: by its code, see `functions`; what it is bound to, by its content.

May import `functions`, `kinds` and `walk`.
"""

from __future__ import annotations

import functools
from types import (
    BuiltinMethodType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any

from shoal.results.keys.functions import known
from shoal.results.keys.kinds import add_exact, add_family, named
from shoal.results.keys.walk import text
from shoal.specs import FlowSpec, TaskSpec

if TYPE_CHECKING:
    from shoal.results.keys.walk import Walk

__all__ = ["register"]


def _function(value: Any, walk: Walk) -> bytes:
    return b"x" + known(value).digest


def _class(value: type, walk: Walk) -> bytes:
    return named(b"k", value) + known(value).digest


def _method(value: Any, walk: Walk) -> bytes:
    return b"y" + walk.sequence((value.__func__, value.__self__))


def _builtin(value: Any, walk: Walk) -> bytes:
    owner = value.__self__
    if owner is None or isinstance(owner, (ModuleType, type)):
        return named(b"x", value)
    return named(b"y", value) + walk.encode(owner)


def _descriptor(value: Any, walk: Walk) -> bytes:
    return named(b"x", value.__objclass__) + text(value.__name__)


def _partial(value: Any, walk: Walk) -> bytes:
    return named(b"w", type(value)) + walk.sequence((value.func, value.args, value.keywords))


def _wrapped(value: Any, walk: Walk) -> bytes:
    return named(b"w", type(value)) + walk.encode(value.__wrapped__)


def _spec(value: Any, walk: Walk) -> bytes:
    return named(b"w", type(value)) + text(value.name) + walk.encode(value.fn)


def register() -> None:
    """Makes these encoders known."""
    add_exact(FunctionType, _function)
    add_exact(MethodType, _method)
    add_exact(BuiltinMethodType, _builtin)
    add_exact(MethodDescriptorType, _descriptor)
    add_exact(WrapperDescriptorType, _descriptor)
    add_exact(MethodWrapperType, _builtin)
    add_exact(type(functools.lru_cache(len)), _wrapped)
    add_family(type, _class)
    add_family(functools.partial, _partial)
    add_family(TaskSpec, _spec)
    add_family(FlowSpec, _spec)
