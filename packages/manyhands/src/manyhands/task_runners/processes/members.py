"""The driver's books about its workers: who they are, what they hold, what they have submitted.

May import `parcels`, `record`, `wire`, and what lies above task runners.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manyhands.exceptions import SerializationError
from manyhands.futures.maps import Span
from manyhands.task_runners.processes import parcels
from manyhands.task_runners.processes.record import BEGUN, LANES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.calls import Batch
    from manyhands.futures import TaskFutureList
    from manyhands.futures.run import TaskFuture
    from manyhands.scheduling.pushing import Helper
    from manyhands.task_runners.processes.record import Lane, Record
    from manyhands.task_runners.processes.spawning import WorkerProcess
    from manyhands.task_runners.processes.wire import DriverChannel

__all__ = ["Member", "NestedMap", "Sent", "futures_of", "not_unpickled"]


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


class NestedMap:
    """A map that a run on a worker submitted.

    Attributes:
        futures: the list, which keeps the values.
        told: which elements' ends its worker knows of.
    """

    __slots__ = ("futures", "told")

    def __init__(self, futures: TaskFutureList[Any]) -> None:
        self.futures = futures
        self.told = bytearray(len(futures))


class Member:
    """A worker as the driver knows it."""

    def __init__(self, number: int, slot: int, channel: DriverChannel, record: Record) -> None:
        self.number = number
        self.slot = slot
        self.channel = channel
        self.record = record
        self.process: WorkerProcess
        self.batches: dict[int, Sent] = {}
        self.lanes = list(range(LANES - 1, -1, -1))
        self.tasks: set[int] = set()
        self.segments: set[int] = set()
        self.surrounded = False
        self.ready = False
        self.leaving = False
        self.buried = False
        self.stopped_for: str | None = None
        self.unready: BaseException | None = None
        self.waits: dict[int, Helper] = {}
        self.runs: dict[int, TaskFuture[Any]] = {}
        self.maps: dict[int, NestedMap] = {}

    def run_numbered(self, number: int) -> TaskFuture[Any]:
        """The run that it submitted under this number."""
        run = self.runs.get(number)
        if run is not None:
            return run
        for base, nested in self.maps.items():
            if 0 <= number - base < len(nested.told):
                return nested.futures[number - base]
        raise KeyError(f"worker {self.number} has submitted no run {number}")


@contextmanager
def futures_of(member: Member) -> Iterator[None]:
    """Inside, what stands in a pickle for a run that a worker has submitted becomes its future."""
    outer, parcels.HERE.run = parcels.HERE.run, member.run_numbered
    try:
        yield
    finally:
        parcels.HERE.run = outer


def not_unpickled(error: Exception, path: str = "result") -> SerializationError:
    return SerializationError(
        path=path, type_name="unknown", problem=f"unpickling in the driver raised {error!r}"
    )
