"""The `@task` decorator and `Task`: a function with options, that can be called, submitted and mapped.

A task decides nothing about where it runs: `submit` and `map` bind the arguments and hand them to the dispatcher of
the scope around them. May import everything but flows, testing and the command line.
"""

from __future__ import annotations

import os
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, overload

from shoal import elsewhere, settings
from shoal.annotations import unmapped
from shoal.backoff import exponential_backoff
from shoal.calls import Call
from shoal.checks import Decorated, name_of_function
from shoal.context import SCOPE, TaskRun, current_scope
from shoal.engine.columns import column, common_length
from shoal.exceptions import InvalidOption
from shoal.futures import TaskFuture
from shoal.names import next_number
from shoal.safely import repr_of, text_of
from shoal.specs import TASK_OPTIONS, TaskCap, TaskSpec
from shoal.states import State
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import TypedDict, Unpack

    from shoal.cache_policies import CachePolicy
    from shoal.context import TaskRunContext
    from shoal.results.serializers import Serializer
    from shoal.results.storage import Storage
    from shoal.signatures import BoundTo, mapped
    from shoal.specs import TransactionHook

    class TaskOptions(TypedDict, total=False):
        """The options of a task, as type checkers are told of them."""

        name: str | None
        description: str | None
        tags: Iterable[str] | None
        version: str | None
        task_run_name: str | Callable[..., str] | None
        retries: int | None
        retry_delay_seconds: (
            float | Sequence[float] | Callable[[int], float | Sequence[float]] | None
        )
        retry_jitter_factor: float | None
        retry_condition_fn: RetryCondition | None
        crash_retries: int | None
        timeout_seconds: float | None
        max_concurrency: int | None
        log_prints: bool | None
        on_running: Sequence[TaskHook] | None
        on_completion: Sequence[TaskHook] | None
        on_failure: Sequence[TaskHook] | None
        on_commit: Sequence[TransactionHook] | None
        on_rollback: Sequence[TransactionHook] | None
        resources: Mapping[str, float] | None
        batch: bool | int | None
        viz_return_value: Any
        persist_result: bool | None
        result_storage: str | os.PathLike[str] | Storage | None
        result_serializer: str | Serializer | None
        result_storage_key: str | None
        cache_policy: CachePolicy | None
        cache_key_fn: Callable[[TaskRunContext, dict[str, Any]], str | None] | None
        cache_expiration: timedelta | float | None
        refresh_cache: bool | None
        cache_result_in_memory: bool | None

else:
    mapped = lambda method: method  # noqa: E731

__all__ = ["Task", "exponential_backoff", "task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)

TaskHook = Callable[["Task[Any, Any]", "TaskRun", "State[Any]"], Any]
RetryCondition = Callable[["Task[Any, Any]", "TaskRun", "State[Any]"], bool]
H = TypeVar("H", bound=TaskHook)
K = TypeVar("K", bound=Callable[..., Any])
_Async = Coroutine[Any, Any, Any] | AsyncIterator[Any]


class Task(Decorated, TaskSpec, Generic[P, R_co]):
    """A function that runs as a task. Made by `@task`; the options are its arguments.

    Calling it runs it in the caller's thread. `submit` and `map` give it to the runner of the flow around them.
    """

    KIND = "task"
    OPTIONS = TASK_OPTIONS

    def __init__(self, fn: Callable[P, R_co], **options: Unpack[TaskOptions]) -> None:
        function = self._unwrapped(fn)
        if isinstance(function, Task):
            raise InvalidOption(
                where=f"@task of {function.name!r}",
                option="fn",
                value=function.name,
                problem="it is a task already",
            )
        if not callable(function):
            raise InvalidOption(
                where="@task", option="fn", value=function, problem="a function is needed"
            )
        name = options.get("name")
        check = self._stand_for(
            function, name_of_function(function) if name is None else name, options
        )
        self.__wrapped__: Callable[P, R_co] = function
        self.tags = check.tags()
        self.task_run_name = check.run_name("task_run_name")
        self.retries = (
            check.whole("retries") if "retries" in check.given else settings.task_retries()
        )
        self.retry_delay_seconds = (
            check.delays()
            if "retry_delay_seconds" in check.given
            else settings.task_retry_delay_seconds()
        )
        self.retry_jitter_factor = check.seconds("retry_jitter_factor")
        self.retry_condition_fn = check.function("retry_condition_fn")
        self.crash_retries = check.whole("crash_retries")
        self.timeout_seconds = check.timeout()
        limit = check.count("max_concurrency")
        self.cap = TaskCap(limit, os.urandom(8).hex()) if limit is not None else None
        self.log_prints = check.flag("log_prints")
        self.on_running_hooks = check.functions("on_running")
        self.on_completion_hooks = check.functions("on_completion")
        self.on_failure_hooks = check.functions("on_failure")
        self.on_commit_hooks = check.functions("on_commit")
        self.on_rollback_hooks = check.functions("on_rollback")
        self.resources = check.resources()
        self.batch = check.batch()
        self.viz_return_value = options.get("viz_return_value")
        self.read_signature()
        if self.keeping is not None:
            self.keeping.fits(self)

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"

    def _repr_html_(self) -> str:
        from shoal.markup import card

        return card("Task", self.name, self._facts())

    def _facts(self) -> list[tuple[str, object]]:
        """What notebooks show of it."""
        return [
            (
                "called",
                self.__name__ + ("(…)" if self.signature is None else text_of(self.signature)),
            ),
            ("says", (self.description or "").partition("\n")[0]),
            ("tags", ", ".join(sorted(self.tags))),
            ("retries", self.retries or None),
            ("time limit", None if self.timeout_seconds is None else f"{self.timeout_seconds:g} s"),
            ("resources", ", ".join(f"{name}: {n:g}" for name, n in self.resources.items())),
        ]

    @overload
    def __get__(self: BoundTo[S, Q, R], instance: S, owner: Any = None) -> Task[Q, R]: ...
    @overload
    def __get__(self: BoundTo[type[S], Q, R], instance: S, owner: Any = None) -> Task[Q, R]: ...
    @overload
    def __get__(self: BoundTo[S, Q, R], instance: None, owner: S) -> Task[Q, R]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> Task[P, R_co]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if self._binding is staticmethod or (instance is None and self._binding is not classmethod):
            return self
        return BoundTask(self, owner if self._binding is classmethod else instance)

    def __getstate__(self) -> dict[str, Any]:
        # For drawings, which are made here; it may be large, and may be what cannot be pickled.
        return {**self.__dict__, "viz_return_value": None}

    # ------------------------------------------------------------------ options

    @property
    def max_concurrency(self) -> int | None:
        """How many of its runs there may be at once in a flow run, `None` for any number."""
        return self.cap.limit if self.cap is not None else None

    def options(self) -> dict[str, Any]:
        """The options as the decorator takes them; lists are copies."""
        return {**super().options(), "tags": set(self.tags), "resources": dict(self.resources)}

    def with_options(self, **options: Unpack[TaskOptions]) -> Task[P, R_co]:
        """A copy with some options changed; `None` clears one.

        Raises:
            InvalidOption: there is no such option.
        """
        changed = type(self)(self._original(), **{**self.options(), **options})
        if changed.max_concurrency == self.max_concurrency:
            changed.cap = self.cap  # one for both
        return changed

    def on_running(self, hook: H) -> H:
        """Adds a hook that is called when a run begins; also as a decorator."""
        return self._add_hook(self.on_running_hooks, hook)

    def on_completion(self, hook: H) -> H:
        """Adds a hook that is called when a run has completed; also as a decorator."""
        return self._add_hook(self.on_completion_hooks, hook)

    def on_failure(self, hook: H) -> H:
        """Adds a hook that is called when a run has failed for good; also as a decorator."""
        return self._add_hook(self.on_failure_hooks, hook)

    def on_commit(self, hook: K) -> K:
        """Adds a hook that is called with the run's transaction when that is committed; also as a decorator."""
        return self._add_hook(self.on_commit_hooks, hook)

    def on_rollback(self, hook: K) -> K:
        """Adds a hook that is called with the run's transaction when that is rolled back; also as a decorator."""
        return self._add_hook(self.on_rollback_hooks, hook)

    def _add_hook(self, hooks: list[Any], hook: K) -> K:
        super()._add_hook(hooks, hook)
        self.update_plain()
        return hook

    # ------------------------------------------------------------------ running

    # A parameter named like one of ours is refused at decoration, which the type checkers cannot know: hence the
    # ignores on the overloads and their implementations.
    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self: Task[P, NoReturn], /, *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> State[Any]: ...
    @overload
    def __call__(
        self: Task[P, _Async], /, *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[Any]]: ...
    @overload
    def __call__(self, /, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[Any]: ...
    @overload
    def __call__(self, /, *args: Any, wait_for: Any, **kwargs: Any) -> R_co: ...
    def __call__(  # type: ignore[misc]
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Runs the task in the caller's thread, with retries and time limit, and gives its value.

        An async task gives a coroutine; a generator task gives an iterator that streams.

        Args:
            args: positional arguments; futures in them are waited for and replaced by their results.
            kwargs: keyword arguments likewise.
            return_state: whether to give the final `State` and not to raise.
            wait_for: futures whose runs must have ended first.

        Raises:
            ParameterBindError: the arguments do not fit the signature.
            UpstreamTaskError: a run that it needs did not complete.
        """
        from shoal import direct_calls

        try:
            self.bind(args, kwargs)
            scope = SCOPE.get()
            if scope is not None and scope.calls is not None:
                return scope.calls.call(self, args, kwargs, wait_for, return_state)
            call = Call(self, args, kwargs or None, next_number(), copy_context(), scope)
            if self.cap is not None or (scope is not None and scope.dispatcher.capped):
                return direct_calls.call_capped(self, call, wait_for, return_state)
            return direct_calls.call(self, call, wait_for, return_state)
        except BaseException as error:
            fold(error)
            raise

    def commit_alone(self) -> Any:
        """See `TaskSpec`."""
        from shoal.results.transacting import commit_alone

        return commit_alone(self)

    def call_made(self, call: Call, wait_for: Any, return_state: bool) -> Any:
        """See `TaskSpec`."""
        from shoal import direct_calls

        if self.cap is not None or (call.scope is not None and call.scope.dispatcher.capped):
            return direct_calls.call_capped(self, call, wait_for, return_state)
        return direct_calls.call(self, call, wait_for, return_state)

    @overload
    def submit(  # type: ignore[overload-overlap]
        self: Task[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[R]: ...
    @overload
    def submit(  # type: ignore[overload-overlap]
        self: Task[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[list[R]]: ...
    @overload
    def submit(  # type: ignore[overload-overlap]
        self: Task[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[list[R]]: ...
    @overload
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R_co]: ...
    @overload
    def submit(self, /, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[Any]: ...
    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, R]], /, *args: Any, wait_for: Any, **kwargs: Any
    ) -> TaskFuture[R]: ...
    @overload
    def submit(self, /, *args: Any, wait_for: Any, **kwargs: Any) -> TaskFuture[R_co]: ...
    def submit(  # type: ignore[misc]
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Gives the runner of the flow around the caller one run of this task; returns at once.

        Args:
            args: positional arguments; futures in them are replaced by their results once those are there.
            kwargs: keyword arguments likewise.
            return_state: whether to wait and give the final `State`.
            wait_for: futures whose runs must have ended first: one, or lists, nested as you like.

        Returns:
            The run's future.

        Raises:
            MissingContextError: there is no flow or task around the caller.
            ParameterBindError: the arguments do not fit the signature.
        """
        scope = SCOPE.get()
        if scope is None:
            scope = current_scope(self.name)
        if kwargs or not self._least <= len(args) <= self._most:
            self.bind(args, kwargs)
        future = scope.dispatcher.submit(self, args, kwargs or None, wait_for, scope)
        if return_state:
            future.wait()
            return future.state
        return future

    @mapped
    def map(
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Gives the runner one run for each element of the iterable arguments; returns at once.

        Iterables are mapped side by side and must have one length. Not mapped: strings, bytes, open files, anything
        in `unmapped(...)`, and what is no iterable. A single future of a list is waited for here, also in
        `allow_failure(...)`, where the exception of a run that failed goes to every element.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            return_state: whether to wait and give the list of final States.
            wait_for: futures whose runs must have ended before any of these runs starts.

        Raises:
            MissingContextError: there is no flow or task around the caller.
            MappingMissingIterable: no argument is iterable.
            MappingLengthMismatch: the iterables have different lengths.
            ParameterBindError: the arguments do not fit the signature.
        """
        scope = SCOPE.get()
        if scope is None:
            scope = current_scope(self.name)
        if scope.drawing is not None:
            return scope.drawing.map(self, args, kwargs, wait_for, return_state)
        positional = [column(value) for value in args]
        keywords = {name: column(value) for name, value in kwargs.items()}
        size = common_length(self, positional, keywords)
        self.bind(args, kwargs)
        futures = scope.dispatcher.submit_map(self, positional, keywords, size, wait_for, scope)
        if return_state:
            futures.wait()
            return [future.state for future in futures]
        return futures


elsewhere.mark(Task)


class BoundTask(Task[P, R_co]):
    """A task that is a method, looked up on an instance (or a class): the instance is its first argument."""

    def __init__(self, unbound: Task[Any, Any], instance: Any) -> None:
        self.__dict__.update(unbound.__dict__)
        self._unbound = unbound
        self._instance = instance

    def __repr__(self) -> str:
        return f"<Task {self.name!r} of {repr_of(self._instance)}>"

    def _facts(self) -> list[tuple[str, object]]:
        return [("of", repr_of(self._instance)), *super()._facts()]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self

    def with_options(self, **options: Unpack[TaskOptions]) -> Task[P, R_co]:
        """See `Task.with_options`; bound to the same instance."""
        return BoundTask(self._unbound.with_options(**options), self._instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Task.__call__`."""
        return self._unbound(self._instance, *args, **kwargs)

    def submit(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Task.submit`."""
        return self._unbound.submit(self._instance, *args, **kwargs)

    @mapped
    def map(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Task.map`."""
        return self._unbound.map(unmapped(self._instance), *args, **kwargs)


@overload
def task(fn: Callable[P, R], /, **options: Unpack[TaskOptions]) -> Task[P, R]: ...
@overload
def task(
    fn: None = None,
    /,
    **options: Unpack[TaskOptions],
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Makes a function a task; with or without options, as a decorator or a call.

    Args:
        fn: the function, sync or async, generator functions included.
        options: `name`; `description`; `tags`; `version`; `task_run_name` (a format string over the parameters or a
            callable); `retries` (further attempts after a failure); `retry_delay_seconds` (a number, a list whose
            last entry repeats, or a callable given the retry's count); `retry_jitter_factor` (spreads each delay
            over ± that share); `retry_condition_fn(task, run, state)`; `crash_retries` (further attempts when a
            worker dies); `timeout_seconds` (of each attempt, up to its function's end); `max_concurrency` (how many of
            its runs there may be at once in a flow run); `log_prints`; the hooks
            `on_running`, `on_completion`, `on_failure`, each a list of functions of `(task, run, state)`; `on_commit`,
            `on_rollback`, each a list of functions of the run's transaction; `resources` (what a worker must have); `batch` (whether short runs may travel together, or how many at the most);
            `viz_return_value` (stands for the result where `flow.visualize` draws a flow without executing its tasks).
            Results are kept with any of `persist_result`, `result_storage` (a folder or URL), `result_serializer` ("pickle",
            "json", "compressed/pickle", "compressed/json"), `result_storage_key` (the key, as a format string over
            `parameters`, `task_run` and `flow_run`), `cache_policy` (what makes the key), `cache_key_fn(context,
            parameters)`, `cache_expiration` (a timedelta, or seconds), `refresh_cache` (makes the result anew),
            `cache_result_in_memory`.

    Raises:
        InvalidOption: an option is unknown or out of range.
        ReservedArgumentError: a parameter is called `wait_for` or `return_state`.

    Examples:
        >>> @task(retries=2, retry_delay_seconds=0.5)
        ... def fetch(url: str) -> bytes: ...
    """

    return partial(Task, **options) if fn is None else Task(fn, **options)


if TYPE_CHECKING:
    from shoal.cache_policies import CachePolicy as CachePolicy
    from shoal.cache_policies import task_input_hash as task_input_hash
else:

    def __getattr__(name: str) -> Any:
        if name in ("CachePolicy", "task_input_hash"):  # loaded by those who keep results
            from shoal import cache_policies

            return getattr(cache_policies, name)
        from shoal.elsewhere import missing

        raise missing(__name__, name)
