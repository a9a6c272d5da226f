"""What both stores do, in the SQL that both databases understand: tables of limits, leases, waiters, and what rates gave out.

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
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.deciding import STANDING, LinePlace, Row, Use, decide, free_of_limits
from shoal.limits.showing import shown_limits
from shoal.limits.store import TAG, Acquired, Busy
from shoal.limits.windows import given, note

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from shoal.limits.deciding import Given, Verdict
    from shoal.limits.store import Answer, Limit, Request
    from shoal.limits.transaction import Query, Transaction

__all__ = ["SqlStore"]

_ROW = "name, slots, active, decay, stored, stored_at, rate_count, rate_seconds"


class SqlStore(ABC):
    """A `LimitStore` in an SQL database; see there for the methods."""

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
            t.lasting = True
            made = self._make(t, name, limit)
            self._change(t, name, limit=None if made else limit, **changes)
            return self._show(t, name)

    def create(self, name: str, limit: int, **changes: Any) -> Limit | None:
        """See `LimitStore`."""
        with self._transaction(name) as t:
            t.lasting = True
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
            t.lasting = True
            rows = self._lock(t, [name, new_name or name])
            if all(row.name != name for row in rows):
                return None
            if renamed and len(rows) > 1:
                raise ConcurrencyLimitError(
                    tag=name, problem=f"there is a limit of the name {new_name!r} already"
                )
            self._change(t, name, **changes)
            if renamed:
                for table in ("limits", "leases", "waiters", "given_out"):
                    t.do(f"UPDATE {table} SET name = ? WHERE name = ?", new_name, name)
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
        # Not LIKE, to which "Tag:" is the same in SQLite.
        is_one = f"substr(name, 1, {len(TAG)}) {'=' if tags else '<>'} '{TAG}'"
        which = "" if tags is None else f"WHERE {is_one} "
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
            t.lasting = True
            self._ring_all(t, name)
            for table in ("leases", "waiters", "given_out", "limits"):
                t.do(f"DELETE FROM {table} WHERE name = ?", name)
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
        id = str(uuid.uuid4())
        values = (name, id, slots, 1, decay, 0.0, t.now, *rate, t.wall, t.wall)
        t.do(
            f"INSERT INTO limits VALUES ({', '.join('?' * len(values))}) ON CONFLICT (name) DO NOTHING",
            *values,
        )
        # Another session may have made it since: there was no row yet to be locked.
        return t.run("SELECT id FROM limits WHERE name = ?", name) == [(id,)]

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
        rows = self._lock(t, [name])
        taken = self._uses(t, rows, "", t.run(*self._uses_query(t, rows, "")))[name].taken
        (row,) = self._lock(t, [name])  # anew: slots of leases that were over came off it
        stored = row.level(t.now)
        if decay is not None and (decay > 0) != (row.decay > 0):
            stored = stored + taken if decay > 0 else 0.0
        if active_slots is not None:
            stored = float(active_slots)
            if not (row.decay if decay is None else decay) or not active_slots:
                stored -= self._drop(t, name, taken, active_slots)
        if limit is not None or decay is not None or active_slots is not None:
            t.do("DELETE FROM given_out WHERE name = ?", name)
        if limit is not None or decay is not None:
            t.do("UPDATE limits SET rate_count = NULL, rate_seconds = NULL WHERE name = ?", name)
        t.do(
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
            t.do("DELETE FROM leases WHERE name = ? AND id = ?", name, id)
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
        passes: Collection[str] = (),
        stand: bool = True,
    ) -> Answer:
        """See `LimitStore`."""
        names = sorted(filter(_is_text, request.names))
        if not names or not (self._exists() or request.rate):
            return free_of_limits(request)
        with self._transaction(names[0]) as t:
            rows = self._lock(t, names)
            if request.rate is not None and len(rows) < len(names):
                rate = request.rate
                for name in set(names) - {row.name for row in rows}:
                    self._make(t, name, rate.burst, rate.decay, request)
                rows = self._lock(t, names)
            if not rows:
                return free_of_limits(request)
            uses, places = self._look(t, rows, request, stand=stand)
            before = {row.name: given(t, row, request.occupy) for row in rows}
            decision = decide(
                request,
                rows,
                uses,
                places,
                before,
                now=t.now,
                waited_seconds=waited_seconds or 0.0,
                patience=patience,
                passes=passes,
            )
            self._carry_out(t, rows, before, request, decision, behind if stand else None)
        return decision.answer

    def _carry_out(
        self,
        t: Transaction,
        rows: Sequence[Row],
        before: Mapping[str, Given],
        request: Request,
        decision: Verdict,
        behind: int | None,
    ) -> None:
        """Writes what was decided; `behind` is `None` for who does not stand in line."""
        answer = decision.answer
        if isinstance(answer, Busy):
            if behind is not None:
                self._stand(t, answer.names, request, decision.since, behind)
            return
        if decision.stood:
            t.do("DELETE FROM waiters WHERE id = ?", request.holder.id)
        for address in decision.rings - {self.address}:
            t.ring(address)
        t.lasting = isinstance(answer, Acquired)
        if not isinstance(answer, Acquired):
            return
        for row in rows:
            if (stored := decision.stored.get(row.name)) is not None:
                self._store(t, row.name, stored)
                note(t, row, before[row.name], request.occupy, t.now + answer.after)
        if request.lease_seconds is not None:
            names = [row.name for row in rows if row.active]
            self._lease(t, names, request, request.lease_seconds)

    def _lease(self, t: Transaction, names: list[str], request: Request, seconds: float) -> None:
        who = request.holder
        for name in names:
            t.do(
                "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (name, id) DO UPDATE SET expires = excluded.expires",
                *(name, who.id, request.occupy, t.now + seconds, t.now),
                *(who.run, who.host, who.pid, who.label),
            )

    def _lock(self, t: Transaction, names: Iterable[str]) -> list[Row]:
        """Those of these limits that exist, in the order of their names; nobody else changes them or what is theirs."""
        among, values = self._among("name", sorted(set(names)))
        return self._locked(t, f"WHERE {among}", values)

    def _locked(self, t: Transaction, which: str, values: Any) -> list[Row]:
        return [
            Row(*row) for row in t.lock(f"SELECT {_ROW} FROM limits {which} ORDER BY name", values)
        ]

    def _look(
        self, t: Transaction, rows: Sequence[Row], request: Request, *, stand: bool
    ) -> tuple[dict[str, Use], list[LinePlace]]:
        """What is leased of limits, and who stands in line there."""
        among, values = self._among("name", [row.name for row in rows])
        queries = [self._uses_query(t, rows, request.holder.id, request.within)]
        if stand:
            queries.append(
                (
                    f"SELECT name, since, id, expires, address FROM waiters WHERE {among}"
                    " AND (expires > ? OR id = ?) ORDER BY since, id",
                    *(values, t.now, request.holder.id),
                )
            )
        used, *places = t.ask(*queries)
        uses = self._uses(t, rows, request.holder.id, used)
        return uses, [LinePlace(*place) for found in places for place in found]

    def _uses_query(
        self, t: Transaction, rows: Sequence[Row], me: str, within: Collection[str] = ()
    ) -> Query:
        among, values = self._among("name", [row.name for row in rows])
        own, ids = self._among("id", within) if within else ("0 = ?", 1)
        now = t.now
        return (
            "SELECT name, CAST(SUM(CASE WHEN expires > ? AND id <> ? THEN occupy ELSE 0 END) AS BIGINT),"
            " CAST(SUM(CASE WHEN expires <= ? AND id <> ? THEN occupy ELSE 0 END) AS BIGINT),"
            " MAX(CASE WHEN id = ? THEN 1 ELSE 0 END), MIN(CASE WHEN expires > ? AND id <> ? THEN expires END),"
            f" CAST(SUM(CASE WHEN {own} AND expires > ? THEN occupy ELSE 0 END) AS BIGINT)"
            f" FROM leases WHERE {among} GROUP BY name",
            *(now, me, now, me, me, now, me, ids, now, values),
        )

    def _uses(
        self, t: Transaction, rows: Sequence[Row], me: str, found: Iterable[Any]
    ) -> dict[str, Use]:
        """Leases that are over are removed, others', and their slots come off `stored`."""
        uses = {row.name: Use() for row in rows} | {name: Use(*use) for name, *use in found}
        if any(use.over for use in uses.values()):
            among, values = self._among("name", [row.name for row in rows])
            t.do(
                f"DELETE FROM leases WHERE {among} AND expires <= ? AND id <> ?",
                *(values, t.now, me),
            )
            for row in rows:
                if row.decay and (over := uses[row.name].over):
                    self._take_off(t, row, over)
        return uses

    def _take_off(self, t: Transaction, row: Row, occupy: float) -> None:
        self._store(t, row.name, max(0.0, row.level(t.now) - occupy))

    def _store(self, t: Transaction, name: str, stored: float) -> None:
        t.do("UPDATE limits SET stored = ?, stored_at = ? WHERE name = ?", stored, t.now, name)

    # ------------------------------------------------------------------ lines

    def _stand(
        self, t: Transaction, names: Collection[str], request: Request, since: float, behind: int
    ) -> None:
        if not self.address:
            self._listen()
        who = request.holder
        among, values = self._among("name", sorted(names))
        t.do(f"DELETE FROM waiters WHERE {among} AND expires <= ?", values, t.now)
        for name in sorted(names):
            t.do(
                "INSERT INTO waiters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name, id)"
                " DO UPDATE SET expires = excluded.expires, behind = excluded.behind, address = excluded.address",
                *(name, who.id, request.occupy, since, t.now + STANDING, self.address, behind),
                *(who.run, who.host, who.pid, who.label),
            )

    def _ring_first(self, t: Transaction, names: Iterable[str]) -> None:
        """Tells the first in line at limits, unless it is of this process, whose keeper knows."""
        for name in names:
            t.ring_found(
                "SELECT address FROM (SELECT address FROM waiters WHERE name = ? AND expires > ?"
                " ORDER BY since, id LIMIT 1) AS first WHERE address <> ?",
                *(name, t.now, self.address),
            )

    def _ring_all(self, t: Transaction, name: str) -> None:
        t.ring_found(
            "SELECT DISTINCT address FROM waiters WHERE name = ? AND address <> ?",
            *(name, self.address),
        )

    # ------------------------------------------------------------------ slots are kept and given back

    def renew(self, ids: Collection[str], lease_seconds: float) -> dict[str, set[str]]:
        """See `LimitStore`. A lease that is over counts again if nobody has looked for its slot meanwhile."""
        kept: dict[str, set[str]] = {}
        if not ids or not self._exists():
            return kept
        with self._transaction("*") as t:
            if self._lock_those_of(t, "leases", ids):
                among, values = self._among("id", ids)
                t.do(f"UPDATE leases SET expires = ? WHERE {among}", t.now + lease_seconds, values)
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
            t.do(f"DELETE FROM leases WHERE {among}", values)
            self._ring_first(t, [row.name for row in rows])

    def withdraw(self, ids: Collection[str]) -> None:
        """See `LimitStore`."""
        if not ids or not self._exists():
            return
        with self._transaction("*") as t:
            rows = self._lock_those_of(t, "waiters", ids)
            if rows:
                among, values = self._among("id", ids)
                t.do(f"DELETE FROM waiters WHERE {among}", values)
                self._ring_first(t, [row.name for row in rows])

    def _lock_those_of(self, t: Transaction, table: str, ids: Collection[str]) -> list[Row]:
        """Locks the limits at which ids have leases, or stand in line."""
        among, values = self._among("id", ids)
        which = f"WHERE name IN (SELECT name FROM {table} WHERE {among})"
        return self._locked(t, which, values)


def _is_text(name: str) -> bool:
    """Whether a database can store it; else there is no limit of this name. SQLite's JSON ends at a NUL."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False
