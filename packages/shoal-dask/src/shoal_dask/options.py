"""Dask's own vocabulary around a submit: `with dask.annotate(...)`.

May import `exceptions` of the core; Dask on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.exceptions import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Options", "captured"]

#: What `Client.submit` takes by name.
_BY_NAME = ("allow_other_workers", "priority", "resources", "workers")


class Options:
    """The annotations in force where a run was submitted.

    Equal if they say the same: only such runs share a batch.

    Attributes:
        annotations: by name.
    """

    __slots__ = ("_key", "annotations")

    def __init__(self, annotations: Mapping[str, Any]) -> None:
        self.annotations = dict(annotations)
        self._key = repr(sorted(self.annotations.items(), key=lambda item: item[0]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> Any:
        return Options, (self.annotations,)

    def for_submit(self) -> dict[str, Any]:
        """As keyword arguments of `Client.submit`."""
        return {name: self.annotations[name] for name in _BY_NAME if name in self.annotations}

    def others(self) -> dict[str, Any]:
        """What `Client.submit` does not take by name."""
        return {name: value for name, value in self.annotations.items() if name not in _BY_NAME}


def captured() -> Options | None:
    """The annotations in force here, `None` if there are none.

    Raises:
        InvalidOption: they ask Dask to retry.
    """
    from dask.base import get_annotations

    annotations = get_annotations()
    if not annotations:
        return None
    if "retries" in annotations:
        raise InvalidOption(
            where="dask.annotate",
            option="retries",
            value=annotations["retries"],
            problem="a run is retried by its task's own `retries`, in a state of its own; Dask would run it again unseen",
        )
    return Options(annotations)
