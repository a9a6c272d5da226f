"""Each test has limits of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.limits.tools import FakeTime

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = (
    "SHOAL_LIMITS_URL",
    "SHOAL_LIMITS_LEASE_SECONDS",
    "SHOAL_LIMITS_POLL_SECONDS",
    "XDG_STATE_HOME",
)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where limits are kept in a test, also in the processes that it starts; there is no file yet."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "state" / "limits.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(path))
    return path


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()
