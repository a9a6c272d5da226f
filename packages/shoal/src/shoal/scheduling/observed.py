"""Schedulers and a ledger that tell an observer what they decide: each overrides what is to be told, and nothing else.

A runner that is entered while somebody observes is made of these, any other of those that they derive from, so that who
does not observe pays nothing. Pure, like what they derive from: the observer looks at the clock.

May import the schedulers, `ledger` and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from shoal.calls import AWAITING_RETRY, DONE, RUNNING, Outcome
from shoal.futures.maps import Span
from shoal.scheduling.caps import Caps
from shoal.scheduling.ledger import Ledger
from shoal.scheduling.pulling import PullingScheduler
from shoal.scheduling.pushing import PushingScheduler
from shoal.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shoal.calls import Batch
    from shoal.engine.inputs import Input
    from shoal.futures.blocking import Wanted
    from shoal.futures.maps import MapRecord
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.capabilities import Capabilities, LedgerRules
    from shoal.scheduling.caps import Line
    from shoal.scheduling.in_flight import Departure, InFlight, WorkerState
    from shoal.specs import TaskSpec

__all__ = [
    "ObservedLedger",
    "ObservedPullingScheduler",
    "ObservedPushingScheduler",
    "RunnerObserver",
    "Several",
    "attempt_of",
    "observer_of",
]


class RunnerObserver(Protocol):
    """Is told of the runs of one entered runner.

    Of runs of a map it is told by the span or the batch: that these have completed one after another, each beginning when
    the one before it ended. Only of an element that did anything else it is told by itself, and then that counts.

    `attempt` counts from 1, attempts that were lost with their worker included. Times are seconds since the epoch; those of
    `reported` are the worker's clock.

    Attributes:
        inside: whether workers in other processes are to tell what happens inside their runs.
    """

    inside: bool

    def started(self, dispatcher: Any) -> None:
        """The runner has started, and takes runs; `dispatcher.scheduler` knows how many are open."""

    def left(self) -> None:
        """The runner has been left."""

    def submitted(self, run: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        """A single run was submitted, which waits for the futures in its inputs."""

    def mapped(self, record: MapRecord[Any]) -> None:
        """A map was submitted, whose runs wait for nothing; `record.counter` counts their ends."""

    def queued(self, run: TaskFuture[Any]) -> None:
        """A run asks for slots of its limits."""

    def waits(self, run: TaskFuture[Any], wanted: Wanted | None) -> None:
        """A run that executes waits for these from now; `None` once it waits no more."""

    def capped(self, tasks: Sequence[TaskSpec], full: bool) -> None:
        """Runs of these tasks find no place under their caps from now on, or one again."""

    def ready(self, run: TaskFuture[Any]) -> None:
        """A run that had waited for others, for slots or for its retry waits for nothing but a worker."""

    def ran(self, run: TaskFuture[Any], attempt: int, began: float, ended: float) -> None:
        """A run is about to complete, on this thread; if it is cancelled at that moment, `settled` tells, too, and counts."""

    def took(self, span: Span) -> None:
        """A thread is about to go through consecutive elements of a map."""

    def went_through(
        self, record: MapRecord[Any], start: int, stop: int, began: float, ended: float
    ) -> None:
        """This thread has gone through consecutive elements of a map; `record.since` has the ends of them."""

    def settled(self, run: TaskFuture[Any], attempt: int, began: float | None, now: float) -> None:
        """A run has ended, and did not just complete; `began` is `None` if it had not begun, or if a report tells."""

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        """An element of a map was cancelled before a worker took it."""

    def retries(
        self,
        run: TaskFuture[Any],
        attempt: int,
        began: float | None,
        now: float,
        outcome: Outcome,
    ) -> None:
        """An attempt has ended, and another will follow in `outcome.delay` seconds."""

    def sent(self, batch: Batch) -> None:
        """A batch leaves for a worker."""

    def arrived(self, number: int) -> None:
        """A worker has begun a batch."""

    def at(self, number: int, worker: WorkerState) -> None:
        """It is known which worker has a batch."""

    def packed(self, batch: Batch, size: int) -> None:
        """A batch is about to be given to a worker, as a message of so many bytes, large arguments among them."""

    def sized(self, number: int, sizes: Mapping[int, int]) -> None:
        """Of a batch whose report comes next: bytes of the results that were pickled, by position."""

    def told_inside(self, told: bytes) -> None:
        """A worker in another process tells what happened inside its runs, as `recording.inside` has it."""

    def reported(
        self, batch: Batch, positions: Sequence[int], ends: Sequence[float], seconds: float
    ) -> None:
        """Runs of a batch have ended, which took so many seconds together (0 if that is not known)."""

    def lost(
        self, batch: Batch, begun: Sequence[int], error: Callable[[str], BaseException]
    ) -> None:
        """A batch was lost with its worker, and with it these runs, which may have begun: each ends, or is sent again."""

    def sent_again(self, run: TaskFuture[Any], now: float) -> None:
        """One of these, which `crash_retries` allows another attempt, is about to be sent again."""

    def closed(self, number: int, back: int) -> None:
        """A batch has said all; so many of its runs come back, to be sent again."""

    def joined(self, worker: WorkerState) -> None:
        """A worker is there."""

    def departed(self, worker: WorkerState, departure: Departure | None) -> None:
        """A worker has gone, or is about to."""


def observer_of(told: Sequence[RunnerObserver]) -> RunnerObserver | None:
    """One observer for all."""
    if len(told) > 1:
        return cast("RunnerObserver", Several(told))
    return told[0] if told else None


class Several:
    """Tells several observers.

    Args:
        told: they.
    """

    def __init__(self, told: Sequence[RunnerObserver]) -> None:
        self._told = told
        self.inside = any(observer.inside for observer in told)

    def __getattr__(self, name: str) -> Any:
        methods = [getattr(observer, name) for observer in self._told]

        def tell(*args: Any) -> None:
            for method in methods:
                method(*args)

        setattr(self, name, tell)  # made once for each event
        return tell


def attempt_of(run: TaskFuture[Any]) -> int:
    """Which attempt of a run comes next, or is under way, those counted that were lost with their worker."""
    call, detail = run._call, run._detail
    attempt = call.attempt if call is not None else 1
    return attempt + detail.crashes if detail is not None else attempt


class ObservedCaps(Caps):
    """As `Caps`, and tells which tasks find no place.

    Args:
        observer: is told.
        whole: see `Caps`.
    """

    def __init__(self, observer: RunnerObserver, whole: int | None) -> None:
        super().__init__(whole)
        self._observer = observer
        self._tasks: dict[Line, dict[TaskSpec, None]] = {}
        self._under: dict[Any, list[Line]] = {}  # by cap
        self._full: set[Line] = set()

    def line_of(self, task: TaskSpec) -> Line | None:
        """See `Caps`."""
        line = super().line_of(task)
        if line is not None:
            if line not in self._tasks:
                self._tasks[line] = {}
                for cap in line.caps:
                    self._under.setdefault(cap, []).append(line)
            self._tasks[line][task] = None
        return line

    def take(self, line: Line, count: int = 1) -> None:
        """See `Caps`."""
        super().take(line, count)
        self._look(line)

    def free(self, line: Line, count: int = 1) -> None:
        """See `Caps`."""
        super().free(line, count)
        self._look(line)

    def _look(self, changed: Line) -> None:
        """A line, and others under a cap of its, may be full by that, or full no more."""
        for cap in changed.caps:
            for line in self._under.get(cap, ()):
                full = line.room() <= 0
                if full != (line in self._full):
                    (self._full.add if full else self._full.discard)(line)
                    self._observer.capped(list(self._tasks[line]), full)


class _Observed:
    """What both kinds of schedulers tell."""

    observer: RunnerObserver

    def new_caps(self, whole: int | None = None) -> Caps:
        return ObservedCaps(self.observer, whole)

    def now_waits(self, future: TaskFuture[Any], wanted: Wanted | None) -> None:
        self.observer.waits(future, wanted)
        super().now_waits(future, wanted)  # type: ignore[misc]

    def submit(self, future: TaskFuture[Any]) -> None:
        self.observer.submitted(future, ())
        super().submit(future)  # type: ignore[misc]  # of the scheduler

    def submit_after(self, future: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        self.observer.submitted(future, inputs)
        super().submit_after(future, inputs)  # type: ignore[misc]

    def submit_map(self, record: MapRecord[Any]) -> None:
        self.observer.mapped(record)
        super().submit_map(record)  # type: ignore[misc]

    def _unblock(self, future: TaskFuture[Any]) -> None:
        if future._details().limited:
            self.observer.queued(future)
        super()._unblock(future)  # type: ignore[misc]

    def _now_ready(self, future: TaskFuture[Any]) -> None:
        self.observer.ready(future)
        super()._now_ready(future)  # type: ignore[misc]

    def due(self, future: TaskFuture[Any]) -> None:
        if future._phase == AWAITING_RETRY:
            self.observer.ready(future)
        super().due(future)  # type: ignore[misc]

    def ended(self, future: TaskFuture[Any], outcome: Outcome, now: float) -> None:
        open_before = future._phase < DONE
        attempt, began = attempt_of(future), self._began(future)
        super().ended(future, outcome, now)  # type: ignore[misc]
        if open_before and future._phase == AWAITING_RETRY:
            self.observer.retries(future, attempt, began, now, outcome)

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
        attempt = attempt_of(future)
        began = None if executes is False else self._began(future)
        settled: bool = super().settle(  # type: ignore[misc]
            future, phase, value, now, state, executes=executes
        )
        if settled:
            self.observer.settled(future, attempt, began, now)
        return settled

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        self.observer.element_cancelled(record, index, now)
        super().element_cancelled(record, index, now)  # type: ignore[misc]

    def _began(self, future: TaskFuture[Any]) -> float | None:
        """When a run began that executes in this process."""
        return None


class ObservedPullingScheduler(_Observed, PullingScheduler):
    """As `PullingScheduler`, and tells.

    Args:
        observer: is told.
    """

    def __init__(
        self, capabilities: Capabilities, limit: int | None, observer: RunnerObserver
    ) -> None:
        super().__init__(capabilities, limit)
        self.observer = observer

    def submit(self, future: TaskFuture[Any]) -> None:
        """See `Scheduler`."""
        self.observer.submitted(future, ())
        PullingScheduler.submit(self, future)

    def _submit_capped(self, future: TaskFuture[Any]) -> None:
        self.observer.submitted(future, ())
        Scheduler.submit(self, future)

    def complete(self, future: TaskFuture[Any], value: Any, now: float) -> None:
        """See `Scheduler`."""
        if hasattr(future, "_open"):  # told first: who waits for the run may look at once
            self.observer.ran(future, attempt_of(future), future._since, now)
        PullingScheduler.complete(self, future, value, now)

    def _take_span(self, record: MapRecord[Any]) -> Span | None:
        span = super()._take_span(record)
        if span is not None:
            self.observer.took(span)
        return span

    def span_ended(self, worker: Any, span: Span, count: int, began: float, ended: float) -> None:
        """See `PullingScheduler`."""
        start = span.start
        self.observer.went_through(span.record, start, start + count, began, ended)
        super().span_ended(worker, span, count, began, ended)

    def _began(self, future: TaskFuture[Any]) -> float | None:
        return future._since if future._is_running() else None


class ObservedPushingScheduler(_Observed, PushingScheduler):
    """As `PushingScheduler`, and tells.

    Args:
        observer: is told.
    """

    def __init__(self, capabilities: Capabilities, observer: RunnerObserver) -> None:
        super().__init__(capabilities)
        self.observer = observer
        self._seconds = 0.0  # of the report that is about to come
        self._reports = False  # at the moment

    def launch(self, batch: Batch) -> None:
        """See `SendingScheduler`."""
        self.observer.sent(batch)
        super().launch(batch)

    def batch_arrived(self, number: int) -> None:
        """See `PushingScheduler`."""
        self.observer.arrived(number)
        super().batch_arrived(number)

    def batch_observed(
        self, number: int, seconds: float, count: int, *, at_least: bool = False
    ) -> None:
        """See `PushingScheduler`."""
        self._seconds = 0.0 if at_least else seconds
        super().batch_observed(number, seconds, count, at_least=at_least)

    def batch_reported(
        self, number: int, positions: Sequence[int], values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """See `PushingScheduler`."""
        seconds, self._seconds = self._seconds, 0.0
        entry = self.batches.get(number)
        if entry is not None:
            batch, still_open = entry
            if still_open.issuperset(positions):
                self.observer.reported(batch, positions, ends, seconds)
            else:
                told = [place for place, p in enumerate(positions) if p in still_open]
                self.observer.reported(
                    batch, [positions[p] for p in told], [ends[p] for p in told], seconds
                )
        self._reports = True
        try:
            super().batch_reported(number, positions, values, ends)
        finally:
            self._reports = False

    def _began(self, future: TaskFuture[Any]) -> float | None:
        return future._since if future._phase == RUNNING and not self._reports else None

    def batch_closed(self, number: int, blocked_run: Any = None) -> None:
        """See `PushingScheduler`."""
        entry = self.batches.get(number)
        if entry is not None:
            self.observer.closed(number, len(entry[1]))
        super().batch_closed(number, blocked_run)

    def batch_lost(
        self,
        number: int,
        error: Callable[[str], BaseException],
        maybe_started: Sequence[int] | None,
        now: float,
    ) -> None:
        """See `PushingScheduler`."""
        entry = self.batches.get(number)
        if entry is None:
            return  # it has been closed
        batch, still_open = entry
        begun = still_open if maybe_started is None else still_open.intersection(maybe_started)
        positions = sorted(begun)
        self.observer.lost(batch, positions, error)
        crashes = [_crashes_of(_run_at(batch, position)) for position in positions]
        super().batch_lost(number, error, maybe_started, now)
        for position, before in zip(positions, crashes, strict=True):
            run = _run_at(batch, position)
            if run is not None and _crashes_of(run) > before:
                self.observer.sent_again(run, now)


def _run_at(batch: Batch, position: int) -> TaskFuture[Any] | None:
    """The run at a position of a batch; `None` for an element of a map that nobody has spoken of by itself yet."""
    runs = batch.runs
    if type(runs) is not Span:
        return runs[position]  # type: ignore[no-any-return]
    return runs.record.futures.get(runs.start + position)


def _crashes_of(run: TaskFuture[Any] | None) -> int:
    """How often a run was lost with its worker and sent again."""
    return run._detail.crashes if run is not None and run._detail is not None else 0


class ObservedLedger(Ledger):
    """As `Ledger`, and tells.

    Args:
        observer: is told.
    """

    def __init__(
        self, scheduler: PushingScheduler, rules: LedgerRules, observer: RunnerObserver
    ) -> None:
        super().__init__(scheduler, rules)
        self._observer = observer

    def given(self, entry: InFlight, worker: WorkerState) -> bool:
        """See `Ledger`."""
        given = super().given(entry, worker)
        if given:
            self._observer.at(entry.number, worker)
        return given

    def arrived(self, worker: WorkerState, number: int) -> None:
        """See `Ledger`."""
        self._observer.at(number, worker)
        super().arrived(worker, number)

    def joined(self, worker: WorkerState) -> None:
        """See `Ledger`."""
        self._observer.joined(worker)
        super().joined(worker)

    def worker_left(
        self, worker: WorkerState, departure: Departure | None = None, *, orderly: bool = False
    ) -> None:
        """See `Ledger`."""
        if worker.departure is None and not worker.seen_off:
            self._observer.departed(worker, departure)
        super().worker_left(worker, departure, orderly=orderly)
