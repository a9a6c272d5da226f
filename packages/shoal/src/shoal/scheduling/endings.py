"""Ends that come from outside: runs are cancelled, pass their time limit, or can run nowhere any more. Pure.

Some of them execute at that time, and their code goes on for a while. What they hold of limits is not for others before it
has stopped, or was given up: they *linger*.

    cancel, expired ──INTERRUPT──▶ a worker ──stopped──▶ RELEASE
                                     └────── given_up ──────┘

May import `caps` and what lies above it; it is given the scheduler whose runs it ends.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from shoal.calls import CANCELLED, CRASHED, DONE, FAILED, READY, RUNNING, SENT
from shoal.exceptions import TaskRunTimeout
from shoal.futures.maps import MapRecord
from shoal.scheduling.caps import Line
from shoal.scheduling.effects import ELEMENTS, INTERRUPT, RELEASE
from shoal.states import TimedOut

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from shoal.futures.run import TaskFuture
    from shoal.scheduling.caps import Ready

__all__ = ["Endings", "Ends"]


class Ends(Protocol):
    """A scheduler, as far as its runs can be ended; see there."""

    effects: deque[tuple[Any, ...]]
    ready: deque[Ready]
    ready_async: deque[Ready]
    waiting: set[TaskFuture[Any]]
    delayed: set[TaskFuture[Any]]
    caps: Any
    tells_ends: bool

    def pick(self, future: TaskFuture[Any]) -> bool:
        """Takes an element that no worker has begun out of its map."""

    def settle(
        self,
        future: TaskFuture[Any],
        phase: int,
        value: Any,
        now: float,
        state: Any = None,
        *,
        executes: bool | None = None,
    ) -> bool:
        """Ends a run."""

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        """Ends an element of which nobody has the future."""


class Endings:
    """Ends runs of one scheduler.

    Args:
        scheduler: the scheduler.

    Attributes:
        lingering: runs that were ended while they executed, and keep the slots of their limits until their code has
            stopped, or was given up. Nobody else changes it.
    """

    __slots__ = ("_scheduler", "lingering")

    def __init__(self, scheduler: Ends) -> None:
        self._scheduler = scheduler
        self.lingering: set[TaskFuture[Any]] = set()

    # ------------------------------------------------------------------ one run ends

    def cancel(self, future: TaskFuture[Any], now: float) -> bool:
        """Ends a run as CANCELLED at once. Returns False if it had ended."""
        if future._phase >= DONE:
            return False
        scheduler = self._scheduler
        if future._phase == READY:
            running = not (scheduler.pick(future) and future._claim())
        else:
            running = future._phase in (RUNNING, SENT)
        if not scheduler.settle(future, CANCELLED, None, now, executes=running):
            return False
        if running:
            scheduler.effects.append((INTERRUPT, future))
        return True

    def expired(self, future: TaskFuture[Any], attempt: int, limit: float, now: float) -> bool:
        """A running attempt is past its time limit: the run ends now, unless there is another attempt to come.

        Returns:
            Whether there was anything to stop.
        """
        call = future._call
        if not future._is_running() or call is None or call.attempt != attempt:
            return False
        if attempt > future._task.retries:
            self._time_out(future, limit, now, executes=True)
        else:
            future._details().overdue = True
        self._scheduler.effects.append((INTERRUPT, future))
        return True

    def _time_out(
        self, future: TaskFuture[Any], limit: float, now: float, *, executes: bool | None = None
    ) -> None:
        error = TaskRunTimeout(run_name=future.name, timeout=limit)
        state = TimedOut(str(error), data=error, timestamp=now)
        self._scheduler.settle(future, FAILED, error, now, state, executes=executes)

    def crash(
        self, future: TaskFuture[Any], error: Callable[[str], BaseException], now: float
    ) -> None:
        """Ends a run as CRASHED, if it has not ended.

        Args:
            future: the run.
            error: gives what it ends with, for its name.
            now: the time.
        """
        if future._phase < DONE:
            executes = False if future._claim() else None
            self._scheduler.settle(future, CRASHED, error(future.name), now, executes=executes)

    # ------------------------------------------------------------------ its code stops

    def linger(self, future: TaskFuture[Any]) -> bool:
        """A run ends whose code may go on: its slots are not for others before that has stopped.

        Returns:
            Whether it has any.
        """
        detail = future._detail
        if detail is None or not detail.limited or detail.code_ended:
            return False
        self.lingering.add(future)
        return True

    def stopped(self, future: TaskFuture[Any]) -> None:
        """The code of a run that was ended before does not execute any more, or was given up."""
        if future in self.lingering:
            self.lingering.discard(future)
            self._scheduler.effects.append((RELEASE, future))

    def all_stopped(self) -> None:
        """Nothing executes any more: the runner has been left."""
        for future in list(self.lingering):
            self.stopped(future)

    def given_up(self, future: TaskFuture[Any], now: float) -> None:
        """What executes of an interrupted run does not stop, and is left to itself: the run and its slots wait no longer."""
        if future._phase < DONE:
            # It has attempts left, but the next must not overlap one that does not end.
            self._time_out(future, future._task.timeout_seconds or 0.0, now)
        self.stopped(future)

    # ------------------------------------------------------------------ all that has not started ends

    def cancel_unsent(self, most: int, now: float) -> bool:
        """Ends up to `most` runs as CANCELLED of those that wait, or are ready.

        Returns:
            Whether there may be more.
        """
        scheduler = self._scheduler
        # Dependants first, which were submitted later: ended after what they wait for, they would be NotReady.
        latest = nlargest(most, scheduler.waiting, key=lambda future: future._number)
        for future in [*latest, *islice(scheduler.delayed, most - len(latest))]:
            self.cancel(future, now)
            most -= 1
        for ready_queue in self._queues():
            most = self._cancel_ready(ready_queue, most, now)
        return most <= 0

    def _queues(self) -> list[Any]:
        """Where runs are queued that are ready: those that wait for a place, and then the rest."""
        caps = self._scheduler.caps
        lines = [line.items for line in caps.lines()] if caps is not None else []
        return [*lines, self._scheduler.ready, self._scheduler.ready_async]

    def _cancel_ready(self, ready_queue: deque[Ready], most: int, now: float) -> int:
        """Cancels what is ready; returns how much of `most` is left."""
        while most > 0:
            try:
                item = ready_queue.popleft()
            except IndexError:
                break
            if isinstance(item, MapRecord):
                most = self._cancel_unclaimed(item, most, now)
                if item.unclaimed:
                    ready_queue.appendleft(item)
                else:
                    item.queued = False
            elif isinstance(item, Line):
                item.queued = False
                if item.items:  # they are more than are to be ended now
                    ready_queue.appendleft(item)
                    item.queued = True
                    break
            else:
                self.cancel(item, now)
                most -= 1
        return most

    def _cancel_unclaimed(self, record: MapRecord[Any], most: int, now: float) -> int:
        record.gather()
        while record.unclaimed and most > 0:
            start, stop = record.take(most)
            most -= stop - start
            unseen = [index for index in range(start, stop) if index not in record.futures]
            if unseen and self._scheduler.tells_ends:
                self._scheduler.effects.append((ELEMENTS, record, unseen, "Cancelled"))
            for index in range(start, stop):
                future = record.futures.get(index)
                if future is not None:
                    future._claim()
                    self._scheduler.settle(future, CANCELLED, None, now, executes=False)
                else:
                    self._scheduler.element_cancelled(record, index, now)
        return most

    def crash_ready(self, error: Callable[[str], BaseException], now: float) -> None:
        """Ends all that is ready as CRASHED; see `crash`."""
        for ready_queue in self._queues():
            while ready_queue:
                item = ready_queue.popleft()
                if isinstance(item, Line):
                    item.queued = False
                elif isinstance(item, MapRecord):
                    item.queued = False
                    self.crash_unclaimed(item, error, now)
                else:
                    self.crash(item, error, now)

    def crash_unclaimed(
        self, record: MapRecord[Any], error: Callable[[str], BaseException], now: float
    ) -> None:
        """Ends all elements of a map that no worker has taken as CRASHED; see `crash`."""
        while record.unclaimed:
            start, stop = record.take(record.size)
            for index in range(start, stop):
                self.crash(record.materialize(index), error, now)
