"""What a report says in numbers, counted from a record: every run, whatever a timeline may leave out.

Pure: a record in, figures out. Seconds are seconds, and moments are seconds since the record began.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, pairwise
from math import isnan
from typing import TYPE_CHECKING, TypeVar

from shoal.recording.report.critical import Path, critical_path
from shoal.recording.report.workers_time import WorkersTime, workers_time

if TYPE_CHECKING:
    from shoal.recording.record import Record

__all__ = [
    "BAD",
    "FOLLOWED",
    "WAITS",
    "Figures",
    "Link",
    "Spread",
    "TaskFigures",
    "WorkersTime",
    "figures",
    "idle_waits",
    "starts",
]

T = TypeVar("T")

#: States of runs that did not do what they were to do.
BAD = ("Failed", "TimedOut", "Crashed", "Cancelled", "NotReady", "NotCompleted")

#: Those of them in which runs end because of something else: what they needed failed, or all was ended.
FOLLOWED = ("Cancelled", "NotReady")

#: What runs wait for, in the order in which reports tell it.
WAITS = ("upstreams", "limits", "retries", "workers", "other runs")

#: Histograms have three bars for each factor of ten, from a microsecond to eleven days.
EDGES = [10 ** (exponent / 3) for exponent in range(-18, 19)]

#: Seconds from when a run has its place under a cap until it begins, at most.
MOMENT = 0.005

#: Into how many parts of equal length the curve of runs at once is cut.
BINS = 400


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread over runs.

    Attributes:
        count: of runs for which it is known and more than nothing.
        total, median, high, most: seconds; `high` is what one in twenty exceeds.
        bars: `bars[i]` is how many are from `EDGES[i - 1]` to below `EDGES[i]`.
    """

    count: int = 0
    total: float = 0.0
    median: float = 0.0
    high: float = 0.0
    most: float = 0.0
    bars: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """That of these values."""
        known = sorted(value for value in values if value > 0)
        if not known:
            return cls()
        count = len(known)
        below = [bisect_left(known, edge) for edge in EDGES] + [count]
        bars = (below[0], *(b - a for a, b in pairwise(below)))
        high = known[min(count - 1, int(count * 0.95))]
        return cls(count, sum(known), known[count // 2], high, known[-1], bars)


@dataclass
class TaskFigures:
    """A task's runs.

    Attributes:
        index, name: the task's.
        counts: runs by the name of their state.
        mapped: how many of them were submitted by maps.
        seconds: how long attempts took.
        waits: how long attempts waited, by what for; for other runs in their bodies, on their workers.
        lost: seconds of attempts that were retried.
        size: bytes of results that came back, as far as known.
        largest: bytes of the largest one.
    """

    index: int
    name: str
    counts: dict[str, int] = field(default_factory=dict)
    mapped: int = 0
    seconds: Spread = field(default_factory=Spread)
    waits: dict[str, Spread] = field(default_factory=dict)
    lost: float = 0.0
    size: int = 0
    largest: int = 0

    @property
    def runs(self) -> int:
        """How many there were."""
        return sum(self.counts.values())

    @property
    def bad(self) -> int:
        """How many did not do what they were to do."""
        return sum(self.counts.get(state, 0) for state in BAD)

    @property
    def followed(self) -> int:
        """How many of these only because of something else."""
        return sum(self.counts.get(state, 0) for state in FOLLOWED)


@dataclass(frozen=True)
class Link:
    """Runs of the task `head` were given results of runs of the task `tail`, or submitted by them.

    Attributes:
        tail, head: indices of the tasks.
        count: how many results were passed, or runs submitted.
        nested: submitted.
    """

    tail: int
    head: int
    count: int
    nested: bool = False


@dataclass
class Figures:
    """All that a report says in numbers.

    Attributes:
        record: what they were counted from.
        elapsed: how long it took.
        tasks: by how much time their runs took, the longest first; of tasks that had runs.
        links: between tasks.
        workers: what became of their time.
        curve: runs at once, in each of `BINS` parts of the elapsed time.
        path: the critical path.
        order: indices of attempts that began, by worker (the last is for none), in the order in which they began.
        names: of workers, and the last for none.
    """

    record: Record
    elapsed: float
    tasks: list[TaskFigures]
    links: list[Link]
    workers: WorkersTime
    curve: list[float]
    path: Path
    order: list[list[int]]
    names: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Runs of all tasks by state."""
        found: Counter[str] = Counter()
        for task in self.tasks:
            found.update(task.counts)
        return dict(found)

    def at_once(self, moment: float) -> float:
        """How many runs went on at once around a moment."""
        return self.curve[min(int(moment / self.elapsed * BINS), BINS - 1)]

    def task(self, index: int) -> TaskFigures:
        """The figures of a task."""
        return next(task for task in self.tasks if task.index == index)


def figures(record: Record) -> Figures:
    """Counts what a report says. What was before the first flow run, such as imports, is no part of it."""
    if record.flow_runs:
        began = [run.began for run in record.flow_runs]
        began += [runner.entered for runner in record.runners]
        began += [at for at in record.columns.submitted if at == at]
        # No earlier than it was recorded: clocks of other machines may say so.
        record = replace(record, started=max(min(began), record.started))
    until = record.until
    elapsed = max(until - record.started, 0.0)
    order = _order(record)
    return Figures(
        record=record,
        elapsed=elapsed,
        tasks=_tasks(record),
        links=_links(record),
        workers=workers_time(record, order, until),
        curve=_curve(record, elapsed),
        path=critical_path(record, order),
        order=order,
        names=_worker_names(record),
    )


def starts(record: Record) -> list[float]:
    """Seconds that each runner took to start: from the beginning of the flow run that entered it, as its package is loaded
    then, if it is the first that this one entered.
    """
    began = {run.number: run.began for run in record.flow_runs}
    found = []
    for runner in record.runners:
        first = runner.entered
        if runner.flow_run is not None:
            first = min(began.pop(runner.flow_run, first), first)
        found.append(runner.started - first)
    return found


def _worker_names(record: Record) -> list[str]:
    """What workers are called: their thread and process, and their machine where that is another one."""
    several = len({(worker.host, worker.pid) for worker in record.workers}) > 1
    names = []
    for worker in record.workers:
        thread = f"thread {worker.thread}" if worker.thread.isdigit() else worker.thread
        parts = [f"pid {worker.pid}"] if several or not thread else []
        if thread:
            parts.append(thread)
        if worker.host != record.host:
            parts.append(worker.host)
        names.append(", ".join(parts))
    return [*names, "on no worker"]


def _order(record: Record) -> list[list[int]]:
    """Attempts that began and ended, by worker, in the order in which they began."""
    columns = record.columns
    begun, ended = columns.begun, columns.ended
    order: list[list[int]] = [[] for _ in range(len(record.workers) + 1)]
    worker = columns.worker
    for index in sorted(range(len(columns)), key=begun.__getitem__):
        # A time that is not known equals nothing, not even itself.
        if begun[index] == begun[index] and ended[index] == ended[index]:
            order[worker[index]].append(index)
    # What is not a number has no place in an order, and puts what is beside it in a wrong one.
    if any(isnan(moment) for moment in begun):
        for indices in order:
            indices.sort(key=begun.__getitem__)
    return order


def _tasks(record: Record) -> list[TaskFigures]:
    columns = record.columns
    found = {row.index: TaskFigures(row.index, row.name) for row in record.tasks}
    for (index, state), count in record.counts.items():
        found[index].counts[record.states[state]] = count
    for made in record.maps:
        found[made.task].mapped += made.size
    limits, retries = _event_waits(record, "limit"), _event_waits(record, "retry")
    inside, slots = _event_waits(record, "wait"), _event_waits(record, "slots")
    # Of a task whose first attempt is being retried there is no run yet that has a state.
    present = [found[index] for index in set(record.columns.task)]
    for task in present:
        chosen = _chosen(record, task.index)
        begun, ended = _of(columns.begun, chosen), _of(columns.ended, chosen)
        ready, submitted = _of(columns.ready, chosen), _of(columns.submitted, chosen)
        attempts, sizes = _of(columns.attempt, chosen), _of(columns.bytes, chosen)
        lasted = [b - a for a, b in zip(begun, ended, strict=True)]
        task.seconds = Spread.of(lasted)
        known = [size for size in sizes if size > 0]
        task.size, task.largest = sum(known), max(known, default=0)
        retrying = record.states.index("Retrying")
        task.lost = sum(
            seconds
            for seconds, state in zip(lasted, _of(columns.state, chosen), strict=True)
            if state == retrying and seconds > 0
        )
        # Of later attempts, what was waited for is a retry's delay, which events tell.
        numbers = _of(columns.number, chosen)
        upstreams = [
            b - a - limits.get(number, 0.0)
            for a, b, attempt, number in zip(submitted, ready, attempts, numbers, strict=True)
            if attempt == 1
        ]
        workers = [b - a for a, b in zip(ready, begun, strict=True)]
        capped = _under_caps(record, task.index, ready, _of(columns.sent, chosen))
        if capped:
            workers = [wait - cap for wait, cap in zip(workers, capped, strict=True)]
        own = set(numbers) if limits or retries or inside or slots else set()
        task.waits = {
            "upstreams": Spread.of(upstreams),
            "limits": Spread.of([*_of_runs(limits, own), *_of_runs(slots, own), *capped]),
            "retries": Spread.of(_of_runs(retries, own)),
            "workers": Spread.of(workers),
            "other runs": Spread.of(_of_runs(inside, own)),
        }
    return sorted(present, key=lambda task: (-task.seconds.total, task.name))


def _chosen(record: Record, task: int) -> list[bool] | None:
    """Which entries are a task's; `None` if all are."""
    chosen = [one == task for one in record.columns.task]
    return None if all(chosen) else chosen


def _of(column: Sequence[T], chosen: list[bool] | None) -> Sequence[T]:
    return column if chosen is None else list(compress(column, chosen))


def _event_waits(record: Record, kind: str) -> dict[int, float]:
    """How long events of a kind lasted, by run."""
    found: dict[int, float] = defaultdict(float)
    for event in record.events:
        if event.kind == kind and event.number and event.until > event.at:
            found[event.number] += event.until - event.at
    return found


def idle_waits(record: Record, order: list[list[int]]) -> dict[int, float]:
    """How long workers had nothing to do while a run of theirs waited in its body for other runs, by run: mostly they
    execute what it waits for.
    """
    waits = [event for event in record.events if event.kind == "wait" and event.until > event.at]
    if not waits:
        return {}
    columns = record.columns
    wanted = {event.number for event in waits}
    worker_of = {
        columns.number[i]: worker
        for worker, indices in enumerate(order[:-1])
        for i in indices
        if columns.number[i] in wanted
    }
    begins = {
        worker: [columns.begun[i] for i in order[worker]] for worker in set(worker_of.values())
    }
    found: dict[int, float] = defaultdict(float)
    for event in waits:
        worker = worker_of.get(event.number)
        meanwhile = 0.0
        if worker is not None:
            first = bisect_left(begins[worker], event.at)
            last = bisect_left(begins[worker], event.until)
            meanwhile = sum(columns.ended[i] - columns.begun[i] for i in order[worker][first:last])
        found[event.number] += max(event.until - event.at - meanwhile, 0.0)
    return dict(found)


def _of_runs(waits: dict[int, float], numbers: set[int]) -> list[float]:
    return [seconds for number, seconds in waits.items() if number in numbers]


def _under_caps(
    record: Record, task: int, ready: Sequence[float], sent: Sequence[float]
) -> list[float]:
    """How long runs of a task found no place under its caps, from when they were ready; nothing if it has none."""
    spans = sorted((row.at, row.until) for row in record.caps if row.task == task)
    if not spans:
        return []
    starts, before = [at for at, _ in spans], [0.0]
    for at, until in spans:
        before.append(before[-1] + until - at)

    def full_until(moment: float) -> float:
        place = bisect_right(starts, moment)
        if not place:
            return 0.0
        at, until = spans[place - 1]
        return before[place - 1] + min(moment, until) - at

    waits = [
        full_until(b) - full_until(a) if b > a else 0.0 for a, b in zip(ready, sent, strict=True)
    ]
    # A run has its place a moment before it begins, and may have been the one that took the last.
    return [wait if wait > MOMENT else 0.0 for wait in waits]


def _links(record: Record) -> list[Link]:
    """What was passed between tasks, and which submitted others. A list of a map's futures is as many results as it has."""
    columns, edges = record.columns, record.edges
    nested = any(columns.submitter)
    if not len(edges) and not nested:
        return []
    task_of = dict(zip(columns.number, columns.task, strict=True))
    found: Counter[tuple[int, int]] = Counter()
    for run, first, stop in zip(edges.run, edges.first, edges.stop, strict=True):
        # Runs of a range are those of one map, so its first one tells for all.
        tail, head = task_of.get(first), task_of.get(run)
        if tail is not None and head is not None:
            found[tail, head] += stop - first
    links = [Link(tail, head, count) for (tail, head), count in sorted(found.items())]
    if nested:
        submitted = Counter(
            (task_of[submitter], task)
            for submitter, task, attempt in zip(
                columns.submitter, columns.task, columns.attempt, strict=True
            )
            if attempt == 1 and submitter in task_of
        )
        links += [Link(*pair, count, nested=True) for pair, count in sorted(submitted.items())]
    return links


def _curve(record: Record, elapsed: float) -> list[float]:
    """Runs at once: for each part of the time, how much of it they took together."""
    if elapsed <= 0:
        return [0.0] * BINS
    columns, width, started = record.columns, elapsed / BINS, record.started
    partly, steps = [0.0] * (BINS + 1), [0] * (BINS + 2)
    for begun, ended in zip(columns.begun, columns.ended, strict=True):
        if not ended > begun:
            continue
        first, last = (begun - started) / width, (ended - started) / width
        low, high = max(int(first), 0), min(int(last), BINS)
        if low >= high:
            partly[min(low, BINS)] += last - first
        else:
            partly[low] += low + 1 - first
            partly[high] += last - high
            steps[low + 1] += 1
            steps[high] -= 1
    curve, through = [], 0
    for part, step in zip(partly, steps, strict=False):
        through += step
        curve.append(through + part)
    return curve[:BINS]
