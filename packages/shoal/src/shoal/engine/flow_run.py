"""Runs a flow: validates its parameters, enters its runner, calls its function, and says how it ended.

The steps are the same for functions and coroutine functions:

    begin ─▶ attempt: enter a duplicate of the runner ─▶ call the function ─▶ settle what it returned ─▶ leave the runner
               ▲                                                                                            │
               └───────────────────── retry after the delay ◀───────────────────────────────────────────────┘

A flow that raises, is cancelled or times out cancels what has not started and stops what runs. May import futures and
what lies above them; the runner and the flow come in as objects.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.context import CALL, HERE, LOCK, SCOPE, TAGS, FlowRun
from shoal.engine import inputs
from shoal.engine.direct_call import sleep
from shoal.engine.interrupt import (
    Interrupt,
    frames_of_this_thread,
    interruptible_block,
    raise_if_due,
    shielded,
)
from shoal.engine.services import TIMERS
from shoal.engine.task_run import results_in
from shoal.engine.values import value_of
from shoal.exceptions import CancelledRun, FlowRunTimeout
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.blocking import block
from shoal.logs import flow_run_logger, log_prints_of, set_up
from shoal.names import flow_run_name, next_number, render_run_name
from shoal.states import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Running,
    State,
    TimedOut,
    aggregate_states,
    get_state_exception,
)
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio import CancelScope

    from shoal.flows import Flow

__all__ = ["run_flow", "run_flow_async"]


class _Run:
    """One flow run and the steps that sync and async flows share."""

    def __init__(self, flow: Flow[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        set_up()
        self.flow = flow
        self.args = args
        self.kwargs = kwargs
        scope = SCOPE.get()
        parent = scope.flow_run if scope is not None else None
        self.record = FlowRun(flow, next_number(), flow_run_name(), {}, TAGS.get(), parent)
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
            self.record.name = render_run_name(
                flow.flow_run_name, self.record.parameters, task_name=flow.name
            )
            self.logger = flow_run_logger(self.record)
        log_prints_of(flow.log_prints)
        self.record.start_time = time.time()
        self.logger.info("Beginning flow run %r for flow %r", self.record.name, flow.name)

    def body(self) -> Any:
        """Calls the flow's function and waits for the runs that it returns."""
        value = self.flow.fn(*self.args, **self.kwargs)
        if self.flow.is_generator:
            value = list(value)
        pending = _futures_in(value)
        if pending:
            block(pending)
        return value

    @contextmanager
    def inside(self, runner: Any) -> Iterator[None]:
        """The context of the flow's body."""
        scope = SCOPE.set(runner.scope(self.record))
        call = CALL.set(None)
        try:
            yield
        finally:
            CALL.reset(call)
            SCOPE.reset(scope)

    def raised(self, error: BaseException) -> State[Any]:
        """The state that an exception leads to."""
        if isinstance(error, FlowRunTimeout):
            return TimedOut(str(error), data=error)
        if isinstance(error, CancelledRun) or type(error).__name__ in (
            "CancelledError",
            "Cancelled",
        ):
            return Cancelled(str(error) or "the flow was cancelled", data=error)
        if isinstance(error, Exception):
            text = f"Flow run encountered an exception: {type(error).__name__}: {error}"
            return Failed(text, data=error)
        return Crashed(
            f"Flow run was ended by {type(error).__name__}: {error}".rstrip(": "), data=error
        )

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
        return True

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
        self.record.state = state
        for hook in hooks:
            try:
                result = hook(self.flow, self.record, state)
                if hasattr(result, "__await__"):
                    from shoal.engine.loops import SERVICE_LOOP

                    SERVICE_LOOP.run(result)
            except (Exception, SystemExit):
                self.logger.exception("Hook %r raised", getattr(hook, "__name__", hook))

    async def call_hooks_async(self, hooks: list[Any], state: State[Any]) -> None:
        """As `call_hooks`, on the caller's loop."""
        self.record.state = state
        for hook in hooks:
            try:
                result = hook(self.flow, self.record, state)
                if hasattr(result, "__await__"):
                    await result
            except (Exception, SystemExit):
                self.logger.exception("Hook %r raised", getattr(hook, "__name__", hook))

    def log_end(self, state: State[Any]) -> None:
        """The line about the run's end."""
        level = logging.INFO if state.is_completed() else logging.ERROR
        self.logger.log(level, "Finished in state %s", str(state))

    def give(self, state: State[Any], return_state: bool) -> Any:
        """What the caller gets: the state, the value, or the exception."""
        if return_state:
            return state
        if state.is_completed():
            return state.result()
        error = get_state_exception(state)
        raise error if error is not None else CancelledRun(run_name=self.record.name)


def _final_state(value: Any) -> State[Any]:
    """The state that a flow's return value leads to; every future in it has ended."""
    if isinstance(value, State):
        if value.is_done():
            return value
        return Failed(f"The flow returned {value}, which is not final")
    if isinstance(value, TaskFuture):
        return value.state
    if isinstance(value, TaskFutureList):
        value = list(value)
    if (
        isinstance(value, (list, tuple, set))
        and value
        and all(isinstance(item, (State, TaskFuture)) for item in value)
    ):
        items = list(value)
        aggregate = aggregate_states(
            [item if isinstance(item, State) else item.state for item in items]
        )
        if aggregate.is_completed():
            values = [item.result() for item in items]
            made = values if isinstance(value, list) else tuple(values)
            return Completed(aggregate.message, data=made)
        return aggregate
    return Completed(data=results_in(value))


def _futures_in(value: Any) -> list[TaskFuture[Any]]:
    return [
        entry.future
        for entry in inputs.collect((value,), None)
        if isinstance(entry.future, TaskFuture) and not entry.future.done()
    ]


# ---------------------------------------------------------------------- sync


def run_flow(
    flow: Flow[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wait_for: Any,
    return_state: bool,
) -> Any:
    """Runs a flow in the caller's thread."""
    run = _Run(flow, args, kwargs)
    try:
        found = run.upstreams(wait_for)
        block([entry.future for entry in found if isinstance(entry.future, TaskFuture)])
        run.begin(found)
    except Exception as error:
        state = run.raised(error)
        run.log_end(state)
        run.call_hooks(run.hooks(state), state)
        return run.give(state, return_state)
    interruption: BaseException | None = None
    while True:
        run.record.run_count += 1
        run.call_hooks(flow.on_running_hooks, Running())
        try:
            state = _attempt(run)
        except Exception as error:
            state = run.raised(error)
        except BaseException as error:
            state, interruption = run.raised(error), error
        if interruption is not None or not run.retries(state):
            break
        sleep(flow.retry_delay_seconds)
    run.log_end(state)
    run.call_hooks(run.hooks(state), state)
    if interruption is not None:
        raise interruption
    return run.give(state, return_state)


def _attempt(run: _Run) -> State[Any]:
    limit = run.flow.timeout_seconds
    if limit is None:
        with shielded():
            return _in_runner(run)
    frames = frames_of_this_thread()
    blocker = HERE.block
    token = object()
    frame = frames.begin(token, shield=1)
    if blocker is None:
        HERE.block = interruptible_block

    def fire() -> None:
        with LOCK:
            frames.fire(token)

    timers: list[Any] = []
    state: State[Any] | None = None
    error: BaseException | None = None
    try:
        state = _in_runner(run, lambda: timers.append(TIMERS.after(limit, fire)))
    except (Exception, Interrupt) as raised:
        error = raised
    finally:
        for timer in timers:
            timer.cancel()
        HERE.block = blocker
        expired = frames.end(frame)
    raise_if_due()  # for a run around this one
    if expired:
        raise FlowRunTimeout(
            run_name=run.record.name, timeout=limit
        )  # what it raised came of the interrupt
    if error is not None:
        raise error
    assert state is not None  # else it would have raised
    return state


def _in_runner(run: _Run, start_limit: Callable[[], None] | None = None) -> State[Any]:
    """One attempt; in a shield, where there is anything to interrupt.

    Args:
        run: the run.
        start_limit: called once the runner has started, which may take long and is no fault of the flow.
    """
    with _terminable(), run.flow.make_runner() as runner, run.inside(runner):
        if start_limit is not None:
            start_limit()
        frames = HERE.frames
        value = run.body() if frames is None or not frames.stack else frames.expose(run.body)
        return _final_state(value)


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM end the flow in order: in the main thread only, and only over the default handler."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def _default_in_child() -> None:
    """Gives SIGTERM its usual effect back in a process that a flow forks.

    The worker of a pool would take the exit for an error of its task, and live on.
    """
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default_in_child)


# ---------------------------------------------------------------------- async


async def run_flow_async(
    flow: Flow[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wait_for: Any,
    return_state: bool,
) -> Any:
    """Runs a coroutine flow on the caller's loop, under asyncio or trio."""
    try:
        return await _run_async(flow, args, kwargs, wait_for, return_state)
    except BaseException as error:
        fold(error)
        raise


async def _run_async(
    flow: Flow[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wait_for: Any,
    return_state: bool,
) -> Any:
    import anyio

    from shoal.futures.awaiting import settled

    run = _Run(flow, args, kwargs)
    try:
        found = run.upstreams(wait_for)
        futures = [entry.future for entry in found if isinstance(entry.future, TaskFuture)]
        if futures:
            await settled(futures)
        run.begin(found)
    except Exception as error:
        state = run.raised(error)
        run.log_end(state)
        await run.call_hooks_async(run.hooks(state), state)
        return run.give(state, return_state)
    interruption: BaseException | None = None
    while True:
        run.record.run_count += 1
        await run.call_hooks_async(flow.on_running_hooks, Running())
        try:
            state = await _attempt_async(run)
        except Exception as error:
            state = run.raised(error)
        except BaseException as error:
            state, interruption = run.raised(error), error
        if interruption is not None or not run.retries(state):
            break
        await anyio.sleep(flow.retry_delay_seconds)
    run.log_end(state)
    with anyio.CancelScope(shield=True):
        await run.call_hooks_async(run.hooks(state), state)
    if interruption is not None:
        raise interruption
    return run.give(state, return_state)


async def _attempt_async(run: _Run) -> State[Any]:
    import anyio

    with anyio.CancelScope() as scope:
        return await _in_runner_async(run, scope)
    if scope.cancelled_caught:
        raise FlowRunTimeout(run_name=run.record.name, timeout=run.flow.timeout_seconds or 0.0)
    raise AssertionError("unreachable: the block above returns, raises or is cancelled")


async def _in_runner_async(run: _Run, limited: CancelScope) -> State[Any]:
    import anyio

    from shoal.futures.awaiting import settled

    runner = run.flow.make_runner()
    runner.__enter__()
    error: BaseException | None = None
    limit = run.flow.timeout_seconds
    try:
        with run.inside(runner):
            if limit is not None:
                limited.deadline = anyio.current_time() + limit
            value: Any
            if run.flow.is_generator:
                value = [item async for item in run.flow.fn(*run.args, **run.kwargs)]
            else:
                value = await run.flow.fn(*run.args, **run.kwargs)
            pending = _futures_in(value)
            if pending:
                await settled(pending)
            state = _final_state(value)
        end = runner.end()
        if end is not None:
            await settled((end,))
        return state
    except BaseException as raised:
        error = raised
        raise
    finally:
        if error is None:
            runner.__exit__(None, None, None)  # every run has ended, so nothing is waited for
        else:
            # What still runs is stopped and joined, which must not hold up the loop.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(runner.__exit__, type(error), error, None)
