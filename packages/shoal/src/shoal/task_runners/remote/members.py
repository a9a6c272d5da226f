"""The driver's books about its workers: what they have submitted, and what waits there; of a cluster's, its batches too.

May import `parcels`, `record` and what lies above task runners.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.exceptions import SerializationError
from shoal.safely import kind_of, repr_of
from shoal.scheduling.in_flight import InFlight, WorkerState
from shoal.task_runners.remote import parcels
from shoal.task_runners.remote.record import outcomes_in, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from shoal.calls import Batch
    from shoal.futures import TaskFutureList
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.blocked_run import Entered
    from shoal.scheduling.in_flight import Outcomes
    from shoal.task_runners.remote.messages import Channel

__all__ = [
    "ClusterMember",
    "Member",
    "NestedMap",
    "Sent",
    "futures_of",
    "is_overdue",
    "not_unpacked",
    "not_unpickled",
]


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


class Member(WorkerState):
    """A worker as the driver knows it.

    Args:
        number: identifies it among those of its runner.
        channel: to it.
        key: what its backend knows it by.

    Attributes:
        tasks: keys of those that it was told.
        runs: by number, those that runs there have submitted, for as long as their futures live there.
        maps: by the number of the first element, likewise.
        entered: by number, what was called there and has a place of a cap, or waits for one.
        slots: by acquisition, the slots of limits that runs there hold or wait for: `Asked`.
    """

    def __init__(self, number: int, channel: Channel, key: Hashable) -> None:
        super().__init__(key)
        self.number = number
        self.channel = channel
        self.tasks: set[int] = set()
        self.runs: dict[int, TaskFuture[Any]] = {}
        self.maps: dict[int, NestedMap] = {}
        self.entered: dict[int, Entered] = {}
        self.slots: dict[str, Any] = {}

    def see_off(self) -> None:
        """See `WorkerState`: nor is what its runs have submitted of interest there, and their slots are given back."""
        super().see_off()
        self.runs.clear()
        self.maps.clear()
        for entered in self.entered.values():
            entered.leave()
        self.entered.clear()
        slots, self.slots = self.slots, {}
        for acquisition, asked in list(slots.items()):  # the keeper's thread may take one out
            asked.keeper.release(acquisition)

    def run_numbered(self, number: int) -> TaskFuture[Any]:
        """The run that it submitted under this number."""
        run = self.runs.get(number)
        if run is not None:
            return run
        for base, nested in self.maps.items():
            if 0 <= number - base < len(nested.told):
                return nested.futures[number - base]
        raise KeyError(f"worker {self.number} has submitted no run {number}")


def is_overdue(run: TaskFuture[Any]) -> bool:
    """Whether a run that is to be stopped is past its time limit."""
    return run._detail is not None and run._detail.overdue


@contextmanager
def futures_of(member: Member) -> Iterator[None]:
    """Inside, what stands in a pickle for a run that a worker has submitted becomes its future."""
    outer, parcels.HERE.run = parcels.HERE.run, member.run_numbered
    try:
        yield
    finally:
        parcels.HERE.run = outer


def not_unpacked(
    error: BaseException, run: TaskFuture[Any], *, is_function: bool
) -> SerializationError:
    """How a run ends that a worker could not unpickle.

    Args:
        error: what unpickling it raised.
        run: the run.
        is_function: whether it was its task's function; else its arguments.
    """
    path = f"the function of task {run._task.name!r}" if is_function else "arguments"
    told = SerializationError(
        path=path,
        type_name=kind_of(error),
        problem=f"unpickling on the worker raised {repr_of(error)}",
        run_name=run.name,
    )
    told.__cause__ = error
    return told


def not_unpickled(error: BaseException, path: str = "result") -> SerializationError:
    return SerializationError(
        path=path,
        type_name="unknown",
        problem=f"unpickling in the driver raised {repr_of(error)}",
    )


class ClusterMember(Member):
    """A worker of a cluster.

    Attributes:
        hello: what it says of itself; empty until it has.
    """

    def __init__(self, number: int, channel: Channel, key: Hashable) -> None:
        super().__init__(number, channel, key)
        self.hello: dict[str, Any] = {}

    def greet(self, hello: dict[str, Any]) -> None:
        """It has said who it is."""
        self.hello = hello
        self.host, self.pid = hello["host"], hello["pid"]
        self.killable = hello["record"] is not None or hello["unrecorded"] is not None

    def outcomes(self, kept: Callable[[Any], Any]) -> Mapping[int, Outcomes] | None:
        """What it had written down before it went, where this process can read that, and once only; `None` if that
        cannot be known.

        Args:
            kept: gives the value that stays elsewhere, by what it is found by there.
        """
        if not self.hello:
            return {}  # it has said nothing, so it has begun nothing
        path = self.hello["record"]
        content = read_record(path) if path is not None else None
        with futures_of(self):
            return outcomes_in(content, kept, set(self.batches))


class Sent(InFlight):
    """A batch that was sent.

    Attributes:
        stored: handles among its arguments.
        demands: what it asks of its worker, in the cluster's words.
        job: the batch as which the cluster's task came that it is run in; `None` if that is itself.
    """

    __slots__ = ("demands", "job", "stored")

    def __init__(self, batch: Batch, stored: list[Any]) -> None:
        super().__init__(batch, is_job=False)
        self.stored = stored
        self.demands: dict[str, float] = {}
        self.job: Sent | None = None
