"""The shared suite on clusters of separate commands, in other working directories: plain and with TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from distributed import Security
from shoal.testing import TaskRunnerSuite
from shoal_dask import DaskTaskRunner

from tests.dask.clusters import certificates, commands

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.may_leave(
        "threads", "processes", reason="the clusters of the module replace workers that died"
    ),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("plain")
    with commands(folder / "two", 2) as two, commands(folder / "one", 1) as one:
        yield [two.address, one.address]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Any]]:
    folder = tmp_path_factory.mktemp("tls")
    options, security = certificates(folder / "certificates")
    with commands(folder / "two", 2, options) as two, commands(folder / "one", 1, options) as one:
        yield [two.address, one.address], security


class TestPlain(TaskRunnerSuite):
    """Commands that listen on TCP."""

    @pytest.fixture
    def runner(self, plain: list[str]) -> DaskTaskRunner:
        return DaskTaskRunner(address=plain[0])

    @pytest.fixture
    def single_runner(self, plain: list[str]) -> DaskTaskRunner:
        return DaskTaskRunner(address=plain[1])


class TestTLS(TaskRunnerSuite):
    """Commands that speak TLS only."""

    @pytest.fixture
    def runner(self, secured: Any) -> DaskTaskRunner:
        addresses, security = secured
        return _with_tls(addresses[0], security)

    @pytest.fixture
    def single_runner(self, secured: Any) -> DaskTaskRunner:
        addresses, security = secured
        return _with_tls(addresses[1], security)


def _with_tls(address: str, security: dict[str, Any]) -> DaskTaskRunner:
    return DaskTaskRunner(address=address, client_kwargs={"security": Security(**security)})
