"""Timers by name, of which each is set at most once. Whoever has them holds its lock around all calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["Alarm", "Alarms"]

#: What it is for, and for which of these.
Alarm = tuple[str, Any]


class Alarms:
    """Timers that wake one thread.

    Args:
        after: calls a function in some seconds; what it returns can be cancelled.
        lock: held while a timer goes off, too.
        wake: called when one has gone off, without the lock.
    """

    def __init__(
        self,
        after: Callable[[float, Callable[[], Any]], Any],
        lock: AbstractContextManager[Any],
        wake: Callable[[], None],
    ) -> None:
        self._after = after
        self._lock = lock
        self._wake = wake
        self._timers: dict[Alarm, Any] = {}
        self.due: set[Alarm] = set()

    def start(self, alarm: Alarm, seconds: float, *, anew: bool = False) -> None:
        """Sets a timer that is not set, or any one anew."""
        if anew:
            self.stop(alarm)
        if alarm not in self._timers:
            self._timers[alarm] = self._after(seconds, lambda: self._go_off(alarm))

    def stop(self, alarm: Alarm) -> None:
        """Calls a timer off, if it is set."""
        timer = self._timers.pop(alarm, None)
        if timer is not None:
            timer.cancel()

    def stop_unless(self, wanted: Callable[[Alarm], bool]) -> None:
        """Calls those off that are not wanted."""
        for alarm in [alarm for alarm in self._timers if not wanted(alarm)]:
            self.stop(alarm)

    def take_due(self) -> set[Alarm]:
        """Those that have gone off since this was called last."""
        due, self.due = self.due, set()
        return due

    def _go_off(self, alarm: Alarm) -> None:
        with self._lock:
            if self._timers.pop(alarm, None) is None:
                return  # it was called off while it went off
            self.due.add(alarm)
        self._wake()
