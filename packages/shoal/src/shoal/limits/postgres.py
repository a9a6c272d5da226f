"""The store of limits for several machines: a PostgreSQL database that all of them reach, through psycopg 3.

    guarantees   All or none: each method is one transaction. It locks the rows of its limits first, so what it counts still
                 holds when it writes (READ COMMITTED: each statement sees what was committed before it).
    assumes      The server's clock is the only one that counts; those of the machines are not compared.

Who stands in line has a channel of its own, whose name stands beside it in the database; a notification there says that
something was given back. It comes over the one connection that a store has.

A connection that breaks is made again on the next use. One that was inherited by a fork is left alone: closing it would
close the parent's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
import weakref
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from shoal.exceptions import ConcurrencyLimitError, MissingExtraError
from shoal.limits.settings import secrets_in, without_password
from shoal.limits.store import TAG
from shoal.limits.tables import SqlStore
from shoal.limits.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import psycopg

    from shoal.limits.transaction import Query

__all__ = ["PostgresStore"]

#: Where our tables are.
SCHEMA = "shoal"

#: The number there that says how they look.
VERSION = 2

GIVEN_OUT = """
    CREATE TABLE given_out (
        name TEXT NOT NULL, part BIGINT NOT NULL, total BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (name, part)
    )
"""

TABLES = (
    """
    CREATE TABLE limits (
        name TEXT PRIMARY KEY, id TEXT NOT NULL, slots BIGINT NOT NULL, active SMALLINT NOT NULL,
        decay DOUBLE PRECISION NOT NULL, stored DOUBLE PRECISION NOT NULL, stored_at DOUBLE PRECISION NOT NULL,
        rate_count BIGINT, rate_seconds DOUBLE PRECISION,
        created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL
    )
    """,
    """
    CREATE TABLE leases (
        name TEXT NOT NULL, id TEXT NOT NULL, occupy BIGINT NOT NULL,
        expires DOUBLE PRECISION NOT NULL, since DOUBLE PRECISION NOT NULL,
        run TEXT NOT NULL, host TEXT NOT NULL, pid BIGINT NOT NULL, label TEXT NOT NULL, PRIMARY KEY (name, id)
    )
    """,
    "CREATE INDEX leases_by_id ON leases (id)",
    """
    CREATE TABLE waiters (
        name TEXT NOT NULL, id TEXT NOT NULL, occupy BIGINT NOT NULL,
        since DOUBLE PRECISION NOT NULL, expires DOUBLE PRECISION NOT NULL,
        address TEXT NOT NULL, behind BIGINT NOT NULL,
        run TEXT NOT NULL, host TEXT NOT NULL, pid BIGINT NOT NULL, label TEXT NOT NULL, PRIMARY KEY (name, id)
    )
    """,
    "CREATE INDEX waiters_by_id ON waiters (id)",
    GIVEN_OUT,
    "CREATE TABLE version (number INTEGER NOT NULL)",
    f"INSERT INTO version VALUES ({VERSION})",
)

#: The advisory lock under which tables are made: "shoal", in ASCII.
MAKING = 0x73686F616C

#: A connection without an answer is given up after some 10 s. Nobody holds a lock for longer than some milliseconds, so
#: who does for seconds stands still, and its transaction is ended.
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "shoal-limits",
}
SESSION = f"""
    SET search_path = {SCHEMA};
    SET synchronous_commit = off;
    SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '10s'
"""

#: Errors that pass, beside those that psycopg calls operational: this process stood still within a transaction for longer
#: than the server waits, or the server can only be read until it takes over from another.
PASSING = {"25P03", "25P04", "25006"}

COMMIT_FOR_GOOD = "SET LOCAL synchronous_commit TO DEFAULT; COMMIT"

#: The server's clock.
CLOCK = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"

#: Databases that this process has reached; an error of one of these may pass.
_reached: set[str] = set()
_stores: weakref.WeakSet[PostgresStore] = weakref.WeakSet()
_inherited: list[Any] = []


class PostgresStore(SqlStore):
    """A `LimitStore` in a PostgreSQL database; see there for the methods.

    Args:
        url: the database's address, which may have a password.

    Raises:
        MissingExtraError: psycopg is not installed.
    """

    linger = 5.0
    poll = False

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            import psycopg
        except ImportError as error:  # it is not there, or finds no libpq
            raise MissingExtraError(
                feature="A PostgreSQL database for limits", requirement="shoal[postgres]"
            ) from error
        self._psycopg = psycopg
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._heard = False
        self._io = threading.RLock()
        _stores.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_password(self._url)!r})"

    # ------------------------------------------------------------------ what others give back

    def _listen(self) -> None:
        """It listens since it is connected."""

    def fileno(self) -> int | None:
        """See `LimitStore`."""
        with self._io:
            return None if self._connection is None else self._connection.fileno()

    def rung(self) -> bool:
        """See `LimitStore`. A connection that is lost rings, too."""
        with self._io:
            heard, self._heard = self._heard, False
            if self._connection is None:
                return heard
            try:
                self._connection.pgconn.consume_input()
                while self._connection.pgconn.notifies():
                    heard = True
            except self._psycopg.OperationalError:
                self._disconnect()
                heard = True
            return heard

    def _hear(self, _: object) -> None:
        self._heard = True

    def changed(self) -> bool:
        """See `LimitStore`. What was not heard is found when the first in line asks again."""
        return False

    def may_pass(self, error: ConcurrencyLimitError) -> bool:
        """See `LimitStore`. A database that was never reached is thought to have a wrong address."""
        cause = error.__cause__ or error.__context__
        lost = isinstance(cause, (self._psycopg.OperationalError, self._psycopg.InterfaceError))
        passes = lost or getattr(cause, "sqlstate", None) in PASSING
        return passes and self._url in _reached

    def close(self) -> None:
        """See `LimitStore`."""
        with self._io:
            self._disconnect()

    # ------------------------------------------------------------------ connection and transactions

    def _exists(self) -> bool:
        return True

    def _among(self, column: str, values: Collection[str]) -> tuple[str, Any]:
        return f"{column} = ANY(?)", list(values)

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Transaction]:
        with self._io:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                sql = self._connection
                try:
                    sql.execute("BEGIN")
                    t = _Transaction(sql)
                    yield t
                    sql.execute(COMMIT_FOR_GOOD if t.lasting else "COMMIT")
                except BaseException:
                    if not sql.closed:
                        sql.execute("ROLLBACK")
                    raise
            except self._psycopg.Error as error:
                self._disconnect()
                self._raise(name, error)

    def _raise(self, name: str, error: Exception) -> None:
        """The database's error, as one of ours; where it speaks of the password, not in its words."""
        secrets = secrets_in(self._url)
        said = str(error).strip()
        told = any(secret in said for secret in (*secrets, *map(unquote, secrets)))
        if told:
            said = (
                "its address is not understood; special characters of a password are written as %40"
            )
        place = without_password(self._url)
        ours = ConcurrencyLimitError(
            tag=name.removeprefix(TAG),
            problem=f"the database of limits, {place}, cannot be used: {said}",
        )
        raise ours from (None if told else error)

    def _connect(self) -> psycopg.Connection[Any]:
        given: dict[str, Any] = {**PATIENCE, **self._psycopg.conninfo.conninfo_to_dict(self._url)}
        connection: psycopg.Connection[Any] = self._psycopg.connect(autocommit=True, **given)
        try:
            _prepare(connection, without_password(self._url))
            address = f"shoal_{uuid.uuid4().hex}"
            connection.add_notify_handler(self._hear)
            connection.execute(f'LISTEN "{address}"')
        except BaseException:
            connection.close()
            raise
        _reached.add(self._url)
        self.address = address
        return connection

    def _disconnect(self) -> None:
        connection, self._connection, self.address = self._connection, None, ""
        if connection is not None:
            connection.close()

    def _leave_to_parent(self) -> None:
        """In a forked child."""
        if self._connection is not None:
            _inherited.append(self._connection)
            with contextlib.suppress(OSError):
                os.close(self._connection.fileno())
        self._connection, self.address = None, ""
        self._io = threading.RLock()


class _Transaction(Transaction):
    """Every statement is a round trip. psycopg's pipeline saves some, but takes 100 µs itself (3.3)."""

    def __init__(self, sql: psycopg.Connection[Any]) -> None:
        self._sql = sql
        self._now: float | None = None

    @property
    def now(self) -> float:
        if self._now is None:
            ((self._now,),) = self.run(f"SELECT {CLOCK}")
        return self._now

    @property
    def wall(self) -> float:
        return self.now

    def lock(self, sql: str, *values: Any) -> list[Any]:
        # What stands outside is looked at when a row has been locked, which may have taken a while.
        found = self.run(
            f"WITH locked AS MATERIALIZED ({sql} FOR UPDATE) SELECT *, {CLOCK} FROM locked", *values
        )
        self._now = found[-1][-1] if found else None
        return [row for *row, _ in found]

    def ask(self, *queries: Query) -> list[list[Any]]:
        return [
            self._sql.execute(_with_placeholders(sql), values).fetchall()
            for sql, *values in queries
        ]

    def do(self, sql: str, *values: Any) -> None:
        self._sql.execute(_with_placeholders(sql), values)

    def ring(self, address: str) -> None:
        self.do("SELECT pg_notify(?, '')", address)

    def ring_found(self, sql: str, *values: Any) -> None:
        self.do(f"SELECT pg_notify(address, '') FROM ({sql}) AS found", *values)


@lru_cache(maxsize=256)
def _with_placeholders(sql: str) -> Any:
    return sql.replace("%", "%%").replace("?", "%s")


def _prepare(connection: psycopg.Connection[Any], place: str) -> None:
    """Makes the tables, or what they lack."""
    connection.execute(SESSION)
    if (version := _version(connection)) < VERSION:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MAKING,))
            version = _version(connection)
            if version == 0:
                if not _has(connection, "pg_namespace", nspname=SCHEMA):
                    connection.execute(f"CREATE SCHEMA {SCHEMA}")
                for statement in TABLES:
                    connection.execute(statement)
            elif version == 1:
                connection.execute(GIVEN_OUT)
                connection.execute(f"UPDATE version SET number = {VERSION}")
    if version > VERSION:
        raise ConcurrencyLimitError(
            tag="*",
            problem=f"the tables of limits in {place} are of version {version}, and this version of Shoal knows those up"
            f" to {VERSION}: install the one that made them, or a newer one",
        )


def _version(connection: psycopg.Connection[Any]) -> int:
    """The version of the tables; 0 if there are none."""
    if not _has(connection, "pg_tables", schemaname=SCHEMA, tablename="version"):
        return 0
    ((version,),) = connection.execute("SELECT number FROM version").fetchall()
    return int(version)


def _has(connection: psycopg.Connection[Any], catalog: str, **names: str) -> bool:
    """Whether something exists. `to_regclass` may not know yet what another session has made while one waited for a lock."""
    which = " AND ".join(f"{column} = %({column})s" for column in names)
    query: Any = f"SELECT 1 FROM pg_catalog.{catalog} WHERE {which}"
    return bool(connection.execute(query, names).fetchall())


# ---------------------------------------------------------------------- forks


def _after_fork_in_child() -> None:
    for store in _stores:
        store._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
