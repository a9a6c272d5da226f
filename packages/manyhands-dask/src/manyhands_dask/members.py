"""The driver's books: Dask workers, and the batches that were sent.

May import `handles` and the core's `remote` room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.exceptions import WorkerDied
from manyhands.futures.maps import Span
from manyhands.task_runners.remote.members import Member

if TYPE_CHECKING:
    from distributed import Future
    from manyhands.calls import Batch
    from manyhands.futures.run import TaskFuture
    from manyhands.scheduling.pushing import Helper

__all__ = ["DaskMember", "Sent", "died"]


def died(run_name: str, text: str | None, cause: BaseException | None = None) -> WorkerDied:
    """The end of a run of whose worker no more is known."""
    return WorkerDied(run_name=run_name, host="(a Dask worker)", message=text, cause=cause)


class DaskMember(Member):
    """A Dask worker.

    Args:
        number: identifies it among those of its runner.
        channel: to it.
        joined: what the scheduler says of it.

    Attributes:
        address: where Dask reaches it.
        nthreads: how many tasks it runs at once.
        resources: what it has of each of Dask's resources.
        nanny: the address of its nanny, `None` if it has none.
        hello: what it says of itself; empty until it has.
        begun: numbers of batches that it has, and has not reported whole.
        has_left: whether it has said all it has to say.
        reading: whether its record is being read.
        killed: batches that Dask has given up since it is gone.
        stopped_for: name of the run for whose sake it was killed.
    """

    def __init__(self, number: int, channel: Any, joined: dict[str, Any]) -> None:
        super().__init__(number, channel)
        self.address: str = joined["address"]
        self.name: str = joined["name"]
        self.nthreads: int = joined["nthreads"]
        self.resources: dict[str, float] = joined["resources"]
        self.nanny: str | None = joined["nanny"]
        self.hello: dict[str, Any] = {}
        self.begun: set[int] = set()
        self.has_left = False
        self.reading = False
        self.killed: list[Sent] = []
        self.stopped_for: str | None = None


class Sent:
    """A batch that was sent.

    Attributes:
        batch: the batch.
        key: of its Dask task.
        is_task: whether it is a Dask task; else it was given to a waiting run.
        future: of its Dask task, once that was sent.
        member: the worker that has begun it, if any has.
        stored: handles among its arguments.
        demands: what it asks of its worker, by the names of Dask's resources.
        skipped: runs that were cancelled before a worker had it.
        recalled: whether what has not begun of it is wanted back.
        wanting: waiting runs that it was asked back for; they are told what has become of it.
        withdrawn: whether it was asked for before a worker had it.
    """

    __slots__ = (
        "_places",
        "batch",
        "demands",
        "future",
        "is_task",
        "key",
        "member",
        "recalled",
        "skipped",
        "stored",
        "wanting",
        "withdrawn",
    )

    def __init__(self, batch: Batch, key: str, stored: list[Any]) -> None:
        self.batch = batch
        self.key = key
        self.future: Future[Any] | None = None
        self.member: DaskMember | None = None
        self.stored = stored
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
