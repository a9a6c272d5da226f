"""What a rate has given out, so that no window of time has more than its count.

    guarantees   Slots have numbers, in the order in which they are given out, which is also that of their times. One is
                 given only when the slot `count` numbers before it lies a window back. So who comes late delays the slot
                 that is `count` further, and no others.
    assumes      Its limit is locked. Nothing is given out for later than `AHEAD`.

Numbers are kept in parts, each with the time of its last slot, so a limit has some 2,000 rows at most, whatever its count.

May import `deciding` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.limits.deciding import AHEAD, Given

if TYPE_CHECKING:
    from shoal.limits.deciding import Row
    from shoal.limits.transaction import Transaction

__all__ = ["given", "note"]

#: Into which a rate's count is divided. A slot counts as given out when the last of its part was.
PARTS = 1000

#: Seconds by which a window is longer than the rate says, for the delay between a slot's time and the call it is for.
DELAY = 0.01


def given(t: Transaction, row: Row, occupy: int) -> Given:
    """What of a rate was given out, and when there is room for so many slots."""
    count, seconds = row.rate_count, row.rate_seconds
    if count is None or seconds is None:
        return Given()
    found = t.run(
        "SELECT last.total, last.at, (SELECT at FROM given_out WHERE name = ? AND part >= (last.total + ? - ?) / ?"
        " ORDER BY part LIMIT 1) FROM (SELECT total, at FROM given_out WHERE name = ? ORDER BY part DESC LIMIT 1) AS last",
        *(row.name, occupy, count, _part_size(count), row.name),
    )
    if not found:
        return Given()
    ((total, last, before),) = found
    if last > t.now + 2 * AHEAD:  # somebody has set the clock back
        return Given(total)
    return Given(total, last if total + occupy <= count else max(last, before + seconds + DELAY))


def note(t: Transaction, row: Row, before: Given, occupy: int, at: float) -> None:
    """Slots of a rate are given out, for a moment of the store's clock."""
    if row.rate_count is None:
        return
    total, size = before.total + occupy, _part_size(row.rate_count)
    t.do(
        "INSERT INTO given_out VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name, part) DO UPDATE SET total = excluded.total, at = excluded.at",
        *(row.name, total // size, total, at),
    )
    if total // row.rate_count > before.total // row.rate_count:
        needed = (total + 1 - row.rate_count) // size
        t.do("DELETE FROM given_out WHERE name = ? AND part < ?", row.name, needed)


def _part_size(count: int) -> int:
    return -(-count // PARTS)
