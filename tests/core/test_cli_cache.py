"""`shoal cache`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from shoal.cli.app import invoke
from shoal.results.storage import Record, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shoal.results.storage import Storage

Result = tuple[int, str, str]
Shoal = "Callable[..., Result]"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Where results are kept; there are none."""
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path))
    return open_storage()


@pytest.fixture
def cache(capsys: pytest.CaptureFixture[str], storage: Storage) -> Callable[..., Result]:
    """Carries out `shoal cache …`; gives exit code, stdout and stderr."""

    def run(*tokens: str) -> Result:
        code = invoke(["cache", *tokens])
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return run


@pytest.fixture
def three(storage: Storage) -> Storage:
    """Three results of two tasks."""
    storage.write(Record(key="ab" * 20, value=bytes(2000), task_name="load", run_name="load-1"))
    storage.write(
        Record(key="ac" * 20, task_name="load", run_name="load-2", expires=time.time() + 3600)
    )
    storage.write(Record(key="orders.json", serializer="json", task_name="fold"))
    return storage


def left(storage: Storage) -> list[str]:
    return sorted(entry.record.key[:2] for entry in storage.list())


def test_where_nothing_is_kept(cache: Shoal, storage: Storage) -> None:
    assert cache("ls") == (0, f"No results are kept in {storage}.\n", "")
    code, out, _ = cache("info")
    assert (code, out.split()) == (
        0,
        ["storage:", storage.place, "results:", "0", "size:", "0", "B", "tasks:", "-"],
    )
    assert cache("ls", "--json") == (0, "[]\n", "")
    assert cache("prune") == (0, "Removed 0 results, 0 B.\n", "")


def test_ls(cache: Shoal, three: Storage) -> None:
    code, out, err = cache("ls")
    assert (code, err) == (0, "")
    titles, *rows = out.splitlines()
    assert titles.split() == ["KEY", "TASK", "RUN", "MADE", "USED", "EXPIRES", "SIZE"]
    assert {row.split()[0] for row in rows} == {"abababababab", "acacacacacac", "orders.json"}
    assert any("2.2" in row and "kB" in row for row in rows)
    code, out, _ = cache("ls", "--task", "fold", "-o", "json")
    (shown,) = json.loads(out)
    assert shown["key"] == "orders.json"
    assert (shown["task"], shown["serializer"], shown["expires"]) == ("fold", "json", None)


def test_a_task_that_has_none(cache: Shoal, three: Storage) -> None:
    code, _, err = cache("ls", "--task", "lod")
    assert (code, err) == (
        2,
        "Error: no result of a task 'lod' is kept. Did you mean 'load'?",
    )


def test_info(cache: Shoal, three: Storage) -> None:
    assert "load (2)" in cache("info")[1]
    code, out, _ = cache("info", "acac")
    assert code == 0
    assert "load-2" in out
    assert json.loads(cache("info", "orders", "--json")[1])["key"] == "orders.json"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("a", "2 keys begin with 'a'"),
        ("x", "no result is kept under the key 'x'"),
        ("", "a key, or its beginning, is not empty"),
    ],
    ids=["several", "none", "empty"],
)
def test_a_key_that_is_not_clear(cache: Shoal, three: Storage, key: str, problem: str) -> None:
    for command in ("info", "rm"):
        code, _, err = cache(command, key)
        assert code == 2
        assert problem in err
    assert len(left(three)) == 3


def test_rm(cache: Shoal, three: Storage) -> None:
    assert cache("rm", "orders.json")[1].startswith("Removed 1 result, ")
    assert left(three) == ["ab", "ac"]
    assert cache("rm", "--task", "load")[1].startswith("Removed 2 results, 2.")
    assert left(three) == []


def test_rm_all(cache: Shoal, three: Storage) -> None:
    assert cache("rm", "--all")[1].startswith("Removed 3 results")
    assert left(three) == []


@pytest.mark.parametrize(
    "tokens", [[], ["orders.json", "--all"], ["--task", "load", "--all"]], ids=["none", "2", "both"]
)
def test_rm_wants_to_know_what(cache: Shoal, three: Storage, tokens: list[str]) -> None:
    code, _, err = cache("rm", *tokens)
    assert code == 2
    assert "say which results are to go" in err
    assert len(left(three)) == 3


def test_prune(cache: Shoal, three: Storage) -> None:
    assert cache("prune")[1] == "Removed 0 results, 0 B.\n"
    assert cache("prune", "--max-gb", "0.000001")[1].startswith("Removed 1 result, 2.2")
    assert left(three) == ["ac", "or"]
    assert cache("prune", "--max-days", "0", "--max-gb", "0")[1] == "Removed 0 results, 0 B.\n"
    code, _, err = cache("prune", "--max-gb", "-1")
    assert code == 2
    assert "--max-gb -1" in err


def test_another_place(cache: Shoal, three: Storage, tmp_path: Path) -> None:
    other = tmp_path / "other"
    open_storage(other).write(Record(key="there"))
    assert "there" in cache("ls", "--storage", str(other))[1]
    code, _, err = cache("ls", "-s", "nope://x")
    assert code == 2
    assert "Protocol not known" in err


def parts(x: str, code: str) -> dict[str, str]:
    return {"argument 'x'": x, "argument 'y'": "1", "code of etl.load": code}


def test_explain(cache: Shoal, storage: Storage) -> None:
    """The run beside the one of another flow run that has most in common with it."""
    made = [
        ("calm-owl", "load-1", "1", "a"),
        ("calm-owl", "load-2", "2", "a"),
        ("sly-fox", "load-1", "1", "b"),
        ("sly-fox", "load-2", "3", "a"),
    ]
    for number, (flow_run, run, x, code) in enumerate(made):
        storage.write(
            Record(
                key=f"{flow_run} {run}",
                created=time.time() - 100 + number,
                task_name="load",
                run_name=run,
                flow_run_name=flow_run,
                parts=parts(x, code),
            )
        )

    code, out, err = cache("explain", "load-1")
    assert (code, err) == (0, "")
    said, change = out.splitlines()
    assert said.startswith("load-1, beside load-1 of ")
    assert change.strip() == "code of etl.load has changed"
    (told,) = json.loads(cache("explain", "load-2", "--json")[1])
    assert (told["key"], told["beside_key"]) == ("sly-fox load-2", "calm-owl load-2")
    assert told["changes"] == ["argument 'x' has changed"]
    told = json.loads(cache("explain", "sly-fox", "-o", "json")[1])
    assert [change["run"] for change in told] == ["load-1", "load-2"]
    for first in ("calm-owl", "calm-owl load-1"):
        assert "no earlier result of task 'load'" in cache("explain", first)[1]
    code, _, err = cache("explain", "nobody")
    assert code == 2
    assert "no result that 'nobody' computed is kept" in err


def test_explain_looks_at_every_element_of_an_earlier_map(cache: Shoal, storage: Storage) -> None:
    for number in range(301):
        of_today = number == 300
        storage.write(
            Record(
                key=f"key {number}",
                created=time.time() - 1000 + number,
                task_name="load",
                run_name=f"load-{number}",
                flow_run_name="sly-fox" if of_today else "calm-owl",
                parts=parts("7" if of_today else str(number), "b" if of_today else "a"),
            )
        )
    (told,) = json.loads(cache("explain", "load-300", "--json")[1])
    assert (told["beside"], told["changes"]) == ("load-7", ["code of etl.load has changed"])
