"""Records made by hand, for tests of what is made of a record."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

from shoal.recording.record import (
    STATES,
    ErrorRow,
    EventRow,
    FlowRunRow,
    LogRow,
    MapRow,
    Record,
    RunnerRow,
    TaskRow,
    WorkerRow,
)

#: When made records begin: 2026-01-01 12:00 UTC. Times that are given are seconds after it.
START = 1767268800.0


class Made:
    """A record in the making.

    The first flow run is there from the beginning: `hilarious-collie` of flow `study`, on threads.

    Args:
        workers: how many.
        seconds: how long the flow run takes.
    """

    def __init__(self, workers: int = 2, seconds: float = 10.0) -> None:
        self.record = Record(
            shoal="0.1.0",
            python="3.11.7",
            host="here",
            pid=4711,
            command="shoal run study.py",
            started=START,
            ended=START + seconds,
        )
        self._number = 0
        self.seconds = seconds
        self.flow("study", name="hilarious-collie", ended=seconds)
        self.record.runners.append(
            RunnerRow(0, "ThreadPoolTaskRunner", 1, START, START + 0.01, START + seconds, workers)
        )
        for index in range(workers):
            self.worker(thread=f"shoal-worker-{index}")

    def number(self) -> int:
        """The next run number."""
        self._number += 1
        return self._number

    def flow(
        self,
        flow: str,
        *,
        name: str = "brave-otter",
        parent: int | None = None,
        began: float = 0.0,
        ended: float | None = None,
        state: str = "Completed",
        message: str = "",
        parameters: dict[str, str] | None = None,
    ) -> int:
        """Adds a flow run and gives its number."""
        number = self.number()
        self.record.flow_runs.append(
            FlowRunRow(
                number,
                name,
                flow,
                parent,
                START + began,
                None if ended is None else START + ended,
                state,
                message,
                "ThreadPoolTaskRunner()",
                parameters or {},
                "study.py",
                20,
                1,
            )
        )
        return number

    def task(self, name: str, file: str = "study.py", line: int = 3) -> int:
        """The index of a task; added if there is none of this name."""
        for row in self.record.tasks:
            if row.name == name:
                return row.index
        self.record.tasks.append(TaskRow(len(self.record.tasks), name, file, line))
        return len(self.record.tasks) - 1

    def worker(self, *, joined: float = 0.0, left: float | None = None, **fields: Any) -> int:
        """Adds a worker and gives its index."""
        index = len(self.record.workers)
        row = WorkerRow(
            index, 0, "here", 4711, "", START + joined, None if left is None else START + left, ""
        )
        self.record.workers.append(replace(row, **fields))
        return index

    def run(
        self,
        task: str,
        begun: float,
        ended: float,
        *,
        worker: int = 0,
        state: str = "Completed",
        attempt: int = 1,
        number: int | None = None,
        submitted: float = 0.0,
        ready: float | None = None,
        sent: float | None = None,
        flow_run: int = 1,
        submitter: int = 0,
        size: int = -1,
        after: list[int] | None = None,
        error: str | None = None,
        logs: tuple[str, ...] = (),
    ) -> int:
        """Adds an attempt of a single run and gives the run's number.

        Args:
            task: the task's name.
            begun, ended: seconds after the start; `nan` for a run that never began.
            after: numbers of the runs that it waited for.
            error: what it failed with.
        """
        number = self.number() if number is None else number
        if state not in self.record.states:
            self.record.states.append(state)
        self.record.columns.append(
            number,
            self.task(task),
            flow_run,
            submitter,
            worker,
            attempt,
            self.record.states.index(state),
            START + submitted,
            START + (submitted if ready is None else ready),
            START + (begun if sent is None else sent),
            START + begun,
            START + ended,
            size,
        )
        for upstream in after or ():
            self.record.edges.append(number, upstream, upstream + 1)
        if error is not None:
            trace = (
                "Traceback (most recent call last):\n"
                f'  File "study.py", line 12, in {task}\n    raise ValueError\nValueError: {error}'
            )
            row = ErrorRow(
                attempt, state, "ValueError", error, "study.py", 12, trace, logs, START + ended
            )
            self.record.errors.setdefault(number, []).append(row)
        return number

    def map(
        self,
        task: str,
        durations: list[float],
        *,
        begun: float = 0.0,
        submitted: float = 0.0,
        state: str = "Completed",
        flow_run: int = 1,
        submitter: int = 0,
        workers: list[int] | None = None,
    ) -> int:
        """Adds a map whose runs go to the workers in turn, each to the one that is free first; gives its first number."""
        record = self.record
        first = self._number + 1
        self._number += len(durations)
        size, index = len(durations), self.task(task)
        record.maps.append(MapRow(first, size, index, flow_run, submitter, START + submitted))
        free = dict.fromkeys(workers or [w.index for w in record.workers], begun)
        for offset, seconds in enumerate(durations):
            worker = min(free, key=lambda w: free[w])
            start = free[worker]
            free[worker] = start + seconds
            record.columns.append(
                first + offset,
                index,
                flow_run,
                submitter,
                worker,
                1,
                record.states.index(state),
                START + submitted,
                START + submitted,
                START + start,
                START + start,
                START + start + seconds,
            )
        return first

    def message(
        self,
        task: str,
        runs: int,
        sent: float,
        begun: float,
        ended: float,
        reported: float,
        **more: int,
    ) -> None:
        """Adds a batch; `more`: worker, bytes_sent, bytes_back."""
        self.record.messages.append(
            more.get("worker", 0),
            runs,
            START + sent,
            START + begun,
            START + ended,
            START + reported,
            more.get("bytes_sent", -1),
            more.get("bytes_back", -1),
            self.task(task),
        )

    def event(
        self,
        kind: str,
        at: float,
        text: str,
        *,
        until: float = nan,
        number: int = 0,
        worker: int = -1,
    ) -> None:
        """Adds an event."""
        self.record.events.append(EventRow(START + at, START + until, kind, number, worker, text))

    def log(self, at: float, text: str, number: int = 0, level: int = 20) -> None:
        """Adds a log line."""
        self.record.logs.append(LogRow(START + at, number, level, "shoal.task_runs", text))


def small() -> Record:
    """A flow of everything: a map, a chain of three slow runs, a failure, a retry, idle workers."""
    made = Made(workers=2, seconds=10.0)
    made.map("load", [0.5] * 8)
    first = made.run("fit", 2.0, 4.5, submitted=0.1, worker=0)
    second = made.run("fit", 4.5, 7.0, submitted=0.1, ready=4.5, after=[first])
    made.run("fit", 7.0, 9.9, submitted=0.1, ready=7.0, after=[second])
    made.run("check <&\"'>", 2.0, 2.1, worker=1, state="Failed", error="no <b>such</b> table")
    retried = made.run("fetch", 2.1, 2.4, worker=1, state="Retrying", error="try again")
    made.event("retry", 2.4, "the next attempt begins in 1 s", until=3.4, number=retried)
    made.run("fetch", 3.4, 3.6, worker=1, number=retried, attempt=2)
    made.run("report", nan, 2.1, worker=-1, state="NotReady")
    made.log(2.05, "looking", number=retried)
    return made.record


def large(runs: int, workers: int = 8) -> Record:
    """A map of so many runs of a millisecond each, one in a hundred thousand of which failed."""
    made = Made(workers=workers, seconds=runs * 0.001 / workers + 1)
    made.map("step", [0.001] * runs)
    failed = STATES.index("Failed")
    for index in range(0, runs, 100_000):
        made.record.columns.state[index] = failed
    return made.record
