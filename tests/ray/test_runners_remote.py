"""The shared suite on a cluster of two nodes of one CPU each, in other working directories: joined, and through Ray Client."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from shoal.testing import TaskRunnerSuite
from shoal.testing.tools import eventually
from shoal_ray import RayTaskRunner
from shoal_ray.connection import Instance

from tests.ray.clusters import Head, head, node
from tests.ray.test_runners_ray import occupied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ray.conftest import Keeper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.may_leave(
        *("threads", "processes", "fds"),
        reason="Ray starts worker processes, threads and connections as it needs them",
    ),
]


@pytest.fixture(scope="module")
def cluster(keeper: Keeper) -> Iterator[Head]:
    keeper.let_go()  # an instance of this machine has tokens, and leaves word of it in the environment
    with pytest.MonkeyPatch.context() as patch:
        # Under `uv run` Ray would have every worker make the environment of the workspace anew.
        patch.setattr("ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)
        with head(cpus=1) as first, node(first.address, cpus=1):
            yield first
            keeper.let_go()


class TestJoined(TaskRunnerSuite):
    """Joined by its address."""

    @pytest.fixture
    def runner(self, cluster: Head, keeper: Keeper) -> RayTaskRunner:
        return _kept(keeper, cluster.address)

    @pytest.fixture
    def single_runner(self, runner: RayTaskRunner, tmp_path: Path) -> Iterator[RayTaskRunner]:
        with _occupied(tmp_path):
            yield runner


class TestClient(TaskRunnerSuite):
    """Through Ray Client."""

    @pytest.fixture
    def runner(self, cluster: Head, keeper: Keeper) -> RayTaskRunner:
        return _kept(keeper, cluster.client)

    @pytest.fixture
    def single_runner(self, runner: RayTaskRunner, tmp_path: Path) -> Iterator[RayTaskRunner]:
        with _occupied(tmp_path):
            yield runner


@pytest.mark.parametrize("kind", ["address", "client"])
def test_a_relay_is_on_its_drivers_node(cluster: Head, keeper: Keeper, kind: str) -> None:
    """Where no other node's death is its own. Ray would spread them."""

    def where(relay: object) -> str:
        return ray.get_runtime_context().get_node_id()

    with _kept(keeper, getattr(cluster, kind)):
        relays = [Instance().relay() for _ in range(4)]
        nodes = ray.get([relay.__ray_call__.remote(where) for relay in relays])
        for relay in relays:
            ray.kill(relay)
    assert nodes == 4 * [ray.get_runtime_context().get_node_id()]


def _kept(keeper: Keeper, address: str) -> RayTaskRunner:
    kept = keeper.keep(RayTaskRunner(address))
    eventually(lambda: ray.cluster_resources().get("CPU") == 2, "both nodes are there")
    return kept.duplicate()


def _occupied(folder: Path) -> contextlib.AbstractContextManager[None]:
    """The CPU of the node that the driver is not on: until it hears of that, Ray has others wait for it."""
    second = next(
        node["NodeID"] for node in ray.nodes() if "node:__internal_head__" not in node["Resources"]
    )
    return occupied(folder, scheduling_strategy=NodeAffinitySchedulingStrategy(second, soft=False))
