"""Processes of this machine: who started whom, and their end.

May import the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Process", "descendants", "see_off"]


class Process(NamedTuple):
    """A process of this machine.

    Attributes:
        pid: its number, which another may have one day.
        started: when it was started, in the system's own unit.
    """

    pid: int
    started: str

    @classmethod
    def numbered(cls, pid: int) -> Process | None:
        """The one that runs under a number, `None` if there is none, or the system does not tell."""
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, fields[19])

    def runs(self) -> bool:
        """Whether it has not ended."""
        return Process.numbered(self.pid) == self

    def command(self) -> str:
        """The words that it was started with."""
        try:
            with open(f"/proc/{self.pid}/cmdline") as file:
                return file.read().replace("\0", " ")
        except OSError:
            return ""


def descendants(pid: int) -> Iterator[Process]:
    """The processes that a process has started, and theirs, where the system tells."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
            for child in map(int, file.read().split()):
                process = Process.numbered(child)
                if process is not None:
                    yield process
                    yield from descendants(child)


def see_off(processes: list[Process], grace: float) -> None:
    """Waits until processes have ended, and kills those that do not within `grace` seconds."""
    deadline = time.monotonic() + grace
    while processes := [process for process in processes if process.runs()]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        with contextlib.suppress(
            OSError
        ):  # it is no child of this one, or somebody else has waited for it
            os.waitpid(process.pid, 0)
