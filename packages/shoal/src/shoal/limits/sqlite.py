"""The store of limits on one machine: an SQLite file that its processes share.

    guarantees   All or none: each method is one transaction, which takes the file's write lock when it begins (BEGIN
                 IMMEDIATE), so what was counted still holds when slots are taken. Only `create` makes a file; to
                 everything else, a store without one is empty, and nothing is opened.
    assumes      The file is on a disk of this machine: SQLite's write-ahead log does not work across a network. The
                 processes share a clock (`time.time`), by which leases end.

One lock for all stores of a process, held during a transaction (some 20 µs) and while it is forked: an SQLite
connection must not cross a fork, not even to be closed there, so connections are closed before it and opened again on
the next use.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
import weakref
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.settings import limits_path
from shoal.limits.store import Acquired, Busy, ConcurrencyLimit, ZeroLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from shoal.limits.store import Answer

__all__ = ["SqliteStore"]

#: Seconds that a transaction waits for those of other processes before it gives up.
PATIENCE = 10.0

#: The number in the file that says how its tables look.
VERSION = 1

SCHEMA = (
    """
    CREATE TABLE limits (
        tag TEXT PRIMARY KEY, id TEXT NOT NULL, concurrency_limit INTEGER NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL
    )
    """,
    """
    CREATE TABLE leases (
        tag TEXT NOT NULL, run_id TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (tag, run_id)
    )
    """,
    "CREATE INDEX leases_by_run ON leases (run_id)",
    "CREATE INDEX leases_by_end ON leases (expires)",
    f"PRAGMA user_version = {VERSION}",
)

_io = threading.Lock()
_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()


class SqliteStore:
    """A `LimitStore` in a file; see there for the methods.

    Args:
        path: the file; by default that of the settings.
        clock: tells the time in seconds since the epoch, the same to all processes.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = limits_path() if path is None else os.path.abspath(path)
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        with _io:
            _stores.add(self)

    def create(self, tag: str, concurrency_limit: int) -> ConcurrencyLimit:
        """See `LimitStore`."""
        now = self._clock()
        with self._transaction(tag) as sql:
            sql.execute(
                "INSERT INTO limits VALUES (?, ?, ?, ?, ?) ON CONFLICT (tag) DO UPDATE"
                " SET concurrency_limit = excluded.concurrency_limit, updated = excluded.updated",
                (tag, str(uuid.uuid4()), concurrency_limit, now, now),
            )
            (limit,) = self._select(sql, "WHERE tag = ?", (tag,))
        return limit

    def read(self, tag: str) -> ConcurrencyLimit | None:
        """See `LimitStore`."""
        if not self._exists():
            return None
        with self._transaction(tag) as sql:
            found = self._select(sql, "WHERE tag = ?", (tag,))
        return found[0] if found else None

    def read_all(self, limit: int | None, offset: int) -> list[ConcurrencyLimit]:
        """See `LimitStore`."""
        if not self._exists():
            return []
        part = (-1 if limit is None else limit, offset)
        with self._transaction("*") as sql:
            return self._select(sql, "ORDER BY tag LIMIT ? OFFSET ?", part)

    def delete(self, tag: str) -> bool:
        """See `LimitStore`."""
        if not self._exists():
            return False
        with self._transaction(tag) as sql:
            sql.execute("DELETE FROM leases WHERE tag = ?", (tag,))
            return sql.execute("DELETE FROM limits WHERE tag = ?", (tag,)).rowcount > 0

    def reset(self, tag: str) -> bool:
        """See `LimitStore`."""
        if not self._exists():
            return False
        with self._transaction(tag) as sql:
            sql.execute("DELETE FROM leases WHERE tag = ?", (tag,))
            return sql.execute("SELECT 1 FROM limits WHERE tag = ?", (tag,)).fetchone() is not None

    def try_acquire(self, tags: Collection[str], run_id: str, lease_seconds: float) -> Answer:
        """See `LimitStore`. To wait is the answer, too, if other processes keep the file locked."""
        if not self._exists():
            return Acquired(frozenset())
        try:
            with self._transaction(min(tags, default="")) as sql:
                return self._take(sql, tags, run_id, lease_seconds)
        except ConcurrencyLimitError as error:
            if _is_locked(error.__cause__):
                return Busy(frozenset(tags))
            raise

    def _take(
        self, sql: sqlite3.Connection, tags: Collection[str], run_id: str, lease_seconds: float
    ) -> Answer:
        now = self._clock()
        sql.execute("DELETE FROM leases WHERE expires <= ?", (now,))
        # As JSON, so that any text may be a tag: also what SQLite cannot store, which therefore has no limit. Without
        # NULs, because text that is read from JSON ends there.
        rows = sql.execute(
            "SELECT tag, concurrency_limit,"
            " (SELECT count(*) FROM leases WHERE leases.tag = limits.tag AND run_id <> ?)"
            " FROM limits WHERE tag IN (SELECT value FROM json_each(?)) ORDER BY tag",
            (run_id, json.dumps([tag for tag in tags if "\0" not in tag])),
        ).fetchall()
        for tag, limit, _ in rows:
            if limit == 0:
                return ZeroLimit(tag)
        if full := [tag for tag, limit, taken in rows if taken >= limit]:
            return Busy(frozenset(full))
        sql.executemany(
            "INSERT INTO leases VALUES (?, ?, ?)"
            " ON CONFLICT (tag, run_id) DO UPDATE SET expires = excluded.expires",
            [(tag, run_id, now + lease_seconds) for tag, _, _ in rows],
        )
        return Acquired(frozenset(tag for tag, _, _ in rows))

    def renew(self, run_ids: Collection[str], lease_seconds: float) -> set[str]:
        """See `LimitStore`. A lease that is over counts again if nobody took its slot meanwhile."""
        if not run_ids or not self._exists():
            return set()
        until = self._clock() + lease_seconds
        with self._transaction("*") as sql:
            return {
                run_id
                for run_id in run_ids
                if sql.execute(
                    "UPDATE leases SET expires = ? WHERE run_id = ?", (until, run_id)
                ).rowcount
            }

    def release(self, run_ids: Collection[str]) -> None:
        """See `LimitStore`."""
        if not run_ids or not self._exists():
            return
        with self._transaction("*") as sql:
            sql.executemany(
                "DELETE FROM leases WHERE run_id = ?", [(run_id,) for run_id in run_ids]
            )

    def close(self) -> None:
        """See `LimitStore`."""
        with _io:
            self._disconnect()

    # ------------------------------------------------------------------ connection and transactions

    def _exists(self) -> bool:
        return self._connection is not None or os.path.exists(self.path)

    @contextmanager
    def _transaction(self, tag: str) -> Iterator[sqlite3.Connection]:
        """One transaction, undone if the block raises; errors of SQLite are told as those of a tag's limit."""
        with _io:
            try:
                if self._connection is None:
                    self._connection = _connect(self.path)
                sql = self._connection
                try:
                    sql.execute("BEGIN IMMEDIATE")
                    yield sql
                    sql.execute("COMMIT")
                except BaseException:
                    if sql.in_transaction:
                        sql.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                self._disconnect()
                raise ConcurrencyLimitError(
                    tag=tag, problem=f"the file of limits, {self.path}, cannot be used: {error}"
                ) from error

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _select(
        self, sql: sqlite3.Connection, which: str, values: tuple[Any, ...]
    ) -> list[ConcurrencyLimit]:
        rows = sql.execute(
            f"SELECT id, tag, concurrency_limit, created, updated FROM limits {which}", values
        ).fetchall()
        now = self._clock()
        return [
            ConcurrencyLimit(id, tag, limit, self._holders(sql, tag, now), _utc(made), _utc(set_))
            for id, tag, limit, made, set_ in rows
        ]

    @staticmethod
    def _holders(sql: sqlite3.Connection, tag: str, now: float) -> list[str]:
        rows = sql.execute(
            "SELECT run_id FROM leases WHERE tag = ? AND expires > ? ORDER BY rowid", (tag, now)
        )
        return [run_id for (run_id,) in rows]


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _is_locked(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _connect(path: str) -> sqlite3.Connection:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = sqlite3.connect(
            path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection)
        except BaseException as error:
            connection.close()
            # Turning the log on does not wait for others who are at it: of 6 processes that began together, now and
            # then one failed (SQLite 3.40).
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may lose the last changes, and breaks nothing.
    connection.execute("PRAGMA synchronous = NORMAL")
    if _version(connection) == 0:
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) == 0:
            for statement in SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    if (version := _version(connection)) != VERSION:
        raise sqlite3.DatabaseError(f"its tables are of version {version}, not {VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


# ---------------------------------------------------------------------- forks


def _before_fork() -> None:
    _io.acquire()
    for store in _stores:
        store._disconnect()


def _after_fork_in_child() -> None:
    _io._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_io.release, after_in_child=_after_fork_in_child
    )
