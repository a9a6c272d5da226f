"""What OpenTelemetry sees as the current span in a run: that of the run, wherever it executes.

A run's span is made in the driver, once it is known how the run ended. Its id is known before: it is made of the run's
number. So one object, `AmbientSpan`, stands for the spans of all runs of a flow run: asked who it is, it looks at the
run around the caller. It goes with the context variables of the flow, or as W3C headers, once for each flow run and
worker, and costs runs nothing.

Loaded only where a flow is traced. May import `context`, `names` and OpenTelemetry.
"""

from __future__ import annotations

from functools import lru_cache

from opentelemetry import context as otel
from opentelemetry import propagate, trace

from shoal.context import CALL
from shoal.names import run_uuid

__all__ = ["AmbientSpan", "attach_ambient", "continue_trace", "span_id_of"]


def span_id_of(number: int) -> int:
    """The id of the span of a run or flow run; in the run's context, or in its driver."""
    return int(run_uuid(number).replace("-", "")[16:], 16)


class AmbientSpan(trace.NonRecordingSpan):
    """The span of the run around whoever asks; in the flow's own code that of the flow run.

    Args:
        context: of the flow run's span.
        knows_runs: whether the spans of runs have ids made of their numbers; else it is that of the flow run.
    """

    def __init__(self, context: trace.SpanContext, *, knows_runs: bool = True) -> None:
        super().__init__(context)
        self.of_flow = context
        self._knows_runs = knows_runs

    def get_span_context(self) -> trace.SpanContext:
        """See `opentelemetry.trace.Span`."""
        call = CALL.get()
        flow = self.of_flow
        if call is None or not self._knows_runs:
            return flow
        return trace.SpanContext(
            flow.trace_id,
            span_id_of(call.number),
            is_remote=True,
            trace_flags=flow.trace_flags,
            trace_state=flow.trace_state,
        )


def attach_ambient(ambient: AmbientSpan) -> object:
    """Makes it the current span of this context; gives what `opentelemetry.context.detach` wants."""
    return otel.attach(trace.set_span_in_context(ambient))


def continue_trace(carrier: dict[str, str]) -> None:
    """The same on a worker, with what else the headers say."""
    otel.attach(_context_of(tuple(carrier.items())))


@lru_cache(maxsize=64)
def _context_of(headers: tuple[tuple[str, str], ...]) -> otel.Context:
    context = propagate.extract(dict(headers), otel.Context())
    of_flow = trace.get_current_span(context).get_span_context()
    return trace.set_span_in_context(AmbientSpan(of_flow), context)
