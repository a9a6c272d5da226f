"""Slots of the limits of tags: for runs that a dispatcher asks for, and around those that happen in the caller's own thread
or coroutine, direct calls.

May import `slots`.
"""

from __future__ import annotations

import os
import socket
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ShoalError
from shoal.futures.awaiting import waker
from shoal.limits.settings import lease_seconds
from shoal.limits.slots import KEEPER
from shoal.limits.store import TAG, Acquired, Holder, Request
from shoal.names import run_uuid, task_run_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator

    from shoal.calls import Call

__all__ = [
    "GATE",
    "Gate",
    "holder_here",
    "holding",
    "holding_async",
    "streaming",
    "streaming_async",
]


def holder_here(id: str, run: str = "", label: str = "") -> Holder:
    """Who asks for slots in this process; see `Holder`."""
    return Holder(id, run, socket.gethostname(), os.getpid(), label)


def _request(tags: frozenset[str], run_id: str, run: str) -> Request:
    names = frozenset(TAG + tag for tag in tags)
    return Request(names, holder_here(run_id, run), lease_seconds=lease_seconds())


class Gate:
    """Slots of the tags of runs; see `shoal.scheduling.intake.Gate`."""

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
            request = _request(tags, run_id, run_name)
        except ShoalError as error:  # a setting
            on_outcome(error)
        else:
            KEEPER.request(request, decided)

    def release(self, run_id: str) -> None:
        """See `SlotKeeper.release`."""
        KEEPER.release(run_id)


#: What dispatchers ask where there are limits.
GATE = Gate()


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
        self._request = _request_of(tags, call)

    def __enter__(self) -> None:
        KEEPER.acquire_blocking(self._request)

    def __exit__(self, *_: object) -> None:
        KEEPER.release(self._request.holder.id)


def _request_of(tags: frozenset[str], call: Call) -> Request:
    return _request(tags, run_uuid(call.number), task_run_name(call.task.name, call.number))


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
    request = _request_of(tags, call)
    event, wake = waker()
    refusals: list[ShoalError] = []

    def decided(outcome: Acquired | ShoalError) -> None:
        if not isinstance(outcome, Acquired):
            refusals.append(outcome)
        wake()

    try:
        KEEPER.request(request, decided)
        await event.wait()
        if refusals:
            raise refusals[0]
        yield
    finally:
        KEEPER.release(request.holder.id)


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
