"""Runs come in: what a submit or a map makes of a task and its arguments, before the scheduler decides anything.

May import futures, `scheduler` and what lies above them.
"""

from __future__ import annotations

import time
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from shoal.calls import Call
from shoal.context import CALL, HERE, INHERITED, LOCK, SCOPE, TAGS, Scope
from shoal.engine import inputs
from shoal.engine.inputs import ATOMS, value_of
from shoal.exceptions import RunnerStateError
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.blocking import refuse_inherited
from shoal.futures.maps import MapRecord
from shoal.futures.side_threads import outermost
from shoal.logs import library_logger
from shoal.names import next_number, reserve
from shoal.scheduling.answers import Answers
from shoal.scheduling.caps import caps_of
from shoal.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.futures.awaiting import CalledPlace
    from shoal.scheduling.answers import CallingHere
    from shoal.scheduling.backend import Backend
    from shoal.specs import TaskSpec

__all__ = ["BackendT", "Gate", "Intake", "SchedulerT", "without_annotations"]

#: What a dispatcher has of each depends on the kind of its backend.
SchedulerT = TypeVar("SchedulerT", bound=Scheduler, covariant=True)
BackendT = TypeVar("BackendT", bound="Backend", covariant=True)


class Gate(Protocol):
    """Who gives slots of concurrency limits."""

    def request(
        self,
        tags: frozenset[str],
        run_id: str,
        run_name: str,
        on_outcome: Callable[[Any], object],
        run: TaskFuture[Any],
        /,
    ) -> None:
        """Asks for a slot of each tag; `on_outcome` is called with `None` once they are held, or with a refusal."""

    def release(self, run_id: str, /) -> None:
        """Gives slots back, or takes the request for them back."""


class Intake(Answers, Generic[SchedulerT, BackendT]):
    """The half of a dispatcher that takes runs.

    Args:
        scheduler: decides about them.
        backend: the execution system.
        runner_name: for messages.

    Attributes:
        closed: whether it takes no more runs.
        gate: gives slots of limits to runs with tags; `None` where there are no limits.
        keeper: where code in its runs takes slots of limits; `None` for the keeper of this process.
    """

    #: Whether the thread that submits a run executes it.
    in_place = False

    def __init__(self, scheduler: SchedulerT, backend: BackendT, runner_name: str) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.backend = backend
        self.capabilities = backend.capabilities
        self.runner_name = runner_name
        self.closed = False
        self.gate: Gate | None = None
        self.keeper: Any = None
        self._problem = "it has been left, so it takes no more runs"
        self._effects = scheduler.effects
        self._captures = backend.captures
        self._shares_context = backend.capabilities.shares_context
        self._contexts: dict[frozenset[str], Context] = {}

    def drain(self) -> None:
        """Carries out what the scheduler asked for, in order."""
        raise NotImplementedError

    def close_for(self, problem: str) -> None:
        """Takes no more runs, and says why to whoever submits one."""
        self._problem = problem
        self.closed = True

    def cap_all(self, most: int) -> None:
        """Of all its runs no more than so many are to execute at once; before the first comes."""
        self.capped = True
        self.scheduler.caps = self.scheduler.new_caps(most)

    def calling(self, task: TaskSpec, *, streams: bool = False) -> CallingHere:
        """See `Answers`."""
        from shoal.scheduling.calling import Calling, Streaming

        with LOCK:
            line = caps_of(self.scheduler).line_of(task)
            assert line is not None  # only then is this asked
            call = CALL.get() if HERE.loop else None
            if call is not None:  # that run cannot lend its place, as its thread has others to run
                line = caps_of(self.scheduler).beside(line, call.task)
        kind = Streaming if streams else Calling
        return kind(self, line, task.name)

    def place_of_call(self, task: TaskSpec) -> CalledPlace:
        """See `Answers`."""
        from shoal.scheduling.calling import CallPlace

        with LOCK:
            line = caps_of(self.scheduler).line_of(task)
        assert line is not None  # only then is this asked
        return CallPlace(self, line)

    def submitter_of(self, item: TaskFuture[Any] | MapRecord[Any]) -> int | None:
        """See `Answers`: the context in which it was submitted tells."""
        made: Call | None = None
        if isinstance(item, TaskFuture):
            made, detail = item._call, item._detail
            origin = detail.origin if detail is not None else None
            context = origin[0].context if origin is not None else getattr(made, "context", None)
        else:
            context = item.context
        call = context.get(CALL) if context is not None else None
        if call is None or outermost(call) is made:  # the run has begun, in that very context
            return None
        return outermost(call).number

    def submit(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
        number: int | None = None,
    ) -> TaskFuture[Any]:
        """Takes a run whose arguments fit the task's signature. Hot.

        Args:
            task: the task.
            args: positional arguments.
            kwargs: keyword arguments, `None` where there are none.
            wait_for: futures whose runs must have ended first.
            scope: the runner and flow run that it belongs to.
            number: the run's number if a worker that submits it has given it one.
        """
        if self.closed:
            raise RunnerStateError(runner=self.runner_name, problem=self._problem)
        if task.resources and not task.told_resources:
            self._tell_resources(task)
        if number is None:
            number = next_number()
        context = copy_context() if self._shares_context else self._context_with(TAGS.get(), scope)
        call = Call(task, args, kwargs, number, context, scope)
        future: TaskFuture[Any] = TaskFuture(self, task, call.number, call, time.time())
        if self._captures:
            call.options = self.backend.capture(task)
        found: list[inputs.Input] | None = None
        if kwargs is not None or wait_for is not None:
            found = self._inputs(call, wait_for)
        else:
            for value in args:
                if type(value) not in ATOMS:
                    found = self._inputs(call, None)
                    break
        if self.gate is not None:
            limited = task.tags | TAGS.get()
            if limited:
                future._details().limited = limited
                found = found or []
        frames = HERE.frames
        if frames is None:
            self._take_in(future, found)
        else:
            frames.enter_shield()
            try:
                self._take_in(future, found)
            finally:
                frames.leave_shield()
        return future

    def _context_with(self, tags: frozenset[str], scope: Scope) -> Context:
        """What surrounds a run on a worker that sees none of the submitter's variables: made once, as it never differs."""
        context = self._contexts.get(tags)
        if context is None:
            context = self._contexts[tags] = Context()
            context.run(TAGS.set, tags)
            context.run(SCOPE.set, scope)
        return context

    def _tell_resources(self, task: TaskSpec) -> None:
        if not self.capabilities.resources:
            task.told_resources = True
            library_logger().warning(
                "Task %r asks for %s; %s knows no resources, and runs it without",
                task.name,
                ", ".join(f"{name}={amount:g}" for name, amount in task.resources.items()),
                self.runner_name,
            )

    def _take_in(self, future: TaskFuture[Any], found: list[inputs.Input] | None) -> None:
        if found is None:
            self.scheduler.submit(future)
        else:
            with LOCK:
                self.scheduler.submit_after(future, found)
        if self._effects:
            self.drain()

    def _inputs(self, call: Call, wait_for: Any) -> list[inputs.Input] | None:
        found = inputs.collect(call.args, call.kwargs)
        if not found:
            # Annotations around plain values are taken off here, once.
            call.args, call.kwargs = inputs.substitute(call.args, call.kwargs, value_of)
        if wait_for is not None:
            found = [*found, *inputs.collect_wait_for(wait_for)]
        if INHERITED:
            refuse_inherited(inputs.runs_among(found))
        return found or None

    def submit_map(
        self,
        task: TaskSpec,
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
        base: int | None = None,
    ) -> TaskFutureList[Any]:
        """Takes the runs of a map: columns of mapped arguments and values that are the same for all.

        Args:
            task: the task.
            positional: for each positional argument `(column, None)` if mapped, else `(None, value)`.
            keywords: likewise by name.
            size: how many elements.
            wait_for: futures whose runs must have ended first.
            scope: the runner and flow run that they belong to.
            base: the first run's number if a worker that submits them has numbered them.
        """
        if self.closed:
            raise RunnerStateError(runner=self.runner_name, problem=self._problem)
        if size == 0:
            return TaskFutureList()
        if task.resources and not task.told_resources:
            self._tell_resources(task)
        positional = [without_annotations(column) for column in positional]
        keywords = {name: without_annotations(column) for name, column in keywords.items()}
        limited = self.gate is not None and task.tags | TAGS.get()
        if limited or wait_for is not None or inputs.collect((positional, keywords)):
            futures = []
            for index in range(size):
                args = tuple(
                    [value if column is None else column[index] for column, value in positional]
                )
                kwargs = {
                    name: value if column is None else column[index]
                    for name, (column, value) in keywords.items()
                }
                number = base + index if base is not None else None
                futures.append(self.submit(task, args, kwargs or None, wait_for, scope, number))
            return TaskFutureList(futures)
        record: MapRecord[Any] = MapRecord(
            self,
            task,
            base if base is not None else reserve(size),
            size,
            positional,
            keywords or None,
            copy_context(),
            scope,
        )
        if self._captures:
            record.options = self.backend.capture(task)
        frames = HERE.frames
        if frames is not None:
            frames.enter_shield()
        try:
            with LOCK:
                self.scheduler.submit_map(record)
            self.drain()
        finally:
            if frames is not None:
                frames.leave_shield()
        return TaskFutureList(record)


def without_annotations(column: tuple[list[Any] | None, Any]) -> tuple[list[Any] | None, Any]:
    """An argument of a map with annotations around plain values taken off; left as it is if it holds futures."""
    mapped, value = column
    held = mapped if mapped is not None else value
    if inputs.collect((held,)):
        return column
    (held,), _ = inputs.substitute((held,), None, value_of)
    return (held, None) if mapped is not None else (None, held)
