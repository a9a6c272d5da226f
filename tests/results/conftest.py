"""Each test has a home of its own, in which nothing is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = ("SHOAL_RESULTS_STORAGE", "SHOAL_RESULTS_MAX_GB", "SHOAL_RESULTS_MAX_DAYS")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept in a test, also in the processes that it starts."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "home"
    monkeypatch.setenv("SHOAL_HOME", str(path))
    return path
