"""What both stores do, in the SQL that both databases understand: three tables, limits, leases and waiters.

    guarantees   Each method is one transaction. It first locks the rows of the limits that it is about, in the order of
                 their names, so what it counts still holds when it writes, and no two wait for each other.
    assumes      Moments (`expires`, `since`, `stored_at`) are seconds of one clock, the store's; `created` and `updated`
                 are seconds since the epoch.

What is taken of a limit without slot decay are its living leases, and `stored`, what somebody has set by hand. With slot
decay it is `stored`, which falls by `decay` a second; a lease that ends takes its slots off it, too.

A waiter stands in line at each name at which it had to wait once, ordered by how long its owner has waited, and there
nobody passes it. So who wants several slots, or slots of several limits, is not starved; and as it stands in no line of
a limit that had room for it, it holds up none that could run.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.showing import shown_limits
from shoal.limits.store import TAG, Acquired, Busy, Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from contextlib import AbstractContextManager

    from shoal.limits.store import Answer, Limit, Request
    from shoal.limits.transaction import Transaction

__all__ = ["AHEAD", "STANDING", "SqlStore"]

#: Seconds for which a waiter keeps its places in line without asking again.
STANDING = 5.0

#: Seconds that slots of a rate are given out ahead of their time. So no slot's time passes by unused while who has
#: asked for it is being told.
AHEAD = 0.05

#: What is left of a sum of floats that should be 0.
ALMOST = 1e-6

_ROW = "name, slots, active, decay, stored, stored_at, rate_count, rate_seconds"


class _Row(NamedTuple):
    """A limit that is locked; see `Limit`."""

    name: str
    slots: int
    active: int
    decay: float
    stored: float
    stored_at: float
    rate_count: int | None
    rate_seconds: float | None

    def level(self, now: float) -> float:
        """What is left of `stored`."""
        return max(0.0, self.stored - self.decay * max(0.0, now - self.stored_at))


class _Use(NamedTuple):
    """What of a limit is leased: slots of others, slots whose leases are over, whether one asks again, the next end."""

    taken: int = 0
    over: int = 0
    mine: int = 0
    ends: float | None = None


class SqlStore(ABC):
    """A `LimitStore` in an SQL database; see there for the methods."""

    #: Makes a SELECT lock its rows.
    locks = ""

    def __init__(self) -> None:
        self.address = ""  # to be told of what was given back; none before anybody stands in line

    # ------------------------------------------------------------------ what databases do in their own ways

    @abstractmethod
    def _transaction(self, name: str) -> AbstractContextManager[Transaction]:
        """One transaction, undone if the block raises; the database's errors are told as those of a limit."""

    @abstractmethod
    def _exists(self) -> bool:
        """Whether there may be anything in it."""

    @abstractmethod
    def _among(self, column: str, values: Collection[str]) -> tuple[str, Any]:
        """A condition that a column has one of some values, and what is to be bound."""

    @abstractmethod
    def _listen(self) -> None:
        """Gets an address; before the first waiter of this process stands in line."""

    # ------------------------------------------------------------------ limits

    def upsert(self, name: str, limit: int, **changes: Any) -> Limit:
        """See `LimitStore`."""
        with self._transaction(name) as t:
            made = self._make(t, name, limit)
            self._change(t, name, limit=None if made else limit, **changes)
            return self._show(t, name)

    def create(self, name: str, limit: int, **changes: Any) -> Limit | None:
        """See `LimitStore`."""
        with self._transaction(name) as t:
            if not self._make(t, name, limit):
                return None
            self._change(t, name, **changes)
            return self._show(t, name)

    def update(self, name: str, *, new_name: str | None = None, **changes: Any) -> Limit | None:
        """See `LimitStore`."""
        if not self._exists():
            return None
        renamed = new_name is not None and new_name != name
        with self._transaction(name) as t:
            rows = self._lock(t, [name, new_name or name])
            if all(row.name != name for row in rows):
                return None
            if renamed and len(rows) > 1:
                raise ConcurrencyLimitError(
                    tag=name, problem=f"there is a limit of the name {new_name!r} already"
                )
            self._change(t, name, **changes)
            if renamed:
                for table in ("limits", "leases", "waiters"):
                    t.run(f"UPDATE {table} SET name = ? WHERE name = ?", new_name, name)
            return self._show(t, new_name or name)

    def read(self, name: str) -> Limit | None:
        """See `LimitStore`."""
        if not self._exists():
            return None
        with self._transaction(name) as t:
            found = shown_limits(t, "WHERE name = ?", name)
        return found[0] if found else None

    def read_all(self, limit: int | None, offset: int, *, tags: bool | None = None) -> list[Limit]:
        """See `LimitStore`."""
        if not self._exists():
            return []
        which = "" if tags is None else f"WHERE name {'LIKE' if tags else 'NOT LIKE'} '{TAG}%' "
        part = (1 << 62 if limit is None else limit, offset)
        with self._transaction("*") as t:
            return shown_limits(t, f"{which}ORDER BY name LIMIT ? OFFSET ?", *part)

    def delete(self, name: str) -> bool:
        """See `LimitStore`."""
        if not self._exists():
            return False
        with self._transaction(name) as t:
            if not self._lock(t, [name]):
                return False
            self._ring_all(t, name)
            for table in ("leases", "waiters", "limits"):
                t.run(f"DELETE FROM {table} WHERE name = ?", name)
            return True

    def reset(self, name: str) -> bool:
        """See `LimitStore`."""
        return self.update(name, active_slots=0) is not None

    def _make(
        self, t: Transaction, name: str, slots: int, decay: float = 0.0, request: Any = None
    ) -> bool:
        """A new limit; returns False if there is one."""
        rate = (None, None) if request is None else (request.rate.count, request.rate.seconds)
        if self._lock(t, [name]):
            return False
        values = (name, str(uuid.uuid4()), slots, 1, decay, 0.0, t.now, *rate, t.wall, t.wall)
        t.run(
            f"INSERT INTO limits VALUES ({', '.join('?' * len(values))}) ON CONFLICT (name) DO NOTHING",
            *values,
        )
        return True

    def _change(
        self,
        t: Transaction,
        name: str,
        *,
        limit: int | None = None,
        decay: float | None = None,
        active: bool | None = None,
        active_slots: int | None = None,
    ) -> None:
        taken = self._uses(t, self._lock(t, [name]), "")[name].taken
        (row,) = self._lock(t, [name])  # anew: slots of leases that were over came off it
        stored = row.level(t.now)
        if decay is not None and (decay > 0) != (row.decay > 0):
            stored = stored + taken if decay > 0 else 0.0
        if active_slots is not None:
            stored = float(active_slots)
            if not (row.decay if decay is None else decay) or not active_slots:
                stored -= self._drop(t, name, taken, active_slots)
        if limit is not None or decay is not None:
            t.run("UPDATE limits SET rate_count = NULL, rate_seconds = NULL WHERE name = ?", name)
        t.run(
            "UPDATE limits SET slots = ?, decay = ?, active = ?, stored = ?, stored_at = ?, updated = ?"
            " WHERE name = ?",
            row.slots if limit is None else limit,
            row.decay if decay is None else decay,
            row.active if active is None else int(active),
            *(stored, t.now, t.wall, name),
        )
        self._ring_all(t, name)

    def _drop(self, t: Transaction, name: str, taken: int, most: int) -> int:
        """Drops leases, the oldest first, until no more than `most` slots are leased; returns how many are left."""
        leases = t.run("SELECT id, occupy FROM leases WHERE name = ? ORDER BY since, id", name)
        for id, occupy in leases:
            if taken <= most:
                break
            t.run("DELETE FROM leases WHERE name = ? AND id = ?", name, id)
            taken -= occupy
        return taken

    def _show(self, t: Transaction, name: str) -> Limit:
        return shown_limits(t, "WHERE name = ?", name)[0]

    # ------------------------------------------------------------------ slots are taken

    def try_acquire(
        self,
        request: Request,
        waited_seconds: float | None = None,
        *,
        patience: float | None = None,
        behind: int = 0,
        stand: bool = True,
    ) -> Answer:
        """See `LimitStore`."""
        names = sorted(filter(_is_text, request.names))
        if not names or not (self._exists() or request.rate):
            return _answer(request, [], 0.0)
        with self._transaction(names[0]) as t:
            rows = self._lock(t, names)
            if request.rate is not None and len(rows) < len(names):
                rate = request.rate
                for name in set(names) - {row.name for row in rows}:
                    self._make(t, name, rate.burst, rate.decay, request)
                rows = self._lock(t, names)
            me = request.holder.id
            stood = None if waited_seconds is None else self._stood_since(t, me)
            since = t.now - (waited_seconds or 0.0) if stood is None else stood
            answer = self._decide(t, rows, request, since, patience, stand)
            if isinstance(answer, Busy):
                if stand:
                    self._stand(t, answer.names, request, since, behind)
            elif stood is not None:
                self._leave(t, [me], names)
            return answer

    def _decide(
        self,
        t: Transaction,
        rows: list[_Row],
        request: Request,
        since: float,
        patience: float | None,
        stand: bool,
    ) -> Answer:
        """Takes the slots if it can."""
        limits = [row for row in rows if row.active]
        missing = request.names - {row.name for row in rows}
        if request.strict and missing:
            return Refused(min(missing), "there is no limit of this name")
        for row in limits:
            if problem := _impossible(row, request):
                return Refused(row.name, problem)
        if not limits:
            return _answer(request, rows, 0.0)
        uses = self._uses(t, limits, request.holder.id)
        waits = self._before(t, limits, request.holder.id, since) if stand else {}
        charges: dict[str, float] = {}
        after = 0.0
        for row in limits:
            use, level = uses[row.name], row.level(t.now)
            if use.over and row.decay:
                level = max(0.0, level - use.over)
            if row.decay:
                fit = _fit_decay(row, level, request, patience)
                charge = 0 if use.mine else fit.charge
                wait = None if use.mine else fit.wait
                charges[row.name] = level + charge
                after = max(after, fit.after)
            else:
                is_full = use.taken + row.stored + request.occupy > row.slots
                own = self._held_by(t, row.name, request.within) if is_full else 0
                if own and own + request.occupy > row.slots:
                    return Refused(row.name, _for_itself(row, own, request.occupy))
                wait = (use.ends or t.now + STANDING) - t.now if is_full else None
            if wait is not None:
                waits[row.name] = max(wait, waits.get(row.name, 0.0))
        if waits:
            return Busy(frozenset(waits), max(waits.values()))
        for name, stored in charges.items():
            t.run("UPDATE limits SET stored = ?, stored_at = ? WHERE name = ?", stored, t.now, name)
        if request.lease_seconds is not None:
            self._lease(t, [row.name for row in limits], request, request.lease_seconds)
        return _answer(request, rows, after)

    def _lease(self, t: Transaction, names: list[str], request: Request, seconds: float) -> None:
        who = request.holder
        for name in names:
            t.run(
                "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (name, id) DO UPDATE SET expires = excluded.expires",
                *(name, who.id, request.occupy, t.now + seconds, t.now),
                *(who.run, who.host, who.pid, who.label),
            )

    def _lock(self, t: Transaction, names: Iterable[str]) -> list[_Row]:
        """Those of these limits that exist, in the order of their names; nobody else changes them or what is theirs."""
        among, values = self._among("name", sorted(set(names)))
        rows = t.run(f"SELECT {_ROW} FROM limits WHERE {among} ORDER BY name{self.locks}", values)
        return [_Row(*row) for row in rows]

    def _uses(self, t: Transaction, rows: Sequence[_Row], me: str) -> dict[str, _Use]:
        """What is leased of limits; leases that are over are removed, others', and their slots come off `stored`."""
        among, values = self._among("name", [row.name for row in rows])
        now = t.now
        found = t.run(
            "SELECT name, CAST(SUM(CASE WHEN expires > ? AND id <> ? THEN occupy ELSE 0 END) AS BIGINT),"
            " CAST(SUM(CASE WHEN expires <= ? AND id <> ? THEN occupy ELSE 0 END) AS BIGINT),"
            " MAX(CASE WHEN id = ? THEN 1 ELSE 0 END), MIN(CASE WHEN expires > ? THEN expires END)"
            f" FROM leases WHERE {among} GROUP BY name",
            *(now, me, now, me, me, now, values),
        )
        uses = {row.name: _Use() for row in rows} | {name: _Use(*use) for name, *use in found}
        if any(use.over for use in uses.values()):
            t.run(f"DELETE FROM leases WHERE {among} AND expires <= ? AND id <> ?", values, now, me)
            for row in rows:
                if row.decay and (over := uses[row.name].over):
                    self._take_off(t, row, over)
        return uses

    def _held_by(self, t: Transaction, name: str, ids: Collection[str]) -> int:
        """How many slots of a limit some ids have."""
        if not ids:
            return 0
        among, values = self._among("id", ids)
        ((own,),) = t.run(
            f"SELECT CAST(SUM(occupy) AS BIGINT) FROM leases WHERE name = ? AND {among} AND expires > ?",
            *(name, values, t.now),
        )
        return own or 0

    def _take_off(self, t: Transaction, row: _Row, occupy: float) -> None:
        t.run(
            "UPDATE limits SET stored = ?, stored_at = ? WHERE name = ?",
            *(max(0.0, row.level(t.now) - occupy), t.now, row.name),
        )

    # ------------------------------------------------------------------ lines

    def _stood_since(self, t: Transaction, me: str) -> float | None:
        ((since,),) = t.run("SELECT MIN(since) FROM waiters WHERE id = ?", me)
        return None if since is None else float(since)

    def _before(
        self, t: Transaction, rows: Sequence[_Row], me: str, since: float
    ) -> dict[str, float]:
        """The names at which somebody stands in line before one, and in how many seconds that may be over at the latest."""
        among, values = self._among("name", [row.name for row in rows])
        found = t.run(
            f"SELECT name, MAX(expires) FROM waiters WHERE {among} AND expires > ? AND id <> ?"
            " AND (since < ? OR (since = ? AND id < ?)) GROUP BY name",
            *(values, t.now, me, since, since, me),
        )
        return {name: expires - t.now for name, expires in found}

    def _stand(
        self, t: Transaction, names: Collection[str], request: Request, since: float, behind: int
    ) -> None:
        if not self.address:
            self._listen()
        who = request.holder
        among, values = self._among("name", sorted(names))
        t.run(f"DELETE FROM waiters WHERE {among} AND expires <= ?", values, t.now)
        for name in sorted(names):
            t.run(
                "INSERT INTO waiters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name, id)"
                " DO UPDATE SET expires = excluded.expires, behind = excluded.behind, address = excluded.address",
                *(name, who.id, request.occupy, since, t.now + STANDING, self.address, behind),
                *(who.run, who.host, who.pid, who.label),
            )

    def _leave(self, t: Transaction, ids: Collection[str], names: Collection[str]) -> None:
        """Leaves all lines, which are among those of `names`; the next ones there are told."""
        among, values = self._among("id", ids)
        t.run(f"DELETE FROM waiters WHERE {among}", values)
        self._ring_first(t, names)

    def _ring_first(self, t: Transaction, names: Iterable[str]) -> None:
        for name in names:
            for (address,) in t.run(
                "SELECT address FROM waiters WHERE name = ? AND expires > ? ORDER BY since, id LIMIT 1",
                *(name, t.now),
            ):
                t.rings.add(address)
        t.rings.discard(self.address)

    def _ring_all(self, t: Transaction, name: str) -> None:
        t.rings.update(a for (a,) in t.run("SELECT address FROM waiters WHERE name = ?", name))
        t.rings.discard(self.address)

    # ------------------------------------------------------------------ slots are kept and given back

    def renew(self, ids: Collection[str], lease_seconds: float) -> dict[str, set[str]]:
        """See `LimitStore`. A lease that is over counts again if nobody has looked for its slot meanwhile."""
        kept: dict[str, set[str]] = {}
        if not ids or not self._exists():
            return kept
        with self._transaction("*") as t:
            if self._lock_those_of(t, "leases", ids):
                among, values = self._among("id", ids)
                t.run(f"UPDATE leases SET expires = ? WHERE {among}", t.now + lease_seconds, values)
                for id, name in t.run(f"SELECT id, name FROM leases WHERE {among}", values):
                    kept.setdefault(id, set()).add(name)
        return kept

    def release(self, ids: Collection[str]) -> None:
        """See `LimitStore`."""
        if not ids or not self._exists():
            return
        with self._transaction("*") as t:
            rows = self._lock_those_of(t, "leases", ids)
            if not rows:
                return
            among, values = self._among("id", ids)
            if any(row.decay for row in rows):
                sums = dict(
                    t.run(
                        f"SELECT name, CAST(SUM(occupy) AS BIGINT) FROM leases WHERE {among} GROUP BY name",
                        values,
                    )
                )
                for row in rows:
                    if row.decay:
                        self._take_off(t, row, sums.get(row.name, 0))
            t.run(f"DELETE FROM leases WHERE {among}", values)
            self._ring_first(t, [row.name for row in rows])

    def withdraw(self, ids: Collection[str]) -> None:
        """See `LimitStore`."""
        if not ids or not self._exists():
            return
        with self._transaction("*") as t:
            rows = self._lock_those_of(t, "waiters", ids)
            if rows:
                self._leave(t, ids, [row.name for row in rows])

    def _lock_those_of(self, t: Transaction, table: str, ids: Collection[str]) -> list[_Row]:
        """Locks the limits at which ids have leases, or stand in line."""
        among, values = self._among("id", ids)
        names = [
            name for (name,) in t.run(f"SELECT DISTINCT name FROM {table} WHERE {among}", values)
        ]
        return self._lock(t, names) if names else []


# ---------------------------------------------------------------------- pure


class _Fit(NamedTuple):
    """How a request fits a limit with slot decay: seconds to wait before it can, what it costs, and from when on it counts."""

    wait: float | None
    charge: float
    after: float


def _fit_decay(row: _Row, level: float, request: Request, patience: float | None) -> _Fit:
    occupy = request.occupy
    after = max(0.0, (level + occupy - row.slots - ALMOST) / row.decay)
    if request.lease_seconds is not None:
        return _Fit(after or None, occupy, 0.0)
    # More than the limit is paid for twice but for the limit: once before, for who came in the window before, and
    # once after, for who comes in the window after. So no window has more than a rate's count.
    charge = occupy + max(0, occupy - row.slots)
    ahead = (level + min(occupy, row.slots) - row.slots) / row.decay - AHEAD
    if ahead > ALMOST:
        return _Fit(ahead, charge, after)
    if patience is not None and after > patience:
        return _Fit(after, charge, after)
    return _Fit(None, charge, after)


def _impossible(row: _Row, request: Request) -> str | None:
    """Why waiting for this limit is no use."""
    if request.lease_seconds is None and not row.decay:
        return "its slots do not decay, so it gives no rate: set a slot decay, or use `concurrency`"
    most = row.slots
    if request.lease_seconds is None and row.rate_count is not None:
        most = row.rate_count
    if request.occupy <= most:
        return None
    if row.slots == 0:
        what = "runs with this tag" if row.name.startswith(TAG) else "what needs a slot of it"
        return f"it is 0, so {what} must not start; set a higher one to allow them"
    return f"it has {most} slots, fewer than the {request.occupy} that are asked for at once"


def _for_itself(row: _Row, own: int, occupy: int) -> str:
    return (
        f"who asks for {occupy} of its {row.slots} slots holds {own} already, and would wait for itself: take all that is"
        " needed at once, or give back first"
    )


def _answer(request: Request, rows: list[_Row], after: float) -> Answer:
    missing = request.names - {row.name for row in rows}
    if request.strict and missing:
        return Refused(min(missing), "there is no limit of this name")
    taken = frozenset(row.name for row in rows if row.active)
    rate = request.rate
    others = {
        row.name: row.decay
        for row in rows
        if rate is not None and (rate.count, rate.seconds) != (row.rate_count, row.rate_seconds)
    }
    return Acquired(taken, missing, after, others)


def _is_text(name: str) -> bool:
    """Whether a database can store it; else there is no limit of this name. SQLite's JSON ends at a NUL."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False
