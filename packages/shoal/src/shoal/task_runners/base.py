"""What every task runner has in common: settings, equality, entering and leaving, and taking runs.

A runner is a face: its constructor keeps settings, `make_backend` turns them into an execution system, and entering it
puts a dispatcher in front of that. May import scheduling and what lies above it.
"""

from __future__ import annotations

import threading
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    Self,
    TypeVar,
    overload,
    runtime_checkable,
)

from shoal import settings
from shoal.context import INHERITED, LOCK, SCOPE, Scope, scope_of
from shoal.engine.interrupt import raise_if_due, shielded
from shoal.engine.observing import observers
from shoal.exceptions import InvalidOption, RunnerStateError
from shoal.futures.blocking import block
from shoal.limits.settings import limits_in_use
from shoal.logs import set_up
from shoal.safely import repr_of
from shoal.scheduling.dispatchers import dispatcher_for

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping
    from types import TracebackType

    from shoal.futures import TaskFuture, TaskFutureList
    from shoal.scheduling.backend import Backend
    from shoal.scheduling.dispatcher import AnyDispatcher
    from shoal.scheduling.observed import RunnerObserver
    from shoal.tasks import Task

__all__ = ["BaseTaskRunner", "TaskRunner"]

R = TypeVar("R")

#: Seconds within which a runner is left when something went wrong.
LEAVING = 2.0


class Stopped:
    """What became of the runs of runners that were left by an exception, for who tells about it at the end.

    Attributes:
        cancelled: runs that had not ended.
        ended: runs that had.
        taken: all runs, also those of runners that were left in order.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Counts from now on."""
        self.cancelled = self.ended = self.taken = 0


#: Of all runners of this process; written with `LOCK` held.
STOPPED = Stopped()


@runtime_checkable
class TaskRunner(Protocol):
    """What flows need of a runner. `BaseTaskRunner` gives all of it to who writes a backend."""

    name: str

    @overload
    def submit(
        self,
        task: Task[Any, Coroutine[Any, Any, R]],
        parameters: Mapping[str, Any],
        wait_for: Any = None,
    ) -> TaskFuture[R]: ...
    @overload
    def submit(
        self, task: Task[Any, R], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFuture[R]: ...
    def submit(
        self, task: Task[Any, Any], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFuture[Any]:
        """Takes one run of a task, with its parameters by name."""

    @overload
    def map(
        self,
        task: Task[Any, Coroutine[Any, Any, R]],
        parameters: Mapping[str, Any],
        wait_for: Any = None,
    ) -> TaskFutureList[R]: ...
    @overload
    def map(
        self, task: Task[Any, R], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFutureList[R]: ...
    def map(
        self, task: Task[Any, Any], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFutureList[Any]:
        """Takes one run for each element of the iterable parameters."""

    def cancel_all(self) -> None:
        """Ends every open run as CANCELLED."""

    def duplicate(self) -> Self:
        """A runner with the same settings, not entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BaseTaskRunner:
    """The shared half of every runner.

    A subclass gives `name`, its `settings` and `make_backend`. Runners with equal settings are equal, and a pickled
    runner is made again from them, not entered.
    """

    name: str = "runner"

    def __init__(self) -> None:
        self._dispatcher: AnyDispatcher | None = None
        self._entering = threading.Lock()
        self._most_at_once: int | None = None
        self._observer: RunnerObserver | None = None

    # ------------------------------------------------------------------ for subclasses

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {}

    def make_backend(self) -> tuple[Backend, int | None]:
        """The backend for these settings, and the most runs at once for one that pulls."""
        raise NotImplementedError

    def make_dispatcher(self) -> AnyDispatcher:
        """What the runner is made of once it is entered."""
        return dispatcher_for(*self.make_backend(), type(self).__name__, self.observer())

    def observer(self) -> RunnerObserver | None:
        """Who is to be told of its runs, if anybody observes now."""
        if settings.may_be_traced():
            from shoal.recording.otel import trace_runs

            trace_runs()
        if not observers():
            return None
        from shoal.scheduling.observed import observer_of

        self._observer = observer_of(
            [told for known in observers() if (told := known.runner_entered(self)) is not None]
        )
        return self._observer

    @classmethod
    def from_argument(cls, argument: str) -> Self:
        """The runner of a string such as `"threads:4"`, given what follows the colon.

        Raises:
            InvalidOption: it takes no such argument.
        """
        raise InvalidOption(
            where=f"the runner {cls.name!r}",
            option="argument",
            value=argument,
            problem="it takes none",
        )

    def check_count(self, option: str, value: Any) -> None:
        """Refuses what is neither `None` nor a whole number from 1 up.

        Raises:
            InvalidOption: it is not.
        """
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return
        raise InvalidOption(
            where=type(self).__name__,
            option=option,
            value=value,
            problem="a whole number from 1 up, or None, is needed",
        )

    @staticmethod
    def whole_number(argument: str) -> int:
        """The number in `"threads:4"`."""
        try:
            return int(argument)
        except ValueError:
            raise InvalidOption(
                where="a runner's name",
                option="max_workers",
                value=argument,
                problem="a whole number is needed",
            ) from None

    # ------------------------------------------------------------------ as a value

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.settings() == other.settings()

    def __hash__(self) -> int:
        return hash((type(self), repr(self.settings())))

    def __repr__(self) -> str:
        return self._with_connection(
            [
                (name, value)
                for name, value in self.settings().items()
                if value is not None and value != ()
            ]
        )

    def _with_connection(self, given: Iterable[tuple[str, Any]]) -> str:
        """As a call of the constructor; and once it is entered, what it is connected to."""
        call = f"{type(self).__name__}({', '.join(f'{name}={repr_of(value)}' for name, value in given)})"
        facts = ", ".join(f"{name} {value}" for name, value in self.connection().items())
        return f"<{call}, {facts}>" if facts else call

    def _repr_html_(self) -> str:
        from shoal.markup import card

        given = [
            (name, repr_of(value)) for name, value in self.settings().items() if value is not None
        ]
        return card("Task runner", type(self).__name__, [*given, *self.connection().items()])

    def connection(self) -> dict[str, str]:
        """What it is connected to, as it is shown: names and values, an address of the web among them if there is a
        dashboard; empty while it is not. It asks nobody, so it takes no time.
        """
        return {}

    def __reduce__(self) -> Any:
        return _make, (type(self), self.settings())

    def duplicate(self) -> Self:
        """A runner with the same settings, not entered."""
        return type(self)(**self.settings())

    # ------------------------------------------------------------------ entering and leaving

    def __enter__(self) -> Self:
        with self._entering:
            if self._dispatcher is not None:
                raise RunnerStateError(
                    runner=type(self).__name__,
                    problem="it was entered already; use duplicate() for a second one",
                )
            set_up()
            dispatcher = self.make_dispatcher()
            if self._most_at_once is not None:
                dispatcher.cap_all(self._most_at_once)
            outer = SCOPE.get()
            if outer is not None:  # on a worker: slots of limits are its driver's to give
                dispatcher.keeper = outer.keeper
            if limits_in_use() or (outer is not None and outer.limited):
                from shoal.limits.holding import GATE, Gate

                dispatcher.gate = GATE if dispatcher.keeper is None else Gate(dispatcher.keeper)
                dispatcher.limited = True
            self._start(dispatcher)
            self._dispatcher = dispatcher
            if self._observer is not None:
                self._observer.started(dispatcher)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for every run at a normal end; cancels and stops everything if an exception passes."""
        dispatcher = self._entered("be left")
        if dispatcher in INHERITED:
            self._dispatcher = (
                None  # what there is to be waited for, or to be stopped, is the parent's
            )
            return
        try:
            if error is None:
                block((dispatcher.end(),))
                raise_if_due(shielded=True)
        except BaseException as interruption:
            error = interruption
            raise
        finally:
            self._leave(dispatcher, stopped=error is not None)

    def _leave(self, dispatcher: AnyDispatcher, *, stopped: bool) -> None:
        # A run or flow that was interrupted leaves its runner, and must not be interrupted in doing so.
        with shielded():
            try:
                with LOCK:
                    still_open, ended = dispatcher.scheduler.open, dispatcher.scheduler.finished
                    STOPPED.taken += still_open + ended
                    if stopped:
                        STOPPED.cancelled += still_open
                        STOPPED.ended += ended
                if stopped:
                    dispatcher.cancel_all()
                dispatcher.close()
            finally:
                try:
                    self._stop(dispatcher)
                finally:
                    dispatcher.left()
                    with self._entering:
                        self._dispatcher = None
                    if self._observer is not None:
                        self._observer.left()
                        self._observer = None

    def _start(self, dispatcher: AnyDispatcher) -> None:
        dispatcher.backend.start(dispatcher)

    def _stop(self, dispatcher: AnyDispatcher) -> None:
        dispatcher.backend.stop(LEAVING)

    def start_late(self) -> None:
        """It may be that no run comes: a start that takes seconds is to wait for the first; before it is entered."""

    def cap(self, most: int) -> None:
        """Of all its runs no more than so many are to execute at once; before it is entered."""
        self._most_at_once = most

    def _entered(self, wish: str) -> AnyDispatcher:
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise RunnerStateError(
                runner=type(self).__name__,
                problem=f"it must be entered before it can {wish}: `with {type(self).__name__}() as runner: ...`",
            )
        return dispatcher

    def end(self) -> TaskFuture[None]:
        """A future that is done once every run taken so far has ended."""
        return self._entered("end").end()

    # ------------------------------------------------------------------ taking runs

    def scope(self, flow_run: Any = None) -> Scope:
        """The scope of runs submitted to this runner."""
        dispatcher = self._entered("take runs")
        if flow_run is not None:
            dispatcher.works_for(flow_run.label)
        return scope_of(dispatcher, flow_run)

    @overload
    def submit(
        self,
        task: Task[Any, Coroutine[Any, Any, R]],
        parameters: Mapping[str, Any],
        wait_for: Any = None,
    ) -> TaskFuture[R]: ...
    @overload
    def submit(
        self, task: Task[Any, R], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFuture[R]: ...
    def submit(
        self, task: Task[Any, Any], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFuture[Any]:
        """Takes one run of a task, in a flow or without one.

        Args:
            task: the task.
            parameters: by name.
            wait_for: futures whose runs must have ended first.

        Raises:
            RunnerStateError: the runner is not entered.
            ParameterBindError: the parameters do not fit the task.
        """
        self._check_task(task)
        token = SCOPE.set(self._scope_here())
        try:
            args, kwargs = task.arguments(parameters)
            future: TaskFuture[Any] = task.submit(*args, **kwargs, wait_for=wait_for)
            return future
        finally:
            SCOPE.reset(token)

    @overload
    def map(
        self,
        task: Task[Any, Coroutine[Any, Any, R]],
        parameters: Mapping[str, Any],
        wait_for: Any = None,
    ) -> TaskFutureList[R]: ...
    @overload
    def map(
        self, task: Task[Any, R], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFutureList[R]: ...
    def map(
        self, task: Task[Any, Any], parameters: Mapping[str, Any], wait_for: Any = None
    ) -> TaskFutureList[Any]:
        """Takes one run for each element of the iterable parameters; see `Task.map`.

        Raises:
            RunnerStateError: the runner is not entered.
            MappingMissingIterable: no parameter is iterable.
            MappingLengthMismatch: the iterables have different lengths.
            ParameterBindError: the parameters do not fit the task.
        """
        self._check_task(task)
        token = SCOPE.set(self._scope_here())
        try:
            args, kwargs = task.arguments(parameters)
            futures: TaskFutureList[Any] = task.map(*args, **kwargs, wait_for=wait_for)
            return futures
        finally:
            SCOPE.reset(token)

    def _check_task(self, task: Any) -> None:
        if not hasattr(task, "arguments"):
            raise InvalidOption(
                where=type(self).__name__,
                option="task",
                value=task,
                problem="a function decorated with @task is needed",
            )

    def _scope_here(self) -> Scope:
        scope = SCOPE.get()
        if scope is not None and scope.drawing is not None:
            return scope
        return self.scope(scope.flow_run if scope is not None else None)

    def cancel_all(self) -> None:
        """Ends every open run as CANCELLED; what runs is stopped.

        Raises:
            RunnerStateError: the runner is not entered.
        """
        self._entered("cancel runs").cancel_all()


def _make(kind: type[BaseTaskRunner], settings: dict[str, Any]) -> BaseTaskRunner:
    return kind(**settings)
