"""Direct calls of tasks: in the caller's thread or coroutine, with all that the run has to hold meanwhile.

    call_capped ─▶ a place of its caps ─▶ call ─▶ slots of its tags' limits ─▶ engine.direct_call

May import scheduling, limits and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.checks import named_after
from shoal.context import CALL, TAGS
from shoal.engine import direct_call
from shoal.limits.settings import limits_in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from shoal.calls import Call
    from shoal.scheduling.answers import Answers
    from shoal.specs import TaskSpec

__all__ = ["call", "call_capped"]


def call(
    task: TaskSpec,
    call: Call,
    wait_for: Any,
    return_state: bool,
    pause: Callable[[Callable[[], Any]], Any] | None = None,
) -> Any:
    """A direct call: its value or state, or what is to be awaited or iterated over.

    Args:
        task: the task.
        call: the call.
        wait_for: what must have ended first.
        return_state: whether to give the state.
        pause: waits without what the call holds, for its retries.

    Raises:
        Exception: what the run ends with.
    """
    around = CALL.get()
    if around is not None:
        call.caller = around
    flow_run = call.scope.flow_run if call.scope is not None else None
    if flow_run is not None and flow_run.keeping is not None:
        call.task = flow_run.keeping.said_of(task)
    tags = task.tags | TAGS.get()
    if tags and (limits_in_use() or (call.scope is not None and call.scope.limited)):
        return _call_limited(task, call, wait_for, return_state, tags)
    if task.is_generator and not return_state:
        if task.is_async:
            return direct_call.stream_async(call, wait_for)
        return direct_call.stream(call, wait_for, pause)
    if task.is_async:
        coroutine = direct_call.call_directly_async(call, wait_for, return_state)
        return named_after(coroutine, task.fn)
    return direct_call.call_directly(call, wait_for, return_state, pause)


def _call_limited(
    task: TaskSpec, call: Call, wait_for: Any, return_state: bool, tags: frozenset[str]
) -> Any:
    """A direct call that holds a slot of every limit of its tags."""
    from shoal.limits import holding

    if task.is_generator and not return_state:
        if task.is_async:
            items = direct_call.stream_async(call, wait_for)
            return holding.streaming_async(tags, call, items)
        return holding.streaming(tags, call, direct_call.stream(call, wait_for))
    if task.is_async:
        coroutine = direct_call.call_directly_async(call, wait_for, return_state)
        holder = holding.holding_async(tags, call, named_after(coroutine, task.fn))
        return named_after(holder, task.fn)
    with holding.holding(tags, call):
        return direct_call.call_directly(call, wait_for, return_state)


def call_capped(task: TaskSpec, made: Call, wait_for: Any, return_state: bool) -> Any:
    """As `call`, of a task that is under a cap; it has a place of it, but for what it waits."""
    dispatcher: Any = made.scope.dispatcher if made.scope is not None else None
    is_part = task.cap is None and CALL.get() is not None  # of the run that calls it
    if is_part or not hasattr(dispatcher, "calling"):  # outside of flow runs nothing is capped
        return call(task, made, wait_for, return_state)
    caps: Answers = dispatcher
    if task.is_async:
        from shoal.scheduling import calling

        running = call(task, made, wait_for, return_state)
        place = caps.place_of_call(task)
        if task.is_generator and not return_state:
            return calling.streamed_async(place, made, running)
        return named_after(calling.called_async(place, made, running), task.fn)
    if task.is_generator and not return_state:
        return _stream_capped(task, made, wait_for, caps)
    with caps.calling(task) as here:
        return call(task, made, wait_for, return_state, here.pause)


def _stream_capped(
    task: TaskSpec, made: Call, wait_for: Any, caps: Answers
) -> Generator[Any, Any, Any]:
    from shoal.engine.streams import stepwise

    with caps.calling(task, streams=True) as here:
        stream = call(task, made, wait_for, False, here.pause)
        return (yield from stepwise(stream, here.step))
