"""The shared suite on Ray: an instance of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import ray
from manyhands.testing import TaskRunnerSuite
from manyhands_ray import RayTaskRunner

if TYPE_CHECKING:
    from collections.abc import Iterator


@ray.remote(num_cpus=1)
class Occupied:
    """Somebody else, who has one of the two CPUs."""

    def is_there(self) -> bool:
        return True


pytestmark = pytest.mark.may_leave(
    "threads", "processes", reason="Ray starts worker processes, and threads, as it needs them"
)


@pytest.fixture(scope="module")
def one_cpu(local_ray: RayTaskRunner) -> Iterator[None]:
    actor = Occupied.remote()
    ray.get(actor.is_there.remote())
    yield
    ray.kill(actor)


class TestLocal(TaskRunnerSuite):
    """An instance of this machine, which the session keeps."""

    @pytest.fixture
    def runner(self, local_ray: RayTaskRunner) -> RayTaskRunner:
        return RayTaskRunner()

    @pytest.fixture
    def single_runner(self, one_cpu: None) -> RayTaskRunner:
        return RayTaskRunner()
