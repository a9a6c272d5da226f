"""A cluster for the tests that need any, and what distributed keeps for as long as a process lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from distributed.utils import _offload_executor
from shoal_dask.connection import Connection
from shoal_dask.settings import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def services() -> None:
    """Its thread for pickling large things, which is there for good."""
    _offload_executor.submit(int).result()


@pytest.fixture(scope="module")
def connection(services: None) -> Iterator[Connection]:
    """An open connection to a local cluster of two worker processes; it takes 0.1 s to start, but for the first."""
    connection = Connection(ClusterSettings(cluster_kwargs={"n_workers": 2}))
    connection.acquire()
    yield connection
    connection.release(2.0)
