"""`TaskSpec`: what a task is, as all who carry runs of it see it. Data, and what follows from that alone.

May import `exceptions`.
"""

from __future__ import annotations

import functools
import inspect
import random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from shoal.exceptions import ParameterBindError, ReservedArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    TransactionHook = Callable[[Any], Any]

__all__ = [
    "FLOW_OPTIONS",
    "KEEPING_OPTIONS",
    "RESERVED",
    "TASK_OPTIONS",
    "FlowSpec",
    "Keeping",
    "KeepsResults",
    "TaskCap",
    "TaskSpec",
    "bind_error",
    "kind_of_function",
]

#: Arguments of a call that are the library's own.
RESERVED = ("return_state", "wait_for")

#: Options of `@task` that are about keeping results; those that `@flow` has too come first.
KEEPING_OPTIONS = (
    "persist_result",
    "result_storage",
    "result_serializer",
    "result_storage_key",
    "cache_policy",
    "cache_key_fn",
    "cache_expiration",
    "refresh_cache",
    "cache_result_in_memory",
)

#: Options of `@task`.
TASK_OPTIONS = (
    "name",
    "description",
    "tags",
    "version",
    "task_run_name",
    "retries",
    "retry_delay_seconds",
    "retry_jitter_factor",
    "retry_condition_fn",
    "crash_retries",
    "timeout_seconds",
    "max_concurrency",
    "log_prints",
    "on_running",
    "on_completion",
    "on_failure",
    "on_commit",
    "on_rollback",
    "resources",
    "batch",
    "viz_return_value",
    *KEEPING_OPTIONS,
)

#: Options of `@flow`.
FLOW_OPTIONS = (
    "name",
    "description",
    "version",
    "flow_run_name",
    "task_runner",
    "retries",
    "retry_delay_seconds",
    "timeout_seconds",
    "max_concurrency",
    "validate_parameters",
    "log_prints",
    "journal",
    "on_running",
    "on_completion",
    "on_failure",
    "on_crashed",
    "on_cancellation",
    *KEEPING_OPTIONS[:3],
)


class TaskCap(NamedTuple):
    """How many runs of a task there may be at once in a flow run.

    Attributes:
        limit: the most.
        key: tells it from other tasks' in all processes; a copy of the task has the same.
    """

    limit: int
    key: str


class Keeping(Protocol):
    """What was said about keeping results, as those see it who carry runs; see `shoal.results.options`."""

    def over(self, outer: Any) -> Any:
        """This, and where it says nothing, what the flow run around says, or the flow run around that."""

    def said_of(self, task: Any) -> Any:
        """The task with what is said around it; itself where that changes nothing."""

    def taker(self, dispatcher: Any) -> Any:
        """A dispatcher that takes runs of tasks for which this is said."""

    def fits(self, task: Any) -> None:
        """Checks that a task has the parameters that are named here.

        Raises:
            InvalidOption: it has not.
        """

    def attempt(self, call: Any, end_limit: Any, execute: Any) -> Any:
        """One attempt: its result is found, or made by `execute(call, end_limit, True)` and kept."""

    async def attempt_async(self, call: Any, end_limit: Any, execute: Any) -> Any:
        """As `attempt`, on a loop."""


class KeepsResults:
    """What may say something about keeping results: a task about its own, a flow about those of all beneath.

    Attributes:
        keeping: what was said; `None` for nothing.
        persist_result, result_storage, result_serializer: options that it is made of, as they were given.
    """

    keeping: Keeping | None = None
    persist_result: bool | None = None
    result_storage: Any = None
    result_serializer: Any = None


class TaskSpec(KeepsResults):
    """A function and the options of its runs; `Task` is what users have of it.

    Attributes:
        fn: the function.
        signature: its signature, `None` if it tells none.
        is_async, is_generator: what kind of function it is.
        is_plain: whether a run asks for nothing but its function to be called: the fast way through the engine.
        batch: as given.
        batch_limit: the most runs that travel together, `None` for as many as the backend likes.
        cap: how many of its runs there may be at once, `None` for any number.
        is_apart: whether its runs, when they are ready, are not queued with most others: coroutines, and what is capped.
        links: whether its runs may travel with the runs that they wait for, of any task.
        told_resources: whether it was said that a runner knows no resources.
        hidden: whether its runs are in no log.
        is_remembered: whether a journal remembers its runs.
        completed_hooks: what is called when a run has completed: `on_completion_hooks`, and what commits it.
        name, tags, task_run_name, retries, retry_delay_seconds, retry_jitter_factor, retry_condition_fn, crash_retries,
            timeout_seconds, log_prints, on_running_hooks, on_completion_hooks, on_failure_hooks, on_commit_hooks,
            on_rollback_hooks, resources, viz_return_value: the options.
        result_storage_key, cache_policy, cache_key_fn, cache_expiration, refresh_cache, cache_result_in_memory: those that
            are about keeping results, see `KeepsResults`.
    """

    fn: Callable[..., Any]
    name: str
    tags: frozenset[str]
    task_run_name: Any
    retries: int
    retry_delay_seconds: Any
    retry_jitter_factor: float | None
    retry_condition_fn: Any
    crash_retries: int
    timeout_seconds: float | None
    log_prints: bool | None
    on_running_hooks: list[Any]
    on_completion_hooks: list[Any]
    on_failure_hooks: list[Any]
    on_commit_hooks: list[Any]
    on_rollback_hooks: list[Any]
    completed_hooks: list[Any]
    resources: dict[str, float]
    batch: bool | int
    cap: TaskCap | None = None
    result_storage_key: str | None = None
    cache_policy: Any = None
    cache_key_fn: Any = None
    cache_expiration: Any = None
    refresh_cache: bool | None = None
    cache_result_in_memory: bool | None = None
    viz_return_value: Any
    told_resources: bool = False
    hidden: bool = False
    is_remembered: bool = True

    def read_signature(self) -> None:
        """Learns from the function what kind it is, and what arguments it takes."""
        function = self.fn
        self.is_async, self.is_generator = kind_of_function(function)
        try:
            self.signature: inspect.Signature | None = inspect.signature(function)
        except (
            TypeError,
            ValueError,
        ):  # some functions written in C tell nothing of their parameters
            self.signature = None
        least, most = 0, 0
        for parameter in (self.signature.parameters if self.signature is not None else {}).values():
            if parameter.name in RESERVED:
                raise ReservedArgumentError(task_name=self.name, argument=parameter.name)
            required = parameter.default is parameter.empty
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                most += 1
                least += required
            elif parameter.kind is parameter.VAR_POSITIONAL:
                most = 1 << 30
            elif parameter.kind is parameter.KEYWORD_ONLY and required:
                least = 1 << 30  # positional arguments alone can't be enough
        self._least, self._most = (0, 1 << 30) if self.signature is None else (least, most)
        self.update_plain()

    def update_plain(self) -> None:
        """The options have changed."""
        self.completed_hooks = self.on_completion_hooks
        if self.on_commit_hooks:
            self.completed_hooks = [*self.on_completion_hooks, _commit]
        self.is_plain = not (
            self.is_async
            or self.is_generator
            or self.on_running_hooks
            or self.completed_hooks
            or self.on_failure_hooks
            or self.task_run_name is not None
            or self.retry_condition_fn is not None
            or self.timeout_seconds is not None
            or self.log_prints
            or self.keeping is not None
        )
        self.batch_limit = None if self.batch is True else int(self.batch) or 1
        self.is_apart = self.is_async or self.cap is not None
        self.links = not self.is_apart and self.batch_limit is None

    def call_made(self, call: Any, wait_for: Any, return_state: bool) -> Any:
        """A direct call that is made already, as `__call__` goes on with it."""
        raise NotImplementedError

    def commit_alone(self) -> Any:
        """Has a run that is part of no transaction commit what it did; of a coroutine function, gives what is to be awaited."""
        raise NotImplementedError

    def retry_delay(self, attempt: int) -> float:
        """Seconds between attempt number `attempt` and the next."""
        delays = self.retry_delay_seconds
        if callable(delays):
            delays = delays(attempt)
        if isinstance(delays, (int, float)):
            delay = float(delays)
        else:
            delay = float(delays[min(attempt, len(delays)) - 1]) if delays else 0.0
        if self.retry_jitter_factor and delay > 0:
            # Spread evenly over delay * (1 ± factor), so that runs which failed together do not return together.
            delay *= 1 + self.retry_jitter_factor * random.uniform(-1, 1)  # not for secrets
        return max(delay, 0.0)

    # ------------------------------------------------------------------ arguments

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Checks that arguments fit the signature.

        Raises:
            ParameterBindError: they do not.
        """
        if self.signature is None:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise bind_error(self.name, self.signature, args, kwargs, error) from None

    def arguments(self, parameters: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for parameters given by name.

        Raises:
            ParameterBindError: one does not exist.
        """
        if self.signature is None:
            return (), dict(parameters)
        left = dict(parameters)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        positional = True
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(left.pop(name, ()))
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(left.pop(name, {}))
            elif name not in left:
                positional = False
            elif positional and parameter.kind is not parameter.KEYWORD_ONLY:
                args.append(left.pop(name))
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                raise ParameterBindError(
                    task_name=self.name,
                    problem=f"{name!r} can only be given if what precedes it is",
                    argument=name,
                )
            else:
                kwargs[name] = left.pop(name)
        kwargs.update(left)
        self.bind(tuple(args), kwargs)
        return tuple(args), kwargs

    def parameters(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """A call's parameters by name, defaults filled in."""
        if self.signature is None:
            return dict(kwargs or {})
        bound = self.signature.bind(*args, **(kwargs or {}))
        bound.apply_defaults()
        return dict(bound.arguments)

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """A call's parameters by name, as they were given: `arguments` turned round."""
        if self.signature is None:
            return dict(kwargs or {})
        return dict(self.signature.bind(*args, **(kwargs or {})).arguments)


def _commit(task: TaskSpec, run: Any, state: Any) -> Any:
    """A hook: see `TaskSpec.commit_alone`."""
    return task.commit_alone()


class FlowSpec(KeepsResults):
    """A function and the options of its runs as a flow; `Flow` is what users have of it.

    Attributes:
        fn: the function.
        is_async, is_generator: what kind of function it is.
        bound: of a method, what it is bound to, under the name of that argument: for `flow_run_name`.
        run_number: of its run, where that is a run that goes on; `None` for a new one.
        resumes: what the journal of that run says.
        name, flow_run_name, retries, retry_delay_seconds, timeout_seconds, log_prints, max_concurrency, journal,
            on_running_hooks, on_completion_hooks, on_failure_hooks, on_crashed_hooks, on_cancellation_hooks: the options.
    """

    fn: Callable[..., Any]
    is_async: bool
    is_generator: bool
    bound: Mapping[str, Any] = MappingProxyType({})
    name: str
    flow_run_name: Any
    retries: int
    retry_delay_seconds: float
    timeout_seconds: float | None
    log_prints: bool | None
    max_concurrency: int | None
    journal: bool | None
    run_number: int | None = None
    resumes: Any = None
    on_running_hooks: list[Any]
    on_completion_hooks: list[Any]
    on_failure_hooks: list[Any]
    on_crashed_hooks: list[Any]
    on_cancellation_hooks: list[Any]

    def validated(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, coerce: bool = True
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """A call's arguments, checked against the annotations and made into what these say; and all by name."""
        raise NotImplementedError

    def make_runner(self) -> Any:
        """The task runner of one run, not entered."""
        raise NotImplementedError


def bind_error(
    name: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    error: TypeError,
) -> ParameterBindError:
    """The error of arguments that do not fit, which names the argument."""
    parameters = signature.parameters
    argument = next(
        (
            key
            for key in kwargs
            if key not in parameters
            and not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        ),
        None,
    )
    if "missing" in str(error):
        given = set(kwargs) | set(list(parameters)[: len(args)])
        argument = next(
            (
                key
                for key, p in parameters.items()
                if key not in given
                and p.default is p.empty
                and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            ),
            None,
        )
    return ParameterBindError(
        task_name=name, problem=f"{error}; the signature is {name}{signature}", argument=argument
    )


def kind_of_function(function: Any) -> tuple[bool, bool]:
    """Whether a call gives something to be awaited, and whether it emits values; also of partials and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    # A callable object's function is its `__call__`.
    body = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    emits_async = inspect.isasyncgenfunction(body)
    return (
        inspect.iscoroutinefunction(body) or emits_async,
        inspect.isgeneratorfunction(body) or emits_async,
    )
