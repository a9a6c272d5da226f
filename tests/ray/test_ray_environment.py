"""Comparing what the driver and the workers have installed."""

from __future__ import annotations

import pickle

import pytest
import ray
from shoal_ray.environment import check_worker, compare, explain_import, this_environment


def test_what_this_process_has() -> None:
    here = this_environment()
    assert here["ray"] == ray.__version__
    assert set(here) == {"python", "shoal", "shoal_ray", "cloudpickle", "ray"}
    assert "missing" not in here.values()


def test_a_worker_that_fits() -> None:
    assert check_worker(this_environment()) is None
    python = this_environment()["python"].rpartition(".")[0]
    assert (
        check_worker({**this_environment(), "cloudpickle": "1.0", "python": f"{python}.99"}) is None
    )


@pytest.mark.parametrize("package", ["python", "shoal", "shoal_ray", "ray"])
def test_a_worker_that_does_not(package: str) -> None:
    for version in ("0.0.1", "missing"):
        error = check_worker({**this_environment(), package: version})
        assert error is not None
        assert list(error.rows) == [package]
        assert error.rows[package]["worker"] == version
        assert package in error.problem
        assert error.table in str(pickle.loads(pickle.dumps(error)))


def test_the_table() -> None:
    here = this_environment()
    found = compare({"driver": here, "worker": {**here, "ray": "2.0.0"}})
    assert found.table.splitlines()[1].split() == ["ray", here["ray"], "2.0.0"]
    assert found.problem == f"ray is 2.0.0 on the worker, {here['ray']} here"


@pytest.mark.parametrize("package", ["shoal", "shoal_ray"])
def test_a_worker_that_cannot_say_what_it_has(package: str) -> None:
    """As Ray puts it where it cannot load an argument."""
    error = explain_import(
        RuntimeError(f"System error: No module named '{package}'\ntraceback: ...")
    )
    assert error is not None
    assert f"{package} is missing on the worker" in str(error)
    inner = ModuleNotFoundError(f"No module named '{package}.side'")
    assert explain_import(inner) is not None


def test_other_errors_are_nothing_of_this_kind() -> None:
    for text in ("No module named 'pandas'", "No module named 'shoal_dask'", "boom"):
        assert explain_import(RuntimeError(text)) is None
