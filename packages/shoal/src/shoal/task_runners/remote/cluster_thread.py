"""A thread of a cluster's own worker that runs a batch, and stands by for the next.

May import `standby`, `worker_thread` and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.task_runners.remote.standby import StandingBy
from shoal.task_runners.remote.worker_thread import WorkerThread

if TYPE_CHECKING:
    from shoal.task_runners.remote.batches import Batch
    from shoal.task_runners.remote.worker import RemoteWorker

__all__ = ["ClusterThread"]


class ClusterThread(WorkerThread):
    """A thread of the cluster's that runs a batch; nobody looks into its queue when that has ended.

    Attributes:
        standing: how it stands by.
        asked_to_secede: whether what waits can be given nothing, so that its place in the cluster is wanted for others.
    """

    def __init__(self, home: RemoteWorker) -> None:
        super().__init__(home)
        self.asked_to_secede = False
        self.standing = StandingBy()

    def run_job(self, batch: Batch) -> None:
        """Runs a batch that came as a task of the cluster's, and those that it goes on with."""
        home: Any = self.home
        self.standing = StandingBy()
        following: Batch | None = batch
        del batch
        while following is not None:
            self.run(following)
            job, stands_by = following.job, following.stands_by
            del following
            given = self.standing.wait(home.standing_by, job) if stands_by else None
            following = home.opened_next(job, given, self) if given is not None else None

    def resumed(self) -> None:
        """See `WorkerThread`: what was sent for a wait that has ended goes back."""
        late: list[Batch] = []
        woken = False
        with LOCK:  # as has who puts a batch there, having seen that its wait goes on
            while not self.queue.empty():
                batch = self.queue.get()
                if batch is None:
                    woken = True
                else:
                    late.append(batch)
        if woken:
            self.queue.put(None)  # it may be meant for a wait beneath
        for batch in late:
            self.home.hand_back(batch)
            self.home.close(batch)
