"""The store of limits on one machine: an SQLite file that its processes share.

    guarantees   All or none: each method is one transaction, which takes the file's write lock when it begins (BEGIN
                 IMMEDIATE), so what was counted still holds when slots are taken. Only making a limit makes a file; to
                 everything else, a store without one is empty, and nothing is opened.
    assumes      The file is on a disk of this machine: SQLite's write-ahead log does not work across a network.

Leases end by the time since the machine was started, which nobody sets: a wall clock that jumps would end leases
early, or keep them for ever. The file says which start that is; leases of before it are over.

Who stands in line has a socket without a file (Linux's abstract names), whose address stands beside it in the file; a
datagram there says that something was given back. Where there are no such sockets, or it is lost, `changed` finds out.

One lock for all stores of a process, held during a transaction (some 20 µs) and while it is forked: an SQLite
connection must not cross a fork, not even to be closed there, so connections are closed before it and opened again on
the next use.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import sys
import threading
import time
import uuid
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.settings import limits_path
from shoal.limits.store import TAG, Busy
from shoal.limits.tables import SqlStore
from shoal.limits.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from shoal.limits.store import Answer, Request
    from shoal.limits.transaction import Query

__all__ = ["SqliteStore"]

#: Seconds that a transaction waits for those of other processes before it gives up.
PATIENCE = 10.0

#: The number in the file that says how its tables look.
VERSION = 3

GIVEN_OUT = """
    CREATE TABLE given_out (
        name TEXT NOT NULL, part INTEGER NOT NULL, total INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (name, part)
    )
"""

SCHEMA = (
    """
    CREATE TABLE limits (
        name TEXT PRIMARY KEY, id TEXT NOT NULL, slots INTEGER NOT NULL, active INTEGER NOT NULL,
        decay REAL NOT NULL, stored REAL NOT NULL, stored_at REAL NOT NULL, rate_count INTEGER, rate_seconds REAL,
        created REAL NOT NULL, updated REAL NOT NULL
    )
    """,
    """
    CREATE TABLE leases (
        name TEXT NOT NULL, id TEXT NOT NULL, occupy INTEGER NOT NULL, expires REAL NOT NULL, since REAL NOT NULL,
        run TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, label TEXT NOT NULL, PRIMARY KEY (name, id)
    )
    """,
    "CREATE INDEX leases_by_id ON leases (id)",
    """
    CREATE TABLE waiters (
        name TEXT NOT NULL, id TEXT NOT NULL, occupy INTEGER NOT NULL, since REAL NOT NULL, expires REAL NOT NULL,
        address TEXT NOT NULL, behind INTEGER NOT NULL,
        run TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, label TEXT NOT NULL, PRIMARY KEY (name, id)
    )
    """,
    "CREATE INDEX waiters_by_id ON waiters (id)",
    "CREATE TABLE machine (start TEXT NOT NULL)",
    GIVEN_OUT,
)

_io = threading.Lock()
_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()


def since_start() -> float:
    """Seconds since this machine was started, also those it slept; where that is not known, since the epoch."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time()


def start_of_machine() -> str:
    """Which start of this machine it was; empty where `since_start` counts on through all of them."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return ""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class SqliteStore(SqlStore):
    """A `LimitStore` in a file; see there for the methods.

    Args:
        path: the file; by default that of the settings.
        clock: tells the time in seconds, the same to all processes, as `since_start`.
        start: which start of the machine the clock counts from.
    """

    linger = 0.1
    poll = True

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = since_start,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.path = limits_path() if path is None else os.path.abspath(path)
        self._clock = clock
        self._start = start
        self._connection: sqlite3.Connection | None = None
        self._socket: socket.socket | None = None
        self._seen: int | None = None
        with _io:
            _stores.add(self)

    def try_acquire(
        self, request: Request, waited_seconds: float | None = None, **how: Any
    ) -> Answer:
        """See `LimitStore`. To wait is the answer, too, if other processes keep the file locked."""
        try:
            return super().try_acquire(request, waited_seconds, **how)
        except ConcurrencyLimitError as error:
            if _is_locked(error.__cause__):
                return Busy(request.names, 0.05)
            raise

    # ------------------------------------------------------------------ what others give back

    def _listen(self) -> None:
        if sys.platform != "linux":
            return
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        address = f"shoal-limits-{uuid.uuid4()}"
        bell.bind(f"\0{address}")
        self._socket, self.address = bell, address

    def fileno(self) -> int | None:
        """See `LimitStore`."""
        bell = self._socket
        return None if bell is None else bell.fileno()

    def rung(self) -> bool:
        """See `LimitStore`."""
        rung = False
        with contextlib.suppress(BlockingIOError):
            while self._socket is not None:
                self._socket.recv(1)
                rung = True
        return rung

    def changed(self) -> bool:
        """See `LimitStore`. SQLite counts the changes by other connections."""
        with _io:
            if self._connection is None:
                return True
            try:
                ((seen,),) = self._connection.execute("PRAGMA data_version").fetchall()
            except sqlite3.Error:
                return True  # whoever looks closer has the error
            before, self._seen = self._seen, int(seen)
            return before != self._seen

    def may_pass(self, error: ConcurrencyLimitError) -> bool:
        """See `LimitStore`. What a file is wrong with stays so; that it is locked is no error."""
        return False

    def close(self) -> None:
        """See `LimitStore`."""
        with _io:
            self._disconnect()
            self._unlisten()

    # ------------------------------------------------------------------ connection and transactions

    def _exists(self) -> bool:
        return self._connection is not None or os.path.exists(self.path)

    def _among(self, column: str, values: Collection[str]) -> tuple[str, Any]:
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps(list(values))

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Transaction]:
        rings: set[str] = set()
        with _io:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                sql = self._connection
                try:
                    sql.execute("BEGIN IMMEDIATE")
                    t = _Transaction(sql, self._clock())
                    yield t
                    sql.execute("COMMIT")
                    rings = t.rings
                except BaseException:
                    if sql.in_transaction:
                        sql.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                self._disconnect()
                raise ConcurrencyLimitError(
                    tag=name.removeprefix(TAG),
                    problem=f"the file of limits, {self.path}, cannot be used: {error}",
                ) from error
            if rings:
                _ring(self._socket, rings)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _unlisten(self) -> None:
        bell, self._socket, self.address = self._socket, None, ""
        if bell is not None:
            bell.close()

    def _connect(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException as error:
                connection.close()
                # Turning the log on does not wait for others who are at it: of 6 processes that began together, now
                # and then one failed (SQLite 3.40).
                if not _is_locked(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if (version := _version_of_ours(connection)) > VERSION:
            raise sqlite3.DatabaseError(
                f"its tables are of version {version}, and this version of Shoal knows those up to {VERSION}:"
                " install the one that made it, or a newer one"
            )
        ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        if mode != "wal":
            raise sqlite3.OperationalError(
                f"its file system has no write-ahead log (it is {mode!r}), which processes need to share it: set"
                " SHOAL_LIMITS_URL to a path on a local disk, or to a PostgreSQL database"
            )
        # A power cut may lose the last changes, and breaks nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        start = start_of_machine() if self._start is None else self._start
        if version == VERSION and connection.execute("SELECT start FROM machine").fetchall() == [
            (start,)
        ]:
            return
        connection.execute("BEGIN IMMEDIATE")
        now = self._clock()
        version = _version(connection)
        if version == 1:
            _migrate_1(connection, now)
        elif version == 2:
            connection.execute(GIVEN_OUT)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif version == 0:
            _make_tables(connection)
        if connection.execute("SELECT start FROM machine").fetchall() != [(start,)]:
            _forget_the_start_before(connection, now, start, keep=version < 2)
        connection.execute("COMMIT")


class _Transaction(Transaction):
    now = 0.0
    wall = 0.0

    def __init__(self, sql: sqlite3.Connection, now: float) -> None:
        self.rings: set[str] = set()
        self._sql = sql
        self.now = now
        self.wall = time.time()

    def ask(self, *queries: Query) -> list[list[Any]]:
        return [self._sql.execute(sql, values).fetchall() for sql, *values in queries]

    def lock(self, sql: str, *values: Any) -> list[Any]:
        return self._sql.execute(sql, values).fetchall()  # the whole file is locked

    def do(self, sql: str, *values: Any) -> None:
        self._sql.execute(sql, values)

    def ring(self, address: str) -> None:
        self.rings.add(address)

    def ring_found(self, sql: str, *values: Any) -> None:
        self.rings.update(address for (address,) in self._sql.execute(sql, values))


def _ring(bell: socket.socket | None, addresses: set[str]) -> None:
    """Tells processes; one that has gone, or has more datagrams than it reads, needs none."""
    own = bell or socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        for address in addresses:
            with contextlib.suppress(OSError):
                own.sendto(b"!", f"\0{address}")
    finally:
        if own is not bell:
            own.close()


def _is_locked(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


# ---------------------------------------------------------------------- tables


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    return int(version)


def _version_of_ours(connection: sqlite3.Connection) -> int:
    """The version of the tables; 0 if there are none at all."""
    connection.execute("BEGIN")  # so that both answers are of one moment
    version = _version(connection)
    strange = not version and connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    connection.execute("COMMIT")
    if strange:
        raise sqlite3.DatabaseError("it is a database of something else")
    return version


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _migrate_1(connection: sqlite3.Connection, now: float) -> None:
    """Version 1 had limits of tags, and leases of one slot for runs, which ended by the wall clock."""
    for table in ("limits", "leases"):
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}_1")
    _make_tables(connection)
    connection.execute(
        "INSERT INTO limits SELECT ? || tag, id, concurrency_limit, 1, 0, 0, ?, NULL, NULL, created, updated"
        " FROM limits_1",
        (TAG, now),
    )
    connection.execute(
        "INSERT INTO leases SELECT ? || tag, run_id, 1, expires - ? + ?, ?, '', '', 0, '' FROM leases_1",
        (TAG, time.time(), now, now),
    )
    for table in ("limits", "leases"):
        connection.execute(f"DROP TABLE {table}_1")


def _forget_the_start_before(
    connection: sqlite3.Connection, now: float, start: str, *, keep: bool
) -> None:
    """The machine was started anew: what was leased is over, and slots that decay begin to do so again."""
    connection.execute("DELETE FROM machine")
    connection.execute("INSERT INTO machine VALUES (?)", (start,))
    if not keep:
        connection.execute("DELETE FROM leases")
        connection.execute("DELETE FROM waiters")
        connection.execute("UPDATE limits SET stored_at = ?", (now,))
        connection.execute("UPDATE given_out SET at = ?", (now,))


# ---------------------------------------------------------------------- forks


def _before_fork() -> None:
    _io.acquire()
    for store in _stores:
        store._disconnect()


def _after_fork_in_child() -> None:
    for store in _stores:
        store._unlisten()
    _io._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_io.release, after_in_child=_after_fork_in_child
    )
