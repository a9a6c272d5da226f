"""What an ended upstream stands for in the arguments of the run that waited for it.

May import futures and what lies above them.
"""

from __future__ import annotations

from typing import Any

from shoal.calls import COMPLETED, NOT_READY
from shoal.exceptions import UpstreamTaskError
from shoal.futures import TaskFuture
from shoal.states import State, get_state_exception

__all__ = ["upstream_error", "value_of"]


def value_of(source: TaskFuture[Any] | State[Any], allow_failure: bool) -> Any:
    """The value of an ended run, or of a State given in its place.

    Args:
        source: the run, which has ended, or the State.
        allow_failure: whether the exception is the value of one that did not complete.

    Raises:
        UpstreamTaskError: it did not complete.
    """
    if isinstance(source, TaskFuture):
        if source._phase == COMPLETED:
            return source._dispatcher.value_of(source)
        if allow_failure:
            return source._error()
    else:
        if source.is_completed():
            return source.result()
        if allow_failure:
            return get_state_exception(source)
    raise upstream_error(source)


def upstream_error(source: TaskFuture[Any] | State[Any]) -> UpstreamTaskError:
    """Why a run that needs `source` can't start: names the run that failed first."""
    if isinstance(source, TaskFuture):
        if source._phase == NOT_READY and isinstance(source._outcome, UpstreamTaskError):
            return source._outcome
        return UpstreamTaskError(
            run_name=source.name,
            task_name=source._task.name,
            state=str(source.state),
            cause=source._error(),
        )
    return UpstreamTaskError(
        run_name=None, task_name="(a State)", state=str(source), cause=get_state_exception(source)
    )
