"""Direct calls of tasks: every attempt in the caller's thread, or on the caller's loop.

May import `task_run` and what lies above it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from shoal.calls import AWAITING_RETRY, COMPLETED, CRASHED, FAILED, WAITING, Call, Outcome
from shoal.context import CALL, HERE, LOCK
from shoal.engine import inputs
from shoal.engine.task_run import (
    begin,
    concluded,
    logger_of,
    state_of,
    timed_attempt,
    timed_attempt_async,
    waited_for,
)
from shoal.engine.values import value_of
from shoal.exceptions import CancelledRun, CrashedRun
from shoal.futures import TaskFuture
from shoal.futures.awaiting import settled
from shoal.futures.blocking import block
from shoal.logs import name_of, set_up
from shoal.states import Cancelled, State
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ["call_directly", "call_directly_async", "sleep", "stream", "stream_async"]


def _bound_upstreams(call: Call, wait_for: Any) -> list[Any]:
    found = inputs.collect(call.args, call.kwargs)
    if wait_for is not None:
        found = [*found, *inputs.collect_wait_for(wait_for)]
    return found


def _fill_in(call: Call, found: list[Any]) -> None:
    """Puts the values of ended upstreams into the call.

    Raises:
        UpstreamTaskError: one did not complete.
    """
    for entry in found:
        value_of(entry.future, entry.allow_failure)
    call.args, kwargs = inputs.substitute(call.args, call.kwargs, value_of)
    call.kwargs = kwargs or None


def call_directly(call: Call, wait_for: Any, return_state: bool) -> Any:
    """Runs a call in the caller's thread, all its attempts, and gives its value or state.

    Raises:
        Exception: what the last attempt raised.
    """
    set_up()
    try:
        found = _bound_upstreams(call, wait_for)
        if found:
            block([entry.future for entry in found if isinstance(entry.future, TaskFuture)])
            _fill_in(call, found)
    except Exception as error:
        return _not_started(error, return_state)
    while True:
        outcome = timed_attempt(call)
        if outcome.phase == WAITING:
            outcome = waited_for(call, outcome.value)
        if outcome.phase != AWAITING_RETRY:
            return _finish(call, outcome, return_state)
        _log_retry(call, outcome)
        sleep(outcome.delay)
        call.attempt += 1


async def call_directly_async(call: Call, wait_for: Any, return_state: bool) -> Any:
    """As `call_directly`, for coroutine functions, on the caller's loop."""
    try:
        return await _call_async(call, wait_for, return_state)
    except BaseException as error:
        fold(error)
        raise


async def _call_async(call: Call, wait_for: Any, return_state: bool) -> Any:
    import anyio

    set_up()
    token = CALL.set(call)
    try:
        try:
            found = _bound_upstreams(call, wait_for)
            futures = [entry.future for entry in found if isinstance(entry.future, TaskFuture)]
            if futures:
                await settled(futures)
            _fill_in(call, found)
        except Exception as error:
            return _not_started(error, return_state)
        while True:
            outcome = await timed_attempt_async(call)
            if outcome.phase == WAITING:
                waiting = inputs.collect((outcome.value,), None)
                await settled(
                    [entry.future for entry in waiting if isinstance(entry.future, TaskFuture)]
                )
                outcome = waited_for(call, outcome.value)
            if outcome.phase != AWAITING_RETRY:
                return _finish(call, outcome, return_state)
            _log_retry(call, outcome)
            await anyio.sleep(outcome.delay)
            call.attempt += 1
    finally:
        CALL.reset(token)


def stream(call: Call, wait_for: Any) -> Iterator[Any]:
    """A direct call of a generator task: items as they are made; the run ends with the generator.

    What was given out can't be taken back, so such a run is neither retried nor timed; `submit` does both.
    """
    set_up()
    found = _bound_upstreams(call, wait_for)
    block([entry.future for entry in found if isinstance(entry.future, TaskFuture)])
    _fill_in(call, found)
    context = call.context.copy()
    context.run(CALL.set, call)
    return _streamed(call, context)


def _streamed(call: Call, context: Context) -> Iterator[Any]:
    try:
        context.run(begin, call)
        iterator = context.run(iter, call.task.fn(*call.args, **(call.kwargs or {})))
        while True:
            try:
                item = context.run(next, iterator)
            except StopIteration:
                break
            yield item
    except GeneratorExit:
        _log_end(call, Cancelled("the generator was closed"))
        raise
    except Exception as error:
        _finish(call, concluded(call, Outcome(FAILED, error)), return_state=True)
        fold(error)
        raise
    _finish(call, concluded(call, Outcome(COMPLETED, None)), return_state=True)


async def stream_async(call: Call, wait_for: Any) -> AsyncIterator[Any]:
    """As `stream`, for async generator tasks."""
    set_up()
    found = _bound_upstreams(call, wait_for)
    futures = [entry.future for entry in found if isinstance(entry.future, TaskFuture)]
    if futures:
        await settled(futures)
    _fill_in(call, found)
    try:
        begin(call)
        iterator = call.task.fn(*call.args, **(call.kwargs or {})).__aiter__()
        while True:
            token = CALL.set(call)
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                break
            finally:
                CALL.reset(token)
            yield item
    except GeneratorExit:
        _log_end(call, Cancelled("the generator was closed"))
        raise
    except Exception as error:
        _finish(call, concluded(call, Outcome(FAILED, error)), return_state=True)
        fold(error)
        raise
    _finish(call, concluded(call, Outcome(COMPLETED, None)), return_state=True)


def _log_end(call: Call, state: State[Any]) -> None:
    logger_of(call).log(
        logging.INFO if state.is_completed() else logging.ERROR, "Finished in state %s", str(state)
    )


def _log_retry(call: Call, outcome: Outcome) -> None:
    logger_of(call).info(
        "Attempt %d of %d did not complete (%s); the next begins in %g s",
        call.attempt,
        call.task.retries + 1,
        outcome.state
        if outcome.state is not None
        else f"{type(outcome.value).__name__}: {outcome.value}",
        round(outcome.delay, 3),
    )


def _not_started(error: Exception, return_state: bool) -> Any:
    if return_state:
        from shoal.states import NotReady

        return NotReady(str(error), data=error)
    raise error


def _finish(call: Call, outcome: Outcome, return_state: bool) -> Any:
    state = state_of(outcome)
    _log_end(call, state)
    if return_state:
        return state
    if outcome.phase == COMPLETED:
        return outcome.value
    error = outcome.value
    if outcome.phase == CRASHED and isinstance(error, CrashedRun) and error.cause is not None:
        raise error.cause  # in the caller's own thread a KeyboardInterrupt or SystemExit goes on its way
    if not isinstance(error, BaseException):
        error = CancelledRun(run_name=name_of(call))
    raise error


def sleep(seconds: float) -> None:
    """Waits out a retry's delay in the caller's thread, and wakes for an interrupt."""
    from shoal.futures.blocking import Countdown

    frames = HERE.frames
    if frames is None or not frames.stack:
        time.sleep(seconds)
        return
    countdown = Countdown()
    frames.enter_shield()
    try:
        with LOCK:
            frames.countdown = countdown
        countdown.wait(time.monotonic() + seconds)
    finally:
        frames.countdown = None
        frames.leave_shield()
