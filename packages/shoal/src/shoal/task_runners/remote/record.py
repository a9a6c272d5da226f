"""What a cluster's worker writes down as it goes, in a file that outlives it: what of its batches began, and how that ended.

    file     a mark | lanes for small batches | lanes for large ones
    lane     batch number | what of it is being unpickled | the columns in which the runs of that batch go on, see `Lane`

    words    0 not begun, 7 withdrawn before that, 1 begun, else how it ended: three bits of kind, 61 of what that kind needs
    ends     when it ended, seconds since the epoch
    floats   values that are floats
    heap     pickles of other values, one after another

A word is written last, so whoever reads it finds the rest in place.

What is being unpickled: the function of a task (its key + 1), the runs' arguments (-1), nothing yet (-2), or nothing
any more (0). If the worker dies of it, that is to blame.

One file for each driver, mapped into memory and reserved in full: a note costs about 0.1 µs, and cannot fail for want of
room. When the worker has died, somebody else on its machine reads it to the driver, who trusts nothing that makes no sense. If there was no free lane for a
batch, the file says so: of what it does not mention nothing is known then.

May import `batches`, `files` and, in the driver, what lies above them.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.serialization import loads
from shoal.task_runners.remote.batches import BEGUN, NOT_BEGUN, WITHDRAWN
from shoal.task_runners.remote.files import make_file, read_file, remove_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shoal.scheduling.in_flight import Outcomes

__all__ = [
    "ARGUMENTS",
    "CAPACITY",
    "SMALL_PICKLE",
    "TOLD",
    "Lane",
    "Record",
    "outcomes_in",
    "read_record",
    "size_of_lane",
]

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
    """The columns of one batch, in memory that outlives the worker; a worker process of the pool has them, too.

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

    def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """Bytes of pickles, by position; of runs that ended otherwise nothing."""
        found = {}
        for position in positions:
            word = self.words[position]
            if word & 7 == _PICKLED:
                start = word >> 3
                (found[position],) = _LENGTH.unpack(self.heap[start : start + 4])
        return found

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


# ---------------------------------------------------------------------- the file

#: Runs in a lane, and so in a batch.
CAPACITY = 5000
#: Bytes of a pickled outcome that is written down; what is larger is told by message only.
SMALL_PICKLE = 4096
#: What is being unpickled, instead of the function of a task.
ARGUMENTS = -1

_NOTHING_YET = -2
#: What a file of this version begins with.
_MARK = b"shoal outcomes 1"
#: Of the file: the mark, and whether a batch went unrecorded.
_TOP = struct.Struct(f"<{len(_MARK)}sq")
_OVERFLOW = struct.Struct("<q")
#: Of a lane: the batch, and what of it is being unpickled.
_HEADER = struct.Struct("<qq")
_WHAT = struct.Struct("<q")


class _Kind(NamedTuple):
    """Lanes of one size.

    Attributes:
        lanes: how many.
        capacity: the most runs.
        heap: bytes of pickles.
    """

    lanes: int
    capacity: int
    heap: int

    @property
    def size(self) -> int:
        """Bytes of one, with its header."""
        return _HEADER.size + size_of_lane(self.capacity, self.heap)


_SMALL = _Kind(512, 16, 8 * 1024)
_LARGE = _Kind(32, CAPACITY, 128 * 1024)
_FILE = _TOP.size + _SMALL.lanes * _SMALL.size + _LARGE.lanes * _LARGE.size


def _places() -> Iterator[tuple[int, _Kind]]:
    """Where each lane begins, and of which kind it is."""
    start = _TOP.size
    for kind in (_SMALL, _LARGE):
        for _ in range(kind.lanes):
            yield start, kind
            start += kind.size


class Record:
    """The file, as its worker has it.

    Args:
        folder: where to put it.

    Attributes:
        path: of the file.

    Raises:
        OSError: there is no room for it, or no such folder can be.
    """

    def __init__(self, folder: str) -> None:
        self.path, self._memory = make_file(folder, _FILE)
        self._view = memoryview(self._memory)
        _TOP.pack_into(self._view, 0, _MARK, 0)
        places = list(_places())
        self._starts = [start for start, _ in places]
        self._kinds = [kind for _, kind in places]
        self._free = {
            kind: deque(i for i, other in enumerate(self._kinds) if other is kind)
            for kind in (_SMALL, _LARGE)
        }
        self._lock = threading.Lock()

    def open(self, batch: int, size: int) -> int:
        """A lane for a batch of so many runs that is about to be unpickled: its number, -1 if none is free."""
        with self._lock:
            fitting = [kind for kind in (_SMALL, _LARGE) if size <= kind.capacity]
            free = next((self._free[kind] for kind in fitting if self._free[kind]), None)
            if free is None:
                _OVERFLOW.pack_into(self._view, len(_MARK), 1)
                return -1
            lane = free.popleft()
        _HEADER.pack_into(self._view, self._starts[lane], batch, _NOTHING_YET)
        return lane

    def unpickles(self, lane: int, what: int) -> None:
        """What of the batch is being unpickled from now.

        Args:
            lane: of the batch.
            what: `ARGUMENTS`, or the key of a task + 1.
        """
        if lane >= 0:
            _WHAT.pack_into(self._view, self._starts[lane] + _WHAT.size, what)

    def begin(self, lane: int, size: int) -> Lane | None:
        """The batch is unpickled: the columns of its runs; `None` without a lane."""
        if lane < 0:
            return None
        start, kind = self._starts[lane], self._kinds[lane]
        columns = Lane(self._view[start + _HEADER.size : start + kind.size], kind.capacity)
        columns.clear(min(size, kind.capacity))
        _WHAT.pack_into(self._view, start + _WHAT.size, 0)
        return columns

    def close_lane(self, lane: int) -> None:
        """The batch has said all, or is not begun. Its lane is used again last, as what was said may not have left this process yet."""
        if lane >= 0:
            start = self._starts[lane]
            if _HEADER.unpack_from(self._view, start)[1]:
                _HEADER.pack_into(self._view, start, 0, 0)
            with self._lock:
                self._free[self._kinds[lane]].append(lane)

    def remove(self) -> None:
        """Nobody will ask for it any more."""
        remove_file(self.path)


def read_record(path: str) -> bytes | None:
    """The content of a dead worker's record, which is removed; `None` if there is none, or something else."""
    content = read_file(path, _FILE)
    if content is not None:
        remove_file(path)
    return content


def outcomes_in(
    content: bytes | None, kept: Callable[[Any], Any], expected: set[int]
) -> dict[int, Outcomes] | None:
    """What a record says of batches, by number; `None` if it makes no sense.

    Args:
        content: of the file.
        kept: gives the value that stays in the cluster, by what it is found by there.
        expected: batches that the worker had; what is known of none of them may have begun.
    """
    from shoal.scheduling.in_flight import Outcomes

    if content is None or len(content) != _FILE or not content.startswith(_MARK):
        return None
    _, overflowed = _TOP.unpack_from(content)
    view = memoryview(content)
    found: dict[int, Outcomes] = {}
    for start, kind in _places():
        batch, what = _HEADER.unpack_from(content, start)
        if not batch:
            continue
        if what:
            found[batch] = Outcomes(unpacking=what if what != _NOTHING_YET else 0)
            continue
        lane = Lane(view[start + _HEADER.size : start + kind.size], kind.capacity)
        found[batch] = _outcomes_of(lane, kept)
    for batch in expected - found.keys() if overflowed else ():
        found[batch] = Outcomes(begun=range(CAPACITY))
    return found


def _outcomes_of(lane: Lane, kept: Callable[[Any], Any]) -> Outcomes:
    from shoal.scheduling.in_flight import Outcomes

    positions: list[int] = []
    values: list[Any] = []
    begun: list[int] = []
    for position, word in enumerate(lane.words.tolist()):
        if not word:
            continue
        if lane.is_written(word):
            try:
                values.append(lane.outcome(word, position, kept))
            except BaseException:  # noise, or what cannot be unpickled here: it had begun
                begun.append(position)
            else:
                positions.append(position)
        else:
            begun.append(position)
    return Outcomes(positions, values, [lane.ends[position] for position in positions], begun)
