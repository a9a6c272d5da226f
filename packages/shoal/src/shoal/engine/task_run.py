"""Runs one attempt of a call where it lands, and says how it ended. The only code that calls a submitted task's function;
`direct_call` streams generators.

Knows nothing of schedulers and runners: it gets a call with its arguments filled in, and gives an `Outcome`. The steps
are the same for functions and coroutine functions; only the one that calls the function differs.

May import futures and what lies above them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from shoal.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    CRASHED,
    FAILED,
    WAITING,
    Call,
    Outcome,
)
from shoal.context import CALL, TaskRun
from shoal.engine import inputs
from shoal.engine.forks import CALLS, ends_with
from shoal.engine.hooks import (
    call_running_hooks,
    call_running_hooks_async,
    concluded,
    concluded_async,
    failure_message,
    log_failure_of,
)
from shoal.engine.interrupt import Frame, Frames, Interrupt, TimeLimit, shielded
from shoal.engine.loops import cancelled_class
from shoal.exceptions import CrashedRun, TaskRunTimeout
from shoal.futures import TaskFuture
from shoal.logs import log_failure, log_prints_of
from shoal.names import render_run_name
from shoal.safely import in_words, is_error
from shoal.states import (
    Failed,
    State,
    StateType,
    TimedOut,
    aggregate_states,
    get_state_exception,
)
from shoal.states.several import final_state

__all__ = [
    "EndLimit",
    "attempt",
    "attempt_async",
    "attempt_here",
    "results_in",
    "run_plain",
    "timed_attempt",
    "timed_attempt_async",
]

#: Ends the time limit of an attempt whose function has ended.
EndLimit = Callable[[], object]

_PHASES = {
    StateType.COMPLETED: COMPLETED,
    StateType.FAILED: FAILED,
    StateType.CANCELLED: CANCELLED,
    StateType.CRASHED: CRASHED,
}


def run_plain(call: Call) -> Any:
    """Calls the function of a task that asks for nothing special; raises what it raises. Hot; in the run's context."""
    CALL.set(call)
    if call.kwargs is None:
        return call.task.fn(*call.args)
    return call.task.fn(*call.args, **call.kwargs)


# ---------------------------------------------------------------------- one attempt


def attempt_here(
    frames: Frames,
    frame: Frame,
    call: Call,
    prepare: Callable[[Any], object] | None = None,
    end_limit: EndLimit | None = None,
) -> tuple[Outcome | None, Any, bool]:
    """Runs a call to the end of one attempt on this thread, where it can be interrupted meanwhile. Hot.

    Args:
        frames: of this thread.
        frame: of the run, not on the stack yet.
        call: the call, with its arguments filled in unless `prepare` does that.
        prepare: what comes first, when the run can be seen here; it is given the frame's run, and may raise `Interrupt`.
        end_limit: see `attempt`.

    Returns:
        The outcome, or `None` where there is no more to say than the value; the value; whether the run was interrupted,
        and then neither counts.
    """
    stack = frames.stack
    outcome: Outcome | None = None
    value: Any = None
    interrupted = False
    try:
        try:
            stack.append(frame)
            if prepare is not None:
                prepare(frame.run)
            if call.task.is_plain:
                context = call.context if call.attempt == 1 else call.context.copy()
                value = context.run(run_plain, call)
                if type(value) not in inputs.ATOMS:
                    outcome = returned(call, value)
                    if outcome.phase == COMPLETED and outcome.state is None:
                        value, outcome = outcome.value, None
            else:
                outcome = call.context.copy().run(attempt, call, end_limit)
        except Interrupt:
            interrupted = True
        except BaseException as error:
            outcome = call.context.copy().run(raised, call, error)
        # From here the run cannot be interrupted, unless it has been; then the exception may still come, up to where it
        # is withdrawn.
        try:
            del frame.armed
        except AttributeError:
            interrupted = True
            frames.finish(frame)
    except Interrupt:
        interrupted = True
        frames.finish(frame)
    if stack and stack[-1] is frame:
        stack.pop()
    return outcome, value, interrupted


def attempt(call: Call, end_limit: EndLimit | None = None, bare: bool = False) -> Outcome:
    """Runs one attempt; in the run's context.

    Args:
        call: the call.
        end_limit: called when the function has ended, and with it what the task's time limit is for, before it is
            decided what that means; may raise `Interrupt` if the time was over before.
        bare: whether the function is called whatever was kept, and nothing comes after that, no final hook either.

    Raises:
        Interrupt: the run was stopped from outside, who did so knows how it ended.
    """
    CALL.set(call)
    keeping = None if bare else call.task.keeping
    if keeping is not None:
        outcome: Outcome = keeping.attempt(call, end_limit, attempt)
        return concluded(call, outcome)
    started = call.clock = time.perf_counter()
    try:
        begin(call)
        call_running_hooks(call)
        value = call.task.fn(*call.args, **(call.kwargs or {}))
        if call.task.is_generator:
            value = list(value)
        if CALLS:
            ends_with(call)
    except Interrupt:
        raise
    except BaseException as error:
        seconds, ended = call.ran_since(started)
        if end_limit is not None:
            with shielded():
                end_limit()
        outcome = raised(call, error, ended)
    else:
        seconds = time.perf_counter() - started
        if end_limit is not None:
            with shielded():
                end_limit()
        outcome = _given(call, value)
    outcome.seconds = seconds
    return outcome if bare else concluded(call, outcome)


async def attempt_async(
    call: Call, end_limit: EndLimit | None = None, bare: bool = False
) -> Outcome:
    """As `attempt`, for coroutine functions; cancellation of the coroutine passes through, and `end_limit` may raise it."""
    CALL.set(call)
    keeping = None if bare else call.task.keeping
    if keeping is not None:
        return await concluded_async(
            call, await keeping.attempt_async(call, end_limit, attempt_async)
        )
    started = call.clock = time.perf_counter()
    cancelled = cancelled_class()
    try:
        begin(call)
        await call_running_hooks_async(call)
        if call.task.is_generator:
            value: Any = [item async for item in call.task.fn(*call.args, **(call.kwargs or {}))]
        else:
            value = await call.task.fn(*call.args, **(call.kwargs or {}))
            while isinstance(value, CoroutineType):  # `return other()`, where `other` is async too
                value = await value
        if CALLS:
            ends_with(call)
    except cancelled:
        raise
    except BaseException as error:
        seconds, ended = call.ran_since(started)
        if end_limit is not None:
            await _end_limit(end_limit)
        outcome = raised(call, error, ended)
    else:
        seconds = time.perf_counter() - started
        if end_limit is not None:
            await _end_limit(end_limit)
        outcome = _given(call, value)
    outcome.seconds = seconds
    return outcome if bare else await concluded_async(call, outcome)


async def _end_limit(end_limit: EndLimit) -> None:
    from anyio.lowlevel import checkpoint_if_cancelled

    end_limit()
    await checkpoint_if_cancelled()  # a coroutine that has taken no notice is stopped here


def begin(call: Call) -> None:
    task = call.task
    if task.task_run_name is not None and call.name is None:
        call.name = render_run_name(
            task.task_run_name, task.parameters(call.args, call.kwargs), task_name=task.name
        )
    flow_run = call.scope.flow_run if call.scope is not None else None
    log_prints_of(task.log_prints or (flow_run is not None and flow_run.log_prints))


def _given(call: Call, value: Any) -> Outcome:
    """How an attempt ends whose function has returned."""
    try:
        return returned(call, value)
    except Interrupt:
        raise
    except BaseException as error:
        return raised(call, error)


def returned(call: Call, value: Any) -> Outcome:
    """What a return value means for the run."""
    name = call.name
    if isinstance(value, State):
        return _from_state(call, value)
    if type(value) in inputs.ATOMS:
        return Outcome(COMPLETED, value, name=name)
    if (
        isinstance(value, (list, tuple, set))
        and value
        and all(isinstance(item, State) for item in value)
    ):
        return _from_state(call, aggregate_states(list(value)))
    found = inputs.collect((value,), None)
    if not found:
        return Outcome(COMPLETED, value, name=name)
    if all(run.done() for run in inputs.runs_among(found)):
        return Outcome(COMPLETED, results_in(value), name=name)
    # It waits for runs of others; who asked for the attempt lets them settle it, without holding a worker.
    return Outcome(WAITING, value, name=name)


def results_in(value: Any) -> Any:
    """A returned value with every future in it replaced by its result.

    Raises:
        Exception: that of the first run which did not complete.
    """

    def result_of(run: TaskFuture[Any], allow_failure: bool) -> Any:
        error = run.exception() if allow_failure else None
        return run.result() if error is None else error

    return inputs.replace_returned(value, result_of)


def _from_state(call: Call, state: State[Any]) -> Outcome:
    state = final_state(state)
    phase = _PHASES[state.type]
    if phase == COMPLETED:
        return Outcome(COMPLETED, state.data, state, name=call.name)
    value = get_state_exception(state)
    if phase == FAILED:
        delay = _retry_delay(call, state)
        if delay is not None:
            return Outcome(AWAITING_RETRY, value, state, delay, name=call.name)
    return Outcome(phase, value, state, name=call.name)


def raised(call: Call, error: BaseException, ended: float | None = None) -> Outcome:
    """What an exception means for the run: FAILED, another attempt, or CRASHED. The one way from there to an outcome.

    Args:
        call: the call.
        error: the exception.
        ended: when the attempt did, in seconds since the epoch; `None` for now.

    Raises:
        Interrupt: the run was stopped from outside meanwhile.
    """
    if CALLS:
        ends_with(call, error)
    try:
        return _raised(call, error, ended)
    except Interrupt:
        raise
    except BaseException as failure:  # of the user's, who decides about retries: there is none
        log_failure(failure, "How task run %r ends could not be decided", call.run_name())
        return Outcome(FAILED, error, name=call.name) if is_error(error) else _crash(call, error)


def _crash(call: Call, error: BaseException) -> Outcome:
    crash = CrashedRun(
        run_name=call.run_name(), message=f"the task raised {in_words(error)}", cause=error
    )
    return Outcome(CRASHED, crash, name=call.name)


def _raised(call: Call, error: BaseException, ended: float | None) -> Outcome:
    if not is_error(error):
        return _crash(call, error)
    if isinstance(error, TaskRunTimeout):
        state = TimedOut(str(error), data=error, timestamp=ended)
        delay = _retry_delay(call, state)
        if delay is None:
            return Outcome(FAILED, error, state, name=call.name)
        return Outcome(AWAITING_RETRY, error, state, delay, name=call.name)
    delay = _retry_delay(call, None, error, ended)
    if delay is None:
        return Outcome(FAILED, error, name=call.name)
    return Outcome(AWAITING_RETRY, error, None, delay, name=call.name)


def _retry_delay(
    call: Call,
    state: State[Any] | None,
    error: BaseException | None = None,
    ended: float | None = None,
) -> float | None:
    """Seconds until the next attempt, or `None` if there is to be none."""
    task = call.task
    if call.attempt > task.retries:
        return None
    if task.retry_condition_fn is not None:
        if state is None:
            assert error is not None  # either says why the attempt failed
            state = Failed(failure_message(error), data=error, timestamp=ended)
        try:
            state = call.own(state)
            if not task.retry_condition_fn(task, TaskRun(call, state), state):
                return None
        except Interrupt:
            raise
        except BaseException as failure:
            log_failure_of(call, failure, "retry_condition_fn raised; the run is not retried")
            return None
    try:
        return task.retry_delay(call.attempt)
    except Interrupt:
        raise
    except BaseException as failure:
        log_failure_of(call, failure, "retry_delay_seconds raised; the run is not retried")
        return None


def resolved(call: Call, value: Any) -> Outcome:
    """How a run ends whose return value waited for runs, now that these have ended; calls no final hook."""
    try:
        return Outcome(COMPLETED, results_in(value), name=call.name)
    except Interrupt:
        raise
    except BaseException as error:
        return raised(call, error)


def waited_for(call: Call, value: Any) -> Outcome:
    """As `resolved`, for who runs the call to its end: calls the final hooks too."""
    return concluded(call, resolved(call, value))


# ---------------------------------------------------------------------- time limits where the run itself waits


def timed_attempt(call: Call, on_returned: Callable[[], object] | None = None) -> Outcome:
    """One attempt in the current thread within the task's time limit, in a context of its own.

    Args:
        call: the call.
        on_returned: told when the function of a call with a time limit has ended.
    """
    limit = call.task.timeout_seconds
    if limit is None:
        return call.context.copy().run(attempt, call)
    outcome: Outcome | None = None
    with TimeLimit() as time_limit:
        time_limit.start(limit)

        def end_limit() -> None:
            time_limit.end()
            if on_returned is not None:
                on_returned()

        outcome = time_limit.expose(lambda: call.context.copy().run(attempt, call, end_limit))
    return overdue_outcome(call) if time_limit.expired or outcome is None else outcome


async def timed_attempt_async(
    call: Call, on_returned: Callable[[], object] | None = None
) -> Outcome:
    """As `timed_attempt`, on the current loop."""
    limit = call.task.timeout_seconds
    if limit is None:
        return await attempt_async(call)
    import anyio

    with anyio.move_on_after(limit) as scope:

        def end_limit() -> None:
            if anyio.current_time() >= scope.deadline:
                scope.cancel()  # it has not looked at the loop since
                return
            scope.deadline = math.inf
            if on_returned is not None:
                on_returned()

        return await attempt_async(call, end_limit)
    return await overdue_outcome_async(call)


def overdue(call: Call) -> TaskRunTimeout:
    """The error of an attempt that took longer than its limit."""
    return TaskRunTimeout(run_name=call.run_name(), timeout=call.task.timeout_seconds or 0.0)


def _timed_out(call: Call) -> Outcome:
    CALL.set(call)
    return concluded(call, raised(call, overdue(call)))


def overdue_outcome(call: Call) -> Outcome:
    """How an attempt ends that was stopped at its limit."""
    return call.context.copy().run(_timed_out, call)


async def overdue_outcome_async(call: Call) -> Outcome:
    """As `overdue_outcome`, on a loop."""
    return await concluded_async(call, raised(call, overdue(call)))
