"""The observer of live progress, and the thread that looks at its counts and draws them.

A display is there from the beginning of the first flow run to the end of the last; the thread draws nothing in the first
moments, so that a flow of moments is not followed by rows that were never read.

May import all of `live` and what recording may.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
import time
from bisect import bisect, insort
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from shoal.calls import AWAITING_RETRY, COMPLETED, CRASHED, FAILED
from shoal.context import LOCK
from shoal.futures.maps import Span
from shoal.logs import log_failure
from shoal.recording.live.counting import MOST_FAILURES, Failure, FlowCounts, Problem, TaskCounts
from shoal.recording.live.notebook import Notebook, in_notebook
from shoal.recording.live.rows import rows_of
from shoal.recording.live.running import (
    InFlight,
    capped,
    executing_here,
    executing_there,
    places_of,
)
from shoal.recording.live.screen import Screen
from shoal.recording.live.summary import summary_of
from shoal.safely import in_words, is_raisable, kind_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from shoal.calls import Batch, Call, Outcome
    from shoal.context import FlowRun
    from shoal.engine.inputs import Input
    from shoal.futures.maps import MapRecord
    from shoal.futures.run import TaskFuture
    from shoal.recording.live.counting import Seen
    from shoal.scheduling.in_flight import Departure, WorkerState
    from shoal.specs import TaskSpec
    from shoal.states import State

__all__ = ["LiveObserver"]

#: Seconds after which the first rows are drawn.
PATIENCE = 0.5
#: Seconds from one drawing to the next.
EVERY = 0.2


class LiveObserver:
    """An `Observer` that shows what it is told.

    Args:
        make_screen: what the rows are drawn on; by default the terminal, or the notebook.
    """

    def __init__(self, make_screen: Callable[[], Screen | Notebook] | None = None) -> None:
        self._make_screen = make_screen if make_screen is not None else _screen_here
        self._lock = threading.Lock()
        self._display: _Display | None = None
        self._flows: dict[int, FlowCounts] = {}
        self._runners: dict[int, _RunnerCounts] = {}  # by id, until they are left

    # ------------------------------------------------------------------ flow runs

    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        parent = self._flows.get(run.parent.number) if run.parent is not None else None
        counts = FlowCounts(run.number, run.name, run.flow.name, parent, time.monotonic())
        counts.starting = True  # until its runner says otherwise
        with self._lock:
            self._flows[run.number] = counts
            if parent is not None:
                parent.children.append(counts)
                return
            if self._display is None:
                self._display = _Display(self._make_screen())
                self._display.start()
            self._display.flows.append(counts)

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`."""
        flow = self._flows.get(run.number)
        told = self._runners.get(id(runner))
        if flow is not None and told is not None:
            flow.tasks.clear()  # an attempt of the flow run begins at nothing
            told.shown_in(flow)

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """See `Observer`."""
        over: _Display | None = None
        with self._lock:
            flow = self._flows.pop(run.number, None)
            if flow is None:
                return
            flow.state = state
            flow.ended = time.monotonic()
            if flow.parent is not None:
                flow.parent.child_ended(flow, state.is_completed())
                return
            display = self._display
            if display is not None:
                display.ended.append(flow)
                if len(display.ended) == len(display.flows):
                    over, self._display = display, None
        if over is not None:
            over.stop()

    # ------------------------------------------------------------------ runners, direct calls

    def runner_entered(self, runner: Any) -> _RunnerCounts:
        """See `Observer`."""
        told = _RunnerCounts(lambda: self._runners.pop(id(runner), None))
        self._runners[id(runner)] = told
        return told

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`."""
        run = call.scope.flow_run if call.scope is not None else None
        flow = self._flows.get(run.number) if run is not None else None
        if flow is None:
            return
        counts = flow.task(call.task.name)
        if outcome.phase == AWAITING_RETRY:
            counts.again += 1
            return
        next(counts.singles)
        next(counts.ended)
        counts.add_failed(outcome.phase)
        if outcome.phase in (FAILED, CRASHED) and len(flow.failures) < MOST_FAILURES:
            flow.failures.append(
                Failure(call.run_name(), _in_words(outcome.value), place_of(outcome.value))
            )


def _screen_here() -> Screen | Notebook:
    return Notebook() if in_notebook() else Screen()


class _RunnerCounts:
    """A `RunnerObserver`: the counts of one runner. What it is told without `LOCK` held takes one atomic step."""

    inside = False

    def __init__(self, forget: Callable[[], object]) -> None:
        self._forget = forget
        self._dispatcher: Any = None
        self._flow: FlowCounts | None = None
        self._counts: dict[TaskSpec, TaskCounts] = {}
        self._batches: dict[int, InFlight] = {}
        self._reported: list[TaskFuture[Any]] = []  # single runs, by the latest report
        self._settled: set[int] = set()  # those of them whose ends were told by themselves
        self._maps: list[tuple[int, int]] = []  # numbers of their runs, from and to, in order
        self._begun = False

    def shown_in(self, flow: FlowCounts) -> None:
        """Its runs are those of a flow run."""
        self._flow = flow
        flow.look_at = self.look

    def _of(self, task: TaskSpec) -> TaskCounts:
        counts = self._counts.get(task)
        if counts is None:
            name = task.name
            counts = self._flow.task(name) if self._flow is not None else TaskCounts(name)
            self._counts[task] = counts
        return counts

    def look(self, now: float) -> None:
        """Takes note of what executes."""
        flow, dispatcher = self._flow, self._dispatcher
        if flow is None:
            return
        executing: list[Seen] = []
        busy = 0
        if dispatcher is not None:
            scheduler = dispatcher.scheduler
            with LOCK:
                self._count_reported()
                if hasattr(scheduler, "workers"):
                    executing, busy = executing_here(scheduler)
                else:
                    executing, busy = executing_there(self._batches.values())
                flow.capped = capped(scheduler)
                flow.places = max(places_of(scheduler), busy)
                flow.starting = (
                    hasattr(dispatcher, "ledger") and not self._begun and scheduler.open > 0
                )
        flow.busy = 0 if flow.starting else busy
        flow.look([] if flow.starting else executing, now)

    # ------------------------------------------------------------------ the runner

    def started(self, dispatcher: Any) -> None:
        """See `RunnerObserver`."""
        self._dispatcher = dispatcher

    def left(self) -> None:
        """See `RunnerObserver`."""
        self._dispatcher = None
        self._batches.clear()
        self._forget()

    # ------------------------------------------------------------------ runs come in

    def submitted(self, run: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        """See `RunnerObserver`."""
        next(self._of(run._task).singles)

    def mapped(self, record: MapRecord[Any]) -> None:
        """See `RunnerObserver`."""
        self._of(record.task).add_map(record)
        insort(self._maps, (record.base, record.base + record.size))

    def _is_single(self, run: TaskFuture[Any]) -> bool:
        """Whether a run is no element of a map, which counts its ends itself."""
        number = run._number
        place = bisect(self._maps, (number, sys.maxsize))
        return place == 0 or number >= self._maps[place - 1][1]

    def queued(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""
        if self._flow is not None:
            limits = ", ".join(sorted(run._details().limited))
            self._flow.problems[run._number] = Problem(run.name, run._task.name, None, limits)

    def ready(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""
        if self._flow is not None:
            self._flow.problems.pop(run._number, None)

    # ------------------------------------------------------------------ runs end

    def ran(self, run: TaskFuture[Any], attempt: int, began: float, ended: float) -> None:
        """See `RunnerObserver`."""
        if not self._maps or self._is_single(run):
            next(self._of(run._task).ended)

    def went_through(
        self, record: MapRecord[Any], start: int, stop: int, began: float, ended: float
    ) -> None:
        """See `RunnerObserver`; the map counts its ends itself."""

    def settled(self, run: TaskFuture[Any], attempt: int, began: float | None, now: float) -> None:
        """See `RunnerObserver`."""
        counts = self._of(run._task)
        number, phase = run._number, run._phase
        if self._is_single(run):
            next(counts.ended)
            if self._reported:
                self._settled.add(number)
        if phase == COMPLETED:
            return
        counts.add_failed(phase)
        flow = self._flow
        if flow is None:
            return
        flow.problems.pop(number, None)
        if phase in (FAILED, CRASHED) and len(flow.failures) < MOST_FAILURES:
            detail = run._detail
            trace = detail.traceback if detail is not None else None
            error = run._outcome
            flow.failures.append(Failure(run.name, _in_words(error), place_of(error, trace)))

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        """See `RunnerObserver`."""
        self._of(record.task).cancelled += 1

    def retries(
        self, run: TaskFuture[Any], attempt: int, began: float | None, now: float, outcome: Outcome
    ) -> None:
        """See `RunnerObserver`."""
        counts = self._of(run._task)
        counts.again += 1
        if self._flow is not None:
            due = now + outcome.delay
            self._flow.problems[run._number] = Problem(run.name, run._task.name, due, "")

    # ------------------------------------------------------------------ batches

    def waits(self, run: TaskFuture[Any], wanted: Any) -> None:
        """See `RunnerObserver`."""

    def capped(self, tasks: Any, full: bool) -> None:
        """See `RunnerObserver`."""

    def took(self, span: Any) -> None:
        """See `RunnerObserver`."""

    def packed(self, batch: Batch, size: int) -> None:
        """See `RunnerObserver`."""

    def sized(self, number: int, sizes: Any) -> None:
        """See `RunnerObserver`."""

    def told_inside(self, told: bytes) -> None:
        """See `RunnerObserver`."""

    def sent(self, batch: Batch) -> None:
        """See `RunnerObserver`."""
        self._batches[batch.number] = InFlight(batch)

    def arrived(self, number: int) -> None:
        """See `RunnerObserver`."""
        self._begun = True
        sent = self._batches.get(number)
        if sent is not None:
            sent.known = True

    def at(self, number: int, worker: WorkerState) -> None:
        """See `RunnerObserver`."""
        sent = self._batches.get(number)
        if sent is not None:
            sent.place, sent.known = worker.key, True

    def reported(
        self, batch: Batch, positions: Sequence[int], ends: Sequence[float], seconds: float
    ) -> None:
        """See `RunnerObserver`."""
        self._begun = True
        sent = self._batches.get(batch.number)
        if sent is not None:
            sent.reported += len(positions)
        self._count_reported()
        runs = batch.runs
        if type(runs) is not Span:
            self._reported = [run for p in positions if self._is_single(run := runs[p])]

    def _count_reported(self) -> None:
        """Counts the runs of the latest report that have just completed. The others are told of by themselves, and those go
        on that have returned futures.
        """
        for run in self._reported:
            if run._phase == COMPLETED and run._number not in self._settled:
                next(self._of(run._task).ended)
        self._reported = []
        self._settled.clear()

    def lost(
        self, batch: Batch, begun: Sequence[int], error: Callable[[str], BaseException]
    ) -> None:
        """See `RunnerObserver`."""

    def sent_again(self, run: TaskFuture[Any], now: float) -> None:
        """See `RunnerObserver`."""

    def closed(self, number: int, back: int) -> None:
        """See `RunnerObserver`."""
        self._batches.pop(number, None)
        self._count_reported()

    def joined(self, worker: WorkerState) -> None:
        """See `RunnerObserver`."""
        self._begun = True

    def departed(self, worker: WorkerState, departure: Departure | None) -> None:
        """See `RunnerObserver`."""


class _Display:
    """The rows of all flow runs that are under way, and the thread that draws them.

    Attributes:
        flows: those that no shown flow run is around.
        ended: those of them that have.
    """

    def __init__(self, screen: Screen | Notebook) -> None:
        self.flows: list[FlowCounts] = []
        self.ended: list[FlowCounts] = []
        self._screen = screen
        self._over = threading.Event()
        # In the context of who called the flow: by that a notebook knows to which cell an output belongs.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._draw,), name="shoal-progress", daemon=True
        )

    def start(self) -> None:
        """Takes the terminal."""
        self._screen.start()
        self._thread.start()

    def stop(self) -> None:
        """Gives the terminal back, and prints how the flow runs have ended."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        drawn = self._screen.stop()
        lines: list[str] = []
        for flow in self.ended:
            if drawn or flow.failures:
                lines += summary_of(flow, self._screen.style(), self._screen.width())
        self._screen.print(lines)

    def _draw(self) -> None:
        self._look()
        wait = PATIENCE
        while not self._over.wait(wait):
            wait = EVERY
            try:
                self._look()
                screen = self._screen
                now = time.monotonic()
                flows = [flow for flow in self.flows if flow.ended is None]
                rows = rows_of(flows, now, screen.width(), screen.height() - 2, screen.style())
                screen.draw(rows)
            except Exception as error:
                self._screen.stop()
                log_failure(error, "The progress of flow runs cannot be shown any more")
                return

    def _look(self) -> None:
        now = time.monotonic()
        waiting = [flow for flow in self.flows if flow.ended is None]
        while waiting:
            flow = waiting.pop()
            flow.look_at(now)
            waiting += flow.children


# ---------------------------------------------------------------------- errors


def _in_words(error: object) -> str:
    text = in_words(error) if is_raisable(error) else kind_of(error)
    return text.strip().partition("\n")[0]


_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})


def place_of(error: object, trace: TracebackType | None = None) -> str:
    """File and line of the user's code at which an error came up, empty if it is not known."""
    if trace is None:
        trace = traceback_of(error)
    found = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not found or not file.startswith(_LIBRARIES):
            found = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    here = os.getcwd() + os.sep
    return found.removeprefix(here)
