"""Workers that stand by: who has run a batch that came as a task of the cluster's waits a moment, and is given the next by message.

    cluster ──task──▶ worker: a batch ──ends, stands by──▶ driver ──NEXT──▶ a batch ──ends, stands by──▶ …
                                                              └──DISMISSED, or nothing comes──▶ the task ends

To have a cluster find a worker for a batch takes it 1 to 3 ms of several processes' time, and the batch waits meanwhile. Where
runs wait for each other, so that few are ready at once, that is most of what there is to do. To send it to a worker that
stands by takes a message.

A place of the cluster's is kept for as long as somebody stands by: so nobody does who knows of something else to do there,
whoever is needed for that is dismissed, and a task ends after `LONGEST` for others to have their turn.

Both halves; may import `messages` and what lies above task runners.
"""

from __future__ import annotations

import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.context import LOCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.task_runners.remote.members import ClusterMember

__all__ = ["LARGEST", "Next", "Standby", "StandingBy"]

#: Seconds that a worker stands by.
STANDS_BY = 0.05
#: Seconds of these in which the driver still counts on it: what comes too late is sent again.
COUNTED_ON = 0.8 * STANDS_BY
#: Seconds after which a task of the cluster's takes no other batch.
LONGEST = 1.0
#: Bytes of a batch that goes by message: more has a better way.
LARGEST = 64 * 1024


class _Waiting(NamedTuple):
    """A worker's thread that stands by.

    Attributes:
        member: the worker.
        job: number of the batch that came as the cluster's task which it is at.
        until: when it is counted on no more, by the monotonic clock.
    """

    member: ClusterMember
    job: int
    until: float


class Standby:
    """Who stands by, as the driver knows it. Batches are launched by one thread at a time; all else is on the I/O thread.

    Attributes:
        places: how many runs can execute at once in the cluster.
        jobs: by number, batches whose tasks go on; their cluster's futures are needed as long.
    """

    def __init__(self) -> None:
        self.places = 1
        self.jobs: dict[int, Any] = {}
        self._waiting: deque[_Waiting] = deque()
        self._queued: set[int] = set()
        self._small: set[int] = set()
        self._large: set[int] = set()

    def sent(self, number: int) -> bool:
        """A batch is about to become a task of the cluster's; whether its worker may stand by when it has ended: not if others
        wait in the cluster's queue.
        """
        self._queued.add(number)
        return len(self._queued) <= self.places

    def begun(self, number: int) -> None:
        """A worker has a batch, or it will not begin."""
        self._queued.discard(number)

    def ended(self, number: int) -> Any:
        """A task of the cluster's has ended; gives its batch if that went on."""
        return self.jobs.pop(number, None)

    def clear(self) -> None:
        """The runner has been left: nobody is wanted any more, nor what their tasks hold."""
        self._waiting.clear()
        self.jobs.clear()

    def saw(self, tasks: Iterable[int], *, is_large: bool) -> None:
        """Runs of these tasks have ended, by key; one has a large value if it `is_large`, and these may have a better way."""
        (self._large if is_large else self._small).update(tasks)

    def stands_by(self, member: ClusterMember, job: Any) -> bool:
        """A worker stands by; False if it is not to, as there is something in the cluster's queue."""
        if self._queued:
            return False
        self.jobs[job.number] = job
        self._waiting.append(_Waiting(member, job.number, time.monotonic() + COUNTED_ON))
        return True

    def take(self) -> tuple[ClusterMember, Any] | None:
        """Who has stood by for longest, if anybody does: the worker, and the batch that came as its cluster's task."""
        now = time.monotonic()
        while self._waiting:
            member, number, until = self._waiting.popleft()
            job = self.jobs.get(number)
            if job is not None and member.departure is None and now < until:
                return member, job
        return None

    def take_for(self, tasks: Iterable[int]) -> tuple[ClusterMember, Any] | None:
        """The same for a batch of these tasks, by key: of values that may be large none is known to be small."""
        if not self._waiting or not self._small.issuperset(tasks):
            return None
        return self.take() if self._large.isdisjoint(tasks) else None


class Next(NamedTuple):
    """A batch that came by message to who stood by.

    Attributes:
        number: of the batch.
        blob: what the driver packed.
    """

    number: int
    blob: bytes


class StandingBy:
    """A thread of a worker that runs what a cluster's task has brought; what it is given while it stands by.

    Attributes:
        began: when the cluster's task did, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._given: SimpleQueue[Next | None] = SimpleQueue()

    def may_go_on(self) -> bool:
        """Whether the cluster's task may take another batch."""
        return time.monotonic() - self.began < LONGEST

    def give(self, following: Next | None) -> None:
        """Gives it what it stands by for, or dismisses it: once, by who has taken it out of those who stand by."""
        self._given.put(following)

    def wait(self, standing: dict[int, StandingBy], job: int) -> Next | None:
        """What it goes on with, `None` if the cluster's task is to end.

        Args:
            standing: those who stand by in this process, by the number of the cluster's task's own batch.
            job: its own.
        """
        try:
            return self._given.get(timeout=STANDS_BY)
        except Empty:
            with LOCK:
                if standing.pop(job, None) is not None:
                    return None
            return self._given.get()  # it has come just now
