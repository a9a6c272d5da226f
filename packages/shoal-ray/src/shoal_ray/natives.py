"""Ray's own references among the arguments and results of runs.

    driver ─▶ worker, as an argument     a name; the reference is an argument of the Ray task of its batch, so Ray has
                                         the value there when the run begins
    everywhere else                      the session's relay passes it on. In a pickle of ours it would be a name
                                         without an owner, and whoever asks for its value would wait for ever

May import `ray`, `handles` and the core's `remote` room.
"""

from __future__ import annotations

import copyreg
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from shoal.task_runners.remote.parcels import HERE, Parcel, attach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray import ObjectRef

__all__ = ["Borrowed", "Lender", "borrowing", "lending", "lends_here"]

#: Seconds that a reference may be on its way.
PASSED_WITHIN = 30.0


class Borrowed(Parcel):
    """A value that Ray has, or is to compute, for somebody else.

    Args:
        reference: Ray's own.
    """

    __slots__ = ("number", "reference")

    def __init__(self, reference: ObjectRef[Any]) -> None:
        self.reference = reference
        self.number = reference.hex()


class Lender(Protocol):
    """A side of a session: its driver, or a worker."""

    session: str

    def lend(self, reference: Any) -> str:
        """Gives the relay a reference to pass on, and tells by what key."""

    def borrow(self, key: str) -> Any:
        """Has the relay pass a reference on."""


class _Packing(threading.local):
    """What this thread packs for.

    Attributes:
        borrows: whether for a task of Ray's.
        lender: whose messages it packs, if not.
    """

    borrows = False
    lender: Lender | None = None


_PACKING = _Packing()


class borrowing:  # reads as a verb: `with borrowing():`
    """Inside, Ray's references are pickled as names."""

    def __enter__(self) -> None:
        _register()
        _PACKING.borrows = True

    def __exit__(self, *_: object) -> None:
        _PACKING.borrows = False


@contextmanager
def lending(lender: Lender) -> Iterator[None]:
    """Inside, this thread packs messages of a session, and Ray's references in them are lent."""
    outer, _PACKING.lender = _PACKING.lender, introduced(lender)
    try:
        yield
    finally:
        _PACKING.lender = outer


#: Both sides of sessions in this process: a worker whose run has a flow of its own is one side of each of two.
_lenders: weakref.WeakValueDictionary[str, Lender] = weakref.WeakValueDictionary()
_of_worker: Lender | None = None


def lends_here(lender: Lender) -> None:
    """What runs in this process, a worker's, is of this session from now on."""
    global _of_worker
    _of_worker = introduced(lender)


def introduced(lender: Lender) -> Lender:
    """Makes a side of a session known to those that unpickle what the other side lends."""
    _register()
    _lenders[lender.session] = lender
    return lender


def _borrowed(session: str, key: str) -> Any:
    """What a reference that was lent becomes."""
    return _lenders[session].borrow(key)


def _reduce(reference: ObjectRef[Any]) -> Any:
    if HERE.packing is not None and _PACKING.borrows:
        borrowed = Borrowed(reference)
        HERE.packing.append(borrowed)
        return attach, (borrowed.number,)
    lender = _PACKING.lender or (_of_worker if HERE.packing is not None else None)
    if lender is None:
        return reference.__reduce_ex__(4)
    return _borrowed, (lender.session, lender.lend(reference))


_registered = False


def _register() -> None:
    """Has pickling ask about Ray's references: its own table is asked before their own methods."""
    global _registered
    if not _registered:
        _registered = True
        import ray
        from ray.util.client.common import ClientObjectRef

        copyreg.pickle(ray.ObjectRef, _reduce)
        copyreg.pickle(ClientObjectRef, _reduce)
