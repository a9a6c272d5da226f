"""Several states counted, and states made of exceptions; loaded on use.

May import `state` and `safely`.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from shoal.safely import in_words, is_raisable, kind_of
from shoal.states.state import State, StateType

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = ["StateGroup", "exception_to_crashed_state", "exception_to_failed_state"]


class StateGroup:
    """The states of several runs, counted.

    Args:
        states: these.

    Attributes:
        states: as a list.
        type_counts: how many there are of each type.

    Examples:
        >>> StateGroup([Completed(), Failed("no")])
        StateGroup<total=2, 'COMPLETED'=1, 'FAILED'=1>
    """

    def __init__(self, states: Iterable[State[Any]]) -> None:
        self.states = list(states)
        self.type_counts: Counter[StateType] = Counter(state.type for state in self.states)

    @property
    def total_count(self) -> int:
        """How many there are."""
        return len(self.states)

    @property
    def cancelled_count(self) -> int:
        """How many are CANCELLED."""
        return self.type_counts[StateType.CANCELLED]

    @property
    def paused_count(self) -> int:
        """How many are PAUSED."""
        return self.type_counts[StateType.PAUSED]

    @property
    def fail_count(self) -> int:
        """How many are FAILED or CRASHED."""
        return self.type_counts[StateType.FAILED] + self.type_counts[StateType.CRASHED]

    @property
    def final_count(self) -> int:
        """How many are of a type that a run never leaves."""
        return sum(state.is_final() for state in self.states)

    @property
    def not_final_count(self) -> int:
        """How many are not, `NotReady` among them."""
        return self.total_count - self.final_count

    def all_completed(self) -> bool:
        """Whether every run completed."""
        return self.type_counts[StateType.COMPLETED] == self.total_count

    def all_final(self) -> bool:
        """Whether every state is of a type that a run never leaves."""
        return self.not_final_count == 0

    def any_cancelled(self) -> bool:
        """Whether a run was cancelled."""
        return self.cancelled_count > 0

    def any_failed(self) -> bool:
        """Whether a run failed or crashed."""
        return self.fail_count > 0

    def any_paused(self) -> bool:
        """Whether a run is paused."""
        return self.paused_count > 0

    def counts_message(self) -> str:
        """The counts in words: `total=3, not_final=1, 'COMPLETED'=2, 'RUNNING'=1`."""
        counts = [f"total={self.total_count}"]
        if self.not_final_count:
            counts.append(f"not_final={self.not_final_count}")
        counts += [f"{kind.value!r}={count}" for kind, count in self.type_counts.items()]
        return ", ".join(counts)

    def __repr__(self) -> str:
        return f"StateGroup<{self.counts_message()}>"


class _Awaitable(State[Any]):
    """A state that may be awaited, to have it, by code that takes what makes it for a coroutine function."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, State[Any]]:
        return self._itself()
        yield  # never reached: it makes this a generator, which is what `await` asks for

    def _itself(self) -> State[Any]:
        return State(self.type, self.name, self.message, data=self._data, timestamp=self.epoch)

    def __reduce__(self) -> Any:
        return State, (self.type, self.name, self.message), self.__getstate__()


def exception_to_failed_state(
    exc: BaseException | None = None,
    *,
    message: str | None = None,
    name: str | None = None,
    timestamp: float | None = None,
) -> State[Any]:
    """The FAILED state of code that raised; it may be awaited, which gives the same.

    Args:
        exc: what was raised; by default the exception that is being handled.
        message: comes first in the state's message.
        name: of the state.
        timestamp: when it was entered, in seconds since the epoch; now by default.

    Raises:
        ValueError: none was given, and none is being handled.

    Examples:
        >>> try:
        ...     1 / 0
        ... except ZeroDivisionError:
        ...     state = exception_to_failed_state(message="sharing failed:")
        >>> state
        Failed('sharing failed: ZeroDivisionError: division by zero')
    """
    if exc is None:
        exc = sys.exc_info()[1]
        if exc is None:
            raise ValueError("no exception was given, and none is being handled")
    text = in_words(exc) if message is None else f"{message.rstrip()} {in_words(exc)}"
    return _Awaitable(StateType.FAILED, name, text, data=exc, timestamp=timestamp)


def exception_to_crashed_state(exc: BaseException) -> State[Any]:
    """The CRASHED state of a run that something outside its code ended; it may be awaited, which gives the same.

    Args:
        exc: what ended it.
    """
    if not is_raisable(exc):
        raise TypeError(f"an exception is needed, not {exc!r}")
    if isinstance(exc, KeyboardInterrupt):
        why = "an interrupt from the keyboard"
    elif isinstance(exc, SystemExit):
        why = "a call of sys.exit"
    elif kind_of(exc) in ("CancelledError", "Cancelled"):  # asyncio's and trio's
        why = "the cancellation of what it ran in"
    else:
        why = "an unexpected exception"
    return _Awaitable(StateType.CRASHED, None, f"Ended by {why}: {in_words(exc)}", data=exc)
