"""The one scheduler that every runner shares: which run may start, where it goes, and when it has ended.

    scheduler.py   what both kinds of backends share: dependencies, waits, ends, retries, cancels
    pulling.py     workers of this process take what is ready
    pushing.py     batches are sent to slots; it says what lives in the files that it is made of

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
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Any

from shoal.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    CRASHED,
    DONE,
    FAILED,
    NOT_READY,
    QUEUED,
    READY,
    RUNNING,
    SENT,
    WAITING,
    Outcome,
)
from shoal.context import LOCK
from shoal.engine.values import upstream_error
from shoal.exceptions import TaskRunTimeout, WaitCycle
from shoal.futures.maps import CANCELLED_UNSEEN, NO_VALUE, RELEASED, MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.safely import is_raisable
from shoal.scheduling.batching import Durations
from shoal.scheduling.effects import (
    DRAINED,
    ELEMENTS,
    INTERRUPT,
    LIMIT,
    OTHER,
    RECORD,
    RELEASE,
    RETURNS,
    SETTLED,
    TIMER,
)
from shoal.states import TimedOut
from shoal.tracebacks import folded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.engine.inputs import Input
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.capabilities import Capabilities
    from shoal.states import State

__all__ = ["Scheduler"]


class Scheduler:
    """The state of one entered runner; made by `make_scheduler` in one of two kinds.

    Args:
        capabilities: of the backend.

    Attributes:
        open: runs that have not ended.
        finished: ends so far.
        ready: what could start now, in order: futures, and map records with unclaimed elements.
        waiting: runs whose upstreams have not all ended, or that have no slot of their limits yet.
        delayed: runs that wait for their retry.
        durations: how long runs of each task take.
        lingering: runs that were ended while they executed, and keep the slots of their limits until their code has
            stopped, or was given up.
        effects: what is to be done, in order.
        tells_ends: whether completions that nobody waits for are effects too (somebody logs them).
        tells_drained: whether somebody waits for `open` to become 0.
        broken: what every run ends with that could only start now, since nothing can be run any more.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.policy = capabilities.policy
        self.ready: deque[TaskFuture[Any] | MapRecord[Any]] = deque()
        self.waiting: set[TaskFuture[Any]] = set()
        self.delayed: set[TaskFuture[Any]] = set()
        self.lingering: set[TaskFuture[Any]] = set()
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
        ended = (
            self.finished
        )  # first, so that a run that comes and goes meanwhile is not counted as ended only
        return _reached(self._submitted) + self._mapped - ended

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
                if self._depend(future, upstream, entry.allow_failure):
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

    def _depend(
        self, future: TaskFuture[Any], upstream: TaskFuture[Any], allow_failure: bool
    ) -> bool:
        """Registers a dependant; False if the upstream has ended."""
        if upstream._phase >= DONE:
            return False
        above = upstream._details()
        if above.dependants is None:
            above.dependants = []
        entry = (future, allow_failure)
        above.dependants.append(entry)
        if upstream._phase >= DONE and above.dependants and entry in above.dependants:
            above.dependants.remove(
                entry
            )  # it ended meanwhile, and who ended it has not seen the entry
            return False
        return True

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
        self._tell_wanting(future._details().wanted)

    def admitted(self, future: TaskFuture[Any]) -> None:
        """A run holds its slots of concurrency limits; it keeps them through its retries."""
        if future._phase == QUEUED:
            self._now_ready(future)
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

    def claim(self, future: TaskFuture[Any]) -> bool:
        """Takes a ready run out of its turn for a worker that waits for it; whether that was possible."""
        raise NotImplementedError

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """Takes some elements of a map out of their turn for a worker that waits for them."""
        raise NotImplementedError

    # ------------------------------------------------------------------ waits of running runs

    def wait_for(
        self, wanted: Wanted, blocked_run: Any, running: Sequence[TaskFuture[Any]]
    ) -> TaskFuture[Any] | Span | None:
        """A worker is about to wait: what it can run itself meanwhile, of what it waits for.

        Only the awaited run, or what that needs; claimed for the caller. If there is nothing, `blocked_run` is noted with
        all that may become startable, and `blocked_run.look_again()` is called then.

        Args:
            wanted: what it waits for.
            blocked_run: the worker.
            running: the runs on its stack, innermost last.

        Raises:
            WaitCycle: one of them would wait for itself.
        """
        stack: list[Any] = list(reversed(wanted))
        seen: set[Any] = set()
        while stack:
            item = stack.pop()
            if item in seen or item.done():
                continue
            seen.add(item)
            if isinstance(item, MapRecord):
                span = self._look_at_record(item, blocked_run, running)
                if span is not None:
                    return span
                stack.extend(list(item.futures.values()))
                continue
            future: TaskFuture[Any] = item
            if future in running:
                raise WaitCycle(run_name=running[-1].name, awaited=future.name)
            phase = future._phase
            detail = future._details()
            if (
                phase == READY
                and blocked_run.serves(future._dispatcher)
                and future._dispatcher.scheduler.claim(future)
            ):
                return future
            if detail.wanted is None:
                detail.wanted = []
            if blocked_run not in detail.wanted:
                detail.wanted.append(blocked_run)
            if phase == WAITING:
                stack.extend(
                    entry.future
                    for entry in reversed(detail.upstreams)
                    if isinstance(entry.future, TaskFuture)
                )
            elif detail.waits_on is not None:
                stack.extend(detail.waits_on)
        return None

    def _look_at_record(
        self, record: MapRecord[Any], blocked_run: Any, running: Sequence[TaskFuture[Any]]
    ) -> Span | None:
        if any(0 <= run._number - record.base < record.size for run in running):
            raise WaitCycle(run_name=running[-1].name, awaited=f"a map of {record.task.name}")
        if blocked_run.serves(record.dispatcher) and not record.task.is_async:
            span: Span | None = record.dispatcher.scheduler.claim_span(record)
            if span is not None:
                return span
        if blocked_run not in record.wanted:
            record.wanted.append(blocked_run)
        return None

    def _gather(self, record: MapRecord[Any]) -> None:
        """Makes all that no worker has started of a map unclaimed."""
        for span in record.spans:
            rest = span.rest()
            if rest is not None:
                record.unclaimed.append(rest)

    def _pick(self, future: TaskFuture[Any]) -> bool:
        """Takes an element that no worker has begun out of its map; True also for what is no such element."""
        if future._phase >= DONE:
            return False
        detail = future._detail
        if detail is None or detail.origin is None or future._call is not None:
            return True
        record, index = detail.origin
        self._gather(record)
        picked = False
        for place, (start, stop) in enumerate(record.unclaimed):
            if start <= index < stop:
                del record.unclaimed[place]
                if index + 1 < stop:
                    record.unclaimed.insert(place, (index + 1, stop))
                if start < index:
                    record.unclaimed.insert(place, (start, index))
                picked = True
                break
        if record.unclaimed:
            self._push_record(record, last=False)
        return picked  # if not, a worker has begun it, or is just about to

    def _tell_wanting(self, wanted: list[Any] | None) -> None:
        if wanted:
            for blocked_run in wanted:
                blocked_run.look_again()
            wanted.clear()

    def check_cycle(self, wanted: Wanted, run: TaskFuture[Any]) -> None:
        """Refuses a wait that would close a circle.

        Raises:
            WaitCycle: what is wanted waits, directly or not, for `run`.
        """
        stack: list[Any] = list(wanted)
        seen: set[Any] = set()
        while stack:
            item = stack.pop()
            if item in seen or item.done():
                continue
            seen.add(item)
            if isinstance(item, MapRecord):
                if 0 <= run._number - item.base < item.size:
                    raise WaitCycle(run_name=run.name, awaited=f"a map of {item.task.name}")
                stack.extend(list(item.futures.values()))
                continue
            if item is run:
                raise WaitCycle(run_name=run.name, awaited=item.name)
            detail = item._detail
            if detail is not None:
                stack.extend(
                    entry.future
                    for entry in detail.upstreams
                    if isinstance(entry.future, TaskFuture)
                )
                stack.extend(detail.waits_on or ())

    def waits(self, future: TaskFuture[Any], wanted: Wanted | None) -> None:
        """What a running run is blocked on from now, `None` for nothing."""
        detail = future._details()
        detail.waits_on = wanted
        if wanted is not None:
            self._tell_wanting(detail.wanted)
            if detail.origin is not None:
                self._tell_wanting(detail.origin[0].wanted)

    # ------------------------------------------------------------------ runs end

    def complete(self, future: TaskFuture[Any], value: Any, now: float) -> None:
        """A claimed run has completed, as plainly as most. Hot; takes no lock unless somebody is to be told."""
        try:
            del future._open
        except AttributeError:
            if self.lingering:
                with LOCK:
                    self.stopped(future)
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
        """An attempt has ended, as its engine says; a late one is dropped."""
        if future._phase >= DONE:
            self.stopped(future)
            return
        if outcome.name is not None:
            future._details().name = outcome.name
        if outcome.phase == WAITING:
            future._phase = RUNNING
            future._details().returned = True
            if future._call is not None and outcome.seconds:
                future._call.must_have_begun(now - outcome.seconds)
            self.effects.append((RETURNS, future, outcome.value))
            return
        if outcome.phase != AWAITING_RETRY:
            self.settle(future, outcome.phase, outcome.value, now, outcome.state)
            return
        self.cancel_timer(future)
        detail = future._details()
        detail.overdue = detail.returned = False
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
            self._tell_wanting(detail.wanted)
            if detail.origin is not None:
                self._tell_wanting(detail.origin[0].wanted)

    def settle(
        self,
        future: TaskFuture[Any],
        phase: int,
        value: Any,
        now: float,
        state: Any = None,
        *,
        executes: bool = False,
    ) -> bool:
        """Ends a run, and tells whatever its end makes ready or impossible.

        Args:
            future: the run.
            phase: how it ends.
            value: its result, or its exception.
            now: when.
            state: where there is more to say.
            executes: whether its code may go on for a while; `stopped` then says when it does not.

        Returns:
            False if it had already ended; nothing is changed then.
        """
        try:
            del future._open
        except AttributeError:
            return False
        if executes:
            self._linger(future)
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
            if detail.timer is not None:
                self.cancel_timer(future)
            self.waiting.discard(future)
            self.delayed.discard(future)
            if detail.limited and detail.blockers == 0 and future not in self.lingering:
                self.effects.append((RELEASE, future))
            detail.upstreams = ()
            detail.waits_on = None
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

    def _linger(self, future: TaskFuture[Any]) -> None:
        """A run ends whose code may go on: its slots are not for others before that has stopped."""
        detail = future._detail
        if detail is not None and detail.limited and not detail.returned:
            self.lingering.add(future)

    def stopped(self, future: TaskFuture[Any]) -> None:
        """The code of a run that was ended before does not execute any more, or was given up."""
        if future in self.lingering:
            self.lingering.discard(future)
            self.effects.append((RELEASE, future))

    def all_stopped(self) -> None:
        """Nothing executes any more: the runner has been left."""
        for future in list(self.lingering):
            self.stopped(future)

    def _element_ended(self, record: MapRecord[Any], index: int, future: TaskFuture[Any]) -> None:
        completed = future._phase == COMPLETED
        if completed:
            record.values[index] = future._outcome if record.kept else RELEASED
        else:
            record.values[index] = NO_VALUE
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
        record.wanted.clear()
        self.effects.append((RECORD, record))

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
            self.effects.append(
                (ELEMENTS, record, index, 1)
            )  # before it is open no more; see `complete`
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
            self.effects.append((ELEMENTS, record, start, count))
        deque(islice(self._ended, count), maxlen=0)
        if deque(islice(record.counter, count), maxlen=1)[0] == record.size:
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

    def cancel(self, future: TaskFuture[Any], now: float) -> bool:
        """Ends a run as CANCELLED at once. Returns False if it had ended."""
        if future._phase >= DONE:
            return False
        if future._phase == READY:
            running = not (self._pick(future) and future._claim())
        else:
            running = future._phase in (RUNNING, SENT)
        if not self.settle(future, CANCELLED, None, now, executes=running):
            return False
        if running:
            self.effects.append((INTERRUPT, future))
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
            self.time_out(future, limit, now, executes=True)
        else:
            future._details().overdue = True
        self.effects.append((INTERRUPT, future))
        return True

    def time_out(
        self, future: TaskFuture[Any], limit: float, now: float, *, executes: bool = False
    ) -> None:
        """Ends a run as TimedOut; see `settle`."""
        error = TaskRunTimeout(run_name=future.name, timeout=limit)
        state = TimedOut(str(error), data=error, timestamp=now)
        self.settle(future, FAILED, error, now, state, executes=executes)

    def given_up(self, future: TaskFuture[Any], now: float) -> None:
        """What executes of an interrupted run does not stop, and is left to itself: the run and its slots wait no longer."""
        if future._phase < DONE:
            # It has attempts left, but the next must not overlap one that does not end.
            self.time_out(future, future._task.timeout_seconds or 0.0, now)
        self.stopped(future)

    def cancel_some(self, most: int, now: float) -> bool:
        """Ends up to `most` runs as CANCELLED that are not executing on a worker of this process.

        Returns:
            Whether there may be more.
        """
        # Dependants first, which were submitted later: ended after what they wait for, they would be NotReady.
        latest = nlargest(most, self.waiting, key=lambda future: future._number)
        for future in [*latest, *islice(self.delayed, most - len(latest))]:
            self.cancel(future, now)
            most -= 1
        return self._cancel_ready(self.ready, most, now) <= 0

    def _cancel_ready(
        self, lane: deque[TaskFuture[Any] | MapRecord[Any]], most: int, now: float
    ) -> int:
        """Cancels what is ready; returns how much of `most` is left."""
        while most > 0:
            try:
                item = lane.popleft()
            except IndexError:
                break
            if isinstance(item, MapRecord):
                most = self._cancel_unclaimed(item, most, now)
                if item.unclaimed:
                    lane.appendleft(item)
                else:
                    item.queued = False
            else:
                self.cancel(item, now)
                most -= 1
        return most

    def _cancel_unclaimed(self, record: MapRecord[Any], most: int, now: float) -> int:
        self._gather(record)
        while record.unclaimed and most > 0:
            start, stop = record.unclaimed.popleft()
            if stop - start > most:
                record.unclaimed.appendleft((start + most, stop))
                stop = start + most
            most -= stop - start
            for index in range(start, stop):
                future = record.futures.get(index)
                if future is not None:
                    future._claim()
                    self.settle(future, CANCELLED, None, now)
                    continue
                record.values[index] = CANCELLED_UNSEEN
                record.since[index] = now
                next(self._ended)
                self._count_element(record, completed=False)
                record.release_arguments(index)
        if self.tells_drained and self.open == 0:
            self.effects.append((DRAINED,))
        return most

    def broke(self, error: Callable[[str], BaseException], now: float) -> None:
        """Nothing can be run any more: every run that is ready, or will be, is CRASHED with this.

        What waits for something else ends when that does.
        """
        self.broken = error
        self._crash_ready(self.ready, error, now)

    def _crash_ready(
        self,
        lane: deque[TaskFuture[Any] | MapRecord[Any]],
        error: Callable[[str], BaseException],
        now: float,
    ) -> None:
        while lane:
            item = lane.popleft()
            if isinstance(item, MapRecord):
                item.queued = False
                while item.unclaimed:
                    start, stop = item.unclaimed.popleft()
                    for index in range(start, stop):
                        self.crash(item.materialize(index), error, now)
            else:
                self.crash(item, error, now)

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
            future._claim()
            self.settle(future, CRASHED, error(future.name), now)

    def cancel_timer(self, future: TaskFuture[Any]) -> None:
        detail = future._detail
        if detail is not None and detail.timer is not None:
            detail.timer.cancel()
            detail.timer = None


def _reached(counter: itertools.count[int]) -> int:
    """How far a counter has come; the interpreter has no other way to ask."""
    return int(repr(counter)[6:-1])
