"""A start that waits for the first run, for a runner that may have none: that of a flow run that goes on, and has all its results.

May import what lies above task runners.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shoal.engine.interrupt import shielded

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.scheduling.dispatcher import AnyDispatcher

__all__ = ["LateStart"]


class LateStart:
    """Has a dispatcher's backend started by who submits the first run; what goes wrong is raised there.

    The methods that take runs are replaced on this object, so that other runners pay nothing.

    Args:
        dispatcher: of the runner.
        start: starts its backend.
    """

    def __init__(self, dispatcher: AnyDispatcher, start: Callable[[AnyDispatcher], object]) -> None:
        self._dispatcher = dispatcher
        self._start = start
        self._starting = threading.Lock()
        self._has_started = False
        for name in ("submit", "submit_map"):
            setattr(dispatcher, name, self._once_started(getattr(dispatcher, name)))

    def _once_started(self, take: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*args: Any, **kwargs: Any) -> Any:
            if not self._has_started:
                self._begin()
            return take(*args, **kwargs)

        return taken

    def _begin(self) -> None:
        with shielded(), self._starting:
            if self._has_started or self._dispatcher.closed:
                return
            try:
                self._start(self._dispatcher)
            except BaseException:
                self._dispatcher.close_for("it could not be started, so it takes no runs")
                raise
            self._has_started = True

    def has_started(self) -> bool:
        """Whether there is anything to be stopped; waits for a start that is under way."""
        with self._starting:
            return self._has_started
