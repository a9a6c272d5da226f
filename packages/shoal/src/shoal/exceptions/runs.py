"""A run was asked for its result, and there is none; or a wait for it has no end, or none in time.

May import `base`.
"""

from __future__ import annotations

from typing import Any

from shoal.exceptions.base import ShoalError, names_of

__all__ = [
    "BlockingWaitInLoop",
    "CancelledRun",
    "CrashedRun",
    "FailedRun",
    "FlowRunTimeout",
    "MissingResult",
    "NestingTooDeep",
    "ResultLost",
    "RunError",
    "TaskRunTimeout",
    "UnfinishedRun",
    "UpstreamTaskError",
    "WaitCycle",
    "WaitTimeout",
    "WorkerDied",
]


class RunError(ShoalError):
    """Base of what asking a run for its result raises, unless the task's own exception does.

    Attributes:
        run_name: the run, or `None` where only its state was at hand.
        cause: the exception behind this one, chained as `__cause__`, or `None`.
    """

    run_name: str | None = None
    cause: BaseException | None = None

    def __setstate__(self, state: dict[str, Any] | None, /) -> None:
        super().__setstate__(state)
        if self.cause is not None:  # assigning None would also hide the exception being handled
            self.__cause__ = self.cause

    @property
    def _run(self) -> str:
        return f"Run {self.run_name!r}" if self.run_name else "The run"


class _EndedRun(RunError):
    """What the three bad ends share; `_verb` says which one."""

    message: str | None = None
    _verb = "ended"

    def _text(self) -> str:
        if self.message and not self.run_name:
            return self.message
        return f"{self._run} {self._verb}" + (f": {self.message}" if self.message else ".")


class FailedRun(_EndedRun):
    """The run is FAILED without an exception of its own, say because its task returned a Failed state.

    Attributes:
        message: the state's message, or `None`.
    """

    _verb = "failed"


class CrashedRun(_EndedRun):
    """The run is CRASHED: it was killed, left the interpreter, or was interrupted from outside.

    A SystemExit or KeyboardInterrupt of the task is the `cause` here and not raised itself: a task cannot end the
    program that asks for its result.

    Attributes:
        message: the state's message, or `None`.
    """

    _verb = "crashed"


class CancelledRun(_EndedRun):
    """The run was cancelled before it could end.

    Attributes:
        message: the state's message, or `None`.
    """

    _verb = "was cancelled"


class WorkerDied(CrashedRun):
    """The worker that executed the run went away before it reported the end.

    Attributes:
        host: the worker's machine.
        pid: the worker's process id, or `None` where the execution system does not tell.
        exit_code: its exit status, or `None` if unknown or ended by a signal.
        signal: the number of the signal that ended it, or `None`. A negative `exit_code`, as subprocess and
            multiprocessing report it, becomes the signal.
    """

    host: str
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None

    def _prepare(self) -> None:
        if self.signal is None and self.exit_code is not None and self.exit_code < 0:
            self.signal, self.exit_code = -self.exit_code, None
        worker = f"its worker on {self.host}" + ("" if self.pid is None else f" (pid {self.pid})")
        if self.message is None:
            self.message = f"{worker} {self._end()}. If the task may run twice, set crash_retries."

    def _end(self) -> str:
        if self.signal is None:
            return "died" if self.exit_code is None else f"exited with code {self.exit_code}"
        import signal

        try:
            name = signal.Signals(self.signal).name
        except ValueError:  # a number that this platform has no name for
            name = f"signal {self.signal}"
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


class UnfinishedRun(RunError):
    """The run is not settled, so its result is not known yet.

    Attributes:
        state_name: the name of the state it is in.
    """

    state_name: str

    def _text(self) -> str:
        return f"{self._run} is {self.state_name} and has no result yet: wait for it first."


class UpstreamTaskError(RunError):
    """A run never started, because a run whose value or end it needs did not complete.

    Attributes:
        run_name: the upstream run that went wrong first.
        task_name: that run's task, or `None` where only its state was at hand.
        state: the state it ended in, as text.
        cause: its exception, chained as `__cause__`, or `None`.
    """

    state: str
    task_name: str | None = None

    def _text(self) -> str:
        of = "" if self.task_name is None else f" of task {self.task_name!r}"
        return (
            f"{self._run}{of}, which this run needs, did not complete but is {self.state}. "
            "To start in spite of that, pass it as allow_failure(...)."
        )


class TaskRunTimeout(RunError, TimeoutError):
    """One attempt of a task run took longer than its limit.

    Attributes:
        timeout: the limit in seconds.
    """

    timeout: float

    def _text(self) -> str:
        return f"{self._run} exceeded its timeout of {self.timeout:g} s."


class FlowRunTimeout(RunError, TimeoutError):
    """A flow run took longer than its limit; the task runs it had started are cancelled.

    Attributes:
        timeout: the limit in seconds.
    """

    timeout: float

    def _text(self) -> str:
        return f"{self._run} of a flow exceeded its timeout of {self.timeout:g} s."


class MissingResult(RunError):
    """The run completed, but its value is no longer kept, say because its list of futures was dropped."""

    def _text(self) -> str:
        return f"{self._run} completed, but its value was released: keep its future until you have the result."


class ResultLost(RunError):
    """The run completed, but what held its large value died; nothing is computed again in silence.

    Attributes:
        holder: what held the value, say "worker tcp://10.0.0.7:4711", or `None`.
    """

    holder: str | None = None

    def _text(self) -> str:
        holder = self.holder or "what held its value"
        return f"{self._run} completed, but {holder} is gone and the value with it: submit the task again."


class WaitCycle(RunError):
    """Runs wait for each other in a circle, so that none of them could ever end.

    Attributes:
        run_name: the run whose wait would have closed the circle.
        awaited: what it was about to wait for, which waits for it or is it.
    """

    awaited: str

    def _text(self) -> str:
        return f"{self._run} cannot wait for {self.awaited!r}, which itself waits for it to end."


class NestingTooDeep(RunError, RecursionError):
    """Tasks that call or wait for tasks went deeper than Python's stack allows.

    Attributes:
        depth: how many runs were on the stack, or `None` if unknown.
    """

    depth: int | None = None

    def _text(self) -> str:
        deep = "" if self.depth is None else f", {self.depth} runs deep"
        return f"{self._run} is nested too deep for Python's stack{deep}: submit work side by side instead."


class WaitTimeout(ShoalError, TimeoutError):
    """Nothing failed: a wait took longer than the caller wanted. The runs go on.

    Attributes:
        run_name: the run waited for, `None` for several.
        timeout: the seconds waited, or `None` if not known.
        unfinished: how many runs had not ended.
        total: out of how many.
    """

    run_name: str | None = None
    timeout: float | None = None
    unfinished: int = 1
    total: int = 1

    def _text(self) -> str:
        if self.run_name is None:
            return f"{self.unfinished} (of {self.total}) futures unfinished"
        within = "in time" if self.timeout is None else f"within {self.timeout:g} s"
        return f"Run {self.run_name!r} did not end {within}; it goes on."


class BlockingWaitInLoop(ShoalError, RuntimeError):
    """A blocking wait on the loop that runs async tasks, or for slots of limits on any loop, which could then never end.

    Attributes:
        run_name: the run waited for, `None` for several.
        limits: names of those whose slots were waited for, if it was for slots.
    """

    run_name: str | None = None
    limits: tuple[str, ...] = ()

    def _text(self) -> str:
        if self.limits:
            return (
                f"Waiting for slots of {names_of(self.limits)} here would block the running event loop: write"
                " `async with concurrency(...)`, or `await rate_limit(...)` of `shoal.concurrency.asyncio`."
            )
        waited = "runs" if self.run_name is None else f"run {self.run_name!r}"
        return f"Waiting for {waited} here would block the loop that runs async tasks: use `await future`."
