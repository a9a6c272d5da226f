"""The store of limits in a file: what a file may do to it (SPEC 10.4)."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits import sqlite as limits_sqlite
from shoal.limits.settings import limits_in_use
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Rate

from tests.limits.tools import ask, full, got, line, output, slots, taken, wants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from tests.limits.tools import FakeTime, Python


@pytest.fixture
def store(file: Path, clock: FakeTime) -> Iterator[SqliteStore]:
    store = SqliteStore(file, clock.time)
    yield store
    store.close()


def test_only_creating_makes_a_file(store: SqliteStore, file: Path) -> None:
    """SPEC 10.4."""
    assert not limits_in_use()
    assert store.read("db") is None
    assert store.read_all(None, 0) == []
    assert not store.delete("db")
    assert not store.reset("db")
    assert got(ask(store, ["db"], "run", 60)) == set()
    assert store.renew(["run"], 60) == {}
    store.release(["run"])
    assert not file.parent.exists()

    store.upsert("db", 1)
    assert file.exists()
    assert limits_in_use()


def test_asking_whether_there_are_limits_loads_nothing(python: Python) -> None:
    """SPEC 10.4."""
    loaded = """
        import sys
        import shoal.limits
        from shoal.limits.settings import limits_in_use
        print(limits_in_use(), *{"sqlite3", "anyio", "shoal.limits.sqlite"} & sys.modules.keys())
        """
    assert output(python(loaded)).split() == ["False"]


# ---------------------------------------------------------------------- a store in trouble


@contextmanager
def locked(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits_sqlite, "PATIENCE", 0.05)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def test_a_locked_file_makes_runs_wait(
    store: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("db", 1)
    store.close()
    with locked(file, monkeypatch):
        assert full(ask(store, ["db", "x"], "a", 60)) == {"db", "x"}
        with pytest.raises(ConcurrencyLimitError, match="locked") as caught:
            store.upsert("db", 2)
    assert caught.value.tag == "db"
    assert str(file) in str(caught.value)
    assert got(ask(store, ["db"], "a", 60)) == {"db"}


def test_a_file_of_something_else_is_an_error(store: SqliteStore, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("These are not the limits you are looking for. " * 100)
    with pytest.raises(ConcurrencyLimitError, match="not a database"):
        ask(store, ["db"], "a", 60)


def test_a_file_of_another_version_is_an_error(store: SqliteStore, file: Path) -> None:
    store.upsert("db", 1)
    store.close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConcurrencyLimitError, match="version 99"):
        store.read("db")


def test_opening_is_tried_again_if_others_are_at_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    prepare, troubles = SqliteStore._prepare, [error, error]

    def prepare_at_last(self: SqliteStore, connection: sqlite3.Connection) -> None:
        if troubles:
            raise troubles.pop()
        prepare(self, connection)

    monkeypatch.setattr(SqliteStore, "_prepare", prepare_at_last)
    assert store.upsert("db", 1).name == "db"
    assert not troubles


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(ConcurrencyLimitError, match="occupied"):
        SqliteStore(tmp_path / "occupied" / "limits.db").create("db", 1)


VERSION_1 = """
    CREATE TABLE limits (
        tag TEXT PRIMARY KEY, id TEXT NOT NULL, concurrency_limit INTEGER NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL
    );
    CREATE TABLE leases (
        tag TEXT NOT NULL, run_id TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (tag, run_id)
    );
    CREATE INDEX leases_by_run ON leases (run_id);
    CREATE INDEX leases_by_end ON leases (expires);
    PRAGMA user_version = 1;
    INSERT INTO limits VALUES ('db', 'the-id', 2, 1700000000, 1700000100);
    INSERT INTO limits VALUES ('api', 'other-id', 0, 1700000000, 1700000000);
"""


def test_a_file_of_version_1_is_taken_over(store: SqliteStore, file: Path, clock: FakeTime) -> None:
    """Its leases, which ended by the wall clock, go on."""
    file.parent.mkdir()
    connection = sqlite3.connect(file)
    connection.executescript(VERSION_1)
    for run, seconds in (("a", 50), ("b", -1)):
        connection.execute("INSERT INTO leases VALUES ('db', ?, ?)", (run, time.time() + seconds))
    connection.commit()
    connection.close()
    limit = store.read("tag:db")
    assert limit is not None
    assert (limit.id, limit.limit, limit.active) == ("the-id", 2, True)
    assert (limit.created.timestamp(), limit.updated.timestamp()) == (1700000000, 1700000100)
    assert slots(store, "tag:db") == ["a"]
    assert [limit.name for limit in store.read_all(None, 0)] == ["tag:api", "tag:db"]
    clock.now += 40
    assert slots(store, "tag:db") == ["a"]
    clock.now += 11
    assert slots(store, "tag:db") == []


def test_a_file_of_version_2_is_taken_over(store: SqliteStore, file: Path) -> None:
    """It has no table of what rates have given out."""
    store.upsert("db", 3)
    store.close()
    connection = sqlite3.connect(file)
    connection.executescript("DROP TABLE given_out; PRAGMA user_version = 2")
    connection.close()
    assert got(ask(store, ["api"], "a", None, rate=Rate(10, 1.0))) == {"api"}
    assert [(limit.name, limit.limit) for limit in store.read_all(None, 0)] == [
        ("api", 2),
        ("db", 3),
    ]


def test_a_newer_file_is_an_error_that_names_both_versions(store: SqliteStore, file: Path) -> None:
    store.upsert("db", 1)
    store.close()
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {limits_sqlite.VERSION + 1}")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(ConcurrencyLimitError, match=r"version 4.*up to 3"):
        store.upsert("db", 2)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["text", "a database", "cut off"])
def test_a_file_that_is_not_ours_is_left_as_it_is(
    store: SqliteStore, file: Path, content: str
) -> None:
    if content == "text":
        file.parent.mkdir()
        file.write_text("no limits here" * 1000)
    elif content == "a database":
        file.parent.mkdir()
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE songs (name TEXT)")
        connection.close()
    else:
        for number in range(200):
            store.upsert(f"limit {number}", 1)
        store.close()
        file.write_bytes(file.read_bytes()[:10_000])
    before = file.read_bytes()
    with pytest.raises(ConcurrencyLimitError, match="cannot be used") as caught:
        store.read_all(None, 0)
    assert str(file) in str(caught.value)
    with pytest.raises(ConcurrencyLimitError, match="cannot be used"):
        store.upsert("limit 3", 7)
    store.close()
    assert file.read_bytes()[: len(before)] == before


def test_a_file_system_that_processes_cannot_share_is_an_error(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQLite answers where there is no shared memory, such as on a network."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> Any:
            return super().execute("SELECT 'delete'" if "journal_mode" in sql else sql, *values)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, factory=Connection, **k))
    with pytest.raises(ConcurrencyLimitError, match=r"no write-ahead log.*PostgreSQL"):
        store.upsert("db", 1)


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConcurrencyLimitError, match="unable to open"):
        SqliteStore(tmp_path / "limits.db").upsert("db", 1)


def test_a_file_without_permission_is_an_error(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for root: SQLite opens it so."""
    store.upsert("db", 1)
    store.close()
    real = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **k: real(f"file:{path}?mode=ro", uri=True, **k)
    )
    with pytest.raises(ConcurrencyLimitError, match="readonly"):
        store.upsert("db", 2)


# ---------------------------------------------------------------------- clocks


def test_leases_of_before_a_start_of_the_machine_are_over(
    file: Path, clock: FakeTime, opened: ExitStack
) -> None:
    before = opened.enter_context(closing(SqliteStore(file, clock.time, "first start")))
    before.upsert("db", 1)
    before.upsert("api", 10, decay=1.0)
    ask(before, ["db", "api"], "a", 1000)
    before.try_acquire(wants(["db"], "b"))
    before.close()
    clock.now = 5
    after = opened.enter_context(closing(SqliteStore(file, clock.time, "second start")))
    assert (slots(after, "db"), line(after, "db")) == ([], [])
    assert taken(after, "api") == 1  # decays from now on
    clock.now += 1
    assert taken(after, "api") == 0


def test_a_wall_clock_that_jumps_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    store = opened.enter_context(closing(SqliteStore(file)))
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    real = time.time
    for jump in (1e6, -1e6):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert slots(store, "db") == ["a"]
        assert full(ask(store, ["db"], "b", 60)) == {"db"}
