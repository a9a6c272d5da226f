"""Samples here are made up: no garbage of a test process's distorts them, so it is not collected between them.

And nobody is warned of what else the machine does.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from shoal_bench import harness


@pytest.fixture(autouse=True)
def _no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "gc", SimpleNamespace(collect=lambda: 0))


@pytest.fixture(autouse=True)
def _idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.4, 0.4, 0.4), raising=False)
