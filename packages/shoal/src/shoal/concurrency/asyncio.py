"""Limits for coroutines, under asyncio and trio: `async with concurrency(...)` and `await rate_limit(...)`.

A wait for slots blocks no loop. May import `blocks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.concurrency.blocks import AsyncBlock, rate
from shoal.exceptions import AcquireConcurrencySlotTimeoutError, ConcurrencySlotAcquisitionError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AcquireConcurrencySlotTimeoutError",
    "ConcurrencySlotAcquisitionError",
    "concurrency",
    "rate_limit",
]


class concurrency(AsyncBlock):
    """As `shoal.concurrency.sync.concurrency`, with the same arguments, for `async with`.

    Raises:
        AcquireConcurrencySlotTimeoutError: on entering: the slots were not free in time.
        ConcurrencySlotAcquisitionError: on entering: they cannot be had.
        InvalidOption: one of the arguments cannot be.

    Examples:
        >>> async with concurrency("database", timeout_seconds=60):
        ...     await copy_table("orders")
    """


async def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
    *,
    per_minute: int | None = None,
    per_second: int | None = None,
) -> None:
    """As `shoal.concurrency.sync.rate_limit`, with the same arguments, to be awaited.

    Raises:
        AcquireConcurrencySlotTimeoutError: the slots were not free in time.
        ConcurrencySlotAcquisitionError: they cannot be had: the limit's slots do not decay, say.
        InvalidOption: one of the arguments cannot be.

    Examples:
        >>> async def fetch_politely(page: int) -> str:
        ...     await rate_limit("api", per_minute=600)
        ...     return await fetch(page)
    """
    await rate(
        names,
        occupy,
        timeout_seconds,
        strict=strict,
        per_minute=per_minute,
        per_second=per_second,
    ).acquire_async()
