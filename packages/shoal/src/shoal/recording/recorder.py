"""The recorder: an observer that keeps what it is told until somebody writes it down.

    any thread ──told──▶ events (one queue, appended without a lock) ──▶ the file's thread

It keeps numbers, not runs: a value that nobody holds any more is not held here either, but for exceptions, until they are
written. What it is told of a map is a few numbers a span, and an `array` of ends.

May import `runner_recorder` and what lies above it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED
from shoal.context import CALL
from shoal.exceptions.base import shown
from shoal.recording.events import (
    ENDED,
    FLOW,
    FLOW_ENDED,
    LOG,
    SUBMITTED,
    Ended,
    Worker,
)
from shoal.recording.runner_recorder import RunnerRecorder
from shoal.safely import repr_of

if TYPE_CHECKING:
    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun, Scope
    from shoal.recording.adopting import Adopting
    from shoal.scheduling.in_flight import WorkerState
    from shoal.states import State

__all__ = ["Recorder"]

#: Log lines that are kept, and those of errors beyond them; and, of all beyond, the last ones before the end, or before a run
#: did not complete. The rest is counted.
MOST_LOGS = 20_000
MORE_ERRORS = 5_000
LAST_LOGS = 500


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
        self._last_logs: deque[tuple[Any, ...]] = deque(maxlen=LAST_LOGS)  # not kept so far
        self._lock = threading.Lock()
        self._runners: dict[int, RunnerRecorder] = {}  # by id, until they are left
        self._count = 0
        self._callers: dict[int, int] = {}
        self._flows_in_runs: dict[int, int] = {}  # flow runs that a task run called, by number
        self._adopting: Adopting | None = None
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
        caller = CALL.get()
        if caller is not None:
            self._flows_in_runs[run.number] = caller.number
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
        self._flows_in_runs.pop(run.number, None)

    def around(self, scope: Scope | None) -> tuple[int, int]:
        """Numbers of the flow run around whoever submits, and of the task run, also if that called the flow; 0 for none."""
        flow_run = scope.flow_run if scope is not None else None
        number = flow_run.number if flow_run is not None else 0
        caller = CALL.get()
        if caller is not None:
            return number, caller.number
        while flow_run is not None and self._flows_in_runs:
            if flow_run.number in self._flows_in_runs:
                return number, self._flows_in_runs[flow_run.number]
            flow_run = flow_run.parent
        return number, 0

    # ------------------------------------------------------------------ runners, direct calls

    def runner_entered(self, runner: Any) -> RunnerRecorder:
        """See `Observer`."""
        told = RunnerRecorder(self, self.next_runner(), type(runner).__name__, id(runner))
        with self._lock:
            self._runners[id(runner)] = told
        return told

    def next_runner(self) -> int:
        """The index of a runner that was not known before."""
        with self._lock:
            self._count += 1
            return self._count - 1

    def told_inside(self, told: bytes) -> None:
        """See `RunnerObserver`."""
        if self._adopting is None:
            from shoal.recording.adopting import Adopting

            self._adopting = Adopting(self)
        self._adopting.take(told)

    def look(self) -> None:
        """Asks for what is told only when it is over."""
        for runner in list(self._runners.values()):
            runner.look()

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
            flow_run, submitter = self.around(call.scope)
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
            self._last_logs.append(_line(record))
            return
        self.events.append(_line(record))

    def keep_logs(self, number: int | None = None) -> None:
        """Keeps the last log lines of a run, or all that are left: whoever reads wants to know how it ended."""
        if not self._last_logs:
            return
        wanted = [line for line in list(self._last_logs) if number in (None, line[2])]
        for line in wanted:
            with suppress(ValueError):  # another thread has come before
                self._last_logs.remove(line)
                self.events.append(line)
                self.logs_left_out -= 1


def _line(record: logging.LogRecord) -> tuple[Any, ...]:
    run_id = getattr(record, "run_id", None)
    number = int(run_id[-12:], 16) if isinstance(run_id, str) and len(run_id) == 36 else 0
    return LOG, record.created, number, record.levelno, record.name, record.getMessage()


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
