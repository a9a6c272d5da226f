"""Writes what has completed: a thread that appends to the journal in batches.

    any thread ──remember──▶ one queue, appended without a lock ──▶ this thread, every 50 ms while something comes ──▶ file

What is mutable is pickled by who says that the run has completed, before anybody has its value: what is done with that later must
not get into the journal. The rest waits here: numbers and strings as they are, and values that an execution system keeps,
which are fetched here.

The first error of the disk ends the remembering, and never the flow.

May import `file`, `contents`, `frames` and storage.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from shoal.calls import Handle
from shoal.logs import library_logger
from shoal.results.journal import contents
from shoal.results.journal.contents import PICKLED, PLAIN, PLAIN_TYPES, STORED
from shoal.results.journal.file import VALUES
from shoal.results.journal.frames import frame
from shoal.safely import in_words
from shoal.serialization import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shoal.results.journal.file import JournalFile
    from shoal.results.storage import Storage

__all__ = ["BATCH_SECONDS", "LARGE", "Pickle", "Writer", "pickled"]

#: How long what has completed waits for more, at the most.
BATCH_SECONDS = 0.05

#: From how many bytes on a value has a file of its own.
LARGE = 256 * 1024


class Source(Protocol):
    """What a writer asks of the journal."""

    def counts(self) -> dict[int, int]:
        """How many runs of each task were submitted so far, by the task's index."""

    def name_of(self, index: int, /) -> str:
        """What a task is called."""

    def pending(self) -> Iterator[tuple[int, list[bytes], list[Any]]]:
        """Runs of maps that are to be written: the task's index, keys, plain values."""


class Pickle:
    """A value as it is written."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def pickled(value: Any) -> Any:
    """A value as it waits to be written: itself, if nobody can change it or an execution system keeps it; else its pickle.

    Raises:
        Exception: it cannot be pickled.
    """
    if type(value) in PLAIN_TYPES or isinstance(value, (Handle, Pickle)):
        return value
    return Pickle(_pickle_of(value))


def _pickle_of(value: Any) -> bytes:
    try:
        return pickle.dumps(value, 5)
    except Exception:  # what has no name that leads to it: cloudpickle writes it whole
        return dumps(value)


class Writer:
    """The thread that writes a journal.

    Args:
        file: the journal, open; it is closed with this.
        run: the flow run's name, for messages.
        source: says how many runs of each task were submitted so far, what tasks are called, and what of maps is to be
            written.
    """

    def __init__(
        self,
        file: JournalFile,
        run: str,
        source: Source,
    ) -> None:
        self._file = file
        self._run = run
        self._source = source
        self._counted: dict[int, int] = {}
        self._queue: deque[tuple[Any, ...]] = deque()
        #: Whether it looks within a moment what there is to be written.
        self.awake = False
        self._something = threading.Event()
        self._closing = threading.Event()
        self._values: Storage | None = None
        self._refused: set[int] = set()
        self._after_first: Callable[[], object] | None = None
        self._ended = b""
        self.broken = False
        self._thread = threading.Thread(target=self._work, name=f"shoal-journal-{run}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ for any thread

    def frame(self, kind: int, body: bytes) -> None:
        """A frame other than RUNS."""
        self._put((None, kind, body))

    def ended(self, body: bytes) -> None:
        """How the flow run ended, before `close`. It is tried even if nothing else could be written: so little may have room."""
        self._ended = frame(contents.ENDED, body)
        self.frame(contents.ENDED, body)

    def run(self, task: int, key: bytes, value: Any) -> None:
        """A run has completed.

        Args:
            task: the task's index.
            key: the run's.
            value: what `pickled` made of it.
        """
        self._put((task, key, value))

    def runs(self, task: int, keys: list[bytes], values: list[Any]) -> None:
        """As `run`, for several; both lists are left alone from here on."""
        self._put((task, keys, values))

    def _put(self, item: tuple[Any, ...]) -> None:
        self._queue.append(item)
        if not self.awake:
            self.wake()

    def wake(self) -> None:
        """There is something to be written."""
        self.awake = True
        self._something.set()

    def after_first(self, action: Callable[[], object]) -> None:
        """Something that may take its time, for this thread, once it has written what there is."""
        self._after_first = action

    def close(self) -> None:
        """Writes all that was said before, and closes the file; from any thread, once."""
        self._closing.set()
        self._something.set()
        self._thread.join()
        self._file.close()

    def leave_to_parent(self) -> None:
        """In a child that was forked: there is no thread here, and nothing is to be written."""
        self.broken = True

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        while True:
            self._something.wait()
            self._closing.wait(BATCH_SECONDS)
            self._something.clear()
            self.awake = False  # before it looks: who comes from here on wakes it again
            last = self._closing.is_set()
            try:
                self._write_all()
            except BaseException as error:
                self.give_up(error)
            action, self._after_first = self._after_first, None
            if action is not None:
                self._do(action)
            if last and not self._queue:
                if self.broken and self._ended:
                    with suppress(OSError):  # that it cannot be written was said
                        self._file.write(self._ended)
                return

    def _do(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            library_logger().warning("Old journals could not be removed: %s", in_words(error))

    def give_up(self, error: BaseException) -> None:
        """It cannot be written: from here on nothing is remembered."""
        self.broken = True
        self._queue.clear()
        library_logger().warning(
            "Flow run %r is no longer remembered: its journal cannot be written (%s). The run goes on",
            self._run,
            in_words(error),
        )

    def _write_all(self) -> None:
        queue = self._queue
        if self.broken:
            queue.clear()
            deque(self._source.pending(), maxlen=0)
            return
        counts = (
            self._source.counts()
        )  # before it looks at the queue: these tasks stand there, if it was not said what they are
        data: list[bytes] = []
        aside: list[tuple[int, bytes, Any]] = []
        task: int | None = None
        keys: list[bytes] = []
        values: list[Any] = []
        while queue:
            item = queue.popleft()
            if item[0] is None:
                data.extend(self._runs(task, keys, values, aside))
                task, keys, values = None, [], []
                data.append(frame(item[1], item[2]))
                continue
            if item[0] != task:
                data.extend(self._runs(task, keys, values, aside))
                task, keys, values = item[0], [], []
            if type(item[1]) is list:
                keys += item[1]
                values += item[2]
            else:
                keys.append(item[1])
                values.append(item[2])
        data.extend(self._runs(task, keys, values, aside))
        for task, keys, values in self._source.pending():
            data.extend(self._runs(task, keys, values, aside))
        if counts != self._counted:
            self._counted = counts
            said = {str(index): count for index, count in counts.items()}
            data.append(frame(contents.COUNTS, contents.to_json(said)))
        if data:
            self._file.write(*data)
        for index, key, value in aside:  # last: it may take its time
            self._write_large(index, key, value)

    def _runs(
        self,
        task: int | None,
        keys: list[bytes],
        values: list[Any],
        aside: list[tuple[int, bytes, Any]],
    ) -> Iterable[bytes]:
        """A frame of runs of one task; what is large, or has to be fetched, is put aside."""
        if task is None or not keys:
            return
        if PLAIN_TYPES.issuperset(map(type, values)) and not any(map(_is_large, values)):
            yield frame(contents.RUNS, contents.pack_runs(task, b"".join(keys), values, None))
            return
        kept: list[bytes] = []
        written: list[Any] = []
        kinds = bytearray()
        for key, value in zip(keys, values, strict=True):
            if _is_large(value):
                aside.append((task, key, value))
                continue
            kept.append(key)
            is_pickle = isinstance(value, Pickle)
            kinds.append(PICKLED if is_pickle else PLAIN)
            written.append(value.data if is_pickle else value)
        if kept:
            body = contents.pack_runs(task, b"".join(kept), written, bytes(kinds))
            yield frame(contents.RUNS, body)

    def _write_large(self, task: int, key: bytes, value: Any) -> None:
        try:
            if isinstance(value, Handle):
                value = value.value()
            data = value.data if isinstance(value, Pickle) else _pickle_of(value)
        except Exception as error:  # it was lost with its worker, or cannot be pickled
            self.refuse(task, error)
            return
        small = len(data) < LARGE
        kind, as_written = (PICKLED, data) if small else (STORED, self._store(key, data))
        body = contents.pack_runs(task, key, [as_written], bytes([kind]))
        self._file.write(frame(contents.RUNS, body))

    def refuse(self, task: int, error: BaseException) -> None:
        """A value cannot be written: that run is not remembered; said once a task."""
        if task not in self._refused:
            self._refused.add(task)
            library_logger().warning(
                "Not every run of %r is remembered: a value cannot be pickled (%s)",
                self._source.name_of(task),
                in_words(error),
            )

    def _store(self, key: bytes, data: bytes) -> str:
        """Writes a large value to a file of its own, and gives its name."""
        from shoal.results.storage import Record, open_storage

        if self._values is None:
            self._values = open_storage(self._file.path.parent / VALUES)
        name = key.hex()
        self._values.write(
            Record(key=name, value=data, created=time.time(), flow_run_name=self._run)
        )
        return name


def _is_large(value: Any) -> bool:
    kind = type(value)
    if kind is Pickle:
        return len(value.data) >= LARGE
    if kind in (str, bytes):
        return len(value) >= LARGE
    return kind not in PLAIN_TYPES  # a handle
