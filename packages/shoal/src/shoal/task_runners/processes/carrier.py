"""How arguments and results of runs that workers submit cross to and from worker processes: large ones in segments.

May import `members`, `stored`, `wire` and what lies above them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Handle
from shoal.serialization import dumps
from shoal.task_runners.processes import wire
from shoal.task_runners.processes.segments import Segment
from shoal.task_runners.processes.stored import Stored
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.parcels import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.nested import End

__all__ = ["SegmentCarrier"]


def _fetched(end: End) -> End:
    """The end of a run with its large value, which another runner keeps."""
    try:
        return end._replace(value=end.value.value())
    except BaseException as error:  # it is lost, or cannot be unpickled
        return end._replace(phase=FAILED, value=error)


class SegmentCarrier:
    """See `Carrier`.

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
