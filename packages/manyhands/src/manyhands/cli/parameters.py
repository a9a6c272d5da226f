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

from manyhands import Flow
from manyhands.cli.console import UsageError, did_you_mean

__all__ = ["parse"]

#: Types that would take any text, character by character.
_STREAMS = (Iterable, Iterator, AsyncIterable, AsyncIterator)


def parse(flow: Flow[..., Any], assignments: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Reads the parameters of a flow.

    Args:
        flow: the flow.
        assignments: `name=value` each.

    Returns:
        Positional and keyword arguments for the flow.

    Raises:
        UsageError: one is not `name=value`, is unknown, missing or given twice, or is not of its type.
    """
    texts = _texts(assignments)
    _check_names(flow, texts)
    types = _types(flow)
    bound = inspect.BoundArguments(flow.signature, {})  # type: ignore[arg-type]  # it takes any mapping
    extra: dict[str, Any] = {}
    for name, parameter in flow.signature.parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            kind = types[name]
            extra = {
                key: _read(flow, key, text, kind) for key, text in texts.items() if key not in types
            }
            bound.arguments[name] = extra
        elif name in texts:
            bound.arguments[name] = _read(flow, name, texts[name], types[name])
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


def _check_names(flow: Flow[..., Any], texts: dict[str, str]) -> None:
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
    if missing:
        raise UsageError(
            f"the flow {flow.name!r} needs {', '.join(map(_shown, missing))}. "
            f"Give {' '.join(f'-p {p.name}=...' for p in missing)}"
        )


def _types(flow: Flow[..., Any]) -> dict[str, Any]:
    """The type of each parameter; `Any` where there is none, or its name is known to type checkers only."""
    try:
        hints = typing.get_type_hints(flow.fn, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    types: dict[str, Any] = {}
    for name, parameter in flow.signature.parameters.items():
        kind = hints.get(name, str if parameter.annotation == "str" else Any)
        types[name] = tuple[kind, ...] if parameter.kind is Parameter.VAR_POSITIONAL else kind
    return types


def _read(flow: Flow[..., Any], name: str, text: str, kind: Any) -> Any:
    """The value of one parameter.

    A flow that validates its parameters gets the reading that fits and converts it itself, as in any call; another
    one gets it converted.
    """
    adapter = _adapter(kind)
    readings: list[Any] = [text]
    try:
        decoded = json.loads(text)
    except ValueError:
        is_json = False
    else:
        is_json = True
        readings.insert(0 if kind in (Any, object) or _is_stream(kind) else 1, decoded)
    problem = ""
    for reading in readings:
        try:
            value = adapter.validate_python(reading)
        except pydantic.ValidationError as error:
            problem = _problem(error)
        else:
            return reading if flow.validate_parameters else value
    parameters = flow.signature.parameters
    parameter = (
        parameters[name] if name in parameters else list(parameters.values())[-1]
    )  # **anything
    advice = "" if is_json else _advice(name, kind)
    raise UsageError(
        f"-p {name}={text}: {problem}. The flow {flow.name!r} takes {_shown(parameter)}.{advice}"
    )


def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.errors.PydanticUserError:
        return pydantic.TypeAdapter(
            kind
        )  # models and dataclasses bring a configuration of their own


def _is_stream(kind: Any) -> bool:
    return kind in _STREAMS or typing.get_origin(kind) in _STREAMS


def _problem(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part!r}]" for part in first["loc"])
    return f"{path}: {first['msg']}" if path else first["msg"]


def _shown(parameter: Parameter) -> str:
    """The parameter as it is written in the signature."""
    annotation = parameter.annotation
    text = str(parameter)
    return text.replace(repr(annotation), annotation, 1) if isinstance(annotation, str) else text


def _advice(name: str, kind: Any) -> str:
    """How to write what is not plain text; a shell eats quotes that are not quoted themselves."""
    schema = _adapter(kind).json_schema() if kind is not Any else {}
    example = {"array": "[1, 2]", "object": '{"key": 1}'}.get(schema.get("type", ""))
    return f" Write it as JSON: -p '{name}={example}'" if example else ""
