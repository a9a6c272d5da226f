"""Worker processes of a local cluster, seen from scripts: no `__main__` guard, Ctrl-C, and the end of the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from shoal.testing.tools import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

#: Seconds that processes have to end after their driver.
SOON = 20.0

#: What every script begins with. Were it imported by a worker, it would open a cluster there.
BEGINNING = """
import json, os, signal, sys, time
from shoal_dask.connection import Connection
from shoal_dask.settings import ClusterSettings

print(json.dumps({"imported by": os.getpid()}), flush=True)
connection = Connection(ClusterSettings(cluster_kwargs={"n_workers": 2}))
connection.acquire()
client = connection.client

def pids():
    try:
        return sorted(client.run(os.getpid).values())
    except OSError:  # one of them has just died
        return []

def tell(**facts):
    print(json.dumps(facts), flush=True)
"""


class Script:
    """A script that runs as a process of its own, and tells one thing a line."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            cwd=path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(path.parent)},
            start_new_session=True,  # a process group, as a terminal's
        )
        assert self.process.stdout is not None
        self._lines = self.process.stdout

    def told(self) -> dict[str, Any]:
        """The next thing."""
        line = self._lines.readline()
        assert line, f"it tells nothing any more:\n{self.errors()}"
        facts: dict[str, Any] = json.loads(line)
        return facts

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def ended(self) -> int:
        """Its exit code."""
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a script is, and whatever it leaves; not pytest's, as sockets want short paths."""
    with tempfile.TemporaryDirectory(prefix="mh-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[[str], Script]]:
    """Starts a script; ends it after the test."""
    started: list[Script] = []

    def run(code: str) -> Script:
        path = folder / "script.py"
        path.write_text(BEGINNING + textwrap.dedent(code))
        started.append(Script(path))
        return started[-1]

    yield run
    for script in started:
        script.close()


def gone(pids: list[int]) -> bool:
    """Whether none of these processes runs; zombies are not ours to reap, and do not."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            pass
    return True


def test_no_main_guard_is_needed_also_after_a_restart(run: Callable[[str], Script]) -> None:
    script = run(
        """
        def double(x):
            return 2 * x

        tell(results=client.gather(client.map(double, range(10))))
        before = pids()
        tell(pids=before)
        os.kill(before[0], signal.SIGKILL)
        while len(after := pids()) < 2 or before[0] in after:
            time.sleep(0.05)
        tell(pids=after, results=client.gather(client.map(double, range(5, 50), pure=False))[:2])
        connection.release(2.0)
        tell(threads=len(__import__("threading").enumerate()))
        """
    )
    assert script.told() == {"imported by": script.process.pid}
    assert script.told() == {"results": list(range(0, 20, 2))}
    before = script.told()["pids"]
    facts = script.told()  # and not that a worker has imported it
    assert facts["results"] == [10, 12]
    assert before[1] in facts["pids"]
    assert before[0] not in facts["pids"]
    script.told()
    assert script.ended() == 0
    assert gone([*before, *facts["pids"]])


def test_an_interrupt_from_the_terminal_is_the_drivers(run: Callable[[str], Script]) -> None:
    script = run(
        """
        before = pids()
        try:
            tell(pids=before)
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.3)
            tell(pids=pids(), result=client.submit(int, 7).result())
        connection.release(2.0)
        """
    )
    script.told()
    before = script.told()["pids"]
    os.killpg(script.process.pid, signal.SIGINT)
    assert script.told() == {"pids": before, "result": 7}
    assert script.ended() == 0
    assert script.errors() == ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_workers_end_with_their_driver(run: Callable[[str], Script], number: int) -> None:
    script = run(
        """
        tell(pids=pids())
        client.submit(time.sleep, 60).result()
        """
    )
    script.told()
    workers = script.told()["pids"]
    server = [p.pid for p in psutil.Process(script.process.pid).children()]
    assert len(server) >= 1
    script.process.send_signal(number)
    assert script.ended() == -number
    eventually(lambda: gone(workers + server), "its processes have ended", SOON)


@pytest.mark.timeout(180)
def test_the_next_driver_removes_what_a_killed_one_has_left(
    run: Callable[[str], Script], folder: Path
) -> None:
    def folders() -> set[Path]:
        return {path for path in folder.iterdir() if path.is_dir()}

    first = run("tell(pids=pids()); time.sleep(600)")
    first.told()
    first.told()
    left = folders()
    assert left
    first.process.kill()
    first.ended()
    assert folders() == left
    second = run("tell(pids=pids()); connection.release(2.0)")
    second.told()
    second.told()
    assert second.ended() == 0
    assert folders() == set()


def test_a_driver_that_forgets_to_release(run: Callable[[str], Script], folder: Path) -> None:
    script = run("tell(pids=pids())")
    script.told()
    workers = script.told()["pids"]
    assert script.ended() == 0
    eventually(lambda: gone(workers), "its workers have ended", SOON)
    assert list(folder.glob("shoal-dask-*")) == []
    assert script.errors() == ""


def test_starting_is_quick(run: Callable[[str], Script]) -> None:
    """The aim is 1.1 s on the reference machine, where one import of Dask takes 0.8; here with a wide margin."""
    began = time.monotonic()
    script = run("tell(result=client.submit(int, 7).result()); connection.release(2.0)")
    script.told()
    assert script.told() == {"result": 7}
    assert time.monotonic() - began < 10
    assert script.ended() == 0
    assert script.errors() == ""
