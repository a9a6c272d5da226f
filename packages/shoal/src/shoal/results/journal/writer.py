"""Writes what has completed: a thread that appends to the journal in batches.

    any thread ──remember──▶ queue, appended without a lock ──▶ this thread, every 20 ms while something comes ──▶ file
               ──wake_for──▶ maps that have something            └─ what is large ─▶ a second one: fetched, stored ─▶ queue

What is mutable is pickled by who says that the run has completed, before anybody has its value: what is done with that later must
not get into the journal. The rest waits here: numbers and strings as they are, and values that an execution system keeps.
What may take its time, these and large ones and the removal of old journals, is the second thread's: what is small never waits for it.
What an execution system keeps is gone with it: who stops that waits here until it was fetched.

The first error of the disk ends the remembering, and never the flow.

May import `file`, `contents`, `frames` and storage.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from shoal.calls import Handle
from shoal.exceptions import ResultLost
from shoal.logs import library_logger
from shoal.results.journal import contents
from shoal.results.journal.contents import PICKLED, PLAIN, PLAIN_TYPES, STORED
from shoal.results.journal.file import VALUES
from shoal.results.journal.frames import frame
from shoal.safely import in_words
from shoal.serialization import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.results.journal.file import JournalFile
    from shoal.results.storage import Storage

__all__ = ["BATCH_SECONDS", "LARGE", "Pickle", "Writer", "pickled"]

#: How long what has completed waits for more. A kill may lose what completed in the last 100 ms: workers of Dask and Ray take 50 of
#: them to tell of it, and the rest is for a machine that is busy.
BATCH_SECONDS = 0.02

#: From how many bytes on a value has a file of its own.
LARGE = 256 * 1024


class Source(Protocol):
    """What a writer asks of the journal."""

    def counts(self) -> dict[int, int]:
        """How many runs of each task were submitted so far, by the task's index."""

    def name_of(self, index: int, /) -> str:
        """What a task is called."""


class Pending(Protocol):
    """What a writer asks of a map.

    Attributes:
        awake: whether it is about to be looked at.
    """

    awake: bool

    def take(self) -> tuple[int, bytes, list[Any]]:
        """What is to be written, and is not any more from here on: the task's index, keys, plain values."""


class Pickle:
    """A value as it is written."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Stored:
    """A value that has a file of its own."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


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


_SMALL = PLAIN_TYPES | {Stored}


class Writer:
    """The thread that writes a journal.

    Args:
        file: the journal, open; it is closed with this.
        run: the flow run's name, for messages.
        source: says how many runs of each task were submitted so far, and what tasks are called.
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
        self._maps: deque[Pending] = deque()
        #: Whether it looks within a moment what there is to be written.
        self._awake = False
        self._something = threading.Event()
        self._closing = threading.Event()
        self._values: Storage | None = None
        self._refused: set[int] = set()
        self._actions: deque[Callable[[], object]] = deque()
        self._slow: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._slow_is_over = False
        self._ended = b""
        self.broken = False
        self._is_elsewhere = False
        self._closed = False
        self._giving_up = threading.Lock()
        # No executor, which takes nothing more once the main thread has ended: flow runs of others go on then.
        self._second = threading.Thread(
            target=self._work_slowly, name=f"shoal-journal-2-{run}", daemon=True
        )
        self._second.start()
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
        if isinstance(value, Handle):
            self._is_elsewhere = True
        self._put((task, key, value))

    def runs(self, task: int, keys: bytes, values: list[Any]) -> None:
        """As `run`, for several; the list is left alone from here on."""
        self._put((task, keys, values))

    def wake_for(self, some: Pending) -> None:
        """There is something to be written of a map that is not `awake`."""
        some.awake = True
        self._maps.append(some)
        if not self._awake:
            self._wake()

    def _put(self, item: tuple[Any, ...]) -> None:
        self._queue.append(item)
        if not self._awake:
            self._wake()

    def _wake(self) -> None:
        self._awake = True
        self._something.set()

    def afterwards(self, action: Callable[[], object]) -> None:
        """Something that may take its time, for the second thread, once it is written what was said before."""
        self._actions.append(action)
        if not self._awake:
            self._wake()

    def wait(self) -> None:
        """Waits until what was said before is here, if an execution system keeps any of it."""
        if not self._is_elsewhere or self.broken:  # a child that was forked has nobody to wait for
            return
        done = threading.Event()
        self.afterwards(done.set)
        if not self._closed:
            done.wait()

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
            self._awake = False  # before it looks: who comes from here on wakes it again
            last = self._closing.is_set()
            self._take_turn()
            if last:
                break
        self._slow.put(None)
        self._second.join()
        self._slow_is_over = True
        while self._queue or self._maps:
            self._take_turn()
        self._closed = True
        self._take_turn()  # for who saw that it was not closed
        if self.broken and self._ended:
            with suppress(OSError):  # that it cannot be written was said
                self._file.write(self._ended)

    def _take_turn(self) -> None:
        actions = len(self._actions)  # before it looks: what was said before these is written
        self._try_to_write()
        for _ in range(actions):
            self._later(self._actions.popleft())

    def _later(self, action: Callable[[], object]) -> None:
        """Has the second thread do something; at the end there is no other than this."""
        if self._slow_is_over:
            action()
        else:
            self._slow.put(action)

    def _work_slowly(self) -> None:
        while True:
            action = self._slow.get()
            if action is None:
                break
            try:
                action()
            except BaseException as error:
                self.give_up(error)

    def _try_to_write(self) -> None:
        try:
            self._write_all()
        except BaseException as error:
            self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        """It cannot be written: from here on nothing is remembered. Said once, whichever thread finds it first."""
        with self._giving_up:
            was_broken, self.broken = self.broken, True
        self._queue.clear()
        if was_broken:
            return
        library_logger().warning(
            "Flow run %r is no longer remembered: its journal cannot be written (%s). The run goes on",
            self._run,
            in_words(error),
        )

    def _write_all(self) -> None:
        counts = (
            self._source.counts()
        )  # before the queue: what these tasks are stands there, if it was not said
        queue, maps = self._queue, self._maps
        if self.broken:
            queue.clear()
            while maps:
                maps.popleft().take()
            return
        data: list[bytes] = []
        task: int | None = None
        keys: list[bytes] = []
        values: list[Any] = []
        while queue:
            item = queue.popleft()
            if item[0] is None:
                data.extend(self._runs(task, keys, values))
                task, keys, values = None, [], []
                data.append(frame(item[1], item[2]))
                continue
            if item[0] != task:
                data.extend(self._runs(task, keys, values))
                task, keys, values = item[0], [], []
            keys.append(item[1])
            if type(item[2]) is list:
                values += item[2]
            else:
                values.append(item[2])
        data.extend(self._runs(task, keys, values))
        while maps:
            task, some, values = maps.popleft().take()
            data.extend(self._runs(task, [some], values))
        if counts != self._counted:
            self._counted = counts
            said = {str(index): count for index, count in counts.items()}
            data.append(frame(contents.COUNTS, contents.to_json(said)))
        if data:
            self._file.write(*data)

    def _runs(self, task: int | None, keys: list[bytes], values: list[Any]) -> Iterable[bytes]:
        """A frame of runs of one task; what is large, or has to be fetched, is for later."""
        if task is None or not values:
            return
        of_all = b"".join(keys)
        if PLAIN_TYPES.issuperset(map(type, values)) and not any(map(_is_large, values)):
            yield frame(contents.RUNS, contents.pack_runs(task, of_all, values, None))
            return
        kept: list[bytes] = []
        written: list[Any] = []
        kinds = bytearray()
        for key, value in zip(contents.split(of_all), values, strict=True):
            if _is_large(value):
                self._later(partial(self._write_large, task, key, value))
                continue
            kept.append(key)
            kind = type(value)
            kinds.append(PICKLED if kind is Pickle else STORED if kind is Stored else PLAIN)
            written.append(
                value.data if kind is Pickle else value.name if kind is Stored else value
            )
        if kept:
            body = contents.pack_runs(task, b"".join(kept), written, bytes(kinds))
            yield frame(contents.RUNS, body)

    def _write_large(self, task: int, key: bytes, value: Any) -> None:
        if self.broken:
            return
        try:
            if isinstance(value, Handle):
                value = value.value()
            data = value.data if isinstance(value, Pickle) else _pickle_of(value)
        except Exception as error:  # it was lost with its worker, or cannot be pickled
            self.refuse(task, error)
            return
        try:
            small = len(data) < LARGE
            self.run(task, key, Pickle(data) if small else Stored(self._store(key, data)))
        except BaseException as error:
            self.give_up(error)

    def refuse(self, task: int, error: BaseException) -> None:
        """A value cannot be had, or not be pickled: that run is not remembered; said once a task."""
        if task not in self._refused:
            self._refused.add(task)
            library_logger().warning(
                "Not every run of %r is remembered: a value %s (%s)",
                self._source.name_of(task),
                "is gone" if isinstance(error, ResultLost) else "cannot be pickled",
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
    return kind not in _SMALL  # a handle
