"""Direct calls of tasks in the body of a flow whose runs are remembered.

What a task calls is a part of its run, and so is what a generator emits to the flow's body: neither is remembered by itself.

May import `journal`, `keeping`.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from shoal.calls import Call
from shoal.context import CALL, Scope
from shoal.names import next_number
from shoal.results.journal.keeping import cached
from shoal.results.journal.reading import MISSING

if TYPE_CHECKING:
    from shoal.results.journal.journal import Journal
    from shoal.results.journal.places import Place
    from shoal.specs import TaskSpec

__all__ = ["KeptScope"]


class KeptScope(Scope):
    """The scope of a flow's body whose direct calls are remembered."""

    __slots__ = ("calls",)

    def __init__(self, scope: Scope, journal: Journal, body: Place) -> None:
        super().__init__(scope.dispatcher, scope.flow_run)
        self.calls = _Calls(self, journal, body)


class _Calls:
    """Takes the direct calls."""

    def __init__(self, scope: KeptScope, journal: Journal, body: Place) -> None:
        self._scope = scope
        self._journal = journal
        self._body = body

    def call(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wait_for: Any,
        return_state: bool,
    ) -> Any:
        """See `Task.__call__`."""
        made = Call(task, args, kwargs or None, next_number(), copy_context(), self._scope)
        known = None
        if CALL.get() is None and not (task.is_generator and not return_state):
            known = self._journal.key_for(self._body, task, args, kwargs or None, wait_for)
        if known is None:
            return task.call_made(made, wait_for, return_state)
        of, key, doubts = known
        value = self._journal.value(key) if doubts is None else MISSING
        if value is not MISSING:
            self._journal.reuses(made.number, of, key)
            given = made.own(cached(value)) if return_state else value
            return _named(_given(given), task) if task.is_async else given
        self._journal.submits(made.number, of, key, doubts)
        running = task.call_made(made, wait_for, return_state)
        if task.is_async:
            return _named(self._awaited(running, made.number, return_state), task)
        self._ended(running, made.number, return_state)
        return running

    async def _awaited(self, running: Any, number: int, return_state: bool) -> Any:
        given = await running
        self._ended(given, number, return_state)
        return given

    def _ended(self, given: Any, number: int, return_state: bool) -> None:
        if not return_state:
            self._journal.completed(number, given)
        elif given.is_completed():
            self._journal.completed(number, given.result())


async def _given(value: Any) -> Any:
    return value


def _named(coroutine: Any, task: TaskSpec) -> Any:
    """Warnings of what is never awaited show the task."""
    coroutine.__name__ = coroutine.__qualname__ = task.name
    return coroutine
