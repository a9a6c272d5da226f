"""The recorder: an observer that keeps what it is told until somebody writes it down.

    any thread ──told──▶ events (one queue, appended without a lock) ──▶ the file's thread

It keeps numbers, not runs: a value that nobody holds any more is not held here either, but for exceptions, until they are
written. What it is told of a map is a few numbers a span, and an `array` of ends.

May import scheduling and what lies above it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from array import array
from collections import deque
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.calls import AWAITING_RETRY, CANCELLED, COMPLETED
from shoal.context import CALL
from shoal.exceptions.base import shown
from shoal.futures.maps import Span
from shoal.futures.run import TaskFuture
from shoal.safely import repr_of
from shoal.scheduling.observed import attempt_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Batch, Call, Outcome
    from shoal.context import FlowRun, Scope
    from shoal.engine.inputs import Input
    from shoal.futures.maps import MapRecord
    from shoal.scheduling.in_flight import Departure, WorkerState
    from shoal.states import State

__all__ = ["Ended", "Recorder", "Worker"]

#: Log lines that are kept, and those of errors beyond them; the rest is counted.
MOST_LOGS = 20_000
MORE_ERRORS = 5_000

# Kinds of events; what follows is in the methods that append them.
SUBMITTED, MAPPED, READY, QUEUED, RAN, WENT, ENDED, REPORTED, LOST, CLOSED = range(10)
FLOW, FLOW_ENDED, RUNNER, LOG = range(10, 14)


class Ended(NamedTuple):
    """An attempt that is told of by itself.

    Attributes:
        number: of the run.
        attempt: from 1.
        worker: index, -1 if it is not known here.
        phase: how it ended, `AWAITING_RETRY` if another attempt follows.
        state: the name of a state that says more, `None` for that of the phase.
        began, ended: when; `nan` if a report tells.
        error: what it ended with.
        trace: the traceback of that.
        name: the run's name where it is not the default one.
        delay: seconds until the next attempt.
    """

    number: int
    attempt: int
    worker: int
    phase: int
    state: str | None
    began: float
    ended: float
    error: Any
    trace: Any
    name: str | None
    delay: float


class Worker:
    """A worker as it is known now; what it is made from may know more later.

    Args:
        index: in the record.
        runner: index of the runner, -1 for direct calls.
        thread: its name.
        state: of the ledger, where there is one.
    """

    def __init__(
        self, index: int, runner: int, thread: str, state: WorkerState | None = None
    ) -> None:
        self.index = index
        self.runner = runner
        self.thread = thread
        self.state = state
        self.joined = time.time()
        self.left: float | None = None
        self.ending = ""

    def row(self) -> tuple[int, int, str, int, str, float, float | None, str]:
        """What is known: index, runner, host, pid, thread, joined, left, ending."""
        state = self.state
        host = _HOST if state is None else state.host or ""
        pid = os.getpid() if state is None else state.pid or 0
        return (
            self.index,
            self.runner,
            host,
            pid,
            self.thread,
            self.joined,
            self.left,
            self.ending,
        )


_HOST = socket.gethostname()


class Recorder:
    """Observes this process.

    Attributes:
        events: what was told and is not written yet, in order.
        workers: all that were heard of, by index.
        logs_left_out: log lines beyond those that are kept.
    """

    def __init__(self) -> None:
        self.events: deque[tuple[Any, ...]] = deque()
        self.workers: list[Worker] = []
        self.logs_left_out = 0
        self._logs = 0
        self._lock = threading.Lock()
        self._runners: dict[int, _RunnerRecorder] = {}  # by id, until they are left
        self._count = 0
        self._callers: dict[int, int] = {}
        self.handler = _Handler(self)

    def worker(self, runner: int, thread: str, state: WorkerState | None = None) -> Worker:
        """A worker that was not known before."""
        with self._lock:
            worker = Worker(len(self.workers), runner, thread, state)
            self.workers.append(worker)
        return worker

    # ------------------------------------------------------------------ flow runs

    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        self._flow_run(run, "")

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`."""
        known = self._runners.get(id(runner))
        if known is not None:
            known.flow_run = run.number
            known.tell()
        self._flow_run(run, repr_of(runner))

    def _flow_run(self, run: FlowRun, runner: str) -> None:
        code = getattr(run.flow.fn, "__code__", None)
        self.events.append(
            (
                FLOW,
                run.number,
                run.name,
                run.flow.name,
                run.parent.number if run.parent is not None else None,
                run.started or time.time(),
                runner,
                {name: shown(value) for name, value in run.parameters.items()},
                code.co_filename if code is not None else "",
                code.co_firstlineno if code is not None else 0,
                max(run.run_count, 1),
            )
        )

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """See `Observer`."""
        if run.started is None:  # it did not begin
            self._flow_run(run, "")
        self.events.append(
            (FLOW_ENDED, run.number, time.time(), state.name, state.message or "", run.run_count)
        )

    # ------------------------------------------------------------------ runners, direct calls

    def runner_entered(self, runner: Any) -> _RunnerRecorder:
        """See `Observer`."""
        with self._lock:
            told = _RunnerRecorder(self, self._count, type(runner).__name__, id(runner))
            self._count += 1
            self._runners[id(runner)] = told
        return told

    def forget_runner(self, key: int) -> None:
        """A runner was left."""
        with self._lock:
            self._runners.pop(key, None)

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`."""
        ident = threading.get_ident()
        worker = self._callers.get(ident)
        if worker is None:
            worker = self.worker(-1, threading.current_thread().name).index
            self._callers[ident] = worker
        if call.attempt == 1:
            flow_run, submitter = _around(call.scope)
            self.events.append(
                (SUBMITTED, call.number, call.task, flow_run, submitter, began, None)
            )
        self.events.append(
            (
                ENDED,
                Ended(
                    call.number,
                    call.attempt,
                    worker,
                    outcome.phase,
                    outcome.state.name if outcome.state is not None else None,
                    began,
                    ended,
                    None if outcome.phase == COMPLETED else outcome.value,
                    None,
                    call.name,
                    outcome.delay,
                ),
            )
        )

    # ------------------------------------------------------------------ log lines

    def logged(self, record: logging.LogRecord) -> None:
        """A log line."""
        self._logs += 1
        if self._logs > MOST_LOGS and (
            record.levelno < logging.ERROR or self._logs > MOST_LOGS + MORE_ERRORS
        ):
            self.logs_left_out += 1
            return
        run_id = getattr(record, "run_id", None)
        number = int(run_id[-12:], 16) if isinstance(run_id, str) and len(run_id) == 36 else 0
        text = record.getMessage()
        self.events.append((LOG, record.created, number, record.levelno, record.name, text))


class _Handler(logging.Handler):
    """Hands log lines to a recorder; lines appear where they would without it."""

    observes = True

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._recorder.logged(record)
        except Exception:  # arguments of the user's that do not fit the format
            self.handleError(record)


def _around(scope: Scope | None) -> tuple[int, int]:
    """Numbers of the flow run and of the task run around whoever submits; 0 for none."""
    flow_run = scope.flow_run if scope is not None else None
    caller = CALL.get()
    return (
        flow_run.number if flow_run is not None else 0,
        caller.number if caller is not None else 0,
    )


class _Sent:
    """A batch in flight."""

    __slots__ = ("arrived", "sent", "worker")

    def __init__(self, sent: float, worker: int) -> None:
        self.sent = sent
        self.worker = worker
        self.arrived = nan


class _RunnerRecorder:
    """A `RunnerObserver`. What is not thread-safe here is told with `LOCK` held."""

    def __init__(self, recorder: Recorder, index: int, name: str, key: int) -> None:
        self._recorder = recorder
        self._append = recorder.events.append
        self._key = key
        self._threads: dict[int, int] = {}
        self._members: dict[int, tuple[WorkerState, Worker]] = {}
        self._slots: dict[int, int] = {}
        self._sent: dict[int, _Sent] = {}
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
        flow_run, submitter = _around(scope)
        edges = None
        if inputs:
            found = [entry.future._number for entry in inputs if type(entry.future) is TaskFuture]
            edges = array("q", found)
        self._append((SUBMITTED, run._number, run._task, flow_run, submitter, run._since, edges))

    def mapped(self, record: MapRecord[Any]) -> None:
        """See `RunnerObserver`."""
        flow_run, submitter = _around(record.scope)
        self._append(
            (MAPPED, record.base, record.size, record.task, flow_run, submitter, record.submitted)
        )

    def queued(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""
        self._append((QUEUED, run._number, time.time(), ", ".join(sorted(run._details().limited))))

    def ready(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""
        self._append((READY, run._number, time.time()))

    # ------------------------------------------------------------------ runs end in this process

    def _here(self) -> int:
        ident = threading.get_ident()
        worker = self._threads.get(ident)
        if worker is None:
            name = threading.current_thread().name
            worker = self._threads[ident] = self._recorder.worker(self.index, name).index
        return worker

    def ran(self, run: TaskFuture[Any], attempt: int, began: float, ended: float) -> None:
        """See `RunnerObserver`."""
        self._append((RAN, run._number, attempt, self._here(), began, ended))

    def went_through(
        self, record: MapRecord[Any], start: int, stop: int, began: float, ended: float
    ) -> None:
        """See `RunnerObserver`."""
        self._append((WENT, record.base + start, self._here(), began, record.since[start:stop]))

    def settled(self, run: TaskFuture[Any], attempt: int, began: float | None, now: float) -> None:
        """See `RunnerObserver`."""
        detail = run._detail
        state = detail.state if detail is not None else None
        completed = run._phase == COMPLETED
        self._ended(
            run,
            attempt,
            began,
            now,
            run._phase,
            state.name if state is not None else None,
            None if completed else run._outcome,
            detail.traceback if detail is not None and not completed else None,
            0.0,
        )

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
        # Who cancels a run, or ends it at its limit, is another thread than that which executes it.
        worker = -1
        if began is not None:
            worker = self._here() if error is None or trace is not None else self._if_known()
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

    def _if_known(self) -> int:
        return self._threads.get(threading.get_ident(), -1)

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
        else:
            told = [(runs[p]._number, attempt_of(runs[p])) for p in begun]
        self._append((LOST, told, sent.worker, sent.sent, sent.arrived, time.time()))

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
        if departure is None:
            return
        if departure.signal is not None:
            known.ending = f"signal {departure.signal}"
        elif departure.exit_code:
            known.ending = f"exit code {departure.exit_code}"
        elif departure.message:
            known.ending = departure.message
