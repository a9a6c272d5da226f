"""The driver's books about a cluster's workers, and about the batches that were sent to it.

May import `members` and what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.exceptions import WorkerDied
from shoal.futures.maps import Span
from shoal.task_runners.remote.members import Member

if TYPE_CHECKING:
    from shoal.calls import Batch
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.waits import Helper
    from shoal.task_runners.remote.messages import Channel

__all__ = ["ClusterMember", "Sent", "died"]


def died(
    run_name: str, text: str | None, cause: BaseException | None = None, *, host: str = "(a worker)"
) -> WorkerDied:
    """The end of a run of whose worker no more is known."""
    return WorkerDied(run_name=run_name, host=host, message=text, cause=cause)


class ClusterMember(Member):
    """A worker of a cluster.

    Args:
        number: identifies it among those of its runner.
        channel: to it.

    Attributes:
        hello: what it says of itself; empty until it has.
        begun: numbers of batches that it has, and has not reported whole.
        stopped_for: name of the run for whose sake it was killed.
        tasks: keys of those that went to it with what it was given for its waits.
    """

    def __init__(self, number: int, channel: Channel) -> None:
        super().__init__(number, channel)
        self.hello: dict[str, Any] = {}
        self.begun: set[int] = set()
        self.stopped_for: str | None = None
        self.tasks: set[int] = set()


class Sent:
    """A batch that was sent.

    Attributes:
        batch: the batch.
        is_task: whether it is a task of the cluster's; else it was given to a waiting run.
        member: the worker that has begun it, if any has.
        stored: handles among its arguments.
        tasks: keys of the tasks of its runs.
        demands: what it asks of its worker, in the cluster's words.
        skipped: runs that were cancelled before a worker had it.
        recalled: whether what has not begun of it is wanted back.
        wanting: waiting runs that it was asked back for; they are told what has become of it.
        withdrawn: whether it was asked for before a worker had it.
    """

    __slots__ = (
        "_places",
        "batch",
        "demands",
        "is_task",
        "member",
        "recalled",
        "skipped",
        "stored",
        "tasks",
        "wanting",
        "withdrawn",
    )

    def __init__(self, batch: Batch, stored: list[Any]) -> None:
        self.batch = batch
        self.member: Any = None
        self.stored = stored
        self.tasks: list[int] = []
        self.demands: dict[str, float] = {}
        self.skipped: list[TaskFuture[Any]] = []
        self.recalled = False
        self.is_task = False
        self.withdrawn = False
        self.wanting: list[Helper] = []
        self._places: dict[TaskFuture[Any], int] | None = None

    def is_limited(self) -> bool:
        """Whether its first run has a time limit."""
        runs = self.batch.runs
        task = runs.record.task if type(runs) is Span else runs[0]._task
        return task.timeout_seconds is not None

    def position_of(self, run: TaskFuture[Any]) -> int | None:
        """Where a run is in it, if it is."""
        runs = self.batch.runs
        if type(runs) is Span:
            index = run._number - runs.record.base
            return index - runs.start if runs.start <= index < runs.stop else None
        if self._places is None:
            self._places = {future: position for position, future in enumerate(runs)}
        return self._places.get(run)
