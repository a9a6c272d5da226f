"""The one long-lived loop that runs async tasks.

It is asyncio's, on a daemon thread that starts with the first async run and lives as long as the process. May import
futures and what lies above them; asyncio and anyio are imported on use.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from manyhands.context import HERE
from manyhands.exceptions import BlockingWaitInLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine
    from contextvars import Context

    from manyhands.futures.blocking import Wanted

__all__ = ["SERVICE_LOOP", "ServiceLoop", "under_asyncio"]


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
    """How the loop's thread waits: not at all."""
    open_items = [item for item in wanted if not item.done()]
    if not open_items:
        return True
    if deadline is not None and deadline <= time.monotonic():
        return False
    raise BlockingWaitInLoop(run_name=getattr(open_items[0], "name", None))


def under_asyncio(context: Context) -> Context:
    """A context made fit for this loop: it may have been captured under trio, and anyio believes its variable."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


SERVICE_LOOP = ServiceLoop()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVICE_LOOP._reset)
