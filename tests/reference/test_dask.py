"""The examples of the reference's pages in which tasks run on Dask: imports renamed, nothing else changed."""

import os

import pytest
from distributed import LocalCluster
from shoal import flow, task
from shoal_dask.task_runners import DaskTaskRunner

from tests.reference.cluster_scripts import (
    NESTED_FLOWS_ON_DIFFERENT_RUNNERS,
    RUNNING_WORK_CONCURRENTLY,
    USING_MULTIPLE_TASK_RUNNERS,
    ends,
    floors,
    printed,
    without_logs,
)

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------------- the page on running work concurrently


def test_running_work_concurrently() -> None:
    """A floor takes a hundredth of a second."""
    lines = floors(printed(RUNNING_WORK_CONCURRENTLY))
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
    lines = printed(USING_MULTIPLE_TASK_RUNNERS)
    assert without_logs(lines) == ["Hello!", "Hello from Dask!", "Hello!"]
    assert ends(lines) == ["hello_local", "hello_dask", "hello_local"]


# ---------------------------------------------------------------------- the newer page on task runners


def test_a_parent_with_nested_flows_on_different_runners() -> None:
    lines = printed(NESTED_FLOWS_ON_DIFFERENT_RUNNERS)
    lines = without_logs(lines)
    assert sorted(lines[:2]) == ["Hello ford!", "Hello marvin!"]
    assert lines[2:] == ["Hello from Dask!"]
