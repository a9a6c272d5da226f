"""The `@flow` decorator and `Flow`: a function whose tasks run on a task runner.

May import everything but testing and the command line; pydantic on first use.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, overload

from shoal import elsewhere, settings
from shoal.checks import Decorated, name_of_function, named_after
from shoal.context import SCOPE
from shoal.exceptions import InvalidOption, ParameterTypeError, ReservedArgumentError
from shoal.names import function_name_to_flow_name
from shoal.recording import live
from shoal.safely import text_of
from shoal.specs import FLOW_OPTIONS, RESERVED, FlowSpec, bind_error, kind_of_function
from shoal.task_runners.base import TaskRunner
from shoal.tracebacks import fold

if TYPE_CHECKING:
    import os
    from typing import TypedDict, Unpack

    from shoal.context import FlowRun
    from shoal.recording.drawing import Drawing
    from shoal.results.serializers import Serializer
    from shoal.results.storage import Storage
    from shoal.signatures import BoundTo
    from shoal.states import State

__all__ = ["Flow", "flow"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)

FlowHook = Callable[["Flow[Any, Any]", "FlowRun", "State[Any]"], Any]
RunnerOption = TaskRunner | type[Any] | str | None
H = TypeVar("H", bound=FlowHook)

if TYPE_CHECKING:

    class FlowOptions(TypedDict, total=False):
        """The options of a flow, as type checkers are told of them."""

        name: str | None
        description: str | None
        version: str | None
        flow_run_name: str | Callable[..., str] | None
        task_runner: RunnerOption
        retries: int | None
        retry_delay_seconds: float | None
        timeout_seconds: float | None
        max_concurrency: int | None
        validate_parameters: bool | None
        log_prints: bool | None
        journal: bool | None
        on_running: Sequence[FlowHook] | None
        on_completion: Sequence[FlowHook] | None
        on_failure: Sequence[FlowHook] | None
        on_crashed: Sequence[FlowHook] | None
        on_cancellation: Sequence[FlowHook] | None
        persist_result: bool | None
        result_storage: str | os.PathLike[str] | Storage | None
        result_serializer: str | Serializer | None


class Flow(Decorated, FlowSpec, Generic[P, R_co]):
    """A function that runs as a flow. Made by `@flow`; the options are its arguments."""

    KIND = "flow"
    OPTIONS = FLOW_OPTIONS

    def __init__(self, fn: Callable[P, R_co], **options: Unpack[FlowOptions]) -> None:
        function = self._unwrapped(fn)
        if isinstance(function, type) or not callable(function):
            raise InvalidOption(
                where="@flow", option="fn", value=function, problem="a function is needed"
            )
        name = options.get("name")
        own_name = name_of_function(function)
        check = self._stand_for(
            function, function_name_to_flow_name(own_name) if name is None else name, options
        )
        if own_name == "<lambda>" and name is None:
            raise check.refuse("name", None, "a lambda has no name of its own, so one is needed")
        self.__wrapped__: Callable[P, R_co] = function
        self.flow_run_name = check.run_name("flow_run_name")
        self.task_runner = check.runner()
        if isinstance(self.task_runner, str):
            from shoal.task_runners.registry import check_name

            check_name(self.task_runner, check.where)
        self.retries = (
            check.whole("retries") if "retries" in check.given else settings.flow_retries()
        )
        delay = check.seconds("retry_delay_seconds")
        self.retry_delay_seconds = settings.flow_retry_delay_seconds() if delay is None else delay
        self.timeout_seconds = check.timeout()
        self.max_concurrency = check.count("max_concurrency")
        self.validate_parameters = options.get("validate_parameters") is not False
        self.log_prints = check.flag("log_prints")
        self.journal = check.flag("journal")
        self.on_running_hooks = check.functions("on_running")
        self.on_completion_hooks = check.functions("on_completion")
        self.on_failure_hooks = check.functions("on_failure")
        self.on_crashed_hooks = check.functions("on_crashed")
        self.on_cancellation_hooks = check.functions("on_cancellation")
        self.is_async, self.is_generator = kind_of_function(function)
        self.signature = inspect.signature(function)
        for argument in self.signature.parameters:
            if argument in RESERVED:
                raise ReservedArgumentError(task_name=self.name, argument=argument)
        self._validator: Any = None

    def __repr__(self) -> str:
        return f"<Flow {self.name!r}>"

    def _repr_html_(self) -> str:
        from shoal.markup import card

        limit = self.timeout_seconds
        facts = [
            ("called", self.__name__ + text_of(self.signature)),
            ("says", (self.description or "").partition("\n")[0]),
            ("task runner", "the default" if self.task_runner is None else self.task_runner),
            ("retries", self.retries or None),
            ("time limit", None if limit is None else f"{limit:g} s"),
        ]
        return card("Flow", self.name, facts)

    @overload
    def __get__(self: BoundTo[S, Q, R], instance: S, owner: Any = None) -> Flow[Q, R]: ...
    @overload
    def __get__(self: BoundTo[type[S], Q, R], instance: S, owner: Any = None) -> Flow[Q, R]: ...
    @overload
    def __get__(self: BoundTo[S, Q, R], instance: None, owner: S) -> Flow[Q, R]: ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> Flow[P, R_co]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if self._binding is staticmethod or (instance is None and self._binding is not classmethod):
            return self
        bound: Flow[Any, Any] = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        receiver = owner if self._binding is classmethod else instance
        bound.fn = self.fn.__get__(receiver, owner)
        bound.signature = inspect.signature(bound.fn)
        bound.bound = dict(zip(self.signature.parameters, [receiver], strict=False))
        bound._validator = None
        bound._binding = staticmethod  # once and for all
        return bound

    # ------------------------------------------------------------------ options

    def with_options(self, **options: Unpack[FlowOptions]) -> Flow[P, R_co]:
        """A copy with some options changed; `None` clears one.

        Raises:
            InvalidOption: there is no such option.
        """
        changed: Flow[P, R_co] = Flow(self._original(), **{**self.options(), **options})
        changed.bound = self.bound
        return changed

    def on_running(self, hook: H) -> H:
        """Adds a hook that is called when a run begins; also as a decorator."""
        return self._add_hook(self.on_running_hooks, hook)

    def on_completion(self, hook: H) -> H:
        """Adds a hook that is called when a run has completed; also as a decorator."""
        return self._add_hook(self.on_completion_hooks, hook)

    def on_failure(self, hook: H) -> H:
        """Adds a hook that is called when a run has failed; also as a decorator."""
        return self._add_hook(self.on_failure_hooks, hook)

    def on_crashed(self, hook: H) -> H:
        """Adds a hook that is called when a run has crashed; also as a decorator."""
        return self._add_hook(self.on_crashed_hooks, hook)

    def on_cancellation(self, hook: H) -> H:
        """Adds a hook that is called when a run was cancelled; also as a decorator."""
        return self._add_hook(self.on_cancellation_hooks, hook)

    def make_runner(self) -> Any:
        """The runner of one run: a duplicate of the flow's own, or the default, not entered."""
        from shoal.task_runners.registry import resolve

        runner = resolve(self.task_runner)
        if self.max_concurrency is not None:
            if not hasattr(runner, "cap"):
                raise InvalidOption(
                    where=f"flow {self.name!r}",
                    option="max_concurrency",
                    value=self.max_concurrency,
                    problem="its task runner is no `BaseTaskRunner`, and does not say what executes",
                )
            runner.cap(self.max_concurrency)
        return runner

    # ------------------------------------------------------------------ parameters

    def validated(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, coerce: bool = True
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Checks arguments against the signature, and coerces them to the annotations.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            coerce: whether to look at annotations.

        Returns:
            Positional arguments, keyword arguments, and the parameters by name, defaults filled in.

        Raises:
            ParameterBindError: they do not fit the signature.
            ParameterTypeError: one does not fit its annotation.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise bind_error(self.name, self.signature, args, kwargs, error) from None
        bound.apply_defaults()
        if coerce and self.validate_parameters and self._annotated():
            for name, value in self._coerced(dict(bound.arguments)).items():
                bound.arguments[name] = value
        return bound.args, bound.kwargs, dict(bound.arguments)

    def _annotated(self) -> bool:
        """Whether there is anything to validate, so that pydantic is worth loading."""
        return any(p.annotation is not p.empty for p in self.signature.parameters.values())

    def _coerced(self, arguments: dict[str, Any]) -> dict[str, Any]:
        from shoal.validation import parameter_model

        if self._validator is None:
            self._validator = parameter_model(self.fn)
        coerced: dict[str, Any] = self._validator(arguments, self._type_error)
        return coerced

    def _type_error(self, parameter: str, value: Any, problem: str) -> ParameterTypeError:
        return ParameterTypeError(
            flow_name=self.name, parameter=parameter, value=value, problem=problem
        )

    # ------------------------------------------------------------------ running

    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self: Flow[P, NoReturn], /, *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> State[Any]: ...
    @overload
    def __call__(
        self: Flow[P, Coroutine[Any, Any, Any] | AsyncIterator[Any]],
        /,
        *args: Any,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> Coroutine[Any, Any, State[Any]]: ...
    @overload
    def __call__(self, /, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[Any]: ...
    @overload
    def __call__(self, /, *args: Any, wait_for: Any, **kwargs: Any) -> R_co: ...
    def __call__(  # type: ignore[misc]  # as in `Task.submit`
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Runs the flow and gives its value; an async flow gives a coroutine.

        A generator flow gives an iterator that streams (an async one an async iterator): the run begins with the first
        item that is asked for, and ends with the generator.

        Args:
            args: positional arguments; futures in them are waited for.
            kwargs: keyword arguments likewise.
            return_state: whether to give the final `State` and not to raise.
            wait_for: futures whose runs must have ended first.

        Raises:
            ParameterTypeError: a parameter does not fit its annotation; the body is not entered.
            RecordError: the folder of `SHOAL_REPORT` cannot be written; nothing has run.
            FlowRunTimeout: the run took longer than `timeout_seconds`.
            Exception: what the flow raised, or what the first failed run that it returned had raised.
        """
        scope = SCOPE.get()
        if scope is not None and scope.drawing is not None:
            return scope.drawing.flow(self, args, kwargs, wait_for, return_state)
        if settings.may_be_traced():
            from shoal.recording.otel import trace_runs

            trace_runs()
        folder = settings.report_folder() if scope is None else None
        if folder is not None:
            from shoal.recording.reports import report_to

            report_to(folder)
        if scope is None:
            if settings.journal() if self.journal is None else self.journal:
                from shoal.results.journal import keep_journals

                keep_journals()
            live.offer()
        run: Callable[..., Any]
        stream: Callable[..., Any]
        if self.is_async:
            from shoal.engine import async_flow_run

            run, stream = async_flow_run.run_flow_async, async_flow_run.stream_flow_async
        else:
            from shoal.engine import flow_run

            run, stream = flow_run.run_flow, flow_run.stream_flow
        if self.is_generator and not return_state:
            return stream(self, args, kwargs, wait_for)
        try:
            result = run(self, args, kwargs, wait_for, return_state)
            return named_after(result, self.fn) if self.is_async else result
        except BaseException as error:
            fold(error)
            raise

    def resume(self, name: str, keep: Iterable[str] = (), /, **parameters: Any) -> R_co:
        """Goes on with a run of this flow that has a journal, and gives the flow's value; an async flow gives a coroutine.

        The flow's body runs again. A task run that stands in the journal is not executed again, but `Cached`. It is known by the
        run that submitted it, its task, the code of that and its inputs; what has changed runs again, and all that depends on it.

        Args:
            name: of the flow run, or `"last"` for the journal begun last.
            keep: names of tasks whose results are reused although their code has changed since.
            parameters: in the place of those that the run was begun with.

        Raises:
            RunNotFound: no run of this name is remembered.
            JournalBusy: it is under way.
            JournalError: its journal cannot be read or written.
            InvalidOption: it had no task of a name in `keep`.
            Exception: what the flow raised.

        Examples:
            >>> nightly.resume("polite-magpie")
        """
        from shoal.results.journal import resumed

        flow, args, kwargs = resumed(self, name, parameters, keep=keep)
        return flow(*args, **kwargs)  # type: ignore[no-any-return]

    def visualize(self, /, *args: P.args, **kwargs: P.kwargs) -> Drawing:
        """Draws the tasks of the flow and what they pass to each other, without executing them.

        The flow's own code runs, that of its nested flows too, but no task: what a task returns is its
        `viz_return_value`, or a placeholder, which can only be passed on.

        Args:
            args: positional arguments, as for a call.
            kwargs: keyword arguments likewise.

        Returns:
            The drawing: `str()` gives Mermaid text, a notebook shows it, `save(path)` writes it.

        Raises:
            VisualizationError: the flow uses the result of a task that has no `viz_return_value`.
            ParameterBindError: the arguments do not fit the signature.
            ParameterTypeError: one does not fit its annotation.
            Exception: what the flow's code raises.

        Examples:
            >>> print(etl.visualize(day=1))
        """
        from shoal.recording.dry_run import draw

        return draw(self, args, kwargs)


elsewhere.mark(Flow)


@overload
def flow(fn: Callable[P, R], /, **options: Unpack[FlowOptions]) -> Flow[P, R]: ...
@overload
def flow(
    fn: None = None,
    /,
    **options: Unpack[FlowOptions],
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Makes a function a flow; with or without options, as a decorator or a call.

    Args:
        fn: the function, sync or async.
        options: `name` (default: the function's, `_` turned to `-`); `description`; `version`; `flow_run_name` (a
            format string over the parameters or a callable); `task_runner` (an instance, a class, or a string such
            as `"threads:4"`); `retries`; `retry_delay_seconds`; `timeout_seconds` (of each attempt, from when its
            task runner has started); `max_concurrency` (how many of its task runs there may be at once);
            `validate_parameters`; `log_prints`; `journal` (whether what completes is remembered, so that a run that fails or is
            killed can go on: see `resume`); the hooks `on_running`, `on_completion`, `on_failure`, `on_crashed`, `on_cancellation`,
            each a list of functions of `(flow, run, state)`; `persist_result`, `result_storage`, `result_serializer` (how
            results of all tasks beneath are kept that do not say so themselves).

    Raises:
        InvalidOption: an option is unknown or out of range.

    Examples:
        >>> @flow(task_runner="threads:4")
        ... def squares(numbers: list[int]) -> list[int]:
        ...     return square.map(numbers).result()
    """

    return partial(Flow, **options) if fn is None else Flow(fn, **options)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
