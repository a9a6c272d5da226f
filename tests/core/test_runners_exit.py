"""How flows end when their program is to end: KeyboardInterrupt, SIGTERM, SystemExit in the driver (SPEC 7.6).

Real programs in processes of their own, ended by real signals.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.testing.samples import BoomError, inc
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.futures import TaskFuture

# CPython 3.11 attributes what a signal raises at a loop's way back to the instruction before the loop: that must lie in
# the `try` too, or its `finally` is passed by.
SCRIPT = """
import os, pathlib, signal, sys, time
from shoal import flow, task

here = pathlib.Path({here!r})

def note(name, text=""):
    (here / name).write_text(str(text))

@task
def works(number):
    note(f"began-{{number}}")
    try:
        naps = 0
        while True:
            time.sleep(0.002)
    finally:
        note(f"stopped-{{number}}")

@task
def never(x):
    note("never")

def ended(a_flow, run, state):
    note("hook", state.name)

@flow(task_runner={runner!r}, on_crashed=[ended], on_cancellation=[ended])
def main():
    running = [works.submit(number) for number in range(2)]
    futures = [*running, never.submit(running[0]), *[never.submit(n) for n in range(3)]]
    try:
        {wait}
    finally:
        note("interrupted")
        global FUTURES
        FUTURES = futures

try:
    main()
finally:
    note("states", [f.state.type.value for f in FUTURES] + [f.done() for f in FUTURES])
    note("handler", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    note("threads", __import__("threading").active_count())
"""

WAITS = {
    "waiting": "futures[0].result()",
    "computing": "total = 0\n        while True: total += sum(range(100))",
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("runner", ["threads:2"])
def test_a_signal_ends_the_program_in_order(
    tmp_path: Path, runner: str, number: signal.Signals, wait: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(tmp_path), runner=runner, wait=WAITS[wait]))
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(
            lambda: process.poll() is not None or (tmp_path / "began-1").exists(), "the runs began"
        )
        assert process.poll() is None, process.stderr and process.stderr.read()
        before = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        took = time.monotonic() - before
    finally:
        process.kill()
    assert took < 10, "5 s at the most where the machine is not busy"
    assert (tmp_path / "interrupted").exists(), errors
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM, errors
    else:
        assert process.returncode in (130, -signal.SIGINT, 1), errors
        assert "KeyboardInterrupt" in errors
    assert (tmp_path / "stopped-0").exists(), "what ran was stopped"
    assert (tmp_path / "stopped-1").exists()
    assert not (tmp_path / "never").exists(), "what had not started was cancelled"
    states = ast.literal_eval((tmp_path / "states").read_text())
    assert states[:2] == ["CANCELLED"] * 2
    assert states[3:6] == ["CANCELLED"] * 3
    assert states[6:] == [True] * 6, "every run is done"
    assert (tmp_path / "hook").read_text() == "Crashed"
    assert (tmp_path / "handler").read_text() == "True", "the default handler is back"


def test_a_second_signal_does_not_break_the_order(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(tmp_path), runner="threads:2", wait=WAITS["waiting"]))
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: (tmp_path / "began-1").exists(), "the runs began")
        process.send_signal(signal.SIGINT)
        eventually(lambda: (tmp_path / "interrupted").exists(), "the first has arrived")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode != 0


def test_sigterm_handlers_of_the_users_own_stay() -> None:
    calls: list[int] = []

    def mine(number: int, frame: Any) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:

        @flow
        def main() -> Any:
            assert signal.getsignal(signal.SIGTERM) is mine
            os.kill(os.getpid(), signal.SIGTERM)
            eventually(lambda: calls, "the handler is called")
            return inc.submit(1).result()

        assert main() == 2
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_default_handler_is_restored_also_after_nested_flows() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    @flow
    def inner() -> None:
        raise BoomError("no")

    @flow
    def main() -> None:
        for _ in range(2):
            with pytest.raises(BoomError):
                inner()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

    main()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_that_a_flow_forks_has_the_default_handler() -> None:
    """A pool ends its workers by SIGTERM: one that raised SystemExit in its task would report that, and live on."""
    fork = multiprocessing.get_context("fork")

    def worker(connection: Any) -> None:
        try:
            connection.send("began")
            time.sleep(600)
        except BaseException:
            time.sleep(600)

    @flow
    def main() -> Any:
        here, there = fork.Pipe()
        process = fork.Process(target=worker, args=(there,))
        process.start()
        try:
            assert here.recv() == "began"
            process.terminate()
            process.join(PATIENCE)
            return process.exitcode
        finally:
            process.kill()
            process.join()
            here.close()
            there.close()

    assert main() == -signal.SIGTERM


def test_no_handler_is_set_outside_the_main_thread() -> None:
    seen: list[Any] = []

    @flow
    def main() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=main)
    thread.start()
    thread.join(PATIENCE)
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_ends_the_program_takes_the_runs_along(
    error: type[BaseException],
) -> None:
    began = threading.Event()
    futures: list[TaskFuture[Any]] = []

    @task
    def works() -> None:
        began.set()
        while True:
            time.sleep(0.002)

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        futures.extend([works.submit(), inc.submit(1)])
        assert began.wait(PATIENCE)
        raise error

    with pytest.raises(error):
        main()
    assert [future.state.name for future in futures] == ["Cancelled"] * 2
