"""The critical path: which runs the end waited for, and what each of them waited for before it began.

It is walked backwards, from the run that ended last. What a run began after is one of:

    passed      an upstream: it was given its result, and that came last
    worker      another run on its worker, which was busy when the run was ready
    retry       its attempt before
    nested      the run that submitted it, which had come that far
    waited      a run that its run had submitted and waited for in its body, after which it went on
    code        the flow's own code, which submitted it after another run had ended
    start       nothing

A shorter run off this path shortens nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shoal.recording.record import Record

__all__ = ["Path", "Step", "critical_path"]


class Step(NamedTuple):
    """A run on the path.

    Attributes:
        entry: of its attempt, an index into the columns.
        task: index.
        number: the run's.
        began: when the path is with it from, in seconds since the record began.
        seconds: how long the path is with it; a run that submitted the next step is left before it ends, and one that
            waited for others is there once more for each time that it went on.
        after: what it began after, as the top of this module has it.
        gap: seconds from the end of what it began after until it began.
    """

    entry: int
    task: int
    number: int
    began: float
    seconds: float
    after: str
    gap: float


@dataclass
class Path:
    """The critical path.

    Attributes:
        steps: in the order in which they ran.
    """

    steps: list[Step] = field(default_factory=list)

    @cached_property
    def runs(self) -> dict[int, int]:
        """How many runs are on it, by task."""
        return Counter(task for _, task in {(step.number, step.task) for step in self.steps})

    @cached_property
    def seconds(self) -> float:
        """How long it is with runs."""
        return sum(step.seconds for step in self.steps)

    @cached_property
    def by_task(self) -> dict[int, float]:
        """Its seconds for each task, the longest first."""
        found: dict[int, float] = defaultdict(float)
        for step in self.steps:
            found[step.task] += step.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @cached_property
    def gaps(self) -> dict[str, float]:
        """Its seconds without a run, by what ended before."""
        found: dict[str, float] = defaultdict(float)
        for step in self.steps:
            found[step.after] += step.gap
        return {kind: seconds for kind, seconds in found.items() if seconds > 0}

    def chains(self, *kinds: str) -> list[list[Step]]:
        """Its pieces, of two runs or more, in which each began after the one before for one of these reasons."""
        found, first = [], 0
        for place, step in enumerate([*self.steps, None]):
            if step is None or step.after not in kinds:
                if place - first > 1:
                    found.append(self.steps[first:place])
                first = place
        return found


def critical_path(record: Record, order: list[list[int]]) -> Path:
    """Finds the path.

    Args:
        record: where to.
        order: indices of attempts that began and ended, by worker, in the order in which they began.
    """
    walk = _Walk(record, order)
    return Path(walk.steps())


class _Walk:
    """One walk; keeps what it needs to find what was before a run."""

    def __init__(self, record: Record, order: list[list[int]]) -> None:
        self._record = record
        self._order = order
        columns = record.columns
        self._begun, self._ended = columns.begun, columns.ended
        known = (i for indices in order for i in indices)
        self._by_end = sorted(known, key=self._ended.__getitem__)
        self._ends = [self._ended[i] for i in self._by_end]
        self._attempts: dict[int, int] = {columns.number[i]: i for i in self._by_end}  # the last
        retrying = record.states.index("Retrying")
        self._retried = {
            (columns.number[i], columns.attempt[i]): i
            for i in self._by_end
            if columns.state[i] == retrying
        }
        self._upstreams: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for run, first, stop in zip(
            record.edges.run, record.edges.first, record.edges.stop, strict=True
        ):
            self._upstreams[run].append((first, stop))
        self._last_of_range: dict[tuple[int, int], int | None] = {}
        self._begins: dict[int, list[float]] = {}
        self._waits = self._waited_for()

    def steps(self) -> list[Step]:
        if not self._by_end:
            return []
        columns, started = self._record.columns, self._record.started
        steps: list[Step] = []
        index: int | None = self._by_end[-1]
        until = self._ended[self._by_end[-1]]
        while index is not None:
            begun = self._begun[index]
            wait = self._take_wait(index, until)
            if wait is not None:
                begun = wait[0]
            after, before, came = self._before(index) if wait is None else ("waited", *wait[1:])
            # Corrected clocks are not exact; a path that did not go back in time would not end.
            if before is not None and not self._begun[before] < begun:
                after, before, came = "start", None, started
            steps.append(
                Step(
                    index,
                    columns.task[index],
                    columns.number[index],
                    begun - started,
                    max(min(until, self._ended[index]) - begun, 0.0),
                    after,
                    max(begun - came, 0.0),
                )
            )
            index, until = before, came
        steps.reverse()
        return steps

    def _before(self, index: int) -> tuple[str, int | None, float]:
        """Why a run did not begin earlier: the kind, the attempt before, and when the path left that."""
        columns = self._record.columns
        number, attempt, begun = columns.number[index], columns.attempt[index], self._begun[index]
        ready = columns.ready[index]
        submitted = columns.submitted[index]
        if isnan(submitted):
            submitted = begun
        previous = self._on_worker(index)
        if previous is not None and ready < self._ended[previous] <= begun:
            return "worker", previous, self._ended[previous]
        retried = self._retried.get((number, attempt - 1))
        if retried is not None:
            return "retry", retried, self._ended[retried]
        upstream = self._last_upstream(number)
        if upstream is not None and not self._ended[upstream] < submitted:
            return "passed", upstream, self._ended[upstream]
        submitter = self._attempts.get(columns.submitter[index])
        if submitter is not None:
            return "nested", submitter, submitted
        place = bisect_right(self._ends, min(submitted, begun))
        if place:
            other = self._by_end[place - 1]
            return "code", other, self._ended[other]
        return "start", None, self._record.started

    def _waited_for(self) -> dict[int, list[tuple[float, int]]]:
        """Of runs that waited in their bodies for what they had submitted: when each wait was over, and the attempt that
        ended last in it; in order.
        """
        waits: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for event in self._record.events:
            if event.kind == "wait" and event.until > event.at:
                waits[event.number].append((event.until, event.at))
        if not waits:
            return {}
        columns = self._record.columns
        inside: dict[int, list[int]] = defaultdict(list)
        for index in self._by_end:
            if columns.submitter[index] in waits:
                inside[columns.submitter[index]].append(index)
        found: dict[int, list[tuple[float, int]]] = {}
        for number, indices in inside.items():
            ends = [self._ended[index] for index in indices]
            found[number] = []
            for over, since in sorted(waits[number]):
                place = bisect_right(ends, over) - 1
                if place >= 0 and ends[place] >= since:
                    found[number].append((over, indices[place]))
        return found

    def _take_wait(self, index: int, until: float) -> tuple[float, int, float] | None:
        """The last wait of an attempt before some time: when it went on, the attempt that it waited for, and when that
        ended. Each is given once, or a path by clocks that disagree might not end.
        """
        waits = self._waits.get(self._record.columns.number[index])
        place = bisect_right(waits, until, key=lambda wait: wait[0]) if waits else 0
        if not waits or not place:
            return None
        wait = waits[place - 1]
        if wait[0] < self._begun[index]:  # of an attempt before
            return None
        del waits[place - 1 :]
        return (*wait, self._ended[wait[1]])

    def _on_worker(self, index: int) -> int | None:
        """What ran before on the same worker."""
        worker = self._record.columns.worker[index]
        if worker < 0:
            return None
        indices = self._order[worker]
        begins = self._begins.get(worker)
        if begins is None:
            begins = self._begins[worker] = [self._begun[i] for i in indices]
        place = bisect_left(begins, self._begun[index])
        return indices[place - 1] if place else None

    def _last_upstream(self, number: int) -> int | None:
        """The attempt of an upstream that ended last."""
        found = [self._last_of(first, stop) for first, stop in self._upstreams.get(number, ())]
        return max(
            (index for index in found if index is not None),
            key=self._ended.__getitem__,
            default=None,
        )

    def _last_of(self, first: int, stop: int) -> int | None:
        key = first, stop
        if key not in self._last_of_range:
            attempts = (self._attempts.get(number) for number in range(first, stop))
            self._last_of_range[key] = max(
                (index for index in attempts if index is not None),
                key=self._ended.__getitem__,
                default=None,
            )
        return self._last_of_range[key]
