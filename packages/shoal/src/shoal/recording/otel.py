"""Whether OpenTelemetry is to be told, asked once for each flow run and runner where `settings.may_be_traced()` says so.

May import `exceptions`; `flow_spans`, and with it OpenTelemetry, on use.
"""

from __future__ import annotations

from shoal.exceptions import MissingExtraError

__all__ = ["trace_runs"]


def trace_runs() -> None:
    """Has spans made from now on, if the program traces, or `SHOAL_OTEL` asks for it.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    try:
        from shoal.recording.flow_spans import observe_if_traced
    except ImportError as error:
        raise MissingExtraError(feature="SHOAL_OTEL", requirement="shoal[otel]") from error
    observe_if_traced()
