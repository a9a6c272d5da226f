"""Slots of the limits of tags: for runs that a dispatcher asks for, and around those that happen in the caller's own thread
or coroutine, direct calls.

May import `slots`.
"""

from __future__ import annotations

import os
import socket
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from shoal.context import SCOPE
from shoal.engine.interrupt import raise_if_due, shielded
from shoal.exceptions import ShoalError
from shoal.futures.blocking import Countdown, Decision, block, block_plainly
from shoal.limits.settings import lease_seconds
from shoal.limits.slots import KEEPER
from shoal.limits.store import TAG, Acquired, Holder, Request
from shoal.names import run_uuid, task_run_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
    from typing import TypeAlias

    from shoal.calls import Call

    #: Of whom slots are asked: the keeper of this process, or a worker's way to its driver's.
    Keeper: TypeAlias = Any

__all__ = [
    "GATE",
    "Gate",
    "default_lease",
    "holder_here",
    "holding",
    "holding_async",
    "keeper_here",
    "streaming",
    "streaming_async",
    "wait_for",
]


def holder_here(id: str, run: str = "", label: str = "") -> Holder:
    """Who asks for slots in this process; see `Holder`."""
    return Holder(id, run, socket.gethostname(), os.getpid(), label)


def keeper_here() -> Keeper:
    """Of whom code here asks slots."""
    scope = SCOPE.get()
    keeper = scope.keeper if scope is not None else None
    return KEEPER if keeper is None else keeper


def default_lease(keeper: Keeper) -> float:
    """How long slots outlive who keeps the leases, in seconds; 0 for as long as the driver says, where that does."""
    return lease_seconds() if keeper is KEEPER else 0.0


def wait_for(decision: Decision) -> None:
    """Waits for a keeper's answer in the caller's thread, which lends its worker meanwhile; in a shield.

    Raises:
        Interrupt: the run that waits is to end.
    """
    block((decision,))
    raise_if_due(shielded=True)
    if not decision.done():
        # Interrupted was a run beneath this one, and its turn comes when this one has ended.
        block_plainly(Countdown(), (decision,), None)


def _request(keeper: Keeper, tags: frozenset[str], run_id: str, run: str) -> Request:
    names = frozenset(TAG + tag for tag in tags)
    return Request(names, holder_here(run_id, run), lease_seconds=default_lease(keeper))


class Gate:
    """Slots of the tags of runs; see `shoal.scheduling.intake.Gate`.

    Args:
        keeper: of whom they are asked.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def request(
        self,
        tags: frozenset[str],
        run_id: str,
        run_name: str,
        on_outcome: Callable[[ShoalError | None], object],
    ) -> None:
        """See `SlotKeeper.request`."""

        def decided(outcome: Acquired | ShoalError) -> None:
            on_outcome(None if isinstance(outcome, Acquired) else outcome)

        try:
            request = _request(self._keeper, tags, run_id, run_name)
        except ShoalError as error:  # a setting
            on_outcome(error)
        else:
            self._keeper.request(request, decided)

    def release(self, run_id: str) -> None:
        """See `SlotKeeper.release`."""
        self._keeper.release(run_id)


#: What dispatchers ask where there are limits.
GATE = Gate(KEEPER)


class holding:  # reads as a verb: `with holding(tags, call):`
    """Holds a slot of every limit of a run's tags, waiting for them first.

    Args:
        tags: of the run.
        call: the run.

    Raises:
        ConcurrencyLimitError: on entering: a limit is 0.
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, tags: frozenset[str], call: Call) -> None:
        self._keeper = keeper_here()
        self._request = _request_of(self._keeper, tags, call)

    def __enter__(self) -> None:
        decision = Decision()
        try:
            with shielded():
                self._keeper.request(self._request, decision)
                wait_for(decision)
            _see(decision)
        except BaseException:
            self._keeper.release(self._request.holder.id)
            raise

    def __exit__(self, *_: object) -> None:
        self._keeper.release(self._request.holder.id)


def _request_of(keeper: Keeper, tags: frozenset[str], call: Call) -> Request:
    name = task_run_name(call.task.name, call.number)
    return _request(keeper, tags, run_uuid(call.number), name)


def _see(decision: Decision) -> None:
    """Raises the error that a keeper has answered with, if it was one."""
    if not isinstance(decision.answer, Acquired):
        raise decision.answer


async def holding_async(
    tags: frozenset[str], call: Call, coroutine: Coroutine[Any, Any, Any]
) -> Any:
    """As `holding`, around a coroutine.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    try:
        async with _held(tags, call):
            return await coroutine
    finally:
        coroutine.close()  # it may not have begun


@asynccontextmanager
async def _held(tags: frozenset[str], call: Call) -> AsyncIterator[None]:
    from shoal.futures.awaiting import settled

    keeper = keeper_here()
    request = _request_of(keeper, tags, call)
    decision = Decision()
    try:
        keeper.request(request, decision)
        await settled((decision,))
        _see(decision)
        yield
    finally:
        keeper.release(request.holder.id)


def streaming(
    tags: frozenset[str], call: Call, stream: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """As `holding`, from the first item of a generator to its end.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    with holding(tags, call):
        return (yield from stream)


async def streaming_async(
    tags: frozenset[str], call: Call, stream: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """As `streaming`, for an async generator.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    async with _held(tags, call), aclosing(stream):
        async for item in stream:
            yield item
