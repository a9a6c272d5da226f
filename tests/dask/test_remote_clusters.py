"""Clusters that run elsewhere: schedulers and workers started by Dask's own commands, plain and with TLS."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, Security
from shoal import flow, task
from shoal.exceptions import ClusterUnreachable, InvalidOption
from shoal.testing.tools import eventually
from shoal_dask.clients import CURRENT, get_dask_client
from shoal_dask.connection import Connection
from shoal_dask.environment import check_environment
from shoal_dask.exceptions import MissingDaskClient
from shoal_dask.settings import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TIMEOUT, MARGIN = 2.0, 8.0


class Remote:
    """A scheduler with a worker, each a process in a directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self.file = directory / "scheduler.json"
        self._command(
            directory / "s",
            "scheduler",
            "--host=127.0.0.1",
            "--port=0",
            "--no-dashboard",
            "--dashboard-address=127.0.0.1:0",
            f"--scheduler-file={self.file}",
            *options,
        )
        eventually(self.file.exists, "the scheduler writes where it is")
        self._command(
            directory / "w",
            "worker",
            f"--scheduler-file={self.file}",
            "--host=127.0.0.1",
            "--no-nanny",
            "--nthreads=1",
            "--no-dashboard",
            *options,
        )

    def _command(self, directory: Path, *arguments: str) -> None:
        directory.mkdir()
        with (directory / "log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *arguments],
                    cwd=directory,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
            )

    @property
    def scheduler(self) -> subprocess.Popen[bytes]:
        return self._started[0]

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    """Without TLS."""
    made = Remote(tmp_path_factory.mktemp("remote"))
    yield made
    made.close()


def certificate(directory: Path, name: str) -> dict[str, str]:
    """A certificate that vouches for itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    files = {"cert": str(directory / f"{name}.pem"), "key": str(directory / f"{name}-key.pem")}
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=127.0.0.1", "-keyout", files["key"], "-out", files["cert"],
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return files


def security(files: dict[str, str]) -> Security:
    return Security(
        require_encryption=True,
        tls_ca_file=files["cert"],
        tls_client_cert=files["cert"],
        tls_client_key=files["key"],
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    directory = tmp_path_factory.mktemp("certificates")
    return {name: certificate(directory, name) for name in ("ours", "theirs")}


@pytest.fixture(scope="module")
def encrypted(
    tmp_path_factory: pytest.TempPathFactory, certificates: dict[str, dict[str, str]]
) -> Iterator[Remote]:
    """With TLS and our certificate."""
    files = certificates["ours"]
    made = Remote(
        tmp_path_factory.mktemp("encrypted"),
        "--protocol=tls",
        f"--tls-ca-file={files['cert']}",
        f"--tls-cert={files['cert']}",
        f"--tls-key={files['key']}",
    )
    yield made
    made.close()


def connect(address: Any, **client_kwargs: Any) -> Connection:
    connection = Connection(ClusterSettings(address=address, client_kwargs=client_kwargs))
    connection.acquire()
    return connection


def address_of(remote: Remote) -> str:
    return str(json.loads(remote.file.read_text())["address"])


def test_it_is_left_running(remote: Remote) -> None:
    """SPEC 11.2."""
    for _ in range(2):
        connection = connect(remote.file)
        assert not connection.is_local
        assert connection.dashboard_link is None  # there is an HTTP server, but no dashboard
        assert connection.client.submit(int, 7).result(timeout=20) == 7
        check_environment(connection.client)
        connection.release(2.0)


def test_tls(encrypted: Remote, certificates: dict[str, dict[str, str]]) -> None:
    address = address_of(encrypted)
    assert address.startswith("tls://")
    connection = connect(address, security=security(certificates["ours"]))
    assert connection.client.submit(int, 7).result(timeout=20) == 7
    connection.release(2.0)


@pytest.mark.parametrize("which", ["theirs", None], ids=["of somebody else", "none"])
def test_a_wrong_certificate(
    encrypted: Remote, certificates: dict[str, dict[str, str]], which: str | None
) -> None:
    address = address_of(encrypted)
    options = {} if which is None else {"security": security(certificates[which])}
    began = time.monotonic()
    with pytest.raises(ClusterUnreachable, match=r"security|TLS|SSL") as raised:
        connect(address, timeout=TIMEOUT, **options)
    assert time.monotonic() - began < TIMEOUT + MARGIN
    assert address in str(raised.value)


def test_a_plain_connection_to_tls(encrypted: Remote) -> None:
    address = address_of(encrypted).replace("tls://", "tcp://")
    with pytest.raises(ClusterUnreachable) as raised:
        connect(address, timeout=0.5)
    assert address in str(raised.value)


# ------------------------------------------------------------------------ Dask's own client


def test_the_client_in_a_flow(connection: Connection) -> None:
    token = CURRENT.set(connection.client)
    try:
        with get_dask_client() as client:
            assert client is connection.client
            assert Client.current() is client
    finally:
        CURRENT.reset(token)


def test_an_asynchronous_client_in_a_flow(connection: Connection) -> None:
    async def compute() -> int:
        async with get_dask_client() as client:
            assert client is not connection.client
            return int(await client.submit(int, 7))

    token = CURRENT.set(connection.client)
    try:
        assert asyncio.run(compute()) == 7
    finally:
        CURRENT.reset(token)


def test_the_client_in_a_task(connection: Connection) -> None:
    def compute(x: int) -> int:
        with get_dask_client() as client:
            return sum(client.gather([client.submit(int, x + n) for n in range(3)]))

    async def compute_async(x: int) -> int:
        async with get_dask_client() as client:
            return int(await client.submit(int, x))

    client = connection.client
    assert client.submit(compute, 1).result(timeout=20) == 6
    assert client.submit(compute_async, 3).result(timeout=20) == 3


def test_a_client_with_options(connection: Connection) -> None:
    def compute(x: int) -> tuple[str, int]:
        with get_dask_client(timeout="20s", name="mine") as client:
            return str(client.id), client.submit(int, x).result()

    async def compute_async() -> int:
        async with get_dask_client(timeout=20, name="mine") as client:
            assert "mine" in client.id
            return int(await client.submit(int, 7))

    token = CURRENT.set(connection.client)
    try:
        with get_dask_client(name="mine") as client:
            assert client is not connection.client
            assert "mine" in client.id
            assert Client.current() is client
            assert client.submit(int, 3).result(timeout=20) == 3
        assert client.status == "closed"
        assert connection.client.status == "running"
        assert asyncio.run(compute_async()) == 7
    finally:
        CURRENT.reset(token)
    name, value = connection.client.submit(compute, 1).result(timeout=20)
    assert "mine" in name
    assert value == 1
    with pytest.raises(InvalidOption, match="asynchronous"):
        get_dask_client(asynchronous=True)


def test_in_a_run_on_another_runner() -> None:
    opened = Connection(ClusterSettings(cluster_kwargs={"n_workers": 1, "protocol": "tcp://"}))
    opened.acquire()
    address = opened.client.scheduler.address

    @task
    def asks() -> int:
        with pytest.raises(MissingDaskClient, match="get_dask_client"), get_dask_client():
            pass
        with get_dask_client(address=address) as client:
            return int(client.submit(int, 3).result(timeout=20))

    @flow
    def main() -> int:
        return asks.submit().result()

    try:
        assert main() == 3
    finally:
        opened.release(2.0)


def test_outside_of_any_run() -> None:
    async def compute() -> int:
        async with get_dask_client() as client:
            return int(await client.submit(int, 7))

    with get_dask_client() as client:
        assert client.submit(int, 3).result(timeout=30) == 3
        assert Client.current() is client
    assert client.status == "closed"
    assert asyncio.run(compute()) == 7


# ------------------------------------------------------------------------ a scheduler that has gone


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_leaving_a_scheduler_that_does_not_answer(
    tmp_path: Path,
    number: int,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    remote = Remote(tmp_path)
    try:
        connection = connect(remote.file, timeout=TIMEOUT)
        futures = connection.client.map(time.sleep, [30, 31])
        remote.scheduler.send_signal(number)
        began = time.monotonic()
        connection.release(1.0)
        assert time.monotonic() - began < 1.0 + MARGIN
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        del futures
        assert capfd.readouterr() == ("", "")
    finally:
        remote.close()
