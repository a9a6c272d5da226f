"""What workers of this process belong to, and what they share with threads of their runs, as they see it.

May import what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from shoal.futures.blocking import Decision
    from shoal.scheduling.caps import Line
    from shoal.scheduling.dispatchers import PullingDispatcher

__all__ = ["Pool", "SharedByThreads"]


class SharedByThreads(Protocol):
    """What threads of a run wait for that it has started, as its worker sees it; with `LOCK` held, but for `serve`."""

    def begin(self) -> None:
        """The run's own thread is about to wait."""

    def goes_on_itself(self, line: Line | None) -> Decision | None:
        """It has waited: what is decided once it may go on, `None` if it may at once.

        Args:
            line: whose place the worker had when this wait began.
        """

    def ended(self) -> None:
        """The attempt has ended."""

    def stop(self) -> None:
        """The run is interrupted."""

    def serve(self, stand_in: Any) -> None:
        """What a worker does that stands in for the run's own."""


class Pool(Protocol):
    """What workers belong to, as they see it; `WorkerBackend` says what it does by default.

    Attributes:
        workers: every living one that was not given up.
        surplus: how many of them are too many.
        dispatcher: of the runner.
    """

    workers: list[Any]
    surplus: int
    dispatcher: PullingDispatcher

    def lend(self, *, sparingly: bool) -> bool:
        """A worker blocks and does nothing else: another may take its place meanwhile.

        Args:
            sparingly: whether it is lent only while no more are than there are workers: those who take the places may
                wait for the same.

        Returns:
            Whether it was lent.
        """

    def lend_back(self) -> None:
        """It goes on."""

    def stand_in(self, side: SharedByThreads) -> Any:
        """Threads that a run has started wait for runs: another worker is to run these, if there can be one; with `LOCK`."""

    def span_taken(self) -> None:
        """A worker has begun a range of a map."""

    def retire(self) -> bool:
        """Whether an idle worker is to end because it is one too many; with `LOCK` held."""

    def left(self, worker: Any) -> None:
        """A worker has ended."""
