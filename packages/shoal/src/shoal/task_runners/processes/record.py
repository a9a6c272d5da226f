"""What a worker writes down as it goes, in memory that outlives it: which runs began, and how each ended.

    worker   begin(position) ─▶ word = BEGUN ─▶ the task's function ─▶ put(position, value) ─▶ word = outcome
    driver   reads the words of a batch when the worker says so, when somebody asks for a state, or when it has died

One record a worker, of many lanes (see `remote.record.Lane`); a batch has a lane for as long as it is in flight.

Who writes what: the driver zeroes the words before it sends the batch, and may withdraw runs that have not begun; all
else is the worker's. A word is written last, so whoever reads it finds the rest in place. What has no room here goes
home in a message, sent before its word is written (`TOLD`).

Values cost next to nothing this way (a message a run would cost 2 µs), and a worker that dies between two reports takes
no outcome with it. May import `remote.record`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shoal.task_runners.remote.record import TOLD, Lane, size_of_lane

if TYPE_CHECKING:
    import mmap

__all__ = [
    "CAPACITY",
    "LANES",
    "REPORT",
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

#: A report: the batch's number, seconds, how many runs these were for, and whether it is the last; positions follow.
REPORT = struct.Struct("<QdI?")

#: Seconds after which outcomes are reported while their batch goes on.
REPORT_EVERY = 0.003

_HEADER = 64
_LANE = size_of_lane(CAPACITY, HEAP)


def size_of_record() -> int:
    """Bytes of a record. The system gives memory to what is touched only."""
    return _HEADER + LANES * _LANE


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
            lane = self._lanes[number] = Lane(self._view[start : start + _LANE], CAPACITY)
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
