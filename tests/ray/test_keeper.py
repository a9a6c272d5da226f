"""The keeper, which ends what a killed driver has left of an instance; here, programs that are no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from shoal.testing.tools import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is only needed on Linux")

#: A driver, in a session of its own. What it starts has a log of its instance open, or not, and tells when it has.
DRIVER = """
import json, os, subprocess, sys, time
from shoal_ray.keeper import Keeper

logs = os.path.join(sys.argv[1], f"session_2026-01-01_00-00-00_000000_{os.getpid()}", "logs")
other = os.path.join(sys.argv[1], f"session_2026-01-01_00-00-00_000000_{os.getpid()}1", "logs")
os.makedirs(logs), os.makedirs(other)
log = os.path.join(logs, "worker.out")
open(log, "w").close()
keeper = Keeper()
keeper._process.terminate()  # it is outlived as the keeper starts, too

def start(path, mode, **options):
    code = f"file = open({path!r}, {mode!r}); print(flush=True); import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **options)
    process.stdout.readline()
    return process.pid

print(json.dumps({
    "writes": start(log, "a"),
    "writes, in a group of its own": start(log, "a", process_group=0),
    "reads": start(log, "r"),
    "writes, in a session of its own": start(log, "a", start_new_session=True),
    "writes to another's": start(os.path.join(other, "worker.out"), "w"),
    "keeper": keeper._process.pid,
}), flush=True)
sys.stdin.readline()
keeper.close()
print(flush=True)
time.sleep(600)
"""


class Driver:
    """See `DRIVER`.

    Attributes:
        process: the driver.
        started: what it has started, by what that does.
    """

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        told: dict[str, int] = json.loads(self.process.stdout.readline())
        self.started = {name: psutil.Process(pid) for name, pid in told.items()}

    def running(self) -> set[str]:
        """What of it runs."""
        return {name for name, process in self.started.items() if _runs(process)}


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path)
    yield driver
    driver.process.kill()
    driver.process.communicate()
    for process in driver.started.values():
        if _runs(process):
            process.kill()


#: Not of the instance, or detached.
OTHERS = {"reads", "writes, in a session of its own", "writes to another's"}


def test_what_a_killed_driver_has_left_is_ended(driver: Driver) -> None:
    assert driver.running() == set(driver.started)
    driver.process.kill()
    driver.process.wait()
    eventually(lambda: driver.running() == OTHERS, "its instance has ended, and the keeper")


def test_what_is_left_at_a_shutdown_is_ended(driver: Driver) -> None:
    assert driver.process.stdin is not None
    assert driver.process.stdout is not None
    driver.process.stdin.write("\n")
    driver.process.stdin.flush()
    driver.process.stdout.readline()
    assert driver.running() == OTHERS


def test_it_outlives_what_the_terminal_sends(driver: Driver) -> None:
    keeper = driver.started["keeper"]
    assert os.getpgid(keeper.pid) == keeper.pid
    assert os.getsid(keeper.pid) == driver.process.pid
    keeper.terminate()
    driver.process.kill()
    driver.process.wait()
    eventually(lambda: driver.running() == OTHERS, "its instance has ended, and the keeper")
