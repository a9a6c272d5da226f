"""Comparing what the driver, the scheduler and the workers have installed."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING

import pytest
from shoal.exceptions import EnvironmentMismatch
from shoal_dask import environment
from shoal_dask.environment import (
    check_environment,
    check_worker,
    compare,
    describe,
    this_environment,
)

if TYPE_CHECKING:
    from shoal_dask.connection import Connection

HERE = {
    "python": "3.11.7",
    "shoal": "0.1.0",
    "shoal_dask": "0.1.0",
    "cloudpickle": "3.1.0",
    "distributed": "2026.8.0",
}


def described(*workers: dict[str, str], **scheduler: str) -> dict[str, dict[str, str]]:
    places = {"driver": HERE, "scheduler": {**HERE, **scheduler}}
    return places | {f"tcp://w:{n}": {**HERE, **other} for n, other in enumerate(workers)}


def test_what_agrees() -> None:
    found = compare(described({}, {}))
    assert found.problem is None
    assert found.rows == {}
    assert found.table == ""


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("python", "3.12.7"),
        ("shoal", "0.1.1"),
        ("shoal", "missing"),
        ("shoal_dask", "0.2.0"),
        ("shoal_dask", "missing"),
        ("distributed", "2026.7.0"),
        ("distributed", "2025.8.0"),
    ],
)
def test_what_cannot_work(package: str, version: str) -> None:
    for places in (described({}, {package: version}), described({}, **{package: version})):
        found = compare(places)
        assert found.problem is not None
        assert package in found.problem
        assert version in found.problem
        assert list(found.rows) == [package]


@pytest.mark.parametrize(
    ("package", "version"),
    [("python", "3.11.9"), ("cloudpickle", "2.0.0"), ("distributed", "2026.8.1")],
)
def test_what_may_work(package: str, version: str) -> None:
    found = compare(described({package: version}))
    assert found.problem is None
    assert list(found.rows) == [package]


def test_the_table() -> None:
    found = compare(described({}, {}, {"python": "3.12.4", "cloudpickle": "3.0"}))
    assert found.table.splitlines() == [
        "             driver  scheduler  2 workers  tcp://w:2",
        "python       3.11.7  3.11.7     3.11.7     3.12.4",
        "cloudpickle  3.1.0   3.1.0      3.1.0      3.0",
    ]
    assert found.problem == "python is 3.12.4 on tcp://w:2, 3.11.7 here"


def test_without_workers() -> None:
    assert compare(described()).rows == {}


def test_the_error_carries_its_facts() -> None:
    found = compare(described({}, python="3.9.1"))
    error = EnvironmentMismatch(
        cluster="Dask", rows=found.rows, table=found.table, problem=found.problem or ""
    )
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.rows["python"]["scheduler"] == "3.9.1"
    assert found.table in str(error)
    assert "check_environment=False" in str(error)


def test_a_real_cluster_agrees(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    places = describe(connection.client)
    assert list(places)[:2] == ["driver", "scheduler"]
    assert len(places) == 4
    assert all(versions == this_environment() for versions in places.values())
    check_environment(connection.client)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_cluster_that_does_not(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = {**this_environment(), "python": "3.9.1"}
    monkeypatch.setattr(environment, "this_environment", lambda: other)
    with pytest.raises(EnvironmentMismatch, match=r"3\.9\.1 here") as raised:
        check_environment(connection.client)
    assert set(raised.value.rows["python"]) == {"driver", "scheduler", "2 workers"}
    other = {**this_environment(), "python": this_environment()["python"], "cloudpickle": "1.0"}
    other["python"] = describe(connection.client)["scheduler"]["python"]
    check_environment(connection.client)
    assert caplog.text.count("may or may not matter") == 1
    assert "cloudpickle" in caplog.text


def test_a_cluster_that_does_not_say(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environment, "_PATIENCE", 0.0)
    check_environment(connection.client)
    assert "were not compared" in caplog.text


def test_a_worker_that_comes_later() -> None:
    assert check_worker(this_environment()) is None
    assert check_worker({**this_environment(), "cloudpickle": "1.0"}) is None
    problem = check_worker({**this_environment(), "shoal": "9.9"})
    assert problem is not None
    assert "shoal is 9.9 on the worker" in problem
