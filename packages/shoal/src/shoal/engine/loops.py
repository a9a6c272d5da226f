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

    from shoal.futures.blocking import Wanted
    from shoal.futures.side_threads import Blocker

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
        COROUTINES.blocker_beside = self._blocker_beside  # type: ignore[method-assign]
        ready.set()
        while True:
            try:
                loop.run_forever()
            except BaseException as error:
                # asyncio lets a SystemExit of any of its tasks stop the loop. The run that it belongs to has it as
                # its result; the others go on.
                library_logger().warning("A coroutine raised %s; the loop goes on", in_words(error))

    def _blocker_beside(self, number: int, *, certain: bool) -> Blocker | None:
        """How a thread waits that a coroutine has started: the loop does it, and lends the coroutine's place."""
        import asyncio

        from shoal.futures.awaiting import place_of, settled_beside

        place = place_of(number)
        if place is None:
            return None

        def block(wanted: Wanted, *limits: Any) -> bool:
            told = wanted if certain else ()
            waiting = settled_beside(place, told, wanted, *limits)
            return asyncio.run_coroutine_threadsafe(waiting, self.get()).result()

        return block

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
