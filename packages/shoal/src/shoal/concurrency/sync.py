"""Limits for code that blocks: `with concurrency(...)` and `rate_limit(...)`.

A wait for slots can be interrupted, and in a task it lends its worker to others. May import `blocks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.concurrency.blocks import SyncBlock, rate
from shoal.exceptions import AcquireConcurrencySlotTimeoutError, ConcurrencySlotAcquisitionError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AcquireConcurrencySlotTimeoutError",
    "ConcurrencySlotAcquisitionError",
    "concurrency",
    "rate_limit",
]


class concurrency(SyncBlock):
    """Holds slots of limits while a block of code runs, or, as a decorator, a function.

    Args:
        names: a limit's name, or several: slots of all are taken, or of none.
        occupy: slots of each.
        timeout_seconds: how long to wait for them at most; `None` for as long as it takes.
        max_retries: how often to try again where they are not free at once; `None` for as often as it takes.
        lease_duration: seconds after which the slots are free should this process die (on a worker: its driver); it is
            renewed as long as the process lives. By default `SHOAL_LIMITS_LEASE_SECONDS`, 30.
        strict: whether a limit that does not exist is an error. Else it limits nothing, and a warning says so once.
        holder: what is shown as the holder, beside the run: text, or what has a `type` and an `id`.
        raise_on_lease_renewal_failure: accepted for Prefect's sake. Slots that are lost (the process stood still for
            longer than its lease, or somebody reset the limit) are told in the log; what runs is never ended for it.

    Raises:
        AcquireConcurrencySlotTimeoutError: on entering: the slots were not free in time.
        ConcurrencySlotAcquisitionError: on entering: they cannot be had.
        BlockingWaitInLoop: on entering: this is the loop that runs async tasks, which it would block.
        InvalidOption: one of the arguments cannot be.

    Examples:
        >>> with concurrency("database", occupy=2, timeout_seconds=60):
        ...     copy_table("orders")
    """


def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
    *,
    per_minute: int | None = None,
    per_second: int | None = None,
) -> None:
    """Waits until slots of limits are free, and takes them: they come back by themselves, at the limits' rate.

    Args:
        names: a limit's name, or several.
        occupy: slots of each.
        timeout_seconds: how long to wait at most; `None` for as long as it takes.
        strict: whether a limit that does not exist is an error. Else it limits nothing, and a warning says so once.
        per_minute: a limit that does not exist is made: never more slots than this in any minute. One that exists at
            another rate stays as it is, and a warning says so once.
        per_second: likewise, in any second.

    Raises:
        AcquireConcurrencySlotTimeoutError: the slots were not free in time.
        ConcurrencySlotAcquisitionError: they cannot be had: the limit's slots do not decay, say.
        BlockingWaitInLoop: this is the loop that runs async tasks, which it would block.
        InvalidOption: one of the arguments cannot be.

    Examples:
        >>> for page in range(1000):
        ...     rate_limit("api", per_minute=600)
        ...     fetch(page)
    """
    rate(
        names,
        occupy,
        timeout_seconds,
        strict=strict,
        per_minute=per_minute,
        per_second=per_second,
    ).acquire()
