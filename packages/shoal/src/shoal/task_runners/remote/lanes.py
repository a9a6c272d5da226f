"""A lane: the columns in which a worker writes down how the runs of one batch go, in memory that outlives it.

    words    0 not begun, 7 withdrawn before that, 1 begun, else how it ended: three bits of kind, 61 of what that kind needs
    ends     when it ended, seconds since the epoch
    floats   values that are floats
    heap     pickles of other values, one after another

A word is written last, so whoever reads it finds the rest in place. May import `batches` and `serialization`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from shoal.serialization import loads
from shoal.task_runners.remote.batches import BEGUN, NOT_BEGUN, WITHDRAWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TOLD", "Lane", "size_of_lane"]

_CONSTANT = 2
_INT = 3
_FLOAT = 4
_PICKLED = 5
_KEPT = 6
#: The run has ended, and its end was told by message: `_KEPT`, without a place in the heap.
TOLD = _KEPT

_NONE = _CONSTANT
_FALSE = 1 << 3 | _CONSTANT
_TRUE = 2 << 3 | _CONSTANT
_CONSTANTS = {_NONE: None, _FALSE: False, _TRUE: True}
_LARGEST_INT = 1 << 60

_LENGTH = struct.Struct("<I")


def size_of_lane(capacity: int, heap: int) -> int:
    """Bytes of a lane for so many runs, and so many bytes of pickles."""
    return capacity * 24 + heap


class Lane:
    """The columns of one batch.

    Args:
        view: the memory.
        capacity: the most runs.
    """

    __slots__ = ("_room", "_top", "ends", "floats", "heap", "words")

    def __init__(self, view: memoryview, capacity: int) -> None:
        column = capacity * 8
        self.words: memoryview[int] = view[:column].cast("q")
        self.ends = view[column : 2 * column].cast("d")
        self.floats = view[2 * column : 3 * column].cast("d")
        self.heap = view[3 * column :]
        self._room = len(self.heap)
        self._top = 0

    def release(self) -> None:
        """Lets go of the memory."""
        for view in (self.words, self.ends, self.floats, self.heap):
            view.release()

    # ------------------------------------------------------------------ the worker's side

    def open(self) -> None:
        """A new batch has the lane."""
        self._top = 0

    def put(self, position: int, value: Any) -> bool:
        """Writes down a value that needs no pickling; whether it was such a one. Hot."""
        kind = type(value)
        if kind is int:
            if -_LARGEST_INT < value < _LARGEST_INT:
                self.words[position] = value << 3 | _INT
                return True
            return False
        if value is None:
            self.words[position] = _NONE
            return True
        if kind is bool:
            self.words[position] = _TRUE if value else _FALSE
            return True
        if kind is float:
            self.floats[position] = value
            self.words[position] = _FLOAT
            return True
        return False

    def put_pickled(self, position: int, data: bytes) -> bool:
        """Writes down a pickled value or `Outcome`; False if there is no room."""
        top = self._to_heap(data)
        if top < 0:
            return False
        self.words[position] = top << 3 | _PICKLED
        return True

    def put_kept(self, position: int, data: bytes) -> bool:
        """Writes down what a value is found by that stays elsewhere, pickled; False if there is no room."""
        top = self._to_heap(data)
        if top < 0:
            return False
        self.words[position] = top + 1 << 3 | _KEPT
        return True

    def _to_heap(self, data: bytes) -> int:
        top = self._top
        after = top + 4 + len(data)
        if after > self._room:
            return -1
        heap = self.heap
        heap[top : top + 4] = _LENGTH.pack(len(data))
        heap[top + 4 : after] = data
        self._top = after
        return top

    # ------------------------------------------------------------------ the driver's side

    def clear(self, count: int) -> None:
        """Makes it ready for a batch of `count` runs."""
        self.words[:count] = memoryview(bytes(8 * count)).cast("q")

    def word(self, position: int) -> int:
        """What is written of one run."""
        return self.words[position]

    def values(self, words: list[int], positions: Sequence[int]) -> list[Any]:
        """The values that words stand for; all of these runs have ended, and none is `TOLD`. Hot."""
        if words.count(_NONE) == len(words):
            return [None] * len(words)
        return [
            word >> 3 if word & 7 == _INT else self._value(word, position)
            for word, position in zip(words, positions, strict=True)
        ]

    def _value(self, word: int, position: int) -> Any:
        kind = word & 7
        if kind == _CONSTANT:
            return _CONSTANTS[word]
        if kind == _FLOAT:
            return self.floats[position]
        return loads(self._from_heap(word >> 3))

    def _from_heap(self, start: int) -> bytes:
        """What the heap holds at a place.

        Raises:
            ValueError: there is no such place.
        """
        if not 0 <= start <= self._room - 4:
            raise ValueError(f"the heap has no place {start}")
        (length,) = _LENGTH.unpack(self.heap[start : start + 4])
        if start + 4 + length > self._room:
            raise ValueError(f"what the heap has at {start} is cut short")
        return bytes(self.heap[start + 4 : start + 4 + length])

    def outcome(self, word: int, position: int, kept: Callable[[Any], Any]) -> Any:
        """How a run ended: its value, or an `Outcome`.

        Args:
            word: what is written of it; it has ended.
            position: of the run.
            kept: gives the value that stays elsewhere, by what it is found by there.

        Raises:
            Exception: that makes no sense.
        """
        if word & 7 == _INT:
            return word >> 3
        if word & 7 == _KEPT:
            return kept(loads(self._from_heap((word >> 3) - 1)))
        return self._value(word, position)

    @staticmethod
    def is_written(word: int) -> bool:
        """Whether it says how a run has ended."""
        return word not in (NOT_BEGUN, BEGUN, TOLD, WITHDRAWN)
