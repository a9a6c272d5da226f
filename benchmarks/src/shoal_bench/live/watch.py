"""What a process and all that it has started use, and their end. Of processes that ended, the waiting parent has the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

__all__ = ["Tree", "Used"]

#: Seconds: of so many the system counts, for each of a few processes.
RESOLUTION = 0.05

#: Seconds that killed processes may take to be gone.
PATIENCE = 10.0


@dataclass(frozen=True)
class Used:
    """Seconds of processors that processes have used.

    Attributes:
        own: by each that lives.
        waited: by those that have ended, as far as their parents have waited for them, which some do not.
    """

    own: Mapping[psutil.Process, float]
    waited: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.own.values()) + self.waited

    def since(self, before: Used) -> float | None:
        """What was used since then; `None` if a process has ended meanwhile that nobody waited for, so nobody knows."""
        ended = sum(used for process, used in before.own.items() if process not in self.own)
        if ended > self.waited - before.waited + RESOLUTION:
            return None
        return self.total - before.total


class Tree:
    """A process with its descendants.

    Args:
        pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        # Whatever was seen: a descendant whose parent dies is no descendant any more.
        self._seen: set[psutil.Process] = {self._root}

    def used(self) -> Used:
        """What it has used of processors so far, with what descendants used that have ended and were waited for."""
        self._look()
        own: dict[psutil.Process, float] = {}
        waited = 0.0
        for process in list(self._seen):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                self._seen.discard(process)
                continue
            own[process] = times.user + times.system
            waited += times.children_user + times.children_system
        return Used(own, waited)

    def memory(self) -> float:
        """Bytes that it holds; of pages that several processes share, each has its part, where the system tells."""
        return self._sum(_share)

    def kill(self) -> None:
        """Ends all of it, and waits for that; but the process itself is for who started it to wait for."""
        self._look()
        for process in self._seen:
            _kill(process)
        psutil.wait_procs(self._seen - {self._root}, timeout=PATIENCE)

    def _look(self) -> None:
        try:
            self._seen.update(self._root.children(recursive=True))
        except psutil.NoSuchProcess:  # it has ended; what it started may be there still
            pass

    def _sum(self, measure: Callable[[psutil.Process], float]) -> float:
        self._look()
        total = 0.0
        for process in list(self._seen):
            try:
                total += measure(process)
            except psutil.NoSuchProcess:
                self._seen.discard(process)
        return total


def _share(process: psutil.Process) -> float:
    found = process.memory_full_info()
    return float(getattr(found, "pss", found.rss))


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:  # which is as well
        return
