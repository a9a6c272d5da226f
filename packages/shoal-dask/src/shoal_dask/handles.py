"""Large values that stay on Dask's workers, as the driver has them.

May import `distributed` and what lies above task runners in the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.exceptions import ResultLost
from shoal.task_runners.remote.parcels import Parcel

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["NOTHING", "Kept", "future_of", "lost_future_of"]


#: No original.
NOTHING = object()


class Kept(Parcel):
    """In the driver: a value that stays on a worker, or was scattered to one.

    Args:
        key: of Dask's own future of it. It is pure data: Dask cannot compute it again.
        future: that future; `None` while an argument is on its way to a worker, and if there was none to take it.
        place: the address of the worker that holds it, if it matters.
        original: of an argument, the driver's own value: it can be scattered again.
    """

    __slots__ = ("future", "number", "original", "place")

    def __init__(
        self,
        key: str,
        future: Future[Any] | None,
        place: str | None = None,
        original: Any = NOTHING,
    ) -> None:
        self.number = key
        self.future = future
        self.place = place
        self.original = original

    def is_lost(self) -> bool:
        """Whether what held it is known to have gone."""
        return self.future is not None and self.future.status in ("lost", "cancelled")

    @property
    def holder(self) -> str:
        """What holds it, in words."""
        return "a Dask worker" if self.place is None else f"Dask worker {self.place}"

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`: fetched anew each time."""
        from distributed import CancelledError

        if self.future is None:
            return self.original
        if self.is_lost():
            raise ResultLost(run_name=run_name, holder=f"Dask worker {self.place}")
        try:
            return self.future.result()
        except (CancelledError, KeyError, OSError) as error:
            raise ResultLost(run_name=run_name, holder=self.holder) from error


def future_of(key: str, client: Client) -> Any:
    """A future of a value that is there, and that the scheduler keeps for this client already."""
    from distributed import Future

    future: Any = Future(key, client)
    future._state.finish()  # the message that says so came before there was a future to tell
    return future


def lost_future_of(key: str, client: Client) -> Any:
    """A future of a value that has gone with its worker."""
    from distributed import Future

    future: Any = Future(key, client)
    future._state.lose()
    return future
