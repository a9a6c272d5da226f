"""The driver's books about its worker processes: who they are, and what they hold.

May import `record`, `wire`, `remote.members` and what lies above task runners.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from shoal.exceptions import WorkerDied
from shoal.futures.maps import Span
from shoal.task_runners.processes.record import BEGUN, LANES
from shoal.task_runners.remote.members import Member

if TYPE_CHECKING:
    from shoal.calls import Batch
    from shoal.futures.run import TaskFuture
    from shoal.task_runners.processes.record import Lane, Record
    from shoal.task_runners.processes.spawning import WorkerProcess
    from shoal.task_runners.processes.wire import DriverChannel

__all__ = ["ProcessMember", "Sent", "died"]


def died(
    run_name: str, text: str | None = None, cause: BaseException | None = None
) -> BaseException:
    """The end of a run of whose worker no more is known."""
    return WorkerDied(run_name=run_name, host=socket.gethostname(), message=text, cause=cause)


class Sent:
    """A batch at a worker.

    Attributes:
        batch: the batch.
        lane: where its outcomes are.
        lane_number: of the lane.
        segments: numbers of stored values whose descriptors went along.
        forced: positions that are to be stopped by force once they do not wait any more.
        places: its runs' positions; made when somebody looks for a run.
    """

    __slots__ = ("_places", "batch", "forced", "lane", "lane_number", "segments")

    def __init__(self, batch: Batch, lane: Lane, lane_number: int) -> None:
        self.batch = batch
        self.lane = lane
        self.lane_number = lane_number
        self.segments: list[int] = []
        self.forced: set[int] = set()
        self._places: dict[TaskFuture[Any], int] | None = None

    def was_alone(self) -> bool:
        """Whether it holds one run that must not share a batch."""
        if type(self.batch.runs) is Span or len(self.batch) > 1:
            return False
        detail = self.batch.runs[0]._detail
        return detail is not None and detail.alone

    def is_under_way(self) -> bool:
        """Whether a run of it has begun and not ended."""
        return BEGUN in self.lane.words[: len(self.batch)].tolist()

    def position_of(self, run: TaskFuture[Any]) -> int | None:
        """Where a run is in it, if it is."""
        runs = self.batch.runs
        if type(runs) is Span:
            index = run._number - runs.record.base
            return index - runs.start if runs.start <= index < runs.stop else None
        if self._places is None:
            self._places = {future: position for position, future in enumerate(runs)}
        return self._places.get(run)


class ProcessMember(Member):
    """A worker process as the driver knows it."""

    channel: DriverChannel

    def __init__(self, number: int, slot: int, channel: DriverChannel, record: Record) -> None:
        super().__init__(number, channel)
        self.slot = slot
        self.record = record
        self.process: WorkerProcess
        self.batches: dict[int, Sent] = {}
        self.lanes = list(range(LANES - 1, -1, -1))
        self.tasks: set[int] = set()
        self.segments: set[int] = set()
        self.surrounded = False
        self.ready = False
        self.leaving = False
        self.stopped_for: str | None = None
        self.unready: BaseException | None = None
