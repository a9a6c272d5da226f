"""What is in flight, as the ledger and the backends know it: batches, workers, and how both end. Plain data.

May import `calls`, `futures` and what lies above them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.futures.maps import Span

if TYPE_CHECKING:
    from shoal.calls import Batch, Report
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.waits import BlockedRun
    from shoal.specs import TaskSpec

__all__ = ["Departure", "EngineRules", "ErrorOf", "InFlight", "JobEnd", "Outcomes", "WorkerState"]

#: Gives, for a run's name, what it ends with.
ErrorOf = Callable[[str], BaseException]


class EngineRules(NamedTuple):
    """What is special about an engine.

    Attributes:
        name: what it is called in messages, say "Dask".
        host: the machine of its workers, if that is known before they say so.
        words_within: seconds that what a worker and what the engine say of the same end may be apart.
        leaves_within: seconds that a worker that leaves in order may go on with what it runs.
        shares: whether a worker executes several jobs at once, so that killing it for one run may harm others.
        spares_coroutines: whether a worker is not killed for one of several coroutines that its loop is at.
    """

    name: str = "the engine"
    host: str | None = None
    words_within: float = 0.0
    leaves_within: float = 0.0
    shares: bool = False
    spares_coroutines: bool = True


class JobEnd(Enum):
    """How an engine says that a job has ended."""

    RAN = "a worker has run it"
    NOT_BEGUN = "it was not begun, and will not be"
    DIED = "its worker has gone"
    REFUSED = "a second worker was given it, and refused"
    UNFIT = "it could not begin: what it needs is lost, has failed, or cannot be unpacked"
    BROKE = "it failed, and not by a run in it"


class Departure(NamedTuple):
    """How a worker went.

    Attributes:
        exit_code: of its process, where that is known.
        signal: that ended it, likewise.
        message: how else the engine tells it.
        cause: the engine's own error.
    """

    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    cause: BaseException | None = None

    @classmethod
    def of_process(cls, code: int) -> Departure:
        """How a process went, by its `Popen.returncode`."""
        return cls(exit_code=code) if code >= 0 else cls(signal=-code)


class Outcomes(NamedTuple):
    """What a worker had written down of one batch.

    Attributes:
        positions: of the runs that had ended.
        values: for each its value, or an `Outcome` where there is more to say.
        ends: when each ended, seconds since the epoch.
        begun: positions of those that had begun and not ended.
        unpacking: what of the batch was being unpickled: `ARGUMENTS`, the key of a task + 1, or 0 for nothing.
    """

    positions: Sequence[int] = ()
    values: Sequence[Any] = ()
    ends: Sequence[float] = ()
    begun: Sequence[int] = ()
    unpacking: int = 0


class WorkerState:
    """A worker, as far as it matters to runs.

    Attributes:
        key: what the backend knows it by.
        host: its machine, as it says itself; `None` until it has.
        pid: of its process, likewise.
        killable: whether it is a process of its own, which may be killed for a run that does not stop.
        batches: numbers of those that it has, and has not said all of.
        waits: by the worker's number of the wait, the blocked runs there.
        stopped_for: name of the run for whose sake it was killed.
        departure: how it went, `None` while it is there.
        read: whether its file was asked for.
        settled: whether all that it had was seen to: nothing that it says counts any more.
        blamed: batches of which the engine says that they died with it.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.host: str | None = None
        self.pid: int | None = None
        self.killable = False
        self.batches: set[int] = set()
        self.waits: dict[int, BlockedRun] = {}
        self.stopped_for: str | None = None
        self.departure: Departure | None = None
        self.read = False
        self.settled = False
        self.blamed: list[int] = []

    def settle(self) -> None:
        """All that it had was seen to: it is of no more interest."""
        self.settled = True
        self.waits.clear()
        self.batches.clear()


class InFlight:
    """A batch that was sent.

    Attributes:
        batch: the batch.
        tasks: the tasks in it, by key.
        is_job: whether it is a job of the engine's; else it was given to a blocked run.
        worker: that has it, if any has.
        skipped: runs that were stopped before a worker had it.
        recalled: whether what has not begun of it is wanted back.
        wanting: blocked runs that it was asked back for; they look again when it is known what became of it.
        withdrawn: whether it was asked back before a worker had it.
        killed: whether it was stopped by force.
        forced: runs that are to be stopped by force once they do not wait any more.
        ended: how the engine says that it ended, `None` while it has not.
        why: what else the engine says of that.
        may_have_begun: whether it says that it was under way somewhere, though no worker has said so.
        held: reports that wait for its end, as values in them do.
        suspects: values that the engine unpickles at the worker before our code begins, each with a count of `deaths`.
    """

    __slots__ = (
        "_places",
        "batch",
        "ended",
        "forced",
        "held",
        "is_job",
        "killed",
        "may_have_begun",
        "recalled",
        "skipped",
        "suspects",
        "tasks",
        "wanting",
        "why",
        "withdrawn",
        "worker",
    )

    def __init__(
        self, batch: Batch, *, is_job: bool, tasks: Mapping[int, TaskSpec] | None = None
    ) -> None:
        self.batch = batch
        self.tasks = tasks if tasks is not None else {}
        self.is_job = is_job
        self.worker: WorkerState | None = None
        self.skipped: list[TaskFuture[Any]] = []
        self.recalled = False
        self.wanting: list[BlockedRun] = []
        self.withdrawn = False
        self.killed = False
        self.forced: set[TaskFuture[Any]] = set()
        self.ended: JobEnd | None = None
        self.why = Departure()
        self.may_have_begun = False
        self.held: list[Report] = []
        self.suspects: Sequence[Any] = ()
        self._places: dict[TaskFuture[Any], int] | None = None

    @property
    def number(self) -> int:
        """Of the batch."""
        return self.batch.number

    def position_of(self, run: TaskFuture[Any]) -> int | None:
        """Where a run is in it, if it is."""
        runs = self.batch.runs
        if type(runs) is Span:
            index = run._number - runs.record.base
            return index - runs.start if runs.start <= index < runs.stop else None
        if self._places is None:
            self._places = {future: position for position, future in enumerate(runs)}
        return self._places.get(run)

    def has_begun(self, position: int) -> bool | None:
        """Whether a run of it has begun, if its worker can be asked at once; `None` if it cannot."""
        return None

    def executes(self, position: int) -> bool | None:
        """Whether a run of it executes, or is being unpickled, likewise."""
        return None

    def was_alone(self) -> bool:
        """Whether it holds one run that must not share a batch."""
        if type(self.batch.runs) is Span or len(self.batch) > 1:
            return False
        detail = self.batch.runs[0]._detail
        return detail is not None and detail.alone

    def positions_of_task(self, key: int) -> list[int]:
        """Where the runs of a task are in it."""
        task = self.tasks.get(key)
        runs = self.batch.runs
        if type(runs) is Span:
            return list(range(len(runs))) if runs.record.task is task else []
        return [position for position, run in enumerate(runs) if run._task is task]

    def is_limited(self) -> bool:
        """Whether its first run has a time limit."""
        runs = self.batch.runs
        task = runs.record.task if type(runs) is Span else runs[0]._task
        return task.timeout_seconds is not None
