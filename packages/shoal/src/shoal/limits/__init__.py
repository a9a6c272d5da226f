"""Limits on how many runs with a tag run at once, in all processes of one machine.

    settings.py   where limits are kept; whether there are any
    store.py      what a store of limits does, and the data it speaks of
    sqlite.py     the store in a file
    slots.py      takes slots for the runs of this process, and keeps and gives them back
    holding.py    slots for direct calls
    client.py     `ConcurrencyLimits`, for programs that manage limits

A run that needs slots asks `slots.KEEPER`. Where `settings.limits_in_use()` is false, nothing else is loaded or opened.

The public names below load on first access. May import `engine` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.limits.client import AsyncConcurrencyLimits, ConcurrencyLimits
    from shoal.limits.store import ConcurrencyLimit

__all__ = ["AsyncConcurrencyLimits", "ConcurrencyLimit", "ConcurrencyLimits"]

_HOMES = {
    "AsyncConcurrencyLimits": "client",
    "ConcurrencyLimit": "store",
    "ConcurrencyLimits": "client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f"{__name__}.{_HOMES[name]}")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
