"""Limits as they are shown, with who holds their slots and who waits for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shoal.limits.deciding import Row
from shoal.limits.store import Holder, Lease, Limit, Rate, Waiter

if TYPE_CHECKING:
    from shoal.limits.transaction import Transaction

__all__ = ["shown_limits"]


def shown_limits(t: Transaction, which: str, *values: Any) -> list[Limit]:
    """The limits that the rest of a SELECT says; what is over is left out, and left where it is."""
    rows = t.run(
        "SELECT id, name, slots, active, decay, stored, stored_at, rate_count, rate_seconds, created, updated"
        f" FROM limits {which}",
        *values,
    )
    return [_limit(t, *row) for row in rows]


def _limit(
    t: Transaction,
    id: str,
    name: str,
    slots: int,
    active: int,
    decay: float,
    stored: float,
    stored_at: float,
    count: int | None,
    seconds: float | None,
    created: float,
    updated: float,
) -> Limit:
    leases = tuple(
        Lease(Holder(id, *who), occupy, _moment(t, since))
        for id, occupy, since, *who in t.run(
            "SELECT id, occupy, since, run, host, pid, label FROM leases"
            " WHERE name = ? AND expires > ? ORDER BY since, id",
            *(name, t.now),
        )
    )
    waiters = tuple(
        Waiter(Holder(id, *who), occupy, _moment(t, since), behind)
        for id, occupy, since, behind, *who in t.run(
            "SELECT id, occupy, since, behind, run, host, pid, label FROM waiters"
            " WHERE name = ? AND expires > ? ORDER BY since, id",
            *(name, t.now),
        )
    )
    level = Row(name, slots, active, decay, stored, stored_at, count, seconds).level(t.now)
    if not decay:
        level += sum(lease.occupy for lease in leases)
    rate = None if count is None or seconds is None else Rate(count, seconds)
    return Limit(
        *(id, name, slots, bool(active), decay, level, rate, leases, waiters),
        *(_utc(created), _utc(updated)),
    )


def _moment(t: Transaction, moment: float) -> datetime:
    return _utc(t.wall - (t.now - moment))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
