"""What a worker writes down as it goes, in a file that outlives it: which runs of which batches have begun.

    file     a mark | lanes
    lane     batch number | a byte for each of its runs: 0 not begun, 1 begun

One file for each driver, mapped into memory: a note costs about 0.1 µs, and cannot fail, as its room is reserved. When
the worker has died, somebody else on its machine reads it to the driver, who trusts nothing that makes no sense. Batches
for which there is no free lane go unrecorded.

May import `files`, and the standard library: who reads it has not loaded anything else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
from collections import deque

from shoal.task_runners.remote.files import make_file, read_file, remove_file

__all__ = ["CAPACITY", "Record", "begun_in", "kill", "read_record"]

#: Runs in a lane, and so in a batch.
CAPACITY = 5000
LANES = 1024
#: What a file of this version begins with.
_MARK = b"shoal begun 1\n\0\0"
_HEADER = struct.Struct("<q")
_LANE = _HEADER.size + CAPACITY
_SIZE = len(_MARK) + LANES * _LANE
_NOTES = frozenset((0, 1))


class Record:
    """The file, as its worker has it.

    Args:
        folder: where to put it.

    Attributes:
        path: of the file.

    Raises:
        OSError: there is no room for it, or no such place.
    """

    def __init__(self, folder: str) -> None:
        self.path, memory = make_file(folder, _SIZE)
        self._view = memoryview(memory)
        self._view[: len(_MARK)] = _MARK
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
        start = len(_MARK) + lane * _LANE
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
        remove_file(self.path)


def read_record(path: str) -> bytes | None:
    """The content of a dead worker's record, which is removed; `None` if there is none, or something else."""
    content = read_file(path, _SIZE)
    if content is not None:
        remove_file(path)
    return content


def begun_in(content: bytes | None) -> dict[int, list[int]] | None:
    """For each batch in a record, the positions of runs that have begun; `None` if it tells nothing, or no sense."""
    if content is None or len(content) != _SIZE or not content.startswith(_MARK):
        return None
    found: dict[int, list[int]] = {}
    for start in range(len(_MARK), _SIZE, _LANE):
        (batch,) = _HEADER.unpack_from(content, start)
        notes = content[start + _HEADER.size : start + _LANE]
        if batch < 0 or not _NOTES.issuperset(notes):
            return None
        if batch:
            found[batch] = [position for position, note in enumerate(notes) if note]
    return found


def kill(pid: int) -> None:
    """Ends a process at once; one that has ended already is no matter."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
