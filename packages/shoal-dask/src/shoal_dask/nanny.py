"""Worker processes of a local cluster: they never import the user's `__main__`, and are forked from a warm server.

    nanny (in the driver) ──▶ WorkerProcess ──▶ AsyncProcess ──▶ multiprocessing's Process ──▶ _Popen
    LocalNanny                _WorkerProcess                                                     │
                                                          fork server of our own ◀───────────────┘

Dask starts its worker processes through multiprocessing, whose children import the script of their parent: without an
`if __name__ == "__main__":` the script would start clusters without end. Here each `Process` gets a `_Popen` that
leaves the script out, whenever and however often a nanny starts it. Neither multiprocessing nor Dask is changed for
anybody else: the nannies are of a class of ours, the server is not multiprocessing's.

Guaranteed: workers find the driver's `sys.path`, working directory and environment as they were when the nanny was
made; they ignore the terminal's Ctrl-C, and end with the driver. Each has a process group of its own: if it does not end
in order, what it had started ends with it. May import `forking` and distributed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from multiprocessing import parent_process
from typing import Any

from dask import config
from distributed.core import Status
from distributed.nanny import Nanny, WorkerProcess

from shoal_dask.forking import Popen, overruling

__all__ = ["LocalNanny"]

#: Seconds from the end of a driver's connections to its own.
_DIES_WITHIN = 0.5


class _WorkerProcess(WorkerProcess):
    """A worker process that is forked from our server."""

    _init_msg_interval = (
        0.01  # how often it is looked whether the worker is ready; Dask's own is 0.05
    )

    @property
    def process(self) -> Any:
        return self.__dict__["process"]

    @process.setter
    def process(self, process: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        # Between its making and its start, both in `start()`, there is no other place to lay hands on it.
        if process is not None:
            process._process._Popen = Popen
        self.__dict__["process"] = process

    def mark_stopped(self) -> None:
        """See `WorkerProcess`: the process has ended. What is left of its group ends too, if it did not end in order."""
        process: Any = self.process
        if self.status != Status.stopped and process.exitcode != 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        super().mark_stopped()  # type: ignore[no-untyped-call]

    @classmethod
    def _run(cls, **options: Any) -> None:  # type: ignore[override]
        """The worker's main function."""
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in ("distributed.worker", "distributed.worker.state_machine"):
            logging.getLogger(name).addFilter(_is_news)
        for name in os.environ.keys() - options["env"].keys():
            del os.environ[name]  # it was there when the server started
        super()._run(**options)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether it says more than that this worker is shut down while it runs something, or that its driver was killed."""
    text = str(record.msg)
    if text.startswith("Failed to communicate with scheduler"):
        driver = parent_process()
        if driver is not None:
            driver.join(_DIES_WITHIN)  # its connections go one after another
            return driver.is_alive()
    return "ended with CancelledError" not in text


class LocalNanny(Nanny):
    """The nanny of a worker process on this machine.

    Attributes:
        grace: seconds that the worker has to end before it is killed.
    """

    grace: float = 5.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        environ = config.get("distributed.nanny.environ")
        said = {*os.environ, *environ, *(options.get("env") or ())}
        for name in overruling(said):
            self.env.pop(name, None)

    @property
    def process(self) -> Any:
        return self.__dict__.get("process")

    @process.setter
    def process(self, process: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if process is not None:
            process.__class__ = _WorkerProcess
            process.env = {**os.environ, **self.env}
            process.pre_spawn_env = {}  # the server has it; Dask would put it into the driver's environment
        self.__dict__["process"] = process

    async def close(  # type: ignore[override]
        self, timeout: float = 5, reason: str = "nanny-close"
    ) -> Any:
        """See `Nanny`."""
        return await super().close(timeout=min(timeout, self.grace), reason=reason)
