"""The recorder of one entered runner.

May import `events` and what lies above it.
"""

from __future__ import annotations

import threading
import time
from array import array
from math import nan
from typing import TYPE_CHECKING, Any, Protocol

from shoal.calls import AWAITING_RETRY, CANCELLED, COMPLETED, DONE, Call
from shoal.context import HERE, LOCK
from shoal.futures.maps import NO_VALUE, Span
from shoal.futures.run import TaskFuture
from shoal.names import task_run_name
from shoal.recording.events import (
    CAPPED,
    CLOSED,
    ENDED,
    LOST,
    MAPPED,
    PACKED,
    PLAIN,
    QUEUED,
    RAN,
    READY,
    REPORTED,
    RUNNER,
    SLOTS,
    SUBMITTED,
    WAITS,
    WENT,
    Ended,
    Worker,
    ending_of,
)
from shoal.scheduling.observed import attempt_of

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Mapping, Sequence

    from shoal.calls import Batch, Outcome
    from shoal.context import Scope
    from shoal.engine.inputs import Input
    from shoal.futures.blocking import Wanted
    from shoal.futures.maps import MapRecord
    from shoal.scheduling.in_flight import Departure, WorkerState
    from shoal.specs import TaskSpec

__all__ = ["RunnerRecorder"]


class _Keeper(Protocol):
    """The recorder that it belongs to; see there."""

    events: deque[tuple[Any, ...]]

    def worker(self, runner: int, thread: str, state: WorkerState | None = None) -> Worker:
        """A worker that was not known before."""

    def keep_logs(self, number: int | None = None) -> None:
        """A run did not complete."""

    def forget_runner(self, key: int) -> None:
        """A runner was left."""

    def around(self, scope: Scope | None) -> tuple[int, int]:
        """Numbers of the flow run and of the task run around whoever submits."""

    def told_inside(self, told: bytes) -> None:
        """See `RunnerObserver`."""


class _Sent:
    """A batch in flight."""

    __slots__ = ("arrived", "sent", "sizes", "worker")

    def __init__(self, sent: float, worker: int) -> None:
        self.sent = sent
        self.worker = worker
        self.arrived = nan
        # Of pickled results that were not reported yet, by position.
        self.sizes: dict[int, int] = {}


class _Going:
    """Elements of a map that a thread goes through.

    Attributes:
        began: when it began with those that were not told of yet.
        told: how many were.
    """

    __slots__ = ("began", "span", "told")

    def __init__(self, span: Span, began: float) -> None:
        self.span = span
        self.began = began
        self.told = 0


class RunnerRecorder:
    """A `RunnerObserver`. What is not thread-safe here is told with `LOCK` held.

    Args:
        recorder: keeps what it is told.
        index: of the runner in the record.
        name: of the runner's class.
        key: what the recorder knows the runner by.

    Attributes:
        inside: see `RunnerObserver`.
        flow_run: number of the flow run that entered it, as far as that is known.
        entered, has_started, has_left: when.
    """

    inside = True

    def __init__(self, recorder: _Keeper, index: int, name: str, key: int) -> None:
        self._recorder = recorder
        self._append = recorder.events.append
        self._key = key
        self._threads: dict[int, int] = {}
        self._members: dict[int, tuple[WorkerState, Worker]] = {}
        self._slots: dict[int, int] = {}
        self._sent: dict[int, _Sent] = {}
        self._going: dict[int, _Going] = {}  # by the number of their first run
        self._dispatcher: Any = None
        self._knows_workers = True
        self.index = index
        self.name = name
        self.flow_run: int | None = None
        self.entered = time.time()
        self.has_started = nan
        self.has_left: float | None = None

    def tell(self) -> None:
        """Has what is known of the runner written."""
        self._append(
            (
                RUNNER,
                self.index,
                self.name,
                self.flow_run,
                self.entered,
                self.has_started,
                self.has_left,
                self._places(),
            )
        )

    def _places(self) -> int:
        """The most runs at once, 0 if it is not known."""
        scheduler = getattr(self._dispatcher, "scheduler", None)
        if scheduler is None:
            return 0
        if hasattr(scheduler, "slots"):
            return len(scheduler.slots.in_flight)
        return getattr(scheduler, "limit", None) or 0

    # ------------------------------------------------------------------ the runner

    def started(self, dispatcher: Any) -> None:
        """See `RunnerObserver`."""
        self._dispatcher = dispatcher
        self._knows_workers = hasattr(dispatcher, "ledger")
        self.has_started = time.time()
        self.tell()

    def left(self) -> None:
        """See `RunnerObserver`."""
        self.look()
        self.has_left = time.time()
        self.tell()
        self._dispatcher = None
        for _, worker in self._members.values():
            if worker.left is None:
                worker.left = self.has_left
        self._recorder.forget_runner(self._key)

    # ------------------------------------------------------------------ runs come in

    def submitted(self, run: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        """See `RunnerObserver`."""
        call = run._call
        scope = call.scope if call is not None else None
        flow_run, submitter = self._recorder.around(scope)
        edges = None
        if inputs:
            found = [entry.future._number for entry in inputs if type(entry.future) is TaskFuture]
            edges = array("q", found)
        self._append((SUBMITTED, run._number, run._task, flow_run, submitter, run._since, edges))

    def mapped(self, record: MapRecord[Any]) -> None:
        """See `RunnerObserver`."""
        flow_run, submitter = self._recorder.around(record.scope)
        self._append(
            (MAPPED, record.base, record.size, record.task, flow_run, submitter, record.submitted)
        )

    def queued(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""
        self._append((QUEUED, run._number, time.time(), ", ".join(sorted(run._details().limited))))

    def waits(self, run: TaskFuture[Any], wanted: Wanted | None) -> None:
        """See `RunnerObserver`."""
        if wanted is None:
            self._append((WAITS, run._number, time.time(), None))
        else:
            self._append((WAITS, run._number, time.time(), in_words(wanted)))

    def capped(self, tasks: Sequence[TaskSpec], full: bool) -> None:
        """See `RunnerObserver`."""
        self._append((CAPPED, self.index, tasks, full, time.time()))

    def ready(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""
        self._append((READY, run._number, time.time()))

    # ------------------------------------------------------------------ runs end in this process

    def _here(self) -> int:
        return self._on(threading.get_ident())

    def _on(self, ident: int) -> int:
        worker = self._threads.get(ident)
        if worker is None:
            name = next((t.name for t in threading.enumerate() if t.ident == ident), "")
            worker = self._threads[ident] = self._recorder.worker(self.index, name).index
        return worker

    def ran(self, run: TaskFuture[Any], attempt: int, began: float, ended: float) -> None:
        """See `RunnerObserver`."""
        self._append((RAN, run._number, attempt, self._here(), began, ended))

    def took(self, span: Span) -> None:
        """See `RunnerObserver`."""
        self._going[span.record.base + span.start] = _Going(span, time.time())

    def went_through(
        self, record: MapRecord[Any], start: int, stop: int, began: float, ended: float
    ) -> None:
        """See `RunnerObserver`."""
        going = self._going.pop(record.base + start, None)
        if going is not None and going.told:
            start, began = start + going.told, going.began
        if start < stop:
            self._append((WENT, record.base + start, self._here(), began, record.since[start:stop]))

    def look(self) -> None:
        """Tells what threads have gone through so far, of elements of maps that they are still at."""
        if not self._going:
            return
        with LOCK:
            dispatcher = self._dispatcher
            workers = dispatcher.scheduler.workers if dispatcher is not None else ()
            at = {id(worker.span): worker for worker in workers if worker.span is not None}
            for going in list(self._going.values()):
                worker = at.get(id(going.span))
                if worker is not None:
                    self._tell_going(going, self._on(worker.frames.thread))

    def _tell_going(self, going: _Going, worker: int) -> None:
        record, first = going.span.record, going.span.start + going.told
        place = first
        while place < going.span.stop and _has_ended(record, place):
            place += 1
        if place > first:
            ends = record.since[first:place]
            self._append((WENT, record.base + first, worker, going.began, ends))
            going.told, going.began = going.told + place - first, ends[-1]

    def settled(self, run: TaskFuture[Any], attempt: int, began: float | None, now: float) -> None:
        """See `RunnerObserver`."""
        detail = run._detail
        state = detail.state if detail is not None else None
        name = state.name if state is not None else None
        completed = run._phase == COMPLETED
        error = None if completed else run._outcome
        trace = detail.traceback if detail is not None and not completed else None
        self._ended(run, attempt, began, now, run._phase, name, error, trace, 0.0)

    def retries(
        self, run: TaskFuture[Any], attempt: int, began: float | None, now: float, outcome: Outcome
    ) -> None:
        """See `RunnerObserver`."""
        self._ended(
            run, attempt, began, now, AWAITING_RETRY, None, outcome.value, None, outcome.delay
        )

    def _ended(
        self,
        run: TaskFuture[Any],
        attempt: int,
        began: float | None,
        now: float,
        phase: int,
        state: str | None,
        error: Any,
        trace: Any,
        delay: float,
    ) -> None:
        worker = self._executing(run) if began is not None else -1
        if phase != COMPLETED:
            self._recorder.keep_logs(run._number)
        detail = run._detail
        name = detail.name if detail is not None else None
        ended = Ended(
            run._number,
            attempt,
            worker,
            phase,
            state,
            nan if began is None else began,
            now,
            error,
            trace,
            name,
            delay,
        )
        self._append((ENDED, ended))

    def _executing(self, run: TaskFuture[Any]) -> int:
        """Its worker, also if it is another thread, or the driver, that ends it: by a cancel, or at its limit."""
        if self._knows_workers:
            there = self._dispatcher.ledger.executing(run)
            return self._member(there).index if there is not None else -1
        if run._task.is_async:
            loop = next((t.ident for t in threading.enumerate() if t.name == "shoal-loop"), None)
            return self._on(loop) if loop is not None else -1
        for worker in getattr(self._dispatcher.scheduler, "workers", ()):
            for frame in worker.frames.stack:
                number = frame.run.number if type(frame.run) is Call else frame.run._number
                if number == run._number:
                    return self._on(worker.frames.thread)
        return self._here() if HERE.worker is not None else -1  # it has just left the stack

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        """See `RunnerObserver`."""
        number = record.base + index
        self._append(
            (ENDED, Ended(number, 1, -1, CANCELLED, None, nan, now, None, None, None, 0.0))
        )

    # ------------------------------------------------------------------ batches

    def sent(self, batch: Batch) -> None:
        """See `RunnerObserver`."""
        worker = -1
        if not self._knows_workers:
            known = self._slots.get(batch.slot)
            if known is None:
                known = self._recorder.worker(self.index, f"slot {batch.slot}").index
                self._slots[batch.slot] = known
            worker = known
        self._sent[batch.number] = _Sent(time.time(), worker)

    def arrived(self, number: int) -> None:
        """See `RunnerObserver`."""
        sent = self._sent.get(number)
        if sent is not None:
            sent.arrived = time.time()

    def at(self, number: int, worker: WorkerState) -> None:
        """See `RunnerObserver`."""
        sent = self._sent.get(number)
        if sent is not None:
            sent.worker = self._member(worker).index

    def _member(self, state: WorkerState) -> Worker:
        known = self._members.get(id(state))
        if known is None:
            known = state, self._recorder.worker(self.index, "", state)
            self._members[id(state)] = known  # which keeps the state, so that its id stays its own
        return known[1]

    def packed(self, batch: Batch, size: int) -> None:
        """See `RunnerObserver`."""
        self._append((PACKED, self.index, batch.number, size))

    def sized(self, number: int, sizes: Mapping[int, int]) -> None:
        """See `RunnerObserver`."""
        sent = self._sent.get(number)
        if sent is not None:
            sent.sizes.update(sizes)

    def told_inside(self, told: bytes) -> None:
        """See `RunnerObserver`."""
        self._recorder.told_inside(told)

    def reported(
        self, batch: Batch, positions: Sequence[int], ends: Sequence[float], seconds: float
    ) -> None:
        """See `RunnerObserver`."""
        sent = self._sent.get(batch.number)
        if sent is None or not positions:
            return
        runs = batch.runs
        numbers: array[int] | None = None
        attempts: array[int] | None = None
        if type(runs) is Span:
            first = runs.record.base + runs.start
            task = runs.record.task
            if type(positions) is range:
                first += positions.start
            else:
                numbers = array("q", [first + position for position in positions])
        else:
            first = 0
            told = [runs[position] for position in positions]
            task = told[0]._task
            numbers = array("q", [run._number for run in told])
            attempts = array("H", [attempt_of(run) for run in told])
        known = sent.sizes
        sizes = array("q", [known.pop(p, PLAIN) for p in positions]) if known else None
        self._append(
            (
                REPORTED,
                (self.index, batch.number),
                sent.worker,
                sent.sent,
                sent.arrived,
                time.time(),
                seconds,
                first,
                numbers,
                attempts,
                array("d", ends),
                task,
                sizes,
            )
        )

    def lost(
        self, batch: Batch, begun: Sequence[int], error: Callable[[str], BaseException]
    ) -> None:
        """See `RunnerObserver`."""
        sent = self._sent.get(batch.number)
        if sent is None:
            return
        runs = batch.runs
        if type(runs) is Span:
            base = runs.record.base + runs.start
            told = [(base + position, 1) for position in begun]
            ended = all(_has_ended(runs.record, runs.start + position) for position in begun)
        else:
            told = [(runs[p]._number, attempt_of(runs[p])) for p in begun]
            ended = all(runs[p]._phase >= DONE for p in begun)
        # Who is killed so that what was cancelled, or is past its limit, stops has taken nothing along.
        died = not (told and ended)
        self._append((LOST, told, sent.worker, sent.sent, sent.arrived, time.time(), died))

    def sent_again(self, run: TaskFuture[Any], now: float) -> None:
        """See `RunnerObserver`: the next attempt tells of itself."""

    def closed(self, number: int, back: int) -> None:
        """See `RunnerObserver`."""
        sent = self._sent.pop(number, None)
        if sent is not None and back:
            self._append((CLOSED, time.time(), sent.worker, back))

    # ------------------------------------------------------------------ workers

    def joined(self, worker: WorkerState) -> None:
        """See `RunnerObserver`."""
        self._member(worker)

    def departed(self, worker: WorkerState, departure: Departure | None) -> None:
        """See `RunnerObserver`."""
        known = self._member(worker)
        known.left = time.time()
        if departure is not None:
            known.ending = ending_of(worker, departure)


def _has_ended(record: MapRecord[Any], index: int) -> bool:
    """Whether an element has; `since` says when then."""
    if record.values[index] is not NO_VALUE:
        return True
    future = record.futures.get(index)
    return future is not None and future._phase >= DONE


def in_words(wanted: Wanted) -> str:
    """What a run waits for."""
    runs = [item for item in wanted if type(item) is TaskFuture]
    if len(runs) == len(wanted) == 1:
        return task_run_name(runs[0]._task.name, runs[0]._number)
    count = sum(1 if type(item) is TaskFuture else getattr(item, "size", 0) for item in wanted)
    return f"{count} runs" if count else SLOTS
