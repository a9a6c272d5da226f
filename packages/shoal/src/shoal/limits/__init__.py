"""Limits: how many of something run at once or in a time, in all processes that share a store.

    settings.py   where limits are kept; whether there are any
    store.py      what a store of limits does, and the data it speaks of
    deciding.py   whether who asks gets slots
    windows.py    what rates have given out of late
    tables.py     what every store does, in SQL
    showing.py    limits as they are shown
    transaction.py  what that is written in
    sqlite.py     the store in a file
    postgres.py   the store in a PostgreSQL database
    opening.py    opens the store of the settings
    slots.py      takes slots for who asks in this process, and keeps and gives them back
    refusals.py   the errors of those who get none
    register.py   who waits and who holds in this process
    serving.py    what the thread that does so does with the store
    lines.py      in which lines they stand
    stuck_askers.py  who of them would wait for ever, and what keeps the others waiting
    alarms.py     what the thread has to do when
    bell.py       what it sleeps on
    holding.py    slots of the limits of tags, for dispatchers and for direct calls
    acquiring.py  slots for code that asks by itself: what `shoal.concurrency` is made of
    client.py     `ConcurrencyLimits`, for programs that manage limits

A run that needs slots asks `slots.KEEPER`. Where `settings.limits_in_use()` is false, nothing else is loaded or opened.

The public names below load on first access. May import `engine` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.limits.client import (
        AsyncConcurrencyLimits,
        ConcurrencyLimits,
        GlobalConcurrencyLimitCreate,
        GlobalConcurrencyLimitUpdate,
    )
    from shoal.limits.store import ConcurrencyLimit, Holder, Lease, Limit, Rate, Waiter

__all__ = [
    "AsyncConcurrencyLimits",
    "ConcurrencyLimit",
    "ConcurrencyLimits",
    "GlobalConcurrencyLimitCreate",
    "GlobalConcurrencyLimitUpdate",
    "Holder",
    "Lease",
    "Limit",
    "Rate",
    "Waiter",
]

_HOMES = {
    "AsyncConcurrencyLimits": "client",
    "ConcurrencyLimit": "store",
    "ConcurrencyLimits": "client",
    "GlobalConcurrencyLimitCreate": "client",
    "GlobalConcurrencyLimitUpdate": "client",
    "Holder": "store",
    "Lease": "store",
    "Limit": "store",
    "Rate": "store",
    "Waiter": "store",
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
