"""`shoal demo`: the flow that people read first, and what it shows."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from shoal import State
from shoal.cli import demo, demo_screen
from shoal.cli.app import invoke
from shoal.serialization import dumps, loads
from shoal.states import Failed

SHOAL = str(Path(sys.executable).with_name("shoal"))

FILES = {
    "alpha.py": "import os, sys\nfrom json import loads\n\ndef first():\n    def inner():\n        pass\n",
    "beta.py": "import os.path\nimport numpy\n\nclass B:\n    async def go(self):\n        return 1\n",
    "broken.py": "print 'two'\n",
    "json/__init__.py": "from . import decoder\nimport os\n",
    "json/decoder.py": "try:\n    import re\nexcept ImportError:\n    import sys\n",
    "json/test/test_json.py": "import unittest\n",
    "site-packages/numpy.py": "import os\n",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library."""
    root = tmp_path / "lib"
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    monkeypatch.setattr(demo, "stdlib", lambda: root)
    monkeypatch.chdir(tmp_path)  # where the command leaves its page
    return root


@pytest.mark.parametrize("runner", ["sequential", "threads:1", "threads:4"])
def test_what_the_flow_finds(library: Path, tmp_path: Path, runner: str) -> None:
    report = tmp_path / "report.md"
    found = demo.survey.with_options(task_runner=runner)(report)

    modules = {module.name: module for module in found.modules}
    assert sorted(modules) == ["alpha", "beta", "json", "json.decoder"]
    assert modules["alpha"].longest == [("alpha.first", 3), ("alpha.first.inner", 2)]
    assert (modules["beta"].classes, modules["beta"].functions) == (1, 1)
    assert modules["beta"].longest == [("beta.B.go", 2)]
    assert list(found.failures) == ["broken.py"]
    assert found.imports == {
        "alpha": {"os", "sys", "json"},
        "beta": {"os"},
        "json": {"os", "re", "sys"},
    }
    largest, longest, imported = found.rankings
    assert largest.rows[:2] == [("beta", 6), ("alpha", 6)]
    assert longest.rows[0] == ("alpha.first", 3)
    assert imported.rows[:2] == [("os", 3), ("sys", 2)]
    assert found.task_runs == 5 + 2 + 3 + 1 + 1 + 4
    check_report(report.read_text(), found)


def check_report(text: str, found: demo.Survey) -> None:
    """The heading was there first, then every section came, whole, in whatever order."""
    heading, *sections = text.split("\n## ")
    assert heading == "# The standard library\n"
    titles = {section.partition("\n")[0] for section in sections}
    assert titles == {"Largest modules", "Longest functions", "Most imported", "Imports"}
    assert "json: os re sys\n" in text
    assert len(found.attempts) == 4
    assert min(found.attempts) >= 1


def test_a_limit_takes_the_first_by_name(library: Path, tmp_path: Path) -> None:
    found = demo.survey(tmp_path / "report.md", 2)
    assert sorted(module.name for module in found.modules) == ["alpha", "beta"]


def test_a_section_waits_its_turn(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    lock = report.with_suffix(".lock")
    lock.touch()
    timer = threading.Timer(0.3, lock.unlink)
    timer.start()
    assert demo.write_section("Title", ["line"], report) > 1
    timer.join()
    assert report.read_text() == "\n## Title\n\nline\n"
    assert not lock.exists()


def test_only_a_lock_is_worth_a_retry(tmp_path: Path) -> None:
    def failed(error: Exception) -> State[object]:
        return Failed(data=error)

    assert demo.is_locked(None, None, failed(FileExistsError()))
    assert not demo.is_locked(None, None, failed(FileNotFoundError()))
    with pytest.raises(FileNotFoundError):
        demo.write_section("Title", [], tmp_path / "missing" / "report.md")


def test_tasks_and_what_they_exchange_can_be_sent_anywhere() -> None:
    module = demo.measure("ast.py")
    assert pickle.loads(pickle.dumps(module)) == module
    with pytest.raises(SyntaxError) as caught:
        compile("print 'two'", "two.py", "exec")
    assert str(loads(dumps(caught.value))) == str(caught.value)
    for function in (demo.largest_modules, demo.longest_functions, demo.most_imported):
        assert pickle.loads(pickle.dumps(function)) is function


def test_workers_that_import_the_flow_do_not_load_the_command_line() -> None:
    code = "import sys, shoal.cli.demo; print(*{'rich', 'cyclopts'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---------------------------------------------------------------------- the command


@pytest.mark.usefixtures("library")
def test_the_command_shows_progress_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_LOGGING_LEVEL", "CRITICAL")
    assert invoke(["demo", "--runner", "threads:2"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "measured 5 of 5 files"
    assert "starting" not in err
    for title in ("Largest modules", "Longest functions", "Most imported"):
        assert title in out
    assert "5 files, 18 lines, 3 functions; 3 modules, 7 imports" in out
    assert "ThreadPoolTaskRunner(max_workers=2): 16 task runs" in out
    assert "1 files do not parse: broken.py" in out
    gain = r"[\d.]+ s of a processor's work in ([\d.]+) s: [\d.]+x one worker \([\d.]+ s to start and stop the runner\)"
    assert re.fullmatch(gain, out.splitlines()[-2])
    page = tmp_path / "shoal-demo.html"
    assert out.splitlines()[-1] == f"what ran when, and what took the time: {page}"
    text = page.read_text(encoding="utf-8")
    assert "<summary>measure</summary>" in text
    assert "1 run of measure: <span class=bad>SyntaxError" in text


def test_the_gain_is_worked_out_from_what_was_measured(library: Path, tmp_path: Path) -> None:
    found = demo.survey.with_options(task_runner="sequential")(tmp_path / "report.md")
    assert 0 < sum(module.seconds for module in found.modules) < found.seconds
    assert demo_screen._gain(6.0, 2.0, 1.5) == (
        "6.00 s of a processor's work in 2.00 s: 3.0x one worker (1.50 s to start and stop the runner)"
    )


@pytest.mark.usefixtures("library")
def test_on_a_terminal_there_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_LOGGING_LEVEL", "CRITICAL")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert invoke(["demo", "--limit", "3"]) == 0
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runner", "shown"),
    [
        ("threads", "ThreadPoolTaskRunner()"),
        pytest.param("processes", "ProcessPoolTaskRunner()", marks=pytest.mark.slow),
        ("processes:2", "ProcessPoolTaskRunner(max_workers=2)"),
    ],
)
def test_the_command_in_a_process_of_its_own(runner: str, shown: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
    command = [SHOAL, "demo", "--limit", "30", "--runner", runner]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shoal-demo.html").exists()
    lines = done.stderr.splitlines()
    assert lines[-1] == "measured 30 of 30 files"
    assert ("starting worker processes ..." in lines) is (runner != "threads")
    assert "30 files, " in done.stdout
    assert f" s on {shown}: " in done.stdout
    assert "a second" in done.stdout


@pytest.mark.usefixtures("library")
def test_a_page_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_files", lambda limit: pytest.fail("it ran"))
    assert invoke(["demo", "--report", str(tmp_path / "nowhere" / "out.html")]) != 0
    assert "there is no folder" in capsys.readouterr().err
