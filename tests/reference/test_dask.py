"""The examples of the reference's pages in which tasks run on Dask: imports renamed, nothing else changed.

Those that print are scripts in processes of their own: where workers print to is settled when the first is started.
"""

import os
import re
import subprocess
import sys
from textwrap import dedent

import pytest
from distributed import LocalCluster
from manyhands import flow, task
from manyhands_dask.task_runners import DaskTaskRunner


def printed(script: str) -> list[str]:
    """Runs a script, and gives the lines that its tasks print, and what is logged of their ends."""
    done = subprocess.run(
        [sys.executable, "-u", "-c", dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.splitlines() if "Flow run" not in line]


def without_logs(lines: list[str]) -> list[str]:
    return [line for line in lines if " | " not in line]


# ---------------------------------------------------------------------- the page on running work concurrently


def test_running_work_concurrently() -> None:
    """A floor takes a hundredth of a second."""
    lines = printed("""
        import time

        from manyhands import flow, task
        from manyhands.futures import wait
        from manyhands_dask.task_runners import DaskTaskRunner

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
    """)
    lines = without_logs(lines)
    assert sorted(lines) == sorted(
        f"elevator {does} {floor}"
        for does in ("moving to floor", "stops on floor")
        for floor in range(1, 11)
    )
    under_way = 0
    for line in lines:
        under_way += 1 if "moving" in line else -1
        assert under_way <= len(os.sched_getaffinity(0)), "a worker for each processor"


# ---------------------------------------------------------------------- the older page on task runners


@task
def where():
    return os.getpid()


@pytest.mark.parametrize("runner", [DaskTaskRunner(), DaskTaskRunner], ids=["instance", "type"])
def test_using_a_task_runner(runner: DaskTaskRunner | type[DaskTaskRunner]) -> None:
    @flow(task_runner=runner)
    def my_flow():
        return where.submit().result()

    assert my_flow() != os.getpid()


def test_an_address_as_additional_configuration() -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:

        @flow(task_runner=DaskTaskRunner(address=cluster.scheduler_address))
        def my_flow():
            return where.submit().result()

        assert my_flow() == os.getpid()


def test_using_multiple_task_runners() -> None:
    """There a called task ran on the runner; today it runs in the caller, so these are submitted."""
    lines = printed("""
        from manyhands import flow, task
        from manyhands.task_runners import SequentialTaskRunner
        from manyhands_dask.task_runners import DaskTaskRunner

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
    """)
    assert without_logs(lines) == ["Hello!", "Hello from Dask!", "Hello!"]
    ends = re.findall(r"Task run '(\w+)-\w+' - Finished in state Completed\(\)", "\n".join(lines))
    assert ends == ["hello_local", "hello_dask", "hello_local"]


# ---------------------------------------------------------------------- the newer page on task runners


def test_a_parent_with_nested_flows_on_different_runners() -> None:
    lines = printed("""
        from manyhands import flow, task
        from manyhands.task_runners import ThreadPoolTaskRunner
        from manyhands_dask.task_runners import DaskTaskRunner
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
    """)
    lines = without_logs(lines)
    assert sorted(lines[:2]) == ["Hello ford!", "Hello marvin!"]
    assert lines[2:] == ["Hello from Dask!"]
