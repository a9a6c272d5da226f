"""Event loops: the one long-lived loop that runs async tasks, and futures awaited on any loop.

The service loop is asyncio's, on a daemon thread that starts with the first async run and lives as long as the
process. Waking a loop from another thread never blocks: `call_soon_threadsafe` under asyncio, `run_sync_soon` under
trio. May import futures and what lies above them; asyncio and anyio are imported on use.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.context import CALL, HERE, LOCK
from manyhands.exceptions import BlockingWaitInLoop
from manyhands.futures import Arrivals, Countdown

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from manyhands.futures import TaskFuture, Wanted

__all__ = ["SERVICE_LOOP", "ServiceLoop", "arrive", "settled", "waker"]


class ServiceLoop:
    """The process's loop for async tasks."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """The loop, started on first use."""
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    ready = threading.Event()
                    threading.Thread(
                        target=self._serve, args=(ready,), name="manyhands-loop", daemon=True
                    ).start()
                    ready.wait()
        assert self._loop is not None  # set before `ready`
        return self._loop

    def _serve(self, ready: threading.Event) -> None:
        import anyio

        HERE.block = _refuse
        HERE.loop = True
        anyio.run(self._live, ready, backend="asyncio")

    async def _live(self, ready: threading.Event) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        ready.set()
        await self._loop.create_future()  # for ever

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the loop and waits for it, from another thread."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self.get()).result()


def _refuse(wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
    if all(future.done() for future in wanted):
        return True
    if deadline is not None:
        import time

        if deadline <= time.monotonic():
            return False
    raise BlockingWaitInLoop(run_name=next(future.name for future in wanted if not future.done()))


SERVICE_LOOP = ServiceLoop()


class Place(Protocol):
    """What a coroutine of a runner with a limit holds while it does not wait for runs."""

    def give_up(self, wanted: Wanted) -> None:
        """It is about to wait."""

    async def take_again(self) -> None:
        """It goes on."""


#: The places of the coroutines on the service loop, by run number.
PLACES: dict[int, Place] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVICE_LOOP._reset)


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

    event, wake = waker()
    countdown = _LoopCountdown(fail_fast, wake)
    with LOCK:
        countdown.watch(wanted)
        if not countdown.pending:
            return True
    # A coroutine on the service loop holds a place of its runner while it runs, not while it waits.
    call = CALL.get()
    place = PLACES.get(call.number) if call is not None else None
    if place is not None:
        place.give_up(wanted)
    try:
        with anyio.move_on_after(timeout) as scope:
            await event.wait()
        return not scope.cancelled_caught
    finally:
        with LOCK:
            if countdown.pending:
                countdown.forget(wanted)
        if place is not None:
            with anyio.CancelScope(shield=True):
                await place.take_again()


async def arrive(
    futures: Iterable[TaskFuture[Any]], deadline: float | None
) -> AsyncIterator[TaskFuture[Any] | None]:
    """Futures as they end; `None` and no more once the deadline (of `time.monotonic`) is over."""
    import time

    import anyio

    event, wake = waker()
    pending = list(futures)
    state = {"event": event, "wake": wake}
    arrivals = Arrivals(pending, lambda: state["wake"]())
    try:
        for _ in pending:
            while arrivals.queue.empty():
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                with anyio.move_on_after(left) as scope:
                    await state["event"].wait()
                if scope.cancelled_caught and arrivals.queue.empty():
                    yield None
                    return
                state["event"], state["wake"] = waker()
            yield arrivals.queue.get_nowait()
    finally:
        arrivals.close()
