"""`Owner`: what futures ask of whoever runs them, in the driver and on workers alike.

May import what lies above futures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.futures.maps import MapRecord
    from shoal.futures.run import TaskFuture
    from shoal.states import State

__all__ = ["Owner"]


class Owner(Protocol):
    """A dispatcher, as its futures see it.

    Attributes:
        scheduler: decides about its runs; schedulers ask each other where runs of several wait for each other.
        runner_name: for messages.
    """

    scheduler: Any
    runner_name: str

    def state_of(self, future: TaskFuture[Any]) -> State[Any]:
        """The state of a run as it is now."""

    def value_of(self, future: TaskFuture[Any]) -> Any:
        """The value of a completed run.

        Raises:
            MissingResult: it is an element of a map whose list was dropped before anybody took the future.
            ResultLost: what held it is gone.
        """

    def values_of(self, record: MapRecord[Any]) -> list[Any]:
        """The values of a map all of whose elements completed."""

    def native(self, future: TaskFuture[Any]) -> Any:
        """The engine's own future of a run, `None` where there is none."""

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """Ends a run as CANCELLED; False if it had ended."""

    def add_callback(
        self, future: TaskFuture[Any], fn: Callable[[TaskFuture[Any]], object]
    ) -> None:
        """Arranges for a user's callback."""
