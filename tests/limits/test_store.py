"""The store of limits, in a file (SPEC 10.1, 10.2, 10.4)."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits import sqlite as limits_sqlite
from shoal.limits.settings import limits_in_use
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Refused

from tests.limits.tools import ask, full, got, output, python, slots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.limits.tools import FakeTime


@pytest.fixture
def store(file: Path, clock: FakeTime) -> Iterator[SqliteStore]:
    store = SqliteStore(file, clock.time)
    yield store
    store.close()


# ---------------------------------------------------------------------- the store


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


def test_limits_are_created_read_listed_and_deleted(store: SqliteStore, clock: FakeTime) -> None:
    made = store.upsert("db", 3)
    assert (made.name, made.limit, made.active, made.active_slots) == ("db", 3, True, 0)
    assert (made.slot_decay_per_second, made.rate, made.holders, made.waiters) == (0, None, (), ())
    assert made.created == made.updated
    assert made.created.utcoffset() is not None
    assert store.read("db") == made
    api = store.upsert("api", 0)
    assert store.read_all(None, 0) == [api, made]
    assert store.read_all(1, 0) == [api]
    assert store.read_all(None, 1) == [made]
    assert store.delete("db")
    assert not store.delete("db")
    assert store.read("db") is None
    assert store.read_all(None, 0) == [api]


def test_creating_again_changes_the_limit(store: SqliteStore, clock: FakeTime) -> None:
    first = store.upsert("db", 2)
    ask(store, ["db"], "a", 60)
    clock.now += 5
    second = store.upsert("db", 7)
    assert second.id == first.id
    assert second.created == first.created
    assert second.updated > first.updated
    assert (second.limit, slots(store, "db")) == (7, ["a"])


def test_slots_are_taken_up_to_the_limit(store: SqliteStore, clock: FakeTime) -> None:
    store.upsert("db", 2)
    assert got(ask(store, ["db"], "z", 60)) == {"db"}
    clock.now += 1
    assert got(ask(store, ["db"], "a", 60)) == {"db"}
    assert full(ask(store, ["db"], "b", 60)) == {"db"}
    assert slots(store, "db") == ["z", "a"]
    store.release(["z", "unknown"])
    clock.now += 1
    assert got(ask(store, ["db"], "b", 60)) == {"db"}
    assert slots(store, "db") == ["a", "b"]


def test_all_slots_or_none(store: SqliteStore) -> None:
    """SPEC 10.2."""
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db"], "a", 60)
    assert full(ask(store, ["api", "db"], "b", 60)) == {"db"}
    assert slots(store, "api") == []
    store.release(["a"])
    assert got(ask(store, ["api", "db"], "b", 60)) == {"api", "db"}
    assert full(ask(store, ["api", "db", "free"], "c", 60)) == {"api", "db"}
    store.release(["b"])
    assert slots(store, "api") == slots(store, "db") == []


def test_tags_without_a_limit_are_free(store: SqliteStore) -> None:
    """SPEC 10.2. Whatever text they are, and however many."""
    store.upsert("db", 1)
    tags = [
        "",
        "a\0b",
        "db\0",
        "\ud800",
        "'; DROP TABLE limits",
        "数据库",
        *map(str, range(40_000)),
    ]
    assert got(ask(store, tags, "a", 60)) == set()
    assert got(ask(store, [*tags, "db"], "b", 60)) == {"db"}


def test_a_limit_of_zero_comes_before_waiting(store: SqliteStore) -> None:
    store.upsert("a", 1)
    store.upsert("b", 0)
    ask(store, ["a"], "run", 60)
    answer = ask(store, ["a", "b"], "other", 60)
    assert isinstance(answer, Refused)
    assert answer.name == "b"
    assert "is 0" in answer.problem


def test_asking_again_keeps_what_one_has(store: SqliteStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    assert got(ask(store, ["db"], "a", 60)) == {"db"}
    assert got(ask(store, ["db", "api"], "a", 60)) == {"db", "api"}
    assert slots(store, "db") == slots(store, "api") == ["a"]


def test_lowering_a_limit_takes_no_slot_away(store: SqliteStore) -> None:
    store.upsert("db", 3)
    for run in "abc":
        ask(store, ["db"], run, 60)
    store.upsert("db", 1)
    store.release(["a", "b"])
    assert full(ask(store, ["db"], "d", 60)) == {"db"}
    store.release(["c"])
    assert got(ask(store, ["db"], "d", 60)) == {"db"}


def test_a_lease_that_is_over_does_not_count(store: SqliteStore, clock: FakeTime) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    clock.now += 59.9
    assert full(ask(store, ["db"], "b", 60)) == {"db"}
    clock.now += 0.1
    assert slots(store, "db") == []
    assert got(ask(store, ["db"], "b", 60)) == {"db"}
    assert store.renew(["a", "b"], 60) == {"b": {"db"}}


def test_a_lease_is_renewed(store: SqliteStore, clock: FakeTime) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db", "api"], "a", 60)
    for _ in range(5):
        clock.now += 50
        assert store.renew(["a", "unknown"], 60) == {"a": {"api", "db"}}
    assert slots(store, "db") == slots(store, "api") == ["a"]


def test_a_late_renewal_counts_if_the_slot_is_still_free(
    store: SqliteStore, clock: FakeTime
) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    clock.now += 100
    assert store.renew(["a"], 60) == {"a": {"db"}}
    assert slots(store, "db") == ["a"]


def test_resetting_drops_the_leases_of_one_tag(store: SqliteStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db", "api"], "a", 60)
    assert store.reset("db")
    assert not store.reset("unknown")
    assert (slots(store, "db"), slots(store, "api")) == ([], ["a"])


def test_deleting_drops_the_leases_too(store: SqliteStore) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    store.delete("db")
    store.upsert("db", 1)
    assert slots(store, "db") == []


def test_a_store_can_be_closed_at_any_time(store: SqliteStore) -> None:
    store.close()
    store.upsert("db", 1)
    store.close()
    store.close()
    assert got(ask(store, ["db"], "a", 60)) == {"db"}


def test_a_transaction_that_fails_leaves_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("db", 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_ring_all", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            store.upsert("db", 5)
    found = store.read("db")
    assert found is not None
    assert found.limit == 1


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
