"""A time limit where the run itself waits for its end: a flow, or a task that is called directly.

May import `interrupt` and `services`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

from shoal.context import HERE, LOCK
from shoal.engine.interrupt import (
    Interrupt,
    Kicks,
    frames_of_this_thread,
    interruptible_block,
    raise_if_due,
)
from shoal.engine.services import TIMERS

if TYPE_CHECKING:
    from types import TracebackType

    from shoal.engine.services import Timer

__all__ = ["TimeLimit"]

R = TypeVar("R")


class TimeLimit:
    """A block of our own code that runs user code, through `expose`, for so long and no longer.

    The block is a shield: in our code, an interrupt of a run further out could leave a lock taken. What it raises because
    its time was over is dropped.

    Attributes:
        expired: afterwards, whether its time was over before it ended.

    Args:
        seconds: the limit; `None` if `start` is to be called.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.expired = False
        self._seconds = seconds
        self._ended = False
        self._timer: Timer | None = None
        self._kicks = Kicks()

    def __enter__(self) -> Self:
        self._frames = frames_of_this_thread()
        self._token = object()
        self._frame = self._frames.begin(self._token, shield=1)
        self._kicks.__enter__()
        self._blocker = HERE.block
        if self._blocker is None:
            HERE.block = interruptible_block
        if self._seconds is not None:
            self.start(self._seconds)
        return self

    def start(self, seconds: float, at_end: Callable[[], object] | None = None) -> None:
        """Starts the clock.

        Args:
            seconds: the limit.
            at_end: called too when the time is over, on a service thread.
        """
        frames, token = self._frames, self._token

        def fire() -> None:
            with LOCK:
                if self._ended:
                    return
                frames.fire(token)
            if at_end is not None:
                at_end()

        self._timer = TIMERS.after(seconds, fire)

    def end(self) -> None:
        """Ends the clock: user code that is yet to come is not held to it.

        Raises:
            Interrupt: the time was over before.
        """
        with LOCK:
            self._ended = True
            if self._frame.fired:
                raise Interrupt

    def expose(self, function: Callable[[], R]) -> R:
        """Calls user code."""
        return self._frames.expose(function)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        self._kicks.__exit__()
        HERE.block = self._blocker
        self.expired = self._frames.end(self._frame)
        raise_if_due()  # for a run around this one
        return self.expired and isinstance(error, (Exception, Interrupt))
