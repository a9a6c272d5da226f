"""Limits under one name, for code that blocks and for coroutines. May import its siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.concurrency import asyncio, sync
from shoal.concurrency.blocks import AsyncBlock, SyncBlock, refuse_in_loop
from shoal.limits.acquiring import in_event_loop

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["concurrency", "rate_limit"]


class concurrency(SyncBlock, AsyncBlock):
    """As `shoal.concurrency.sync.concurrency`, with the same arguments: for `with`, for `async with`, and as a decorator
    of functions and of coroutine functions.

    Raises:
        AcquireConcurrencySlotTimeoutError: on entering: the slots were not free in time.
        ConcurrencySlotAcquisitionError: on entering: they cannot be had.
        BlockingWaitInLoop: on entering it with `with` where an event loop runs: it has to be `async with` there.
        InvalidOption: one of the arguments cannot be.
    """

    def __enter__(self) -> None:
        refuse_in_loop(self._what.names)
        super().__enter__()


def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
    *,
    per_minute: int | None = None,
    per_second: int | None = None,
) -> Any:
    """As `shoal.concurrency.sync.rate_limit`, with the same arguments.

    Returns:
        Where an event loop runs, what is to be awaited; else `None`, when the slots are taken.

    Raises:
        AcquireConcurrencySlotTimeoutError: the slots were not free in time.
        ConcurrencySlotAcquisitionError: they cannot be had: the limit's slots do not decay, say.
        InvalidOption: one of the arguments cannot be.
    """
    take = asyncio.rate_limit if in_event_loop() else sync.rate_limit
    return take(
        names, occupy, timeout_seconds, strict, per_minute=per_minute, per_second=per_second
    )
