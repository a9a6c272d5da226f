"""The store of limits in a file: what a file may do to it (SPEC 10.4)."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits import sqlite as limits_sqlite
from shoal.limits.settings import limits_in_use
from shoal.limits.sqlite import SqliteStore

from tests.limits.tools import ask, full, got, output, python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.limits.tools import FakeTime


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


def test_asking_whether_there_are_limits_loads_nothing() -> None:
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
    yield
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
