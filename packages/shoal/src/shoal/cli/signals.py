"""Ctrl-C and SIGTERM while a flow runs: it is ended in order, and the process within a few seconds in any case.

The first signal raises `KeyboardInterrupt` or `SystemExit` in a sync flow, and cancels an async one. From then on the
time runs: where user code (a thread that is no daemon, a handler at exit) holds the process up, it ends without asking.
A second signal ends it at once. One line says what was stopped.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from shoal.engine import handlers
from shoal.exceptions import CancelledRun

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Coroutine, Iterator

__all__ = ["Signals"]

#: Seconds from the first signal to the end of the process. Runners take up to 4 to stop what runs.
PATIENCE = 4.7

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Handles both signals within a `with` block of the main thread; elsewhere it does nothing.

    A signal handler runs between any two steps of the main thread, which may hold any lock: the only thing it asks of
    others is `SimpleQueue.put`, which is made for that. So the thread that watches the time is there from the start.
    """

    def __init__(self) -> None:
        # Loaded with the first flow, and not for commands that run none.
        from shoal.task_runners.base import STOPPED

        self._stopped = STOPPED
        self.received: int | None = None
        self._handles = False
        self._clock: SimpleQueue[int | None] = SimpleQueue()
        self._watch = threading.Thread(target=self._watch_time, name="shoal-signals", daemon=True)
        self._cancel: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._watch.start()
            self._handles = True
            for number in _SIGNALS:
                handlers.install(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        if self.received is not None:
            if raised[0] is not None:  # else the flow has caught it, and ended all the same
                print(
                    _what_was_stopped(self._stopped.cancelled, self._stopped.ended), file=sys.stderr
                )
            return  # until the end of the process a signal ends it, and the clock goes on
        if self._handles:
            for number in _SIGNALS:
                handlers.remove(number)
            self._clock.put(None)
            self._watch.join()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on a loop of its own, as `asyncio.run` does, and gives its value.

        Raises:
            CancelledRun: it was cancelled, and not by a signal.
        """
        import asyncio

        async def cancellable() -> Any:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            if task is not None:
                self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            with _woken_by_signals(loop) if self._handles else nullcontext():
                return await coroutine

        try:
            return asyncio.run(cancellable())
        except asyncio.CancelledError as error:
            raise CancelledRun(cause=error) from error
        finally:
            self._cancel = None
            self.raise_again()

    def raise_again(self) -> None:
        """Raises what the signal asks for, where one came and the flow ended with something else: it cuts short what it meets.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            SystemExit: SIGTERM.
        """
        if self.received is not None:
            self._raise(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self._stopped.forget()  # flows that failed before are not what is told of
        self._clock.put(number)
        if self._cancel is not None:
            self._cancel()
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _watch_time(self) -> None:
        number = self._clock.get()
        if number is not None:
            time.sleep(PATIENCE)
            os._exit(128 + number)


def _what_was_stopped(cancelled: int, ended: int) -> str:
    if not cancelled and not ended:
        return "Stopped."
    runs = "1 run was" if cancelled == 1 else f"{cancelled:,} runs were"
    return f"Stopped: {runs} cancelled, {ended:,} had ended."


@contextmanager
def _woken_by_signals(loop: AbstractEventLoop) -> Iterator[None]:
    """Has signals end the loop's wait, also one that comes just before the loop begins it.

    A child that is forked here and sent a signal wakes the loop too, which does no harm.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop.add_reader(ours, lambda: ours.recv(4096))
        previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            loop.remove_reader(ours)
