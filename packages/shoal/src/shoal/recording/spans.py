"""Makes spans and counters of OpenTelemetry, of runs whose times and ends are known.

Loaded only where a flow is traced. May import `engine.tracing` and OpenTelemetry.
"""

from __future__ import annotations

import threading
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ParamSpec

from opentelemetry import context as otel
from opentelemetry import metrics, trace

from shoal.engine.tracing import span_id_of
from shoal.logs import log_failure
from shoal.safely import is_raisable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.states import State

__all__ = ["SpanMaker", "current_context", "nanoseconds", "never_raising", "sibling", "tell_state"]


P = ParamSpec("P")


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


class SpanMaker:
    """Makes spans and counts runs.

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
        self._last: tuple[trace.SpanContext, otel.Context] | None = None

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
            links=[trace.Link(sibling(parent, span_id_of(link))) for link in links],
            start_time=nanoseconds(began),
        )
        for at, why in retries:
            span.add_event("retry", {"shoal.state": why}, nanoseconds(at))
        if state is not None:
            tell_state(span, state)
        span.end(nanoseconds(max(began, ended)))

    def inside(self, parent: trace.SpanContext) -> otel.Context:
        """The context for a child of a span; mostly that of the last time."""
        last = self._last
        if last is not None and last[0] is parent:
            return last[1]
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), otel.Context())
        self._last = parent, context
        return context

    @property
    def gives_ids(self) -> bool:
        """Whether the provider lets us say what ids spans have: the SDK's does."""
        return self._ids is not None

    def want(self, span_id: int) -> None:
        """The next span of this thread has this id, where the provider lets us say."""
        if self._ids is not None:
            self._ids.want(span_id)

    def count(self, task_name: str, state: str, runs: int) -> None:
        """Counts runs that have ended."""
        self.counter.add(runs, {"shoal.task": task_name, "shoal.state": state})


def current_context() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


def tell_state(span: trace.Span, state: State[Any]) -> None:
    span.set_attribute("shoal.state", state.name)
    if state.is_completed():
        return
    error = state.data
    if is_raisable(error):
        span.record_exception(error)
    span.set_status(trace.Status(trace.StatusCode.ERROR, str(state)))


def sibling(context: trace.SpanContext, span_id: int) -> trace.SpanContext:
    """The context of another span of a trace; an invalid one of none."""
    return trace.SpanContext(
        context.trace_id,
        span_id,
        is_remote=False,
        trace_flags=context.trace_flags,
        trace_state=context.trace_state,
    )


def never_raising(method: Callable[P, None]) -> Callable[P, None]:
    """What processors and exporters of the user's raise is logged: no run depends on a span."""

    @wraps(method)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            log_failure(error, "A span could not be made")

    return told


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
