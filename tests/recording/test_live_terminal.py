"""Live progress on a terminal: flows run in tmux, and what it shows is looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is the terminal, and not here"),
]

#: What the scripts begin with. `gate(name)` waits until the test opens it.
PRELUDE = """
import os, pathlib, subprocess, sys, threading, time
from shoal import flow, task

def gate(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.01)

@task
def work(number, name="open"):
    gate(name)
    if number == 3:
        raise ValueError("three")
    return number
"""


class Terminal:
    """A script that runs in a terminal.

    Args:
        folder: where it runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = str(folder / "tmux")

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words],
            capture_output=True, text=True, check=False, cwd=self.folder,
        )  # fmt: skip
        return done.stdout

    def run(
        self, text: str, columns: int = 100, lines: int = 30, arguments: str = "", **env: str
    ) -> None:
        script = self.folder / "script.py"
        script.write_text(PRELUDE + textwrap.dedent(text))
        settings = {"SHOAL_LOGGING_LEVEL": "CRITICAL", "PATH": os.environ["PATH"], **env}
        words = " ".join(f"{name}='{value}'" for name, value in settings.items())
        command = f"trap : INT; env -u CI -u NO_COLOR -u SHOAL_PROGRESS {words} {sys.executable} {script} {arguments}; echo over: $?; cat"
        self.tmux(
            "-f", os.devnull, "new-session", "-d", "-x", str(columns), "-y", str(lines),
            "sh", "-c", command,
        )  # fmt: skip

    def shown(self, *, styles: bool = False) -> list[str]:
        """The lines that are on the screen, and those that have scrolled out of it."""
        text = self.tmux("capture-pane", "-p", "-S", "-5000", *(["-e"] if styles else []))
        return text.rstrip("\n").split("\n")

    def until(self, condition: Callable[[list[str]], object]) -> list[str]:
        """The lines, once they are as wanted."""
        end = time.monotonic() + 20
        while True:
            lines = self.shown()
            if condition(lines):
                return lines
            if time.monotonic() > end:
                raise AssertionError("the terminal shows\n" + "\n".join(lines))
            time.sleep(0.05)

    def open(self, name: str = "open") -> None:
        (self.folder / name).touch()

    def ended(self) -> list[str]:
        """What is shown after the script has ended."""
        lines = self.until(lambda lines: any(line.startswith("over: ") for line in lines))
        return [line for line in lines if line]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.open()
    terminal.tmux("kill-server")


def has(*parts: str) -> Callable[[list[str]], bool]:
    """Whether each of some texts is in a line."""
    return lambda lines: all(any(part in line for line in lines) for part in parts)


def test_rows_then_a_summary(terminal: Terminal) -> None:
    terminal.run(
        """
        @flow
        def etl():
            several = work.map(range(5))
            print("printed")
            several.wait()
            print("half", end="")
            print(" a line")
        etl()
        """,
        columns=200,  # as the path of the script may be long
    )
    terminal.until(has("work ", "0/5", "5 running", "etl", "waits for work-"))
    lines = terminal.shown()
    assert lines[0] == "printed"
    terminal.open()
    assert [line.partition(" in ")[0] for line in terminal.ended()] == [
        "printed",
        "half a line",
        next(line for line in terminal.ended() if "three" in line).partition(" in ")[0],
        f"  run it again: {os.path.basename(sys.executable)} {terminal.folder / 'script.py'}",
        "✓ etl  completed",
        "over: 0",
    ]
    (failure,) = [line for line in terminal.ended() if "three" in line]
    assert failure.startswith("✗ work-")
    assert failure.endswith("ValueError: three  script.py:13")


@pytest.mark.parametrize("lines", [30, 12])  # with room below it, and at the foot
def test_half_a_line_of_several_is_there_once(terminal: Terminal, lines: int) -> None:
    terminal.run(
        """
        @flow
        def etl():
            for line in range(10):
                print("before", line)
            for word in range(20):
                print("word", word, end=" ", flush=True)
            several = work.map(range(3))
            several.wait()
            print("and its end")
        etl()
        """,
        columns=40,
        lines=lines,
    )
    terminal.until(has("work ", "0/3", "3 running"))
    terminal.open()
    shown = "".join(line.ljust(40) for line in terminal.ended())
    words = "".join(f"word {word} " for word in range(20))
    assert shown.count("word 0 ") == 1
    assert f"{words}and its end" in shown
    assert shown.count("before") == 10


def test_a_terminal_that_is_resized(terminal: Terminal) -> None:
    terminal.run(
        """
        @flow
        def etl():
            work.map(range(3)).wait()
            for line in range(5):
                print("line", line)
            work.submit(1, "second").wait()
        etl()
        """
    )
    terminal.until(has("0/3", "etl"))
    for width, height in (("40", "30"), ("25", "10"), ("120", "30")):
        terminal.tmux("resize-window", "-x", width, "-y", height)
        terminal.until(_rows_are_whole)
    terminal.open()
    terminal.until(has("line 4"))
    terminal.until(_rows_are_whole)
    terminal.open("second")
    assert [line for line in terminal.ended() if line.startswith("line")] == [
        f"line {n}" for n in range(5)
    ]


def _rows_are_whole(lines: list[str]) -> bool:
    # tmux breaks long lines anew and may push the first of them out of the screen, where nobody can erase it.
    return (
        lines[-3:-2] == [""]
        and lines[-2].startswith("work")
        and lines[-1].startswith("etl")
        and "running" in lines[-2]
    )


def test_very_many_lines_and_40_columns(terminal: Terminal) -> None:
    terminal.run(
        """
        import logging
        logging.basicConfig(level="INFO", format="%(message)s")
        @flow
        def etl():
            several = work.map(range(3))
            for line in range(100_000):
                logging.info("%d", line)
            several.wait()
        etl()
        """,
        columns=40,
    )
    terminal.until(has("99999", "0/3", "etl"))
    terminal.open()
    lines = terminal.ended()
    numbers = [int(line) for line in lines if line.isdecimal()]
    assert numbers == list(range(numbers[0], 100_000))
    assert not has("0/3")(lines)


@pytest.mark.parametrize(
    ("environment", "absent"),
    [({"NO_COLOR": "1"}, "\x1b["), ({"PYTHONIOENCODING": "cp1252"}, "━")],
    ids=["no colour", "Windows-1252"],
)
def test_terminals_that_can_do_less(
    environment: dict[str, str], absent: str, terminal: Terminal
) -> None:
    terminal.run(
        """
        @flow(name="流れ [red]x[/red]")
        def etl():
            work.map(range(3)).wait()
        etl()
        """,
        **environment,
    )
    terminal.until(has("0/3", "[red]x[/red]"))
    assert absent not in "".join(terminal.shown(styles=True))
    terminal.open()
    assert terminal.ended()[-1] == "over: 0"


def test_others_that_write_to_the_terminal(terminal: Terminal) -> None:
    terminal.run(
        """
        from rich.console import Console
        from rich.live import Live
        @flow
        def etl():
            several = work.map(range(2))
            gate("rows")
            subprocess.run(["echo", "from a subprocess"])
            gate("tqdm")
            for step in range(11):
                sys.stderr.write(f"\\r{10 * step}% of a bar")
                sys.stderr.flush()
            gate("rich")
            sys.stderr.write("\\n")
            with Live("theirs", console=Console()) as shown:
                gate("end")
                shown.update("theirs at the end")
            several.wait()
        etl()
        """
    )
    terminal.until(has("0/2"))
    terminal.open("rows")
    terminal.until(has("from a subprocess", "0/2"))
    terminal.open("tqdm")
    terminal.until(has("100% of a bar", "0/2"))
    terminal.open("rich")
    terminal.until(lambda lines: has("theirs")(lines) and not has("0/2")(lines))
    terminal.open("end")
    terminal.until(has("theirs at the end", "0/2"))
    terminal.open()
    lines = terminal.ended()
    assert lines[0] == "from a subprocess"
    assert lines[1].startswith("100% of a bar")
    assert lines[-2:] == [next(line for line in lines if line.startswith("✓ etl")), "over: 0"]


def test_bars_of_tqdm_and_of_rich(terminal: Terminal) -> None:
    pytest.importorskip("tqdm")
    terminal.run(
        """
        from rich.progress import track
        from tqdm import tqdm
        @flow
        def etl():
            several = work.map(range(2))
            gate("tqdm")
            for step in tqdm(range(40), desc="their own", mininterval=0):
                if step == 20:
                    tqdm.write("written beside it")
                    gate("half")
            gate("rich")
            for step in track(range(8), description="richly"):
                if step == 4:
                    gate("end")
            several.wait()
        etl()
        """
    )
    terminal.until(has("0/2"))
    terminal.open("tqdm")
    terminal.until(has("their own:  50%", "written beside it"))
    terminal.open("half")
    terminal.until(has("their own: 100%", "40/40", "0/2"))
    terminal.open("rich")
    terminal.until(lambda lines: has("richly")(lines) and not has("0/2")(lines))
    terminal.open("end")
    terminal.until(has("richly", "100%", "0/2"))
    terminal.open()
    lines = terminal.ended()
    assert sum("written beside it" in line for line in lines) == 1
    assert sum("their own" in line for line in lines) == 1, lines
    assert sum("richly" in line for line in lines) == 1, lines
    assert not has("0/2")(lines)
    assert lines[-1] == "over: 0"


def test_input_is_asked_for_without_rows(terminal: Terminal) -> None:
    terminal.run(
        """
        @flow
        def etl():
            several = work.map(range(2))
            gate("rows")
            print("hello", input("Who? "))
            several.wait()
        etl()
        """
    )
    terminal.until(has("0/2"))
    terminal.open("rows")
    terminal.until(lambda lines: lines[-1] == "Who?")
    terminal.tmux("send-keys", "world", "Enter")
    terminal.until(has("Who? world", "hello world", "0/2"))
    terminal.open()
    assert terminal.ended()[-1] == "over: 0"


def test_control_c(terminal: Terminal) -> None:
    terminal.run(
        """
        @flow
        def etl():
            work.map(range(2)).wait()
        etl()
        """
    )
    terminal.until(has("0/2"))
    terminal.tmux("send-keys", "C-c")
    lines = terminal.ended()
    assert not has("0/2")(lines)
    assert has("✗ etl  ", "KeyboardInterrupt")(lines)


def test_two_flows_at_once_in_threads(terminal: Terminal) -> None:
    terminal.run(
        """
        @flow
        def one():
            work.map(range(2), name="first").wait()
        @flow
        def two():
            work.map(range(4), name="second").wait()
        threads = [threading.Thread(target=each) for each in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        """
    )
    terminal.until(has("0/2", "0/4", "one ", "two "))
    terminal.open("first")
    terminal.until(lambda lines: not has("0/2")(lines) and has("0/4")(lines))
    terminal.open("second")
    lines = terminal.ended()
    assert has("✓ one  completed", "✓ two  completed", "over: 0")(lines)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["lines", "words"])
def test_a_child_that_is_forked_has_its_streams_back(terminal: Terminal, unbuffered: str) -> None:
    terminal.run(
        """
        @flow
        def etl():
            several = work.map(range(2))
            gate("rows")
            print("before", end=" ")
            child = os.fork()
            if child == 0:
                print("in the child", sys.stderr.__dict__.get("write"), flush=True)
                os._exit(7)
            print("child ended", os.waitpid(child, 0)[1] >> 8)
            several.wait()
        etl()
        """,
        PYTHONUNBUFFERED=unbuffered,
    )
    terminal.until(has("0/2"))
    terminal.open("rows")
    terminal.until(has("before child ended 7", "0/2"))
    terminal.open()
    lines = terminal.ended()
    assert has("in the child None", "✓ etl  completed", "over: 0")(lines)
    assert sum("before" in line for line in lines) == 1


def test_who_writes_past_us_may_take_his_time_for_a_line(terminal: Terminal) -> None:
    """He has begun a line when the rows are drawn anew, and more of them."""
    terminal.run(
        """
        @flow
        def etl():
            print("before")
            several = work.map(range(2))
            gate("half")
            os.write(2, b"from the ")
            gate("more")
            more = [work.with_options(name=f"more{n}").submit(n, "more-open") for n in range(2)]
            gate("whole")
            os.write(2, b"outside\\n")
            gate("more-open")
            several.wait()
        etl()
        """,
        lines=8,
    )
    terminal.until(has("0/2"))
    terminal.open("half")
    terminal.until(has("from the", "0/2"))
    terminal.open("more")
    terminal.until(has("more1", "0/2"))
    terminal.open("whole")
    terminal.until(has("from the outside", "0/2"))
    terminal.open("more-open")
    terminal.open()
    lines = terminal.ended()
    assert lines[:2] == ["before", "from the outside"]
    assert has("✓ etl  completed", "over: 0")(lines)


def test_no_rows_in_a_pipe_nor_if_they_are_not_wanted(terminal: Terminal) -> None:
    text = """
        import shoal.cli
        @flow
        def etl():
            work.map(range(2), name="script.py").wait()
            return sys.modules.get("shoal.recording.live.observing")
        print(etl())
        """
    terminal.run(text, arguments="2>&1 | cat")
    assert terminal.ended() == ["None", "over: 0"]


def test_no_progress_on_the_command_line(terminal: Terminal) -> None:
    terminal.run(
        """
        @flow
        def etl():
            work.map(range(2), name="script.py").wait()
            return str(sys.modules.get("shoal.recording.live.observing"))
        if __name__ == "__main__":
            from shoal.cli import main
            sys.argv = ["shoal", "run", "script.py:etl", "--no-progress"]
            sys.exit(main())
        """
    )
    assert terminal.ended() == ["None", "over: 0"]
