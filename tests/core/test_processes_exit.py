"""How programs with a process pool end, and where their functions may be defined (SPEC 7.6, DESIGN "`__main__`").

Real programs in processes of their own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from shoal.task_runners.processes.spawning import default_method
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(default_method() != "forkserver", reason="there is no forking here"),
]

#: Seconds that a program has to end, and its workers after it.
SOON = 20.0

HEAD = """
import os, pathlib, signal, sys, threading, time
from shoal import flow, get_run_logger, task
from shoal.task_runners import ProcessPoolTaskRunner

here = pathlib.Path({here!r})

def note(name, text=""):
    (here / f".{{name}}").write_text(str(text))
    (here / f".{{name}}").rename(here / name)

@task
def works(number, text="time.sleep(60)"):
    note(f"worker-{{number}}", os.getpid())
    exec("import sys, time; " + text)

@task
def inc(x):
    return x + 1
"""


class Program:
    """A program under way, in a process group of its own."""

    def __init__(self, here: Path, *command: str | Path, stdin: str | None = None) -> None:
        self.here = here
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=here,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "SHOAL_TEST_PROGRAM": str(here)},
        )
        self._stdin = stdin

    def pids(self, count: int) -> list[int]:
        """The workers that have begun a run of `works`; waits for so many."""
        eventually(lambda: self.ended() or len(self._pids()) == count, f"{count} workers at work")
        assert not self.ended(), self.process.communicate()[1]
        return self._pids()

    def _pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.here.glob("worker-*")]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> tuple[str, str]:
        """Waits for its end; what it printed, and its errors."""
        return self.process.communicate(self._stdin, timeout=PATIENCE)

    def leaves(self) -> None:
        """Fails if there is a process left that it, or one of its processes, has started."""

        def left() -> list[str]:
            found = []
            for process in psutil.process_iter():
                try:
                    if (
                        process.environ().get("SHOAL_TEST_PROGRAM") == str(self.here)
                        and process.status() != psutil.STATUS_ZOMBIE
                    ):
                        found.append(f"{process.pid}: {process.cmdline()}")
                except psutil.Error:
                    continue
            return found

        eventually(lambda: not left(), f"all its processes are gone: {left()}", SOON)


@contextmanager
def program(here: Path, text: str) -> Iterator[Program]:
    """Runs a script with `HEAD` before it."""
    script = here / "script.py"
    script.write_text(HEAD.format(here=str(here)) + textwrap.dedent(text))
    run = Program(here, script)
    try:
        yield run
        run.leaves()
    finally:
        kill(run)


def kill(run: Program) -> None:
    try:
        os.killpg(run.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    run.process.communicate()


def quiet(errors: str) -> None:
    """Fails if the library's insides show, or a worker complains."""
    for sign in ("Exception ignored", "Exception in thread", "receiver failed", "pool failed"):
        assert sign not in errors, errors


# ------------------------------------------------------------------------ signals

BUSY = """
@flow(task_runner=ProcessPoolTaskRunner(2))
def main():
    try:
        [{run}.result() for {run} in [works.submit(n, {work!r}) for n in range(4)]]
    finally:
        note("left")

main()
"""
#: What the workers are at when the signal comes.
WORK = {
    "asleep": "time.sleep(60)",
    "computing": "[sum(range(1000)) for _ in iter(int, 1)]",
    "in C": "sum(range(10**11))",
    "stubborn": "pass\nwhile True:\n  try: time.sleep(60)\n  except BaseException: pass",
}


# SPEC 7.6
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_takes_the_workers_along(
    tmp_path: Path, number: signal.Signals, work: str
) -> None:
    with program(tmp_path, BUSY.format(run="run", work=WORK[work])) as run:
        run.pids(2)
        before = time.monotonic()
        os.killpg(run.process.pid, number)  # as the terminal does
        _, errors = run.end()
        assert time.monotonic() - before < SOON
        run.leaves()
    assert (tmp_path / "left").exists(), errors
    assert run.process.returncode != 0
    if number == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") <= 2, errors  # the traceback, and the flow's line
        assert errors.count("Traceback") == 1, errors
    quiet(errors)


def test_a_killed_driver_takes_the_workers_along(tmp_path: Path) -> None:
    with program(tmp_path, BUSY.format(run="run", work=WORK["stubborn"])) as run:
        run.pids(2)
        run.process.kill()
        _, errors = run.end()
        run.leaves()
    quiet(errors)


def test_a_killed_driver_of_spawned_workers_takes_them_along(tmp_path: Path) -> None:
    text = BUSY.replace("(2)", "(2, start_method='spawn')")
    with program(tmp_path, text.format(run="run", work=WORK["in C"])) as run:
        run.pids(2)
        run.process.kill()
        run.end()
        run.leaves()


# SPEC 3.5
def test_an_exception_in_the_flow_takes_the_workers_along(tmp_path: Path) -> None:
    text = """
    @flow(task_runner=ProcessPoolTaskRunner(2))
    def main():
        works.submit(1)
        works.submit(2, "sum(range(10**11))")
        while len(list(here.glob("worker-*"))) < 2:
            time.sleep(0.002)
        raise ValueError("the flow's own")

    main()
    """
    with program(tmp_path, text) as run:
        _, errors = run.end()
        assert time.time() - max(p.stat().st_mtime for p in tmp_path.glob("worker-*")) < SOON
    assert errors.rstrip().endswith("ValueError: the flow's own")
    assert errors.count("Traceback") == 1, errors
    quiet(errors)


# SPEC 7.6
@pytest.mark.parametrize("how", ["sys.exit(3)", "raise SystemExit", "raise KeyboardInterrupt"])
def test_what_would_end_a_program_ends_a_run_only(tmp_path: Path, how: str) -> None:
    text = f"""
    @flow(task_runner=ProcessPoolTaskRunner(1))
    def main():
        run = works.submit(1, {how!r})
        print(run.exception().__class__.__name__, run.state.name, inc.submit(1).result())

    main()
    """
    with program(tmp_path, text) as run:
        output, errors = run.end()
    assert output == "CrashedRun Crashed 2\n", errors
    quiet(errors)


FORKS = """
@flow(task_runner=ProcessPoolTaskRunner(2))
def main():
    held = works.submit(1, "time.sleep(0.5)")
    while not (here / "worker-1").exists():
        time.sleep(0.002)
    child = os.fork()
    if child == 0:
        {child}
    print(sum(inc.map(range(100)).result()), held.result())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

main()
"""


@pytest.mark.parametrize("child", ["os._exit(7)", "sys.exit(7)"])
def test_a_forked_driver(tmp_path: Path, child: str) -> None:
    with program(tmp_path, FORKS.format(child=child)) as run:
        output, errors = run.end()
    assert output == "5050 None\n7\n", errors
    quiet(errors)


def test_a_forked_drivers_child_keeps_no_worker_alive(tmp_path: Path) -> None:
    text = FORKS.replace("print(os.wait", "0 and print(os.wait")
    with program(tmp_path, text.format(child="time.sleep(60)")) as run:
        pids = run.pids(1)
        eventually(run.ended, "the driver ends")
        eventually(lambda: not any(map(psutil.pid_exists, pids)), "its worker ends", SOON)
        kill(run)


# ------------------------------------------------------------------------ ends in peace

PEACEFUL = {
    "plain": """
        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            print(sum(inc.map(range(10)).result()))
    """,
    "runs that nobody waits for": """
        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            for n in range(20):
                inc.submit(n)
            print(55)
    """,
    "threads and children that tasks leave": """
        @task
        def leaves(x):
            import subprocess
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            return x
        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            print(sum(leaves.map(range(11)).result()))
    """,
    "a cancelled run": """
        @flow(task_runner=ProcessPoolTaskRunner(1))
        def main():
            run = works.submit(1)
            while not (here / "worker-1").exists():
                time.sleep(0.002)
            run.cancel()
            print(inc.submit(54).result())
    """,
    "at exit": """
        import atexit
        @task
        def registers(x):
            atexit.register(note, "at-exit")
            return x
        @flow(task_runner=ProcessPoolTaskRunner(1))
        def main():
            print(registers.submit(55).result())
            atexit.unregister(note)
    """,
}


@pytest.mark.parametrize("what", PEACEFUL)
def test_an_end_in_peace_says_nothing(tmp_path: Path, what: str) -> None:
    text = "import logging\nlogging.getLogger('shoal').setLevel(logging.ERROR)\n"
    with program(tmp_path, text + textwrap.dedent(PEACEFUL[what]) + "\nmain()\n") as run:
        output, errors = run.end()
    assert (output, errors, run.process.returncode) == ("55\n", "", 0)
    if what == "at exit":
        assert (tmp_path / "at-exit").exists(), "a worker ends as programs do"


def test_closed_standard_streams(tmp_path: Path) -> None:
    text = """
    @flow(task_runner=ProcessPoolTaskRunner(2), log_prints=True)
    def main():
        note("sum", sum(inc.map(range(10)).result()))
        works.submit(1, "print('hidden'); sys.stdout and sys.stdout.write('x')").result()

    main()
    """
    script = tmp_path / "script.py"
    script.write_text(HEAD.format(here=str(tmp_path)) + textwrap.dedent(text))
    code = subprocess.call(
        ["/bin/sh", "-c", f"exec '{sys.executable}' '{script}' <&- >&- 2>&-"], timeout=PATIENCE
    )
    assert code == 0
    assert (tmp_path / "sum").read_text() == "55"


# ------------------------------------------------------------------------ `__main__`

#: A program without a guard, whose functions, classes and instances are its own.
MAIN = """
import dataclasses, enum
from shoal import flow, task
from shoal.task_runners import ProcessPoolTaskRunner

print("the script runs once")
FACTOR = 3

class Plain:
    def __init__(self, x):
        self.x = x
    def times(self):
        return self.x * FACTOR

@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

class Colour(enum.Enum):
    RED = 1

class OwnError(Exception):
    def __init__(self, text, code):
        super().__init__(text, code)
        self.code = code

def helper(x):
    return x * FACTOR

@task
def uses(plain, point, colour, fn):
    assert isinstance(plain, Plain) and isinstance(point, Point)
    return Point(plain.times(), fn(point.x) + helper(1)), colour is Colour.RED

@task
def fails(x):
    raise OwnError("mine", x)

@task
def fib(n):
    return n if n < 2 else fib.submit(n - 1).result() + fib.submit(n - 2).result()

@task
async def mixed(n):
    return await fib.submit(n)

@task
def makes_classes(x):
    class Local:
        value = x
    return Local()

@flow(task_runner=ProcessPoolTaskRunner(2))
def main():
    point, red = uses.submit(Plain(2), Point(1), Colour.RED, lambda x: x + 10).result()
    print(point, type(point) is Point, red)
    error = fails.submit(7).exception()
    print(type(error) is OwnError, error.code)
    print(fib.submit(8).result(), mixed.submit(5).result())
    print([task(lambda x, k=k: x * k).submit(2).result() for k in range(3)])
    print(makes_classes.submit(4).result().value)
    print(uses.map([Plain(n) for n in range(3)], [Point(n) for n in range(3)], [Colour.RED] * 3,
                   [helper] * 3).result()[2])

main()
"""
PRINTED = """the script runs once
Point(x=6, y=14) True True
True 7
21 5
[0, 2, 4]
4
(Point(x=6, y=9), True)
"""


@pytest.mark.parametrize("how", ["script", "command", "stdin", "module"])
def test_what_is_defined_in_the_program_itself(tmp_path: Path, how: str) -> None:
    if how == "command":
        run = Program(tmp_path, "-c", MAIN)
    elif how == "stdin":
        run = Program(tmp_path, "-", stdin=MAIN)
    else:
        (tmp_path / "program.py").write_text(MAIN)
        run = Program(tmp_path, *(["program.py"] if how == "script" else ["-m", "program"]))
    try:
        output, errors = run.end()
        run.leaves()
    finally:
        kill(run)
    assert output == PRINTED, errors
    assert "Traceback" not in errors


def test_modules_beside_the_script(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside.py").write_text(
        "from shoal import task\n"
        "VALUE = None\n"
        "class Thing:\n"
        "    def __init__(self, x): self.x = x\n"
        "def fill(value):\n"
        "    global VALUE\n"
        "    VALUE = value\n"
        "def read(): return VALUE\n"
        "@task\n"
        "def make(x): return Thing(x + helper())\n"
        "def helper(): return 1\n"
    )
    (folder / "script.py").write_text(
        "import beside\n"
        "from shoal import flow, task\n"
        "from shoal.task_runners import ProcessPoolTaskRunner\n"
        "@task\n"
        "def reads(thing):\n"
        "    assert isinstance(thing, beside.Thing)\n"
        "    return thing.x, beside.VALUE, beside.read()\n"
        "@flow(task_runner=ProcessPoolTaskRunner(1, initializer=beside.fill, initargs=(3,)))\n"
        "def main():\n"
        "    thing = beside.make.submit(1)\n"
        "    print(reads.submit(thing).result(), type(thing.result()) is beside.Thing, beside.VALUE)\n"
        "main()\n"
    )
    run = Program(tmp_path, folder / "script.py")
    try:
        output, errors = run.end()
    finally:
        kill(run)
    assert output == "(2, 3, 3) True None\n", errors
