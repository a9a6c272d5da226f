"""The rows of a record; see there.

May import the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "CapRow",
    "ErrorRow",
    "EventRow",
    "FlowRunRow",
    "LogRow",
    "MapRow",
    "RunRow",
    "RunnerRow",
    "TaskRow",
    "WorkerRow",
]


class FlowRunRow(NamedTuple):
    """A run of a flow.

    Attributes:
        number: its run number.
        name: for example `hilarious-collie`.
        flow: the flow's name.
        parent: number of the flow run around it, `None` if there is none.
        began, ended: when; `ended` is `None` while it runs, or if its process was killed.
        state: the name of the state that it ended in, `Running` before.
        message: of that state.
        runner: the runner, as it shows itself.
        parameters: their repr by name, shortened.
        file, line: where the flow's function is.
        attempts: how many have begun.
    """

    number: int
    name: str
    flow: str
    parent: int | None
    began: float
    ended: float | None
    state: str
    message: str
    runner: str
    parameters: dict[str, str]
    file: str
    line: int
    attempts: int


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task. Those of one name, file and line are the same."""

    index: int
    name: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class RunnerRow:
    """A runner that was entered.

    Attributes:
        index: in `Record.runners`.
        name: its class.
        flow_run: number of the flow run that entered it, `None` outside a flow.
        entered: when it began to start.
        started: when it had started; workers may come later.
        left: when it had been left, `None` before.
        slots: the most runs at once, 0 if that is not bounded or not known.
    """

    index: int
    name: str
    flow_run: int | None
    entered: float
    started: float
    left: float | None
    slots: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A thread of a process that runs tasks: each executes one sync run at a time.

    Attributes:
        index: in `Record.workers`.
        runner: index of its runner, -1 for direct calls.
        host: its machine.
        pid: its process.
        thread: the thread's name; empty in a process that has one for runs.
        joined: when it was first heard of.
        left: when it went, `None` if it has not.
        ending: how it went: empty for as it should; else what is known, such as a signal.
    """

    index: int
    runner: int
    host: str
    pid: int
    thread: str
    joined: float
    left: float | None
    ending: str


class MapRow(NamedTuple):
    """A `task.map`, whose runs are numbered `first` to `first + size - 1`.

    Attributes:
        first: the number of its first run.
        size: how many.
        task: index of the task.
        flow_run: number of the flow run, 0 outside one.
        submitter: number of the task run that submitted it, itself or in a flow that it called; 0 if none did.
        submitted: when.
    """

    first: int
    size: int
    task: int
    flow_run: int
    submitter: int
    submitted: float


class CapRow(NamedTuple):
    """A time in which a task's caps (`max_concurrency`, its own or the flow's) left no place for another run.

    Attributes:
        task: index.
        at, until: from when to when.
    """

    task: int
    at: float
    until: float


class ErrorRow(NamedTuple):
    """How a run failed, was lost, or why it could not start.

    Attributes:
        attempt: which attempt.
        state: the name of the state.
        kind: the exception's class.
        text: what it says.
        file, line: where in the user's code it was raised; empty and 0 if not known.
        traceback: as Python prints it, shortened in the middle if it is very long.
        logs: the last log lines of the run.
        at: when.
    """

    attempt: int
    state: str
    kind: str
    text: str
    file: str
    line: int
    traceback: str
    logs: tuple[str, ...]
    at: float


class EventRow(NamedTuple):
    """Something that happened to a run, a worker or a flow.

    Attributes:
        at: when.
        until: when it was over: a retry's delay, a wait for slots of a limit, a wait inside a run; `nan` if it has no end.
        kind: `death`, `retry`, `recall`, `limit` (a run waited for slots before it began), `wait` and `slots` (in its body it
            waited for other runs, or for slots of a limit), `join`.
        number: of the run; 0 if it is about none.
        worker: index of the worker, -1 if it is about none.
        text: in words.
    """

    at: float
    until: float
    kind: str
    number: int
    worker: int
    text: str


class LogRow(NamedTuple):
    """A log line; `number` is the run's or flow run's, 0 if it is of neither; `level` as in `logging`."""

    at: float
    number: int
    level: int
    logger: str
    text: str


class RunRow(NamedTuple):
    """An attempt of a task run, in words; times are `nan` where they are not known.

    `ready` is when nothing was waited for any more but a worker, `sent` when it left for one; on threads that is when it
    began.
    """

    number: int
    name: str
    task: str
    flow_run: str
    submitter: int
    attempt: int
    state: str
    submitted: float
    ready: float
    sent: float
    begun: float
    ended: float
    seconds: float
    worker: int
    host: str
    pid: int
    thread: str
    bytes: int
    error: str
