"""Type checkers see what users should see: usage.py has no errors, and all that it says it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USAGE = Path(__file__).with_name("usage.py")
ROOT = Path(__file__).parents[2]

# The first run after an installation checks the typed dependencies as well.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def check(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_mypy() -> None:
    done = check("mypy", "--strict", "--python-executable", sys.executable, str(USAGE))
    assert done.returncode == 0, done.stdout


def test_pyright() -> None:
    started = check("pyright", "--version")
    if started.returncode != 0:
        pytest.skip(f"pyright does not start here: {started.stdout.strip()}")
    done = check("pyright", "--pythonpath", sys.executable, str(USAGE))
    assert done.returncode == 0, done.stdout
