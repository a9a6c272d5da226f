"""Log lines as users see them, prints that become lines, and what is never touched (SPEC 8.3, 8.4)."""

from __future__ import annotations

import builtins
import functools
import io
import logging
import pickle
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, get_run_logger, runtime, task
from shoal.context import FlowRunContext, TaskRunContext, get_run_context
from shoal.exceptions import MissingContextError
from shoal.logging import disable_run_logger, get_logger
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.testing.samples import BoomError, boom, inc

if TYPE_CHECKING:
    from pathlib import Path

#: `00:03:45.159 | INFO    | Flow run 'hilarious-collie' - `
HEAD = r"\d\d:\d\d:\d\d\.\d{3} \| {level:<7} \| {label} - "


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    """As in a program that has not set up logging; under pytest, the level depends on what ran before."""
    caplog.set_level("INFO", "shoal")


def program(tmp_path: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, where nobody has set up logging."""
    import os

    script = tmp_path / "program.py"
    script.write_text("from shoal import flow, get_run_logger, task\n" + text)
    return subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **environment},
    )


SIMPLE = """
@task
def count_words(text):
    get_run_logger().info("counting %s", text)
    get_run_logger().debug("in detail")
    return len(text.split())

@task(retries=1, retry_delay_seconds=0.01)
def fails():
    raise ValueError("no good")

@flow
def my_flow(text="a b"):
    count_words.submit(text).result()
    fails.submit().wait()
    return "done"

my_flow()
"""


def test_lines_of_a_program(tmp_path: Path) -> None:
    done = program(tmp_path, SIMPLE)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    flow_run, task_run = r"Flow run '[a-z]+-[a-z]+'", r"Task run 'count_words-[0-9a-f]{3}'"
    wanted = [
        ("INFO", flow_run, r"Beginning flow run '[a-z]+-[a-z]+' for flow 'my-flow'"),
        ("INFO", task_run, "counting a b"),
        ("INFO", task_run, r"Finished in state Completed\(\)"),
        ("INFO", "Task run 'fails-[0-9a-f]{3}'", "Attempt 1 of 2 did not complete .*no good.*"),
        ("ERROR", "Task run 'fails-[0-9a-f]{3}'", r"Finished in state Failed\(.*no good.*"),
        ("INFO", flow_run, r"Finished in state Completed\(\)"),
    ]
    for line, (level, label, text) in zip(lines, wanted, strict=True):
        head = r"\d\d:\d\d:\d\d\.\d{3} \| " + f"{level:<7}" + r" \| "
        assert re.fullmatch(f"{head}{label} - {text}", line), line


def test_the_level_of_the_environment(tmp_path: Path) -> None:
    assert program(tmp_path, SIMPLE, SHOAL_LOGGING_LEVEL="CRITICAL").stderr == ""
    assert "in detail" in program(tmp_path, SIMPLE, SHOAL_LOGGING_LEVEL="debug").stderr
    assert "ERROR" in program(tmp_path, SIMPLE, SHOAL_LOGGING_LEVEL="40").stderr
    odd = program(tmp_path, SIMPLE, SHOAL_LOGGING_LEVEL="loud").stderr
    assert "SHOAL_LOGGING_LEVEL" in odd
    assert "Beginning flow run" in odd


@pytest.mark.parametrize(
    "set_up",
    [
        "logging.basicConfig(format='MINE %(message)s', level=logging.INFO)",
        "handler = logging.StreamHandler()\n"
        "handler.setFormatter(logging.Formatter('MINE %(message)s'))\n"
        "logging.getLogger('shoal').addHandler(handler)",
    ],
    ids=["root", "ours"],
)
def test_a_set_up_of_the_users_own_is_kept(tmp_path: Path, set_up: str) -> None:
    lines = program(tmp_path, f"import logging\n{set_up}\n{SIMPLE}").stderr.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("MINE ") for line in lines)
    after = SIMPLE.replace("my_flow()\n", "") + f"\nmy_flow()\nimport logging\n{set_up}\nmy_flow()"
    text = program(tmp_path, after).stderr
    assert text.count("Beginning flow run") == 2, "no line appears twice when set up in between"


def test_a_burst_is_summed_up(tmp_path: Path) -> None:
    text = """
@task
def work(x):
    if x % 100 == 50:
        raise ValueError(x)

@flow
def main():
    work.map(range(500)).wait()
    return 1

main()
"""
    lines = program(tmp_path, text).stderr.splitlines()
    single = [line for line in lines if "Task run 'work-" in line]
    assert len(single) == 20
    summary = [line for line in lines if "more runs finished" in line]
    assert len(summary) == 1
    assert re.search(r"Task 'work' - 480 more runs finished: 47\d Completed, \d Failed", summary[0])
    all_of_them = program(tmp_path, text, SHOAL_LOGGING_LEVEL="DEBUG").stderr
    assert all_of_them.count("Task run 'work-") == 500
    assert program(tmp_path, text, SHOAL_LOG_BURST="3").stderr.count("Task run 'work-") == 3


def test_a_burst_counts_elements_that_were_cancelled_and_that_nobody_asked_for(
    tmp_path: Path,
) -> None:
    text = """
import time

@task
def work(x):
    time.sleep(0.001)

@flow(task_runner="threads:2")
def main():
    runs = work.map(range(20_000))
    while not runs[0].state.is_completed():
        time.sleep(0.001)
    raise KeyError

try:
    main()
except KeyError:
    pass
"""
    said = program(tmp_path, text).stderr
    summed = re.findall(r"Task 'work' - ([\d,]+) more runs finished", said)
    single = said.count("Task run 'work-")
    assert single + sum(int(one.replace(",", "")) for one in summed) == 20_000


def test_a_burst_is_summed_up_when_its_last_line_is_out(tmp_path: Path) -> None:
    text = """
import logging, time

class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(0.05)

logging.getLogger("shoal.task_runs").addHandler(Slow())

@task
def work(x):
    return x

@flow
def main():
    return work.map(range(500)).result()[-1]

main()
"""
    lines = program(tmp_path, text, SHOAL_LOG_BURST="3").stderr.splitlines()
    assert sum("Task run 'work-" in line for line in lines) == 3
    assert sum("497 more runs finished: 497 Completed" in line for line in lines) == 1


def test_prints_of_a_program(tmp_path: Path) -> None:
    text = """
import sys

@task
def talk():
    print("from a task")

@flow(log_prints=True)
def loud():
    print("from a flow", 1, 2, sep="-")
    talk()
    talk.submit().result()
    talk.with_options(log_prints=False).submit().result()
    print("to a file", file=open(sys.argv[0] + ".out", "w"))

@flow
def quiet():
    print("plain")
    talk.submit().result()

print("before")
loud()
quiet()
print("after")
"""
    done = program(
        tmp_path,
        text.replace('open(sys.argv[0] + ".out", "w")', "OUT").replace(
            "import sys",
            "import sys, atexit\nOUT = open(sys.argv[0] + '.out', 'w')\natexit.register(OUT.close)",
        ),
    )
    assert done.stdout.splitlines() == ["before", "from a task", "plain", "from a task", "after"]
    assert done.stderr.count("from a task") == 2
    assert "Flow run" in next(
        line for line in done.stderr.splitlines() if "from a flow-1-2" in line
    )
    assert (tmp_path / "program.py.out").read_text() == "to a file\n"


def test_prints_of_several_threads_go_to_their_runs(caplog: pytest.LogCaptureFixture) -> None:
    barrier = threading.Barrier(2)

    @task(log_prints=True)
    def talk(number: int) -> str:
        for _ in range(20):
            barrier.wait(30)
            print("I am", number)
        from shoal import runtime

        return runtime.task_run.name or ""

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> Any:
        return talk.map([1, 2]).result()

    for number, name in enumerate(main(), start=1):
        said = [r.getMessage() for r in caplog.records if getattr(r, "run_name", "") == name]
        assert said.count(f"I am {number}") == 20
        assert not [text for text in said if text.startswith("I am") and str(number) not in text]


def test_prints_in_all_their_forms(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    @task(log_prints=True)
    def talk() -> None:
        print()
        print("a", "b", end="")
        print("to stderr", file=sys.stderr)
        print("x", None, 1.5, sep="")
        file = io.StringIO()
        print("kept", file=file, flush=True)
        assert file.getvalue() == "kept\n"

    @flow
    def main() -> None:
        talk.submit().result()

    main()
    said = [r.getMessage() for r in caplog.records if r.name == "shoal.task_runs"]
    assert said[:4] == ["", "a b", "to stderr", "xNone1.5"]
    assert "kept" not in caplog.text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("wraps", [True, False])
def test_prints_where_others_replace_print_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, wraps: bool
) -> None:
    """As Ray does in a driver that shows what workers print, now or later."""
    plain = print
    reached: list[str] = []

    @task(log_prints=True)
    def talk(text: str) -> None:
        print(text)

    @flow
    def main(text: str) -> None:
        talk.submit(text).result()
        print(text, "of the flow")

    main("before")
    below = builtins.print if wraps else plain

    @functools.wraps(below)
    def theirs(*values: object, **options: Any) -> None:
        reached.append(" ".join(map(str, values)))
        below(*values, **options)

    monkeypatch.setattr(builtins, "print", theirs)
    main("after")
    main("again")
    said = [r.getMessage() for r in caplog.records if r.name == "shoal.task_runs"]
    assert [text for text in said if "Finished" not in text] == ["before", "after", "again"]
    assert reached == ["after of the flow", "again of the flow"]
    assert pickle.loads(pickle.dumps(print)) is print


def test_the_run_logger(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MissingContextError, match="get_run_logger"):
        get_run_logger()

    @task
    def talk() -> None:
        get_run_logger().warning("from the task", extra={"colour": "red"})

    @flow(flow_run_name="the flow run")
    def main() -> Any:
        get_run_logger().warning("from the flow")
        future = talk.submit()
        future.wait()
        get_run_logger().warning("from the flow again")
        return future.name, future.task_run_id

    name, run_id = main()
    records = {record.getMessage(): record for record in caplog.records}
    of_task: Any = records["from the task"]
    assert (of_task.run_name, of_task.run_id, of_task.colour) == (name, run_id, "red")
    assert (of_task.name, of_task.threadName[:6]) == ("shoal.task_runs", "shoal-")
    assert of_task.funcName == "talk", "a record names the line that made it"
    for text in ("from the flow", "from the flow again"):
        of_flow: Any = records[text]
        assert (of_flow.name, of_flow.run_name) == ("shoal.flow_runs", "the flow run")


def test_a_silenced_library_runs_as_well(caplog: pytest.LogCaptureFixture) -> None:
    for level in ("CRITICAL", "DEBUG"):
        caplog.set_level(level, "shoal")

        @flow
        def main() -> Any:
            boom.submit().wait()
            boom.map(["a"] * 50).wait()
            return inc.map(range(50)).result()

        assert main() == list(range(1, 51))


def test_a_handler_that_fails_harms_no_run() -> None:
    """Nobody may wait for ever because a line about a run could not be written."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("a broken handler")

    handler = Broken()
    logger = logging.getLogger("shoal.task_runs")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:

        @flow
        def main() -> Any:
            link = inc.submit(inc.submit(1))
            return link.result(timeout=30), inc.map(range(30)).result(timeout=30)

        assert main() == (3, list(range(1, 31)))
    finally:
        logger.removeHandler(handler)
        logger.setLevel("NOTSET")


# ---------------------------------------------------------------------- loggers of runs


def test_a_runs_logger_in_a_thread_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """It knows the run where nothing else does."""

    @task
    def starts() -> str:
        logger = get_run_logger()
        thread = threading.Thread(target=logger.info, args=("from a thread",))
        thread.start()
        thread.join()
        return runtime.task_run.id or ""

    @flow(task_runner="processes:1")
    def main() -> str:
        return starts.submit().result()

    task_run_id = main()
    (record,) = (r for r in caplog.records if r.getMessage() == "from a thread")
    assert vars(record)["task_run_id"] == task_run_id


def test_the_logger_of_a_context(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def talks() -> None:
        get_run_logger(FlowRunContext.get(), of="the flow").info("upwards")
        get_run_logger(get_run_context()).info("as always")

    @flow
    def main() -> None:
        talks.submit().wait()

    main()
    records = {record.getMessage(): record for record in caplog.records}
    assert (records["upwards"].name, vars(records["upwards"])["of"]) == (
        "shoal.flow_runs",
        "the flow",
    )
    assert records["as always"].name == "shoal.task_runs"


def test_outside_a_flow_records_know_of_none(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def talks() -> None:
        get_run_logger().info("alone")

    talks()
    (record,) = (r for r in caplog.records if r.getMessage() == "alone")
    facts = vars(record)
    assert facts["task_name"] == "talks"
    assert facts["flow_run_name"] is facts["flow_run_id"] is facts["flow_name"] is None


def test_every_record_of_task_runs_has_their_attributes(caplog: pytest.LogCaptureFixture) -> None:
    """So that a format which names them is good for all lines, also for that about a burst."""

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        inc.map(range(50)).wait()

    main()
    line = "%(flow_name)s %(flow_run_name)s %(flow_run_id)s %(task_name)s %(task_run_name)s %(task_run_id)s"
    own = [record for record in caplog.records if record.name == "shoal.task_runs"]
    assert any("more runs" in record.getMessage() for record in own)
    for record in own:
        assert (line % vars(record)).startswith("main ")


def test_what_a_record_carries_is_worked_out_when_there_is_one() -> None:
    @task
    def looks() -> Any:
        logger = get_run_logger()
        before = logger._extra
        return before, logger.extra["task_name"]

    assert looks() == (None, "looks")


def test_run_loggers_can_be_silenced(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def talks() -> int:
        get_run_logger().info("said")
        return 1

    with pytest.raises(MissingContextError):
        talks.fn()
    with disable_run_logger():
        assert talks.fn() == 1
        with disable_run_logger():
            assert talks() == 1
        assert talks.fn() == 1
    assert "said" not in caplog.text
    talks()
    assert "said" in caplog.text
    with pytest.raises(MissingContextError):
        talks.fn()


def test_loggers_beneath_ours() -> None:
    assert get_logger().name == get_logger("shoal").name == "shoal"
    assert get_logger("mine").name == get_logger("shoal.mine").name == "shoal.mine"


# ---------------------------------------------------------------------- contexts


def test_contexts_outside_of_runs() -> None:
    with pytest.raises(MissingContextError, match=re.escape("get_run_context()")):
        get_run_context()
    assert FlowRunContext.get() is None
    assert TaskRunContext.get() is None


def test_contexts_of_a_flow_that_a_task_calls() -> None:
    @flow
    def inner(number: int) -> Any:
        context = get_run_context()
        assert TaskRunContext.get() is None
        return context.parameters, FlowRunContext.get() is not None

    @task
    def calls() -> Any:
        return inner(1), type(get_run_context()).__name__

    @task(log_prints=True)
    def prints() -> bool:
        context = TaskRunContext.get()
        return context is not None and context.log_prints

    @flow(log_prints=True)
    def outer() -> Any:
        context = FlowRunContext.get()
        assert context is not None
        return calls(), context.log_prints, prints.with_options(log_prints=None)()

    assert outer() == ((({"number": 1}, True), "TaskRunContext"), True, True)
    assert prints() is True
    assert calls()[1] == "TaskRunContext"


def test_times_of_a_flow_run() -> None:
    told: list[Any] = []

    def look(a_flow: Any, run: Any, state: Any) -> None:
        ran = run.total_run_time.total_seconds()
        told.append((run.state_name, run.state_type, run.start_time, run.end_time, ran))
        assert state.state_details.flow_run_id == run.id

    @flow(retries=1, retry_delay_seconds=0.2, on_running=[look], on_failure=[look])
    def fails() -> None:
        time.sleep(0.05)
        raise BoomError("no")

    state = fails(return_state=True)
    assert [entry[0] for entry in told] == ["Running", "Running", "Failed"]
    assert len({entry[2] for entry in told}) == 1, "it is when the first attempt began"
    assert [entry[3] for entry in told] == [None, None, state.timestamp]
    assert 0.1 <= told[2][4] < (state.timestamp - told[0][2]).total_seconds() - 0.15


def test_a_flow_run_that_never_began() -> None:
    runs: list[Any] = []

    @flow(on_failure=[lambda a_flow, run, state: runs.append(run)])
    def typed(number: int) -> None: ...

    typed("one", return_state=True)  # type: ignore[call-overload, unused-ignore]
    (run,) = runs
    assert run.start_time is None
    assert run.state_name == "Failed"
    assert run.end_time is not None
    assert run.total_run_time.total_seconds() == 0
