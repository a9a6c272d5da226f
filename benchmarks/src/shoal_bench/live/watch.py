"""What a process and all that it has started use, and their end. Of processes that ended, the waiting parent has the time."""

from __future__ import annotations

from collections.abc import Callable

import psutil

__all__ = ["Tree"]

#: Seconds that killed processes may take to be gone.
PATIENCE = 10.0


class Tree:
    """A process with its descendants.

    Args:
        pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        # Whatever was seen: a descendant whose parent dies is no descendant any more.
        self._seen: set[psutil.Process] = {self._root}

    def cpu(self) -> float:
        """Seconds of processors that it has used so far, with what descendants used that have ended."""
        return self._sum(lambda process: sum(process.cpu_times()[:4]))

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
