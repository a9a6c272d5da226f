"""mypy and pyright as users run them: on files elsewhere, without the configuration of this repository."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

#: Seconds. What is installed is checked as well, where that has changed or was never done: half a minute of work.
TIMEOUT = 400


class Problem(NamedTuple):
    """What a checker complains of.

    Attributes:
        file: relative to the directory that was checked.
        line: from 1.
        text: the message, with its code.
    """

    file: str
    line: int
    text: str


def mypy(directory: Path, files: Sequence[Path], *options: str) -> list[Problem]:
    """What mypy finds in these files of a directory; it may have a `mypy.ini` of its own."""
    # The repository's own runs have other options, so with one cache each would begin anew.
    cache = f"--cache-dir={ROOT / '.mypy_cache' / 'users'}"
    python = f"--python-executable={sys.executable}"
    done = _run(directory, "mypy", "--output=json", cache, python, *options, *map(str, files))
    if done.returncode not in (0, 1):
        pytest.fail(
            f"mypy ended with {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False
        )
    return [
        Problem(found["file"], found["line"], f"{found['message']} [{found['code']}]")
        for found in map(json.loads, filter(None, done.stdout.splitlines()))
        if found["severity"] == "error"
    ]


def pyright(directory: Path, files: Sequence[Path]) -> list[Problem]:
    """What pyright finds in these files of a directory; it may have a `pyrightconfig.json` that names them."""
    started = _run(directory, "pyright", "--version")
    if started.returncode != 0:
        pytest.skip(f"pyright does not start here: {started.stdout.strip()}")
    named = [] if (directory / "pyrightconfig.json").exists() else map(str, files)
    done = _run(directory, "pyright", "--outputjson", "--pythonpath", sys.executable, *named)
    if done.returncode not in (0, 1):
        pytest.fail(f"pyright ended with {done.returncode}:\n{done.stdout}", pytrace=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["summary"]["filesAnalyzed"] == len(files)
    return [
        Problem(
            str(Path(found["file"]).relative_to(directory)),
            found["range"]["start"]["line"] + 1,
            f"{found['message']} [{found.get('rule')}]",
        )
        for found in answer["generalDiagnostics"]
        if found["severity"] == "error"
    ]


def _run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def told(problems: Sequence[Problem]) -> str:
    """The problems, one a line."""
    return "\n".join(f"{file}:{line}: {text}" for file, line, text in problems)
