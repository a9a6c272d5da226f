"""The driver's books about its worker processes: who they are, and what they hold.

May import `record`, `wire`, `remote.members` and what lies above task runners.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from shoal.exceptions import WorkerDied
from shoal.scheduling.in_flight import InFlight
from shoal.task_runners.processes.record import LANES
from shoal.task_runners.remote.batches import BEGUN, NOT_BEGUN
from shoal.task_runners.remote.members import Member
from shoal.task_runners.remote.record import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.calls import Batch
    from shoal.specs import TaskSpec
    from shoal.task_runners.processes.record import Lane, Record
    from shoal.task_runners.processes.wire import DriverChannel
    from shoal.task_runners.processes.worker_process import WorkerProcess

__all__ = ["ProcessMember", "Sent", "died"]


def died(
    run_name: str, text: str | None = None, cause: BaseException | None = None
) -> BaseException:
    """The end of a run of whose worker no more is known."""
    return WorkerDied(run_name=run_name, host=socket.gethostname(), message=text, cause=cause)


class Sent(InFlight):
    """A batch at a worker.

    Attributes:
        lane: where its outcomes are.
        lane_number: of the lane.
        segments: numbers of stored values whose descriptors went along.
    """

    __slots__ = ("_record", "lane", "lane_number", "segments")

    def __init__(
        self, batch: Batch, tasks: Mapping[int, TaskSpec], record: Record, lane_number: int
    ) -> None:
        super().__init__(batch, is_job=True, tasks=tasks)
        self._record = record
        self.lane: Lane = record.lane(lane_number)
        self.lane_number = lane_number
        self.segments: list[int] = []

    def has_begun(self, position: int) -> bool:
        """See `InFlight`."""
        return self.lane.words[position] != NOT_BEGUN

    def executes(self, position: int) -> bool:
        """See `InFlight`."""
        return self.lane.words[position] == BEGUN or self._record.unpacking == self.number

    def unpacking(self) -> int:
        """See `Outcomes.unpacking`."""
        if self._record.unpacking != self.number:
            return 0
        return ARGUMENTS if self._record.task is None else self._record.task + 1

    def is_under_way(self) -> bool:
        """Whether a run of it has begun and not ended."""
        return BEGUN in self.lane.words[: len(self.batch)].tolist()


class ProcessMember(Member):
    """A worker process as the driver knows it.

    Args:
        number: identifies it among those of its runner.
        slot: where it takes batches.
        channel: to it.
        record: what it writes down.

    Attributes:
        process: itself.
        lanes: of its record, those that no batch has.
        segments: numbers of the stored values that it has.
        surrounded: whether it was told what surrounds the runs.
        ready: whether it has said that it is.
        leaving: whether it takes no more batches.
        buried: whether it has gone.
        unready: what its initializer raised.
    """

    channel: DriverChannel

    def __init__(self, number: int, slot: int, channel: DriverChannel, record: Record) -> None:
        super().__init__(number, channel, number)
        self.host = socket.gethostname()
        self.killable = True
        self.slot = slot
        self.record = record
        self.process: WorkerProcess
        self.lanes = list(range(LANES - 1, -1, -1))
        self.segments: set[int] = set()
        self.surrounded = False
        self.ready = False
        self.leaving = False
        self.buried = False
        self.unready: BaseException | None = None
