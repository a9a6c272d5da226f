"""Large values in Ray's object store, as driver and workers have them.

May import `ray` on use, and what lies above task runners in the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.exceptions import ResultLost
from manyhands.task_runners.remote.parcels import Parcel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray import ObjectRef

__all__ = ["Kept", "Lent"]


class Kept(Parcel):
    """In the driver: a value in the object store, which belongs to the driver.

    Args:
        reference: to it.
        place: where it was made, for errors.
    """

    __slots__ = ("number", "place", "reference")

    def __init__(self, reference: ObjectRef[Any], place: str | None = None) -> None:
        self.reference = reference
        self.number = reference.hex()
        self.place = place

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`: an array's buffer is the store's own, and can only be read.

        Raises:
            ResultLost: what held it has gone.
        """
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(self.reference)
        except RayError as error:
            raise ResultLost(run_name=run_name, holder=self.place or "Ray") from error


class Lent(Parcel):
    """On a worker: a large value of a run that was submitted there.

    Args:
        number: what the driver knows it by.
        fetch: gives the value.
    """

    __slots__ = ("_fetch", "number")

    def __init__(self, number: str, fetch: Callable[[str], Any]) -> None:
        self.number = number
        self._fetch = fetch

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`.

        Raises:
            ResultLost: what held it has gone.
        """
        from ray.exceptions import RayError

        try:
            return self._fetch(self.number)
        except (RayError, KeyError, OSError) as error:
            raise ResultLost(run_name=run_name, holder="Ray") from error
