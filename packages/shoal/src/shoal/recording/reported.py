"""Reports and spans of a record's file: runs that came one after another on one worker, with its clock set right.

May import `clocks`, `record` and the standard library.
"""

from __future__ import annotations

from dataclasses import replace
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from shoal.recording.clocks import offset

if TYPE_CHECKING:
    from array import array

    from shoal.recording.record import Messages, Record

__all__ = ["Report", "add_messages", "correct_clocks", "give_sizes", "one_lane_a_thread"]


class Report:
    """A report, or a span of a thread.

    Attributes:
        first: number of its first run, -1 if they are no range.
        worker: index.
        began: when its first run did; before `begin`, how long all took together.
        each: how long each took, if they are coroutines, which overlap.
        ends: when each ended.
        sent, told: when its batch left the driver, and when this came back.
        size: bytes of each result, -1 if they are not the same or did not travel.
        sizes: of each, if they are not the same.
        batch: runner and number of its batch, `None` for a span.
        numbers, attempts: of runs that are no range.
    """

    __slots__ = (
        "attempts",
        "batch",
        "began",
        "each",
        "ends",
        "first",
        "numbers",
        "sent",
        "size",
        "sizes",
        "told",
        "worker",
    )

    def __init__(self, first: int, worker: int, began: float, ends: array[float]) -> None:
        self.first = first
        self.worker = worker
        self.began = began
        self.each = 0.0
        self.ends = ends
        self.sent = nan
        self.told = nan
        self.size = -1
        self.sizes: array[int] | None = None
        self.batch: tuple[int, int] | None = None
        self.numbers: array[int] | None = None
        self.attempts: array[int] | None = None

    def begin(self) -> None:
        """When the first run began: so long before the last end as all took together, if that is known."""
        seconds, ends = self.each or self.began, self.ends
        self.began = min(ends[-1] - seconds, ends[0]) if seconds > 0 else nan

    def bytes(self) -> int:
        """Of all results."""
        return sum(self.sizes) if self.sizes is not None else max(self.size, 0) * len(self.ends)


def give_sizes(sizes: array[int], reports: list[Report]) -> None:
    """Gives the reports of a transaction the sizes of their results, where these are not the same for all."""
    place = 0
    for report in reports:
        if report.size < 0:
            report.sizes = sizes[place : place + len(report.ends)]
            place += len(report.ends)


def _by_worker(reports: list[Report]) -> dict[int, list[Report]]:
    found: dict[int, list[Report]] = {}
    for report in reports:
        if report.batch is not None:
            found.setdefault(report.worker, []).append(report)
    return found


def correct_clocks(record: Record, reports: list[Report]) -> None:
    """Takes a worker's lead off its times; the last end of a report fills in for what is not known of its beginning."""
    by_worker = _by_worker(reports)
    for worker, own in by_worker.items():
        if worker < 0 or record.workers[worker].host in (record.host, ""):
            continue
        seen: set[Any] = set()
        stamps = []
        for report in own:
            first = report.batch not in seen
            seen.add(report.batch)
            sent = report.sent if first else nan  # of others the first run began long after
            stamps.append((sent, report.began, report.ends[-1], report.told))
        lead = offset(stamps)
        if lead:
            for report in own:
                for place, end in enumerate(report.ends):
                    report.ends[place] = end - lead
                report.began -= lead
    for own in by_worker.values():
        latest: dict[Any, float] = {}
        for report in own:
            if isnan(report.began):
                began = max(latest.get(report.batch, report.sent), report.sent)
                report.began = min(began, report.ends[0])
            latest[report.batch] = report.ends[-1]


def one_lane_a_thread(record: Record, reports: list[Report]) -> None:
    """A worker process that runs several at once becomes several workers, one for each."""
    by_worker = _by_worker(reports)
    by_worker.pop(-1, None)
    for worker, own in by_worker.items():
        lanes: list[tuple[float, int]] = []  # when each is free, and its worker
        own.sort(key=lambda report: report.began)
        for report in own:
            place = next(
                (i for i, (free, _) in enumerate(lanes) if free <= report.began + 1e-4), None
            )
            if place is None:
                place = len(lanes)
                index = worker
                if place:
                    index = len(record.workers)
                    row = replace(record.workers[worker], index=index, thread=str(place + 1))
                    record.workers.append(row)
                lanes.append((0.0, index))
            report.worker = lanes[place][1]
            lanes[place] = report.ends[-1], report.worker


def add_messages(
    messages: Messages,
    reports: list[Report],
    packed: dict[tuple[int, int], int],
    tasks: dict[tuple[int, int], int],
) -> None:
    """Adds the batches that reports are of.

    Args:
        messages: what they are added to.
        reports: of all batches.
        packed: bytes of their messages, by batch.
        tasks: index of the task of their first run, by batch.
    """
    found: dict[tuple[int, int], list[Report]] = {}
    for report in reports:
        if report.batch is not None:
            found.setdefault(report.batch, []).append(report)
    for batch, own in found.items():
        messages.append(
            own[0].worker,
            sum(len(report.ends) for report in own),
            own[0].sent,
            min(report.began for report in own),
            max(report.ends[-1] for report in own),
            max(report.told for report in own),
            packed.get(batch, -1),
            sum(report.bytes() for report in own),
            tasks[batch],
        )
