"""Spans and counters of OpenTelemetry: one span for a flow run and one for each run, made when these have ended.

    observer ─▶ a list, in the order of what happened ─▶ callback thread: spans with their times, links, states ─▶ SDK

Of a map beyond `settings.otel_map_runs()` elements only the failures have spans of their own; the map's span counts the
others. What a span is called and has as attributes is told by `docs/concepts/opentelemetry.md`.

Loaded only where a flow is traced. May import `engine.tracing`, scheduling and what lies above it, and OpenTelemetry.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from importlib.metadata import version
from time import sleep
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry import metrics, propagate, trace

from shoal import settings
from shoal.calls import COMPLETED
from shoal.context import LOCK
from shoal.engine.observing import CARRIERS, add_observer, observers
from shoal.engine.services import CALLBACKS
from shoal.engine.tracing import AmbientSpan, attach_ambient, span_id_of
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord, Span
from shoal.safely import is_raisable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Batch, Call, Outcome
    from shoal.context import FlowRun
    from shoal.engine.inputs import Input
    from shoal.states import State

__all__ = ["observe_if_traced"]

_NOWHERE = trace.INVALID_SPAN_CONTEXT


def observe_if_traced() -> None:
    """Has spans made from now on, if a tracer provider is set, or `SHOAL_OTEL` says so, and they are not made yet."""
    wanted = settings.otel()
    if wanted is False or any(isinstance(known, Spans) for known in observers()):
        return
    provider = trace.get_tracer_provider()
    if wanted or not isinstance(provider, trace.ProxyTracerProvider):
        with LOCK:
            if not any(isinstance(known, Spans) for known in observers()):
                add_observer(Spans(provider))


class _Ids:
    """Gives the SDK's tracer the ids that we want its spans to have."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self._wanted = threading.local()

    def want(self, span_id: int) -> None:
        """The next span that this thread makes has this id."""
        self._wanted.id = span_id

    def generate_span_id(self) -> int:
        """See the SDK's `IdGenerator`."""
        wanted = getattr(self._wanted, "id", None)
        if wanted is None:
            return int(self._ids.generate_span_id())
        self._wanted.id = None
        return int(wanted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


class Spans:
    """Is told of flow runs and runners, and makes spans; an `Observer`.

    Args:
        provider: makes them.
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        self.tracer = trace.get_tracer("shoal", version("shoal"), provider)
        self._ids: _Ids | None = None
        tracer: Any = self.tracer
        if hasattr(tracer, "id_generator"):  # the SDK's
            self._ids = tracer.id_generator = _Ids(tracer.id_generator)
        meter = metrics.get_meter("shoal", version("shoal"))
        self.counter = meter.create_counter("shoal.task_runs", "{run}", "task runs that have ended")
        self.flow_counter = meter.create_counter(
            "shoal.flow_runs", "{run}", "flow runs that have ended"
        )
        self._flows: dict[int, trace.Span] = {}
        self._ambients: dict[int, AmbientSpan] = {}
        self._tokens: dict[int, list[Any]] = {}
        self._last: tuple[trace.SpanContext, otel.Context] | None = None

    # ------------------------------------------------------------------ flow runs

    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        self.want(span_id_of(run.number))
        span = self.tracer.start_span(
            run.flow.name,
            attributes={"shoal.flow_run.name": run.name, "shoal.flow_run.id": run.id},
        )
        self._flows[run.number] = span
        self._ambients[run.number] = AmbientSpan(span.get_span_context())
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        CARRIERS[run.number] = carrier

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`: in the context of the flow's body."""
        ambient = self._ambients.get(run.number)
        if ambient is not None and trace.get_current_span() is not ambient:
            self._tokens.setdefault(run.number, []).append(attach_ambient(ambient))

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """See `Observer`."""
        span = self._flows.pop(run.number, None)
        if span is None:
            return  # its parameters did not fit, or it began before
        ambient = self._ambients.pop(run.number)
        CARRIERS.pop(run.number, None)
        tokens = self._tokens.pop(run.number, [])
        # A generator's body had a context of its own, which is gone.
        if tokens and trace.get_current_span() is ambient:
            otel.detach(tokens[0])
        _tell_state(span, state)
        span.end()
        self.flow_counter.add(1, {"shoal.flow": run.flow.name, "shoal.state": state.name})

    def ambient(self, run: FlowRun | None) -> AmbientSpan | None:
        """What stands for the spans of a flow run's runs."""
        return self._ambients.get(run.number) if run is not None else None

    # ------------------------------------------------------------------ runs

    def runner_entered(self, runner: Any) -> _RunnerSpans:
        """See `Observer`."""
        return _RunnerSpans(self)

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`: in the caller's context."""
        from shoal.engine.hooks import state_of

        state = state_of(outcome)
        if state.is_done():
            parent = _current()
            if parent.span_id == span_id_of(call.number):  # still inside of it: a coroutine
                parent = call.context.run(_current)
            first, _ = call.earlier() or (began, 0.0)
            self.make(
                call.task.name, parent, call.number, call.run_name(), first or began, ended, state
            )
            self.count(call.task.name, state.name, 1)

    def make(
        self,
        task_name: str,
        parent: trace.SpanContext,
        number: int,
        name: str,
        began: float,
        ended: float,
        state: State[Any] | None,
        links: Sequence[int] = (),
        retries: Sequence[tuple[float, str]] = (),
    ) -> None:
        """The span of a run.

        Args:
            task_name: of its task.
            parent: the context of the span around it.
            number: of the run.
            name: of the run.
            began: when its first attempt began, in seconds since the epoch.
            ended: when it ended.
            state: its state, `None` if it just completed.
            links: numbers of the runs that it needed.
            retries: when it was retried, and why.
        """
        self.want(span_id_of(number))
        span = self.tracer.start_span(
            task_name,
            context=self.inside(parent),
            attributes={"shoal.task_run.name": name},
            links=[trace.Link(_sibling(parent, span_id_of(link))) for link in links],
            start_time=_nanoseconds(began),
        )
        for at, why in retries:
            span.add_event("retry", {"shoal.state": why}, _nanoseconds(at))
        if state is not None:
            _tell_state(span, state)
        span.end(_nanoseconds(max(began, ended)))

    def inside(self, parent: trace.SpanContext) -> otel.Context:
        """The context for a child of a span; mostly that of the last time."""
        last = self._last
        if last is not None and last[0] is parent:
            return last[1]
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), otel.Context())
        self._last = parent, context
        return context

    def want(self, span_id: int) -> None:
        """The next span of this thread has this id, where the provider lets us say."""
        if self._ids is not None:
            self._ids.want(span_id)

    def count(self, task_name: str, state: str, runs: int) -> None:
        """Counts runs that have ended."""
        self.counter.add(runs, {"shoal.task": task_name, "shoal.state": state})


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
        self.span = _sibling(parent, span_id_of(record.base) ^ 1 << 63)
        self.began = record.submitted
        self.ended = record.submitted
        self.odd: Counter[str] = Counter()  # runs that did anything else than complete
        self.told: set[int] = set()  # elements that were told of by themselves
        self.seen = 0


class _RunnerSpans:
    """Is told of the runs of a runner: a `RunnerObserver`.

    What it is told it keeps; the callback thread makes spans of it.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
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
            CALLBACKS.put("Making spans", self._work)

    def _work(self) -> None:
        with self._working:
            self._is_asked = False
            while self._told:
                handle, *facts = self._told.popleft()
                handle(*facts)
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
        ambient = self._spans.ambient(scope.flow_run if scope is not None else None)
        current = trace.get_current_span()
        parent = current.get_span_context()
        if ambient is None:
            return parent
        if context is not None and current is not ambient:
            context.run(attach_ambient, ambient)
        # What a worker submits comes by a thread that knows nothing of it.
        return parent if parent.trace_id == ambient.of_flow.trace_id else ambient.of_flow

    def submitted(self, run: TaskFuture[Any], inputs: Sequence[Input]) -> None:
        """See `RunnerObserver`."""
        call = run._call
        if call is None or self._map_of(run._number) is not None:
            return
        links = [entry.future._number for entry in inputs if isinstance(entry.future, TaskFuture)]
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
        began = known.began if known is not None and known.began is not None else began
        name = "Completed" if state is None else state.name
        if of_map is not None:
            index = run._number - of_map.record.base
            of_map.odd[name] += 1
            of_map.told.add(index)
            self._spans.count(run._task.name, name, 1)
            if index < self._most or (state is not None and not state.is_completed()):
                self._make(run, of_map.span, began, ended, state, known)
            self._seen(of_map, 1, ended)
        else:
            parent = known.parent if known is not None else _NOWHERE
            self._spans.count(run._task.name, name, 1)
            self._make(run, parent, began, ended, state, known)

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
            start_time=_nanoseconds(of_map.began),
        )
        flawed = sum(counts.values()) - counts["Completed"]
        if flawed:
            words = f"{flawed} of {record.size} runs did not complete"
            span.set_status(trace.Status(trace.StatusCode.ERROR, words))
        span.end(_nanoseconds(of_map.ended))

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
            if of_map is not None:
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

    def sent(self, batch: Batch) -> None:
        """See `RunnerObserver`."""

    def arrived(self, number: int) -> None:
        """See `RunnerObserver`."""

    def at(self, number: int, worker: Any) -> None:
        """See `RunnerObserver`."""

    def lost(
        self, batch: Batch, begun: Sequence[int], error: Callable[[str], BaseException]
    ) -> None:
        """See `RunnerObserver`: each ends, and is told of, or is sent again."""

    def joined(self, worker: Any) -> None:
        """See `RunnerObserver`."""

    def departed(self, worker: Any, departure: Any) -> None:
        """See `RunnerObserver`."""


def _current() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


def _tell_state(span: trace.Span, state: State[Any]) -> None:
    span.set_attribute("shoal.state", state.name)
    if state.is_completed():
        return
    error = state.data
    if is_raisable(error):
        span.record_exception(error)
    span.set_status(trace.Status(trace.StatusCode.ERROR, str(state)))


def _sibling(context: trace.SpanContext, span_id: int) -> trace.SpanContext:
    """The context of another span of a trace; an invalid one of none."""
    return trace.SpanContext(
        context.trace_id,
        span_id,
        is_remote=False,
        trace_flags=context.trace_flags,
        trace_state=context.trace_state,
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
