"""Options of runners that are keyword arguments of something else. May import the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["copied", "is_kwargs"]


def copied(given: Any) -> Any:
    """A dictionary of the user's that will not change behind our back; anything else is for a check to refuse."""
    return dict(given) if isinstance(given, Mapping) else given


def is_kwargs(value: object) -> bool:
    """Whether something can be given as keyword arguments."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
