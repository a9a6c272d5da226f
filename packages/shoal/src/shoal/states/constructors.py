"""Constructors that are named for the states they make: `Completed()`, `Failed("message")`.

May import `state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from shoal.states.state import State, StateType

if TYPE_CHECKING:
    from datetime import datetime
    from typing import TypedDict, Unpack

__all__ = [
    "AwaitingConcurrencySlot",
    "AwaitingRetry",
    "Cancelled",
    "Cancelling",
    "Completed",
    "Crashed",
    "Failed",
    "NotReady",
    "Paused",
    "Pending",
    "Queued",
    "Retrying",
    "Running",
    "Scheduled",
    "TimedOut",
]

R = TypeVar("R")

# Each takes a message, and by keyword what is below, as `State` does.

if TYPE_CHECKING:

    class _Details(TypedDict, total=False):
        data: Any
        name: str | None
        timestamp: float | None

    class _Plan(_Details, total=False):
        scheduled_time: float | datetime | None


def Pending(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run has not started."""
    return _named(StateType.PENDING, None, message, details)


def Queued(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run could start, but waits for a slot of a concurrency limit; it holds no worker."""
    return _named(StateType.PENDING, "Queued", message, details)


def NotReady(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run is settled and never starts: what it needs did not complete. `data`: an `UpstreamTaskError`."""
    return _named(StateType.PENDING, "NotReady", message, details)


def Running(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run is going on."""
    return _named(StateType.RUNNING, None, message, details)


def Retrying(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run is going on again, after an attempt that failed."""
    return _named(StateType.RUNNING, "Retrying", message, details)


@overload
def Completed(
    message: str | None = None, *, name: str | None = None, timestamp: float | None = None
) -> State[Any]: ...
@overload
def Completed(
    message: str | None = None, *, data: R, name: str | None = None, timestamp: float | None = None
) -> State[R]: ...
def Completed(message: str | None = None, **details: Any) -> State[Any]:
    """The run ended well. `data`: its value."""
    return _named(StateType.COMPLETED, None, message, details)


def Failed(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run ended with an exception. `data`: the exception."""
    return _named(StateType.FAILED, None, message, details)


def TimedOut(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run took longer than its `timeout_seconds`. `data`: the timeout error."""
    return _named(StateType.FAILED, "TimedOut", message, details)


def Crashed(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run was lost: its worker died, or something outside it ended it. `data`: the exception, if any."""
    return _named(StateType.CRASHED, None, message, details)


def Cancelled(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run was cancelled."""
    return _named(StateType.CANCELLED, None, message, details)


def Cancelling(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run is being cancelled, but still going on."""
    return _named(StateType.CANCELLING, None, message, details)


def Paused(message: str | None = None, **details: Unpack[_Details]) -> State[Any]:
    """The run waits for a person."""
    return _named(StateType.PAUSED, None, message, details)


def Scheduled(message: str | None = None, **details: Unpack[_Plan]) -> State[Any]:
    """The run starts at a later time, `scheduled_time`."""
    return _named(StateType.SCHEDULED, None, message, details)


def AwaitingRetry(message: str | None = None, **details: Unpack[_Plan]) -> State[Any]:
    """An attempt failed; the next one starts at `scheduled_time`."""
    return _named(StateType.SCHEDULED, "AwaitingRetry", message, details)


def AwaitingConcurrencySlot(message: str | None = None, **details: Unpack[_Plan]) -> State[Any]:
    """The run waits for a slot of a limit. For code that makes such states: a run of Shoal that waits is `Queued`."""
    return _named(StateType.SCHEDULED, "AwaitingConcurrencySlot", message, details)


def _named(type_: StateType, name: str | None, message: str | None, details: Any) -> State[Any]:
    return State(type_, details.pop("name", None) or name, message, **details)
