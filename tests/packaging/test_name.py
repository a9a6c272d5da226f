"""The project's name: nothing tracked says the old one, and nothing leads to a package that is not ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = "many" + "hands"


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, timeout=30
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_nothing_says_the_old_name() -> None:
    said = re.compile(OLD.encode(), re.IGNORECASE)
    left = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.name != "CHANGELOG.md"
        and (OLD in str(path).lower() or said.search(path.read_bytes()))
    ]
    assert not left


def test_nobody_is_told_to_install_ours_from_an_index() -> None:
    """Until there are releases, the clone's paths are what works; a name on an index could be a stranger's."""
    wrong = re.compile(
        r"""(pip\s+install|uv\s+add|uvx|pipx\s+\w+)\s[^`\n&]*(?<![\w/.-])["']?shoal|pypi\.org/project/shoal"""
    )
    told = []
    for path in tracked():
        if path.suffix in {".md", ".py", ".toml"} and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            told += [f"{path.relative_to(ROOT)}: {match.group()}" for match in wrong.finditer(text)]
    assert not told
