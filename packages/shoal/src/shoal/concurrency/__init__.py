"""Limits for any code: at most so many at once, or so many a second, in all processes that share the store of limits.

    sync.py     for code that blocks
    asyncio.py  for coroutines, under asyncio and trio
    both.py     one name for both
    blocks.py   what these are made of

`shoal.concurrency` itself has the names of `both`, which load on first use. May import `limits` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.concurrency.both import concurrency, rate_limit
    from shoal.exceptions import AcquireConcurrencySlotTimeoutError, ConcurrencySlotAcquisitionError

__all__ = [
    "AcquireConcurrencySlotTimeoutError",
    "ConcurrencySlotAcquisitionError",
    "concurrency",
    "rate_limit",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
    from importlib import import_module

    home = import_module("shoal.exceptions" if name.endswith("Error") else f"{__name__}.both")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
