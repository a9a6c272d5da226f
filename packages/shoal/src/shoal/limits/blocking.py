"""How a thread waits for the outcome of what it asked the keeper.

May import `futures` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.engine.interrupt import interruptible_block
from shoal.futures.blocking import Countdown, block_plainly
from shoal.limits.store import Acquired

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.exceptions import ShoalError

__all__ = ["Decision", "wait_for"]


def wait_for(decision: Decision) -> None:
    """Blocks the thread until there is an outcome, or an exception ends the wait."""
    interruptible_block((decision,), None, False, False)
    if not decision.done():
        # Interrupted was a run beneath this one, and its turn comes when this one has ended.
        block_plainly(Countdown(), (decision,), None)


class Decision:
    """The outcome that a blocked thread waits for; a `Waitable`."""

    __slots__ = ("_done", "_waiter", "outcome")

    outcome: Acquired | ShoalError

    def __init__(self) -> None:
        self._done = False
        self._waiter: Callable[[Any], object] | None = None

    def __call__(self, outcome: Acquired | ShoalError) -> None:
        with LOCK:
            self.outcome = outcome
            self._done = True
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter(self)

    def watch(self, waiter: Callable[[Any], object]) -> bool:
        """See `Waitable`."""
        if not self._done:
            self._waiter = waiter
        return not self._done

    def unwatch(self, waiter: Callable[[Any], object]) -> None:
        """See `Waitable`."""
        self._waiter = None

    def done(self) -> bool:
        """See `Waitable`."""
        return self._done

    def flawed(self) -> bool:
        """See `Waitable`."""
        return self._done and not isinstance(self.outcome, Acquired)
