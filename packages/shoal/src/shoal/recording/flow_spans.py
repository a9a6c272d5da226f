"""Who is told of flow runs, runners and direct calls, and makes spans of OpenTelemetry: one for each flow run and run.

What a span is called and has as attributes is told by `docs/concepts/see.md`.

Loaded only where a flow is traced. May import `run_spans`, `spans`, and OpenTelemetry.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry import metrics, propagate, trace

from shoal import settings
from shoal.context import LOCK
from shoal.engine.observing import CARRIERS, add_observer, observers
from shoal.engine.tracing import AmbientSpan, attach_ambient, span_id_of
from shoal.recording.run_spans import RunnerSpans
from shoal.recording.spans import SpanMaker, current_context, never_raising, tell_state

if TYPE_CHECKING:
    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun
    from shoal.states import State

__all__ = ["Spans", "observe_if_traced"]


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


class Spans(SpanMaker):
    """Is told of flow runs and runners, and makes spans; an `Observer`.

    Args:
        provider: makes them.
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        super().__init__(provider)
        meter = metrics.get_meter("shoal", version("shoal"))
        self.flow_counter = meter.create_counter(
            "shoal.flow_runs", "{run}", "flow runs that have ended"
        )
        self._flows: dict[int, trace.Span] = {}
        self._ambients: dict[int, AmbientSpan] = {}
        self._tokens: dict[int, list[Any]] = {}

    # ------------------------------------------------------------------ flow runs

    @never_raising
    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        self.want(span_id_of(run.number))
        span = self.tracer.start_span(
            run.flow.name,
            attributes={"shoal.flow_run.name": run.name, "shoal.flow_run.id": run.id},
        )
        self._flows[run.number] = span
        self._ambients[run.number] = AmbientSpan(span.get_span_context(), knows_runs=self.gives_ids)
        if self.gives_ids:
            carrier: dict[str, str] = {}
            propagate.inject(carrier, trace.set_span_in_context(span))
            CARRIERS[run.number] = carrier

    @never_raising
    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`: in the context of the flow's body."""
        ambient = self._ambients.get(run.number)
        if ambient is not None and trace.get_current_span() is not ambient:
            self._tokens.setdefault(run.number, []).append(attach_ambient(ambient))

    @never_raising
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
        tell_state(span, state)
        span.end()
        self.flow_counter.add(1, {"shoal.flow": run.flow.name, "shoal.state": state.name})

    # ------------------------------------------------------------------ runs

    def runner_entered(self, runner: Any) -> RunnerSpans:
        """See `Observer`."""
        return RunnerSpans(self, self._ambients)

    @never_raising
    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`: in the caller's context."""
        from shoal.engine.hooks import state_of

        state = state_of(outcome)
        if state.is_done():
            parent = current_context()
            if parent.span_id == span_id_of(call.number):  # still inside of it: a coroutine
                parent = call.context.run(current_context)
            first, _ = call.earlier() or (began, 0.0)
            self.make(
                call.task.name, parent, call.number, call.run_name(), first or began, ended, state
            )
            self.count(call.task.name, state.name, 1)
