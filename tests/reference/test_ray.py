"""The examples of the reference's pages in which tasks run on a cluster, on Ray: imports renamed, nothing else changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.reference.cluster_scripts import (
    NESTED_FLOWS_ON_DIFFERENT_RUNNERS,
    RUNNING_WORK_CONCURRENTLY,
    USING_MULTIPLE_TASK_RUNNERS,
    ends,
    floors,
    printed,
    without_logs,
)

if TYPE_CHECKING:
    from tests.ray.clusters import Head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave("processes", reason="a cluster keeps its workers for later"),
]

#: What Ray puts before a line of a worker, in colour.
PREFIX = re.compile(r"(\x1b\[\d+m)?\(.*? pid=.*?\)(\x1b\[0m)? ")


def printed_on_ray(script: str, cluster: Head) -> list[str]:
    """As `printed`. Ray forwards what workers print, each at its own time."""
    lines = printed(
        script.replace("Dask", "Ray").replace("dask", "ray"),
        RAY_ADDRESS=cluster.address,
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        RAY_DEDUP_LOGS="0",
    )
    return [PREFIX.sub("", line) for line in lines]


def test_running_work_concurrently(ray_cluster: Head) -> None:
    """The page on running work concurrently."""
    lines = printed_on_ray(RUNNING_WORK_CONCURRENTLY, ray_cluster)
    assert ends(lines) == ["stop_at_floor"] * 10
    assert sorted(floors(lines)) == sorted(
        f"elevator {does} {floor}"
        for does in ("moving to floor", "stops on floor")
        for floor in range(1, 11)
    )


def test_using_multiple_task_runners(ray_cluster: Head) -> None:
    """The older page on task runners."""
    lines = printed_on_ray(USING_MULTIPLE_TASK_RUNNERS, ray_cluster)
    assert sorted(without_logs(lines)) == ["Hello from Ray!", "Hello!", "Hello!"]
    assert ends(lines) == ["hello_local", "hello_ray", "hello_local"]


def test_a_parent_with_nested_flows_on_different_runners(ray_cluster: Head) -> None:
    """The newer page on task runners."""
    lines = printed_on_ray(NESTED_FLOWS_ON_DIFFERENT_RUNNERS, ray_cluster)
    assert sorted(without_logs(lines)) == ["Hello ford!", "Hello from Ray!", "Hello marvin!"]
    assert ends(lines) == ["hello_local", "hello_local", "hello_ray"]
