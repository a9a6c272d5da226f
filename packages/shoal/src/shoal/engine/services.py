"""The two service threads of a driver: one that keeps time, one that calls user callbacks; and threads for what may take
long.

The two are daemons, start on first use and live as long as the process. Neither polls. May import what surrounds a run.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from shoal.logs import log_failure

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CALLBACKS", "TIMERS", "Callbacks", "Calls", "Timer", "Timers", "guarded"]


def guarded(
    action: Callable[..., object], failed: Callable[[BaseException], object]
) -> Callable[..., None]:
    """An action on which runs depend, for a service thread, a loop or a callback: nobody there would hear of its error.

    Args:
        action: what is to be done.
        failed: told of any error; it sees to the runs. It must not raise.
    """

    def act(*given: Any) -> None:
        try:
            action(*given)
        except BaseException as error:
            failed(error)

    return act


def _started(serve: Callable[[], None], name: str) -> threading.Thread:
    """A thread that runs: one that the system cannot start must not be taken for one, or nobody serves what comes later."""
    thread = threading.Thread(target=serve, name=name, daemon=True)
    thread.start()
    return thread


class Calls:
    """A thread for calls that may take as long as an execution system likes: nobody else waits for them.

    Args:
        name: of the thread, which begins with the first call.
        failed: told if one fails.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], object]) -> None:
        self._name = name
        self._failed = failed
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def do(self, call: Callable[[], object]) -> None:
        """Makes a call, after those before."""
        with self._starting:
            if self._thread is None:
                self._thread = _started(self._serve, self._name)
        self._calls.put(call)

    def is_here(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def close(self, grace: float) -> None:
        """Ends the thread once it has made its calls, or leaves it to itself."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(grace)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            guarded(call, self._failed)()


class Timer:
    """A call to be made later."""

    __slots__ = ("_timers", "action", "order", "when")

    def __init__(
        self, timers: Timers, when: float, order: int, action: Callable[[], object]
    ) -> None:
        self._timers = timers
        self.when = when
        self.order = order
        self.action: Callable[[], object] | None = action

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.order) < (other.when, other.order)

    def cancel(self) -> None:
        """The call will not be made, if it has not been."""
        if self.action is not None:
            self.action = None
            self._timers.forget()


class Timers:
    """Calls functions of ours at their time, on one thread. They must be quick and must not run user code."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._heap: list[Timer] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._cancelled = 0

    def after(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Calls `action` in `seconds` from now.

        Returns:
            The timer, which can be cancelled.
        """
        timer = Timer(self, time.monotonic() + seconds, next(self._order), action)
        with self._condition:
            heapq.heappush(self._heap, timer)
            if self._thread is None:
                self._thread = _started(self._serve, "shoal-timer")
            elif self._heap[0] is timer:
                self._condition.notify()
        return timer

    def forget(self) -> None:
        """A timer was cancelled: what piles up of these is thrown away before its time."""
        with self._condition:
            self._cancelled += 1
            if self._cancelled > 1000 and self._cancelled > len(self._heap) // 2:
                self._heap = [timer for timer in self._heap if timer.action is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def _serve(self) -> None:
        condition = self._condition
        while True:
            with condition:
                while not self._heap:
                    condition.wait()
                timer = self._heap[0]
                left = timer.when - time.monotonic()
                if timer.action is not None and left > 0:
                    condition.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                heapq.heappop(self._heap)
            action = timer.action
            if action is not None:
                try:
                    action()
                except BaseException as error:  # the thread is there for all others, too
                    log_failure(error, "A timer of the library failed")
            del timer, action


class Callbacks:
    """Calls user functions one after another on a thread of their own, so that none can hold up the library."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...], str]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, what: str, function: Callable[..., object], *args: Any) -> None:
        """Calls `function(*args)` on the callback thread; an exception is logged with `what` it was."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = _started(self._serve, "shoal-callbacks")
        self._queue.put((function, args, what))

    def flush(self, timeout: float) -> bool:
        """Waits until everything put so far was called; returns whether it was in time."""
        if self._thread is None or threading.current_thread() is self._thread:
            return True
        reached = threading.Event()
        self._queue.put((reached.set, (), "flush"))
        return reached.wait(timeout)

    def _serve(self) -> None:
        while True:
            function, args, what = self._queue.get()
            try:
                function(*args)
            except BaseException as error:
                log_failure(error, "%s raised", what)
            del function, args


TIMERS = Timers()
CALLBACKS = Callbacks()

if hasattr(os, "register_at_fork"):
    # A forked child has neither thread; both start again there on first use.
    os.register_at_fork(after_in_child=TIMERS._reset)
    os.register_at_fork(after_in_child=CALLBACKS._reset)
