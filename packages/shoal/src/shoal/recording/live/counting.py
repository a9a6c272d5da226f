"""What is counted of each task of each flow run. Plain data: told by observers, read by who draws.

Counts that several threads write without a lock are `itertools.count`s, whose step is atomic; all else is written with the
library's lock held, or by the one thread that looks.

May import futures and what lies above them.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.calls import CANCELLED, CRASHED, FAILED, NOT_READY

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.futures.maps import MapRecord

__all__ = ["Failure", "FlowCounts", "Problem", "Seen", "TaskCounts", "reached"]

#: Failures of a flow run that are told of one by one.
MOST_FAILURES = 5

#: Seconds over which a rate is measured.
WINDOW = 10.0


def reached(counter: itertools.count[int]) -> int:
    """How far a counter has come; the interpreter has no other way to ask."""
    return int(repr(counter)[6:-1])


class Failure(NamedTuple):
    """A run that did not complete.

    Attributes:
        name: of the run.
        error: what it ended with, in one line.
        place: file and line of the user's code, empty if it is not known.
    """

    name: str
    error: str
    place: str


class Seen(NamedTuple):
    """A run that is executing as somebody looks.

    Attributes:
        number: of the run.
        task: name of its task.
        name: of the run.
    """

    number: int
    task: str
    name: str


class Problem(NamedTuple):
    """Why a run waits that waits for neither others nor a worker.

    Attributes:
        name: of the run.
        task: name of its task.
        due: when its retry begins, seconds since the epoch; `None` if it waits for limits.
        limits: the tags whose slots it waits for.
    """

    name: str
    task: str
    due: float | None
    limits: str


class TaskCounts:
    """The runs of one task in one flow run.

    Attributes:
        name: of the task.
        singles: single runs that were submitted.
        ended: single runs that have ended.
        mapped: elements of maps.
        failed: runs that failed or crashed.
        cancelled: runs that were cancelled.
        not_ready: runs that never began, because others that they needed did not complete.
        again: attempts that were followed by another.
        running: runs that executed when somebody looked last.
        delayed: runs that waited for their retry then.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.singles = itertools.count()
        self.ended = itertools.count()
        self.mapped = 0
        self.failed = 0
        self.cancelled = 0
        self.not_ready = 0
        self.again = 0
        self.running = 0
        self.delayed = 0
        self._maps: list[tuple[itertools.count[int], int]] = []
        self._mapped_done = 0
        self._lately: deque[tuple[float, int]] = deque()

    def add_map(self, record: MapRecord[Any]) -> None:
        """A map was submitted. Its counter is kept, and neither its values nor its arguments."""
        self.mapped += record.size
        self._maps.append((record.counter, record.size))

    def add_failed(self, phase: int) -> None:
        """A run has ended, and did not complete."""
        if phase in (FAILED, CRASHED):
            self.failed += 1
        elif phase == CANCELLED:
            self.cancelled += 1
        elif phase == NOT_READY:
            self.not_ready += 1

    @property
    def all(self) -> int:
        """Runs that are known of."""
        return reached(self.singles) + self.mapped

    @property
    def done(self) -> int:
        """Runs that have ended, however they did."""
        still = []
        for counter, size in self._maps:
            if reached(counter) > size:  # it counts from 1
                self._mapped_done += size
            else:
                still.append((counter, size))
        if len(still) < len(self._maps):
            self._maps = [entry for entry in self._maps if reached(entry[0]) <= entry[1]]
        return (
            reached(self.ended)
            + self._mapped_done
            + sum(reached(counter) - 1 for counter, _ in still)
        )

    def look(self, now: float) -> None:
        """Takes note of how many are done at a time."""
        lately = self._lately
        lately.append((now, self.done))
        while len(lately) > 2 and lately[1][0] < now - WINDOW:
            lately.popleft()

    def rate(self) -> float:
        """Runs that ended in a second, lately; 0 if that is not known."""
        if len(self._lately) < 2:
            return 0.0
        (first, before), (last, after) = self._lately[0], self._lately[-1]
        return (after - before) / (last - first) if last > first else 0.0


class FlowCounts:
    """A flow run and its tasks.

    Attributes:
        number, name, flow: of the run.
        parent: the flow run around it, if that is shown too.
        began: when, seconds of a clock that only goes forward.
        tasks: its tasks by name, in the order of their first runs.
        failures: the first runs that did not complete, and that were no consequence of others.
        problems: by number, runs that wait for slots of limits or for their retry.
        children: flow runs inside it that have not ended.
        children_ended: by the name of their flow, how many have, and how many of these did not complete.
        busy, places: workers that executed something when somebody looked last, and all of them; 0 if not known.
        capped: a task of whose runs as many run as may at once, empty if there is none.
        starting: whether its runner has not started yet, or no worker of it.
        oldest: what has been executing for longest, and since when.
        look_at: has its runner looked at; replaced once there is one.
        state: how it ended, `None` before.
        ended: when.
    """

    def __init__(
        self, number: int, name: str, flow: str, parent: FlowCounts | None, began: float
    ) -> None:
        self.number = number
        self.name = name
        self.flow = flow
        self.parent = parent
        self.began = began
        self.tasks: dict[str, TaskCounts] = {}
        self.failures: list[Failure] = []
        self.problems: dict[int, Problem] = {}
        self.children: list[FlowCounts] = []
        self.children_ended: dict[str, list[int]] = {}
        self.busy = 0
        self.places = 0
        self.capped = ""
        self.starting = False
        self.oldest: tuple[Seen, float] | None = None
        self.look_at: Callable[[float], object] = self._look_at_nothing
        self.state: Any = None
        self.ended: float | None = None
        self._seen: dict[int, float] = {}

    def task(self, name: str) -> TaskCounts:
        """The counts of a task."""
        counts = self.tasks.get(name)
        return counts if counts is not None else self.tasks.setdefault(name, TaskCounts(name))

    def _look_at_nothing(self, now: float) -> None:
        self.look([], now)

    def look(self, executing: list[Seen], now: float) -> None:
        """Takes note of what executes at a time."""
        tasks = list(self.tasks.values())
        for counts in tasks:
            counts.running = counts.delayed = 0
            counts.look(now)
        for run in executing:
            self.task(run.task).running += 1
        for problem in list(self.problems.values()):
            if problem.due is not None:
                self.task(problem.task).delayed += 1
        self._seen = {run.number: self._seen.get(run.number, now) for run in executing}
        self.oldest = min(
            ((run, self._seen[run.number]) for run in executing),
            key=lambda entry: entry[1],
            default=None,
        )

    def child_ended(self, child: FlowCounts, completed: bool) -> None:
        """A flow run inside it has ended."""
        if child in self.children:
            self.children.remove(child)
        ended = self.children_ended.setdefault(child.flow, [0, 0])
        ended[0] += 1
        ended[1] += not completed
        self.failures += child.failures[: MOST_FAILURES - len(self.failures)]

    def total(self, what: str) -> int:
        """The sum of a count over all tasks."""
        return sum(getattr(counts, what) for counts in list(self.tasks.values()))
