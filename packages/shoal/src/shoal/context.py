"""What surrounds a run: the flow run and the runner it belongs to, the current call, the tags in force.

Context variables only, so that threads, tasks of an event loop and copied contexts each see their own. What hooks and
`get_run_context` give is here too. May import `run_records`, `names`, `settings` and what things are called.
"""

from __future__ import annotations

import os
import threading
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol

from shoal import settings
from shoal.exceptions import MissingContextError
from shoal.run_records import FlowLabel, FlowRun, RunRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from shoal.calls import Call
    from shoal.engine.interrupt import Frames
    from shoal.futures import TaskFuture, TaskFutureList
    from shoal.specs import FlowSpec, TaskSpec
    from shoal.states import State

__all__ = [
    "CALL",
    "HERE",
    "INHERITED",
    "LOCK",
    "SCOPE",
    "SUBMITTER",
    "TAGS",
    "FlowLabel",
    "FlowRun",
    "FlowRunContext",
    "Scope",
    "TaskRun",
    "TaskRunContext",
    "current_scope",
    "get_run_context",
    "scope_of",
    "tags",
]

#: Guards every scheduler, every future and every thread's interrupts of this process. One lock, because runs wait for
#: runs of other runners (nested flows), and a wait that crosses runners must be seen whole. Held for a microsecond at
#: a time and never while user code runs. Re-entrant, because the garbage collector may run a finalizer inside.
LOCK = threading.RLock()

CALL: ContextVar[Call | None] = ContextVar("shoal_call", default=None)
SCOPE: ContextVar[Scope | None] = ContextVar("shoal_scope", default=None)
TAGS: ContextVar[frozenset[str]] = ContextVar("shoal_tags", default=frozenset())
#: Number and attempt of the run on a worker that submits a run, while its driver takes that.
SUBMITTER: ContextVar[tuple[int, int] | None] = ContextVar("shoal_submitter", default=None)


class _Here(threading.local):
    """What is special about the current thread.

    Attributes:
        block: how this thread waits for futures, `None` for the plain way. A worker runs what it waits for; the loop
            of async tasks refuses. It takes what `block` takes, with a deadline of `time.monotonic` for the timeout.
        frames: the interruptible runs on this thread's stack, `None` where there never was one.
        worker: the pool's worker that this thread is, if any.
        caller: what has a place of a cap for what this thread calls, if it is no worker.
        loop: whether this is the thread of the loop that runs async tasks.
        batch_call: the call that it is at, of a batch on an executor's worker.
    """

    block: Callable[[Any, float | None, bool, bool], bool] | None = None
    frames: Frames | None = None
    worker: Any = None
    caller: Any = None
    loop: bool = False
    batch_call: Call | None = None


HERE = _Here()


#: In a process that was forked from one that had entered runners: the dispatchers of these. Their runs are the parent's,
#: so they take none here, and nothing ends here what waits for one.
INHERITED: set[Any] = set()


def _after_fork() -> None:
    # A fork taken while another thread held the lock would leave it held for ever in the child.
    LOCK._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class TaskRun(RunRecord):
    """A task run as hooks, retry conditions and `get_run_context` see it.

    Attributes:
        id: its UUID.
        name: for example `inc-3f2`.
        task_name: the task's name.
        flow_run_id: the UUID of the flow run around it, `None` outside a flow.
        run_count: which attempt this is, 1 for the first.
        parameters: by name, with upstream results filled in.
        tags: sorted.
        state: the state that the hook is about.
        started: when its first attempt began, in seconds since the epoch; `None` where that is not known: a task keeps
            the time if it has hooks, a retry condition, a time limit or a `task_run_name`, or is async or a generator.
    """

    __slots__ = (
        "_began",
        "_ran",
        "flow_run_id",
        "id",
        "name",
        "parameters",
        "run_count",
        "started",
        "state",
        "tags",
        "task_name",
    )

    def __init__(self, call: Call, state: State[Any]) -> None:
        from shoal.names import run_uuid

        flow_run = call.scope.flow_run if call.scope is not None else None
        self.id = run_uuid(call.number)
        self.name = call.run_name()
        self.task_name = call.task.name
        self.flow_run_id = flow_run.id if flow_run is not None else None
        self.run_count = call.attempt
        self.parameters = call.task.parameters(call.args, call.kwargs)
        self.tags = sorted(call.task.tags | TAGS.get())
        self.state = state
        self._began = call.began()
        first, self._ran = call.earlier() or (self._began, 0.0)
        self.started = first

    def _seconds(self) -> float:
        return self._ran + (self._until() - self._began if self._began is not None else 0.0)

    def __repr__(self) -> str:
        return f"<TaskRun {self.name!r} {self.state}>"


class Submitter(Protocol):
    """A dispatcher, as `Task.submit` and `Task.map` see it: in the driver and on workers alike."""

    capped: bool  # all its runs, by the flow's cap

    def submit(
        self, task: Any, args: tuple[Any, ...], kwargs: Any, wait_for: Any, scope: Scope
    ) -> TaskFuture[Any]:
        """Takes a run; does not wait for it."""

    def submit_map(
        self, task: Any, positional: Any, keywords: Any, size: int, wait_for: Any, scope: Scope
    ) -> TaskFutureList[Any]:
        """Takes the runs of a map, whose arguments are in columns: see `MapRecord`."""


class Scope:
    """Where a submitted run goes: the dispatcher of the entered runner, and the flow run it works for."""

    __slots__ = ("dispatcher", "flow_run")

    #: Takes maps and nested flows, where a flow's body is run to be drawn.
    drawing: Any = None
    #: Takes direct calls of tasks, where a flow's body is drawn or remembered.
    calls: Any = None

    def __init__(self, dispatcher: Submitter, flow_run: FlowRun | None) -> None:
        self.dispatcher = dispatcher
        self.flow_run = flow_run

    @property
    def own_dispatcher(self) -> Any:
        """The runner's dispatcher itself, where another stands before it that has results kept."""
        return getattr(self.dispatcher, "dispatcher", self.dispatcher)

    @property
    def keeper(self) -> Any:
        """Where code inside takes slots of limits: its driver's keeper; `None` for the keeper of this process."""
        return getattr(self.dispatcher, "keeper", None)

    @property
    def limited(self) -> bool:
        """Whether there may be limits of tags, as far as the driver knows."""
        return getattr(self.dispatcher, "limited", False)


def scope_of(dispatcher: Submitter, flow_run: FlowRun | None) -> Scope:
    """The scope of what a flow run submits to a dispatcher."""
    if flow_run is not None and flow_run.keeping is not None:
        dispatcher = flow_run.keeping.taker(dispatcher)
    return Scope(dispatcher, flow_run)


def current_scope(task_name: str) -> Scope:
    """The scope that a `submit` or `map` made here belongs to.

    Args:
        task_name: for the message.

    Raises:
        MissingContextError: there is neither a flow nor a task around the caller.
    """
    scope = SCOPE.get()
    if scope is None:
        raise MissingContextError(task_name=task_name)
    return scope


class FlowRunContext:
    """The flow run around the caller; what `get_run_context` gives in a flow.

    Attributes:
        flow: the flow; on a worker, what is known of it there: its name.
        flow_run: its run.
    """

    __slots__ = ("flow", "flow_run")

    def __init__(self, flow_run: FlowRun) -> None:
        self.flow: FlowSpec = flow_run.flow
        self.flow_run = flow_run

    @classmethod
    def get(cls) -> FlowRunContext | None:
        """The one of the caller, also in a task of the flow; `None` outside."""
        scope = SCOPE.get()
        flow_run = scope.flow_run if scope is not None else None
        return cls(flow_run) if flow_run is not None else None

    @property
    def parameters(self) -> dict[str, Any]:
        """The validated parameters by name."""
        return dict(self.flow_run.parameters)

    @property
    def start_time(self) -> datetime | None:
        """When the run began, in UTC."""
        return self.flow_run.start_time

    @property
    def log_prints(self) -> bool:
        """Whether prints are logged."""
        return self.flow_run.log_prints

    def __repr__(self) -> str:
        return f"<FlowRunContext of {self.flow_run.name!r}>"


class TaskRunContext:
    """The task run around the caller; what `get_run_context` gives in a task.

    Attributes:
        task: the task.
        task_run: its run.
    """

    __slots__ = ("call", "task", "task_run")

    def __init__(self, call: Call) -> None:
        from shoal.states import Retrying, Running

        self.call = call  # for `get_run_logger`
        self.task: TaskSpec = call.task
        now = call.began()
        state = Running(timestamp=now) if call.attempt == 1 else Retrying(timestamp=now)
        self.task_run = TaskRun(call, call.own(state))

    @classmethod
    def get(cls) -> TaskRunContext | None:
        """The one of the caller; `None` outside, also in a flow that a task calls."""
        call = CALL.get()
        return cls(call) if call is not None else None

    @property
    def parameters(self) -> dict[str, Any]:
        """The run's parameters by name, upstream results filled in."""
        return dict(self.task_run.parameters)

    @property
    def start_time(self) -> datetime | None:
        """When the run's first attempt began, in UTC, where that is known."""
        return self.task_run.start_time

    @property
    def log_prints(self) -> bool:
        """Whether prints are logged."""
        wanted = self.task.log_prints
        if wanted is not None:
            return wanted
        around = FlowRunContext.get()
        return around.log_prints if around is not None else settings.log_prints()

    def __repr__(self) -> str:
        return f"<TaskRunContext of {self.task_run.name!r}>"


def get_run_context() -> TaskRunContext | FlowRunContext:
    """What surrounds the caller: its task run, or else its flow run.

    Raises:
        MissingContextError: there is neither.

    Examples:
        >>> @flow
        ... def main(day: int):
        ...     assert get_run_context().parameters == {"day": day}
    """
    context = TaskRunContext.get() or FlowRunContext.get()
    if context is None:
        raise MissingContextError(task_name=None, what="get_run_context()")
    return context


class tags(ContextDecorator):
    """Adds tags to every run that is started inside, nested blocks uniting.

    Entering gives the tags in force inside the block.

    Args:
        names: the tags.

    Raises:
        TypeError: on entering: one is no string.

    Examples:
        >>> with tags("nightly", "etl"):
        ...     load.submit("orders")
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, *names: str) -> None:
        self._names = names
        self._tokens: list[Token[frozenset[str]]] = []

    def __enter__(self) -> frozenset[str]:
        for name in self._names:
            if not isinstance(name, str):
                raise TypeError(f"a tag is a string, not {name!r}")
        united = TAGS.get().union(self._names)
        self._tokens.append(TAGS.set(united))
        return united

    def __exit__(self, *_: object) -> None:
        TAGS.reset(self._tokens.pop())

    def _recreate_cm(self) -> tags:
        return tags(*self._names)  # a decorated function may run in several threads at once


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
