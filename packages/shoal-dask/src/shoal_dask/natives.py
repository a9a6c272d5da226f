"""Dask's own objects among the arguments of runs, and in what they return.

    a `distributed.Future`       pickled as a name; the Dask task of its batch depends on it, so its value is there when
                                 the run begins
    a collection, lazy           travels as it is, as with Dask's own `submit`: what it would compute stays to be computed
    the futures inside it        stay futures: it was persisted, or is built on one that was. The driver holds them until
                                 the run has ended; a result with such futures stays on its worker, which holds them

May import `distributed` and the core's `remote` room.
"""

from __future__ import annotations

import copyreg
import sys
import threading
from typing import TYPE_CHECKING, Any

from distributed import Future
from shoal.serialization import dumps_with_buffers, loads
from shoal.task_runners.remote.parcels import HERE, Parcel, attach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed import Client

__all__ = ["Borrowed", "Inside", "borrowing", "register"]


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


class Inside(Borrowed):
    """A future inside a collection: there as long as the run is, but nothing that it has to wait for."""

    __slots__ = ()

    def __init__(self, future: Future[Any]) -> None:
        super().__init__(future)
        self.number = (future.key, "inside")  # it may be an argument of its own too

    def is_lost(self) -> bool:
        """That is for who computes with it to find out."""
        return False


class _Packing(threading.local):
    """What this thread packs for.

    Attributes:
        client: of the driver's runner; `None` on workers.
        is_inside: whether what is pickled is part of a collection.
    """

    client: Client | None = None
    is_inside = False


_PACKING = _Packing()


class borrowing:  # reads as a verb: `with borrowing(client):`
    """Inside, Dask's futures are pickled as names.

    Args:
        client: they belong to it, or are told to.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        register()
        _PACKING.client = self._client

    def __exit__(self, *_: object) -> None:
        _PACKING.client = None


def _reduce_future(future: Any) -> Any:
    if HERE.packing is None:
        return future.__reduce_ex__(4)
    client = _PACKING.client
    if client is not None and future.client is None:  # it came in the result of a run
        future.bind_client(client)
    if client is None or _PACKING.is_inside:
        HERE.packing.append(Inside(future))
        return future.__reduce_ex__(4)
    HERE.packing.append(Borrowed(future))
    return attach, (future.key,)


def _reduce_collection(collection: Any) -> Any:
    if HERE.packing is None or _PACKING.is_inside:
        return collection.__reduce_ex__(4)
    _PACKING.is_inside = True
    try:
        return _collection, dumps_with_buffers(collection)
    finally:
        _PACKING.is_inside = False


def _collection(data: bytes, buffers: Sequence[Any]) -> Any:
    """What a pickled collection becomes."""
    return loads(data, buffers=buffers)


#: Where the classes of collections are, by module: they are known once somebody has imported that.
_COLLECTIONS = {
    "dask.delayed": ("Delayed", "DelayedLeaf", "DelayedAttr"),
    "dask.array": ("Array",),
    "dask.bag": ("Bag", "Item"),
    "dask.dataframe": ("DataFrame", "Series", "Index", "Scalar"),
}
_registered: set[str] = set()


def register() -> None:
    """Has pickling ask about Dask's classes: its own table is asked before their own methods."""
    if "distributed" not in _registered:
        _registered.add("distributed")
        copyreg.pickle(Future, _reduce_future)
    for name, classes in _COLLECTIONS.items():
        if name in _registered:
            continue
        module = sys.modules.get(name)
        if module is None or getattr(module.__spec__, "_initializing", False):
            continue  # another thread may be just importing it
        for item in classes:
            found = getattr(module, item, None)
            if isinstance(found, type):
                copyreg.pickle(found, _reduce_collection)
        _registered.add(name)
