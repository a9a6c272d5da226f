"""The server that worker processes of local clusters are forked from: one for as long as the driver lives.

It is a `multiprocessing.forkserver.ForkServer` beside multiprocessing's own one, so that what it preloads and the
environment it starts with are nobody else's. Starting it before `distributed` is imported saves the time of one of
the two imports, where there are two processors. May import the standard library, and `scratch` of the core.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import weakref
from multiprocessing import (
    connection,
    forkserver,
    popen_forkserver,
    process,
    reduction,
    spawn,
    util,
)
from multiprocessing.context import set_spawning_popen
from typing import TYPE_CHECKING, Any

from shoal.task_runners.remote.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

__all__ = ["SERVER", "Popen", "Server", "overruling"]

#: Seconds within which the server answers as a rule; then it may have been stopped.
ANSWERS_WITHIN = 1.0

#: What `distributed.nanny.pre-spawn-environ` holds by default, and the seed that Dask gives all workers.
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "6640",
}


class Server:
    """A fork server that is started on use, and again should it die."""

    def __init__(self) -> None:
        self._server = forkserver.ForkServer()
        self._server.set_forkserver_preload(["shoal_dask.preloaded"])
        self._starting = threading.Lock()
        self._folder: Scratch | None = None

    def start(self) -> None:
        """Makes sure that it runs; does not wait until it is ready."""
        with self._starting:
            wanted = _environment()
            for name in overruling(os.environ):
                wanted.pop(name, None)
            before = {name: os.environ.get(name) for name in wanted}
            os.environ.update({k: v for k, v in wanted.items() if before[k] is None})
            try:
                with self._own_folder():
                    self._server.ensure_running()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]

    @contextlib.contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Has the server's socket made in a folder that goes with this process, also if that is killed; for as long as it lives.

        multiprocessing's own one stays then.
        """
        if self._folder is None:
            self._folder = Scratch("fork")
            weakref.finalize(self, self._folder.remove)
        config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
        before = config.get("tempdir")
        config["tempdir"] = self._folder.path
        try:
            yield
        finally:
            config["tempdir"] = before

    def wake(self) -> None:
        """Has it go on if somebody has stopped it: it alone can tell that a worker has ended, and start another."""
        pid = self._server._forkserver_pid  # type: ignore[attr-defined]
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def fork(self, fds: list[int]) -> tuple[int, int]:
        """Starts a process with these descriptors.

        Returns:
            Where its pid and exit code can be read, and where what it runs has to be written.
        """
        self.start()
        self.wake()
        sentinel, data = self._server.connect_to_new_process(fds)
        return sentinel, data


SERVER = Server()


def _environment() -> dict[str, str]:
    """What the server's environment needs beside the driver's: some is read when a process starts, not later."""
    config = sys.modules.get("dask.config")
    # Where Dask is not imported yet, to ask it would take longer than to start the server. Another thread may be just
    # importing it, and then it is there, but has nothing yet.
    get = getattr(config, "get", None)
    given = get("distributed.nanny.pre-spawn-environ", None) if get is not None else None
    if given is None:
        return dict(_ENVIRONMENT)
    seed = _ENVIRONMENT["PYTHONHASHSEED"]
    return {"PYTHONHASHSEED": seed, **{k: str(v) for k, v in given.items() if v is not None}}


def overruling(said: Container[str]) -> list[str]:
    """Numbers of threads that Dask sets for single libraries, and that would overrule what the user has said for all.

    Args:
        said: the variables that the user has set.
    """
    if "OMP_NUM_THREADS" not in said:
        return []
    return [name for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name not in said]


def _after_fork() -> None:
    # The server is a child of the process that forked, which alone can tell whether it lives.
    global SERVER
    SERVER = Server()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Popen(popen_forkserver.Popen):
    """Starts a `multiprocessing.Process` without the user's `__main__`."""

    _fds: list[int]  # what the process is to inherit

    def _launch(self, process_obj: Any) -> None:
        # As in the base class, but for the two keys and the server.
        preparation = spawn.get_preparation_data(process_obj._name)
        preparation.pop("init_main_from_name", None)
        preparation.pop("init_main_from_path", None)
        data = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(preparation, data)
            reduction.dump(process_obj, data)
        finally:
            set_spawning_popen(None)
        self.sentinel, write = SERVER.fork(self._fds)
        # The child takes the end of this duplicate for the end of its parent.
        parent = os.dup(write)
        self.finalizer = util.Finalize(self, _close, (parent, self.sentinel))
        with open(write, "wb", closefd=True) as file:
            file.write(data.getbuffer())
        while not connection.wait([self.sentinel], ANSWERS_WITHIN):
            SERVER.wake()
        self.pid = forkserver.read_signed(self.sentinel)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
