"""Clusters as their users start them: Dask's own commands, each in a working directory of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Seconds for a command to get going.
PATIENCE = 30.0


class Commands:
    """A scheduler and workers, each a command.

    Args:
        folder: where they live.
        tls: options of Dask's commands that name certificates, if any.

    Attributes:
        address: of the scheduler.
        processes: all of them, the scheduler first.
    """

    def __init__(self, folder: Path, tls: list[str]) -> None:
        self._folder = folder
        self._tls = tls
        self.processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start(self, workers: int) -> None:
        """Starts the scheduler, and workers of one thread each."""
        told = self._folder / "scheduler.json"
        protocol = "tls" if self._tls else "tcp"
        self._run(
            "scheduler",
            *("--host", f"{protocol}://127.0.0.1", "--port", "0", "--dashboard-address", ":0"),
            *("--scheduler-file", str(told)),
        )
        deadline = time.monotonic() + PATIENCE
        while not self.address:
            assert time.monotonic() < deadline, self.output()
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                self.address = json.loads(told.read_text())["address"]
            time.sleep(0.02)
        for _ in range(workers):
            self.add_worker()

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Starts another worker."""
        local = self._folder / f"local-{len(self.processes)}"
        return self._run(
            "worker",
            self.address,
            *("--nthreads", "1", "--no-dashboard", "--local-directory", str(local)),
            *options,
        )

    def _run(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        folder = self._folder / f"{command}-{len(self.processes)}"
        folder.mkdir()
        with (self._folder / f"{len(self.processes)}-{command}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *options, *self._tls],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def output(self) -> str:
        """What they have printed."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def stop(self) -> None:
        """Ends them, workers first: a scheduler that goes first leaves them waiting for it."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def commands(folder: Path, workers: int, tls: list[str] | None = None) -> Iterator[Commands]:
    """A cluster of commands."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Commands(folder, tls or [])
    try:
        cluster.start(workers)
        yield cluster
    finally:
        cluster.stop()


def certificates(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Makes certificates.

    Returns:
        The options of Dask's commands, and the arguments of `distributed.Security`, that name them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    ca, cert, key = (str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    options = ["--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]
    security = {
        "tls_ca_file": ca,
        "tls_client_cert": cert,
        "tls_client_key": key,
        "require_encryption": True,
    }
    return options, security
