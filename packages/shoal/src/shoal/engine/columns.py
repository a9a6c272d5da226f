"""The arguments of `map`, as columns: each is a list with an element for each run, or one value for all of them.

May import futures and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.annotations import Annotation, opaque, quote, unmapped
from shoal.exceptions import MappingLengthMismatch, MappingMissingIterable
from shoal.futures import TaskFuture
from shoal.states import State, get_state_exception

if TYPE_CHECKING:
    import inspect

    from shoal.specs import TaskSpec

__all__ = ["Column", "column", "common_length"]

#: `(elements, None)` if the argument is mapped over, else `(None, value)`.
Column = tuple[list[Any] | None, Any]

#: Never mapped over, though iterable.
_STATIC_ITERABLES = (str, bytes, bytearray, memoryview)


def column(value: Any) -> Column:
    """The column of an argument."""
    if isinstance(value, unmapped):
        return None, value.value
    if isinstance(value, opaque):
        return None, value  # one thing, as is said of it
    if isinstance(value, Annotation):
        inner = value.value
        if isinstance(inner, (TaskFuture, State)):
            if isinstance(value, quote):
                return None, value
            if isinstance(inner, TaskFuture):
                inner.wait()
                inner = inner.state
            error = get_state_exception(inner)
            if error is not None:
                return None, value.rewrap(error)
            inner = inner.result()
        elements, static = column(inner)
        if elements is None:
            return None, value.rewrap(static)
        return [value.rewrap(element) for element in elements], None
    if isinstance(value, (TaskFuture, State)):
        value = value.result()
    if isinstance(value, _STATIC_ITERABLES) or hasattr(value, "read") or hasattr(value, "write"):
        return None, value
    try:
        return list(value), None
    except TypeError:
        if hasattr(type(value), "__iter__"):
            raise  # an iterable that fails is the caller's to see
        return None, value


def common_length(task: TaskSpec, positional: list[Column], keywords: dict[str, Column]) -> int:
    """The number of runs that arguments make.

    Raises:
        MappingMissingIterable: no argument is mapped over.
        MappingLengthMismatch: those that are have different lengths.
        ParameterBindError: they have, and do not fit the signature either.
    """
    names = _positional_names(task.signature, len(positional))
    lengths = {
        name: len(column)
        for name, (column, _) in [*zip(names, positional, strict=True), *keywords.items()]
        if column is not None
    }
    if not lengths:
        raise MappingMissingIterable(task_name=task.name, arguments=[*names, *keywords])
    if len(set(lengths.values())) > 1:
        task.bind(tuple(positional), dict(keywords))
        raise MappingLengthMismatch(task_name=task.name, lengths=lengths)
    return next(iter(lengths.values()))


def _positional_names(signature: inspect.Signature | None, count: int) -> list[str]:
    names: list[str] = []
    for parameter in (signature.parameters if signature is not None else {}).values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"*{parameter.name}[{i}]" for i in range(count - len(names))]
            break
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    names += [f"argument {i}" for i in range(len(names), count)]
    return names[:count]
