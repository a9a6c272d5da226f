"""How a coroutine waits for runs, on any loop.

Waking a loop from another thread never blocks: `call_soon_threadsafe` under asyncio, `run_sync_soon` under trio.
May import `run`; asyncio and anyio are imported on use.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from shoal.context import CALL, INHERITED, LOCK
from shoal.futures.blocking import (
    ALL,
    BEARERS,
    Arrivals,
    Countdown,
    Wait,
    refuse_inherited,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.futures.blocking import Wanted
    from shoal.futures.run import TaskFuture

__all__ = [
    "PLACES",
    "WITHIN",
    "AsyncArrivals",
    "Place",
    "place_here",
    "settled",
    "task_here",
    "waker",
]


def task_here() -> Any:
    """The task of an event loop in which the caller runs, if any."""
    # What another thread is just importing has no loop here, and perhaps not yet the function.
    running = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if running is not None:
        with suppress(RuntimeError):
            loop = running()
            return sys.modules["asyncio"].current_task() or loop
    current = getattr(getattr(sys.modules.get("trio"), "lowlevel", None), "current_task", None)
    if current is not None:
        with suppress(RuntimeError):
            return current()
    return None


class Place(Protocol):
    """What a coroutine of a runner with a limit holds while it does not wait for runs."""

    def give_up(self, wanted: Wanted, wake: Callable[[], None], until: int = ALL, /) -> None:
        """It is about to wait; `wake` ends the wait early. `until`: see `Wait`."""

    async def take_again(self) -> None:
        """It goes on."""


#: The places of the coroutines on the service loop, by run number.
PLACES: dict[int, Place] = {}

#: By the number of what a coroutine has called directly, that of the coroutine: it is a part of that.
WITHIN: dict[int, int] = {}


def place_here() -> Place | None:
    """The place of the coroutine in which the caller runs, if it has one."""
    call = CALL.get()
    number = call.number if call is not None else None
    while number is not None and number not in PLACES:
        number = WITHIN.get(number)
    return PLACES[number] if number is not None else None


def waker() -> tuple[Any, Callable[[], None]]:
    """An event of the running loop, and a function that sets it from any thread without blocking.

    Returns:
        The event (`await event.wait()`, under asyncio and trio) and the function.
    """
    import anyio

    event = anyio.Event()
    if "trio" in sys.modules:
        import trio

        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            token = None
        if token is not None:
            trio_token = token

            def wake_trio() -> None:
                try:
                    trio_token.run_sync_soon(event.set, idempotent=True)
                except trio.RunFinishedError:
                    return  # the loop that waited is gone, and with it who waited

            return event, wake_trio
    import asyncio

    loop = asyncio.get_running_loop()

    def wake_asyncio() -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            return  # closed: as above

    return event, wake_asyncio


class _LoopCountdown(Countdown):
    """A countdown that wakes a coroutine."""

    __slots__ = ()

    def __init__(self, fail_fast: bool, wake: Callable[[], None]) -> None:
        super().__init__(fail_fast)
        self._wake = wake


async def settled(wanted: Wanted, timeout: float | None = None, fail_fast: bool = False) -> bool:
    """Waits for futures without blocking the loop.

    Args:
        wanted: futures or a map.
        timeout: seconds, or `None`.
        fail_fast: whether the first failure ends the wait.

    Returns:
        False if `timeout` was over first.
    """
    import anyio

    if INHERITED:
        refuse_inherited(wanted)
    event, wake = waker()
    countdown = _LoopCountdown(fail_fast, wake)
    with LOCK:
        countdown.watch(wanted)
        if not countdown.pending:
            return True
    # A coroutine on the service loop holds a place of its runner while it runs, not while it waits.
    place = place_here() if PLACES else None
    wait = Wait(wanted, until(timeout, fail_fast))
    if place is not None:
        place.give_up(wanted, wake, wait.until)
    bearer = BEARERS.get(task_here()) if BEARERS else None
    if bearer is not None:
        bearer.begin(wait)
    try:
        with anyio.move_on_after(timeout) as scope:
            await event.wait()
        return not scope.cancelled_caught
    finally:
        if bearer is not None:
            bearer.end(wait)
        with LOCK:
            if countdown.pending:
                countdown.forget(wanted)
        if place is not None:
            with anyio.CancelScope(shield=True):
                await place.take_again()


class AsyncArrivals:
    """Futures as they end, for `async for`.

    Args:
        futures: the futures.
        deadline: of `time.monotonic`, or `None`.
        expired: makes the error of a deadline that is over, given how many futures came before.
    """

    def __init__(
        self,
        futures: Sequence[TaskFuture[Any]],
        deadline: float | None,
        expired: Callable[[int], Exception],
    ) -> None:
        self._total = len(futures)
        self._given = 0
        self._deadline = deadline
        self._expired = expired
        self._event, wake = waker()
        self._arrivals = Arrivals(futures, wake)

    async def __anext__(self) -> TaskFuture[Any]:
        import time

        import anyio

        if self._given == self._total:
            raise StopAsyncIteration
        queue = self._arrivals.queue
        while queue.empty():
            left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
            with anyio.move_on_after(left) as scope:
                await self._event.wait()
            if scope.cancelled_caught and queue.empty():
                self._arrivals.close()
                raise self._expired(self._given)
            # The next event is in place before the queue is looked at again, so that no arrival is missed.
            self._event, self._arrivals.wake = waker()
        self._given += 1
        future: TaskFuture[Any] = queue.get_nowait()
        return future

    def __aiter__(self) -> AsyncArrivals:
        return self
