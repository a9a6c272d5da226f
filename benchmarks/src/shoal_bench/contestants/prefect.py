"""Prefect 3 with a server of its own, in an environment of its own: a flow around everything, tasks on threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from shoal_bench.contestants.base import System

__all__ = ["Prefect"]

#: Seconds that the server may take to answer.
PATIENCE = 60.0


class Prefect(System):
    """`task.submit`, `task.map` and `.result()` on a `ThreadPoolTaskRunner`; see `System`.

    Prefect is imported when the server is there, and its settings say where.
    """

    takes_futures: ClassVar[bool] = True

    def run(self, body: Callable[[], None]) -> None:
        """See `System`."""
        with _server():
            prefect = import_module("prefect")
            runners = import_module("prefect.task_runners")
            runner = runners.ThreadPoolTaskRunner(max_workers=self.workers)
            prefect.flow(task_runner=runner, name="everything")(body)()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`."""
        return _task_of(function).submit(*arguments)

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        return [future.result() for future in futures]

    def start_map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
        """See `System`."""
        return _task_of(function).map(list(items))

    def map_retrying(
        self, function: Callable[[Any], Any], items: Sequence[Any], retries: int
    ) -> list[Any]:
        """See `System`: an option of the task."""
        return self.gather(_task_of(function).with_options(retries=retries).map(items))


@cache
def _task_of(function: Callable[..., Any]) -> Any:
    return import_module("prefect").task(function)


@contextmanager
def _server() -> Iterator[None]:
    """A server with a database of its own; this process's settings point to it meanwhile."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        url = f"http://127.0.0.1:{port}/api"
        os.environ |= {
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
        try:
            _wait_for(f"{url}/health", server)
            os.environ["PREFECT_API_URL"] = url
            yield
        finally:
            server.terminate()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.2)
