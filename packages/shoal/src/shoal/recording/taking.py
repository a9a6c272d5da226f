"""What a recorder was told, as rows and chunks of its file.

    events ──one by one, `_TAKE`──▶ rows of tables, and columns of numbers ──▶ the file's thread writes both

Pure but for a look at the clock. May import `recorder`, `chunks`, `told` and what lies above them.
"""

from __future__ import annotations

import json
import time
from array import array
from math import nan
from typing import TYPE_CHECKING, Any

from shoal.calls import AWAITING_RETRY, CANCELLED, COMPLETED, CRASHED, FAILED, NOT_READY
from shoal.recording import events as kinds
from shoal.recording.chunks import COLUMNS, Chunk, ranges
from shoal.recording.events import PLAIN, SLOTS, Label
from shoal.recording.record import STATES
from shoal.recording.told import LONGEST_TEXT, Told
from shoal.safely import is_raisable, text_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.recording.events import Ended
    from shoal.recording.recorder import Recorder
    from shoal.specs import TaskSpec

__all__ = ["Taking"]

#: Errors that are kept with their traceback, and those that are kept at all; the rest is counted.
MOST_TRACEBACKS = 500
MOST_ERRORS = 10_000
MOST_EVENTS = 20_000

#: Seconds within which a place under a cap that is free is taken by who waited for it.
MOMENT = 0.002

_STATE_OF_PHASE = {
    COMPLETED: "Completed",
    FAILED: "Failed",
    CANCELLED: "Cancelled",
    CRASHED: "Crashed",
    NOT_READY: "NotReady",
    AWAITING_RETRY: "Retrying",
}


class Taking:
    """Takes what a recorder was told; knows what it has given out before.

    Args:
        recorder: it.

    Attributes:
        facts: what is known of all, by name.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.facts: dict[str, Any] = {}
        self._recorder = recorder
        self._tasks: dict[tuple[str, str, int], int] = {}
        self._task_indices: dict[int, tuple[TaskSpec | Label, int]] = {}
        self._states = {name: index for index, name in enumerate(STATES)}
        self._workers: dict[int, Any] = {}
        self._errors = 0
        self._events = 0
        self._limits: dict[int, tuple[float, str]] = {}  # of runs that wait for slots
        self._waits: dict[int, tuple[float, str]] = {}  # of runs that wait in their bodies
        # By runner and task: since when no place is left under its caps, and from when to when none was just now.
        self._full: dict[tuple[int, int], float] = {}
        self._freed: dict[tuple[int, int], tuple[float, float]] = {}
        self._lost_now: dict[int, tuple[float, list[int]]] = {}  # by worker: when, and its runs
        self._dead: set[int] = set()  # workers whose death was written
        self._flow_runs: dict[int, list[Any]] = {}  # those that have not ended

    def take(self, *, closing: bool) -> tuple[dict[str, list[Any]], dict[str, Chunk]]:
        """All that was told since it was asked last.

        Args:
            closing: whether no more will come.

        Returns:
            Rows by table, and chunks by kind.
        """
        if closing:
            self._recorder.keep_logs()
        events = self._recorder.events
        chunks = {name: Chunk(types) for name, types in COLUMNS.items()}
        rows: dict[str, list[Any]] = {}
        for _ in range(len(events)):  # what comes meanwhile is for the next time
            event = events.popleft()
            _TAKE[event[0]](self, event, chunks, rows)
        self._deaths(rows)
        self._caps(rows, closing)
        if self._recorder.logs_left_out:
            self.facts["logs_left_out"] = self._recorder.logs_left_out
        for worker in self._recorder.workers:
            row = worker.row()
            if self._workers.get(worker.index) != row:
                self._workers[worker.index] = row
                rows.setdefault("workers", []).append(row)
        return rows, chunks

    def _task(self, task: TaskSpec | Label, rows: dict[str, list[Any]]) -> int:
        known = self._task_indices.get(id(task))
        if known is not None and known[0] is task:
            return known[1]
        key = Label.of(task)[:3]
        index = self._tasks.get(key)
        if index is None:
            index = self._tasks[key] = len(self._tasks)
            rows.setdefault("tasks", []).append((index, *key))
        if len(self._task_indices) > 10_000:  # tasks that are made anew for each run
            self._task_indices.clear()
        if type(task) is not Label:
            self._task_indices[id(task)] = task, index
        return index

    def _state(self, name: str) -> int:
        index = self._states.get(name)
        if index is None:
            index = self._states[name] = min(len(self._states), 255)
            self.facts["states"] = json.dumps(list(self._states))
        return index

    def _submitted(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, task, flow_run, submitter, when, edges = event
        chunks["submitted"].append(number, self._task(task, rows), flow_run, submitter, when)
        if edges:
            for first, stop in ranges(edges):
                chunks["edges"].append(number, first, stop)

    def _mapped(self, event: Any, chunks: Any, rows: Any) -> None:
        _, base, size, task, flow_run, submitter, when = event
        row = base, size, self._task(task, rows), flow_run, submitter, when
        rows.setdefault("maps", []).append(row)

    def _ready(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, when = event
        chunks["ready"].append(number, when)
        asked = self._limits.pop(number, None)
        if asked is not None:
            self._event(rows, asked[0], when, "limit", number, -1, f"slots of {asked[1]}")

    def _queued(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, when, limits = event
        self._limits[number] = when, limits

    def _waiting(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, when, text = event
        if text is None:
            self._waited(rows, number, when)
        else:
            self._waits.setdefault(number, (when, text))

    def _waited(self, rows: Any, number: int, until: float) -> None:
        known = self._waits.pop(number, None)
        if known is not None:
            kind = "wait" if known[1] != SLOTS else "slots"
            self._event(rows, known[0], until, kind, number, -1, f"waited for {known[1]}")

    def _capped(self, event: Any, chunks: Any, rows: Any) -> None:
        _, runner, tasks, full, when = event
        for task in tasks:
            key = runner, self._task(task, rows)
            if not full:
                self._freed[key] = self._full.pop(key, when), when
            elif key not in self._full:
                began, until = self._freed.pop(key, (when, when))
                if when - until > MOMENT:  # else its place was taken at once by the next
                    self._cap(rows, key, began, until)
                    began = when
                self._full[key] = began

    def _caps(self, rows: Any, closing: bool) -> None:
        """Writes when no place was left under caps, once it is sure that there is one again."""
        now = time.time()
        for key, (began, until) in list(self._freed.items()):
            if closing or now - until > MOMENT:
                del self._freed[key]
                self._cap(rows, key, began, until)
        if closing:
            for key, began in self._full.items():
                self._cap(rows, key, began, now)
            self._full.clear()

    def _cap(self, rows: Any, key: tuple[int, int], began: float, until: float) -> None:
        if until > began:
            rows.setdefault("caps", []).append((key[1], began, until))

    def _sized(self, event: Any, chunks: Any, rows: Any) -> None:
        chunks["sized"].append(*event[1:])

    def _submitter(self, event: Any, chunks: Any, rows: Any) -> None:
        chunks["submitters"].append(*event[1:])

    def _packed(self, event: Any, chunks: Any, rows: Any) -> None:
        chunks["packed"].append(*event[1:])

    def _ran(self, event: Any, chunks: Any, rows: Any) -> None:
        chunks["ran"].append(*event[1:])

    def _went(self, event: Any, chunks: Any, rows: Any) -> None:
        _, first, worker, began, ends = event
        chunks["spans"].append(first, len(ends), worker, began)
        chunks["span_ends"].columns[0].extend(ends)

    def _ended(self, event: Any, chunks: Any, rows: Any) -> None:
        ended: Ended = event[1]
        state = ended.state or _STATE_OF_PHASE[ended.phase]
        if ended.phase == AWAITING_RETRY:
            state = "Retrying"
        index = self._state(state)
        chunks["ended"].append(
            ended.number, ended.attempt, ended.worker, index, ended.began, ended.ended
        )
        if self._waits:
            self._waited(rows, ended.number, ended.ended)
        if ended.name is not None:
            rows.setdefault("names", []).append((ended.number, ended.name))
        if ended.phase == AWAITING_RETRY:
            text = f"attempt {ended.attempt} did not complete; the next begins in {ended.delay:g} s"
            until = ended.ended + ended.delay
            self._event(rows, ended.ended, until, "retry", ended.number, ended.worker, text)
        if ended.phase != COMPLETED:
            self._error(ended, state, rows)

    def _error(self, ended: Ended, state: str, rows: Any) -> None:
        self._errors += 1
        if self._errors > MOST_ERRORS:
            self.facts["errors_left_out"] = self._errors - MOST_ERRORS
            return
        error = ended.error
        told = Told()
        if type(error) is Told:
            told = error
        elif is_raisable(error):
            told = Told(
                error, ended.trace or traceback_of(error), traced=self._errors <= MOST_TRACEBACKS
            )
        elif error is not None:
            told.text = text_of(error)[:LONGEST_TEXT]
        rows.setdefault("errors", []).append(
            (
                ended.number,
                ended.attempt,
                state,
                told.kind,
                told.text,
                told.file,
                told.line,
                told.traceback,
                ended.ended,
            )
        )

    def _event(
        self, rows: Any, at: float, until: float, kind: str, number: int, worker: int, text: str
    ) -> None:
        self._events += 1
        if self._events > MOST_EVENTS:
            self.facts["events_left_out"] = self._events - MOST_EVENTS
            return
        rows.setdefault("events", []).append((at, until, kind, number, worker, text))

    def _reported(self, event: Any, chunks: Any, rows: Any) -> None:
        _, batch, worker, *when, first, numbers, attempts, ends, task, sizes = event
        chunks["reports"].append(
            *batch,
            -1 if numbers is not None else first,
            len(ends),
            worker,
            *when,  # sent, arrived, told, seconds
            self._task(task, rows),
            task.is_async,
            PLAIN if sizes is None else -1,
        )
        if sizes is not None:
            chunks["report_sizes"].columns[0].extend(sizes)
        chunks["report_ends"].columns[0].extend(ends)
        if numbers is not None:
            listed = chunks["listed"].columns
            listed[0].extend(numbers)
            listed[1].extend(attempts if attempts is not None else array("H", [1]) * len(numbers))

    def _lost(self, event: Any, chunks: Any, rows: Any) -> None:
        _, told, worker, sent, arrived, at, died = event
        for number, attempt in told:
            chunks["lost"].append(number, attempt, worker, sent, arrived, at)
        state = self._recorder.workers[worker].state if worker >= 0 else None
        if not died or (state is not None and state.stopped_for is not None):
            return  # it was killed to stop a run, and that says why
        known = self._lost_now.setdefault(worker, (at, []))
        known[1].extend(number for number, _ in told)

    def _deaths(self, rows: Any) -> None:
        """Writes one for each worker that has died, which may have had several batches."""
        for worker, (at, lost) in self._lost_now.items():
            if lost or worker not in self._dead:
                what = f"{len(lost)} run{'' if len(lost) == 1 else 's'}"
                text = f"{what} lost with {'its' if len(lost) == 1 else 'their'} worker"
                self._event(rows, at, nan, "death", lost[0] if lost else 0, worker, text)
            self._dead.add(worker)
        self._lost_now.clear()

    def _closed(self, event: Any, chunks: Any, rows: Any) -> None:
        _, at, worker, back = event
        text = f"{back} run{'' if back == 1 else 's'} handed back before they began"
        self._event(rows, at, nan, "recall", 0, worker, text)

    def _flow(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, name, flow, parent, began, runner, parameters, file, line, attempts = event
        known = self._flow_runs.get(number)
        self._flow_runs[number] = [
            number,
            name,
            flow,
            parent,
            known[4] if known else began,
            None,
            "Running",
            "",
            runner,
            json.dumps(parameters),
            file,
            line,
            attempts,
        ]
        rows.setdefault("flow_runs", []).append(self._flow_runs[number])

    def _flow_ended(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, at, state, message, attempts = event
        row = self._flow_runs.pop(number)
        row[5:8] = at, state, message[:LONGEST_TEXT]
        row[12] = max(attempts, row[12])
        rows.setdefault("flow_runs", []).append(row)

    def _runner(self, event: Any, chunks: Any, rows: Any) -> None:
        rows.setdefault("runners", []).append(event[1:])

    def _log(self, event: Any, chunks: Any, rows: Any) -> None:
        _, at, number, level, logger, text = event
        rows.setdefault("logs", []).append((at, number, level, logger, text[:LONGEST_TEXT]))


_TAKE: dict[int, Callable[[Taking, Any, Any, Any], None]] = {
    kinds.SUBMITTED: Taking._submitted,
    kinds.MAPPED: Taking._mapped,
    kinds.READY: Taking._ready,
    kinds.QUEUED: Taking._queued,
    kinds.RAN: Taking._ran,
    kinds.WENT: Taking._went,
    kinds.ENDED: Taking._ended,
    kinds.REPORTED: Taking._reported,
    kinds.LOST: Taking._lost,
    kinds.CLOSED: Taking._closed,
    kinds.FLOW: Taking._flow,
    kinds.FLOW_ENDED: Taking._flow_ended,
    kinds.RUNNER: Taking._runner,
    kinds.LOG: Taking._log,
    kinds.WAITS: Taking._waiting,
    kinds.CAPPED: Taking._capped,
    kinds.SIZED: Taking._sized,
    kinds.SUBMITTER: Taking._submitter,
    kinds.PACKED: Taking._packed,
}
