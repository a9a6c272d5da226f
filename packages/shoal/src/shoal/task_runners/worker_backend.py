"""The backend of workers that are threads of this process: what threads and the sequential runner have in common.

May import `async_lane`, `side_waits` and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.futures.run import TaskFuture
from shoal.scheduling.backend import PullingBackend
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities
from shoal.task_runners.async_lane import AsyncLane
from shoal.task_runners.side_waits import RunHere

if TYPE_CHECKING:
    from shoal.futures.side_threads import RunAround
    from shoal.scheduling.dispatchers import PullingDispatcher
    from shoal.task_runners.pools import SharedByThreads
    from shoal.task_runners.workers import Worker

__all__ = ["WorkerBackend"]


class WorkerBackend(PullingBackend):
    """Workers that take runs themselves; what threads and the sequential runner have in common.

    Args:
        concurrent: whether there may be several at once.
    """

    def __init__(self, *, concurrent: bool) -> None:
        self.capabilities = Capabilities(
            pulls=True,
            concurrent=concurrent,
            shares_context=True,
            policy=BatchPolicy(target=0.002, alone=0.001, cap=4096),
        )
        self.workers: list[Worker] = []
        self.surplus = 0
        self.dispatcher: PullingDispatcher
        self.lane: AsyncLane

    def start(self, events: PullingDispatcher) -> None:
        """See `Backend`."""
        self.dispatcher = events
        self.lane = AsyncLane(events)
        events.scheduler.workers = self.workers

    def wake(self, worker: Worker) -> None:
        """See `PullingBackend`."""
        with LOCK:
            worker.look_again()

    def wake_loop(self) -> None:
        """See `PullingBackend`."""
        self.lane.wake()

    def lend(self, *, sparingly: bool) -> bool:
        """See `Pool`: to nobody."""
        return False

    def lend_back(self) -> None:
        """See `Pool`."""

    def stand_in(self, side: SharedByThreads) -> Worker | None:
        """See `Pool`: there is none."""
        return None

    def span_taken(self) -> None:
        """See `Pool`."""

    def retire(self) -> bool:
        """See `Pool`."""
        return False

    def left(self, worker: Worker) -> None:
        """See `Pool`."""
        with LOCK:
            if worker in self.workers:
                self.workers.remove(worker)
            scheduler = self.dispatcher.scheduler
            if worker in scheduler.idle:
                scheduler.idle.remove(worker)

    def running(self) -> list[TaskFuture[Any]]:
        """See `PullingBackend`."""
        found = [future for worker in self.workers for future in worker.running()]
        return found + self.lane.running()

    def run_around(self, number: int, *, certain: bool) -> RunAround | None:
        """See `PullingBackend`."""
        with LOCK:
            for worker in self.workers:
                if any(run._number == number for run in worker.running()):
                    for frame in list(worker.frames.stack):
                        if isinstance(frame.run, TaskFuture) and frame.run._number == number:
                            return RunHere(worker, frame.run, frame, certain=certain)
        return None

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`."""
        for worker in self.workers:
            if run in worker.running():
                worker.frames.fire(run)
                worker.look_again()
                if run in worker.sides:
                    worker.sides[run].stop()
                return
        self.lane.interrupt(run)

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        with LOCK:
            self.lane.stop()
        self.lane.join(grace)
