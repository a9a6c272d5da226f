"""A batch as its worker has it: its runs, and how far they are.

May import what lies above task runners.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from shoal.serialization import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shoal.context import Scope
    from shoal.task_runners.remote.worker_thread import WorkerThread

__all__ = [
    "BEGUN",
    "NOT_BEGUN",
    "WITHDRAWN",
    "Batch",
    "Broadcasts",
    "Lane",
    "Opening",
    "Rows",
    "Tasks",
    "UnknownKeyError",
]

NOT_BEGUN = 0
BEGUN = 1
#: The driver writes this over `NOT_BEGUN`, where it can reach the lane: the run was cancelled, and must not begin.
WITHDRAWN = 7


class Lane(Protocol):
    """Where the outcomes of a batch are written, by position.

    Attributes:
        words: `NOT_BEGUN`, `WITHDRAWN` or `BEGUN`, or what the lane makes of how a run ended.
        ends: when it ended, seconds since the epoch.
    """

    words: Any
    ends: Any

    def put(self, position: int, value: Any) -> bool:
        """Writes down a value that needs no pickling; whether it was such a one."""

    def put_pickled(self, position: int, data: bytes) -> bool:
        """Writes down a pickled value or `Outcome`; whether there was room for it."""


class Batch:
    """A batch on this side.

    Attributes:
        number: as the driver knows it.
        lane: where its outcomes are written.
        indices: claims the next run's place in `rows`; who exhausts it takes the rest back.
        rows: its runs.
        scope: of its runs.
        wait: the wait that it was sent for, 0 for none.
        skipped: run numbers that were cancelled before they began.
        results: by position, what gives a value that later runs of the batch need: each gets its own, as from elsewhere.
        unreported: positions that ended since the last report.
        began: when the run began that is under way.
        observed_until: up to when the durations of its runs have been reported.
        observed: of coroutines, how long the unreported ones took together.
        open: coroutines that have not ended.
        timing: whether a report is due in a while.
        worker_thread: that runs it; `None` for coroutines, and before one has it.
        job: number of the batch as which the cluster's task came that it is run in, if that may go on after it; else 0.
        stands_by: whether its thread stands by for the next.
    """

    def __init__(self, number: int, lane: Lane, rows: Rows, scope: Scope, wait: int) -> None:
        self.number = number
        self.wait = wait
        self.lane = lane
        self.rows = rows
        self.scope = scope
        self.indices: Iterator[int] = iter(range(len(rows)))
        self.skipped: set[int] = set()
        self.results: dict[int, Callable[[], Any]] = {}
        self.unreported: deque[int] = deque()
        self.began = 0.0
        self.observed_until = 0.0
        self.observed = 0.0
        self.open = 0
        self.timing = False
        self.worker_thread: WorkerThread | None = None
        self.job = 0
        self.stands_by = False


class Opening:
    """A batch that is being unpacked.

    Attributes:
        skipped: run numbers that were cancelled meanwhile.
        is_recalled: whether what is not begun of it is wanted back.
    """

    __slots__ = ("is_recalled", "skipped")

    def __init__(self) -> None:
        self.skipped: set[int] = set()
        self.is_recalled = False


class Rows:
    """The runs of a batch, as they came: in columns where they are first attempts of one task, else one by one.

    Attributes:
        task: of the first run; coroutines never travel with others.
        numbers: run numbers, by place.
        single: for the most common map, the one argument of each run.
        arguments: positional arguments of each run, where they are in columns otherwise.
        runs: else for each run `(position, task key, number, attempt, args, kwargs, tags, needs, earlier)`.
        positions: in the batch, by place.
        linked: whether runs need values of others here.
    """

    def __init__(self, tasks: dict[int, Any], content: Any, tags: list[frozenset[str]]) -> None:
        kind = content[0]
        self.tasks = tasks
        self.tags = tags
        self.single: list[Any] | None = None
        self.arguments: list[Any] | None = None
        self.runs: list[Any] = []
        self.numbers: Any
        self.positions: Any
        self.linked = False
        if kind == "runs":
            self.runs = content[1]
            self.task = tasks[self.runs[0][1]]
            self.numbers = [run[2] for run in self.runs]
            self.positions = [run[0] for run in self.runs]
            self.linked = any(run[7] for run in self.runs)
            return
        self.task = tasks[content[1]]
        if kind == "map":
            self.single = content[3]
            self.numbers = range(content[2], content[2] + len(content[3]))
        else:
            self.arguments = content[3]
            self.numbers = content[2]
        self.positions = range(len(self.numbers))

    def __len__(self) -> int:
        return len(self.numbers)

    def run(self, place: int) -> tuple[Any, int, Any, Any, int, list[int]]:
        """Task, attempt, arguments, keyword arguments, tags and needs of a run."""
        if self.single is not None:
            return self.task, 1, (self.single[place],), None, 0, _NO_NEEDS
        if self.arguments is not None:
            return self.task, 1, self.arguments[place], None, 0, _NO_NEEDS
        _, key, _, attempt, args, kwargs, tags, needs, _ = self.runs[place]
        return self.tasks[key], attempt, args, kwargs, tags, needs

    def earlier(self, place: int) -> tuple[float, float] | None:
        """See `Call`: of a run that is no first attempt."""
        earlier: tuple[float, float] | None = self.runs[place][8]
        return earlier


_NO_NEEDS: list[int] = []


class UnknownKeyError(Exception):
    """The driver takes for known here what is not."""


class Broadcasts(dict[int, Any]):
    """What the driver tells a worker once."""

    def __missing__(self, key: int) -> Any:
        raise UnknownKeyError(key)


class Tasks(Broadcasts):
    """Tasks by their keys; one that cannot be unpickled raises its error whenever it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: dict[int, BaseException] = {}

    def is_known(self, key: int) -> bool:
        """Whether a task was told, even if it could not be unpickled."""
        return key in self or key in self._errors

    def unpack(self, key: int, data: bytes) -> None:
        """Adds a task.

        Raises:
            BaseException: whatever unpickling it raises.
        """
        try:
            self[key] = loads(data)
        except BaseException as error:
            self._errors[key] = error
            raise

    def __missing__(self, key: int) -> Any:
        if key in self._errors:
            raise self._errors[key]
        raise UnknownKeyError(key)
