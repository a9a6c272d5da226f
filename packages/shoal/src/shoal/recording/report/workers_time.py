"""What became of the time of workers: runs, messages, and why they were idle. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.recording.record import Record

__all__ = ["WorkersTime", "workers_time"]


@dataclass
class WorkersTime:
    """What became of the time of all workers, from when their runner began to start until it was left.

    Attributes:
        runs: seconds in which they executed runs.
        absent: until they had joined and could begin their first run, and after they had gone.
        messages: in which a run was ready that the worker executed next: scheduling, and the way there and back.
        idle: in which the next run was not ready yet, on the worker or on another one of its runner.
        over: after a worker's last run, when nothing became ready any more.
        busy: how many seconds of runs each worker had, by index.
    """

    runs: float = 0.0
    absent: float = 0.0
    messages: float = 0.0
    idle: float = 0.0
    over: float = 0.0
    busy: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        """All of it."""
        return self.runs + self.absent + self.messages + self.idle + self.over


def workers_time(record: Record, order: list[list[int]], until: float) -> WorkersTime:
    """Adds it up.

    Args:
        record: whose.
        order: indices of attempts that began and ended, by worker, in the order in which they began.
        until: when the last thing in the record happened.
    """
    columns, time = record.columns, WorkersTime()
    begun, ended, ready = columns.begun, columns.ended, columns.ready
    runners = {runner.index: runner for runner in record.runners}
    last_ready: dict[int, float] = defaultdict(
        float
    )  # by runner; on which worker it then ran is chance
    for worker, indices in zip(record.workers, order, strict=False):
        latest = max(
            (ready[index] for index in indices if ready[index] == ready[index]), default=0.0
        )
        last_ready[worker.runner] = max(last_ready[worker.runner], latest)
    for worker in record.workers:
        if (
            worker.runner < 0 and runners
        ):  # a thread that calls tasks, of a runner, or of the flow itself
            time.busy.append(0.0)
            continue
        runner = runners.get(worker.runner)
        entered = runner.entered if runner else worker.joined
        closed = (runner.left if runner else None) or until
        gone = min(worker.left or closed, closed)
        busy = 0.0
        free = joined = entered if isnan(worker.joined) else max(worker.joined, entered)
        indices = order[worker.index]
        if indices:  # a worker may be heard of first by what it reports
            free = joined = min(joined, begun[indices[0]])
        for index in indices:
            start, end = begun[index], ended[index]
            if start > free:
                since = ready[index]
                late = start - (max(free, since)) if since < start else 0.0
                if (
                    index == indices[0]
                ):  # a process that has just been started imports what the run needs
                    time.absent += late
                else:
                    time.messages += late
                time.idle += start - free - late
                free = start
            if end > free:
                busy += end - free
                free = end
        gone = max(gone, free)
        time.busy.append(busy)
        time.runs += busy
        nothing_left = min(max(last_ready[worker.runner], free), gone)
        time.idle += nothing_left - free
        time.over += gone - nothing_left
        time.absent += max(joined - entered, 0.0) + max(closed - gone, 0.0)
    return time
