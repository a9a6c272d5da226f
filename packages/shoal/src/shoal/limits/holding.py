"""Slots for runs that happen in the caller's own thread or coroutine: direct calls.

May import `slots`.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from shoal.futures.awaiting import waker
from shoal.limits.slots import KEEPER
from shoal.names import run_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator

    from shoal.exceptions import ConcurrencyLimitError

__all__ = ["holding", "holding_async", "streaming", "streaming_async"]


class holding:  # reads as a verb: `with holding(tags, number):`
    """Holds a slot of every limit of a run's tags, waiting for them first.

    Args:
        tags: of the run.
        number: of the run.

    Raises:
        ConcurrencyLimitError: on entering: a limit is 0.
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, tags: frozenset[str], number: int) -> None:
        self._tags = tags
        self._run_id = run_uuid(number)

    def __enter__(self) -> None:
        KEEPER.acquire_blocking(self._tags, self._run_id)

    def __exit__(self, *_: object) -> None:
        KEEPER.release(self._run_id)


async def holding_async(
    tags: frozenset[str], number: int, coroutine: Coroutine[Any, Any, Any]
) -> Any:
    """As `holding`, around a coroutine.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    try:
        async with _held(tags, number):
            return await coroutine
    finally:
        coroutine.close()  # it may not have begun


@asynccontextmanager
async def _held(tags: frozenset[str], number: int) -> AsyncIterator[None]:
    run_id = run_uuid(number)
    event, wake = waker()
    refusals: list[ConcurrencyLimitError] = []

    def decided(refusal: ConcurrencyLimitError | None) -> None:
        if refusal is not None:
            refusals.append(refusal)
        wake()

    try:
        KEEPER.request(tags, run_id, decided)
        await event.wait()
        if refusals:
            raise refusals[0]
        yield
    finally:
        KEEPER.release(run_id)


def streaming(
    tags: frozenset[str], number: int, stream: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """As `holding`, from the first item of a generator to its end.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    with holding(tags, number):
        return (yield from stream)


async def streaming_async(
    tags: frozenset[str], number: int, stream: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """As `streaming`, for an async generator.

    Raises:
        ConcurrencyLimitError: a limit is 0.
    """
    async with _held(tags, number), aclosing(stream):
        async for item in stream:
            yield item
