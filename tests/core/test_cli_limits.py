"""`shoal concurrency-limit`: what it prints, and its exit codes (SPEC 10.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from shoal.cli.app import invoke
from shoal.limits import ConcurrencyLimits
from shoal.limits.sqlite import SqliteStore

from tests.limits.tools import ask, got

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Result = tuple[int, str, str]
Limit = "Callable[..., Result]"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "limits.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(path))
    return path


@pytest.fixture
def limit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Carries out `shoal concurrency-limit …`; gives exit code, stdout and stderr."""

    def run(*tokens: str, spelling: str = "concurrency-limit") -> Result:
        code = invoke([spelling, *tokens])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    store = SqliteStore()
    yield store
    store.close()


def test_create(limit: Limit) -> None:
    assert limit("create", "db", "10") == (0, "Limit of tag 'db': at most 10 runs at once.\n", "")
    assert limit("create", "db", "1") == (0, "Limit of tag 'db': at most 1 run at once.\n", "")
    assert limit("create", "off", "0") == (
        0,
        "Limit of tag 'off': 0, so its runs are aborted.\n",
        "",
    )
    found = ConcurrencyLimits().read_concurrency_limits()
    assert {limit.tag: limit.concurrency_limit for limit in found} == {"db": 1, "off": 0}


def test_create_takes_any_tag(limit: Limit) -> None:
    for tag in ("-x", "--help me", "two words", "数据库", "[bold]"):
        code, out, _ = limit("create", tag, "2")
        assert code == 0
        assert repr(tag) in out
        code, out, _ = limit("read", tag)
        assert f"tag:                {tag}\n" in out
    assert len(ConcurrencyLimits().read_concurrency_limits()) == 5


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (("create", "db", "-1"), "whole number from 0 up, not -1"),
        (("create", "db", "many"), 'unable to convert "many" into int'),
        (("create", "db", "1.5"), 'unable to convert "1.5" into int'),
        (("create", "", "1"), "must not be empty"),
        (("create", "db"), "requires an argument"),
        (("create", "db", "1", "2"), "Unused Tokens"),
        (("read",), "requires an argument"),
        (("list",), "Unknown command"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done(
    limit: Limit, file: Path, tokens: tuple[str, ...], problem: str
) -> None:
    code, out, err = limit(*tokens)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert re.search(problem, err)
    assert not file.exists()


def test_ls(limit: Limit, store: SqliteStore, file: Path) -> None:
    code, out, err = limit("ls")
    assert (code, err) == (0, "")
    assert out.startswith("There are no limits. ")
    assert not file.exists()

    store.upsert("tag:" + "a tag of some length", 3)
    store.upsert("tag:" + "db", 10_000)
    for run in ("one", "two"):
        ask(store, ["tag:db"], run)
    code, out, err = limit("ls")
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "TAG                   LIMIT  ACTIVE",
        "a tag of some length      3       0",
        "db                    10000       2",
    ]


def test_read(limit: Limit, store: SqliteStore) -> None:
    made = store.upsert("tag:" + "db", 2)
    for run in ("one", "two"):
        ask(store, ["tag:db"], run)
    code, out, err = limit("read", "db")
    assert (code, err) == (0, "")
    when = f"{made.created.astimezone():%Y-%m-%d %H:%M:%S}"
    assert out.splitlines() == [
        "tag:                db",
        f"id:                 {made.id}",
        "concurrency_limit:  2",
        f"created:            {when}",
        f"updated:            {when}",
        "active_slots:       2",
        "",
        "Held by",
        *out.splitlines()[8:],
    ]
    table = [line.split() for line in out.splitlines()[8:]]
    assert table[0] == ["RUN", "SLOTS", "HOST", "PID", "SINCE", "ID"]
    assert [row[-1] for row in table[1:]] == ["one", "two"]


def test_delete(limit: Limit, store: SqliteStore) -> None:
    store.upsert("tag:" + "db", 2)
    assert limit("delete", "db") == (0, "Tag 'db' has no limit any more.\n", "")
    assert store.read("tag:db") is None


def test_reset(limit: Limit, store: SqliteStore) -> None:
    store.upsert("tag:" + "db", 2)
    ask(store, ["tag:db"], "one")
    assert limit("reset", "db") == (0, "Limit of tag 'db': 1 slot freed.\n", "")
    assert limit("reset", "db") == (0, "Limit of tag 'db': 0 slots freed.\n", "")
    assert got(ask(store, ["tag:db"], "two"))


@pytest.mark.parametrize("command", ["read", "delete", "reset"])
def test_a_tag_without_a_limit(limit: Limit, store: SqliteStore, command: str) -> None:
    store.upsert("tag:" + "database", 2)
    code, out, err = limit(command, "datbase")
    assert (code, out) == (2, "")
    assert "'datbase': the tag has no limit" in err
    assert "Did you mean 'database'?" in err
    assert len(err.splitlines()) == 1


def test_the_older_spelling(limit: Limit) -> None:
    assert limit("create", "db", "3", spelling="concurrency_limit")[0] == 0
    assert "db" in limit("ls", spelling="concurrency_limit")[1]


def test_a_store_that_cannot_be_used(limit: Limit, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("no limits here" * 1000)
    for tokens in (("ls",), ("read", "db"), ("create", "db", "1")):
        code, out, err = limit(*tokens)
        assert (code, out) == (2, "")
        assert str(file) in err
        assert "not a database" in err


def test_an_address_of_something_else(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", "mysql://host/limits")
    code, _, err = limit("ls")
    assert code == 2
    assert "SHOAL_LIMITS_URL='mysql://host/limits'" in err
