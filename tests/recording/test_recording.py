"""Recordings of real runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import shoal
from shoal.cli.app import invoke
from shoal.engine.observing import observers
from shoal.exceptions import RecordError
from shoal.recording.events import LOST
from shoal.recording.file import Writer
from shoal.recording.record import RunRow
from shoal.recording.recorder import LAST_LOGS, Recorder
from shoal.recording.report import page
from shoal.recording.taking import Taking
from shoal.scheduling.pulling import PullingScheduler
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.task_runners.registry import resolve

RUNNERS = ["threads", "threads:1", "sequential", "processes:2"]


@shoal.task
def stamp(x: int) -> tuple[float, float]:
    began = time.time()
    return began, time.time()


@shoal.task
def half(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x // 2


@shoal.task
def count(xs: list[Any]) -> int:
    return len(xs)


@shoal.task(retries=2)
def third(folder: str) -> int:
    tries = len(os.listdir(folder))
    Path(folder, str(tries)).touch()
    if tries < 2:
        raise OSError(f"try {tries}")
    return tries


@shoal.task
def outer(x: int) -> int:
    return sum(shoal.task(lambda y: y, name="inner").map(range(x)).result())


def of(recording: shoal.Recording, task: str) -> list[RunRow]:
    return [row for row in recording.runs() if row.task == task]


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_run_is_there_once_with_times_that_enclose_it(runner: str) -> None:
    @shoal.flow(task_runner=runner)
    def stamps() -> list[tuple[float, float]]:
        mapped = stamp.map(range(50))
        single = [stamp.submit(x) for x in range(5)]
        return [*mapped.result(), *[future.result() for future in single]]

    with shoal.record() as recording:
        own = stamps()
    rows = of(recording, "stamp")
    assert len({row.number for row in rows}) == len(rows) == 55
    # In the order of their numbers, as the values are in the order of submission: singles come before maps.
    by_number = sorted(rows, key=lambda row: row.number)
    in_order = [*by_number[5:], *by_number[:5]]
    for row, (began, ended) in zip(in_order, own, strict=True):
        assert row.state == "Completed"
        assert row.submitted <= row.ready <= row.sent <= row.begun + 1e-6
        assert (
            row.begun <= began + 1e-3
        )  # the clock of seconds since the epoch is not that of durations
        assert ended <= row.ended + 1e-6


def test_runs_on_one_thread_follow_each_other(tmp_path: Path) -> None:
    @shoal.flow(task_runner="threads:1")
    def chain() -> None:
        stamp.map(range(300)).wait()
        stamp.submit(1).wait()

    with shoal.record() as recording:
        chain()
    rows = sorted(of(recording, "stamp"), key=lambda row: row.begun)
    assert {row.worker for row in rows} == {rows[0].worker}
    for before, after in pairwise(rows):
        assert before.ended <= after.begun


@pytest.mark.parametrize("runner", ["threads", "processes:1"])
def test_coroutines_overlap_as_they_did(runner: str) -> None:
    @shoal.task
    async def pause(x: int) -> None:
        await asyncio.sleep(0.05)

    @shoal.flow(task_runner=runner)
    def pauses() -> None:
        pause.map(range(20)).wait()

    with shoal.record() as recording:
        pauses()
    rows = of(recording, "pause")
    assert [row.state for row in rows] == ["Completed"] * 20
    assert min(row.seconds for row in rows) >= 0.04
    assert max(row.begun for row in rows) < min(row.ended for row in rows) + 0.5


def test_failures_have_their_error_and_where_it_was_raised(runner: str) -> None:
    @shoal.flow(task_runner=runner)
    def halves() -> None:
        half.map(range(10)).wait()

    with shoal.record() as recording:
        halves()
    rows = of(recording, "half")
    assert [row.state for row in rows].count("Failed") == 5
    assert [row.state for row in rows].count("Completed") == 5
    failed = next(row for row in rows if row.error == "7 is odd")
    (error,) = recording.record.errors[failed.number]
    assert error.kind == "ValueError"
    assert error.file == __file__
    assert "raise ValueError" in error.traceback
    assert all(row.begun <= row.ended for row in rows)
    completed, failures = (recording.record.states.index(n) for n in ("Completed", "Failed"))
    assert recording.record.counts == {(0, completed): 5, (0, failures): 5}


def test_retries_are_attempts_of_their_own(runner: str, tmp_path: Path) -> None:
    @shoal.flow(task_runner=runner)
    def thirds() -> int:
        return third.submit(str(tmp_path)).result()

    with shoal.record() as recording:
        thirds()
    rows = of(recording, "third")
    assert [(row.attempt, row.state) for row in rows] == [
        (1, "Retrying"),
        (2, "Retrying"),
        (3, "Completed"),
    ]
    assert [row.error for row in rows] == ["try 0", "try 1", ""]
    assert rows[0].ended <= rows[1].begun <= rows[1].ended <= rows[2].begun
    assert [event.kind for event in recording.record.events if event.number] == ["retry", "retry"]


def test_what_was_waited_for_is_told_in_ranges(runner: str) -> None:
    @shoal.flow(task_runner=runner)
    def counts() -> int:
        stamps: Any = stamp.map(range(20))
        return int(count.submit(stamps).result())

    with shoal.record() as recording:
        assert counts() == 20
    (row,) = of(recording, "count")
    (upstreams,) = recording.record.upstreams(row.number)
    assert list(upstreams) == sorted(run.number for run in of(recording, "stamp"))
    assert len(recording.record.edges) == 1
    assert row.ready >= max(run.ended for run in of(recording, "stamp")) - 1e-3


def test_a_run_whose_upstream_failed_is_told_to_be_not_ready(runner: str) -> None:
    @shoal.flow(task_runner=runner)
    def fails() -> None:
        count.submit([half.submit(1)]).wait()

    with shoal.record() as recording:
        fails()
    (row,) = of(recording, "count")
    assert row.state == "NotReady"
    assert math.isnan(row.begun)
    assert row.worker == -1


@pytest.mark.parametrize("runner", ["threads", "sequential"])
def test_what_a_flow_submits_that_a_run_calls_is_submitted_by_that_run(runner: str) -> None:
    @shoal.flow(task_runner="sequential")
    def lowest() -> int:
        return half.submit(2).result()

    @shoal.flow(task_runner="sequential")
    def below() -> int:
        return lowest()

    @shoal.task
    def calls() -> int:
        return below()

    @shoal.flow(task_runner=runner)
    def above() -> int:
        lowest()
        return calls.submit().result()

    with shoal.record() as recording:
        above()
    (row,) = of(recording, "calls")
    assert [run.submitter for run in of(recording, "half")] == [0, row.number]


@pytest.mark.parametrize("runner", ["threads", "sequential"])
def test_who_submitted_a_run_is_known(runner: str) -> None:
    @shoal.flow(task_runner=runner)
    def nested() -> int:
        return outer.submit(5).result()

    with shoal.record() as recording:
        assert nested() == 10
    (row,) = of(recording, "outer")
    assert row.submitter == 0
    inner = of(recording, "inner")
    assert len(inner) == 5
    assert {run.submitter for run in inner} == {row.number}


def test_runs_inside_runs_of_processes_are_there() -> None:
    @shoal.flow(task_runner="processes:1")
    def nested() -> int:
        return outer.submit(5).result()

    with shoal.record() as recording:
        assert nested() == 10
    assert [row.state for row in of(recording, "inner")] == ["Completed"] * 5


def test_flows_in_flows_and_direct_calls(tmp_path: Path) -> None:
    @shoal.flow
    def below(x: int) -> int:
        return half(x)

    @shoal.flow(flow_run_name="{x}-above")
    def above(x: int) -> int:
        return below(x)

    with shoal.record() as recording:
        above(4)
        with pytest.raises(ValueError, match="odd"):
            above(3)
    first, inside, second, inside_second = recording.flow_runs()
    assert (first.name, first.flow, first.parent, first.state) == (
        "4-above",
        "above",
        None,
        "Completed",
    )
    assert (inside.parent, inside_second.parent) == (first.number, second.number)
    assert second.state == inside_second.state == "Failed"
    assert first.parameters == {"x": "4"}
    assert first.began <= inside.began <= (inside.ended or 0) <= (first.ended or 0)
    rows = of(recording, "half")
    assert [(row.state, row.flow_run) for row in rows] == [
        ("Completed", inside.name),
        ("Failed", inside_second.name),
    ]


def test_a_cancelled_map_is_told_whole() -> None:
    stopped = threading.Event()

    @shoal.task
    def hold(x: int) -> None:
        stopped.wait()

    with shoal.record() as recording, ThreadPoolTaskRunner(max_workers=1) as runner:
        try:
            runner.map(hold, {"x": range(20)})
            runner.cancel_all()
        finally:
            stopped.set()
    assert [row.state for row in of(recording, "hold")] == ["Cancelled"] * 20


def test_a_worker_that_dies_is_told_with_what_it_took_along(tmp_path: Path) -> None:
    @shoal.task(crash_retries=1)
    def die_once(path: str) -> int:
        if not os.path.exists(path):
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    @shoal.flow(task_runner="processes:1")
    def dies() -> int:
        return die_once.submit(str(tmp_path / "died")).result()

    with shoal.record() as recording:
        assert dies() == 1
    rows = of(recording, "die_once")
    assert [(row.attempt, row.state) for row in rows] == [(1, "Retrying"), (2, "Completed")]
    assert rows[0].pid != rows[1].pid
    assert [event.kind for event in recording.record.events].count("death") == 1
    dead = recording.record.workers[rows[0].worker]
    assert dead.ending == f"signal {signal.SIGKILL.value}"


@pytest.mark.parametrize("is_left", [True, False], ids=["at the end", "before it"])
def test_a_worker_that_was_killed_to_stop_a_run_has_not_died(is_left: bool) -> None:
    @shoal.task
    def follows() -> None: ...

    @shoal.task(timeout_seconds=0.3)
    def waits(number: int) -> None:
        until = time.monotonic() + (0.05 if number < 2 else 60)
        while time.monotonic() < until:
            with contextlib.suppress(BaseException):
                time.sleep(0.01)

    @shoal.flow(task_runner="processes:1")
    def flow() -> None:
        waits.map(range(3)).wait()
        if not is_left:
            follows.submit().wait()

    with shoal.record() as recording:
        flow()
        pids = [worker.pid for worker in recording.record.workers]
    assert all(pids), "known while it is there"
    assert "death" not in {event.kind for event in recording.record.events}
    *before, last = of(recording, "waits")
    assert last.state == "TimedOut"
    if not is_left:
        assert recording.record.workers[last.worker].ending == f"killed to stop {last.name}"
    assert all(row.ended <= last.begun + 2e-3 for row in before)


def test_a_worker_that_had_several_batches_dies_once() -> None:
    recorder = Recorder()
    recorder.worker(0, "")
    for runs in ([(3, 1)], [(4, 1), (5, 1)], []):
        recorder.events.append((LOST, runs, 0, 1.0, 1.5, 2.0, True))
    taking = Taking(recorder)
    rows, _ = taking.take(closing=False)
    assert [(row[2], row[3], row[5]) for row in rows["events"]] == [
        ("death", 3, "3 runs lost with their worker")
    ]
    recorder.events.append((LOST, [], 0, 1.0, 1.5, 2.0, True))
    rows, _ = taking.take(closing=True)
    assert "events" not in rows


def test_log_lines_are_those_of_their_run(capsys: pytest.CaptureFixture[str]) -> None:
    @shoal.task
    def says() -> None:
        shoal.get_run_logger().info("hello")
        raise ValueError

    @shoal.flow
    def speaks() -> None:
        says.submit().wait()

    with shoal.record() as recording:
        speaks()
    (row,) = of(recording, "says")
    (error,) = recording.record.errors[row.number]
    assert error.logs[0] == "hello"
    assert "hello" in [log.text for log in recording.record.logs if log.number == row.number]


# ---------------------------------------------------------------------- who does not observe


def test_nothing_is_told_where_nobody_has_asked() -> None:
    with ThreadPoolTaskRunner(max_workers=1) as runner:
        dispatcher: Any = runner._dispatcher
        assert type(dispatcher.scheduler) is PullingScheduler
    program = "import shoal, sys\n@shoal.flow\ndef f(): return 1\nf()\nprint('shoal.recording.recorder' in sys.modules, 'sqlite3' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert told.stdout.split() == [b"False", b"False"]


# ---------------------------------------------------------------------- the file


def test_a_saved_record_reads_as_it_was(tmp_path: Path) -> None:
    @shoal.flow
    def halves() -> None:
        half.map(range(10)).wait()

    with shoal.record() as recording:
        halves()
        recording.save(tmp_path / "halves.shoal")  # while it goes on
    recording.save(tmp_path / "after.shoal")
    for name in ("halves.shoal", "after.shoal"):
        again = shoal.Recording.open(tmp_path / name)
        assert list(map(repr, again.runs())) == list(map(repr, recording.runs()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.shoal", "halves.shoal"]


def test_what_still_runs_is_shown_as_it_is() -> None:
    @shoal.flow(task_runner="threads:1")
    def looks() -> list[str]:
        first = stamp.submit(1)
        first.wait()
        recording.record  # noqa: B018  # waits for nothing
        return [row.state for row in of(recording, "stamp")]

    with shoal.record() as recording:
        assert looks() == ["Completed"]
        assert [run.state for run in recording.flow_runs()] == ["Completed"]
    assert recording.record.ended is not None


@pytest.mark.parametrize("runner", ["threads:1", "sequential"])
def test_elements_that_a_thread_has_gone_through_are_told_before_it_is_through(runner: str) -> None:
    reached, go_on = threading.Event(), threading.Event()

    @shoal.task
    def element(x: int) -> None:
        if x == 900:
            reached.set()
            go_on.wait(30)

    with shoal.record() as recording, resolve(runner) as entered:
        entered.map(element, {"x": range(800)}).wait()  # now it is known how quick they are
        watcher = threading.Thread(target=lambda: look(recording, reached, go_on, seen))
        seen: list[list[str]] = []
        watcher.start()
        entered.map(element, {"x": range(850, 1000)}).wait()
        watcher.join()
    assert seen[0][:850] == ["Completed"] * 850
    assert "Completed" not in seen[0][850:]
    rows = of(recording, "element")
    assert [row.state for row in rows] == ["Completed"] * 950
    assert len({row.number for row in rows}) == 950
    for before, after in pairwise(sorted(rows, key=lambda row: row.begun)):
        assert before.ended <= after.begun + 1e-6


def look(
    recording: shoal.Recording,
    reached: threading.Event,
    go_on: threading.Event,
    seen: list[list[str]],
) -> None:
    try:
        assert reached.wait(30)
        rows = sorted(recording.runs(), key=lambda row: row.number)
        seen.append([row.state for row in rows])
    finally:
        go_on.set()


KILLED = """
import os, signal, sys, time, shoal

@shoal.task
def step(x):
    return x

@shoal.flow(task_runner="threads:1")
def killed():
    step.map(range(1000)).wait()
    step.submit(1).wait()
    recording.record  # has it written
    step.submit(2).wait()
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

with shoal.record(sys.argv[1]) as recording:
    killed()
"""


def test_the_record_of_a_killed_process_opens(tmp_path: Path) -> None:
    path = tmp_path / "killed.shoal"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    recording = shoal.Recording.open(path)
    assert [run.state for run in recording.flow_runs()] == ["Running"]
    rows = list(recording.runs())
    assert [row.state for row in rows if row.state != "Pending"] == ["Completed"] * 1001
    assert recording.record.ended is None


GOES_ON = """
import sys, time, shoal

@shoal.task
def step(x):
    time.sleep(0.001)
    return time.time()

@shoal.flow(task_runner="threads:1")
def goes_on():
    while True:
        for end in step.map(range(200)).result():
            print(end, flush=True)

with shoal.record(sys.argv[1]):
    goes_on()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_what_ran_up_to_a_second_before_the_driver_was_killed_is_there(tmp_path: Path) -> None:
    path = tmp_path / "killed.shoal"
    command = [sys.executable, "-c", GOES_ON, str(path)]
    environment = os.environ | {"SHOAL_LOGGING_LEVEL": "CRITICAL"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        ends = []
        for line in running.stdout:
            ends.append(float(line))
            if ends[-1] > ends[0] + 3:
                running.kill()
        killed = ends[-1]
    recording = shoal.Recording.open(path)
    assert [run.state for run in recording.flow_runs()] == ["Running"]
    told = [row.ended for row in of(recording, "step") if row.state == "Completed"]
    # A second, and what a transaction takes on a machine that has other things to do.
    missing = [end for end in ends if end > max(told) and end < killed - 2]
    assert missing == []
    assert len(told) >= sum(end < killed - 2 for end in ends) > 100


FULL = """
import resource, sys, shoal

@shoal.task
def half(x):
    return "x" * (x % 7)

@shoal.flow(task_runner="threads:2")
def halves():
    for _ in range(20):
        recording.record if _ == 3 else half.map(range(5000)).wait()
    return len(half.map(range(50)).result())

with shoal.record(sys.argv[1]) as recording:
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
    print(halves())
try:
    recording.report(sys.argv[2])
except shoal.exceptions.RecordError as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no limits of resources")
def test_a_disk_that_is_full_for_good(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run.shoal"), str(tmp_path / "run.html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.split()[0] == "50", told.stderr
    assert told.stderr.count("The recording of this run stops here") == 1
    assert "Traceback" not in told.stderr
    assert told.returncode == 0


def test_very_many_log_lines_are_counted_and_not_kept() -> None:
    @shoal.task
    def chatters(lines: int) -> None:
        logger = shoal.get_run_logger()
        for line in range(lines):
            logger.debug("line %d", line)
        logger.error("the last one")

    @shoal.task
    def fails(lines: int) -> None:
        chatters.fn(lines)
        raise ValueError

    most = 200
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("shoal.recording.recorder.MOST_LOGS", most)
        level = logging.getLogger("shoal").level
        logging.getLogger("shoal").setLevel(logging.DEBUG)
        try:

            @shoal.flow
            def chat() -> None:
                fails.submit(3_000).wait()
                chatters.submit(3_000).wait()
                for line in range(1_000):
                    shoal.get_run_logger().info("flow %d", line)

            with shoal.record() as recording:
                chat()
        finally:
            logging.getLogger("shoal").setLevel(level)
    record = recording.record
    texts = [log.text for log in record.logs]
    assert most <= len(record.logs) < most + 2 * LAST_LOGS + 10
    assert len(record.logs) + record.logs_left_out >= 7_002
    assert "the last one" in texts
    assert texts.index("line 190") < texts.index("line 2999")  # of the run that failed
    assert texts.count("line 2999") == 1
    assert "flow 999" in texts
    shown = 500
    assert f"{len(record.logs) + record.logs_left_out - shown:,} lines more" in page(record)


@pytest.mark.parametrize("name", ["nowhere/run.shoal", ".", "link.shoal"])
def test_a_file_that_cannot_be_written_is_said_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "link.shoal").symlink_to("nowhere/run.shoal")
    with pytest.raises(RecordError, match="folder"), shoal.record(tmp_path / name):
        pytest.fail("it was entered")


def test_a_full_disk_ends_the_recording_and_not_the_flow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    @shoal.flow(task_runner="threads:2")
    def halves() -> int:
        half.map(range(4_000)).wait()
        return len(half.map(range(0, 20, 2)).result())

    with shoal.record(tmp_path / "full.shoal") as recording:
        writer: Any = recording._writer
        assert isinstance(writer, Writer)
        writer.flush()
        writer._connection.execute("PRAGMA max_page_count = 30")
        assert halves() == 10
        writer.flush()
        assert halves() == 10
    warnings = [
        record for record in caplog.records if "recording of this run stops" in record.message
    ]
    assert len(warnings) == 1
    assert "full" in warnings[0].message
    assert recording.record.ended is None


@pytest.mark.parametrize("method", ["report", "trace", "save"])
def test_what_was_there_stays_where_there_is_no_room_for_the_new(
    method: str, tmp_path: Path
) -> None:
    @shoal.flow
    def halves() -> None:
        half.map(range(100)).wait()

    with shoal.record() as recording:
        halves()
    target = tmp_path / "run.out"
    getattr(recording, method)(target)  # modules that are compiled below would be cut off, too
    target.write_text("what was there")
    target.chmod(0o640)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, usual[1]))
        with pytest.raises(RecordError, match="cannot be written"):
            getattr(recording, method)(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, ignored)
    assert target.read_text() == "what was there"
    assert os.listdir(tmp_path) == ["run.out"]
    getattr(recording, method)(target)
    assert target.stat().st_size > 1_000
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("method", ["report", "trace"])
def test_a_pipe_behind_a_link_is_written_in_place(method: str, tmp_path: Path) -> None:
    with shoal.record() as recording:
        pass
    reader, writer = os.pipe()
    read: list[bytes] = []
    with os.fdopen(reader, "rb") as pipe:
        thread = threading.Thread(target=lambda: read.append(pipe.read()))
        thread.start()
        try:
            getattr(recording, method)(f"/dev/fd/{writer}")
        finally:
            os.close(writer)
            thread.join()
    getattr(recording, method)(tmp_path / "run.out")
    assert len(read[0]) == (tmp_path / "run.out").stat().st_size > 0


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    with shoal.record() as recording:
        pass
    link = tmp_path / "link.html"
    link.symlink_to("run.html")
    for _ in range(2):  # the first makes the file
        recording.report(link)
        assert link.is_symlink()
        assert (tmp_path / "run.html").stat().st_size > 1_000


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    with shoal.record(tmp_path / "run.shoal"):
        pass
    with sqlite3.connect(tmp_path / "run.shoal") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RecordError, match="version 99 of the format, and this Shoal reads version"):
        shoal.Recording.open(tmp_path / "run.shoal")


@pytest.mark.parametrize(
    "content", [b"", b"not a record at all, by any means", b"SQLite format 3\0"]
)
def test_what_is_no_record_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.shoal"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="no record of a run"):
        shoal.Recording.open(path)
    with pytest.raises(RecordError, match="no such file"):
        shoal.Recording.open(tmp_path / "other.shoal")


def test_a_recording_is_entered_once() -> None:
    recording = shoal.record()
    with pytest.raises(RecordError, match="has not begun"):
        recording.flow_runs()
    with recording:
        pass
    with pytest.raises(RecordError, match="begun already"), recording:
        pytest.fail("it was entered")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_record_alone() -> None:
    @shoal.flow(task_runner="sequential")
    def halves() -> int:
        return half.submit(2).result()

    with shoal.record() as recording:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                halves()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        halves()
    assert len(recording.flow_runs()) == 1
    assert [row.pid for row in recording.runs()] == [os.getpid()]


# ---------------------------------------------------------------------- pages of it


def test_a_page_and_a_timeline_are_made_of_a_recording(tmp_path: Path) -> None:
    @shoal.flow
    def halves() -> None:
        half.map(range(10)).wait()

    with shoal.record() as recording:
        halves()
    page = recording.report(tmp_path / "halves.html").read_text(encoding="utf-8")
    assert "7 is odd" in page
    assert recording.trace(tmp_path / "halves.pftrace").stat().st_size > 0
    with pytest.raises(RecordError, match="no folder"):
        recording.report(tmp_path / "nowhere" / "halves.html")


@pytest.mark.parametrize("kind", ["sync", "async", "stream"])
def test_each_outermost_flow_run_is_reported_to_a_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = observers()
    folder = tmp_path / "reports"
    monkeypatch.setenv("SHOAL_REPORT", str(folder))

    @shoal.flow
    def below() -> int:
        return half.submit(2).result()

    @shoal.flow(name="a/b", flow_run_name="of {x}")
    def above(x: int) -> int:
        return below()

    @shoal.flow(name="a/b", flow_run_name="of {x}")
    async def above_async(x: int) -> int:
        return below()

    @shoal.flow(name="a/b", flow_run_name="of {x}")
    def streamed(x: int) -> Any:
        yield below()

    for x in (1, 2):
        if kind == "sync":
            assert above(x) == 1
        elif kind == "async":
            assert asyncio.run(above_async(x)) == 1
        else:
            assert list(streamed(x)) == [1]
    assert sorted(path.name for path in folder.iterdir()) == ["a-b-of-1.html", "a-b-of-2.html"]
    assert "below" in (folder / "a-b-of-1.html").read_text(encoding="utf-8")
    assert observers() != before
    monkeypatch.delenv("SHOAL_REPORT")
    below()
    assert len(list(folder.iterdir())) == 2
    assert observers() == before


def test_a_folder_for_reports_that_cannot_be_made_is_said_before_the_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SHOAL_REPORT", str(tmp_path / "file" / "reports"))

    @shoal.flow
    def never() -> None:
        pytest.fail("it ran")

    with pytest.raises(RecordError, match="cannot be made"):
        never()


FLOW = """
import shoal

@shoal.task
def half(x):
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x // 2

@shoal.flow
def halves(n: int):
    return sum(half.map(range(0, n, 2)).result()) + half(n)
"""


def test_the_command_writes_what_was_asked_for_however_the_flow_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "halves.py").write_text(FLOW, encoding="utf-8")
    target = str(tmp_path / "halves.py")
    page, trace = tmp_path / "out.html", tmp_path / "out.pftrace"
    given = ["--report", str(page), "--trace", str(trace)]
    assert invoke(["run", target, "-p", "n=4", *given]) == 0
    assert capsys.readouterr().out == "3\n"
    assert page.exists()
    assert trace.exists()
    assert invoke(["run", target, "-p", "n=5", "--report", str(page)]) == 1
    assert "5 is odd" in page.read_text(encoding="utf-8")
    assert f"Written: {page}" in capsys.readouterr().err
    assert invoke(["run", target, "-p", "n=4", "--report", str(tmp_path / "no" / "out.html")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_command_makes_a_page_of_a_saved_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shoal.record(tmp_path / "run.shoal"):
        half.fn(2)
    trace = tmp_path / "run.pftrace"
    assert invoke(["report", str(tmp_path / "run.shoal"), "--trace", str(trace)]) == 0
    assert (tmp_path / "run.html").exists()
    assert trace.exists()
    assert invoke(["report", str(tmp_path / "other.shoal")]) == 2
    assert "no such file" in capsys.readouterr().err
