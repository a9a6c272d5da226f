"""Validates and coerces a flow's parameters with pydantic. Imported on first use, because pydantic is heavy.

May import nothing of ours.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
import warnings
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
        A function that takes all arguments by name, defaults included, and how to make the error of a bad one
        (parameter, value, problem), and gives them coerced. What pydantic has no schema for is passed as it is.
    """
    import pydantic
    from pydantic.fields import FieldInfo

    hints = _hints(fn)
    validators: dict[str, Callable[[Any], Any]] = {}
    optional: set[str] = (
        set()
    )  # what may be `None` because it is so by default, as in `day: date = None`
    for parameter in inspect.signature(fn).parameters.values():
        annotation = hints.get(parameter.name, parameter.annotation)
        if parameter.default is None:
            optional.add(parameter.name)
        if isinstance(parameter.default, FieldInfo):
            known = annotation is not parameter.empty and not isinstance(annotation, str)
            annotation = typing.Annotated[annotation if known else Any, parameter.default]
        if annotation is parameter.empty or isinstance(annotation, str):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            annotation = types.GenericAlias(tuple, (annotation, ...))
        elif parameter.kind is parameter.VAR_KEYWORD:
            of_all = typing.get_origin(annotation) is typing.Unpack  # one for each name
            annotation = (
                typing.get_args(annotation)[0]
                if of_all
                else types.GenericAlias(dict, (str, annotation))
            )
        validator = _validator(annotation)
        if validator is not None:
            validators[parameter.name] = validator

    def validate(arguments: dict[str, Any], refusal: Refusal) -> dict[str, Any]:
        coerced = dict(arguments)
        for parameter, value in arguments.items():
            validator = validators.get(parameter)
            if validator is None:
                continue
            if isinstance(value, FieldInfo):  # a default that says more than a value
                if value.is_required():
                    raise refusal(parameter, None, "a value is required")
                value = value.get_default(call_default_factory=True)
            try:
                coerced[parameter] = validator((value,))[0]
            except pydantic.ValidationError as error:
                if value is None and parameter in optional:
                    continue
                first = error.errors(include_url=False)[0]
                path = "".join(
                    f"[{part!r}]" if isinstance(part, int) else f".{part}"
                    for part in first["loc"][1:]
                )
                raise refusal(parameter + path, value, first["msg"]) from error
        return coerced

    return validate


def _validator(annotation: Any) -> Callable[[Any], Any] | None:
    """Validates a tuple of one value; `None` if pydantic can make nothing of the annotation.

    A tuple, as only what is around a dataclass may say that its fields can be of any type.
    """
    import pydantic
    import pydantic_core

    config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of annotations that are no types
            of_one: Any = types.GenericAlias(tuple, (annotation,))
            adapter: Any = pydantic.TypeAdapter(of_one, config=config)
    except (
        pydantic.errors.PydanticUserError,
        pydantic.errors.PydanticUndefinedAnnotation,
        pydantic_core.SchemaError,
    ):
        return None
    if not getattr(adapter, "pydantic_complete", True):
        return None  # it names a type that does not exist, say one for type checkers only
    validate: Callable[[Any], Any] = adapter.validate_python
    return validate


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not inspect.isroutine(fn):
        fn = type(fn).__call__  # an object's annotations are those of its attributes
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
