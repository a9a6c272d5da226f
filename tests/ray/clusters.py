"""Clusters as users have them: started with `ray start`, in directories of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from shoal.exceptions import ClusterUnreachable
from shoal_ray.joining import knock

from tests.ray.alone import without_ray

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds that a cluster may take to answer.
STARTS_WITHIN = 45.0

#: Under `uv run` Ray would send the whole workspace along with each of its jobs.
_PLAIN = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class Head(NamedTuple):
    """The head of a cluster.

    Attributes:
        address: of the cluster.
        client: of its server of Ray Client.
        home: where its user's home is.
        process: `ray start`.
    """

    address: str
    client: str
    home: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def head(cpus: int = 1, **environment: str) -> Iterator[Head]:
    """A cluster with a server of Ray Client; it takes 5 to 10 s to start.

    Args:
        cpus: that it says it has.
        **environment: variables that differ from those here.
    """
    directory = Path(tempfile.mkdtemp(prefix="mh-"))  # not pytest's: sockets want short paths
    port, client = free_ports(2)
    process = _ray_start(
        directory,
        environment,
        *("--head", f"--port={port}", f"--ray-client-server-port={client}", f"--num-cpus={cpus}"),
        *("--include-dashboard=false", f"--temp-dir={directory / 'ray'}"),
    )
    found = Head(f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}", directory / "home", process)
    try:
        for address in (found.address, found.client):
            await_answer(address, process, directory / "log")
        yield found
    finally:
        _end(process, directory)


@contextlib.contextmanager
def node(address: str, cpus: int = 1, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """One more node for a cluster; it is there a second or two later.

    Args:
        address: of the cluster.
        cpus: that it says it has.
        **environment: variables that differ from those here.

    Yields:
        `ray start`.
    """
    directory = Path(tempfile.mkdtemp(prefix="mh-"))
    process = _ray_start(directory, environment, f"--address={address}", f"--num-cpus={cpus}")
    try:
        yield process
    finally:
        _end(process, directory)


def _ray_start(
    directory: Path, environment: dict[str, str], *arguments: str
) -> subprocess.Popen[bytes]:
    home, work = directory / "home", directory / "work"
    for folder in (home, work):
        folder.mkdir()
    # Else a server for a client of Ray Client, forked from a process with threads of gRPC's, now and then dies at once.
    forks = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
    variables = {**without_ray(os.environ), "HOME": str(home), **_PLAIN, **forks, **environment}
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments),
                *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            ],
            cwd=work,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Ends a node; what `ray start` leaves behind when it was killed itself, or is slow, is killed."""
    left = [process.pid, *(child.pid for child in _children(process))]
    processes = [psutil.Process(pid) for pid in left if psutil.pid_exists(pid)]
    process.send_signal(signal.SIGTERM)  # ends its processes too
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def await_answer(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once something answers as a cluster does."""
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            knock(address)
            return
        except ClusterUnreachable as error:
            if "asks for a token" in str(error):
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{error}\n{log.read_text()}") from error
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, at the moment."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]
