"""A worker process as the driver knows it, and what it inherits of the driver.

May import `logs`.
"""

from __future__ import annotations

import os
import signal as signals
import sys
import threading
from typing import TYPE_CHECKING

from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEADLY", "WorkerProcess", "command_of", "environ", "interpreter", "is_handed_on"]

#: The signal that no process survives.
DEADLY = getattr(signals, "SIGKILL", signals.SIGTERM)


class WorkerProcess:
    """A worker process, from the request to start it on.

    Attributes:
        pid: its id; `None` until it is known, see `wait_pid`.
        exit_code: what it exited with, once it is dead; `None` if a signal ended it, or if that cannot be known.
        signal: the number of the signal that ended it, if one did.
        error: why neither is known, or why it never came to be.
        killer: sends it a signal; set by who starts it.
    """

    def __init__(self, on_exit: Callable[[WorkerProcess], None]) -> None:
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.error: str | None = None
        self._on_exit = on_exit
        self.killer: Callable[[int], None]
        self._known = threading.Event()
        self._dead = threading.Event()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid} {self.fate()}>"

    def fate(self) -> str:
        """What became of it, in words."""
        if not self._dead.is_set():
            return "is running"
        if self.exit_code is not None:
            return f"exited with code {self.exit_code}"
        return self.error or f"was ended by signal {self.signal}"

    @property
    def alive(self) -> bool:
        """Whether its end has not been reported yet."""
        return not self._dead.is_set()

    def wait_pid(self, timeout: float | None = None) -> int | None:
        """Waits until the process is started; returns its id, or `None` if it is not in time or never will be."""
        self._known.wait(timeout)
        return self.pid

    def kill(self, signal: int = DEADLY) -> None:
        """Sends it a signal, if it has not ended; never to another process that got its id."""
        if not self._dead.is_set():
            self.killer(signal)

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the process is dead (`on_exit` may still be about to be called); returns whether it is."""
        return self._dead.wait(timeout)

    def started(self, pid: int) -> None:
        """It is there."""
        self.pid = pid
        self._known.set()

    def ended(self, status: int | None, error: str | None = None) -> None:
        """Marks it dead; `status` is what `subprocess` calls a return code."""
        if status is not None and status < 0:
            self.signal = -status
        else:
            self.exit_code = status
        self.error = error
        self._known.set()
        self._dead.set()
        try:
            self._on_exit(self)
        except BaseException:
            library_logger().exception("What follows the end of a worker process failed")


# ----------------------------------------------------------------- what it inherits


def command_of(function: str, *args: int) -> list[str]:
    """The command line that runs a function of the server's module, found where this process would find it."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    if not sys.executable:
        raise RuntimeError("worker processes need sys.executable, which is not set here")
    code = (
        f"import sys; sys.path[:] = sys.argv[1:]; "
        f"from shoal.task_runners.processes.server import {function}; "
        f"{function}({', '.join(map(str, args))})"
    )
    return [sys.executable, *_args_from_interpreter_flags(), "-c", code, *_path()]


def _path() -> list[str]:
    return [str(entry) for entry in sys.path]


def interpreter() -> tuple[str | None, list[str], list[str]]:
    """Working directory, path and arguments, for `server._set_interpreter`."""
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = None  # it was deleted
    return cwd, _path(), [str(arg) for arg in getattr(sys, "argv", [""])]


def environ() -> dict[bytes, bytes]:
    """The environment variables."""
    found = {}
    for name in list(os.environb):
        try:
            found[name] = os.environb[name]
        except KeyError:
            pass  # another thread took it away meanwhile
    return found


def is_handed_on(fd: int) -> bool:
    """Whether `fd` is a standard stream, and not closed or (reusing a closed one's number) something private."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
