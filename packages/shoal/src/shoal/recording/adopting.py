"""What workers in other processes tell of what happens inside their runs, as the driver's recorder has it; see `inside`.

May import `events` and what lies above it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from shoal.recording.events import (
    CAPPED,
    CLOSED,
    ENDED,
    LOST,
    PACKED,
    RAN,
    REPORTED,
    RUNNER,
    WAITS,
    WENT,
    Worker,
)
from shoal.serialization import loads

if TYPE_CHECKING:
    from collections import deque

__all__ = ["Adopting"]

#: Where in an event its worker is.
_WORKER = {RAN: 3, WENT: 2, REPORTED: 2, LOST: 2, CLOSED: 2}


class _Keeper(Protocol):
    """The recorder; see there."""

    events: deque[tuple[Any, ...]]
    workers: list[Worker]

    def worker(self, runner: int, thread: str) -> Worker:
        """A worker that was not known before."""

    def next_runner(self) -> int:
        """The index of a runner that was not known before."""


class Adopting:
    """Workers and runners of other processes, as the driver's recorder knows them.

    Args:
        recorder: the driver's.
    """

    def __init__(self, recorder: _Keeper) -> None:
        self._recorder = recorder
        self._runners: dict[tuple[str, int], int] = {}
        self._workers: dict[tuple[str, int], int] = {}

    def _runner(self, source: str, index: int) -> int:
        if index < 0:
            return index
        known = self._runners.get((source, index))
        if known is None:
            known = self._runners[source, index] = self._recorder.next_runner()
        return known

    def _worker(self, source: str, index: int) -> int:
        return self._workers[source, index] if index >= 0 else index

    def take(self, told: bytes) -> None:
        """Adds what a worker has told to what the recorder knows."""
        source, workers, events = loads(told)
        for index, runner, *row in workers:
            known = self._workers.get((source, index))
            if known is None:
                known = self._recorder.worker(self._runner(source, runner), "").index
                self._workers[source, index] = known
            worker = self._recorder.workers[known]
            worker.elsewhere = (known, worker.runner, *row)
        for event in events:
            self._recorder.events.append(self._own(source, event))

    def _own(self, source: str, event: tuple[Any, ...]) -> tuple[Any, ...]:
        kind, *more = event
        at = _WORKER.get(kind)
        if at is not None:
            more[at - 1] = self._worker(source, more[at - 1])
        if kind == REPORTED:
            runner, batch = more[0]
            more[0] = self._runner(source, runner), batch
        elif kind in (RUNNER, CAPPED, PACKED):
            more[0] = self._runner(source, more[0])
        elif kind == WAITS:
            more[1] = time.time()  # the end of the wait will be told by this clock
        elif kind == ENDED:
            more[0] = more[0]._replace(worker=self._worker(source, more[0].worker))
        return (kind, *more)
