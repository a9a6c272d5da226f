"""How a thread waits for runs: one countdown a wait, woken by whoever ends the last of them.

Nothing here knows futures or maps: both are `Waitable`. May import `context`, `exceptions` and `side_threads`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

from shoal.context import HERE, INHERITED, LOCK
from shoal.exceptions import InvalidOption, RunnerStateError
from shoal.futures.side_threads import run_around

__all__ = [
    "ALL",
    "BEARERS",
    "LENT",
    "NOTHING",
    "SOME",
    "TIMED",
    "WATCHERS",
    "Arrivals",
    "Bearer",
    "Countdown",
    "Decision",
    "Wait",
    "Waitable",
    "Wakeup",
    "Wanted",
    "block",
    "block_plainly",
    "blocker",
    "check_timeout",
    "refuse_inherited",
    "slices",
    "until",
]

#: Seconds after which the main thread, however long it waits, goes back to the interpreter for a moment: that is where
#: signals are handled. One that comes between the interpreter's last look and the system call does not end the call.
GLANCE = 0.5


def slices(deadline: float | None) -> Iterator[float]:
    """Seconds to wait, again and again until `deadline` (of `time.monotonic`), at least once; see `GLANCE`."""
    in_main = threading.current_thread() is threading.main_thread()
    longest = GLANCE if in_main else threading.TIMEOUT_MAX
    while deadline is None:
        yield longest
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        yield min(left, longest)
        if not left:
            return


class Waitable(Protocol):
    """What can be waited for: a run, or a whole map."""

    def watch(self, waiter: Callable[[Any], object]) -> bool:
        """Has `waiter` called with this when it ends (a map: also at its first failure); with `LOCK` held.

        Returns:
            False if it has ended, and `waiter` is not called.
        """

    def unwatch(self, waiter: Callable[[Any], object]) -> None:
        """Takes `watch` back; with `LOCK` held."""

    def done(self) -> bool:
        """Whether it has ended."""

    def flawed(self) -> bool:
        """Whether it, or a part of it, did not complete."""


Wanted = Sequence[Waitable]

# ---------------------------------------------------------------------- who waits with something in its hands

#: What a wait lasts until: all that is waited for has ended, or some of it may be enough, or a time is over; `NOTHING` if
#: who has given a place up has something else to do meanwhile.
NOTHING, ALL, SOME, TIMED = range(-1, 3)


def until(deadline: float | None, fail_fast: bool, first: bool = False) -> int:
    """What a wait lasts until, by what `block` takes."""
    if deadline is not None:
        return TIMED
    return SOME if fail_fast or first else ALL


class Wait(NamedTuple):
    """What somebody waits for, and until when: `ALL`, `SOME` or `TIMED`; `NOTHING`, see there."""

    wanted: Wanted
    until: int


#: No wait: a place is given up meanwhile.
LENT = Wait((), NOTHING)


class Bearer:
    """A thread, or a task of an event loop, that holds slots of limits or asks for some, and what it waits for meanwhile.

    Attributes:
        held: what it has asked for and not given back; see `shoal.limits.holding.Held`.
        waits: innermost last; with `LOCK` held.
    """

    __slots__ = ("__weakref__", "held", "waits")

    def __init__(self) -> None:
        self.held: WeakSet[Any] = WeakSet()
        self.waits: list[Wait] = []

    def begin(self, wait: Wait) -> None:
        """It is about to wait."""
        with LOCK:
            self.waits.append(wait)
            held = list(self.held)
            for watcher in list(WATCHERS):
                watcher()
        for what in held:
            what.tell(waits=True)

    def end(self, wait: Wait) -> None:
        """It goes on."""
        with LOCK:
            self.waits = [other for other in self.waits if other is not wait]
            held, waits = list(self.held), bool(self.waits)
        for what in held:
            what.tell(waits=waits)


#: Who holds slots in this process, by the thread or the task.
BEARERS: WeakKeyDictionary[Any, Bearer] = WeakKeyDictionary()

#: Told, with `LOCK` held, that somebody begins to wait; empty unless somebody wants to know.
WATCHERS: set[Callable[[], object]] = set()


class Countdown:
    """Wakes one blocked thread when all that it waits for has ended, or enough of it.

    Called with each future (or map) as it ends, outside the lock.

    Args:
        fail_fast: the first failure is enough.
        first: the first end is enough.
    """

    __slots__ = (
        "_closed",
        "_wake",
        "ended",
        "fail_fast",
        "failed",
        "first",
        "interrupted",
        "pending",
    )

    def __init__(self, fail_fast: bool = False, first: bool = False) -> None:
        self.fail_fast = fail_fast
        self.first = first
        self.pending = 0
        self.ended = False
        self.failed = False
        self.interrupted = False
        self._closed = threading.Lock()
        self._closed.acquire()
        self._wake: Callable[[], None] = self._closed.release

    def watch(self, wanted: Wanted) -> None:
        """Registers with all that has not ended; with `LOCK` held."""
        for item in wanted:
            if item.watch(self):
                self.pending += 1
            else:
                self.ended = True
            self.failed = self.failed or item.flawed()
        self._check()

    def _check(self) -> None:
        if (
            not self.pending
            or (self.failed and self.fail_fast)
            or (self.ended and self.first)
            or self.interrupted
        ):
            wake, self._wake = self._wake, _nothing
            wake()

    def __call__(self, item: Waitable) -> None:
        with LOCK:
            self.failed = self.failed or item.flawed()
            if item.done():
                self.ended = True
                self.pending -= 1
            self._check()

    def interrupt(self) -> None:
        """Ends the wait early: there is something else for the waiting thread to do; with `LOCK` held."""
        self.interrupted = True
        self._check()

    def wait(self, deadline: float | None) -> bool:
        """Blocks; returns whether it was woken before `deadline` (of `time.monotonic`)."""
        if deadline is None and self._closed.acquire(timeout=GLANCE):
            return True  # which is most often
        return any(self._closed.acquire(timeout=seconds) for seconds in slices(deadline))

    def forget(self, wanted: Wanted) -> None:
        """Unregisters after a wait that ended early, so that nothing is kept alive; with `LOCK` held."""
        for item in wanted:
            item.unwatch(self)


class Decision:
    """What is waited for in one place and is no run: an answer, given once, from any thread. A `Waitable`.

    Nobody who waits for it can be given anything to run for it meanwhile, so it has to be waited for alone.

    Attributes:
        answer: once it is `done`.
    """

    __slots__ = ("_done", "_waiter", "answer")

    def __init__(self) -> None:
        self.answer: Any = None
        self._done = False
        self._waiter: Callable[[Any], object] | None = None

    def __call__(self, answer: Any) -> None:
        """Gives the answer."""
        with LOCK:
            self.answer = answer
            self._done = True
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter(self)

    def watch(self, waiter: Callable[[Any], object]) -> bool:
        """See `Waitable`."""
        if not self._done:
            self._waiter = waiter
        return not self._done

    def unwatch(self, waiter: Callable[[Any], object]) -> None:
        """See `Waitable`."""
        self._waiter = None

    def done(self) -> bool:
        """See `Waitable`."""
        return self._done

    def flawed(self) -> bool:
        """See `Waitable`."""
        return False

    @staticmethod
    def awaited(wanted: Wanted) -> bool:
        """Whether a wait is for one."""
        return len(wanted) == 1 and type(wanted[0]) is Decision


class Wakeup(Countdown):
    """One that calls a function, where the thread does not block on the countdown itself; `woken` says that it has."""

    __slots__ = ("woken",)

    def __init__(self, fail_fast: bool, first: bool, wake: Callable[[], None]) -> None:
        super().__init__(fail_fast, first)
        self.woken = False

        def woken() -> None:
            self.woken = True
            wake()

        self._wake = woken


def _nothing() -> None:
    pass


def check_timeout(timeout: float) -> None:
    """Refuses what is no time to wait.

    Raises:
        InvalidOption: it is negative, or no number.
    """
    try:
        usable = bool(timeout >= 0)
    except TypeError:
        usable = False
    if not usable:
        problem = "a number of seconds from 0 up, or None, is needed"
        raise InvalidOption(option="timeout", value=timeout, problem=problem)


def block(
    wanted: Wanted, timeout: float | None = None, fail_fast: bool = False, first: bool = False
) -> bool:
    """Waits until everything wanted has ended; the one place where a thread of the driver blocks on runs.

    Args:
        wanted: futures, or a map.
        timeout: seconds, checked, or `None`.
        fail_fast: whether the first failure ends the wait too.
        first: whether the first end ends the wait.

    Returns:
        False if `timeout` was over first.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if INHERITED:
        refuse_inherited(wanted)
    bearer = BEARERS.get(threading.current_thread()) if BEARERS else None
    if bearer is not None:
        return _block_bearing(bearer, wanted, deadline, fail_fast, first)
    return _block(wanted, deadline, fail_fast, first)


def _block(wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
    special = blocker(wanted)
    if special is not None:
        return special(wanted, deadline, fail_fast, first)
    return block_plainly(Countdown(fail_fast, first), wanted, deadline)


def blocker(wanted: Wanted) -> Callable[[Any, float | None, bool, bool], bool] | None:
    """How this thread waits for runs, `None` for the plain way: it may be a worker's, or a run may have started it."""
    special = HERE.block
    if special is None and (around := run_around(wanted)) is not None:
        special = around.block
    return special


def _block_bearing(
    bearer: Bearer, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool
) -> bool:
    """Waits, and has it known that what the thread holds is not given back meanwhile."""
    wait = Wait(wanted, until(deadline, fail_fast, first))
    frames = HERE.frames
    if frames is not None:
        frames.enter_shield()
    try:
        bearer.begin(wait)
        try:
            return _block(wanted, deadline, fail_fast, first)
        finally:
            bearer.end(wait)
    finally:
        if frames is not None:
            frames.leave_shield()


def refuse_inherited(wanted: Iterable[Any]) -> None:
    """Refuses a wait in a forked child for what only its parent can end.

    Raises:
        RunnerStateError: something of it belongs to a runner that the parent has entered.
    """
    for item in wanted:
        dispatcher: Any = getattr(item, "_dispatcher", None) or getattr(item, "dispatcher", None)
        if dispatcher in INHERITED and not item.done():
            raise RunnerStateError(
                runner=dispatcher.runner_name,
                problem="nothing ends its runs in this process, which was forked while they were open",
            )


def block_plainly(countdown: Countdown, wanted: Wanted, deadline: float | None) -> bool:
    """Blocks the thread until the countdown wakes it or the deadline is over."""
    with LOCK:
        countdown.watch(wanted)
    woken = False
    try:
        woken = countdown.wait(deadline)
    finally:
        if countdown.pending:
            with LOCK:
                countdown.forget(wanted)
    return woken


class Arrivals:
    """Futures in the order in which they ended, for one consumer; called with each as it ends."""

    __slots__ = ("_futures", "queue", "wake")

    def __init__(self, futures: Iterable[Any], wake: Callable[[], object] | None = None) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.wake = wake
        self._futures = list(futures)
        if INHERITED:
            refuse_inherited(self._futures)
        with LOCK:
            for future in self._futures:
                if not future.watch(self):
                    self(future)

    def __call__(self, future: Any) -> None:
        self.queue.put(future)
        if self.wake is not None:
            self.wake()

    def take(self, deadline: float | None) -> Any:
        """Blocks until the next has ended.

        Raises:
            Empty: `deadline` (of `time.monotonic`) was over first.
        """
        for seconds in slices(deadline):
            with suppress(Empty):
                return self.queue.get(timeout=seconds)
        raise Empty

    def close(self) -> None:
        """Unregisters from what has not ended."""
        with LOCK:
            for future in self._futures:
                future.unwatch(self)
