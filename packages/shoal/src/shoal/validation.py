"""Validates and coerces a flow's parameters with pydantic. Imported on first use, because pydantic is heavy.

May import nothing of ours.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

__all__ = ["parameter_model"]

Refusal = Callable[[str, Any, str], Exception]


def parameter_model(
    fn: Callable[..., Any],
) -> Callable[[dict[str, Any], Refusal], dict[str, Any]]:
    """Makes the validator of a function's parameters.

    Args:
        fn: the function; annotations given as text are looked up in its module.

    Returns:
        A function that takes given arguments by name, and how to make the error of a bad one (parameter, value,
        problem), and gives them coerced.
    """
    import pydantic

    config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    hints = _hints(fn)
    adapters: dict[str, Any] = {}
    for parameter in inspect.signature(fn).parameters.values():
        annotation = hints.get(parameter.name, parameter.annotation)
        if annotation is parameter.empty or isinstance(annotation, str):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            annotation = types.GenericAlias(tuple, (annotation, ...))
        elif parameter.kind is parameter.VAR_KEYWORD:
            annotation = types.GenericAlias(dict, (str, annotation))
        adapters[parameter.name] = _adapter(pydantic, annotation, config)

    def validate(arguments: dict[str, Any], refusal: Refusal) -> dict[str, Any]:
        coerced = dict(arguments)
        for parameter, value in arguments.items():
            adapter = adapters.get(parameter)
            if adapter is None:
                continue
            try:
                coerced[parameter] = adapter.validate_python(value)
            except pydantic.ValidationError as error:
                first = error.errors(include_url=False)[0]
                path = "".join(
                    f"[{part!r}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
                )
                raise refusal(parameter + path, value, first["msg"]) from error
        return coerced

    return validate


def _adapter(pydantic: Any, annotation: Any, config: Any) -> Any:
    try:
        return pydantic.TypeAdapter(annotation, config=config)
    except pydantic.errors.PydanticUserError:
        return pydantic.TypeAdapter(
            annotation
        )  # models and dataclasses bring a config of their own


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except (NameError, TypeError):
        pass  # a name that exists only for type checkers: look each annotation up by itself
    plain = inspect.unwrap(fn)
    names = getattr(plain, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(plain, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints.update(typing.get_type_hints(holder, names, include_extras=True))
        except (NameError, TypeError):
            continue  # this one is passed as it is
    return hints
