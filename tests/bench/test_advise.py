"""`shoal bench advise`: a user's own flow on every runner, and what is made of that."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from shoal_bench.cli import app
from shoal_bench.trial.trial import Trial, differs, tried
from shoal_bench.trial.words import advise

FLOW = """
import os, sys, threading, time
from shoal import flow, task

@task
def work(x):
    time.sleep(0.01)
    return x

@task
async def wait(x):
    return x

@flow
def good(n: int = 3):
    print("what the flow prints is not shown")
    return sum(work.map(range(n)).result()) + wait.submit(1).result()

@flow
async def in_a_loop():
    return await work.submit(2)

@flow
def emits():
    yield from work.map(range(3)).result()

@flow
async def emits_in_a_loop():
    for number in range(3):
        yield await work.submit(number)

@flow
def fails(n: int = 1):
    raise ValueError("no luck")

@flow
def dies():
    os._exit(3)

@flow
def is_killed():
    os.kill(os.getpid(), 9)

@flow
def hangs():
    threading.Event().wait()

@flow
def keeps_its_value():
    return threading.Lock()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FLOW)
    return path


def on(script: Path, flow: str, runner: str, *assignments: str, limit: float = 60) -> Trial:
    return tried(f"{script}:{flow}", runner, 2, assignments, limit=limit)


def test_a_trial_on_the_sequential_runner_tells_how_long_tasks_are(script: Path) -> None:
    trial = on(script, "good", "sequential", "n=5")
    assert trial.failed is None
    assert pickle.loads(trial.value or b"") == 11
    assert trial.seconds >= 0.05
    assert 0 < trial.started < trial.seconds
    assert trial.cpu is not None
    assert trial.cpu > 0
    runs, seconds = trial.tasks["work"]
    assert runs == 5
    assert 0.05 <= seconds <= trial.seconds
    assert trial.tasks["wait"][0] == 1


def test_a_trial_on_threads(script: Path) -> None:
    trial = on(script, "good", "threads")
    assert trial.failed is None
    assert pickle.loads(trial.value or b"") == 4
    assert not trial.tasks


@pytest.mark.parametrize(
    ("flow", "value"), [("in_a_loop", 2), ("emits", [0, 1, 2]), ("emits_in_a_loop", [0, 1, 2])]
)
def test_flows_of_other_kinds(flow: str, value: object, script: Path) -> None:
    trial = on(script, flow, "threads")
    assert trial.failed is None
    assert pickle.loads(trial.value or b"") == value


@pytest.mark.slow
def test_trials_that_fail(script: Path) -> None:
    assert on(script, "fails", "threads").failed == "ValueError: no luck"
    assert on(script, "dies", "threads").failed == "its process ended with 3"
    assert on(script, "is_killed", "threads").failed == "its process was killed by SIGKILL"
    assert (
        on(script, "hangs", "threads", limit=2).failed == "it took longer than 2 s, and was ended"
    )
    kept = on(script, "keeps_its_value", "threads")
    assert (kept.failed, kept.value) == (None, None)


def test_results_that_differ() -> None:
    one, other = Trial("a", value=pickle.dumps(1)), Trial("b", value=pickle.dumps(2))
    assert differs(one, other)
    assert differs(one, Trial("c", value=pickle.dumps(1.0))) is False
    assert differs(one, Trial("d")) is None


def trial(runner: str, seconds: float, **given: Any) -> Trial:
    return Trial(runner, seconds, value=pickle.dumps(given.pop("gave", 1)), **given)


def test_the_quickest_is_recommended() -> None:
    told = advise([trial("sequential", 5), trial("threads", 4), trial("processes", 1.5)], {})
    assert told == ["Take processes: it took 1.5 s, one task after the other 5 s."]


def test_of_those_that_do_alike_the_nearest_is_recommended() -> None:
    told = advise([trial("sequential", 9), trial("processes", 1.1), trial("dask", 1.0)], {})
    assert told[0] == "Take processes: it took 1.1 s, one task after the other 9 s."
    assert told[1] == "No clear difference: dask (1 s)."


def test_what_is_not_worth_spreading() -> None:
    told = advise([trial("sequential", 1), trial("threads", 1.1)], {})
    assert told[0].startswith("Leave it on one thread")


def test_tasks_that_are_too_short() -> None:
    tasks = {"tiny": (100, 1e-4), "once": (1, 1e-6), "long": (9, 9.0)}
    told = advise(
        [trial("sequential", 5, tasks=tasks), trial("processes", 2)],
        {"processes": 5e-6, "threads": 1e-7},
    )
    assert told[1:] == [
        "Runs of tiny take 1 µs, too short to be worth spreading on processes (5 µs): give each more to do."
    ]


def test_what_else_is_said() -> None:
    trials = [
        trial("sequential", 4),
        trial("processes", 1, moved=200_000_000),
        trial("dask", 2, gave=3, started=1.8),
        Trial("ray", failed="ValueError: no luck\nand more"),
    ]
    told = " ".join(advise(trials, {}))
    assert "Most of the time it was dask (1.8 s) that started" in told
    assert "On processes, 200 MB passed through the driver" in told
    assert "dask gave another result than sequential" in told
    assert "On ray the flow failed: ValueError: no luck" in told
    assert "and more" not in told


def test_nothing_to_recommend() -> None:
    failed = [Trial(name, failed="no") for name in ("sequential", "threads")]
    assert advise(failed, {})[0] == "There is nothing to recommend: the flow ended on no runner."


@pytest.mark.slow
def test_the_command(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = app(
        ["advise", f"{script}:good", "-p", "n=40", "--runner", "threads", "--workers", "2"],
        result_action="return_value",
    )
    shown = capsys.readouterr()
    assert code == 0
    # Which of both depends on what else the machine does.
    table, told, _ = re.split(
        r"^(Take threads: |Leave it on one thread: )", shown.out, flags=re.MULTILINE
    )
    assert told
    assert "what the flow prints" not in shown.out
    assert max(map(len, table.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{script}:god"], "good"),
        (["{script}:good", "-p", "m=3"], "no parameter 'm'"),
        (["{script}:good", "--runner", "rya"], "rya"),
        (["nowhere.py:good"], "there is no file"),
    ],
)
def test_command_lines_that_are_wrong(
    arguments: list[str], told: str, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(script=script) for argument in arguments]
    assert app(["advise", *filled], result_action="return_value") == 2
    assert told in capsys.readouterr().err
