"""Files of the current folder that are called like modules of the standard library disturb nothing."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from shoal_bench.commands.peers import interpreters
from shoal_bench.contestants import known
from shoal_bench.fresh_process import run_python
from shoal_bench.live.process import LiveProcess
from shoal_bench.trial.trial import tried

FLOW = """
from shoal import flow
from helper import ANSWER

@flow
def answer():
    return ANSWER
"""


@pytest.fixture(autouse=True)
def shadows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with such files."""
    for name in ("subprocess", "json", "importlib", "platform", "threading"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_live_process() -> None:
    live = LiveProcess(known()["futures-threads"], 1, 1e9)
    live.kill()
    assert live.opened > 0


def test_a_fresh_process() -> None:
    assert run_python("-c", "import json, threading; print(1)") == "1\n"


def test_a_peer() -> None:
    assert list(interpreters([f"loky={sys.executable}"])) == ["loky"]


@pytest.mark.parametrize("target", ["mine/flows.py:answer", "mine.flows:answer"])
def test_a_flow_finds_its_own_modules_all_the_same(target: str, shadows: Path) -> None:
    mine = shadows / "mine"
    mine.mkdir()
    (mine / "flows.py").write_text(FLOW)
    where = mine if target.startswith("mine/") else shadows
    (where / "helper.py").write_text("ANSWER = 42\n")
    if where is shadows:
        for file in shadows.glob("*.py"):
            if file.stem != "helper":
                file.unlink()  # as with `shoal run`, this folder comes first now
    trial = tried(target, "sequential", 1, (), limit=60)
    assert (trial.failed, pickle.loads(trial.value or b"")) == (None, 42)
