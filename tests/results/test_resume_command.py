"""`shoal resume` finds the code again, and what is said of a run that can go on is true."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from shoal.cli.app import invoke
from shoal.results.journal import find, journals
from shoal.results.journal.file import lock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIBRARY = """
    from shoal import task

    @task
    def double(x):
        return 2 * x

    @task
    def total(numbers):
        return sum(numbers)
"""

FLOWS = """
    from pathlib import Path
    from shoal import flow
    from .library import double, total

    @flow(journal=True)
    def main(n: int = 3):
        found = total.submit(double.map(range(n))).result()
        if Path("broken").exists():
            raise ValueError("broken")
        return found

    other = main.with_options(name="the other one")

    class Flows:
        @staticmethod
        @flow(journal=True)
        def inner():
            raise ValueError("broken")

    if __name__ == "__main__":
        main()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a package of flows that fail; what is imported from it is forgotten."""
    package = tmp_path / "jobs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "library.py").write_text(textwrap.dedent(LIBRARY))
    (package / "flows.py").write_text(textwrap.dedent(FLOWS))
    (tmp_path / "broken").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which counts while the second lasts
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHOAL_LOGGING_LEVEL", "INFO")
    yield tmp_path
    forget()


def forget() -> None:
    """The next import executes the package anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "jobs"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def mend(folder: Path) -> None:
    (folder / "broken").unlink()
    forget()


@pytest.fixture
def shoal(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Carries out a command line in this process; gives exit code, stdout and stderr."""

    def run(*tokens: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = invoke(tokens)
        out, err = capsys.readouterr()
        return code, out, err

    return run


Shoal = "Callable[..., tuple[int, str, str]]"


def test_a_module_of_a_package_that_was_the_script(folder: Path, shoal: Shoal) -> None:
    with pytest.raises(ValueError, match="broken"):
        runpy.run_module("jobs.flows", run_name="__main__", alter_sys=True)
    mend(folder)
    assert shoal("resume", "last")[:2] == (0, "6\n")


def test_what_there_is_no_more_is_not_said_to_be_reused(
    folder: Path, shoal: Shoal, caplog: pytest.LogCaptureFixture
) -> None:
    assert shoal("run", "jobs.flows:main")[0] == 1
    mend(folder)
    for name in ("library.py", "flows.py"):
        file = folder / "jobs" / name
        file.write_text(file.read_text().replace("double", "twice"))
    caplog.clear()
    assert shoal("resume", "last", "-p", "n=4")[:2] == (0, "12\n")
    goes_on = "goes on: the one run of `total` can be reused; there is no task `double` any more"
    assert goes_on in caplog.text
    assert "0 runs were reused, 5 more were submitted" in caplog.text


def test_what_changed_of_the_code_is_named(
    folder: Path, shoal: Shoal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A constant that the environment sets is code, and who resumes in another one has to be told."""
    library = folder / "jobs" / "library.py"
    library.write_text(
        textwrap.dedent("""
            import os
            from shoal import runtime, task

            FACTOR = int(os.environ.get("FACTOR", "2"))

            def factor():
                return FACTOR

            @task
            def double(x):
                return factor() * x

            @task
            def total(numbers):
                return sum(numbers) + 0 * runtime.flow_run.parameters["n"]
        """)
    )

    def goes_on(*more: str) -> str:
        forget()
        caplog.clear()
        shoal("resume", "last", *more)
        return next(line for line in caplog.messages if "goes on" in line).partition(": ")[2]

    assert shoal("run", "jobs.flows:main", "-p", "n=3")[0] == 1
    way = "(`--keep double` reuses the 3 that completed)"
    taken = "`total` runs again: it takes what `double` gives"
    monkeypatch.setenv("FACTOR", "4")
    named = "`double` runs again: its code changed: `library.FACTOR`"
    assert goes_on() == f"{named} {way}; {taken}"
    monkeypatch.setenv("FACTOR", "5")
    library.write_text(library.read_text().replace("return factor() * x", "return x * factor()"))
    both = "`double` runs again: its code changed, and `library.FACTOR`"
    assert goes_on() == f"{both} {way}; {taken}"
    library.write_text(library.read_text().replace("return x * factor()", "return factor() * x"))
    monkeypatch.setenv("FACTOR", "2")
    assert "again" not in goes_on("-p", "n=3")
    read = "`total` runs again: it may read the flow's parameters, and these changed"
    assert read in goes_on("-p", "n=4")


def test_it_is_seen_as_by_run(folder: Path, shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shoal("run", "jobs.flows:main")[0] == 1
    assert shoal("resume", "last", "--report", "no/page.html")[0] == 2
    monkeypatch.setenv("SHOAL_PROGRESS", "1")
    code, _, said = shoal(
        "resume", "last", "--report", "page.html", "--trace", "trace.pftrace", "--no-progress"
    )
    assert code == 1
    assert os.environ["SHOAL_PROGRESS"] == "0"
    assert f"Written: {folder / 'page.html'}" in said
    assert "<html" in (folder / "page.html").read_text()
    assert (folder / "trace.pftrace").stat().st_size > 0


def test_a_parameter_that_is_no_more(
    folder: Path, shoal: Shoal, caplog: pytest.LogCaptureFixture
) -> None:
    assert shoal("run", "jobs.flows:main", "-p", "n=3")[0] == 1
    mend(folder)
    file = folder / "jobs" / "flows.py"
    file.write_text(file.read_text().replace("n: int = 3", "m: int = 2").replace("(n)", "(m)"))
    assert shoal("resume", "last")[:2] == (0, "2\n")
    assert "The flow 'main' takes 'n' no more: what the run began with is left out" in caplog.text


def test_flows_of_one_function(folder: Path, shoal: Shoal) -> None:
    flows = importlib.import_module("jobs.flows")
    with pytest.raises(ValueError, match="broken"):
        flows.other()
    mend(folder)
    assert shoal("resume", "last")[:2] == (0, "6\n")


def test_a_flow_that_the_command_cannot_find(folder: Path, shoal: Shoal) -> None:
    flows = importlib.import_module("jobs.flows")
    with pytest.raises(ValueError, match="broken") as caught:
        flows.Flows.inner()
    call = f"Flows.inner.resume({find('last').name!r})"
    assert caught.value.__notes__ == [f"To go on where it stopped, in Python: {call}"]
    code, _, said = shoal("resume", "last")
    assert code == 2
    assert f"its flow is not at the top of a module: go on in Python, by {call}" in said


def test_a_folder_that_cannot_be_made_is_one_line(
    folder: Path, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_HOME", str(folder / "broken"))
    code, _, said = shoal("run", "jobs.flows:main")
    assert code == 1
    assert "name another folder by SHOAL_HOME" in said
    assert "Traceback" not in said


def test_all_journals_are_removed_if_that_is_meant(
    folder: Path, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = importlib.import_module("jobs.flows")
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            flows.main()
    under_way = find("last")
    lock = lock_of(under_way.folder)
    assert lock.try_acquire()
    asked: list[str] = []

    def answers(answer: str) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or answer)

    for tokens in ((), (under_way.name, "--all")):
        code, _, said = shoal("runs", "rm", *tokens)
        assert code == 2
        assert "one name or more, or --all" in said
    code, _, said = shoal("runs", "rm", "--all")  # nobody is there to answer
    assert code == 2
    assert "--yes removes all without a question" in said
    answers("")
    assert shoal("runs", "rm", "--all")[0] == 2
    assert len(journals()) == 3
    answers("y")
    assert shoal("runs", "rm", "--all")[1].startswith("Removed: 2 journals, ")
    assert asked[0].startswith("Remove the journals of 3 flow runs, ")
    assert [found.folder for found in journals()] == [under_way.folder]
    lock.release()
    assert shoal("runs", "rm", "--all", "--yes")[1].startswith("Removed: 1 journal, ")
    assert journals() == []
