"""The one long-lived loop that runs async tasks.

It is asyncio's, on a daemon thread that starts with the first async run and lives as long as the process. May import
futures and what lies above them; asyncio is imported on use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from shoal.context import HERE
from shoal.exceptions import BlockingWaitInLoop
from shoal.logs import library_logger
from shoal.safely import in_words

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine
    from contextvars import Context

    from shoal.futures.awaiting import Place
    from shoal.futures.blocking import Wanted
    from shoal.futures.side_threads import CoroutineAround, RunAround

__all__ = ["SERVICE_LOOP", "ServiceLoop", "cancelled_class", "under_asyncio"]


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
                        target=self._serve, args=(ready,), name="shoal-loop", daemon=True
                    ).start()
                    ready.wait()
        assert self._loop is not None  # set before `ready`
        return self._loop

    def _serve(self, ready: threading.Event) -> None:
        import asyncio

        from shoal.futures.side_threads import COROUTINES

        HERE.block = _refuse
        HERE.loop = True
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        COROUTINES.run_around = self._run_around  # type: ignore[method-assign]
        ready.set()
        while True:
            try:
                loop.run_forever()
            except BaseException as error:
                # asyncio lets a SystemExit of any of its tasks stop the loop. The run that it belongs to has it as
                # its result; the others go on.
                library_logger().warning("A coroutine raised %s; the loop goes on", in_words(error))

    def _run_around(self, number: int, *, certain: bool) -> CoroutineAround | None:
        from shoal.futures.awaiting import place_of

        place = place_of(number)
        return _CoroutineAround(self, place, certain=certain) if place is not None else None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the loop and waits for it; called on the loop's own thread, on a loop of its own."""
        import asyncio

        if HERE.loop:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(1, thread_name_prefix="shoal-coroutine") as aside:
                return aside.submit(asyncio.run, coroutine).result()
        return asyncio.run_coroutine_threadsafe(coroutine, self.get()).result()


def _refuse(wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
    """How the loop's thread waits: not at all."""
    open_items = [item for item in wanted if not item.done()]
    if not open_items:
        return True
    if deadline is not None and deadline <= time.monotonic():
        return False
    raise BlockingWaitInLoop(run_name=getattr(open_items[0], "name", None))


def cancelled_class() -> type[BaseException]:
    """What the running loop throws into a coroutine that it cancels.

    anyio imports its backend to say so, which takes a tenth of a second, and many on a cold disk: no part of the run
    that is being timed.
    """
    import asyncio

    with contextlib.suppress(RuntimeError):  # the loop is trio's
        if asyncio.current_task() is not None:
            return asyncio.CancelledError
    import anyio

    return anyio.get_cancelled_exc_class()


def under_asyncio(context: Context) -> Context:
    """A context made fit for this loop: it may have been captured under trio, and anyio believes its variable."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


SERVICE_LOOP = ServiceLoop()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVICE_LOOP._reset)


class _CoroutineAround:
    """See `CoroutineAround`: the loop waits for the threads that it has started, and lends its place.

    Args:
        loop: of the coroutine.
        place: of the coroutine.
        certain: whether it has started the thread.
    """

    def __init__(self, loop: ServiceLoop, place: Place, *, certain: bool) -> None:
        self._loop = loop
        self._place = place
        self._certain = certain
        self._run: RunAround | None = None

    def within(self, run: RunAround) -> RunAround:
        """See `CoroutineAround`."""
        self._run = run
        return self

    def block(self, wanted: Wanted, *limits: Any) -> bool:
        """See `RunAround`."""
        import asyncio

        from shoal.futures.awaiting import PlaceWithin, settled_beside

        told = wanted if self._certain else ()
        around = self.place()
        place = PlaceWithin(self._place, around) if around is not None else self._place
        waiting = settled_beside(place, told, wanted, *limits)
        return asyncio.run_coroutine_threadsafe(waiting, self._loop.get()).result()

    def place(self) -> Place | None:
        """See `RunAround`: its own is found by its number."""
        return self._run.place() if self._run is not None else None
