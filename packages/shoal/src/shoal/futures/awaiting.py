"""How a coroutine waits for runs, on any loop.

Waking a loop from another thread never blocks: `call_soon_threadsafe` under asyncio, `run_sync_soon` under trio.
May import `run`; asyncio and anyio are imported on use.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from shoal.context import CALL, HERE, INHERITED, LOCK, SCOPE
from shoal.futures.blocking import (
    BEARERS,
    LENT,
    NOTHING,
    Arrivals,
    Wait,
    Wakeup,
    refuse_inherited,
    until,
)
from shoal.futures.side_threads import run_around

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.futures.blocking import Wanted
    from shoal.futures.run import TaskFuture

__all__ = [
    "PLACES",
    "WITHIN",
    "AsyncArrivals",
    "CalledPlace",
    "Place",
    "PlaceWithin",
    "do_nothing",
    "had",
    "place_here",
    "place_of",
    "settled",
    "settled_beside",
    "task_here",
    "waker",
    "within",
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
    """What a coroutine of a runner holds while it does not wait for runs. Its tasks of the loop may wait at once."""

    def give_up(self, wait: Wait, wake: Callable[[], None], /) -> None:
        """It is about to wait; `wake` ends the wait early."""

    async def take_again(self, wait: Wait, /) -> None:
        """It waits so no more; once none of its waits is left, it goes on: with its place, whatever cancels it meanwhile."""


class CalledPlace:
    """The `Place` of what a coroutine calls directly, lent until it is taken for the first time."""

    def __init__(self) -> None:
        self._waits = 1
        self._wake: Callable[[], None]

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """See `Place`."""
        raise NotImplementedError

    def _goes_on(self, wake: Callable[[], None]) -> bool:
        """One of its waits is over; False if it was the last, and there is no place yet: `wake` is called once there is."""
        raise NotImplementedError

    async def take(self) -> None:
        """The call begins; not if it is cancelled before it has its turn."""
        event = self._asked()
        try:
            if not event.is_set():
                await event.wait()
        except BaseException:
            self.give_up(LENT, do_nothing)
            raise

    async def take_again(self, wait: Wait) -> None:
        """See `Place`."""
        await had(self._asked())

    def _asked(self) -> Any:
        """The event of its having its place, or of another wait that is not over."""
        event, wake = waker()
        if self._goes_on(wake):
            event.set()
        return event


def do_nothing() -> None:
    """Wakes nobody."""


#: The places of the coroutines of runners, and of what is called under a cap, by run number.
PLACES: dict[int, Place] = {}

#: By the number of what a coroutine has called directly, or of a flow run, that of the coroutine: it is a part of that.
WITHIN: dict[int, int] = {}


def _number_here() -> int | None:
    """The number of the run, or the flow run, in which the caller runs."""
    call = CALL.get()
    if call is not None:
        return call.number
    scope = SCOPE.get()
    return scope.flow_run.number if scope is not None and scope.flow_run is not None else None


def place_here() -> Place | None:
    """The place of the coroutine in which the caller runs, whatever that has called, if it has one."""
    return place_of(_number_here()) if PLACES else None


def place_of(number: int | None) -> Place | None:
    """The place of the coroutine that has this number, or has called what has it, if it has one."""
    while number is not None and number not in PLACES:
        number = WITHIN.get(number)
    return PLACES[number] if number is not None else None


class within:  # reads as a preposition: `with within(call.number):`
    """Within it, a call, or a flow run, is a part of what the caller runs in.

    Args:
        number: of the call or the flow run.
    """

    # No generator: `contextlib` sets attributes of the exception that passes, which some refuse.

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        caller = _number_here()
        if caller is not None:
            WITHIN[self._number] = caller

    def __exit__(self, *_: object) -> None:
        WITHIN.pop(self._number, None)


class PlaceWithin:
    """The `Place` of a call that a run makes, which has lent its own: what the call waits for, the run does.

    Args:
        place: of the call.
        around: of the run.
    """

    def __init__(self, place: Place, around: Place) -> None:
        self._place = place
        self._around = around

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """See `Place`."""
        if wait.until != NOTHING:
            self._around.give_up(wait, wake)
        self._place.give_up(wait, wake)

    async def take_again(self, wait: Wait) -> None:
        """See `Place`."""
        try:
            await self._place.take_again(wait)
        finally:
            if wait.until != NOTHING:
                await self._around.take_again(wait)


def _place_for(wanted: Wanted) -> Place | None:
    """What the caller gives up while it waits for this: also the worker of a run that is at a loop of its own."""
    place = place_here()
    run = run_around(wanted) if not HERE.loop else None
    around: Place | None = run.place() if run is not None else None
    if place is None or around is None:
        return place or around
    return PlaceWithin(place, around)


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


async def had(event: Any) -> None:
    """Waits for the event of a `waker`, and only then lets a cancellation pass that came meanwhile: who is cancelled may go on
    (after `asyncio.wait_for`, say), which it must not do without what the event stands for. A task's own `cancel` is kept
    off by no scope's shield.
    """
    from asyncio import CancelledError

    cancelled: CancelledError | None = None
    while not event.is_set():
        try:
            await event.wait()
        except CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class _waiting:  # reads as an adjective: `async with _waiting(place, wait, wake):`
    """A coroutine waits: its place is for others, and what it holds is not given back meanwhile.

    Args:
        place: what it gives up.
        wait: for what.
        wake: ends the wait early.
    """

    def __init__(self, place: Place | None, wait: Wait, wake: Callable[[], None]) -> None:
        self._place = place
        self._wait = wait
        self._wake = wake

    async def __aenter__(self) -> None:
        if self._place is not None:
            self._place.give_up(self._wait, self._wake)
        self._bearer = BEARERS.get(task_here()) if BEARERS else None
        if self._bearer is not None:
            self._bearer.begin(self._wait)

    async def __aexit__(self, *_: object) -> None:
        import anyio

        if self._bearer is not None:
            self._bearer.end(self._wait)
        if self._place is not None:
            with anyio.CancelScope(shield=True):
                await self._place.take_again(self._wait)


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
    countdown = Wakeup(fail_fast, False, wake)
    with LOCK:
        countdown.watch(wanted)
    try:
        if countdown.woken:
            return True
        wait = Wait(wanted, until(timeout, fail_fast))
        async with _waiting(_place_for(wanted), wait, wake):
            with anyio.move_on_after(timeout) as scope:
                await event.wait()
            return not scope.cancelled_caught
    finally:
        if countdown.pending:
            with LOCK:
                countdown.forget(wanted)


async def settled_beside(
    place: Place, told: Wanted, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool
) -> bool:
    """Waits for a thread that a coroutine has started: its place is for others meanwhile.

    Args:
        place: of the coroutine.
        told: what it is known to wait for.
        wanted: what is waited for.
        deadline: of `time.monotonic`, or `None`.
        fail_fast: whether the first failure ends the wait.
        first: whether the first end does.

    Returns:
        False if `deadline` was over first.
    """
    import time

    import anyio

    event, wake = waker()
    countdown = Wakeup(fail_fast, first, wake)
    with LOCK:
        countdown.watch(wanted)
    wait = Wait(told, until(deadline, fail_fast, first))
    place.give_up(wait, wake)
    try:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        with anyio.move_on_after(left) as scope:
            await event.wait()
        return not scope.cancelled_caught
    finally:
        if countdown.pending:
            with LOCK:
                countdown.forget(wanted)
        with anyio.CancelScope(shield=True):
            await place.take_again(wait)


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
        self._open = dict.fromkeys(futures)  # those that were not given
        self._deadline = deadline
        self._expired = expired
        self._event, self._wake = waker()
        self._arrivals = Arrivals(futures, self._wake)

    async def __anext__(self) -> TaskFuture[Any]:
        import time

        import anyio

        if not self._open:
            raise StopAsyncIteration
        queue = self._arrivals.queue
        while queue.empty():
            left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
            place = _place_for(tuple(islice(self._open, 1)))
            # For those who ask.
            wanted = tuple(self._open) if place is not None or BEARERS else ()
            wait = Wait(wanted, until(left, False, first=True))
            async with _waiting(place, wait, self._wake):
                with anyio.move_on_after(left) as scope:
                    await self._event.wait()
            if scope.cancelled_caught and queue.empty():
                self._arrivals.close()
                raise self._expired(self._total - len(self._open))
            # The next event is in place before the queue is looked at again, so that no arrival is missed.
            self._event, self._wake = waker()
            self._arrivals.wake = self._wake
        future: TaskFuture[Any] = queue.get_nowait()
        del self._open[future]
        return future

    def __aiter__(self) -> AsyncArrivals:
        return self
