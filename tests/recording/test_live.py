"""Live progress, without a terminal: what is counted, the rows, and what a screen writes; see `test_live_terminal`."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.engine.observing import add_observer, remove_observer
from shoal.exceptions import InvalidOption
from shoal.recording import live
from shoal.recording.live.counting import Failure, FlowCounts, Problem, Seen
from shoal.recording.live.observing import LiveObserver
from shoal.recording.live.rows import Style, clean, cut, rows_of, seconds_in_words
from shoal.recording.live.screen import Screen
from shoal.recording.live.summary import summary_of
from shoal.states import Completed, Failed

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Style.of(colour=False, encoding="utf-8")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


class Kept(Screen):
    """Keeps the flow runs that were shown, as they were when they ended, and draws nothing."""

    def __init__(self) -> None:
        super().__init__(Terminal())
        self.printed: list[str] = []

    def print(self, lines: Any) -> None:
        self.printed += lines


def counts(name: str = "etl") -> FlowCounts:
    return FlowCounts(1, "big-fish", name, None, 100.0)


def add(flow_counts: FlowCounts, name: str, submitted: int, ended: int) -> Any:
    of_task = flow_counts.task(name)
    for _ in range(submitted):
        next(of_task.singles)
    for _ in range(ended):
        next(of_task.ended)
    return of_task


# ---------------------------------------------------------------------- whether there is any


@pytest.mark.parametrize(
    ("terminal", "environment", "wanted"),
    [
        (True, {}, True),
        (True, {"SHOAL_PROGRESS": "1"}, True),
        (True, {"SHOAL_PROGRESS": "0"}, False),
        (True, {"CI": "true"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"SHOAL_PROGRESS": "1"}, False),
    ],
    ids=["terminal", "yes", "no", "CI", "dumb", "pipe"],
)
def test_progress_is_for_terminals_only(
    terminal: bool,
    environment: dict[str, str],
    wanted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", Terminal() if terminal else io.StringIO())
    for name in ("CI", "SHOAL_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert live.is_wanted() is wanted


def test_a_setting_that_is_neither_yes_nor_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("SHOAL_PROGRESS", "perhaps")
    with pytest.raises(InvalidOption, match="SHOAL_PROGRESS"):
        live.is_wanted()


# ---------------------------------------------------------------------- counting


@task
def double(number: int) -> int:
    return 2 * number


@task
def picky(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


@task(retries=1)
def second_time(marks: list[int]) -> int:
    marks.append(1)
    if len(marks) == 1:
        raise ValueError("once")
    return 1


class Counted(LiveObserver):
    """Keeps what it has counted of the flow runs that have ended."""

    def __init__(self) -> None:
        super().__init__(Kept)
        self.seen: list[FlowCounts] = []

    def flow_run_began(self, run: Any) -> None:
        super().flow_run_began(run)
        self.seen.append(self._flows[run.number])


@pytest.mark.parametrize("runner", ["threads:4", "sequential", "processes:2"])
def test_every_run_is_counted_once(runner: str) -> None:
    @flow(task_runner=runner)
    def several() -> Any:
        doubled = double.map(range(500))
        some = [double.submit(number) for number in range(50)]
        picked = picky.map(range(10))
        one = picky.submit(3)
        after = double.submit(one)
        taken = double.map(range(20))
        for future in [*taken, *some]:
            future.wait()
        doubled.wait()
        picked.wait()
        after.wait()
        if not runner.startswith("processes"):
            second_time.submit([]).wait()
            double(1)
        return 1

    observer = Counted()
    add_observer(observer)
    try:
        assert several() == 1
    finally:
        remove_observer(observer)
    (seen,) = observer.seen
    in_place = not runner.startswith("processes")
    doubles, picks = seen.tasks["double"], seen.tasks["picky"]
    assert (doubles.all, doubles.done) == (571 + in_place, 571 + in_place)
    assert (doubles.failed, doubles.cancelled, doubles.not_ready) == (0, 0, 1)
    assert (picks.all, picks.done, picks.failed) == (11, 11, 2)
    assert [failure.error for failure in seen.failures] == ["ValueError: three"] * 2
    assert all(re.search(r"test_live\.py:\d+$", failure.place) for failure in seen.failures)
    if in_place:
        again = seen.tasks["second_time"]
        assert (again.all, again.done, again.again, again.failed) == (1, 1, 1, 0)
    assert seen.problems == {}


def test_flows_inside_are_counted_in_the_one_around() -> None:
    @flow
    def inner(number: int) -> int:
        return picky.submit(number).result()

    @flow
    def outer() -> int:
        for number in range(5):
            inner(number, return_state=True)
        return 1

    observer = Counted()
    add_observer(observer)
    try:
        outer()
    finally:
        remove_observer(observer)
    seen = observer.seen[0]
    assert (seen.flow, seen.children, seen.children_ended) == ("outer", [], {"inner": [5, 1]})
    assert [failure.error for failure in seen.failures] == ["ValueError: three"]


def test_a_cap_that_is_waited_for() -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(max_concurrency=1)
    def one_at_a_time(number: int) -> None:
        started.set()
        assert go_on.wait(30)

    @flow(task_runner="threads:4")
    def etl() -> None:
        several = one_at_a_time.map(range(3))
        assert started.wait(30)
        (seen,) = observer.seen
        seen.look_at(time.monotonic())
        assert (seen.capped, seen.busy, seen.starting) == ("one_at_a_time", 1, False)
        assert seen.tasks["one_at_a_time"].running == 1
        go_on.set()
        several.wait()

    observer = Counted()
    add_observer(observer)
    try:
        etl()
    finally:
        go_on.set()
        remove_observer(observer)


NOTEBOOK = """
import json, sys
from jupyter_client.manager import start_new_kernel

CELL = '''
import threading
from shoal import flow, task

@task
def work(number):
    gate.wait()
    if number == 3:
        raise ValueError("three")

@flow
def etl():
    work.map(range(5)).wait()

gate = threading.Event()
import shoal.recording.live.notebook as notebook
draw = notebook.Notebook.draw
def draw_and_open(self, rows):
    draw(self, rows)
    gate.set()
notebook.Notebook.draw = draw_and_open
etl()
'''

def show(message):
    kind, content = message["msg_type"], message["content"]
    if kind in ("display_data", "update_display_data"):
        print(json.dumps([kind, content["transient"]["display_id"], content["data"]["text/plain"]]))
    elif kind == "error":
        sys.exit(str(content["traceback"]))

manager, client = start_new_kernel(kernel_name="python3")
try:
    client.execute_interactive(CELL, output_hook=show, timeout=40)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


@pytest.mark.slow
def test_a_notebook_has_one_output_that_is_updated(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="there is no kernel: `uv sync` installs one")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CI", "SHOAL_PROGRESS")
    }
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=55,
    )  # fmt: skip
    outputs = [json.loads(line) for line in done.stdout.splitlines()]
    assert outputs, done.stderr
    assert outputs[0][0] == "display_data"
    assert {kind for kind, _, _ in outputs[1:]} == {"update_display_data"}
    assert len({name for _, name, _ in outputs}) == 1
    assert "0/5" in outputs[0][2]
    last = outputs[-1][2].splitlines()
    assert "ValueError: three" in last[0]
    assert last[-1].startswith("✓ etl  completed")


# ---------------------------------------------------------------------- rows


def test_a_row_says_how_far_a_task_is() -> None:
    etl = counts()
    load = add(etl, "load", 100, 40)
    load.look(101.0)
    load.failed = 2
    add(etl, "load", 0, 20)
    etl.problems[7] = Problem("load-7", "load", 200.0, "")
    etl.places = 4
    etl.busy = 2
    etl.look([Seen(8, "load", "load-8"), Seen(9, "load", "load-9")], 103.0)
    rows = rows_of([etl], 104.0, 120, 20, PLAIN)
    assert rows == [
        "load ━━━━━━━───── 60/100  2 failed  1 retrying  2 running  37 waiting  10/s  4.0 s left",
        "etl  4.0 s  2 of 4 busy  waits for load-8 for 1.0 s",
    ]


@pytest.mark.parametrize("width", [8, 20, 40, 80])
def test_rows_fit_any_width(width: int) -> None:
    from rich.cells import cell_len

    etl = counts("流れ" * 20)
    add(etl, "a task with a very long name " * 3, 1_000_000, 17).failed = 3
    add(etl, "короткий", 3, 3)
    etl.look([Seen(8, "x" * 50, "x" * 50)], 103.0)
    rows = rows_of([etl], 104.0, width, 20, PLAIN)
    assert len(rows) == 3
    assert max(map(cell_len, rows)) < width


def test_rows_that_do_not_fit_are_left_out_from_above() -> None:
    etl = counts()
    for number in range(50):
        add(etl, f"task{number}", 1, 0)
    rows = rows_of([etl], 104.0, 80, 10, PLAIN)
    assert len(rows) == 10
    assert rows[0] == "… 42 more rows"
    assert rows[-1].startswith("etl")


def test_flows_inside_indent() -> None:
    outer = counts("outer")
    inner = FlowCounts(2, "small-fish", "inner", outer, 102.0)
    outer.children.append(inner)
    add(inner, "load", 2, 1)
    rows = rows_of([outer], 104.0, 80, 10, PLAIN)
    assert [row.split("  ")[-1 if row.startswith(" ") else 0] != "" for row in rows] == [True] * 3
    assert rows[0].startswith("  load")
    assert rows[1].startswith("  inner")
    assert rows[2].startswith("outer")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda etl: setattr(etl, "starting", True), "waits for a worker to start"),
        (
            lambda etl: etl.problems.update({1: Problem("load-1", "load", None, "db")}),
            "waits for limit db",
        ),
        (
            lambda etl: etl.problems.update({1: Problem("load-1", "load", 0.0, "")}),
            "retries load-1 in 0.0 s",
        ),
        (
            lambda etl: (
                setattr(etl, "oldest", (Seen(1, "load", "load-1"), 102.0)),
                setattr(etl, "capped", "load"),
            ),
            "waits for load-1 for 2.0 s, the cap of load",
        ),
    ],
    ids=["worker", "limit", "retry", "cap"],
)
def test_the_last_row_says_what_is_waited_for(change: Any, text: str) -> None:
    etl = counts()
    change(etl)
    assert rows_of([etl], 104.0, 80, 10, PLAIN)[-1].endswith(text)


def test_names_cannot_move_the_cursor() -> None:
    assert clean("a\x1b[2Jb\nc[red]") == "a?[2Jb?c[red]"


def test_terminals_with_few_characters_get_others() -> None:
    style = Style.of(colour=False, encoding="cp1252")
    etl = counts()
    add(etl, "load", 2, 1)
    "".join(rows_of([etl], 104.0, 80, 10, style)).encode("cp1252")
    assert cut("a long text", 6, style).endswith(style.dots)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (185, "3:05"), (3785, "1:03:05")],
)  # fmt: skip
def test_durations_in_words(seconds: float, text: str) -> None:
    assert seconds_in_words(seconds) == text


# ---------------------------------------------------------------------- the end


def test_the_summary_begins_with_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["/usr/bin/python", "etl.py", "two words"])
    monkeypatch.setattr("sys.argv", ["etl.py", "two words"])
    monkeypatch.delattr("sys.ps1", raising=False)
    etl = counts()
    load = add(etl, "load", 20, 20)
    load.failed, load.again = 7, 3
    etl.failures.append(Failure("load-3f2", "ValueError: no\x1b[2J", "etl.py:12"))
    etl.state, etl.ended = Failed("x"), 104.0
    assert summary_of(etl, PLAIN, 100) == [
        "✗ load-3f2  ValueError: no?[2J  etl.py:12",
        "  … and 6 more failed",
        "  run it again: python etl.py 'two words'",
        "✗ etl  failed in 4.0 s, 20 task runs, 7 failed, 3 retried",
    ]
    etl.flow = "a flow of a long name"
    assert summary_of(etl, PLAIN, 40)[-1].endswith(
        "a flow of a long na…  failed in 4.0 s, 20 task runs, 7 failed, 3 retried"
    )
    etl.flow = "etl"
    etl.failures.clear()
    load.failed = load.again = 0
    etl.state = Completed()
    assert summary_of(etl, PLAIN, 100) == ["✓ etl  completed in 4.0 s, 20 task runs"]


# ---------------------------------------------------------------------- the screen


def shown_on(stream: Terminal, lines: int = 24) -> list[str]:
    """What a terminal shows of a text: it knows the few sequences that a screen writes."""
    grid = [""] * 200
    row = column = 0
    saved = 0, 0
    for part in re.findall(
        r"\x1b\[\d*[A-Z]|\x1b\[\??[0-9;]*[hlm]|\x1b[78D]|.|\n", stream.getvalue(), re.DOTALL
    ):
        if part == "\n":
            row, column = row + 1, 0
        elif part == "\r":
            column = 0
        elif part == "\x1b[J":
            grid[row] = grid[row][:column]
            grid[row + 1 :] = [""] * (len(grid) - row - 1)
        elif part == "\x1b[K":
            grid[row] = grid[row][:column]
        elif part == "\x1bD":
            row += 1
        elif part == "\x1b7":
            saved = row, column
        elif part == "\x1b8":
            row, column = saved
        elif part.endswith("A"):
            row -= int(part[2:-1] or 1)
        elif not part.startswith("\x1b"):
            grid[row] = grid[row][:column].ljust(column) + part + grid[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in "\n".join(grid).rstrip("\n").split("\n")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("shoal.recording.live.screen.PACE", 0.0)
    screen = Screen()
    screen.start()
    yield screen, stream
    screen.stop()


def test_what_is_printed_scrolls_above_the_rows(terminal: Any) -> None:
    screen, stream = terminal
    screen.draw(["row 1", "row 2"])
    print("one", file=stream)
    print("two\nthree", file=stream)
    screen.draw(["row 3"])
    assert shown_on(stream) == ["one", "two", "three", "", "row 3"]
    assert screen.stop()
    screen.print(["the end"])
    assert shown_on(stream) == ["one", "two", "three", "the end"]


def test_half_a_line_stays_with_what_follows_it(terminal: Any) -> None:
    screen, stream = terminal
    screen.draw(["row"])
    print("half ", end="", file=stream)
    screen.draw(["row"])
    assert shown_on(stream) == ["", "half", "row"]
    print("and half", file=stream)
    screen.draw(["row"])
    assert shown_on(stream) == ["half and half", "", "row"]
    print("an end", end="", file=stream)
    screen.stop()
    screen.print(["the end"])
    assert shown_on(stream) == ["half and half", "an end", "the end"]


def test_half_a_line_from_before_the_rows_is_there_once(terminal: Any) -> None:
    screen, stream = terminal
    print("half ", end="", file=stream)
    stream.flush()
    assert shown_on(stream) == ["half"]
    screen.draw(["row"])
    assert shown_on(stream) == ["", "half", "row"]
    print("and half", file=stream)
    screen.draw(["row"])
    assert shown_on(stream) == ["half and half", "", "row"]


def test_half_a_line_that_another_stream_has_ended_is_there_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Other(Terminal):
        def write(self, text: str) -> int:
            return Terminal.write(errors, text)

    errors, output = Terminal(), Other()
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr("shoal.recording.live.screen.PACE", 0.0)
    screen = Screen()
    screen.start()
    try:
        print("half ", end="", file=output, flush=True)
        print("an error", file=errors, flush=True)
        screen.draw(["row"])
    finally:
        screen.stop()
    assert shown_on(errors) == ["half an error"]


def test_half_a_line_of_who_writes_past_us_stays_where_it_is(terminal: Any) -> None:
    screen, stream = terminal
    screen.draw(["row"])
    Terminal.write(stream, "half ")
    screen.draw(["row 1", "row 2"])
    assert shown_on(stream) == ["half", "row 1", "row 2"]
    Terminal.write(stream, "and half\nover a row")
    screen.draw(["row"])
    assert shown_on(stream) == ["half and half", "over a row", "row"]
    screen.stop()
    assert shown_on(stream) == ["half and half", "over a row"]


def test_a_bar_that_returns_to_its_beginning_is_a_row(terminal: Any) -> None:
    screen, stream = terminal
    screen.draw(["row"])
    for step in range(5):
        stream.write(f"\r{step}/4 done")
        stream.flush()
    screen.draw(["row"])
    assert shown_on(stream) == ["", "4/4 done", "row"]
    stream.write("\n")
    screen.draw(["row"])
    assert shown_on(stream) == ["4/4 done", "", "row"]


def test_who_moves_the_cursor_has_the_terminal(
    terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, stream = terminal
    screen.draw(["row"])
    stream.write("\x1b[1A theirs\n")
    screen.draw(["row"])
    assert "row" not in shown_on(stream)
    monkeypatch.setattr("shoal.recording.live.screen.time.monotonic", lambda: 1e12)
    screen.draw(["row"])
    assert shown_on(stream)[-1] == "row"


def test_the_stream_is_given_back(terminal: Any) -> None:
    screen, stream = terminal
    assert "write" in stream.__dict__
    screen.stop()
    assert "write" not in stream.__dict__
    assert "flush" not in stream.__dict__
