"""Keys of values and arguments: the canonical walk, hashed, and its refusals in the user's words. Hot.

May import `walk` and `exceptions`.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

from shoal.exceptions import UnstableKeyError
from shoal.results.keys.walk import LEAVES, Unstable, Walk, text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["digest", "digest_arguments", "digest_call", "refuse"]

_name = lru_cache(4096)(text)


def digest(value: object, path: str = "value") -> bytes:
    """32 bytes that are the same for equal content in every process, and for no other content.

    Args:
        value: any value; futures in it must have been replaced by their results.
        path: what the value is called in an error.

    Raises:
        UnstableKeyError: the value, or something in it, has no content that tells it from others.
    """
    leaf = LEAVES.get(type(value))
    if leaf is not None:
        return sha256(leaf(value)).digest()
    try:
        return sha256(Walk().encode(value)).digest()
    except (Unstable, RecursionError) as error:
        refuse(error, path, value)


def digest_arguments(
    parameters: Mapping[str, object], task_name: str | None = None
) -> dict[str, bytes]:
    """The digest of each argument, 32 bytes.

    Args:
        parameters: the arguments by name.
        task_name: the task that they are for; errors name it.

    Raises:
        UnstableKeyError: one has no stable key; its path begins with "parameters['name']".
    """
    digests = {}
    leaves = LEAVES
    for name, value in parameters.items():
        leaf = leaves.get(type(value))
        if leaf is not None:
            digests[name] = sha256(leaf(value)).digest()
        else:
            try:
                digests[name] = sha256(Walk().encode(value)).digest()
            except (Unstable, RecursionError) as error:
                refuse(error, f"parameters[{name!r}]", value, task_name)
    return digests


def digest_call(task_name: str, parameters: Mapping[str, object]) -> bytes:
    """32 bytes for a task's name and all its arguments. Arguments and errors as for `digest_arguments`."""
    parts = [_name(task_name)]
    leaves = LEAVES
    for name in sorted(parameters):
        value = parameters[name]
        leaf = leaves.get(type(value))
        parts.append(_name(name))
        if leaf is not None:
            parts.append(leaf(value))
        else:
            try:
                parts.append(Walk().encode(value))
            except (Unstable, RecursionError) as error:
                refuse(error, f"parameters[{name!r}]", value, task_name)
    return sha256(b"".join(parts)).digest()


def refuse(
    error: Unstable | RecursionError, path: str, value: object, task_name: str | None = None
) -> NoReturn:
    """Raises the error that users see."""
    if isinstance(error, Unstable):
        kind, problem = error.kind, error.problem
        path += "".join(error.path)
    else:
        kind, problem = type(value), "it is nested too deep"
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise UnstableKeyError(
        path=path, type_name=name, problem=problem, task_name=task_name
    ) from error.__cause__
