"""Values as they cross between driver and workers: small ones as bytes, large ones in shared memory.

    pack     a value ─▶ its pickle, and the stored values in it
    Stored   a value in a segment: whoever has it by number has it without moving it

A `Stored` in arguments is pickled as its number alone. The message names it, and the other side gets the segment's
descriptor along with the first message that does. Unpickled as part of a run's arguments it becomes the value.

May import `segments` and what lies above task runners.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands.calls import Handle
from manyhands.exceptions import ResultLost, SerializationError
from manyhands.serialization import dumps, dumps_with_buffers, loads
from manyhands.task_runners.processes.segments import Layout, Segment, load, needed, store

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Iterable

#: Bytes from which a value goes to shared memory.
LARGE = 64 * 1024

__all__ = [
    "HERE",
    "LARGE",
    "Description",
    "Late",
    "Packed",
    "Store",
    "Stored",
    "attach",
    "pack",
    "result_of",
    "run_numbered",
    "unpack",
]


class Description(NamedTuple):
    """A stored value as a message names it.

    Attributes:
        number: identifies it among the values of a runner.
        size: of its segment in bytes.
        layout: what the segment holds.
        is_new: whether the descriptor comes along.
    """

    number: int
    size: int
    layout: Layout
    is_new: bool


class _Here(threading.local):
    """What this thread is at.

    Attributes:
        packing: stored values met while pickling; `None` outside `pack`.
        attached: gives the value of a number while unpickling.
        upstream: gives the value of a run in the same batch while unpickling.
        run: gives the driver's future of a run by its number while unpickling.
    """

    packing: list[Stored] | None = None
    attached: Callable[[int], Any] | None = None
    upstream: Callable[[int], Any] | None = None
    run: Callable[[int], Any] | None = None


HERE = _Here()


class Stored(Handle):
    """A value in a segment.

    Args:
        number: identifies it among the values of a runner.
        segment: where it is.
        layout: what the segment holds.
        on_freed: called, perhaps by the garbage collector, when nobody has it any more, with its number and whether
            its value was loaded here (parts of it may be in use still).
    """

    __slots__ = ("_has_value", "_lock", "_on_freed", "_value", "layout", "number", "segment")

    def __init__(
        self,
        number: int,
        segment: Segment,
        layout: Layout,
        on_freed: Callable[[int, bool], object] | None = None,
    ) -> None:
        self.number = number
        self.segment = segment
        self.layout = layout
        self._on_freed = on_freed
        self._lock = threading.Lock()
        self._has_value = False
        self._value: Any = None

    def value(self, run_name: str | None = None) -> Any:
        """See `Handle`: loaded once; arrays in it are read-only views of the shared memory."""
        with self._lock:
            if not self._has_value:
                try:
                    self._value = self.load()
                except OSError as error:
                    raise ResultLost(run_name=run_name, holder="its shared memory") from error
                except Exception as error:
                    raise SerializationError(
                        run_name=run_name,
                        path="result",
                        type_name="unknown",
                        problem=f"unpickling raised {error!r}",
                    ) from error
                self._has_value = True
            return self._value

    def is_loaded(self) -> bool:
        """Whether `value` was called here: parts of it may be in use for as long as anybody likes."""
        return self._has_value

    def load(self, on_unmapped: Callable[[], object] | None = None) -> Any:
        """The value, loaded anew."""
        return load(self.segment, self.layout, on_unmapped)

    def describe(self, is_new: bool) -> Description:
        """For a message."""
        return Description(self.number, self.segment.size, self.layout, is_new)

    def __reduce__(self) -> Any:
        if HERE.packing is None:
            raise TypeError("a stored value is pickled by its runner only")
        HERE.packing.append(self)
        return attach, (self.number,)

    def __del__(self) -> None:
        if self._on_freed is not None:
            self._on_freed(self.number, self._has_value)


def attach(number: int) -> Any:
    """What a pickled `Stored` becomes."""
    if HERE.attached is None:
        raise RuntimeError("a stored value was unpickled outside its runner")
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
        stored: stored values that it refers to, each once.
    """

    data: bytes
    buffers: list[pickle.PickleBuffer]
    stored: list[Stored]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return needed(self.data, self.buffers) if self.buffers else len(self.data)


def pack(value: Any, *, whole: bool = False) -> Packed:
    """Pickles a value that may hold stored ones.

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


def unpack(data: Any, attached: Callable[[int], Any] | None) -> Any:
    """Unpickles what `pack` gave, stored values by their numbers."""
    outer, HERE.attached = HERE.attached, attached
    try:
        return loads(data)
    finally:
        HERE.attached = outer


class Store:
    """The stored values that one side knows, by number.

    Args:
        first: the first number that this side gives.
        make: gives a segment of so many bytes.
    """

    def __init__(self, first: int, make: Callable[[int], Segment] = Segment.create) -> None:
        self._next = first
        self._make = make
        self._lock = threading.Lock()

    def keep(
        self,
        data: bytes,
        buffers: Iterable[pickle.PickleBuffer],
        on_freed: Callable[[int, bool], object] | None = None,
    ) -> Stored:
        """Puts a pickled value into a segment.

        Raises:
            NoSegment: there is no room for it.
        """
        parts = list(buffers)
        segment = self._make(needed(data, parts))
        try:
            layout = store(data, parts, segment)
        except BaseException:
            segment.close()
            raise
        with self._lock:
            number = self._next
            self._next += 1
        return Stored(number, segment, layout, on_freed)
