"""The shared suite on Ray: an instance of this machine."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
from shoal.testing import TaskRunnerSuite
from shoal.testing.tools import eventually
from shoal_ray import RayTaskRunner

if TYPE_CHECKING:
    from collections.abc import Iterator


@ray.remote(num_cpus=1, max_retries=0)
def occupy(begun: str) -> None:
    """Somebody else, who has one of the two CPUs."""
    Path(begun).touch()
    while True:
        time.sleep(0.01)  # Ray's cancel interrupts no system call


pytestmark = pytest.mark.may_leave(
    "threads",
    "processes",
    "fds",
    reason="Ray starts worker processes, threads and connections as it needs them",
)


@contextlib.contextmanager
def occupied(folder: Path, **options: Any) -> Iterator[None]:
    """Inside, one of two CPUs is somebody else's.

    Args:
        folder: where it leaves word that it has begun.
        **options: Ray's, for the one who has it.
    """
    begun = folder / "begun"
    task = occupy.options(**options).remote(str(begun))
    eventually(begun.exists, "a CPU is occupied")
    yield
    ray.cancel(task)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(task)


@pytest.fixture
def one_cpu(local_ray: RayTaskRunner, tmp_path: Path) -> Iterator[None]:
    with occupied(tmp_path):
        yield


class TestLocal(TaskRunnerSuite):
    """An instance of this machine, which the session keeps."""

    @pytest.fixture
    def runner(self, local_ray: RayTaskRunner) -> RayTaskRunner:
        return RayTaskRunner()

    @pytest.fixture
    def single_runner(self, one_cpu: None) -> RayTaskRunner:
        return RayTaskRunner()
