"""What a worker writes down as it goes, in a file that outlives it: which runs of which batches have begun.

    lane     batch number | what of it is being unpickled | a byte for each of its runs: 0 not begun, 1 begun

What is being unpickled: the function of a task (its key + 1), the runs' arguments (-1), nothing yet (-2), or nothing
any more (0). If the worker dies of it, that is to blame.

One file for each driver, mapped into memory: a note costs about 0.1 µs. When the worker has died, somebody else on its
machine reads it to the driver. Batches for which there is no free lane go unrecorded.

May import the standard library only: who reads it has not loaded anything else.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
from collections import deque
from typing import NamedTuple

__all__ = [
    "ARGUMENTS",
    "CAPACITY",
    "NOTHING_LEFT",
    "Left",
    "Record",
    "left_in",
    "read_record",
]

#: Runs in a lane, and so in a batch.
CAPACITY = 5000
LANES = 1024
_HEADER = struct.Struct("<qq")
#: What is being unpickled, instead of the function of a task.
ARGUMENTS = -1
_NOTHING_YET = -2
_LANE = _HEADER.size + CAPACITY
_WHAT = struct.Struct("<q")


class Record:
    """The file, as its worker has it.

    Args:
        folder: where to put it.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, f"shoal-{os.getpid()}-{os.urandom(6).hex()}.record")
        with open(self.path, "x+b") as file:
            file.truncate(LANES * _LANE)
            self._memory = mmap.mmap(file.fileno(), LANES * _LANE)
        self._view = memoryview(self._memory)
        self._free = deque(range(LANES))
        self._lock = threading.Lock()

    def open(self, batch: int) -> int:
        """A lane for a batch that is about to be unpickled: its number, -1 if none is free."""
        with self._lock:
            if not self._free:
                return -1
            lane = self._free.popleft()
        _HEADER.pack_into(self._view, lane * _LANE, batch, _NOTHING_YET)
        return lane

    def unpickles(self, lane: int, what: int) -> None:
        """What of the batch is being unpickled from now.

        Args:
            lane: of the batch.
            what: `ARGUMENTS`, or the key of a task + 1.
        """
        if lane >= 0:
            _WHAT.pack_into(self._view, lane * _LANE + _WHAT.size, what)

    def begin(self, lane: int, size: int) -> memoryview | bytearray:
        """The batch is unpickled: a byte for each of its runs."""
        if lane < 0 or size > CAPACITY:
            return bytearray(size)
        start = lane * _LANE
        notes = start + _HEADER.size
        self._view[notes : notes + size] = bytes(size)
        _WHAT.pack_into(self._view, start + _WHAT.size, 0)
        return self._view[notes : notes + size]

    def close_lane(self, lane: int) -> None:
        """The batch has said all, or is not begun. Its lane is used again last, as what was said may not have left this process yet."""
        if lane >= 0:
            if _HEADER.unpack_from(self._view, lane * _LANE)[1]:
                _HEADER.pack_into(self._view, lane * _LANE, 0, 0)
            with self._lock:
                self._free.append(lane)

    def remove(self) -> None:
        """Nobody will ask for it any more."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def read_record(path: str) -> bytes | None:
    """The content of a dead worker's record, which is removed; `None` if there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        os.unlink(path)
    except OSError:
        return None
    return content


class Left(NamedTuple):
    """What a record says of batches, by number.

    Attributes:
        begun: the positions of runs that have begun.
        unpickling: of those that were being unpickled, what: see the module.
    """

    begun: dict[int, list[int]]
    unpickling: dict[int, int]


#: The record of a worker that had nothing.
NOTHING_LEFT = Left({}, {})


def left_in(content: bytes) -> Left:
    """What a record says."""
    left = Left({}, {})
    for start in range(0, len(content), _LANE):
        batch, what = _HEADER.unpack_from(content, start)
        if batch and what:
            left.begun[batch] = []
            if what != _NOTHING_YET:
                left.unpickling[batch] = what
        elif batch:
            notes = content[start + _HEADER.size : start + _LANE]
            left.begun[batch] = [position for position, note in enumerate(notes) if note == 1]
    return left
