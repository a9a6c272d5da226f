"""Recordings of runs on Dask; see the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shoal_dask import DaskTaskRunner

from tests.recording.suite import RecordingSuite

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        "threads", "processes", reason="the cluster of the module is there for all of its tests"
    ),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with DaskTaskRunner(cluster_kwargs={"n_workers": 2, "protocol": "tcp://"}) as runner:
        yield runner._connection.cluster.scheduler_address


class TestDask(RecordingSuite):
    """A local cluster of two worker processes."""

    @pytest.fixture
    def runner(self, address: str) -> DaskTaskRunner:
        return DaskTaskRunner(address=address)
