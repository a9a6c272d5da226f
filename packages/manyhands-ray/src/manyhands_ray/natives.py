"""Ray's own references among the arguments of runs.

An `ObjectRef` is pickled as a name; it travels as an argument of the Ray task of its batch, so Ray has its value there
when the run begins.

May import `ray`, `handles` and the core's `remote` room.
"""

from __future__ import annotations

import copyreg
import threading
from typing import TYPE_CHECKING, Any

from manyhands.task_runners.remote.parcels import HERE, Parcel, attach

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["Borrowed", "borrowing"]


class Borrowed(Parcel):
    """A value that Ray has, or is to compute, for somebody else.

    Args:
        reference: Ray's own.
    """

    __slots__ = ("number", "reference")

    def __init__(self, reference: ObjectRef[Any]) -> None:
        self.reference = reference
        self.number = reference.hex()


class _Packing(threading.local):
    """Whether this thread packs for Ray."""

    borrows = False


_PACKING = _Packing()


class borrowing:  # reads as a verb: `with borrowing():`
    """Inside, Ray's references are pickled as names."""

    def __enter__(self) -> None:
        _register()
        _PACKING.borrows = True

    def __exit__(self, *_: object) -> None:
        _PACKING.borrows = False


def _reduce(reference: ObjectRef[Any]) -> Any:
    if HERE.packing is None or not _PACKING.borrows:
        return reference.__reduce_ex__(4)
    borrowed = Borrowed(reference)
    HERE.packing.append(borrowed)
    return attach, (borrowed.number,)


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
