"""What surrounds a run: the flow run and the runner it belongs to, the current call, the tags in force.

Context variables only, so that threads, tasks of an event loop and copied contexts each see their own. May import
`names` and what things are called.
"""

from __future__ import annotations

import os
import threading
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Protocol

from shoal.exceptions import MissingContextError

if TYPE_CHECKING:
    from shoal.calls import Call
    from shoal.engine.interrupt import Frames
    from shoal.specs import FlowSpec

__all__ = [
    "CALL",
    "HERE",
    "INHERITED",
    "LOCK",
    "SCOPE",
    "TAGS",
    "FlowRun",
    "Scope",
    "current_scope",
    "tags",
]

#: Guards every scheduler, every future and every thread's interrupts of this process. One lock, because runs wait for
#: runs of other runners (nested flows), and a wait that crosses runners must be seen whole. Held for a microsecond at
#: a time and never while user code runs. Re-entrant, because the garbage collector may run a finalizer inside.
LOCK = threading.RLock()

CALL: ContextVar[Call | None] = ContextVar("shoal_call", default=None)
SCOPE: ContextVar[Scope | None] = ContextVar("shoal_scope", default=None)
TAGS: ContextVar[frozenset[str]] = ContextVar("shoal_tags", default=frozenset())


class Blocker(Protocol):
    """How a special thread waits (a worker runs what it waits for; a loop refuses).

    Takes what `block` takes, with a deadline of `time.monotonic` for the timeout.
    """

    def __call__(
        self, wanted: Any, deadline: float | None, fail_fast: bool, first: bool
    ) -> bool: ...


class _Here(threading.local):
    """What is special about the current thread.

    Attributes:
        block: how this thread waits for futures, `None` for the plain way. A worker runs what it waits for; the loop
            of async tasks refuses.
        frames: the interruptible runs on this thread's stack, `None` where there never was one.
        worker: the pool's worker that this thread is, if any.
        loop: whether this is the thread of the loop that runs async tasks.
        batch_call: the call that it is at, of a batch on an executor's worker.
    """

    block: Blocker | None = None
    frames: Frames | None = None
    worker: Any = None
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


class FlowRun:
    """A run of a flow, as hooks, logs and `shoal.runtime.flow_run` see it.

    Attributes:
        flow: the flow.
        number: the run's integer id.
        name: for example `hilarious-collie`.
        parameters: the validated parameters by name.
        tags: the tags in force when it began.
        run_count: attempts so far, 1 in the first.
        parent: the flow run around it, if any.
        log_prints: whether prints beneath it are logged, where nothing else is said: as the flow says, or the one above.
        state: the latest state.
    """

    __slots__ = (
        "flow",
        "log_prints",
        "name",
        "number",
        "parameters",
        "parent",
        "run_count",
        "start_time",
        "state",
        "tags",
    )

    def __init__(
        self,
        flow: FlowSpec,
        number: int,
        name: str,
        parameters: dict[str, Any],
        tags: frozenset[str],
        parent: FlowRun | None,
    ) -> None:
        self.flow = flow
        self.number = number
        self.name = name
        self.parameters = parameters
        self.tags = tags
        self.parent = parent
        above = parent is not None and parent.log_prints
        self.log_prints: bool = above if flow.log_prints is None else flow.log_prints
        self.run_count = 0
        self.state: Any = None
        self.start_time: float | None = None

    @property
    def id(self) -> str:
        """The run's UUID, made from its number."""
        from shoal.names import run_uuid

        return run_uuid(self.number)

    @property
    def flow_name(self) -> str:
        """The name of the flow."""
        return self.flow.name

    @property
    def root(self) -> FlowRun:
        """The outermost flow run around this one, itself if there is none."""
        run = self
        while run.parent is not None:
            run = run.parent
        return run


class Scope:
    """Where a submitted run goes: the dispatcher of the entered runner, and the flow run it works for."""

    __slots__ = ("dispatcher", "flow_run")

    def __init__(self, dispatcher: Any, flow_run: FlowRun | None) -> None:
        self.dispatcher = dispatcher
        self.flow_run = flow_run


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
