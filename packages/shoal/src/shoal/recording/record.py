"""The record of what ran, as its readers have it: plain data, from a file or from a recording that still goes on.

Times are seconds since the epoch on the driver's clock, `nan` where they are not known. Workers' clocks are corrected
before they come here. Runs are known by their numbers, tasks, workers and runners by their index in the lists.

May import `rows` and the standard library.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from math import isnan, nan
from typing import TYPE_CHECKING, NamedTuple

from shoal.recording.rows import (
    CapRow,
    ErrorRow,
    EventRow,
    FlowRunRow,
    LogRow,
    MapRow,
    RunnerRow,
    RunRow,
    TaskRow,
    WorkerRow,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = [
    "STATES",
    "CapRow",
    "Columns",
    "Edges",
    "ErrorRow",
    "EventRow",
    "FlowRunRow",
    "LogRow",
    "MapRow",
    "Messages",
    "Record",
    "RunRow",
    "RunnerRow",
    "TaskRow",
    "WorkerRow",
]

#: Names of states, by what `Columns.state` holds. An attempt that is followed by another is `Retrying`, whatever it ended
#: with; what had not ended when the record was made is `Pending` or `Running`. States that users name come behind these.
STATES = [
    "Pending",
    "Running",
    "Completed",
    "Failed",
    "Cancelled",
    "Crashed",
    "NotReady",
    "Retrying",
    "TimedOut",
    "Cached",
]

#: Which of these leave no result behind.
WITHOUT_RESULT = frozenset(("Failed", "Cancelled", "Crashed", "NotReady", "Retrying", "TimedOut"))


@dataclass(slots=True)
class Columns:
    """One entry for each attempt of a task run that began or ended, or was submitted and has not.

    Ordered by when they ended, as far as this was known when they were written.

    Attributes:
        number: of the run.
        task: index.
        flow_run: number of the flow run, 0 outside one.
        submitter: number of the task run that submitted it, itself or in a flow that it called; 0 if none did.
        worker: index, -1 if it reached none.
        attempt: from 1.
        state: index into `Record.states`.
        submitted, ready, sent, begun, ended: see `RunRow`.
        bytes: of its result as it came back, or as it stays on its worker, pickled; 8 for a number, a truth value or `None`;
            -1 where there is none, and where nothing travels: on threads, and in direct calls.
    """

    number: array[int] = field(default_factory=lambda: array("q"))
    task: array[int] = field(default_factory=lambda: array("i"))
    flow_run: array[int] = field(default_factory=lambda: array("q"))
    submitter: array[int] = field(default_factory=lambda: array("q"))
    worker: array[int] = field(default_factory=lambda: array("i"))
    attempt: array[int] = field(default_factory=lambda: array("H"))
    state: array[int] = field(default_factory=lambda: array("B"))
    submitted: array[float] = field(default_factory=lambda: array("d"))
    ready: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    begun: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    bytes: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.number)

    def append(
        self,
        number: int,
        task: int,
        flow_run: int,
        submitter: int,
        worker: int,
        attempt: int,
        state: int,
        submitted: float,
        ready: float,
        sent: float,
        begun: float,
        ended: float,
        size: int = -1,
    ) -> None:
        """Adds an attempt."""
        self.number.append(number)
        self.task.append(task)
        self.flow_run.append(flow_run)
        self.submitter.append(submitter)
        self.worker.append(worker)
        self.attempt.append(attempt)
        self.state.append(state)
        self.submitted.append(submitted)
        self.ready.append(ready)
        self.sent.append(sent)
        self.begun.append(begun)
        self.ended.append(ended)
        self.bytes.append(size)

    def sample(self, most: int) -> Sample:
        """Which entries to show if no more than about `most` can be.

        Every attempt that did not complete is among them, as far as these are less than half of `most`; of the others
        one of every so many, the longest of them, so that nothing long is lost from a picture.

        Args:
            most: how many.
        """
        total = len(self)
        if total <= most:
            return Sample(array("q", range(total)), total)
        completed = STATES.index("Completed")
        others = [i for i, state in enumerate(self.state) if state != completed]
        others = others[:: max(-(-len(others) * 2 // most), 1)]
        step = -(-total // max(most - len(others), 1))
        begun, ended = self.begun, self.ended
        chosen = set(others)
        for start in range(0, total, step):
            longest, best = start, -1.0
            for index in range(start, min(start + step, total)):
                seconds = ended[index] - begun[index]
                if seconds > best:
                    longest, best = index, seconds
            chosen.add(longest)
        return Sample(array("q", sorted(chosen)), total)


class Sample(NamedTuple):
    """Indices of entries to show, in order, and how many there are in all."""

    indices: array[int]
    total: int


@dataclass(slots=True)
class Edges:
    """What single runs waited for: run `run[i]` needed those numbered from `first[i]` to before `stop[i]`.

    A run that was given the whole list of a map has one entry for it. Runs of a map that is one column need nothing.
    """

    run: array[int] = field(default_factory=lambda: array("q"))
    first: array[int] = field(default_factory=lambda: array("q"))
    stop: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.run)

    def append(self, run: int, first: int, stop: int) -> None:
        """Adds an entry."""
        self.run.append(run)
        self.first.append(first)
        self.stop.append(stop)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Each `(run, upstream)`."""
        for run, first, stop in zip(self.run, self.first, self.stop, strict=True):
            for upstream in range(first, stop):
                yield run, upstream


@dataclass(slots=True)
class Messages:
    """Batches that were sent to workers; empty for threads, which take runs without any.

    Attributes:
        worker: index, -1 if none took it.
        runs: how many runs of it were reported.
        sent: when it left the driver.
        begun, ended: from its first run to its last.
        reported: when the driver had heard of its last run.
        bytes_sent, bytes_back: how large the message and the reports were, -1 if not known.
        task: index of the task of its first run.
    """

    worker: array[int] = field(default_factory=lambda: array("i"))
    runs: array[int] = field(default_factory=lambda: array("i"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    begun: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    reported: array[float] = field(default_factory=lambda: array("d"))
    bytes_sent: array[int] = field(default_factory=lambda: array("q"))
    bytes_back: array[int] = field(default_factory=lambda: array("q"))
    task: array[int] = field(default_factory=lambda: array("i"))

    def __len__(self) -> int:
        return len(self.worker)

    def append(
        self,
        worker: int,
        runs: int,
        sent: float,
        begun: float,
        ended: float,
        reported: float,
        bytes_sent: int,
        bytes_back: int,
        task: int,
    ) -> None:
        """Adds a batch."""
        self.worker.append(worker)
        self.runs.append(runs)
        self.sent.append(sent)
        self.begun.append(begun)
        self.ended.append(ended)
        self.reported.append(reported)
        self.bytes_sent.append(bytes_sent)
        self.bytes_back.append(bytes_back)
        self.task.append(task)


@dataclass(slots=True)
class Record:
    """What ran, when, where, and how it ended.

    Attributes:
        version: of the format of the file.
        shoal, python, host, pid: what recorded it: versions, machine, process.
        command: what was run, as it was typed.
        started, ended: from when to when; `ended` is `None` if the recording never ended.
        flow_runs, tasks, runners, workers, maps: see their rows.
        columns: every attempt of every task run.
        states: names of states; `columns.state` holds indices into it.
        names: of runs whose name is not the default one, by number.
        edges: what waited for what.
        errors: by run number, of the runs that did not complete, and of attempts that were retried.
        messages: batches.
        events, logs: in the order in which they happened.
        caps: when capped tasks had no place left.
        events_left_out, logs_left_out, errors_left_out: how many there were beyond those that are kept.
        counts: runs of each task by state, by `(task index, state index)`: every one, also of what is left out elsewhere.
    """

    version: int = 1
    shoal: str = ""
    python: str = ""
    host: str = ""
    pid: int = 0
    command: str = ""
    started: float = nan
    ended: float | None = None
    flow_runs: list[FlowRunRow] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    runners: list[RunnerRow] = field(default_factory=list)
    workers: list[WorkerRow] = field(default_factory=list)
    maps: list[MapRow] = field(default_factory=list)
    columns: Columns = field(default_factory=Columns)
    states: list[str] = field(default_factory=lambda: list(STATES))
    names: dict[int, str] = field(default_factory=dict)
    edges: Edges = field(default_factory=Edges)
    errors: dict[int, list[ErrorRow]] = field(default_factory=dict)
    messages: Messages = field(default_factory=Messages)
    events: list[EventRow] = field(default_factory=list)
    caps: list[CapRow] = field(default_factory=list)
    logs: list[LogRow] = field(default_factory=list)
    events_left_out: int = 0
    logs_left_out: int = 0
    errors_left_out: int = 0

    @property
    def counts(self) -> dict[tuple[int, int], int]:
        """How many runs of each task are in which state, by index of both; a retried attempt is none of its own."""
        from collections import Counter

        found = Counter(zip(self.columns.task, self.columns.state, strict=True))
        retrying = self.states.index("Retrying")
        return {key: count for key, count in found.items() if key[1] != retrying}

    @property
    def until(self) -> float:
        """When the last thing in it happened."""
        if self.ended is not None:
            return self.ended
        ends = [end for end in self.columns.ended if not isnan(end)]
        ends += [run.ended if run.ended is not None else run.began for run in self.flow_runs]
        return max(ends, default=self.started)

    def run_name(self, number: int, task: int) -> str:
        """The name of a run."""
        name = self.names.get(number)
        if name is None:
            from shoal.names import task_run_name

            name = task_run_name(self.tasks[task].name, number)
        return name

    def upstreams(self, number: int) -> list[range]:
        """The numbers of the runs that a run waited for, as ranges."""
        edges = self.edges
        if self._is_sorted():
            start, stop = bisect_left(edges.run, number), bisect_right(edges.run, number)
        else:
            start, stop = 0, len(edges)
        return [
            range(edges.first[i], edges.stop[i])
            for i in range(start, stop)
            if edges.run[i] == number
        ]

    def _is_sorted(self) -> bool:
        runs = self.edges.run
        return all(before <= after for before, after in pairwise(runs))

    def runs(self) -> Iterator[RunRow]:
        """A row for each attempt of a task run, every one."""
        flow_names = {run.number: run.name for run in self.flow_runs}
        nowhere = WorkerRow(-1, -1, "", 0, "", nan, None, "")
        c = self.columns
        for i in range(len(c)):
            number, task, attempt = c.number[i], c.task[i], c.attempt[i]
            worker = self.workers[c.worker[i]] if c.worker[i] >= 0 else nowhere
            error = next((e.text for e in self.errors.get(number, ()) if e.attempt == attempt), "")
            yield RunRow(
                number,
                self.run_name(number, task),
                self.tasks[task].name,
                flow_names.get(c.flow_run[i], ""),
                c.submitter[i],
                attempt,
                self.states[c.state[i]],
                c.submitted[i],
                c.ready[i],
                c.sent[i],
                c.begun[i],
                c.ended[i],
                c.ended[i] - c.begun[i],
                worker.index,
                worker.host,
                worker.pid,
                worker.thread,
                c.bytes[i],
                error,
            )

    def to_pandas(self) -> Any:
        """The rows of `runs()` as a `pandas.DataFrame`; times are `datetime64` in UTC.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        frame = pandas.DataFrame(self.runs(), columns=RunRow._fields)
        for name in ("submitted", "ready", "sent", "begun", "ended"):
            frame[name] = pandas.to_datetime(frame[name], unit="s", utc=True)
        return frame
