"""Large values in shared memory.

A `Stored` in arguments is pickled as its number alone. The message names it, and the other side gets the segment's
descriptor along with the first message that does. Unpickled as part of a run's arguments it becomes the value.

May import `segments`, `parcels` and what lies above task runners.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.exceptions import ResultLost, SerializationError
from shoal.safely import repr_of
from shoal.task_runners.processes.segments import Layout, Segment, load, needed, store
from shoal.task_runners.remote.parcels import HERE, Parcel

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Iterable

__all__ = ["Description", "Store", "Stored"]


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


class Stored(Parcel):
    """A value in a segment.

    Args:
        number: identifies it among the values of a runner.
        segment: where it is.
        layout: what the segment holds.
        on_freed: called, perhaps by the garbage collector, when nobody has it any more, with its number and whether
            its value was loaded here (parts of it may be in use still).
    """

    number: int

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
                except BaseException as error:
                    raise SerializationError(
                        run_name=run_name,
                        path="result",
                        type_name="unknown",
                        problem=f"unpickling raised {repr_of(error)}",
                    ) from error
                self._has_value = True
            return self._value

    def is_loaded(self) -> bool:
        """Whether `value` was called here: parts of it may be in use for as long as anybody likes."""
        return self._has_value

    def load(
        self,
        on_unmapped: Callable[[], object] | None = None,
        attached: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The value, loaded anew; handles in it by their numbers."""
        outer, HERE.attached = HERE.attached, attached
        try:
            return load(self.segment, self.layout, on_unmapped)
        finally:
            HERE.attached = outer

    def describe(self, is_new: bool) -> Description:
        """For a message."""
        return Description(self.number, self.segment.size, self.layout, is_new)

    def __del__(self) -> None:
        if self._on_freed is not None:
            self._on_freed(self.number, self._has_value)


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
