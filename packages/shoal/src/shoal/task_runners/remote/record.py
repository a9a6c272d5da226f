"""What a worker writes down as it goes, in a file that outlives it: which runs of which batches have begun.

    lane     batch number | a byte for each of its runs: 0 not begun, 1 begun

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

__all__ = ["CAPACITY", "Record", "begun_in", "read_record"]

#: Runs in a lane, and so in a batch.
CAPACITY = 5000
LANES = 1024
_HEADER = struct.Struct("<q")
_LANE = _HEADER.size + CAPACITY


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

    def open(self, batch: int, size: int) -> tuple[int, memoryview | bytearray]:
        """A lane for a batch.

        Returns:
            Its number, -1 if none is free, and a byte for each run.
        """
        with self._lock:
            if not self._free or size > CAPACITY:
                return -1, bytearray(size)
            lane = self._free.popleft()
        start = lane * _LANE
        end = start + _HEADER.size
        self._view[end : end + size] = bytes(size)
        _HEADER.pack_into(self._view, start, batch)
        return lane, self._view[end : end + size]

    def close_lane(self, lane: int) -> None:
        """The batch has said all. Its lane is used again last, as what was said may not have left this process yet."""
        if lane >= 0:
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


def begun_in(content: bytes) -> dict[int, list[int]]:
    """For each batch in a record, the positions of runs that have begun."""
    found: dict[int, list[int]] = {}
    for start in range(0, len(content), _LANE):
        (batch,) = _HEADER.unpack_from(content, start)
        if batch:
            notes = content[start + _HEADER.size : start + _LANE]
            found[batch] = [position for position, note in enumerate(notes) if note == 1]
    return found
