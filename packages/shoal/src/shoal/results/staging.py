"""What is run in a transaction: direct calls and submitted runs are taken by it, and go on as ever.

    Task.__call__ ─▶ `calls` of the scope      ─▶ a transaction of the run's own, within that of the block
    Task.submit   ─▶ `dispatcher` of the scope ─▶ the run; the transaction of the block waits for it

Who enters a transaction puts such a scope in the place of the one that was there; without one, nothing here is ever reached.

A submitted run may be on any worker, and knows nothing of the transaction: it keeps no result, as nobody here could remove it,
and no journal remembers it. A direct call keeps its result, and that is removed if it is rolled back; no journal remembers it
either. May import `within`, on use `options`, and what lies above task runners.
"""

from __future__ import annotations

import weakref
from contextlib import aclosing, contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from shoal.calls import Call
from shoal.context import SCOPE, Scope
from shoal.exceptions import CrashedRun, MissingContextError
from shoal.names import next_number
from shoal.results.within import NOTED
from shoal.states import State, get_state_exception

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

    from shoal.context import FlowRun
    from shoal.results.storage import Ref
    from shoal.specs import TaskSpec

__all__ = ["CURRENT", "Submitted", "current", "is_in_transaction", "scope_in_transaction"]


class Surrounding(Protocol):
    """A transaction, as those see it who run something in it; see `BaseTransaction`."""

    kept: list[Ref]

    def child_of(self, task: TaskSpec) -> Any:
        """The transaction of a run in it."""

    def submitted(self, task: TaskSpec, futures: Any) -> None:
        """Runs of a task were submitted in it."""


#: The transaction around the code; in a task that was called in one, that of its run.
CURRENT: ContextVar[Any] = ContextVar("shoal_transaction", default=None)

#: By task, its copies that are submitted in a transaction: one each, as a runner sends each task once.
_COPIES: weakref.WeakKeyDictionary[TaskSpec, dict[bool, TaskSpec]] = weakref.WeakKeyDictionary()


class Submitted(NamedTuple):
    """Runs that were submitted in a transaction.

    Attributes:
        task: their task.
        futures: one each.
        position: how much was staged before.
    """

    task: TaskSpec
    futures: Any
    position: int


def scope_in_transaction() -> Scope:
    """The scope that is to be in force in a transaction which begins here."""
    scope = SCOPE.get()
    is_drawn = scope is not None and scope.drawing is not None
    if scope is not None and (is_drawn or isinstance(scope, _ScopeInTransaction)):
        return scope
    return _ScopeInTransaction(scope)


def is_in_transaction() -> bool:
    """Whether a run here is part of the transaction around: not in a flow that was called in its block."""
    scope = SCOPE.get()
    return CURRENT.get() is not None and scope is not None and isinstance(scope.calls, _Calls)


class _ScopeInTransaction(Scope):
    """See above.

    Args:
        around: the scope in whose place it stands; `None` outside of flows.
    """

    __slots__ = ("_around", "_taker", "calls")

    def __init__(self, around: Scope | None) -> None:
        self.flow_run = around.flow_run if around is not None else None
        self._around = around
        self._taker: Any = None
        self.calls = _Calls(around)

    @property
    def dispatcher(self) -> Any:  # type: ignore[override]  # nobody assigns it
        """As around, but for that; made on first use, as that may be."""
        if self._taker is None:
            self._taker = _Taker(self._around)
        return self._taker

    @property
    def own_dispatcher(self) -> Any:
        """See `Scope`."""
        return self._around.own_dispatcher if self._around is not None else None

    @property
    def keeper(self) -> Any:
        """See `Scope`."""
        return self._around.keeper if self._around is not None else None

    @property
    def limited(self) -> bool:
        """See `Scope`."""
        return self._around is not None and self._around.limited


@contextmanager
def current(transaction: Surrounding | None) -> Iterator[None]:
    """Within is that transaction; `None`: none, as where hooks are called, and in submitted runs."""
    tokens = CURRENT.set(transaction), NOTED.set(None if transaction is None else transaction.kept)
    try:
        yield
    finally:
        CURRENT.reset(tokens[0])
        NOTED.reset(tokens[1])


# ---------------------------------------------------------------------- submitted runs


class _Taker:
    """A dispatcher that tells the transaction of what is submitted.

    Args:
        around: the scope that runs belong to; `None` outside of flows, where none is taken.
    """

    def __init__(self, around: Scope | None) -> None:
        self._around = around

    def __getattr__(self, name: str) -> Any:
        if self._around is None:
            raise AttributeError(name)
        return getattr(self._around.dispatcher, name)

    def submit(
        self, task: TaskSpec, args: tuple[Any, ...], kwargs: Any, wait_for: Any, scope: Scope
    ) -> Any:
        """See `Submitter`."""
        around, transaction = self._scope(task), CURRENT.get()
        if transaction is None:  # who submits is a submitted run itself
            return around.dispatcher.submit(task, args, kwargs, wait_for, around)
        with current(None):
            future = around.dispatcher.submit(
                _submitted(task, around.flow_run), args, kwargs, wait_for, around
            )
        transaction.submitted(task, (future,))
        return future

    def submit_map(
        self,
        task: TaskSpec,
        positional: Any,
        keywords: Any,
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> Any:
        """See `Submitter`."""
        around, transaction = self._scope(task), CURRENT.get()
        given = positional, keywords, size, wait_for, around
        if transaction is None:
            return around.dispatcher.submit_map(task, *given)
        with current(None):
            futures = around.dispatcher.submit_map(_submitted(task, around.flow_run), *given)
        transaction.submitted(task, futures)
        return futures

    def _scope(self, task: TaskSpec) -> Scope:
        if self._around is None:
            raise MissingContextError(task_name=task.name)
        return self._around


def _submitted(task: TaskSpec, flow_run: FlowRun | None) -> TaskSpec:
    """A task whose runs leave to the transaction what they would do at their end."""
    keeps = _keeps(task, flow_run)
    copies = _COPIES.setdefault(task, {})
    copy = copies.get(keeps)
    if copy is None:
        copy = object.__new__(type(task))
        copy.__dict__.update(task.__dict__)
        copy.on_commit_hooks = copy.on_rollback_hooks = []  # called here, so they need not travel
        copy.is_remembered = False
        if keeps:
            from shoal.results.options import ResultOptions

            own: Any = task.keeping or ResultOptions()
            copy.keeping = own._replace(persist=False)
        copy.update_plain()
        copies[keeps] = copy
    return copy


def _keeps(task: TaskSpec, flow_run: FlowRun | None) -> bool:
    """Whether something was said about keeping results."""
    return task.keeping is not None or (flow_run is not None and flow_run.keeping is not None)


# ---------------------------------------------------------------------- direct calls


class _Calls:
    """Takes the direct calls: see `Task.__call__`."""

    def __init__(self, around: Scope | None) -> None:
        self._around = around

    def call(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wait_for: Any,
        return_state: bool,
    ) -> Any:
        """A direct call, in a transaction of its own."""
        transaction = CURRENT.get()
        if transaction is None:
            return self._call(task, args, kwargs, wait_for, return_state)
        child = transaction.child_of(task)
        streams = task.is_generator and not return_state
        # What was kept before is nothing that could be undone, and that it was the state says.
        by_state = return_state or (
            not streams and _keeps(task, self._around.flow_run if self._around else None)
        )
        given = task, args, kwargs, wait_for, by_state
        if task.is_async and not streams:
            return self._awaited(child, given, return_state)
        if streams:
            with current(child):
                stream = self._call(*given)
            return _streamed_async(child, stream) if task.is_async else _streamed(child, stream)
        try:
            with current(child):
                value = self._call(*given)
        except BaseException as error:
            child.end(error)
            raise
        child.end(_failure(value, by_state), counts=_counts(value, by_state))
        return value if return_state or not by_state else _value(value)

    def _call(
        self, task: TaskSpec, args: Any, kwargs: Any, wait_for: Any, return_state: bool
    ) -> Any:
        call = Call(task, args, kwargs or None, next_number(), copy_context(), self._around)
        return task.call_made(call, wait_for, return_state)

    async def _awaited(self, child: Any, given: tuple[Any, ...], return_state: bool) -> Any:
        by_state = given[-1]
        try:
            with current(child):
                value = await self._call(*given)
        except BaseException as error:
            await child.end_async(error)
            raise
        await child.end_async(_failure(value, by_state), counts=_counts(value, by_state))
        return value if return_state or not by_state else _value(value)


def _failure(value: Any, by_state: bool) -> BaseException | None:
    """Why a run did not complete; `None` if it has."""
    if not by_state or value.is_completed():
        return None
    return get_state_exception(value)


def _counts(value: Any, by_state: bool) -> bool:
    """Whether a run was executed, and not found."""
    return not by_state or value.name != "Cached"


def _value(state: State[Any]) -> Any:
    """What a direct call gives or raises that ended in a state."""
    if not state.is_completed():
        error = get_state_exception(state)
        if isinstance(error, CrashedRun) and error.cause is not None:
            raise error.cause
    return state.result()


def _streamed(child: Any, stream: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        value = yield from stream
    except BaseException as error:
        # Who has had enough of it has closed it.
        child.end(None if isinstance(error, GeneratorExit) else error)
        raise
    child.end(None)
    return value


async def _streamed_async(child: Any, stream: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    try:
        async with aclosing(stream):
            async for item in stream:
                yield item
    except BaseException as error:
        await child.end_async(None if isinstance(error, GeneratorExit) else error)
        raise
    await child.end_async(None)
