"""What a worker writes down as it goes, in memory that outlives it: which runs began, and how each ended.

    worker   begin(position) ─▶ word = BEGUN ─▶ the task's function ─▶ put(position, value) ─▶ word = outcome
    driver   reads the words of a batch when the worker says so, when somebody asks for a state, or when it has died

One record a worker, of many lanes; a batch has a lane for as long as it is in flight. A lane's columns, by position in
the batch:

    words    0 not begun, 7 withdrawn before that, 1 begun, else how it ended: three bits of kind, 61 of what that kind needs
    ends     when it ended, seconds since the epoch
    floats   values that are floats
    heap     pickles of other values, one after another

Who writes what: the driver zeroes the words before it sends the batch, and may withdraw runs that have not begun; all
else is the worker's. A word is written last, so whoever reads it finds the rest in place. What has no room here goes
home in a message, sent before its word is written (`TOLD`).

Values cost next to nothing this way (a message a run would cost 2 µs), and a worker that dies between two reports takes
no outcome with it. May import `batches` and `serialization`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from shoal.serialization import loads
from shoal.task_runners.remote.batches import BEGUN, NOT_BEGUN

if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence

__all__ = [
    "BEGUN",
    "CAPACITY",
    "LANES",
    "NOT_BEGUN",
    "REPORT_EVERY",
    "TOLD",
    "Lane",
    "Record",
    "size_of_record",
]

#: Runs in a lane, and so in a batch.
CAPACITY = 4096
#: Bytes of pickled values in a lane.
HEAP = 256 * 1024
#: Batches that a worker may hold at once: two in flight, one for each level of waiting, and those of coroutines, which
#: may wait for each other as deep as they like.
LANES = 1024

#: Seconds after which outcomes are reported while their batch goes on.
REPORT_EVERY = 0.003

_CONSTANT = 2
_INT = 3
_FLOAT = 4
_PICKLED = 5
_TOLD = 6
TOLD = _TOLD

_NONE = _CONSTANT
_FALSE = 1 << 3 | _CONSTANT
_TRUE = 2 << 3 | _CONSTANT
_CONSTANTS = {_NONE: None, _FALSE: False, _TRUE: True}
_LARGEST_INT = 1 << 60

_HEADER = 64
_LANE = CAPACITY * 24 + HEAP
_LENGTH = struct.Struct("<I")


def size_of_record() -> int:
    """Bytes of a record. The system gives memory to what is touched only."""
    return _HEADER + LANES * _LANE


class Lane:
    """The columns of one batch."""

    __slots__ = ("_top", "ends", "floats", "heap", "words")

    def __init__(self, view: memoryview) -> None:
        column = CAPACITY * 8
        self.words: memoryview[int] = view[:column].cast("q")
        self.ends = view[column : 2 * column].cast("d")
        self.floats = view[2 * column : 3 * column].cast("d")
        self.heap = view[3 * column :]
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
        """Writes down a pickled value; False if there is no room."""
        top = self._top
        after = top + 4 + len(data)
        if after > HEAP:
            return False
        heap = self.heap
        heap[top : top + 4] = _LENGTH.pack(len(data))
        heap[top + 4 : after] = data
        self._top = after
        self.words[position] = top << 3 | _PICKLED
        return True

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
        start = word >> 3
        (length,) = _LENGTH.unpack(self.heap[start : start + 4])
        return loads(self.heap[start + 4 : start + 4 + length])


class Record:
    """A worker's record, as either side sees it.

    Args:
        memory: `size_of_record()` bytes, shared.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._view = memoryview(memory)
        self._header = self._view[:_HEADER].cast("q")
        self._lanes: dict[int, Lane] = {}

    def lane(self, number: int) -> Lane:
        """A lane by its number."""
        lane = self._lanes.get(number)
        if lane is None:
            start = _HEADER + number * _LANE
            lane = self._lanes[number] = Lane(self._view[start : start + _LANE])
        return lane

    @property
    def unpacking(self) -> int:
        """The number of the batch that the worker unpickles at the moment, 0 for none."""
        return self._header[0]

    @unpacking.setter
    def unpacking(self, number: int) -> None:
        self._header[0] = number

    @property
    def task(self) -> int | None:
        """The key of the task that it unpickles of that, `None` if it is at something else."""
        return self._header[1] - 1 if self._header[1] else None

    @task.setter
    def task(self, key: int | None) -> None:
        self._header[1] = key + 1 if key is not None else 0

    def close(self) -> None:
        """Unmaps it."""
        for lane in self._lanes.values():
            lane.release()
        self._lanes.clear()
        self._header.release()
        self._view.release()
        self._memory.close()
