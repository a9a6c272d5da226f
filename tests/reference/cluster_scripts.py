"""The examples of the reference's pages in which tasks print on a cluster, as the pages have them: on Dask.

They are scripts, for processes of their own: where workers print to is settled when the first is started.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

__all__ = [
    "NESTED_FLOWS_ON_DIFFERENT_RUNNERS",
    "RUNNING_WORK_CONCURRENTLY",
    "USING_MULTIPLE_TASK_RUNNERS",
    "ends",
    "printed",
    "without_logs",
]

#: The page on running work concurrently. A floor takes a hundredth of a second.
RUNNING_WORK_CONCURRENTLY = """
import time

from shoal import flow, task
from shoal.futures import wait
from shoal_dask.task_runners import DaskTaskRunner

@task
def stop_at_floor(floor: int):
    print(f"elevator moving to floor {floor}")
    time.sleep(floor / 100)
    print(f"elevator stops on floor {floor}")

@flow(task_runner=DaskTaskRunner())
def elevator():
    floors = []
    for floor in range(10, 0, -1):
        floors.append(stop_at_floor.submit(floor))
    wait(floors)

elevator()
"""

#: The older page on task runners. There a called task ran on the runner; today it runs in the caller, so these are submitted.
USING_MULTIPLE_TASK_RUNNERS = """
from shoal import flow, task
from shoal.task_runners import SequentialTaskRunner
from shoal_dask.task_runners import DaskTaskRunner

@task
def hello_local():
    print("Hello!")

@task
def hello_dask():
    print("Hello from Dask!")

@flow(task_runner=SequentialTaskRunner())
def my_flow():
    hello_local.submit()
    my_subflow()
    hello_local.submit()

@flow(task_runner=DaskTaskRunner())
def my_subflow():
    hello_dask.submit()

my_flow()
"""

#: The newer page on task runners.
NESTED_FLOWS_ON_DIFFERENT_RUNNERS = """
from shoal import flow, task
from shoal.task_runners import ThreadPoolTaskRunner
from shoal_dask.task_runners import DaskTaskRunner
import time

@task
def hello_local(name: str):
    print(f"Hello {name}!")

@flow # implicitly uses the default task runner, ThreadPoolTaskRunner
def concurrent_nested_flow():
    marvin = hello_local.submit("marvin")
    ford = hello_local.submit("ford")
    marvin.wait(), ford.wait()

@task
def hello_dask():
    print("Hello from Dask!")

@flow(task_runner=DaskTaskRunner())
def dask_nested_flow():
    hello_dask.submit()

@flow # implicitly uses the default task runner, ThreadPoolTaskRunner
def parent_flow():
    concurrent_nested_flow()
    dask_nested_flow()

if __name__ == "__main__":
    parent_flow()
"""


def printed(script: str, **environment: str) -> list[str]:
    """Runs a script, and gives the lines that its tasks print, and what is logged of their ends."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    return [line for line in lines if "Flow run" not in line]


def without_logs(lines: list[str]) -> list[str]:
    """What was printed."""
    return [line for line in lines if " | " not in line]


def floors(lines: list[str]) -> list[str]:
    """What the elevators have printed: several processes share the screen, and may come between a line and its end."""
    found: list[str] = re.findall(r"elevator (?:moving to|stops on) floor \d+", "\n".join(lines))
    return found


def ends(lines: list[str]) -> list[str]:
    """The tasks whose runs have completed, in this order."""
    return re.findall(r"Task run '(\w+)-\w+' - Finished in state Completed\(\)", "\n".join(lines))
