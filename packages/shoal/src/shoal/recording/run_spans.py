"""The spans of the runs of a runner, made when these have ended.

    observer ─▶ a list, in the order of what happened ─▶ callback thread: spans with their times, links, states ─▶ SDK
                                                          ten times a second

Of a map beyond `settings.otel_map_runs()` elements only the failures have spans of their own; the map's span counts the
others.

Loaded only where a flow is traced. May import `spans`, scheduling and what lies above it, and OpenTelemetry.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from time import sleep
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from shoal import settings
from shoal.calls import COMPLETED
from shoal.context import SUBMITTER
from shoal.engine.inputs import runs_among
from shoal.engine.services import CALLBACKS, TIMERS
from shoal.engine.tracing import AmbientSpan, attach_ambient, span_id_of
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord, Span
from shoal.recording.spans import SpanMaker, nanoseconds, never_raising, sibling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shoal.calls import Batch, Outcome
    from shoal.engine.inputs import Input
    from shoal.states import State

__all__ = ["RunnerSpans"]

_NOWHERE = trace.INVALID_SPAN_CONTEXT


#: Seconds after which what was told is made spans of. A thread that is woken for each run, and wants the interpreter's lock
#: at once, costs the workers three times what the spans do.
EVERY = 0.1


class _Open:
    """A run that has not ended."""

    __slots__ = ("began", "links", "parent", "retries")

    def __init__(self, parent: trace.SpanContext, links: Sequence[int]) -> None:
        self.parent = parent
        self.links = links
        self.began: float | None = None
        self.retries: list[tuple[float, str]] = []


class _Map:
    """A map some of whose runs have not ended."""

    __slots__ = ("began", "ended", "odd", "parent", "record", "seen", "span", "told")

    def __init__(self, record: MapRecord[Any], parent: trace.SpanContext) -> None:
        self.record = record
        self.parent = parent
        # No run has that number.
        self.span = sibling(parent, span_id_of(record.base) ^ 1 << 63)
        self.began = record.submitted
        self.ended = record.submitted
        self.odd: Counter[str] = Counter()  # runs that did anything else than complete
        self.told: set[int] = set()  # elements that were told of by themselves
        self.seen = 0


class RunnerSpans:
    """Is told of the runs of a runner: a `RunnerObserver`.

    What it is told it keeps; the callback thread makes spans of it.

    Args:
        spans: makes them.
        ambients: what stands for the spans of the runs of a flow run, by its number.
    """

    inside = False

    def __init__(self, spans: SpanMaker, ambients: Mapping[int, AmbientSpan]) -> None:
        self._spans = spans
        self._ambients = ambients
        self._told: deque[tuple[Any, ...]] = deque()
        self._working = threading.Lock()
        self._is_asked = False
        self._open: dict[int, _Open] = {}
        self._maps: dict[int, _Map] = {}
        self._reported: dict[int, tuple[Any, float, float]] = {}
        self._most = settings.otel_map_runs()

    def _tell(self, *what: Any) -> None:
        self._told.append(what)
        if not self._is_asked:
            self._is_asked = True
            TIMERS.after(EVERY, self._ask)

    def _ask(self) -> None:
        CALLBACKS.put("Making spans", self._work)

    def _work(self) -> None:
        with self._working:
            self._is_asked = False
            while self._told:
                handle, *facts = self._told.popleft()
                never_raising(handle)(*facts)
                sleep(
                    0
                )  # else who sends and receives runs would wait 5 ms for the interpreter's lock

    def started(self, dispatcher: Any) -> None:
        """See `RunnerObserver`."""

    def left(self) -> None:
        """See `RunnerObserver`."""
        self._told.append((self._finish,))
        self._work()

    def _finish(self) -> None:
        self._flush()
        for known in list(self._maps.values()):
            self._end_map(known)

    # ------------------------------------------------------------------ what is submitted

    def _parent(self, scope: Any, context: Any) -> trace.SpanContext:
        """The span around who submits; and sees to it that spans opened in the run are children of the run's."""
        flow_run = scope.flow_run if scope is not None else None
        ambient = self._ambients.get(flow_run.number) if flow_run is not None else None
        current = trace.get_current_span()
        parent = current.get_span_context()
        if ambient is None:
            return parent
        if context is not None and current is not ambient:
            context.run(attach_ambient, ambient)
        if parent.trace_id == ambient.of_flow.trace_id:
            return parent
        return self._submitter(ambient.of_flow)

    def _submitter(self, of_flow: trace.SpanContext) -> trace.SpanContext:
        """The span of the run that submits on a worker, for whom a thread does it here that knows nothing of spans.

        That of the flow where it has none: a task that it calls submits, or the provider gives spans ids of its own.
        """
        submitter = SUBMITTER.get()
        if submitter is None or not self._spans.gives_ids:
            return of_flow
        number, _ = submitter
        of_map = self._map_of(number)
        if of_map is not None and number - of_map.record.base >= self._most:
            return of_map.span
        known = of_map is not None or number in self._open
        return sibling(of_flow, span_id_of(number)) if known else of_flow

    def submitted(self, run: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        """See `RunnerObserver`."""
        call = run._call
        if call is None or self._map_of(run._number) is not None:
            return
        links = [upstream._number for upstream in runs_among(inputs)]
        # Where a run executes elsewhere, its context here is not its own.
        own = call.context if run._dispatcher.capabilities.shares_context else None  # type: ignore[attr-defined]
        self._open[run._number] = _Open(self._parent(call.scope, own), links)

    def mapped(self, record: MapRecord[Any]) -> None:
        """See `RunnerObserver`."""
        self._maps[record.base] = _Map(record, self._parent(record.scope, record.context))

    # ------------------------------------------------------------------ what has ended

    def ran(self, run: TaskFuture[Any], attempt: int, began: float, ended: float) -> None:
        """See `RunnerObserver`."""
        self._tell(self._one, run, began, ended, None)

    def settled(self, run: TaskFuture[Any], attempt: int, began: float | None, now: float) -> None:
        """See `RunnerObserver`."""
        self._tell(self._one, run, began, now, True)

    def retries(
        self, run: TaskFuture[Any], attempt: int, began: float | None, now: float, outcome: Outcome
    ) -> None:
        """See `RunnerObserver`."""
        why = str(outcome.state) if outcome.state is not None else type(outcome.value).__name__
        self._tell(self._retried, run, began, now, why)

    def sent_again(self, run: TaskFuture[Any], now: float) -> None:
        """See `RunnerObserver`."""
        self._tell(self._retried, run, now, now, "Crashed")

    def _retried(self, run: TaskFuture[Any], began: float | None, now: float, why: str) -> None:
        known = self._open.get(run._number)
        if known is None:
            of_map = self._map_of(run._number)
            known = self._open[run._number] = _Open(of_map.span if of_map else _NOWHERE, ())
        reported = self._reported.pop(run._number, None)
        if known.began is None:
            known.began = reported[1] if reported is not None else began
        known.retries.append((now, why))

    def _one(self, run: TaskFuture[Any], began: float | None, ended: float, told: Any) -> None:
        """A run, of a map or not, that ended by itself."""
        reported = self._reported.pop(run._number, None)
        if reported is not None:
            began, ended = reported[1:]
        state = run.state if told else None
        if state is not None and not state.is_done():
            return
        of_map = self._map_of(run._number)
        known = self._open.pop(run._number, None)
        index = run._number - of_map.record.base if of_map is not None else 0
        if known is None if of_map is None else index in of_map.told:
            return  # the driver had ended it, say by its time limit, and its worker reports it late
        began = known.began if known is not None and known.began is not None else began
        name = "Completed" if state is None else state.name
        if of_map is not None:
            of_map.odd[name] += 1
            of_map.told.add(index)
            self._spans.count(run._task.name, name, 1)
            if index < self._most or (state is not None and not state.is_completed()):
                self._make(run, of_map.span, began, ended, state, known)
            self._seen(of_map, 1, ended)
        else:
            assert known is not None  # else it has returned
            self._spans.count(run._task.name, name, 1)
            self._make(run, known.parent, began, ended, state, known)

    def _map_of(self, number: int) -> _Map | None:
        """The map that a run is of; a run that has ended does not know."""
        for known in list(self._maps.values()):
            if known.record.base <= number < known.record.base + known.record.size:
                return known
        return None

    def _make(
        self,
        run: TaskFuture[Any],
        parent: trace.SpanContext,
        began: float | None,
        ended: float,
        state: State[Any] | None,
        known: _Open | None,
    ) -> None:
        self._spans.make(
            run._task.name,
            parent,
            run._number,
            run.name,
            ended if began is None else began,
            ended,
            state,
            known.links if known is not None else (),
            known.retries if known is not None else (),
        )

    def element_cancelled(self, record: MapRecord[Any], index: int, now: float) -> None:
        """See `RunnerObserver`."""
        self._tell(self._cancelled, record, now)

    def _cancelled(self, record: MapRecord[Any], now: float) -> None:
        of_map = self._maps.get(record.base)
        if of_map is not None:
            of_map.odd["Cancelled"] += 1
            self._spans.count(record.task.name, "Cancelled", 1)
            self._seen(of_map, 1, now)

    def went_through(
        self, record: MapRecord[Any], start: int, stop: int, began: float, ended: float
    ) -> None:
        """See `RunnerObserver`."""
        self._tell(self._went_through, record, start, stop, began, ended)

    def _went_through(
        self, record: MapRecord[Any], start: int, stop: int, began: float, ended: float
    ) -> None:
        of_map = self._maps.get(record.base)
        if of_map is None:
            return
        before = began
        completed = 0
        for index in range(start, stop):
            future = record.futures.get(index)
            end = record.since[index]
            if index not in of_map.told and (future is None or future._phase == COMPLETED):
                completed += 1
                if index < self._most:
                    self._element(of_map, index, before, end)
            before = end
        if completed:
            self._spans.count(record.task.name, "Completed", completed)
            self._seen(of_map, completed, ended)

    def _element(self, of_map: _Map, index: int, began: float, ended: float) -> None:
        from shoal.names import task_run_name

        record = of_map.record
        number = record.base + index
        name = task_run_name(record.task.name, number)
        self._spans.make(record.task.name, of_map.span, number, name, began, ended, None)

    def _seen(self, of_map: _Map, runs: int, ended: float) -> None:
        of_map.seen += runs
        of_map.ended = max(of_map.ended, ended)
        if of_map.seen >= of_map.record.size:
            self._end_map(of_map)

    def _end_map(self, of_map: _Map) -> None:
        """The span of a map, which counts its runs by state."""
        record = of_map.record
        del self._maps[record.base]
        counts = Counter(of_map.odd)  # of those that were told of by themselves
        counts["Completed"] += of_map.seen - sum(of_map.odd.values())
        self._spans.want(of_map.span.span_id)
        span = self._spans.tracer.start_span(
            f"map {record.task.name}",
            context=self._spans.inside(of_map.parent),
            attributes={
                "shoal.map.size": record.size,
                **{f"shoal.map.{state}": count for state, count in counts.items() if count},
            },
            start_time=nanoseconds(of_map.began),
        )
        flawed = sum(counts.values()) - counts["Completed"]
        if flawed:
            words = f"{flawed} of {record.size} runs did not complete"
            span.set_status(trace.Status(trace.StatusCode.ERROR, words))
        span.end(nanoseconds(of_map.ended))

    # ------------------------------------------------------------------ what workers say

    def reported(
        self, batch: Batch, positions: Sequence[int], ends: Sequence[float], seconds: float
    ) -> None:
        """See `RunnerObserver`."""
        if positions:
            self._tell(self._report, batch.runs, list(positions), list(ends), seconds)

    def _report(self, runs: Any, positions: list[int], ends: list[float], seconds: float) -> None:
        self._flush()  # those before have settled, if they did anything else than complete
        before = ends[-1] - seconds
        for position, end in zip(positions, ends, strict=True):
            if type(runs) is Span:
                record, index = runs.record, runs.start + position
                self._reported[record.base + index] = (record, index), min(before, end), end
            else:
                run = runs[position]
                self._reported[run._number] = run, min(before, end), end
            before = end

    def _flush(self) -> None:
        """What was reported and is not told of otherwise has completed."""
        reported, self._reported = self._reported, {}
        for what, began, ended in reported.values():
            if isinstance(what, TaskFuture):
                self._one(what, began, ended, None)
                continue
            record, index = what
            of_map = self._maps.get(record.base)
            if of_map is not None and index not in of_map.told:
                if index < self._most:
                    self._element(of_map, index, began, ended)
                self._spans.count(record.task.name, "Completed", 1)
                self._seen(of_map, 1, ended)

    def closed(self, number: int, back: int) -> None:
        """See `RunnerObserver`."""
        self._tell(self._flush)

    # ------------------------------------------------------------------ what makes no span

    def queued(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""

    def ready(self, run: TaskFuture[Any]) -> None:
        """See `RunnerObserver`."""

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

    def arrived(self, number: int) -> None:
        """See `RunnerObserver`."""

    def at(self, number: int, worker: Any) -> None:
        """See `RunnerObserver`."""

    def lost(
        self, batch: Batch, begun: Sequence[int], error: Callable[[str], BaseException]
    ) -> None:
        """See `RunnerObserver`: each ends, and is told of, as what is sent again."""

    def joined(self, worker: Any) -> None:
        """See `RunnerObserver`."""

    def departed(self, worker: Any, departure: Any) -> None:
        """See `RunnerObserver`."""
