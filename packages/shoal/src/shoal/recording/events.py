"""What is told of runs, until it is written: kinds of events, and what some of them hold.

May import scheduling and what lies above it.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from shoal.scheduling.in_flight import Departure, WorkerState
    from shoal.specs import TaskSpec

__all__ = ["Ended", "Label", "Worker", "ending_of"]

# Kinds of events; what follows is in the methods that append them.
SUBMITTED, MAPPED, READY, QUEUED, RAN, WENT, ENDED, REPORTED, LOST, CLOSED = range(10)
FLOW, FLOW_ENDED, RUNNER, LOG = range(10, 14)
WAITS, CAPPED, SIZED, SUBMITTER, PACKED = range(14, 19)


#: What a run waits for in its body that waits for no runs.
SLOTS = "slots of a limit"

#: Bytes of a result that is written down as it is: a number, a truth value, nothing.
PLAIN = 8


class Label(NamedTuple):
    """What a record has of a task.

    Attributes:
        name, file, line: as in `TaskRow`.
        is_async: whether it is a coroutine.
    """

    name: str
    file: str
    line: int
    is_async: bool

    @classmethod
    def of(cls, task: TaskSpec | Label) -> Label:
        """That of a task."""
        if type(task) is cls:
            return task
        code = getattr(task.fn, "__code__", None)  # type: ignore[union-attr]  # it is a task
        file, line = (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)
        return cls(task.name, file, line, task.is_async)


class Ended(NamedTuple):
    """An attempt that is told of by itself.

    Attributes:
        number: of the run.
        attempt: from 1.
        worker: index, -1 if it is not known here.
        phase: how it ended, `AWAITING_RETRY` if another attempt follows.
        state: the name of a state that says more, `None` for that of the phase.
        began, ended: when; `nan` if a report tells.
        error: what it ended with; from another process, in words.
        trace: the traceback of that.
        name: the run's name where it is not the default one.
        delay: seconds until the next attempt.
    """

    number: int
    attempt: int
    worker: int
    phase: int
    state: str | None
    began: float
    ended: float
    error: Any
    trace: Any
    name: str | None
    delay: float


def ending_of(worker: WorkerState, departure: Departure) -> str:
    """How a worker went, in words; empty if that was in order."""
    if worker.stopped_for is not None:
        return f"killed to stop {worker.stopped_for}"
    if departure.signal is not None:
        return f"signal {departure.signal}"
    return f"exit code {departure.exit_code}" if departure.exit_code else departure.message or ""


class Worker:
    """A worker as it is known now; what it is made from may know more later.

    Args:
        index: in the record.
        runner: index of the runner, -1 for direct calls.
        thread: its name.
        state: of the ledger, where there is one.

    Attributes:
        elsewhere: what `row` gives, if it is inside a run on a worker, which tells that.
    """

    def __init__(
        self, index: int, runner: int, thread: str, state: WorkerState | None = None
    ) -> None:
        self.index = index
        self.runner = runner
        self.thread = thread
        self.state = state
        self.joined = time.time()
        self.left: float | None = None
        self.ending = ""
        self.elsewhere: tuple[Any, ...] | None = None

    def row(self) -> tuple[Any, ...]:
        """What is known: index, runner, host, pid, thread, joined, left, ending."""
        if self.elsewhere is not None:
            return self.elsewhere
        state = self.state
        host = _HOST if state is None else state.host or ""
        pid = os.getpid() if state is None else state.pid or 0
        return (
            self.index,
            self.runner,
            host,
            pid,
            self.thread,
            self.joined,
            self.left,
            self.ending,
        )


_HOST = socket.gethostname()
