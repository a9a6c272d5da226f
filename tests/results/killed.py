"""Drivers that are killed at any moment, and flow runs that go on: a slow test does it a few times, this as often as one likes::

    python -m tests.results.killed processes:2 --times 100

Each task run writes a line to a trace when it ends, and the driver is killed when there are as many as a random number says: so it is
at work, however fast the runner and the machine are. What the journal says after the kill is compared with the trace of the process
that goes on: nothing that stands in the journal may be executed again, and all that ended more than 100 ms before the kill has to
stand there.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from shoal.results.journal import find
from shoal.results.journal.contents import unpack_values
from shoal.results.journal.reading import read_contents

__all__ = ["EXPECTED", "RUNS", "TOTAL", "Killed", "fail_and_resume", "kill_and_resume"]

SCRIPT = """
import os, sys, time
from shoal import flow, task

TRACE = os.environ["TRACE"]


def ended(i):
    line = f"{i} {time.monotonic()}\\n".encode()
    file = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


@task
def single(i):
    time.sleep(0.004)
    ended(i)
    return i


@task
def mapped(i):
    time.sleep(0.002)
    ended(i)
    return i


@task
def listed(i):
    ended(i)
    return [i]


@task
def parent(i):
    children = [single.submit(1000 * i + k) for k in range(1, 6)]
    for child in children:
        child.wait()
    ended(1000 * i)
    return 1000 * i


@task
def total(values):
    ended(999)
    if "FAILS" in os.environ:
        raise ValueError("total")
    return sum(v[0] if isinstance(v, list) else v for v in values)


@flow(journal=True, flow_run_name="killed")
def main():
    started = os.open(TRACE + ".started", os.O_WRONLY | os.O_CREAT)
    os.close(started)
    runs = [single.submit(i) for i in range(100)]
    runs += mapped.map(range(100, 400))
    runs += listed.map(range(400, 500))
    runs += [parent.submit(i) for i in range(2, 10)]
    return total.submit(runs).result()


if __name__ == "__main__":
    main = main.with_options(task_runner=sys.argv[1])
    print("VALUE", main() if len(sys.argv) < 3 else main.resume(sys.argv[2]))
"""

#: What the flow gives.
EXPECTED = sum(range(500)) + sum(1000 * i for i in range(2, 10))

#: How many runs it has.
RUNS = 549


class Killed(NamedTuple):
    """What one kill has shown.

    Attributes:
        completed: runs that stood in the journal.
        again: of these, those that were executed again; none if all is well.
        twice: runs that were executed in both processes.
        oldest: of what had ended and did not stand in the journal, how long before the kill that was, in seconds.
        after: how long after the kill a worker was still at work, in seconds.
        value: whether the value was right.
        amid: whether runs were still to come when it was killed.
    """

    completed: int
    again: int
    twice: int
    oldest: float
    after: float
    value: bool
    amid: bool


def fail_and_resume(runner: str, then: str, folder: Path) -> tuple[set[int], set[int], bool]:
    """Has the last run of a flow fail, and goes on.

    Args:
        runner: on which it fails.
        then: on which it goes on.
        folder: an empty one.

    Returns:
        What was executed at first, what after that, and whether the value was right.
    """
    command, environment, trace = _prepared(runner, folder)
    failed = subprocess.run(  # noqa: PLW1510  # it fails
        command, env={**environment, "FAILS": "1"}, capture_output=True, text=True, timeout=100
    )
    if not failed.stderr.rstrip().endswith("shoal resume killed"):
        raise RuntimeError(failed.stderr)
    before = _read(trace)
    trace.unlink()
    done = subprocess.run(
        [*command[:-1], then, "killed"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return {*before}, {*_read(trace)}, done.stdout.split()[-1] == str(EXPECTED)


def _prepared(runner: str, folder: Path) -> tuple[list[str], dict[str, str], Path]:
    """The command that runs the flow, its environment, and where the trace will be."""
    script, trace = folder / "killed_flow.py", folder / "trace"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {
        **os.environ,
        "SHOAL_HOME": str(folder / "home"),
        "TRACE": str(trace),
        "SHOAL_LOGGING_LEVEL": "ERROR",
    }
    return [sys.executable, str(script), runner], environment, trace


def kill_and_resume(runner: str, folder: Path, ended: int, later: float = 0.0) -> Killed:
    """Kills one driver, and goes on.

    Args:
        runner: its name.
        folder: an empty one.
        ended: it is killed when so many runs have ended, of the `RUNS` that there are; with 0 as soon as the flow's body has begun.
        later: seconds from then to the kill.
    """
    command, environment, trace = _prepared(runner, folder)
    os.environ["SHOAL_HOME"] = environment["SHOAL_HOME"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as driver:
        deadline = time.monotonic() + 100
        while not Path(f"{trace}.started").exists() or len(_read(trace)) < ended:
            if driver.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"not as many as {ended} runs have ended")
            time.sleep(0.001)
        time.sleep(later)
        driver.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        driver.wait()
    time.sleep(0.6)  # workers have gone by then
    before = _read(trace)
    known = _known(find("last").folder / "journal")
    trace.unlink(missing_ok=True)
    done = subprocess.run(
        [*command, "last"], env=environment, check=True, capture_output=True, text=True, timeout=100
    )
    after = _read(trace)
    lost = [
        killed - when
        for i, when in before.items()
        if i not in known and i != TOTAL and when < killed
    ]
    return Killed(
        len(known),
        len(known & after.keys()),
        len(before.keys() & after.keys()),
        max(lost, default=0.0),
        max((when - killed for when in before.values()), default=0.0),
        done.stdout.split()[-1] == str(EXPECTED),
        TOTAL not in before,
    )


#: What the last run writes to the trace.
TOTAL = 999


def _read(trace: Path) -> dict[int, float]:
    if not trace.exists():
        return {}
    written, _, _ = trace.read_text(encoding="utf-8").rpartition("\n")  # a line may be half there
    lines = [line.split() for line in written.splitlines()]
    return {int(i): float(when) for i, when in lines}


def _known(journal: Path) -> set[int]:
    """Which runs stand in the journal, by what they give."""
    known: set[int] = set()
    contents = read_contents(journal)
    for some in contents.runs:
        values, kinds = unpack_values(some.values)
        for place, value in enumerate(values):
            if kinds is not None and kinds[place]:
                import pickle

                known.add(pickle.loads(value)[0])
            elif value < 9999 and contents.facts.tasks[some.task].name != "total":
                known.add(value)
    return known


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runner")
    parser.add_argument("--times", type=int, default=100)
    given = parser.parse_args()
    found = []
    for _ in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            ended, later = random.randrange(RUNS), random.uniform(0, 0.02)
            found.append(kill_and_resume(given.runner, Path(folder), ended, later))
    oldest = [one.oldest * 1e3 for one in found]
    print(
        f"{given.runner}: {len(found)} kills, {sum(one.amid for one in found)} of them at work, {sum(one.completed > 0 for one in found)} with something in the journal; "
        f"wrong values {sum(not one.value for one in found)}; executed again though in the journal {sum(one.again for one in found)}; "
        f"oldest completion lost {max(oldest):.0f} ms, median {statistics.median(oldest):.0f} ms; "
        f"workers at work after it {max(one.after for one in found) * 1e3:.0f} ms"
    )
    return int(any(one.again or not one.value for one in found))


if __name__ == "__main__":
    sys.exit(_main())
