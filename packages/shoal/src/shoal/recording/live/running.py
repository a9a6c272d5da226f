"""What a runner executes at the moment, found by looking, so that no run has to say so.

May import scheduling and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import Batch, Call
from shoal.futures.maps import Span
from shoal.futures.run import TaskFuture
from shoal.names import task_run_name
from shoal.recording.live.counting import Seen

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["InFlight", "capped", "executing_here", "executing_there", "places_of"]


class InFlight:
    """A batch that was sent.

    Attributes:
        batch: the batch.
        place: where it is: its slot, or the worker that has it once that is known.
        known: whether a worker is known to have it.
        reported: how many of its runs have ended.
    """

    __slots__ = ("batch", "known", "place", "reported")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.place: object = batch.slot
        self.known = False
        self.reported = 0


def executing_here(scheduler: Any) -> tuple[list[Seen], int]:
    """Of workers of this process: the runs that they execute, and how many of them are busy."""
    found: list[Seen] = []
    busy = 0
    for worker in list(scheduler.workers):
        runs = [_seen(frame.run) for frame in list(worker.frames.stack)]
        known = [run for run in runs if run is not None]
        found += known
        busy += bool(known)
    return found, busy


def _seen(run: Any) -> Seen | None:
    if type(run) is TaskFuture:
        return None if run.done() else Seen(run._number, run._task.name, run.name)
    if type(run) is Call:
        return Seen(run.number, run.task.name, run.run_name())
    return None


def executing_there(batches: Iterable[InFlight]) -> tuple[list[Seen], int]:
    """Of workers that are sent batches: the run that each is at, and how many have one.

    The runs of a batch execute one after another, and the batches of a place too.
    """
    batches = list(batches)
    if any(sent.known for sent in batches):
        batches = [sent for sent in batches if sent.known]
    first: dict[object, InFlight] = {}
    for sent in batches:
        first.setdefault(sent.place, sent)
    return [_at(sent.batch.runs, sent.reported) for sent in first.values()], len(first)


def _at(runs: Any, position: int) -> Seen:
    position = min(position, len(runs) - 1)
    if type(runs) is Span:
        task = runs.record.task
        number = runs.record.base + runs.start + position
        return Seen(number, task.name, task_run_name(task.name, number))
    run = runs[position]
    return Seen(run._number, run._task.name, run.name)


def places_of(scheduler: Any) -> int:
    """How many runs a runner executes at once, 0 if that is not known."""
    slots = getattr(scheduler, "slots", None)
    if slots is not None:
        return len(slots.in_flight) - len(slots.spares) - len(slots.lent)
    return scheduler.limit or len(scheduler.workers)


def capped(scheduler: Any) -> str:
    """The name of a task whose runs wait for others to end, as so many run at once as may; empty if none do."""
    caps = getattr(scheduler, "caps", None)
    for line in caps.lines() if caps is not None else ():
        if line.items and line.room() <= 0:
            name: str = line.task.name
            return name
    return ""
