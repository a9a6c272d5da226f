"""The one scheduler that every runner shares: which run may start, where it goes, and when it has ended.

Pure. Events come in as method calls, with `LOCK` held by the caller unless it says otherwise; what is to be done about them goes out through
`effects`, which the dispatcher carries out later, outside the lock. No threads, no clock (the time comes in), no I/O.

Guarantees, each checked by a Hypothesis state machine in `tests/core`:

    a run settles exactly once, and a done run never changes;
    none starts before its upstreams have ended, nor after it was cancelled;
    no slot has more batches in flight than its window, no runner more runs than its limit;
    a pending run always waits for something that has an owner: an upstream, a timer, a slot, a batch in flight.

A run's way:  WAITING ─▶ READY ─▶ SENT ─▶ RUNNING ─▶ done          (SENT only where batches are pushed)
                           ▲                  │
                           └─ AWAITING_RETRY ◀┘

The common run of a pulling backend (no upstream, nobody depends on it) passes without a lock: `submit`, a pop of
`ready`, `complete`. A lock there would not only cost its own time: under the interpreter's lock, whoever blocks on
a lock is handed it while not running, so that two busy threads soon change places at every run (measured: 10-15 µs a
run instead of 3). What makes it safe are the tokens described in `futures`, and counters whose step is atomic.

Dependants may belong to another runner's scheduler: they are told through it, under the same lock.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    CRASHED,
    DONE,
    FAILED,
    NOT_READY,
    READY,
    RUNNING,
    SENT,
    WAITING,
    Batch,
    Outcome,
)
from manyhands.context import LOCK
from manyhands.engine.values import upstream_error
from manyhands.exceptions import TaskRunTimeout, WaitCycle
from manyhands.futures.maps import NO_VALUE, MapRecord, Span
from manyhands.futures.run import TaskFuture
from manyhands.scheduling.batching import Durations
from manyhands.states import TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from manyhands.engine.inputs import Input
    from manyhands.futures.blocking import Wanted
    from manyhands.scheduling.backend import Capabilities
    from manyhands.states import State

__all__ = [
    "CROWDED",
    "DRAINED",
    "ELEMENT",
    "INTERRUPT",
    "LAUNCH",
    "LOOP",
    "OTHER",
    "RECORD",
    "SETTLED",
    "TIMER",
    "WAKE",
    "Scheduler",
]

# Effects: (kind, subject, ...).
LAUNCH = 1  # batch
WAKE = 2  # worker: an idle one, something is ready
CROWDED = 3  # something is ready and nobody is idle
LOOP = 4  # async runs are ready
SETTLED = 5  # future: wake its waiters, call its callbacks, log its end
RECORD = 6  # map record: wake who waits for the whole
TIMER = 7  # future, seconds: call `due` then
INTERRUPT = 8  # future: stop what still runs of it
OTHER = 9  # dispatcher of another runner: it has effects to carry out
DRAINED = 10  # no run is open any more
ELEMENT = 11  # map record, index: an element completed of which nobody has a future


class Scheduler:
    """The state of one entered runner.

    Args:
        capabilities: of the backend.
        limit: the most runs that may run at once, where the backend pulls; `None` for no bound.

    Attributes:
        open: runs that have not ended.
        busy: runs that hold one of the `limit` places (pulling backends), where they are counted.
        ready: what could start now, in order: futures, and map records with unclaimed elements.
        ready_async: the same for coroutines, where the backend pulls.
        waiting: runs whose upstreams have not all ended.
        delayed: runs that wait for their retry.
        finished: ends so far.
        idle: workers that found nothing to take (pulling backends).
        effects: what is to be done, in order.
        tells_ends: whether completions that nobody waits for are effects too (somebody logs them).
        tells_drained: whether somebody waits for `open` to become 0.
    """

    def __init__(self, capabilities: Capabilities, limit: int | None = None) -> None:
        self.capabilities = capabilities
        self.pulls = capabilities.pulls
        self.policy = capabilities.policy
        self.limit = limit
        self.counting = False
        self.busy = 0
        self.ready: deque[TaskFuture[Any] | MapRecord[Any]] = deque()
        self.ready_async: deque[TaskFuture[Any] | MapRecord[Any]] = deque()
        self.idle: list[Any] = []
        self.resuming: deque[Any] = deque()
        self.growable = self.pulls
        self.waiting: set[TaskFuture[Any]] = set()
        self.delayed: set[TaskFuture[Any]] = set()
        self.tells_ends = False
        self.tells_drained = False
        self.durations = Durations()
        self.effects: deque[tuple[Any, ...]] = deque()
        self.slots: dict[int, int] = {}
        self.batches: dict[int, tuple[Batch, set[int]]] = {}
        self._submitted = itertools.count()
        self._mapped = 0
        self._ended = itertools.count()
        self._batch_number = 0

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
        """A run that waits for nothing. Hot; without the lock where the backend pulls."""
        next(self._submitted)
        if self.pulls and not future._task.is_async:
            future._start = True
            self.ready.append(future)
            if self.idle or self.growable:
                with LOCK:
                    self._call_worker()
        else:
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
        self.waiting.discard(future)
        future._phase = READY
        self._push(future)
        self._tell_wanting(future._details().wanted)

    def submit_map(self, record: MapRecord[Any]) -> None:
        """All runs of a map, none of which waits for anything."""
        self._mapped += record.size
        self._push_record(record, last=True)

    def _push(self, future: TaskFuture[Any]) -> None:
        future._start = True
        if not self.pulls:
            self.ready.append(future)
            if self.slots:
                self._fill()
        elif future._task.is_async:
            self._count_places()
            self.ready_async.append(future)
            self.effects.append((LOOP,))
        else:
            self.ready.append(future)
            self._call_worker()

    def _push_record(self, record: MapRecord[Any], last: bool) -> None:
        if record.queued:
            return
        record.queued = True
        coroutines = self.pulls and record.task.is_async
        lane = self.ready_async if coroutines else self.ready
        if last:
            lane.append(record)
        else:
            lane.appendleft(record)
        if not self.pulls:
            self._fill()
        elif coroutines:
            self._count_places()
            self.effects.append((LOOP,))
        else:
            self._call_worker(record.size)

    def _call_worker(self, count: int = 1) -> None:
        while self.idle and count:
            self.effects.append((WAKE, self.idle.pop()))
            count -= 1
        if count and self.growable:
            self.growable = False
            self.effects.append((CROWDED,))

    # ------------------------------------------------------------------ pulled: a worker takes and gives back

    def pop(self) -> TaskFuture[Any] | None:
        """The next run, claimed, if it is a single one that can be had without the lock. Hot; takes no lock."""
        ready = self.ready
        while True:
            try:
                if type(ready[0]) is not TaskFuture:
                    return None
                item = ready.popleft()
            except IndexError:
                return None
            if type(item) is not TaskFuture:  # another thread took the one that was seen
                with LOCK:
                    ready.appendleft(item)
                return None
            if item._claim():
                return item

    def take(self, worker: Any) -> TaskFuture[Any] | Span | None:
        """What an idle worker is to run next; `None` if there is nothing, and then it counts as idle."""
        if self.counting and self.limit is not None and self.busy >= self.limit:
            self.idle.append(worker)
            return None
        work = self._first()
        if work is None:
            self.idle.append(worker)
            work = self._first()  # what was submitted before the worker could be seen as idle
            if work is None:
                return None
            if worker in self.idle:
                self.idle.remove(worker)
        self.occupied(worker)
        return work

    def _first(self) -> TaskFuture[Any] | Span | None:
        ready = self.ready
        while ready:
            item = ready.popleft()
            if type(item) is TaskFuture:
                if item._claim():
                    return item
                continue
            assert isinstance(item, MapRecord)
            span = self._take_span(item)
            if item.unclaimed:
                ready.appendleft(item)
                if self.idle:
                    self._call_worker()
            else:
                item.queued = False
            if span is not None:
                return span
        return None

    # Places: how many runs may run at once. Threads are bounded by being so many; they are counted only since there
    # was a coroutine, which shares the bound with them.

    def _count_places(self) -> None:
        self.counting = self.limit is not None

    def occupied(self, worker: Any) -> None:
        """A worker has begun a run."""
        if self.counting:
            worker.counted = True
            self.busy += 1

    def vacated(self, worker: Any) -> None:
        """A worker's run has ended, or waits."""
        if worker.counted:
            worker.counted = False
            self.vacate()

    def take_async(self, most: int) -> list[TaskFuture[Any]]:
        """Up to `most` coroutines' runs for the loop."""
        taken: list[TaskFuture[Any]] = []
        ready = self.ready_async
        if self.limit is not None:
            most = min(most, self.limit - self.busy)
        while ready and len(taken) < most:
            item = ready[0]
            if type(item) is TaskFuture:
                ready.popleft()
                future = item
            else:
                start, stop = item.unclaimed[0]  # type: ignore[union-attr]
                future = item.materialize(start)  # type: ignore[union-attr]
                item.since[start] = item.submitted  # type: ignore[union-attr]
                if start + 1 < stop:
                    item.unclaimed[0] = (start + 1, stop)  # type: ignore[union-attr]
                else:
                    item.unclaimed.popleft()  # type: ignore[union-attr]
                    if not item.unclaimed:  # type: ignore[union-attr]
                        ready.popleft()
                        item.queued = False  # type: ignore[union-attr]
            if future._claim():
                taken.append(future)
        self.busy += len(taken)
        return taken

    def _take_span(self, record: MapRecord[Any]) -> Span | None:
        if not record.unclaimed:
            return None
        start, stop = record.unclaimed[0]
        seconds, observed = self.durations.of(record.task)
        size = self.policy.size(seconds, observed, stop - start, 1, None)
        if start + size >= stop:
            record.unclaimed.popleft()
            size = stop - start
        else:
            record.unclaimed[0] = (start + size, stop)
        span = Span(record, start, start + size)
        record.spans.append(span)
        return span

    def take_back(self, span: Span) -> None:
        """What a worker has not started of a span becomes ready again, for others."""
        rest = span.rest()
        if rest is not None:
            span.record.unclaimed.appendleft(rest)
            self._push_record(span.record, last=False)
            self._tell_wanting(span.record.wanted)

    def vacate(self) -> None:
        """A place among the `limit` is free again (its run ended, or waits)."""
        self.busy -= 1
        if self.limit is None:
            return
        if self.resuming:
            self.busy += 1
            self.resuming.popleft().resume()
        elif self.ready and self.idle:
            self.effects.append((WAKE, self.idle.pop()))
        elif self.ready_async:
            self.effects.append((LOOP,))

    def occupy(self, who: Any) -> bool:
        """A run that had waited goes on: takes a place, or queues for one (`who.resume()` is called then)."""
        if self.limit is None or self.busy < self.limit:
            self.busy += 1
            return True
        self.resuming.append(who)
        return False

    # ------------------------------------------------------------------ waits of running runs

    def wait_for(
        self, wanted: Wanted, helper: Any, running: Sequence[TaskFuture[Any]]
    ) -> TaskFuture[Any] | Span | None:
        """A worker is about to wait: what it can run itself meanwhile, of what it waits for.

        Only the awaited run, or what that needs; claimed for the caller. If there is nothing, `helper` is noted with
        all that may become startable, and `helper.look_again()` is called then.

        Args:
            wanted: what it waits for.
            helper: the worker.
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
                span = self._look_at_record(item, helper, running)
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
                and helper.serves(future._dispatcher)
                and future._dispatcher.scheduler.claim(future)
            ):
                return future
            if detail.wanted is None:
                detail.wanted = []
            if helper not in detail.wanted:
                detail.wanted.append(helper)
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
        self, record: MapRecord[Any], helper: Any, running: Sequence[TaskFuture[Any]]
    ) -> Span | None:
        if any(0 <= run._number - record.base < record.size for run in running):
            raise WaitCycle(run_name=running[-1].name, awaited=f"a map of {record.task.name}")
        if helper.serves(record.dispatcher) and not record.task.is_async:
            span = record.dispatcher.scheduler.claim_span(record)
            if span is not None:
                return span
        if helper not in record.wanted:
            record.wanted.append(helper)
        return None

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """Takes some elements of a map out of their turn, wherever they are queued."""
        self._gather(record)
        span = self._take_span(record)
        if span is not None:
            if record.unclaimed:
                self._push_record(record, last=False)
        return span

    def _gather(self, record: MapRecord[Any]) -> None:
        """Makes all that no worker has started of a map unclaimed."""
        for span in record.spans:
            rest = span.rest()
            if rest is not None:
                record.unclaimed.append(rest)

    def claim(self, future: TaskFuture[Any]) -> bool:
        """Takes a ready run out of its turn, wherever it is queued."""
        if future._task.is_async:
            return False  # the loop runs it
        return self._pick(future) and future._claim()

    def _pick(self, future: TaskFuture[Any]) -> bool:
        """Takes an element that no worker has begun out of its map; True also for what is no such element."""
        detail = future._detail
        if detail is None or detail.origin is None or future._call is not None:
            return True
        record, index = detail.origin
        self._gather(record)
        for place, (start, stop) in enumerate(record.unclaimed):
            if start <= index < stop:
                del record.unclaimed[place]
                if index + 1 < stop:
                    record.unclaimed.insert(place, (index + 1, stop))
                if start < index:
                    record.unclaimed.insert(place, (start, index))
                if record.unclaimed:
                    self._push_record(record, last=False)
                return True
        return False  # a worker has begun it, or is just about to

    def _tell_wanting(self, wanted: list[Any] | None) -> None:
        if wanted:
            for helper in wanted:
                helper.look_again()
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

    # ------------------------------------------------------------------ runs end

    def complete(self, future: TaskFuture[Any], value: Any, now: float) -> None:
        """A claimed run has completed, as plainly as most. Hot; takes no lock unless somebody is to be told."""
        try:
            del future._open
        except AttributeError:
            return
        future._outcome = value
        future._since = now
        future._phase = COMPLETED
        future._call = None
        next(self._ended)
        if future._detail is not None or self.tells_ends or self.tells_drained:
            with LOCK:
                self._tell_end(future, now)

    def ended(self, future: TaskFuture[Any], outcome: Outcome, now: float) -> None:
        """An attempt has ended, as its engine says; a late one is dropped."""
        if future._phase >= DONE:
            return
        if outcome.name is not None:
            future._details().name = outcome.name
        if outcome.phase != AWAITING_RETRY:
            self.settle(future, outcome.phase, outcome.value, now, outcome.state)
            return
        self.cancel_timer(future)
        detail = future._details()
        detail.overdue = False
        call = future._call
        assert call is not None  # a run that has not ended has its call
        call.attempt += 1
        future._since = now
        future._outcome = outcome.value
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
        self, future: TaskFuture[Any], phase: int, value: Any, now: float, state: Any = None
    ) -> bool:
        """Ends a run, and tells whatever its end makes ready or impossible.

        Returns:
            False if it had already ended; nothing is changed then.
        """
        try:
            del future._open
        except AttributeError:
            return False
        future._outcome = value
        future._since = now
        if phase != COMPLETED or state is not None:
            detail = future._details()
            detail.state = state
            detail.traceback = value.__traceback__ if isinstance(value, BaseException) else None
        future._phase = phase
        future._call = None
        next(self._ended)
        self._tell_end(future, now)
        return True

    def _tell_end(self, future: TaskFuture[Any], now: float) -> None:
        detail = future._detail
        if detail is not None or self.tells_ends or future._phase != COMPLETED:
            self.effects.append((SETTLED, future))
        if detail is not None:
            self.cancel_timer(future)
            self.waiting.discard(future)
            self.delayed.discard(future)
            detail.upstreams = ()
            detail.waits_on = None
            if detail.origin is not None:
                record, index = detail.origin
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
        if future._phase == COMPLETED:
            if record.kept:
                record.values[index] = future._outcome
        else:
            record.values[index] = NO_VALUE
            if not record.failed:
                record.failed = True
                if record.waiters:
                    self.effects.append((RECORD, record))
        record.release_arguments(index)
        if next(record.counter) == record.size:
            self.record_ended(record)

    def record_ended(self, record: MapRecord[Any]) -> None:
        """The last element of a map has ended."""
        record.ended = True
        record.wanted.clear()
        self.effects.append((RECORD, record))

    def element_completed(self, record: MapRecord[Any], index: int, value: Any, now: float) -> None:
        """An element of which, so far, nobody wanted more than its value has completed. Hot; takes no lock as a rule."""
        if record.kept:
            record.values[index] = value
        record.since[index] = now
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
        next(self._ended)
        if next(record.counter) == record.size:
            with LOCK:
                self.record_ended(record)
        if self.tells_ends or self.tells_drained:
            with LOCK:
                if self.tells_ends:
                    self.effects.append((ELEMENT, record, index))
                if self.tells_drained and self.open == 0:
                    self.effects.append((DRAINED,))

    def upstream_ended(
        self, future: TaskFuture[Any], upstream: TaskFuture[Any], allow_failure: bool
    ) -> None:
        """One of the runs that a run waits for has ended."""
        if future._phase != WAITING:
            return
        if upstream._phase != COMPLETED and not allow_failure:
            self._not_ready(future, upstream)
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
        if not self.settle(future, CANCELLED, None, now):
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
            self.time_out(future, limit, now)
        else:
            future._details().overdue = True
        self.effects.append((INTERRUPT, future))
        return True

    def time_out(self, future: TaskFuture[Any], limit: float, now: float) -> None:
        """Ends a run as TimedOut."""
        error = TaskRunTimeout(run_name=future.name, timeout=limit)
        self.settle(future, FAILED, error, now, TimedOut(str(error), data=error, timestamp=now))

    def cancel_all(self, now: float) -> None:
        """Ends every run as CANCELLED that is not executing on a worker of this process."""
        for future in [*self.waiting, *self.delayed]:
            self.cancel(future, now)
        for lane in (self.ready, self.ready_async):
            for item in list(lane):
                if type(item) is TaskFuture:
                    self.cancel(item, now)
                else:
                    self._cancel_unclaimed(item, now)  # type: ignore[arg-type]
            lane.clear()
        for batch, positions in list(self.batches.values()):
            for position in positions:
                if type(batch.runs) is Span:
                    self.cancel(batch.runs.record.materialize(batch.runs.start + position), now)
                else:
                    self.cancel(batch.runs[position], now)

    def _cancel_unclaimed(self, record: MapRecord[Any], now: float) -> None:
        self._gather(record)
        ranges = list(record.unclaimed)
        record.unclaimed.clear()
        record.queued = False
        for start, stop in ranges:
            for index in range(start, stop):
                future = record.materialize(index)
                future._claim()
                self.settle(future, CANCELLED, None, now)

    def cancel_timer(self, future: TaskFuture[Any]) -> None:
        detail = future._detail
        if detail is not None and detail.timer is not None:
            detail.timer.cancel()
            detail.timer = None

    # ------------------------------------------------------------------ pushed: batches

    def slots_changed(self, numbers: Iterable[int]) -> None:
        """These slots exist now."""
        self.slots = {number: self.slots.get(number, 0) for number in numbers}
        self._fill()

    def _fill(self) -> None:
        """Launches batches while something is ready and a slot has room."""
        while self.ready:
            slot = min(self.slots, key=self.slots.__getitem__, default=None)
            if slot is None or self.slots[slot] >= self.policy.window:
                return
            idle = sum(1 for in_flight in self.slots.values() if in_flight == 0)
            if idle == 0 and self._few_ready():
                return  # it is better company for what comes while the slots are busy
            batch = self._make_batch(slot, idle or len(self.slots))
            if batch is None:
                return
            self.slots[slot] += 1
            self.effects.append((LAUNCH, batch))

    def _few_ready(self) -> bool:
        """Whether what is ready would fill less than a quarter of a message."""
        item = self.ready[0]
        seconds, observed = self.durations.of(item._task if type(item) is TaskFuture else item.task)  # type: ignore[union-attr]
        if seconds is None or seconds >= self.policy.alone or type(item) is not TaskFuture:
            return False
        most = self.policy.size(seconds, observed, 1 << 30, 1, None)
        return len(self.ready) < most // 4

    def _make_batch(self, slot: int, spread: int) -> Batch | None:
        ready = self.ready
        runs: Any = []
        total = 0.0
        limit = 1 << 30
        known = True
        while ready and len(runs) < limit:
            item = ready[0]
            task = item._task if type(item) is TaskFuture else item.task  # type: ignore[union-attr]
            seconds, observed = self.durations.of(task)
            if type(item) is MapRecord:
                if runs:
                    break
                if not item.unclaimed:
                    ready.popleft()
                    item.queued = False
                    continue
                return self._record_batch(item, slot, spread, seconds, observed)
            assert isinstance(item, TaskFuture)
            if item._phase != READY or not hasattr(item, "_start"):
                ready.popleft()
                continue
            size = self.policy.size(
                seconds, observed, len(ready) + len(runs), spread, task.batch_limit
            )
            if runs and (
                size == 1
                or total + (seconds or 0.0) > self.policy.target
                or task.is_async != runs[0]._task.is_async
            ):
                break
            if item._detail is not None and item._detail.alone:
                if runs:
                    break
                size = 1
            limit = min(limit, size)
            ready.popleft()
            item._claim()
            item._phase = SENT
            runs.append(item)
            total += seconds or 0.0
            known = known and seconds is not None
        if not runs:
            return None
        return self._new_batch(slot, runs, total if known else None)

    def _record_batch(
        self, record: MapRecord[Any], slot: int, spread: int, seconds: float | None, observed: int
    ) -> Batch:
        start, stop = record.unclaimed[0]
        size = self.policy.size(seconds, observed, stop - start, spread, record.task.batch_limit)
        if start + size >= stop:
            size = stop - start
            record.unclaimed.popleft()
            if not record.unclaimed:
                self.ready.popleft()
                record.queued = False
        else:
            record.unclaimed[0] = (start + size, stop)
        for index in range(start, start + size):
            future = record.futures.get(index)
            if future is not None and future._claim():
                future._phase = SENT
        span = Span(record, start, start + size)
        return self._new_batch(slot, span, None if seconds is None else seconds * size)

    def _new_batch(self, slot: int, runs: Any, seconds: float | None) -> Batch:
        self._batch_number += 1
        batch = Batch(self._batch_number, slot, runs, seconds)
        self.batches[batch.number] = (batch, set(range(len(batch))))
        return batch

    def batch_reported(
        self, number: int, positions: Sequence[int], values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """Runs of a batch have ended; late reports are dropped.

        Args:
            number: the batch.
            positions: of the runs in it.
            values: for each its value, or an `Outcome` where there is more to say.
            ends: when each ended, seconds since the epoch.
        """
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        span = batch.runs if type(batch.runs) is Span else None
        for position, value, end in zip(positions, values, ends, strict=True):
            if position not in open_positions:
                continue
            open_positions.discard(position)
            if span is not None:
                index = span.start + position
                record = span.record
                if type(value) is not Outcome:
                    self.element_completed(record, index, value, end)
                    continue
                future = record.materialize(index)
                if future._call is None and future._phase < DONE:
                    future._call = record.call(index)
            else:
                future = batch.runs[position]
            if type(value) is Outcome:
                self.ended(future, value, end)
            else:
                self.settle(future, COMPLETED, value, end)

    def batch_observed(self, number: int, seconds: float, count: int) -> None:
        """Runs of a batch took this long together."""
        entry = self.batches.get(number)
        if entry is not None and count:
            runs = entry[0].runs
            task = runs.record.task if type(runs) is Span else runs[0]._task
            self.durations.observe(task, seconds, count)

    def batch_handed_back(self, number: int, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        back = sorted(open_positions.intersection(positions))
        open_positions.difference_update(back)
        self._again(batch, back)
        self._fill()

    def batch_split(self, number: int) -> None:
        """A batch could not be unpacked: its runs become ready again, to travel alone."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        for position in open_positions:
            if type(batch.runs) is Span:
                index = batch.runs.start + position
                future = batch.runs.record.materialize(index)
                if future._phase < DONE and future._call is None:
                    future._call = batch.runs.record.call(index)
            else:
                future = batch.runs[position]
            future._details().alone = True
        for position in sorted(open_positions, reverse=True):
            future = (
                batch.runs.record.futures[batch.runs.start + position]
                if type(batch.runs) is Span
                else batch.runs[position]
            )
            if future._phase < DONE:
                self._first_again(future)
        open_positions.clear()
        self.batch_closed(number)

    def batch_closed(self, number: int) -> None:
        """A batch has said all; what it never spoke of was not started and becomes ready again."""
        entry = self.batches.pop(number, None)
        if entry is None:
            return
        batch, open_positions = entry
        if batch.slot in self.slots:
            self.slots[batch.slot] -= 1
        self._again(batch, sorted(open_positions))
        self._fill()

    def _again(self, batch: Batch, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again, before what came later."""
        if type(batch.runs) is Span:
            record = batch.runs.record
            for position in reversed(positions):
                index = batch.runs.start + position
                future = record.futures.get(index)
                if future is not None:
                    if future._phase >= DONE:
                        continue
                    future._phase = READY
                    future._start = True
                first = record.unclaimed[0] if record.unclaimed else (-1, -1)
                if first[0] == index + 1:
                    record.unclaimed[0] = (index, first[1])
                else:
                    record.unclaimed.appendleft((index, index + 1))
            if record.unclaimed and not record.queued:
                record.queued = True
                self.ready.appendleft(record)
            return
        for position in reversed(positions):
            future = batch.runs[position]
            if future._phase < DONE:
                self._first_again(future)

    def _first_again(self, future: TaskFuture[Any]) -> None:
        future._phase = READY
        future._start = True
        self.ready.appendleft(future)

    def batch_started(self, number: int, position: int) -> None:
        """A run of a batch has begun."""
        entry = self.batches.get(number)
        if entry is None or type(entry[0].runs) is Span:
            return
        future = entry[0].runs[position]
        if future._phase == SENT:
            future._phase = RUNNING

    def batch_lost(
        self,
        number: int,
        error: Callable[[str], BaseException],
        maybe_started: Sequence[int] | None,
        now: float,
    ) -> None:
        """A batch's worker died: what may have started is CRASHED or, within `crash_retries`, sent again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        begun = (
            open_positions if maybe_started is None else open_positions.intersection(maybe_started)
        )
        for position in sorted(begun):
            open_positions.discard(position)
            if type(batch.runs) is Span:
                record = batch.runs.record
                index = batch.runs.start + position
                future = record.materialize(index)
                if future._call is None and future._phase < DONE:
                    future._call = record.call(index)
            else:
                future = batch.runs[position]
            if future._phase >= DONE:
                continue
            detail = future._details()
            if detail.crashes < future._task.crash_retries:
                detail.crashes += 1
                self._first_again(future)
            else:
                self.settle(future, CRASHED, error(future.name), now)
        self.batch_closed(number)


def _reached(counter: itertools.count[int]) -> int:
    """How far a counter has come; the interpreter has no other way to ask."""
    return int(repr(counter)[6:-1])
