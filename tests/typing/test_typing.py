"""Type checkers see what users should see: usage.py has no errors, and all that it says it has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.typing import checkers

USAGE = Path(__file__).with_name("usage.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(checkers.TIMEOUT)]


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    """The file where the configuration of this repository, for which a future is no value, does not reach."""
    return Path(shutil.copy(USAGE, tmp_path))


def test_mypy(usage: Path) -> None:
    problems = checkers.mypy(usage.parent, [usage], "--strict")
    assert not problems, checkers.told(problems)


def test_pyright(usage: Path) -> None:
    problems = checkers.pyright(usage.parent, [usage])
    assert not problems, checkers.told(problems)
