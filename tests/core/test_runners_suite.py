"""The suite as its users see it: what it asks for, what it excuses, and how it says so (SPEC 11.4)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from shoal import testing
from shoal.scheduling.capabilities import Capabilities
from shoal.testing.base import FLAGS, covers
from shoal.testing.tools import Signals, eventually

SPEC_SECTIONS = {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}


def test_every_test_says_what_it_covers() -> None:
    suite = testing.TaskRunnerSuite
    tests = {name for name in dir(suite) if name.startswith("test_")}
    covered = suite.covered()
    assert tests == set(covered)
    assert len(tests) > 200
    for name, facts in covered.items():
        assert facts.paragraphs, name
        assert all(re.fullmatch(r"\d+\.\d+", paragraph) for paragraph in facts.paragraphs), name
    sections = {p.partition(".")[0] for facts in covered.values() for p in facts.paragraphs}
    assert sections == SPEC_SECTIONS


def test_what_missing_flags_excuse() -> None:
    excuses = testing.TaskRunnerSuite.excuses()
    assert set(excuses) == set(FLAGS)
    covered = testing.TaskRunnerSuite.covered()
    for flag, paragraph in (("sends_logs", "8.4"), ("stops", "7.4"), ("isolated", "7.7")):
        assert any(paragraph in covered[name].paragraphs for name in excuses[flag])
    assert all(flag in covered[name].needs for flag in FLAGS for name in excuses[flag])


def test_no_file_is_long() -> None:
    for path in Path(testing.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 520, path


def test_a_flag_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="fly"):
        covers("1.1", needs="fly")


AUTHORS_FILE = """
import pytest
from shoal.scheduling.capabilities import Capabilities
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.testing import TaskRunnerSuite


class TestMine(TaskRunnerSuite):
    capabilities = Capabilities(sends_logs=False, nests=False, stops=False)

    @pytest.fixture
    def runner(self):
        return ThreadPoolTaskRunner(2)


class TestForgetful(TaskRunnerSuite):
    pass
"""


@pytest.mark.slow
def test_the_reasons_an_author_reads(tmp_path: Path) -> None:
    """A subclass in a project of its own: no configuration of ours, flags of its own, no `single_runner`."""
    import subprocess
    import sys

    (tmp_path / "test_mine.py").write_text(AUTHORS_FILE)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    mine = "TestMine and (prints or fifty_levels or what_runs_is_stopped or submit_gives)"
    chosen = f"({mine}) or (TestForgetful and submit_gives)"
    done = subprocess.run(
        [*command, "-k", chosen, "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    out = done.stdout
    assert "1 error" in out, out + done.stderr
    assert "the backend lacks sends_logs: log records of workers do not reach the driver" in out
    assert "the backend lacks stops: " in out
    assert "SPEC" not in out
    assert "defines no fixture `single_runner`" in out
    assert " passed" in out
    assert "TestForgetful must define the fixture `runner`" in out


def test_capabilities_are_exported() -> None:
    assert testing.Capabilities is Capabilities
    assert sorted(testing.__all__) == dir(testing)
    with pytest.raises(AttributeError):
        testing.Nothing  # noqa: B018


def test_signals(tmp_path: Path) -> None:
    signals = Signals(tmp_path)
    assert not signals.is_set("a")
    with pytest.raises(AssertionError, match="event 'a'"):
        signals.wait("a", timeout=0.01)
    signals.set("a")
    signals.wait("a")
    signals.append("log", "one")
    signals.append("log", 2)
    assert signals.lines("log") == ["one", "2"]
    assert signals.lines("other") == []
    with signals.inside("room") as first, signals.inside("room") as second:
        assert (first, second) == (1, 2)
    with signals.inside("room") as again:
        assert again == 1
    dies = "import os; from shoal.testing import Signals; Signals({}).inside('room').__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", dies.format(repr(str(tmp_path)))], check=True)
    with signals.inside("room") as again:
        assert again == 1, "who was killed is not there"
    with pytest.raises(AssertionError, match="2 come to 'alone'"):
        signals.meet("alone", 2, timeout=0.01)
    assert eventually(lambda: 5, "a value") == 5
