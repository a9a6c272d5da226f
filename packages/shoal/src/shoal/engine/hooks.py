"""Calls the user's hooks on a task run: at an attempt's begin, and at its end. One that raises is logged, and harms no run.

May import futures and what lies above them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED, CRASHED, FAILED, Call, Outcome
from shoal.context import CALL, TaskRun
from shoal.engine.interrupt import Interrupt
from shoal.engine.loops import SERVICE_LOOP, cancelled_class
from shoal.logs import log_failure, logger_of
from shoal.safely import in_words, kind_of, repr_of, text_of
from shoal.states import Completed, Crashed, Failed, Retrying, Running, State

if TYPE_CHECKING:
    from shoal.specs import TaskSpec

__all__ = [
    "call_running_hooks",
    "call_running_hooks_async",
    "concluded",
    "concluded_async",
    "failure_message",
    "log_failure_of",
    "name_of_hook",
    "run_final_hooks",
    "state_of",
]


def failure_message(error: BaseException) -> str:
    """The message of the state of a run that raised."""
    return f"Task run encountered an exception {in_words(error)}"


def state_of(outcome: Outcome) -> State[Any]:
    """The state that an outcome leads to."""
    if outcome.state is not None:
        return outcome.state
    if outcome.phase == COMPLETED:
        return Completed(data=outcome.value)
    if outcome.phase == CRASHED:
        return Crashed(text_of(outcome.value), data=outcome.value)
    return Failed(failure_message(outcome.value), data=outcome.value)


def _running(call: Call) -> State[Any]:
    now = call.began()
    return call.own(Running(timestamp=now) if call.attempt == 1 else Retrying(timestamp=now))


def call_running_hooks(call: Call) -> None:
    """Calls the hooks of an attempt's begin; in the run's context."""
    for hook in call.task.on_running_hooks:
        _call_hook(hook, call, _running(call))


async def call_running_hooks_async(call: Call) -> None:
    """As `call_running_hooks`, on a loop."""
    for hook in call.task.on_running_hooks:
        await _call_hook_async(hook, call, _running(call))


def _final_hooks(task: TaskSpec, outcome: Outcome) -> list[Callable[..., Any]]:
    if outcome.phase == COMPLETED:
        return task.completed_hooks
    return task.on_failure_hooks if outcome.phase == FAILED else []


def concluded(call: Call, outcome: Outcome) -> Outcome:
    """Calls the hooks of an attempt's end, which know of the run that they are about."""
    hooks = _final_hooks(call.task, outcome)
    if hooks:
        state = call.own(state_of(outcome))
        token = CALL.set(call)
        try:
            for hook in hooks:
                _call_hook(hook, call, state)
        finally:
            CALL.reset(token)
    return outcome


async def concluded_async(call: Call, outcome: Outcome) -> Outcome:
    """As `concluded`, on a loop."""
    hooks = _final_hooks(call.task, outcome)
    if hooks:
        state = call.own(state_of(outcome))
        token = CALL.set(call)
        try:
            for hook in hooks:
                await _call_hook_async(hook, call, state)
        finally:
            CALL.reset(token)
    return outcome


def run_final_hooks(call: Call, outcome: Outcome) -> None:
    """Calls the hooks of an end that was decided elsewhere than on the worker (a stop by force, a late timeout)."""
    call.context.copy().run(concluded, call, outcome)


def _call_hook(hook: Callable[..., Any], call: Call, state: State[Any]) -> None:
    try:
        result = hook(call.task, TaskRun(call, state), state)
        if hasattr(result, "__await__"):
            SERVICE_LOOP.run(result)
    except (Interrupt, KeyboardInterrupt):
        raise
    except BaseException as error:
        _hook_raised(call, hook, error)


async def _call_hook_async(hook: Callable[..., Any], call: Call, state: State[Any]) -> None:
    try:
        result = hook(call.task, TaskRun(call, state), state)
        if hasattr(result, "__await__"):
            await result
    except (KeyboardInterrupt, cancelled_class()):
        raise
    except BaseException as error:
        _hook_raised(call, hook, error)


def _hook_raised(call: Call, hook: Callable[..., Any], error: BaseException) -> None:
    log_failure_of(call, error, f"Hook {name_of_hook(hook)} raised")


def name_of_hook(hook: Callable[..., Any]) -> str:
    """What a hook is called in log lines."""
    try:
        return repr_of(getattr(hook, "__name__", hook))
    except BaseException:
        return kind_of(hook)


def log_failure_of(call: Call, error: BaseException, text: str) -> None:
    """Logs an error under a run's name."""
    log_failure(error, text, logger=logger_of(call))
