"""Dask's own objects among the arguments of runs.

A `distributed.Future` or a Dask collection is pickled as a name; the Dask task of its batch depends on it, so its value
is there when the run begins.

May import `handles`, `distributed` and the core's `remote` room.
"""

from __future__ import annotations

import copyreg
import sys
import threading
from typing import TYPE_CHECKING, Any

from distributed import Future
from shoal.task_runners.remote.parcels import HERE, Parcel, attach

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Borrowed", "borrowing"]


class Borrowed(Parcel):
    """A value that Dask has, or is to compute, for somebody else.

    Args:
        future: Dask's future of it.
    """

    __slots__ = ("future", "number")

    def __init__(self, future: Future[Any]) -> None:
        self.future = future
        self.number = future.key

    def is_lost(self) -> bool:
        """Whether it will never have a value."""
        return self.future.status in ("lost", "cancelled", "error")


class _Packing(threading.local):
    """What this thread packs for.

    Attributes:
        client: computes collections.
        known: by the id of a collection, it and the future of its value.
    """

    client: Client | None = None
    known: dict[int, tuple[Any, Future[Any]]]


_PACKING = _Packing()


class borrowing:  # reads as a verb: `with borrowing(client):`
    """Inside, Dask's objects are pickled as names, and collections are computed.

    Args:
        client: computes them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        _register()
        _PACKING.client = self._client
        _PACKING.known = {}

    def __exit__(self, *_: object) -> None:
        _PACKING.client = None
        _PACKING.known = {}


def _reduce_future(future: Future[Any]) -> Any:
    if HERE.packing is None or _PACKING.client is None:
        return future.__reduce_ex__(4)
    return _borrow(future)


def _reduce_collection(collection: Any) -> Any:
    if HERE.packing is None or _PACKING.client is None:
        return collection.__reduce_ex__(4)
    known = _PACKING.known.get(id(collection))
    if known is None:
        future = _PACKING.client.compute(collection)
        known = _PACKING.known[id(collection)] = (collection, future)
    return _borrow(known[1])


def _borrow(future: Future[Any]) -> Any:
    assert HERE.packing is not None  # the callers look
    HERE.packing.append(Borrowed(future))
    return attach, (future.key,)


#: Where the classes of collections are, by module: they are known once somebody has imported that.
_COLLECTIONS = {
    "dask.delayed": ("Delayed", "DelayedLeaf", "DelayedAttr"),
    "dask.array": ("Array",),
    "dask.bag": ("Bag", "Item"),
    "dask.dataframe": ("DataFrame", "Series", "Index", "Scalar"),
}
_registered: set[str] = set()


def _register() -> None:
    """Has pickling ask about Dask's classes: its own table is asked before their own methods."""
    if "distributed" not in _registered:
        _registered.add("distributed")
        copyreg.pickle(Future, _reduce_future)
    for name, classes in _COLLECTIONS.items():
        module = sys.modules.get(name)
        if module is not None and name not in _registered:
            found = [getattr(module, item, None) for item in classes]
            if not any(isinstance(item, type) for item in found):
                continue  # it is just being imported
            _registered.add(name)
            for item in found:
                if isinstance(item, type):
                    copyreg.pickle(item, _reduce_collection)
