"""The one scheduler that every runner shares: which run may start, where it goes, and when it has ended.

    scheduler.py    what both kinds of backends share: dependencies, ends, retries
    endings.py      runs are ended from outside: cancels, time limits
    caps.py         how many of a task, or of all, may run at once
    wait_graph.py   who waits for what
    pulling.py      workers of this process take what is ready
    pushing.py      batches are sent to slots; it says what lives in the files that it is made of

Pure. Events come in as method calls, with `LOCK` held by the caller unless it says otherwise; what is to be done about them goes out through
`effects`, which the dispatcher carries out later, outside the lock. No threads, no clock (the time comes in), no I/O.

Guarantees, each checked by a Hypothesis state machine in `tests/core`:

    a run settles exactly once, and a done run never changes;
    none starts before its upstreams have ended, nor after it was cancelled;
    no slot has more batches in flight than its window, no runner more runs than its limit;
    a pending run always waits for something that has an owner: an upstream, a timer, a slot, a batch in flight.

A run's way:  WAITING ─▶ QUEUED ─▶ READY ─▶ SENT ─▶ RUNNING ─▶ done
                                     ▲                 │              QUEUED only with limited tags,
                                     └ AWAITING_RETRY ◀┘              SENT only where batches are pushed
The common run of a pulling backend passes without a lock; see `pulling`.

Dependants may belong to another runner's scheduler: they are told through it, under the same lock.
"""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    DONE,
    NOT_READY,
    QUEUED,
    READY,
    RUNNING,
    SENT,
    WAITING,
    Outcome,
)
from shoal.context import LOCK
from shoal.engine.inputs import upstream_error
from shoal.futures.maps import CANCELLED_UNSEEN, NO_VALUE, RELEASED, MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.safely import is_raisable
from shoal.scheduling.batching import Durations
from shoal.scheduling.caps import Caps
from shoal.scheduling.effects import (
    DRAINED,
    ELEMENTS,
    LIMIT,
    OTHER,
    RECORD,
    RELEASE,
    SETTLED,
    TIMER,
    WAIT_FOR_RETURNED,
)
from shoal.scheduling.endings import Endings
from shoal.scheduling.wait_graph import SlotsHad, depend, tell_of_run, tell_wanting
from shoal.tracebacks import folded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.engine.inputs import Input
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.capabilities import Capabilities
    from shoal.scheduling.caps import Ready
    from shoal.states import State

__all__ = ["Scheduler"]


class Scheduler:
    """The state of one entered runner; of one of two kinds (`dispatcher_for`).

    Args:
        capabilities: of the backend.

    Attributes:
        ready: what could start now, in order: futures, map records with unclaimed elements, and lines of capped runs.
        ready_async: likewise for coroutines, where they go another way.
        waiting: runs whose upstreams have not all ended, or that have no slot of their limits yet.
        delayed: runs that wait for their retry.
        durations: how long runs of each task take.
        endings: ends runs from outside, and knows those whose code goes on.
        slots_had: of limits, by runs that are ready.
        caps: how many may run at once; `None` while nothing is capped.
        effects: what is to be done, in order.
        tells_ends: whether completions that nobody waits for are effects too (somebody logs them).
        tells_drained: whether somebody waits for `open` to become 0.
        broken: what every run ends with that could only start now, since nothing can be run any more.
    """

    new_caps: Callable[..., Caps] = Caps

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.policy = capabilities.policy
        self.ready: deque[Ready] = deque()
        self.ready_async: deque[Ready] = deque()
        self.waiting: set[TaskFuture[Any]] = set()
        self.delayed: set[TaskFuture[Any]] = set()
        self.endings = Endings(self)
        self.slots_had = SlotsHad()
        self.caps: Caps | None = None
        self.tells_ends = False
        self.tells_drained = False
        self.durations = Durations()
        self.effects: deque[tuple[Any, ...]] = deque()
        self.broken: Callable[[str], BaseException] | None = None
        self._submitted = itertools.count()
        self._mapped = 0
        self._ended = itertools.count()

    @property
    def finished(self) -> int:
        """Ends so far."""
        return _reached(self._ended)

    @property
    def open(self) -> int:
        """Runs that have not ended."""
        ended = self.finished  # first: what comes and goes meanwhile must not count as ended
        return _reached(self._submitted) + self._mapped - ended

    def now_waits(self, future: TaskFuture[Any], wanted: Wanted | None) -> None:
        """A run that executes waits for these, `None` for nothing any more."""

    # ------------------------------------------------------------------ runs come in

    def submit(self, future: TaskFuture[Any]) -> None:
        """A run that waits for nothing."""
        next(self._submitted)
        with LOCK:
            self._push(future)

    def submit_after(self, future: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        """A run that waits for the futures among its inputs."""
        next(self._submitted)
        future._phase = WAITING
        detail = future._details()
        detail.upstreams = inputs
        self.waiting.add(future)
        for entry in inputs:
            upstream = entry.future
            if isinstance(upstream, TaskFuture):
                if depend(future, upstream, entry.allow_failure):
                    detail.blockers += 1
                    continue
                completed = upstream._phase == COMPLETED
            else:
                completed = upstream.is_completed()
            if not completed and not entry.allow_failure:
                self._not_ready(future, upstream)
                return
        if detail.blockers == 0:
            self._unblock(future)

    def _unblock(self, future: TaskFuture[Any]) -> None:
        """The last upstream has ended."""
        if future._details().limited:
            future._phase = QUEUED
            self.effects.append((LIMIT, future))
        else:
            self._now_ready(future)

    def _now_ready(self, future: TaskFuture[Any]) -> None:
        self.waiting.discard(future)
        future._phase = READY
        self._push(future)
        tell_wanting(future._details().wanting)

    def admitted(self, future: TaskFuture[Any]) -> None:
        """A run holds its slots of concurrency limits; it keeps them through its retries."""
        if future._phase == QUEUED:
            self._now_ready(future)
            self.slots_had.come(future)
        else:
            self.effects.append((RELEASE, future))

    def submit_map(self, record: MapRecord[Any]) -> None:
        """All runs of a map, none of which waits for anything."""
        self._mapped += record.size
        self._push_record(record, last=True)

    # ------------------------------------------------------------------ what the kinds differ in

    def _push(self, future: TaskFuture[Any]) -> None:
        """A run is ready."""
        raise NotImplementedError

    def _push_record(self, record: MapRecord[Any], last: bool) -> None:
        """A map has unclaimed elements: behind all that is ready, or before it."""
        raise NotImplementedError

    def serve_caps(self) -> None:
        """Places of caps are free: for who waits to go on, and then for what is ready."""
        raise NotImplementedError

    def claim(self, future: TaskFuture[Any]) -> bool:
        """Takes a ready run out of its turn for a worker that waits for it; whether that was possible."""
        raise NotImplementedError

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """Takes some elements of a map out of their turn for a worker that waits for them."""
        raise NotImplementedError

    def _lingers(self, future: TaskFuture[Any]) -> None:
        """A run that was ended keeps the slots of its limits until it is known that its code has stopped."""

    # ------------------------------------------------------------------ elements of maps are taken

    def pick(self, future: TaskFuture[Any]) -> bool:
        """Takes an element that no worker has begun out of its map; True also for what is no such element."""
        if future._phase >= DONE:
            return False
        detail = future._detail
        if detail is None or detail.origin is None or future._call is not None:
            return True
        record, index = detail.origin
        picked = record.pick(index)
        if record.unclaimed:
            self._push_record(record, last=False)
        return picked  # if not, a worker has begun it, or is just about to

    # ------------------------------------------------------------------ runs end

    def complete(self, future: TaskFuture[Any], value: Any, now: float) -> None:
        """A claimed run has completed, as plainly as most. Hot; takes no lock unless somebody is to be told."""
        try:
            del future._open
        except AttributeError:
            if self.endings.lingering:
                with LOCK:
                    self.endings.stopped(future)
            return
        future._outcome = value
        future._since = now
        future._phase = COMPLETED
        future._call = None
        if future._detail is not None or self.tells_ends or self.tells_drained:
            with LOCK:  # as has who looks whether a run is open, and wants what is told of its end carried out by then
                next(self._ended)
                self._tell_end(future, now)
            return
        next(self._ended)
        if self.tells_drained:  # since then
            with LOCK:
                self._tell_end(future, now)

    def ended(self, future: TaskFuture[Any], outcome: Outcome, now: float) -> None:
        """An attempt has ended, as the engine says; a late one is dropped."""
        if future._phase >= DONE:
            self.endings.stopped(future)
            return
        if outcome.name is not None:
            future._details().name = outcome.name
        if outcome.phase == WAITING:
            future._phase = RUNNING
            future._details().code_ended = True
            if future._call is not None and outcome.seconds:
                future._call.must_have_begun(now - outcome.seconds)
            self.effects.append((WAIT_FOR_RETURNED, future, outcome.value))
            return
        if outcome.phase != AWAITING_RETRY:
            self.settle(future, outcome.phase, outcome.value, now, outcome.state)
            return
        detail = future._details()
        detail.cancel_timer()
        detail.overdue = detail.code_ended = False
        call = future._call
        assert call is not None  # a run that has not ended has its call
        call.next_attempt(outcome.seconds, now)
        future._since = now
        future._outcome = outcome.value
        detail.due = now + outcome.delay
        future._phase = AWAITING_RETRY
        self.delayed.add(future)
        self.effects.append((TIMER, future, outcome.delay))

    def due(self, future: TaskFuture[Any]) -> None:
        """A retry's delay is over."""
        if future._phase == AWAITING_RETRY:
            future._phase = READY
            future._outcome = None
            self.delayed.discard(future)
            detail = future._details()
            detail.timer = None
            self._push(future)
            tell_of_run(detail)

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
        """Ends a run, and tells whatever its end makes ready or impossible.

        Args:
            future: the run.
            phase: how it ends.
            value: its result, or its exception.
            now: when.
            state: where there is more to say.
            executes: whether its code may go on for a while, until `stopped`; False: it has not begun, though it is claimed.

        Returns:
            False if it had already ended; nothing is changed then.
        """
        try:
            del future._open
        except AttributeError:
            return False
        if executes and self.endings.linger(future):
            self._lingers(future)
        future._outcome = value
        future._since = now
        if phase != COMPLETED or state is not None:
            detail = future._details()
            detail.state = state
            detail.traceback = folded(value) if is_raisable(value) else None
        future._phase = phase
        future._call = None
        next(self._ended)
        self._tell_end(future, now)
        return True

    def _tell_end(self, future: TaskFuture[Any], now: float) -> None:
        detail = future._detail
        if (detail is not None and detail.waiters) or self.tells_ends or future._phase != COMPLETED:
            self.effects.append((SETTLED, future))
        if detail is not None:
            detail.cancel_timer()
            self.waiting.discard(future)
            self.delayed.discard(future)
            if detail.limited and detail.blockers == 0:
                self.slots_had.go(future)
                if future not in self.endings.lingering:
                    self.effects.append((RELEASE, future))
            detail.upstreams = ()
            detail.waits_on = detail.waits_beside = None
            if detail.origin is not None:
                record, index = detail.origin
                detail.origin = None  # a cycle, which would keep large values until it is collected
                record.since[index] = now
                self._element_ended(record, index, future)
            dependants, detail.dependants = detail.dependants, None
            for dependant, allow_failure in dependants or ():
                scheduler = dependant._dispatcher.scheduler
                scheduler.upstream_ended(dependant, future, allow_failure)
                if scheduler is not self:
                    self.effects.append((OTHER, dependant._dispatcher))
        if self.tells_drained and self.open == 0:
            self.effects.append((DRAINED,))

    def _element_ended(self, record: MapRecord[Any], index: int, future: TaskFuture[Any]) -> None:
        completed = future._phase == COMPLETED
        value = future._outcome if record.kept else RELEASED
        record.values[index] = value if completed else NO_VALUE
        if future._phase != CANCELLED:
            # A worker may be about to begin a cancelled element, and must find its arguments.
            record.release_arguments(index)
        self._count_element(record, completed)

    def _count_element(self, record: MapRecord[Any], completed: bool) -> None:
        if not completed and not record.failed:
            record.failed = True
            if record.waiters:
                self.effects.append((RECORD, record))
        if next(record.counter) == record.size:
            self.record_ended(record)

    def record_ended(self, record: MapRecord[Any]) -> None:
        """The last element of a map has ended."""
        record.ended = True
        record.wanting.clear()
        self.effects.append((RECORD, record))

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        """An element ends as CANCELLED that no worker has taken, and of which nobody has the future."""
        record.values[index] = CANCELLED_UNSEEN
        record.since[index] = now
        next(self._ended)
        self._count_element(record, completed=False)
        record.release_arguments(index)
        if self.tells_drained and self.open == 0:
            self.effects.append((DRAINED,))

    def element_completed(self, record: MapRecord[Any], index: int, value: Any, now: float) -> None:
        """An element of which, so far, nobody wanted more than its value has completed. Hot; takes no lock as a rule."""
        record.since[index] = now
        record.values[index] = value if record.kept else RELEASED
        if index in record.futures:
            with LOCK:
                future = record.futures[index]
                if future._phase < DONE:
                    self.settle(future, COMPLETED, value, now)
                    return
                if future._phase != COMPLETED:
                    record.values[index] = NO_VALUE  # it was cancelled: the value comes too late
                    return
            # Who made the future found the value, and left the counting to who stored it.
        record.release_arguments(index)
        if self.tells_ends:
            # Before it is open no more; see `complete`.
            self.effects.append((ELEMENTS, record, range(index, index + 1), "Completed"))
        next(self._ended)
        if next(record.counter) == record.size:
            with LOCK:
                self.record_ended(record)
        if self.tells_drained and self.open == 0:
            self.effects.append((DRAINED,))

    def elements_completed(
        self, record: MapRecord[Any], start: int, values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """As `element_completed` for consecutive elements, of none of which anybody has a future. Hot.

        Args:
            record: the map.
            start: the first of them.
            values: their values.
            ends: when each ended, seconds since the epoch.
        """
        stop = start + len(values)
        record.since[start:stop] = array("d", ends)
        record.values[start:stop] = values
        record.release_range(start, stop)
        count = len(values)
        if self.tells_ends:
            self.effects.append((ELEMENTS, record, range(start, stop), "Completed"))
        deque(itertools.islice(self._ended, count), maxlen=0)
        if deque(itertools.islice(record.counter, count), maxlen=1)[0] == record.size:
            self.record_ended(record)
        if self.tells_drained and self.open == 0:
            self.effects.append((DRAINED,))

    def upstream_ended(
        self, future: TaskFuture[Any], upstream: TaskFuture[Any], allow_failure: bool
    ) -> None:
        """One of the runs that a run waits for has ended."""
        failed = upstream._phase != COMPLETED and not allow_failure
        if failed and future._phase in (WAITING, SENT):  # SENT with it, in one batch
            self._not_ready(future, upstream)
        if future._phase != WAITING:
            return
        detail = future._details()
        detail.blockers -= 1
        if detail.blockers == 0:
            self._unblock(future)

    def _not_ready(self, future: TaskFuture[Any], upstream: TaskFuture[Any] | State[Any]) -> None:
        """A run whose upstream did not complete never starts, nor does what depends on it in turn."""
        error = upstream_error(upstream)
        now = upstream._since if isinstance(upstream, TaskFuture) else upstream.epoch
        stack = [future]
        while stack:
            failed = stack.pop()
            scheduler = failed._dispatcher.scheduler
            detail = failed._details()
            dependants, detail.dependants = detail.dependants, None
            if not scheduler.settle(failed, NOT_READY, error, now):
                continue
            if scheduler is not self:
                self.effects.append((OTHER, failed._dispatcher))
            for dependant, allow_failure in dependants or ():
                if allow_failure:
                    dependant._dispatcher.scheduler.upstream_ended(dependant, failed, True)
                else:
                    stack.append(dependant)

    # ------------------------------------------------------------------ all end

    def cancel_some(self, most: int, now: float) -> bool:
        """Ends up to `most` runs as CANCELLED that do not execute in this process; whether there may be more."""
        return self.endings.cancel_unsent(most, now)

    def broke(self, error: Callable[[str], BaseException], now: float) -> None:
        """Nothing can be run any more: every run that is ready, or once it will be, is CRASHED with this."""
        self.broken = error
        self.endings.crash_ready(error, now)


def _reached(counter: itertools.count[int]) -> int:
    """How far a counter has come; the interpreter has no other way to ask."""
    return int(repr(counter)[6:-1])
