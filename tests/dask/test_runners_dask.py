"""The shared suite on Dask: worker processes of a local cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shoal.testing import TaskRunnerSuite
from shoal_dask import DaskTaskRunner
from shoal_dask.backend import DaskBackend
from shoal_dask.connection import Connection
from shoal_dask.settings import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.scheduling.capabilities import Capabilities


def _without_hard_stop() -> Capabilities:
    capabilities = DaskBackend(Connection(ClusterSettings())).capabilities
    capabilities.stops_hard = False
    return capabilities


#: For runners that join by an address.
OPEN = {"protocol": "tcp://"}


@pytest.fixture(scope="module")
def two_workers() -> Iterator[str]:
    with DaskTaskRunner(cluster_kwargs={"n_workers": 2, **OPEN}) as runner:
        yield runner._connection.cluster.scheduler_address


@pytest.fixture(scope="module")
def one_worker() -> Iterator[str]:
    with DaskTaskRunner(cluster_kwargs={"n_workers": 1, **OPEN}) as runner:
        yield runner._connection.cluster.scheduler_address


pytestmark = pytest.mark.may_leave(
    "threads", "processes", reason="the clusters of the module replace workers that died"
)


class TestProcesses(TaskRunnerSuite):
    """A local cluster with a process and a thread for each worker."""

    @pytest.fixture
    def runner(self, two_workers: str) -> DaskTaskRunner:
        return DaskTaskRunner(address=two_workers)

    @pytest.fixture
    def single_runner(self, one_worker: str) -> DaskTaskRunner:
        return DaskTaskRunner(address=one_worker)


@pytest.fixture(scope="module")
def threads() -> Iterator[list[str]]:
    local = {"processes": False, "threads_per_worker": 1}
    two = DaskTaskRunner(cluster_kwargs={"n_workers": 2, **local})
    one = DaskTaskRunner(cluster_kwargs={"n_workers": 1, **local})
    with two, one:
        yield [runner._connection.cluster.scheduler_address for runner in (two, one)]


class TestThreads(TaskRunnerSuite):
    """Workers that are threads of this process: nothing there can die alone, or be stopped inside C code."""

    survives_crashes = False
    capabilities = _without_hard_stop()

    @pytest.fixture
    def runner(self, threads: list[str]) -> DaskTaskRunner:
        return DaskTaskRunner(address=threads[0])

    @pytest.fixture
    def single_runner(self, threads: list[str]) -> DaskTaskRunner:
        return DaskTaskRunner(address=threads[1])

    @pytest.mark.skip(reason="SPEC 9.2: seen by process, and all are threads of this one")
    def test_children_use_the_flows_workers(self) -> None: ...  # type: ignore[override]

    @pytest.mark.skip(
        reason="SPEC 4.5: seen by where it is unpickled, and nothing leaves this process"
    )
    def test_waiting_moves_no_value(self) -> None: ...  # type: ignore[override]
