"""Virtual time: what happens next. Imports nothing of ours."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

__all__ = ["VirtualTime"]


class VirtualTime:
    """A clock that jumps from one event to the next; those of the same time come in the order in which they were set.

    Attributes:
        now: seconds since the start.
        stopped: whether nothing more is to happen.
    """

    __slots__ = ("_events", "_numbers", "now", "stopped")

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = False
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        """Has something happen at a time, which is not past. Hot."""
        heapq.heappush(self._events, (when, next(self._numbers), action, arguments))

    def run(self) -> None:
        """Lets time pass until it is stopped, or nothing is left that could happen. Hot."""
        events = self._events
        pop = heapq.heappop
        while events and not self.stopped:
            self.now, _, action, arguments = pop(events)
            action(*arguments)
