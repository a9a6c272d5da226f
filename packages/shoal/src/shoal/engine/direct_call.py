"""Direct calls of tasks: every attempt in the caller's thread, or on the caller's loop.

May import `task_run` and what lies above it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from shoal.calls import AWAITING_RETRY, COMPLETED, CRASHED, WAITING, Call, Outcome
from shoal.context import CALL, HERE, LOCK
from shoal.engine import inputs
from shoal.engine.hooks import (
    call_running_hooks,
    call_running_hooks_async,
    concluded,
    concluded_async,
    state_of,
)
from shoal.engine.inputs import runs_among, runs_in, value_of
from shoal.engine.interrupt import Interrupt
from shoal.engine.loops import cancelled_class
from shoal.engine.observing import observers
from shoal.engine.streams import Allowance, AsyncSteps, stepwise
from shoal.engine.task_run import (
    begin,
    overdue,
    raised,
    returned,
    timed_attempt,
    timed_attempt_async,
    waited_for,
)
from shoal.exceptions import CancelledRun, CrashedRun
from shoal.futures.awaiting import PLACES, settled, within
from shoal.futures.blocking import LENT, block
from shoal.logs import logger_of, set_up
from shoal.safely import in_words, is_raisable, text_of
from shoal.states import Cancelled, State
from shoal.tracebacks import fold

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
    call.args, call.kwargs = inputs.substitute(call.args, call.kwargs, value_of)


def call_directly(
    call: Call,
    wait_for: Any,
    return_state: bool,
    pause: Callable[[Callable[[], None]], object] | None = None,
) -> Any:
    """Runs a call in the caller's thread, all its attempts, and gives its value or state.

    Args:
        call: the call.
        wait_for: what must have ended first.
        return_state: whether to give the state.
        pause: waits without what the call holds.

    Raises:
        Exception: what the last attempt raised.
    """
    set_up()
    try:
        found = _bound_upstreams(call, wait_for)
        if found:
            block(runs_among(found))
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
        _wait_for_retry(outcome, pause)
        call.next_attempt(outcome.seconds, time.time())


def _wait_for_retry(outcome: Outcome, pause: Callable[[Callable[[], None]], object] | None) -> None:
    if pause is None:
        sleep(outcome.delay)
    else:
        pause(lambda: sleep(outcome.delay))


async def _wait_for_retry_async(call: Call, outcome: Outcome) -> None:
    import anyio

    place = PLACES.get(call.number)
    if place is not None:
        place.give_up(LENT, lambda: None)
    try:
        await anyio.sleep(outcome.delay)
    finally:
        if place is not None:
            with anyio.CancelScope(shield=True):
                await place.take_again(LENT)


async def call_directly_async(call: Call, wait_for: Any, return_state: bool) -> Any:
    """As `call_directly`, for coroutine functions, on the caller's loop."""
    try:
        return await _call_async(call, wait_for, return_state)
    except BaseException as error:
        fold(error)
        raise


async def _call_async(call: Call, wait_for: Any, return_state: bool) -> Any:
    set_up()
    with _current(call):
        try:
            found = _bound_upstreams(call, wait_for)
            futures = runs_among(found)
            if futures:
                await settled(futures)
            _fill_in(call, found)
        except Exception as error:
            return _not_started(error, return_state)
        while True:
            outcome = await timed_attempt_async(call)
            if outcome.phase == WAITING:
                await settled(runs_in(outcome.value))
                outcome = waited_for(call, outcome.value)
            if outcome.phase != AWAITING_RETRY:
                return _finish(call, outcome, return_state)
            _log_retry(call, outcome)
            await _wait_for_retry_async(call, outcome)
            call.next_attempt(outcome.seconds, time.time())


def stream(
    call: Call, wait_for: Any, pause: Callable[[Callable[[], None]], object] | None = None
) -> Generator[Any, Any, Any]:
    """A direct call of a generator task: items as they are made; the run ends with the generator.

    What was given out can't be taken back: an attempt after one that failed emits from the start again. The time
    limit is for what the generator does, and not for what is done with its items.
    """
    set_up()
    found = _bound_upstreams(call, wait_for)
    block(runs_among(found))
    _fill_in(call, found)
    return _attempts(call, pause)


def _attempts(
    call: Call, pause: Callable[[Callable[[], None]], object] | None
) -> Generator[Any, Any, Any]:
    while True:
        try:
            outcome = yield from stepwise(_emitted(call), call.context.copy().run)
        except GeneratorExit:
            _log_end(call, Cancelled("the generator was closed"))
            raise
        if outcome.phase == WAITING:
            block(runs_in(outcome.value))
            outcome = waited_for(call, outcome.value)
        if outcome.phase != AWAITING_RETRY:
            try:
                return _finish(call, outcome, return_state=False)
            except BaseException as error:
                fold(error)
                raise
        _log_retry(call, outcome)
        _wait_for_retry(outcome, pause)
        call.next_attempt(outcome.seconds, time.time())


def _emitted(call: Call) -> Generator[Any, Any, Outcome]:
    """One attempt, in the run's context."""
    limit = call.task.timeout_seconds
    CALL.set(call)
    try:
        call.clock = time.perf_counter()
        begin(call)
        call_running_hooks(call)
        items = call.task.fn(*call.args, **(call.kwargs or {}))
        if limit is not None:
            items = stepwise(items, Allowance(limit, lambda: overdue(call)))
        outcome = returned(call, (yield from items))
    except (GeneratorExit, Interrupt):
        raise
    except BaseException as error:
        outcome = raised(call, error)
    return concluded(call, outcome)


async def stream_async(call: Call, wait_for: Any) -> AsyncGenerator[Any, Any]:
    """As `stream`, for async generator tasks."""
    set_up()
    found = _bound_upstreams(call, wait_for)
    futures = runs_among(found)
    if futures:
        with _current(call):
            await settled(futures)
    _fill_in(call, found)
    cancelled = cancelled_class()
    while True:
        steps: AsyncSteps | None = None
        try:
            with _current(call):
                call.clock = time.perf_counter()
                begin(call)
                await call_running_hooks_async(call)
                items = call.task.fn(*call.args, **(call.kwargs or {}))
            steps = AsyncSteps(
                items, lambda: _current(call), call.task.timeout_seconds, lambda: overdue(call)
            )
            while True:
                item = await steps.next()
                try:
                    given = yield item
                except GeneratorExit:
                    _log_end(call, Cancelled("the generator was closed"))
                    raise
                except Exception as error:
                    steps.throw(error)
                else:
                    steps.send(given)
        except StopAsyncIteration:
            outcome = Outcome(COMPLETED, None)
        except (GeneratorExit, cancelled):
            raise
        except BaseException as error:
            with _current(call):
                outcome = raised(call, error)
        finally:
            if steps is not None:
                await steps.close()
        outcome = await concluded_async(call, outcome)
        if outcome.phase != AWAITING_RETRY:
            try:
                _finish(call, outcome, return_state=False)
            except BaseException as error:
                fold(error)
                raise
            return
        _log_retry(call, outcome)
        await _wait_for_retry_async(call, outcome)
        call.next_attempt(outcome.seconds, time.time())


@contextmanager
def _current(call: Call) -> Iterator[None]:
    """Code that belongs to a run, in the context of who calls it or iterates over what it emits."""
    with within(call.number):
        token = CALL.set(call)
        try:
            yield
        finally:
            CALL.reset(token)


def _log_end(call: Call, state: State[Any]) -> None:
    logger_of(call).log(
        logging.INFO if state.is_completed() else logging.ERROR, "Finished in state %s", str(state)
    )


def _tell(call: Call, outcome: Outcome) -> None:
    """Tells who observes that an attempt has ended."""
    if observers():
        now = time.time()
        began = call.began()
        if began is None:
            began = now - outcome.seconds
        for observer in observers():
            observer.called(call, outcome, began, now)


def _log_retry(call: Call, outcome: Outcome) -> None:
    _tell(call, outcome)
    logger_of(call).info(
        "Attempt %d of %d did not complete (%s); the next begins in %g s",
        call.attempt,
        call.task.retries + 1,
        outcome.state if outcome.state is not None else in_words(outcome.value),
        round(outcome.delay, 3),
    )


def _not_started(error: Exception, return_state: bool) -> Any:
    if return_state:
        from shoal.states import NotReady

        return NotReady(text_of(error), data=error)
    raise error


def _finish(call: Call, outcome: Outcome, return_state: bool) -> Any:
    _tell(call, outcome)
    state = call.own(state_of(outcome))
    _log_end(call, state)
    if return_state:
        return state
    if outcome.phase == COMPLETED:
        return outcome.value
    error = outcome.value
    if outcome.phase == CRASHED and isinstance(error, CrashedRun) and error.cause is not None:
        raise error.cause  # in the caller's own thread a KeyboardInterrupt or SystemExit goes on its way
    if not is_raisable(error):
        error = CancelledRun(run_name=call.run_name())
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
