"""`shoal global-concurrency-limit`, or `gcl`: what it prints, and its exit codes (SPEC 10.1, 10.3)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from shoal.cli.app import invoke, make_app
from shoal.concurrency.sync import concurrency
from shoal.limits import ConcurrencyLimits
from shoal.testing.section_10_concurrency import held_elsewhere
from shoal.testing.section_10_limits import limits_of_a_test

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Result = tuple[int, str, str]
Shoal = "Callable[..., Result]"


@pytest.fixture(autouse=True)
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    return limits_of_a_test(tmp_path, monkeypatch)


@pytest.fixture
def gcl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Carries out `shoal gcl …`; gives exit code, stdout and stderr."""

    def run(*tokens: str, command: str = "gcl") -> Result:
        code = invoke([command, *tokens])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def facts(limits: ConcurrencyLimits, name: str) -> tuple[Any, ...]:
    """What was set of a limit."""
    limit = limits.read_global_concurrency_limit_by_name(name)
    return limit.limit, limit.slot_decay_per_second, limit.active_slots, limit.active


def test_create(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    assert gcl("create", "db", "--limit", "5") == (0, "Limit 'db': 5 slots.\n", "")
    assert facts(limits, "db") == (5, 0.0, 0.0, True)
    code, out, err = gcl(
        *("create", "-x", "--limit", "1", "--slot-decay-per-second", "0.25", "--disable"),
        *("--active-slots", "1"),
    )
    assert (code, err) == (0, "")
    assert out == (
        "Limit '-x': 1 slot, of which 0.25 are free again each second; it is disabled, and limits nothing.\n"
    )
    limit, decay, taken, active = facts(limits, "-x")
    assert (limit, decay, active) == (1, 0.25, False)
    assert 0 < taken <= 1


def test_the_other_spellings(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    for command in ("global-concurrency-limit", "global_concurrency_limit", "gcl"):
        assert gcl("create", command, "--limit", "1", command=command)[0] == 0
    assert len(limits.read_global_concurrency_limits()) == 3


def test_names_of_any_characters_take_one_line(gcl: Shoal) -> None:
    for name in ("a\nb", "\x1b[2Jc", " d"):
        assert gcl("create", name, "--limit", "1")[0] == 0
        out = gcl("inspect", name)[1]
        assert repr(name) in out.splitlines()[0]
    rows = gcl("ls")[1].splitlines()[1:]
    assert sorted(row.split("  ")[0] for row in rows) == ["' d'", "'\\x1b[2Jc'", "'a\\nb'"]


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (("create", "db"), "--limit"),
        (("create", "--limit", "3"), "requires an argument"),
        (("create", "db", "--limit", "-1"), "limit must be a whole number from 0 up, not -1"),
        (("create", "db", "--limit", "many"), 'unable to convert "many" into int'),
        (("create", "db", "--limit", "1.5"), 'unable to convert "1.5" into int'),
        (
            ("create", "db", "--limit", "1", "--slot-decay-per-second", "-1"),
            "slot_decay_per_second must be a number from 0 up",
        ),
        (
            ("create", "db", "--limit", "1", "--slot-decay-per-second", "nan"),
            "slot_decay_per_second must be a number from 0 up",
        ),
        (("create", "db", "--limit", "1", "--active-slots", "-1"), "active_slots must be"),
        (("create", "", "--limit", "1"), "must not be empty"),
        (("create", "tag:db", "--limit", "1"), "those of tags"),
        (("create", "db", "--limit", "1", "--speed", "2"), "Unknown option"),
        (("inspect",), "requires an argument"),
        (("inspect", "db", "-o", "yaml"), "yaml"),
        (("list",), "Unknown command"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done(
    gcl: Shoal, tmp_path: Path, tokens: tuple[str, ...], problem: str
) -> None:
    code, out, err = gcl(*tokens)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert re.search(problem, err)
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_create_does_not_change_a_limit(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    gcl("create", "db", "--limit", "5")
    code, out, err = gcl("create", "db", "--limit", "6")
    assert (code, out) == (2, "")
    assert "there is a limit of this name already" in err
    assert facts(limits, "db")[0] == 5


def test_ls(gcl: Shoal, limits: ConcurrencyLimits, tmp_path: Path) -> None:
    code, out, err = gcl("ls")
    assert (code, err) == (0, "")
    assert out.startswith("There are no limits. ")
    assert gcl("ls", "--json") == (0, "[]\n", "")
    assert list(tmp_path.iterdir()) == []
    gcl("create", "db", "--limit", "5")
    gcl("create", "[bold]", "--limit", "10000", "--disable")
    limits.create_concurrency_limit("not shown", 1)
    with concurrency("db", occupy=2):
        code, out, err = gcl("ls")
        listed = json.loads(gcl("ls", "-o", "json")[1])
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "NAME    LIMIT  ACTIVE SLOTS  DECAY PER SECOND  WAITING  ENABLED",
        "[bold]  10000             0                 0        0  no",
        "db          5             2                 0        0  yes",
    ]
    assert [(limit["name"], limit["active_slots"]) for limit in listed] == [
        ("[bold]", 0),
        ("db", 2),
    ]


def test_inspect(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    gcl("create", "db", "--limit", "2")
    with concurrency("db", occupy=2, holder="me"):
        code, out, err = gcl("inspect", "db")
        told = json.loads(gcl("inspect", "db", "--json")[1])
        assert json.loads(gcl("inspect", "db", "-o", "json")[1])["id"] == told["id"]
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "name:                   db"
    assert "active_slots:           2" in lines
    held = lines[lines.index("Held by") + 2].split()
    assert held[:2] == ["me", "2"]
    assert held[-1] == told["holders"][0]["id"]
    assert told["holders"][0]["label"] == "me"
    assert told["waiters"] == []


def test_inspect_shows_who_waits(gcl: Shoal) -> None:
    import threading

    from shoal.testing.section_10_concurrency import waiters
    from shoal.testing.tools import PATIENCE, eventually

    gcl("create", "db", "--limit", "1")

    def wait() -> None:
        with concurrency("db", holder="the second"):
            pass

    with held_elsewhere("db"):
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: waiters("db"), "it stands in line")
        out = gcl("inspect", "db")[1]
        listed = gcl("ls")[1]
    thread.join(PATIENCE)
    assert "Waiting" in out
    assert "the second" in out
    assert listed.splitlines()[1].split() == ["db", "1", "1", "0", "1", "yes"]


def test_update(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    gcl("create", "db", "--limit", "5")
    assert gcl("update", "db", "--limit", "3")[0] == 0
    assert facts(limits, "db") == (3, 0.0, 0.0, True)
    assert gcl("update", "db", "--active-slots", "2", "--disable")[0] == 0
    assert facts(limits, "db") == (3, 0.0, 2.0, False)
    assert gcl("update", "db", "--enable", "--slot-decay-per-second", "1e-9")[0] == 0
    assert facts(limits, "db")[1:2] == (1e-9,)
    assert limits.read_global_concurrency_limit_by_name("db").active
    code, out, err = gcl("update", "db")
    assert (code, out) == (2, "")
    assert "nothing is to be changed" in err


def test_enable_and_disable(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    gcl("create", "db", "--limit", "1")
    assert gcl("disable", "db") == (
        0,
        "Limit 'db': 1 slot; it is disabled, and limits nothing.\n",
        "",
    )
    assert not facts(limits, "db")[3]
    assert gcl("enable", "db") == (0, "Limit 'db': 1 slot.\n", "")
    assert facts(limits, "db")[3]


def test_delete(gcl: Shoal, limits: ConcurrencyLimits) -> None:
    gcl("create", "db", "--limit", "1")
    assert gcl("delete", "db") == (0, "There is no limit 'db' any more.\n", "")
    assert limits.read_global_concurrency_limits() == []


@pytest.mark.parametrize(
    "tokens",
    [("inspect",), ("update", "--limit", "1"), ("enable",), ("disable",), ("delete",)],
    ids=" ".join,
)
def test_a_name_without_a_limit(gcl: Shoal, tokens: tuple[str, ...]) -> None:
    gcl("create", "database", "--limit", "1")
    code, out, err = gcl(tokens[0], "datbase", *tokens[1:])
    assert (code, out) == (2, "")
    assert "'datbase': there is no such limit" in err
    assert "Did you mean 'database'?" in err
    assert len(err.splitlines()) == 1


def test_a_shell_completes_names(
    gcl: Shoal, limits: ConcurrencyLimits, capsys: pytest.CaptureFixture[str]
) -> None:
    gcl("create", "db", "--limit", "1")
    limits.create_concurrency_limit("io", 1)
    for words, name in (
        (["gcl", "inspect", ""], "db"),
        (["gcl", "delete", "d"], "db"),
        (["concurrency-limit", "read", ""], "io"),
    ):
        make_app(plugins=False)(
            ["__complete", *words], exit_on_error=False, result_action="return_value"
        )
        shown = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
        assert [word for word in shown if word and "\x1f" not in word] == [name]
