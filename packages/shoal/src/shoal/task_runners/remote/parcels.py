"""Values as they cross between driver and workers: small ones as bytes, large ones by a handle.

    pack     a value ─▶ its pickle, and the handles in it
    Parcel   a handle that is pickled as its number alone; unpickled as part of a run's arguments it becomes the value

What a number stands for is told beside the pickle, in the way of each runner. May import what lies above task runners.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.calls import Handle
from shoal.exceptions import ResultLost
from shoal.serialization import dumps, dumps_with_buffers, loads

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Sequence

#: Bytes from which a value stays where it is.
LARGE = 64 * 1024

__all__ = [
    "HERE",
    "LARGE",
    "Late",
    "Lent",
    "Packed",
    "Parcel",
    "ResultOf",
    "attach",
    "pack",
    "result_of",
    "run_numbered",
    "unpack",
]


class _Here(threading.local):
    """What this thread is at.

    Attributes:
        packing: handles met while pickling; `None` outside `pack`.
        attached: gives the value of a number while unpickling.
        upstream: gives the value of a run in the same batch while unpickling.
        run: gives the driver's future of a run by its number while unpickling.
    """

    packing: list[Parcel] | None = None
    attached: Callable[[Any], Any] | None = None
    upstream: Callable[[int], Any] | None = None
    run: Callable[[int], Any] | None = None


HERE = _Here()


class Parcel(Handle):
    """A handle that can be among the arguments of runs.

    Attributes:
        number: identifies it among those of its runner; small, and can be pickled.
    """

    __slots__ = ()
    number: Any

    def __reduce__(self) -> Any:
        if HERE.packing is None:
            raise TypeError("a value that stays elsewhere is pickled by its runner only")
        HERE.packing.append(self)
        return attach, (self.number,)


class Lent(Parcel):
    """On a worker: a large value of a run that was submitted there.

    Args:
        number: what the driver knows it by.
        fetch: gives the value.
        holder: what holds it, in words.
        lost: what `fetch` raises if that has gone.
    """

    __slots__ = ("_fetch", "_holder", "_lost", "number")

    def __init__(
        self,
        number: str,
        fetch: Callable[[str], Any],
        holder: str,
        lost: tuple[type[Exception], ...],
    ) -> None:
        self.number = number
        self._fetch = fetch
        self._holder = holder
        self._lost = lost

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`."""
        try:
            return self._fetch(self.number)
        except self._lost as error:
            raise ResultLost(run_name=run_name, holder=self._holder) from error


def attach(number: Any) -> Any:
    """What a pickled `Parcel` becomes."""
    if HERE.attached is None:
        raise RuntimeError("a value that stays elsewhere was unpickled outside its runner")
    return HERE.attached(number)


def result_of(position: int) -> Any:
    """What stands in a run's arguments for the value of another run of its batch."""
    if HERE.upstream is None:
        raise RuntimeError("a run's arguments were unpickled outside its batch")
    return HERE.upstream(position)


def run_numbered(number: int) -> Any:
    """What stands for a run that was submitted by a worker: the driver's future of it."""
    if HERE.run is None:
        raise RuntimeError("a future was unpickled outside its runner")
    return HERE.run(number)


class ResultOf:
    """Stands in a run's arguments for the value of another run of its batch."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def __reduce__(self) -> Any:
        return result_of, (self.position,)


class Late:
    """Pickled arguments inside a batch: bytes on the worker too, until what they refer to there is known.

    Args:
        packed: the arguments.
    """

    __slots__ = ("_packed",)

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def __reduce__(self) -> Any:
        if HERE.packing is not None:
            HERE.packing.extend(self._packed.stored)
        return bytes, (self._packed.data,)


class Packed(NamedTuple):
    """A pickled value.

    Attributes:
        data: the pickle.
        buffers: large buffers that are not in it.
        stored: handles that it refers to, each once.
    """

    data: bytes
    buffers: list[pickle.PickleBuffer]
    stored: list[Any]

    @property
    def size(self) -> int:
        """Bytes in all."""
        if not self.buffers:
            return len(self.data)
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)


def pack(value: Any, *, whole: bool = False) -> Packed:
    """Pickles a value that may hold handles.

    Args:
        value: the value.
        whole: whether its buffers are to be in the pickle too.

    Raises:
        Exception: whatever pickling raises.
    """
    buffers: list[pickle.PickleBuffer]
    outer, HERE.packing = HERE.packing, []
    try:
        data, buffers = (dumps(value), []) if whole else dumps_with_buffers(value)
        stored = HERE.packing
    finally:
        HERE.packing = outer
    if len(stored) > 1:
        stored = list({item.number: item for item in stored}.values())
    return Packed(data, buffers, stored)


def unpack(
    data: Any, attached: Callable[[Any], Any] | None, buffers: Sequence[Any] | None = None
) -> Any:
    """Unpickles what `pack` gave, handles by their numbers."""
    outer, HERE.attached = HERE.attached, attached
    try:
        return loads(data, buffers=buffers)
    finally:
        HERE.attached = outer
