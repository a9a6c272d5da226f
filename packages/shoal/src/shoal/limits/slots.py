"""Takes slots of limits for the runs of this process, keeps them while the runs go on, and gives them back.

    request ──▶ _arrived ──┐                        ┌──▶ the store
    release ──▶ _released ─┤   a thread of its own: │
    timers  ──▶ _due ──────┴──▶ one round at a time ┴──▶ on_outcome

    guarantees   `request`, `withdraw` and `release` never wait for the store. Each request has its outcome once, told
                 with no lock held, unless `withdraw` said True. Whoever is withdrawn or released holds nothing in the
                 end, whatever was under way. The thread ends when nothing waits and nothing is held.
    assumes      `on_outcome` is quick. A run asks once, and keeps its slots through its retries.
    who writes   All fields under `_changed`, except `_lines`, which the thread alone uses.

Who has to wait stands in line at one tag that was full when it was tried, in the order of the requests. It is tried
again when a slot of that tag was given back here, and every so often for those that other processes gave back; it may
then move on to the line of another tag. So a waiter holds up none that could run, and a slot given back costs one try
or two, however many wait.

Across processes there is no order: whoever looks first takes the slot.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from shoal.context import LOCK
from shoal.engine.interrupt import interruptible_block
from shoal.engine.services import TIMERS
from shoal.exceptions import ConcurrencyLimitError
from shoal.futures.blocking import Countdown, block_plainly
from shoal.limits.settings import lease_seconds, poll_seconds
from shoal.limits.store import Acquired, Busy
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.limits.store import LimitStore

    #: Called with `None` when the run holds its slots, or with why it never will.
    OnOutcome = Callable[[ConcurrencyLimitError | None], object]

__all__ = ["KEEPER", "SlotKeeper"]

#: Seconds that the thread stays when there is nothing left to do, because the next run often follows at once.
LINGER = 0.1

#: Seconds that the exit of the process may be held up by giving slots back.
LEAVING = 2.0


class _Timers(Protocol):
    def after(self, seconds: float, action: Callable[[], None], /) -> Any: ...


class _Waiter:
    """A run that asked for slots and has had no answer."""

    __slots__ = ("on_outcome", "order", "run_id", "tags")

    def __init__(
        self, order: int, tags: frozenset[str], run_id: str, on_outcome: OnOutcome
    ) -> None:
        self.order = order
        self.tags = tags
        self.run_id = run_id
        self.on_outcome = on_outcome

    def __lt__(self, other: _Waiter) -> bool:
        return self.order < other.order


class _Round(NamedTuple):
    """What the thread has to do next; `due` are the timers that went off."""

    arrived: list[_Waiter]
    released: dict[str, frozenset[str]]
    due: set[str]


def _open_store() -> LimitStore:
    from shoal.limits.sqlite import SqliteStore

    return SqliteStore()


class SlotKeeper:
    """Slots for the runs of this process. `KEEPER` is the one to use.

    Args:
        open_store: makes the store; called whenever the thread starts.
        lease: seconds that a slot stays taken after the death of this process; by default that of the settings, as
            are the next ones.
        poll: seconds between two looks at what other processes gave back, while a run waits.
        timers: keeps time, as `shoal.engine.services.TIMERS`.
    """

    def __init__(
        self,
        open_store: Callable[[], LimitStore] = _open_store,
        *,
        lease: float | None = None,
        poll: float | None = None,
        timers: _Timers = TIMERS,
    ) -> None:
        self._open_store = open_store
        self._settings = (lease, poll)
        self._after = timers.after
        self._reset()

    def _reset(self) -> None:
        # Re-entrant, because the garbage collector may end a run inside (a generator task), which gives its slots back.
        self._changed = threading.Condition(threading.RLock())
        self._order = itertools.count()
        self._waiting: dict[str, _Waiter] = {}
        self._held: dict[str, frozenset[str]] = {}
        self._arrived: list[_Waiter] = []
        self._released: dict[str, frozenset[str]] = {}
        self._due: set[str] = set()
        self._timers: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lease = self._poll = 0.0
        self._lines: dict[str, list[_Waiter]] = {}

    # ------------------------------------------------------------------ what runs ask for

    def request(self, tags: frozenset[str], run_id: str, on_outcome: OnOutcome) -> None:
        """Asks for a slot of every one of `tags` that has a limit. Does not wait.

        Args:
            tags: all tags of the run.
            run_id: the run's UUID. It asks once.
            on_outcome: called once, in the keeper's thread as a rule: with `None` as soon as the run holds its slots,
                or with the error of a run that must not start.
        """
        if not tags:
            on_outcome(None)
            return
        if self._closed:
            on_outcome(ConcurrencyLimitError(tag=min(tags), problem="this process is at its end"))
            return
        with self._changed:
            if run_id in self._waiting or run_id in self._held:
                raise ValueError(f"run {run_id} has asked for its slots already")
            waiter = _Waiter(next(self._order), tags, run_id, on_outcome)
            self._waiting[run_id] = waiter
            self._arrived.append(waiter)
            self._wake()

    def withdraw(self, run_id: str) -> bool:
        """Takes a request back. Slots that the run got meanwhile are given back, as by `release`.

        Returns:
            Whether the run was still waiting: then `on_outcome` is not called any more.
        """
        with self._changed:
            waiter = self._waiting.pop(run_id, None)
            if waiter is not None:
                waiter.on_outcome = _nobody  # the waiter stays in its line for a while
                self._changed.notify()
            elif tags := self._held.pop(run_id, None):
                self._released[run_id] = tags
                self._wake()
        return waiter is not None

    def release(self, run_id: str) -> None:
        """The run needs no slots any more: gives them back, or takes its request back. Does not wait.

        A run that never asked, or was released already, is ignored.
        """
        self.withdraw(run_id)

    def acquire_blocking(self, tags: frozenset[str], run_id: str) -> None:
        """Waits for a slot of every one of `tags` that has a limit; for runs in the caller's own thread.

        An exception that ends the wait (`Interrupt`, KeyboardInterrupt) withdraws the request.

        Args:
            tags: all tags of the run.
            run_id: the run's UUID.

        Raises:
            ConcurrencyLimitError: the run must not start.
        """
        decision = _Decision()
        try:
            self.request(tags, run_id, decision)
            interruptible_block((decision,), None, False, False)
            if not decision.done():
                # Interrupted was a run beneath this one, and its turn comes when this one has ended.
                block_plainly(Countdown(), (decision,), None)
        except BaseException:
            self.withdraw(run_id)
            raise
        if decision.refusal is not None:
            raise decision.refusal

    def close(self, timeout: float = LEAVING) -> None:
        """Gives everything back and takes no more requests; for the exit of the process."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._released.update(self._held)
            self._held.clear()
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join(timeout)

    # ------------------------------------------------------------------ when the thread has to do what

    def _wake(self) -> None:
        """Has the thread look what is new; under `_changed`."""
        if self._thread is not None:
            self._changed.notify()
        elif not self._closed:
            self._thread = threading.Thread(target=self._serve, name="shoal-limits", daemon=True)
            self._thread.start()

    def _next_round(self) -> _Round | None:
        """Waits until there is something to do; `None` if there is nothing any more, and the thread ends."""
        idle = False
        with self._changed:
            while True:
                if self._arrived or self._released or self._due:
                    todo = _Round(self._arrived, self._released, self._due)
                    self._arrived, self._released, self._due = [], {}, set()
                    return todo
                self._set_timer("look", self._poll if self._waiting else None)
                self._set_timer("renew", self._lease / 3 if self._held else None)
                if not self._waiting:
                    self._lines.clear()  # of those who were withdrawn
                if self._waiting or self._held:
                    self._changed.wait()
                elif self._closed or idle:
                    self._thread = None
                    return None
                else:
                    idle = not self._changed.wait(LINGER)

    def _set_timer(self, what: str, seconds: float | None) -> None:
        if seconds is None:
            timer = self._timers.pop(what, None)
            if timer is not None:
                timer.cancel()
        elif what not in self._timers:
            self._timers[what] = self._after(seconds, lambda: self._time_to(what))

    def _time_to(self, what: str) -> None:
        with self._changed:
            if self._timers.pop(what, None) is not None:  # else it was called off while it went off
                self._due.add(what)
                self._wake()

    # ------------------------------------------------------------------ the thread

    def _serve(self) -> None:
        store = None
        try:
            lease, poll = self._settings
            self._lease = lease_seconds() if lease is None else lease
            self._poll = poll_seconds() if poll is None else poll
            store = self._open_store()
            while (todo := self._next_round()) is not None:
                self._give_back(store, todo.released)
                if "renew" in todo.due:
                    self._renew(store)
                freed = set().union(*todo.released.values())
                for tag in list(self._lines) if "look" in todo.due else sorted(freed):
                    self._serve_line(store, tag)
                for waiter in todo.arrived:
                    self._admit(store, waiter)
        except BaseException as error:
            self._fail(error)
        finally:
            if store is not None:
                store.close()

    def _give_back(self, store: LimitStore, released: dict[str, frozenset[str]]) -> None:
        if not released:
            return
        try:
            store.release(released)
        except ConcurrencyLimitError as error:
            library_logger().warning("Slots are given back by the end of their leases: %s", error)

    def _renew(self, store: LimitStore) -> None:
        with self._changed:
            run_ids = list(self._held)
        try:
            lost = set(run_ids) - store.renew(run_ids, self._lease)
        except ConcurrencyLimitError as error:
            library_logger().warning("Leases could not be renewed, which is tried again: %s", error)
            return
        with self._changed:
            lost = {run_id for run_id in lost if self._held.pop(run_id, None)}
        if lost:
            library_logger().warning(
                "%d runs go on without the slots of their limits, which were reset, deleted, or not renewed in time"
                " because this process stood still: %s",
                len(lost),
                ", ".join(sorted(lost)[:10]),  # there may be thousands
            )

    def _admit(self, store: LimitStore, waiter: _Waiter) -> None:
        """A newcomer: tried unless others stand in line for what it wants."""
        if not self._waits(waiter):
            return
        full = frozenset(waiter.tags & self._lines.keys()) or self._try(store, waiter)
        if full:
            self._queue(waiter, full)

    def _serve_line(self, store: LimitStore, tag: str) -> None:
        """Tries those who wait for a tag, the oldest first, until it is full."""
        line = self._lines.get(tag, [])
        while line:
            waiter = line[0]
            full = self._try(store, waiter)
            if tag in full:
                return
            heapq.heappop(line)
            if full:
                self._queue(waiter, full)
        self._lines.pop(tag, None)

    def _queue(self, waiter: _Waiter, full: Iterable[str]) -> None:
        heapq.heappush(self._lines.setdefault(min(full), []), waiter)

    def _try(self, store: LimitStore, waiter: _Waiter) -> frozenset[str]:
        """Tries to get a waiter its slots. Returns the tags that are full; none if it need not wait any more."""
        if not self._waits(waiter):
            return frozenset()
        try:
            answer = store.try_acquire(waiter.tags, waiter.run_id, self._lease)
        except ConcurrencyLimitError as error:
            self._decide(waiter, error)
            return frozenset()
        if isinstance(answer, Busy):
            return answer.tags
        if not isinstance(answer, Acquired):
            problem = (
                "it is 0, so runs with this tag must not start; set a higher one to allow them"
            )
            self._decide(waiter, ConcurrencyLimitError(tag=answer.tag, problem=problem))
        elif not self._decide(waiter, None, answer.tags):
            self._give_back(store, {waiter.run_id: answer.tags})
        return frozenset()

    def _waits(self, waiter: _Waiter) -> bool:
        return self._waiting.get(waiter.run_id) is waiter

    def _decide(
        self,
        waiter: _Waiter,
        refusal: ConcurrencyLimitError | None,
        tags: frozenset[str] = frozenset(),
    ) -> bool:
        """Tells a waiter its outcome; False if it was withdrawn meanwhile."""
        with self._changed:
            if not self._waits(waiter):
                return False
            del self._waiting[waiter.run_id]
            if tags:
                self._held[waiter.run_id] = tags
        try:
            waiter.on_outcome(refusal)
        except BaseException:
            library_logger().exception("Telling run %s of its slots failed", waiter.run_id)
        return True

    def _fail(self, error: BaseException) -> None:
        """The thread ends by an error: nobody is left waiting."""
        with self._changed:
            self._thread = None
            waiters = list(self._waiting.values())
            self._arrived.clear()
            self._lines.clear()
        for waiter in waiters:
            refusal = ConcurrencyLimitError(
                tag=min(waiter.tags), problem=f"it cannot be looked at: {error}"
            )
            refusal.__cause__ = error
            self._decide(waiter, refusal)


class _Decision:
    """The outcome that a blocked thread waits for; a `Waitable`."""

    __slots__ = ("_done", "_waiter", "refusal")

    def __init__(self) -> None:
        self.refusal: ConcurrencyLimitError | None = None
        self._done = False
        self._waiter: Callable[[Any], object] | None = None

    def __call__(self, refusal: ConcurrencyLimitError | None) -> None:
        with LOCK:
            self.refusal = refusal
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
        return self.refusal is not None


def _nobody(refusal: ConcurrencyLimitError | None) -> None:
    """Stands in for who no longer waits."""


#: The keeper of this process. It opens nothing before the first request.
KEEPER = SlotKeeper()

atexit.register(KEEPER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KEEPER._reset)
