"""Runs a flow: validates its parameters, enters its runner, calls its function, and says how it ended.

The steps are the same for functions and coroutine functions, which `async_flow_run` runs:

    start ─▶ attempt: enter a duplicate of the runner ─▶ call the function ─▶ settle what it returned ─▶ leave the runner
               ▲                                                                                            │
               └───────────────────── retry after the delay ◀───────────────────────────────────────────────┘

A generator flow has the same steps; while its caller has an item, it stands still inside the attempt.

A flow that raises, is cancelled, closed or times out cancels what has not started and stops what runs. May import futures and
what lies above them; the runner and the flow come in as objects.
"""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import ExitStack
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from shoal.context import CALL, HERE, SCOPE, TAGS, FlowRun, Scope
from shoal.engine import handlers, inputs
from shoal.engine.direct_call import sleep
from shoal.engine.hooks import name_of_hook
from shoal.engine.inputs import runs_among, runs_in, value_of
from shoal.engine.interrupt import Interrupt, Kicks, TimeLimit, shielded
from shoal.engine.loops import SERVICE_LOOP, cancelled_class
from shoal.engine.observing import observers
from shoal.engine.services import CALLBACKS
from shoal.engine.streams import Allowance, stepwise
from shoal.engine.task_run import results_in
from shoal.exceptions import CancelledRun, FlowRunTimeout, MissingContextError
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.blocking import block
from shoal.logs import flow_run_logger, log_failure, log_prints_of, set_up
from shoal.names import flow_run_name, next_number, render_run_name
from shoal.safely import in_words, is_error, kind_of, text_of
from shoal.states import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Running,
    State,
    TimedOut,
    get_state_exception,
)
from shoal.states.several import final_state, summed_up

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from shoal.specs import FlowSpec

__all__ = ["FlowSteps", "futures_in", "run_flow", "state_of_returned", "stream_flow"]


class FlowSteps:
    """One flow run and the steps that sync and async flows share."""

    def __init__(self, flow: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        set_up()
        self.flow = flow
        self.args = args
        self.kwargs = kwargs
        scope = SCOPE.get()
        parent = scope.flow_run if scope is not None else None
        number = flow.run_number if flow.run_number is not None else next_number()
        self.record = FlowRun(flow, number, flow_run_name(), {}, TAGS.get(), parent)
        self.logger = flow_run_logger(self.record)

    def upstreams(self, wait_for: Any) -> list[Any]:
        """What the arguments and `wait_for` wait for."""
        found = inputs.collect(self.args, self.kwargs)
        return [*found, *inputs.collect_wait_for(wait_for)] if wait_for is not None else found

    def begin(self, found: list[Any]) -> None:
        """Fills in upstream values, validates, names the run.

        Raises:
            UpstreamTaskError: a run that it needs did not complete.
            ParameterTypeError: a parameter does not fit.
            ParameterBindError: the arguments do not fit the signature.
        """
        flow = self.flow
        for entry in found:
            value_of(entry.future, entry.allow_failure)
        self.args, kwargs = inputs.substitute(self.args, self.kwargs, value_of)
        self.kwargs = kwargs or {}
        self.args, self.kwargs, self.record.parameters = flow.validated(self.args, self.kwargs)
        if flow.flow_run_name is not None:
            with self.around():  # a callable may ask `shoal.runtime`
                self.record.name = render_run_name(
                    flow.flow_run_name,
                    {**flow.bound, **self.record.parameters},
                    task_name=flow.name,
                )
            self.logger = flow_run_logger(self.record)
        log_prints_of(self.record.log_prints)
        self.logger.info("Beginning flow run %r for flow %r", self.record.name, flow.name)
        for observer in observers():
            observer.flow_run_began(self.record)

    def body(self) -> Any:
        """Calls the flow's function and waits for the runs that it returns."""
        value = self.flow.fn(*self.args, **self.kwargs)
        if self.flow.is_generator:
            value = list(value)
        pending = futures_in(value)
        if pending:
            block(pending)
        return value

    def make_runner(self) -> Any:
        """The runner of an attempt, not entered."""
        runner = self.flow.make_runner()
        around: FlowRun | None = self.record
        while around is not None:
            resumes = around.flow.resumes
            # The start would be a part of the flow's time, if that is limited.
            if resumes is not None and resumes.is_done and self.flow.timeout_seconds is None:
                runner.start_late()
            around = around.parent
        return runner

    def inside(self, runner: Any) -> _Inside:
        """The context of the flow's body."""
        for observer in observers():
            observer.flow_run_entered(self.record, runner)
        return _Inside(runner.scope(self.record))

    def around(self) -> _Inside:
        """The context of the flow's hooks: no runner is entered, but that of a flow around this one."""
        scope = SCOPE.get()
        return _Inside(Scope(scope.dispatcher if scope is not None else _NoRunner(), self.record))

    def raised(self, error: BaseException) -> State[Any]:
        """The state that an exception leads to; asks it for nothing that could fail."""
        kind = type(error)  # not `isinstance`, which may ask the exception too
        if issubclass(kind, FlowRunTimeout):
            return TimedOut(text_of(error), data=error)
        if issubclass(kind, CancelledRun) or kind_of(error) in ("CancelledError", "Cancelled"):
            return Cancelled(text_of(error) or "the flow was cancelled", data=error)
        if is_error(error):
            return Failed(f"Flow run encountered an exception: {in_words(error)}", data=error)
        return Crashed(f"Flow run was ended by {in_words(error)}", data=error)

    def retries(self, state: State[Any]) -> bool:
        """Whether there is to be another attempt; says so in the log."""
        flow = self.flow
        if not state.is_failed() or self.record.run_count > flow.retries:
            return False
        self.logger.info(
            "Attempt %d of %d did not complete (%s); the next begins in %g s",
            self.record.run_count,
            flow.retries + 1,
            state,
            flow.retry_delay_seconds,
        )
        self.record.enter(state)
        return True

    def running(self) -> State[Any]:
        """The state of an attempt that begins; the run enters it."""
        state = Running()
        self.record.enter(state)
        return state

    def hooks(self, state: State[Any]) -> list[Any]:
        """The hooks for a final state."""
        flow = self.flow
        if state.is_completed():
            return flow.on_completion_hooks
        if state.is_crashed():
            return flow.on_crashed_hooks
        if state.is_cancelled():
            return flow.on_cancellation_hooks
        return flow.on_failure_hooks

    def call_hooks(self, hooks: list[Any], state: State[Any]) -> None:
        """Calls hooks in order; async ones on the service loop."""
        for hook in hooks:
            try:
                with self.around():
                    result = hook(self.flow, self.record, state)
                    if hasattr(result, "__await__"):
                        SERVICE_LOOP.run(result)
            except (Interrupt, KeyboardInterrupt):
                raise
            except BaseException as error:
                log_failure(error, f"Hook {name_of_hook(hook)} raised", logger=self.logger)

    async def call_hooks_async(self, hooks: list[Any], state: State[Any]) -> None:
        """As `call_hooks`, on the caller's loop."""
        for hook in hooks:
            try:
                with self.around():
                    result = hook(self.flow, self.record, state)
                    if hasattr(result, "__await__"):
                        await result
            except (KeyboardInterrupt, cancelled_class()):
                raise
            except BaseException as error:
                log_failure(error, f"Hook {name_of_hook(hook)} raised", logger=self.logger)

    def log_end(self, state: State[Any]) -> None:
        """The line about the run's end; the state is the run's from here."""
        self.record.enter(state)
        level = logging.INFO if state.is_completed() else logging.ERROR
        self.logger.log(level, "Finished in state %s", str(state))
        for observer in observers():
            observer.flow_run_ended(self.record, state)

    def overdue(self) -> FlowRunTimeout:
        """The error of an attempt that took longer than its limit."""
        return FlowRunTimeout(run_name=self.record.name, timeout=self.flow.timeout_seconds or 0.0)

    def give(self, state: State[Any], return_state: bool) -> Any:
        """What the caller gets: the state, the value, or the exception."""
        if return_state:
            return state
        if state.is_completed():
            return state.result()
        error = get_state_exception(state)
        raise error if error is not None else CancelledRun(run_name=self.record.name)


class _Inside:
    """The context of a flow's body, or of its hooks."""

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._tokens = SCOPE.set(self._scope), CALL.set(None)

    def __exit__(self, *_: object) -> None:
        scope, call = self._tokens
        CALL.reset(call)
        SCOPE.reset(scope)


class _NoRunner:
    """Where runs go that a hook submits: nowhere."""

    capped = False

    def submit(self, task: Any, *_: Any) -> Any:
        """Refuses.

        Raises:
            MissingContextError: always.
        """
        raise MissingContextError(task_name=task.name)

    submit_map = submit


def state_of_returned(value: Any) -> State[Any]:
    """The state that a flow's return value leads to; every future in it has ended."""
    if isinstance(value, TaskFuture):
        value = value.state
    if isinstance(value, State):
        return final_state(value).of_run(None, None)  # the user may give it to other runs too
    if isinstance(value, TaskFutureList):
        value = list(value)
    if (
        isinstance(value, (list, tuple, set))
        and value
        and all(isinstance(item, (State, TaskFuture)) for item in value)
    ):
        states = [item if isinstance(item, State) else item.state for item in value]
        return summed_up(states if isinstance(value, list) else tuple(states))
    return Completed(data=results_in(value))


def futures_in(value: Any) -> list[TaskFuture[Any]]:
    """The runs in a value that have not ended."""
    return [run for run in runs_in(value) if not run.done()]


# ---------------------------------------------------------------------- sync


def run_flow(
    flow: FlowSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wait_for: Any,
    return_state: bool,
) -> Any:
    """Runs a flow in the caller's thread."""
    run = FlowSteps(flow, args, kwargs)
    state = _start(run, wait_for)
    interruption: BaseException | None = None
    while state is None:
        run.record.run_count += 1
        run.call_hooks(flow.on_running_hooks, run.running())
        try:
            state = _attempt(run)
        except Exception as error:
            state = run.raised(error)
        except BaseException as error:
            state, interruption = run.raised(error), error
        if interruption is None and run.retries(state):
            state = None
            sleep(flow.retry_delay_seconds)
    run.log_end(state)
    run.call_hooks(run.hooks(state), state)
    if interruption is not None:
        raise interruption
    return run.give(state, return_state)


def stream_flow(
    flow: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any], wait_for: Any
) -> Generator[Any, Any, Any]:
    """Runs a generator flow as its caller asks for items; it begins with the first."""
    return _stream(FlowSteps(flow, args, kwargs), wait_for)


def _stream(run: FlowSteps, wait_for: Any) -> Generator[Any, Any, Any]:
    flow = run.flow
    state = _start(run, wait_for)
    interruption: BaseException | None = None
    while state is None:
        run.record.run_count += 1
        run.call_hooks(flow.on_running_hooks, run.running())
        try:
            state = yield from stepwise(_streamed(run), copy_context().run)
        except GeneratorExit as closed:
            state, interruption = Cancelled("the generator was closed"), closed
        except Exception as error:
            state = run.raised(error)
        except BaseException as error:
            state, interruption = run.raised(error), error
        if interruption is None and run.retries(state):
            state = None
            sleep(flow.retry_delay_seconds)
    run.log_end(state)
    run.call_hooks(run.hooks(state), state)
    if interruption is not None:
        raise interruption
    return run.give(state, False)


def _start(run: FlowSteps, wait_for: Any) -> State[Any] | None:
    """All that comes before the first attempt; gives the final state if there is to be none."""
    try:
        found = run.upstreams(wait_for)
        block(runs_among(found))
        run.begin(found)
    except Exception as error:
        return run.raised(error)
    return None


def _attempt(run: FlowSteps) -> State[Any]:
    limit = run.flow.timeout_seconds
    if limit is None:
        with shielded():
            return _in_runner(run)
    state: State[Any] | None = None
    with TimeLimit() as time_limit:
        state = _in_runner(run, lambda: time_limit.start(limit, _stopping_what_is_in_place()))
    if time_limit.expired or state is None:
        raise run.overdue()
    return state


def _stopping_what_is_in_place() -> Callable[[], None] | None:
    """How to stop a run that the flow's own thread executes, so that the flow can end at its limit."""
    scope = SCOPE.get()
    assert scope is not None  # the flow's
    dispatcher: Any = scope.dispatcher  # the runner's own
    if not dispatcher.in_place:
        return None  # runs are elsewhere, and stopped when the flow leaves its runner
    return lambda: CALLBACKS.put("The end of a flow's time", dispatcher.cancel_all)


def _in_runner(run: FlowSteps, start_limit: Callable[[], None] | None = None) -> State[Any]:
    """One attempt; in a shield, where there is anything to interrupt.

    Args:
        run: the run.
        start_limit: called once the runner has started, which may take long and is no fault of the flow.
    """
    with Kicks(), _terminable(), run.make_runner() as runner, run.inside(runner):
        if start_limit is not None:
            start_limit()
        frames = HERE.frames
        value = run.body() if frames is None or not frames.stack else frames.expose(run.body)
        return state_of_returned(value)


def _streamed(run: FlowSteps) -> Generator[Any, Any, State[Any]]:
    """One attempt of a generator flow, in a context of its own."""
    limit = run.flow.timeout_seconds
    allowance: Allowance | None = None

    def made(step: Callable[[], Any]) -> Any:
        with Kicks(), _terminable():
            item = step() if allowance is None else allowance(step)
            block(futures_in(item))
            return results_in(item)

    runner = run.make_runner()
    with ExitStack() as stack:
        with shielded():
            stack.enter_context(runner)
        stack.enter_context(run.inside(runner))
        if limit is not None:
            allowance = Allowance(limit, run.overdue, _stopping_what_is_in_place())
        value = yield from stepwise(run.flow.fn(*run.args, **run.kwargs), made)
        block(futures_in(value))
        return state_of_returned(value)


class _terminable:  # reads as an adjective: `with _terminable():`
    """Makes SIGTERM end the flow in order: in the main thread only, and only over the default handler."""

    def __enter__(self) -> None:
        self._handles = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._handles:
            handlers.install(signal.SIGTERM, _terminate)

    def __exit__(self, *_: object) -> None:
        if self._handles:
            handlers.remove(signal.SIGTERM)


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
