"""The driver's large values: arguments kept for workers, results had from them, freed when nobody here has them; and how
those of runs that workers submit cross.

Segments are made and taken on any thread; workers are told of freed values on the I/O thread, with `ProcessBackend.lock`
held. May import `members`, `segments`, `stored`, `wire`, `messages` and what lies above task runners.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Handle
from shoal.serialization import dumps
from shoal.task_runners.processes import wire
from shoal.task_runners.processes.segments import Segment
from shoal.task_runners.processes.stored import Store, Stored
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.parcels import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.segments import Layout
    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.nested import End
    from shoal.task_runners.remote.parcels import Packed

__all__ = ["DriverStore", "SegmentCarrier"]


class DriverStore:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        self._store = Store(1)
        self._freed: deque[tuple[int, bool]] = deque()

    def put(self, packed: Packed) -> Stored:
        """Puts the arguments of a batch into shared memory, for one message.

        Raises:
            NoSegment: there is no room for them.
        """
        return self._store.keep(packed.data, packed.buffers)

    def keep(self, value: Any, packed: Packed) -> Stored:
        """Puts a large argument into shared memory, for as long as somebody here has it."""
        stored = self._store.keep(packed.data, packed.buffers, self._on_freed)
        self._backend.carrier.stored[stored.number] = stored
        return stored

    def take(self, number: int, segment: Segment, layout: Layout) -> Stored:
        """Takes a value that a worker has put into shared memory."""
        stored = Stored(number, segment, layout, self._on_freed)
        self._backend.carrier.stored[number] = stored
        return stored

    def miss(self, number: int) -> None:
        """A value has come without its descriptor: its maker is to free it with the next that are freed."""
        self._freed.append((number, False))

    def _on_freed(self, number: int, loaded: bool) -> None:
        """Nobody here has a stored value any more. Called by finalizers."""
        self._freed.append((number, loaded))
        self._backend.link.do(_nothing)

    def tell_freed(self) -> None:
        """Tells workers which values they need not hold any more; on the I/O thread."""
        while self._freed:
            number, loaded = self._freed.popleft()
            with self._backend.lock:
                holders = [
                    member for member in self._backend.pool.alive if number in member.segments
                ]
                for member in holders:
                    member.segments.discard(number)
                    # Its maker may fill the segment anew only if nobody else may still look at it.
                    member.channel.send(
                        messages.FREED, dumps([(number, len(holders) == 1 and not loaded)])
                    )


def _nothing() -> None:
    pass


def _fetched(end: End) -> End:
    """The end of a run with its large value, which another runner keeps."""
    try:
        return end._replace(value=end.value.value())
    except BaseException as error:  # it is lost, or cannot be unpickled
        return end._replace(phase=FAILED, value=error)


class SegmentCarrier:
    """See `Carrier`: large arguments and results of runs that workers submit cross in segments.

    Args:
        lock: guards the books about workers.

    Attributes:
        stored: stored values by number.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.stored: weakref.WeakValueDictionary[int, Stored] = weakref.WeakValueDictionary()

    def arguments(self, message: Message, packed: Any) -> Any:
        """See `Carrier`."""
        plain, whole = packed
        if message.is_cut:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if whole is None:
            return unpack(plain, self.stored.__getitem__)
        size, layout = whole
        stored = Stored(0, Segment(message.fds[0], size), layout)
        return stored.load(attached=self.stored.__getitem__)

    def options(self, options: Any) -> contextlib.AbstractContextManager[Any]:
        """See `Carrier`: there are none."""
        return contextlib.nullcontext()

    def tell_ended(self, member: Any, ends: Sequence[End]) -> None:
        """See `Carrier`."""
        described: list[Any] = []
        fds: list[int] = []
        entries: list[Any] = []
        with self._lock:
            if member.buried:
                return
            for end in ends:
                data: Any
                phase, value = end.phase, end.value
                if isinstance(value, Handle) and not isinstance(value, Stored):
                    end = _fetched(end)  # another runner's
                    value = end.value
                if isinstance(value, Stored):
                    is_new = value.number not in member.segments
                    if is_new:
                        member.segments.add(value.number)
                        fds.append(value.segment.fileno())
                    described.append(tuple(value.describe(is_new)))
                    data = value.number
                else:
                    phase, data = end.packed()
                entries.append((end.number, phase, end.since, end.name, data))
                if len(fds) == wire.MOST_FDS:
                    member.channel.send(messages.RUNS_ENDED, dumps((described, entries)), fds)
                    described, entries, fds = [], [], []
            if entries:
                member.channel.send(messages.RUNS_ENDED, dumps((described, entries)), fds)
