"""With what to run a flow: `-p name=value`, where the type of the parameter says how the value is read.

A value is text or JSON. Text is tried first, so that a `str` stays as typed and `2024-05-01` can be a date; a type that
text cannot be (`list[int]`, a model) gets what the JSON says. Where there is no type, JSON is tried first.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from inspect import Parameter
from typing import Any

import pydantic

from shoal import Flow
from shoal.cli.console import UsageError
from shoal.spelling import did_you_mean

__all__ = ["parse"]

#: Types that would take any text, character by character.
_STREAMS = (Iterable, Iterator, AsyncIterable, AsyncIterator)

#: How to write what plain text cannot be, by pydantic's names for what it misses. A shell eats quotes that are not
#: quoted themselves.
_EXAMPLES = {
    ("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"): "[1, 2]",
    (
        "dict_type",
        "mapping_type",
        "model_type",
        "dataclass_type",
        "model_attributes_type",
    ): '{"key": 1}',
}


def parse(
    flow: Flow[..., Any], assignments: list[str], *, some: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Reads the parameters of a flow.

    Args:
        flow: the flow.
        assignments: `name=value` each.
        some: whether others may be left out, since they are known from elsewhere; all come by name then.

    Returns:
        Positional and keyword arguments for the flow.

    Raises:
        UsageError: one is not `name=value`, is unknown, missing or given twice, or is not of its type.
    """
    texts = _texts(assignments)
    _check_names(flow, texts, some)
    types = _types(flow)
    bound = inspect.BoundArguments(flow.signature, {})
    for parameter in flow.signature.parameters.values():
        name, kind = parameter.name, types[parameter.name]
        if parameter.kind is Parameter.VAR_KEYWORD:
            others = {key: text for key, text in texts.items() if key not in types}
            bound.arguments[name] = {
                key: _read(flow, parameter, key, text, kind) for key, text in others.items()
            }
        elif name in texts:
            bound.arguments[name] = _read(flow, parameter, name, texts[name], kind)
    if some:
        return (), bound.arguments
    return bound.args, bound.kwargs


def _texts(assignments: list[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"-p {assignment}: write -p name=value")
        if name in texts:
            raise UsageError(f"-p {assignment}: the parameter {name!r} is given twice")
        texts[name] = text
    return texts


def _check_names(flow: Flow[..., Any], texts: dict[str, str], some: bool) -> None:
    parameters = flow.signature.parameters
    open_ended = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind is not Parameter.VAR_KEYWORD]
    for name in texts:
        if name not in known and not open_ended:
            raise UsageError(
                f"the flow {flow.name!r} has no parameter {name!r}. {did_you_mean(name, known)} "
                f"It takes: {', '.join(_shown(parameters[name]) for name in known) or 'none'}."
            )
    missing = [
        p
        for name, p in parameters.items()
        if name not in texts
        and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing and not some:
        raise UsageError(
            f"the flow {flow.name!r} needs {', '.join(map(_shown, missing))}. "
            f"Give {' '.join(f'-p {p.name}=...' for p in missing)}"
        )


def _types(flow: Flow[..., Any]) -> dict[str, Any]:
    """The type of each parameter; `Any` where there is none, or its name is known to type checkers only."""
    try:
        hints = typing.get_type_hints(flow.fn, include_extras=True)
    except Exception:  # annotations are evaluated, and may be anything
        hints = {}
    types: dict[str, Any] = {}
    for name, parameter in flow.signature.parameters.items():
        kind = hints.get(name, str if parameter.annotation == "str" else Any)
        if parameter.kind is Parameter.VAR_POSITIONAL:
            kind = tuple[kind, ...]  # type: ignore[valid-type]
        types[name] = kind
    return types


def _read(flow: Flow[..., Any], parameter: Parameter, name: str, text: str, kind: Any) -> Any:
    """The value of one parameter.

    A flow that validates its parameters gets the reading that fits and converts it itself, as in any call; another
    one gets it converted.
    """
    adapter = _adapter(kind)
    readings: list[Any] = [text]
    try:
        decoded = json.loads(text)
    except ValueError:
        pass
    else:
        readings.insert(0 if kind in (Any, object) or _is_stream(kind) else 1, decoded)
    problem = ""
    for reading in readings:
        try:
            value = adapter.validate_python(reading)
        except pydantic.ValidationError as error:
            problem = _problem(error, name, _shown(parameter))
        else:
            return reading if flow.validate_parameters else value
    raise UsageError(f"-p {name}={text}: the flow {flow.name!r} takes {problem}")


def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.errors.PydanticUserError:  # models and dataclasses have a configuration
        return pydantic.TypeAdapter(kind)


def _is_stream(kind: Any) -> bool:
    return kind in _STREAMS or typing.get_origin(kind) in _STREAMS


def _problem(error: pydantic.ValidationError, name: str, wanted: str) -> str:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part!r}]" for part in first["loc"])
    problem = f"{wanted}. {path + ': ' if path else ''}{first['msg']}"
    example = next((text for kinds, text in _EXAMPLES.items() if first["type"] in kinds), None)
    return f"{problem}. Write it as JSON: -p '{name}={example}'" if example else problem


def _shown(parameter: Parameter) -> str:
    """The parameter as it is written in the signature."""
    annotation = parameter.annotation
    text = str(parameter)
    return text.replace(repr(annotation), annotation, 1) if isinstance(annotation, str) else text
