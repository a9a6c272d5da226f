"""Generators of the user's, driven step by step: what runs and flows that stream have in common.

Between two steps the caller's code runs, in its own context and on its own time. May import `interrupt`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

from shoal.engine.interrupt import TimeLimit

__all__ = ["Allowance", "AsyncSteps", "stepwise"]

Step = Callable[[], Any]


def stepwise(
    stream: Generator[Any, Any, Any], call: Callable[[Step], Any]
) -> Generator[Any, Any, Any]:
    """What a generator yields and returns; what is sent to it or thrown into it arrives there.

    Args:
        stream: the generator.
        call: makes each step, say in a context.
    """
    step: Step = functools.partial(next, stream)
    try:
        while True:
            try:
                item = call(step)
            except StopIteration as end:
                return end.value
            try:
                given = yield item
            except GeneratorExit:
                raise
            except BaseException as error:
                step = functools.partial(stream.throw, error)
            else:
                step = functools.partial(stream.send, given)
    finally:
        call(stream.close)


class Allowance:
    """The time that a generator may take, all its steps together; for `stepwise`.

    Args:
        seconds: how long.
        overdue: makes the error of one that takes longer.
        at_end: called too when the time is over, on a service thread.
    """

    def __init__(
        self,
        seconds: float,
        overdue: Callable[[], Exception],
        at_end: Callable[[], object] | None = None,
    ) -> None:
        self._left = seconds
        self._overdue = overdue
        self._at_end = at_end

    def __call__(self, step: Step) -> Any:
        item = None
        with TimeLimit() as limit:
            limit.start(self._left, self._at_end)
            began = time.monotonic()
            try:
                item = limit.expose(step)
            finally:
                self._left = max(self._left - (time.monotonic() - began), 0.0)
        if limit.expired:
            raise self._overdue()
        return item


class AsyncSteps:
    """The steps of an async generator.

    Args:
        stream: the generator.
        inside: gives what surrounds each step.
        seconds: how long all of them together may take, `None` for any time.
        overdue: makes the error of one that takes longer.
    """

    def __init__(
        self,
        stream: AsyncGenerator[Any, Any],
        inside: Callable[[], AbstractContextManager[Any]],
        seconds: float | None,
        overdue: Callable[[], Exception],
    ) -> None:
        self._stream = stream
        self._inside = inside
        self._left = seconds
        self._overdue = overdue
        self._step: Callable[[], Awaitable[Any]] = functools.partial(anext, stream)

    async def next(self) -> Any:
        """The next item.

        Raises:
            StopAsyncIteration: there is none.
        """
        import anyio

        began = time.monotonic()
        with anyio.move_on_after(self._left) as scope, self._inside():
            item = await self._step()
        if scope.cancelled_caught:
            raise self._overdue()
        if self._left is not None:
            self._left = max(self._left - (time.monotonic() - began), 0.0)
        return item

    def send(self, given: Any) -> None:
        """What the next step is given."""
        self._step = functools.partial(self._stream.asend, given)

    def throw(self, error: BaseException) -> None:
        """What the next step raises in the generator."""
        self._step = functools.partial(self._stream.athrow, error)

    async def close(self) -> None:
        """Closes the generator, if it has not ended."""
        with self._inside():
            await self._stream.aclose()
