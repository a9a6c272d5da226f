"""Large values in Ray's object store, as the driver has them.

May import `ray` on use, and what lies above task runners in the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from shoal.exceptions import ResultLost
from shoal.task_runners.remote.parcels import Parcel

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["Kept", "let_go"]

_living: WeakSet[Kept] = WeakSet()


def let_go() -> None:
    """Gives up every value of this process: Ray is about to be shut down.

    A reference that is dropped meanwhile, by whichever thread, ends the process ("the core worker has already been
    shutdown"), so there must be none.
    """
    for kept in list(_living):
        kept.reference = None


class Kept(Parcel):
    """In the driver: a value in the object store, which belongs to the driver.

    Args:
        reference: to it, `None` if it is lost already.
        place: where it was made, for errors.

    Attributes:
        reference: likewise; `None` once Ray was shut down.
        number: what workers know it by.
        deaths: workers that died when it was about to be unpickled there, which Ray does before our code begins.
    """

    __slots__ = ("deaths", "number", "place", "reference")

    def __init__(self, reference: ObjectRef[Any] | None, place: str | None = None) -> None:
        self.reference = reference
        self.number = reference.hex() if reference is not None else ""
        self.place = place
        self.deaths = 0
        _living.add(self)

    def lost(self, run_name: str | None = None) -> ResultLost:
        """The error of a run whose value this was, or that needs it."""
        return ResultLost(run_name=run_name, holder=self.place or "Ray")

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`: an array's buffer is the store's own, and can only be read.

        Raises:
            ResultLost: what held it has gone.
        """
        import ray
        from ray.exceptions import RayError

        if self.reference is None or not ray.is_initialized():  # Ray would initialise itself
            raise self.lost(run_name)
        try:
            return ray.get(self.reference)
        except RayError as error:
            raise self.lost(run_name) from error
