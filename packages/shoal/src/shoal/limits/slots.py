"""Takes slots of limits for who asks in this process, keeps them while they are used, and gives them back.

    request ──▶ _arrived ──┐                        ┌──▶ the store
    release ──▶ _released ─┤   a thread of its own: │
    withdraw ─▶ _left ─────┤                        │
    timers  ──▶ _due ──────┴──▶ one round at a time ┴──▶ on_outcome
    other processes ──▶ the store's `rung`, `changed` ──┘

    guarantees   `request`, `withdraw` and `release` never wait for the store. Each request has its outcome once, told
                 with no lock held, unless `withdraw` said True. Whoever is withdrawn or released holds nothing in the
                 end, whatever was under way. The thread ends when nothing waits and nothing is held.
    assumes      `on_outcome` is quick. Who holds an id asks with it once.
    who writes   All fields under `_changed`, except those of `_Lines`, which the thread alone uses.

Who has to wait stands in line at every name at which it had to, in the order of the requests, and keeps these places
until it is served; only the first of a line is tried, and so stands in the store's line too. It is tried again when
something is given back, here or by another process, or when the store has said that it may be free by then. So a slot
given back costs one try or two, however many wait.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from shoal.engine.services import TIMERS
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.alarms import Alarms
from shoal.limits.bell import Bell
from shoal.limits.blocking import Decision, wait_for
from shoal.limits.lines import Held, Lines, Round, Waiter
from shoal.limits.opening import open_store
from shoal.limits.refusals import failed, refused, too_late
from shoal.limits.settings import poll_seconds
from shoal.limits.store import TAG, Acquired, Busy
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from shoal.exceptions import ShoalError
    from shoal.limits.alarms import Alarm
    from shoal.limits.lines import OnOutcome
    from shoal.limits.store import LimitStore, Request

__all__ = ["KEEPER", "SlotKeeper"]

#: Seconds after which who stands in line tells the store at the latest that it still does; less than it waits for that.
REFRESH = 1.5

#: Seconds between two tries of a store that cannot be reached.
AGAIN = 0.5

#: Seconds that the exit of the process may be held up by giving slots back.
LEAVING = 2.0


class _Timers(Protocol):
    def after(self, seconds: float, action: Callable[[], None], /) -> Any: ...


class SlotKeeper:
    """Slots for who asks in this process. `KEEPER` is the one to use.

    Args:
        open_store: makes the store; called whenever the thread starts.
        poll: seconds between two looks whether others have changed anything unheard, while somebody waits; by default
            that of the settings.
        timers: keeps time, as `shoal.engine.services.TIMERS`.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        open_store: Callable[[], LimitStore] = open_store,
        *,
        poll: float | None = None,
        timers: _Timers = TIMERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_store = open_store
        self._given_poll = poll
        self._after = timers.after
        self._clock = clock
        self._bell: Bell | None = None
        self._reset()

    def _reset(self) -> None:
        if self._bell is not None:  # in a forked child, where it would be the parent's
            self._bell.close()
        # Re-entrant, because the garbage collector may end a run inside (a generator task), which gives its slots back.
        self._changed = threading.RLock()
        self._order = itertools.count()
        self._waiting: dict[str, Waiter] = {}
        self._held: dict[str, Held] = {}
        self._leases: dict[float, int] = {}  # how many are held for so many seconds
        self._arrived: list[Waiter] = []
        self._released: dict[str, frozenset[str]] = {}
        self._left: list[Waiter] = []
        self._alarms = Alarms(self._after, self._changed, self._wake)
        self._thread: threading.Thread | None = None
        self._bell = None
        self._closed = False
        self._poll = 0.0
        self._trouble: ConcurrencyLimitError | None = None
        self._lines = Lines()

    # ------------------------------------------------------------------ what others ask for

    def request(
        self, request: Request, on_outcome: OnOutcome, timeout: float | None = None
    ) -> None:
        """Asks for slots of every one of the request's names that has a limit. Does not wait.

        Args:
            request: what is asked for; its holder's id asks once.
            on_outcome: called once, with `Acquired` as soon as the slots may be used, or with the error of what never will:
                `ConcurrencyLimitError`, or `AcquireConcurrencySlotTimeoutError`. In a thread of the library's.
            timeout: seconds to wait at most; at 0, it is tried once.

        Raises:
            ValueError: the id waits, or holds slots.
        """
        id = request.holder.id
        if not request.names:
            on_outcome(Acquired(frozenset()))
            return
        if self._closed:
            tag = min(request.names).removeprefix(TAG)
            on_outcome(ConcurrencyLimitError(tag=tag, problem="this process is at its end"))
            return
        with self._changed:
            if id in self._waiting or id in self._held:
                raise ValueError(f"{id} has asked for its slots already")
            waiter = Waiter(next(self._order), request, on_outcome, self._clock(), timeout)
            self._waiting[id] = waiter
            self._arrived.append(waiter)
            if timeout:
                waiter.timer = self._after(timeout, lambda: self._time_out(waiter))
            self._wake()

    def withdraw(self, id: str) -> bool:
        """Takes a request back. Slots that it got meanwhile are given back, as by `release`.

        Returns:
            Whether it was still waiting: then `on_outcome` is not called any more.
        """
        with self._changed:
            waiter = self._waiting.pop(id, None)
            if waiter is not None:
                self._leave(waiter)
            elif held := self._held.pop(id, None):
                self._count(held.request, -1)
                self._released[id] = held.names
                self._wake()
        return waiter is not None

    def release(self, id: str) -> None:
        """The slots are needed no more: gives them back, or takes the request for them back. Does not wait.

        An id that never asked, or was released already, is ignored.
        """
        self.withdraw(id)

    def acquire_blocking(self, request: Request, timeout: float | None = None) -> Acquired:
        """As `request`, and waits in the caller's own thread.

        An exception that ends the wait (`Interrupt`, KeyboardInterrupt) withdraws the request.

        Raises:
            ConcurrencyLimitError: the slots will never be free, or the store cannot be used.
            AcquireConcurrencySlotTimeoutError: they were not in time.
        """
        decision = Decision()
        try:
            self.request(request, decision, timeout)
            wait_for(decision)
        except BaseException:
            self.withdraw(request.holder.id)
            raise
        if not isinstance(decision.outcome, Acquired):
            raise decision.outcome
        return decision.outcome

    def close(self, timeout: float = LEAVING) -> None:
        """Gives everything back and takes no more requests; for the exit of the process."""
        with self._changed:
            self._closed = True
            for id in [*self._waiting, *self._held]:
                self.withdraw(id)
            thread = self._thread
            if thread is not None:
                self._wake()
        if thread is not None:
            thread.join(timeout)

    # ------------------------------------------------------------------ when the thread has to do what

    def _wake(self) -> None:
        """Has the thread look what is new; under `_changed`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="shoal-limits", daemon=True)
            self._thread.start()
        elif self._bell is not None:
            self._bell.ring()

    def _leave(self, waiter: Waiter) -> None:
        """A waiter waits no more: the thread takes it out of its lines; under `_changed`."""
        waiter.cancel()
        if self._thread is not None:  # else it stands in no line
            self._left.append(waiter)
            self._wake()

    def _next_round(self, store: LimitStore, bell: Bell) -> Round | None:
        """Waits until there is something to do; `None` if there is nothing any more, and the thread ends."""
        idle = False
        while True:
            with self._changed:
                if self._arrived or self._released or self._left or self._alarms.due:
                    due = self._alarms.take_due()
                    todo = Round(self._arrived, self._released, self._left, due)
                    self._arrived, self._released, self._left = [], {}, []
                    return todo
                self._keep_time(store)
                busy = bool(self._waiting or self._held or self._lines.owed)
                if not busy and (self._closed or idle):
                    self._end()
                    return None
            if store.rung():
                return Round([], {}, [], {("rung", None)})
            woken = bell.wait(store.fileno(), None if busy else store.linger)
            idle = not woken and not busy

    def _keep_time(self, store: LimitStore) -> None:
        """Sets the timers that what waits and what is held needs; under `_changed`."""
        if self._waiting:
            if store.poll:
                self._alarms.start(("look", None), self._poll)
        else:
            self._lines.first.clear()  # of those who were withdrawn
        for seconds in self._leases:
            self._alarms.start(("renew", seconds), seconds / 3)
        self._alarms.stop_unless(self._is_wanted)

    def _is_wanted(self, alarm: Alarm) -> bool:
        what, which = alarm
        if what == "renew":
            return which in self._leases
        return what == "again" or bool(self._waiting)

    def _count(self, request: Request, change: int) -> None:
        """One more is held, or one less; under `_changed`."""
        if (seconds := request.lease_seconds) is not None:
            self._leases[seconds] = self._leases.get(seconds, 0) + change
            if not self._leases[seconds]:
                del self._leases[seconds]

    def _time_out(self, waiter: Waiter) -> None:
        """A waiter's time is over. One that was never tried is tried first, if the store can be reached."""
        with self._changed:
            if waiter.granted:
                return
            if not (waiter.tried or waiter.lines or self._trouble is not None):
                waiter.once = True
                return
        self._decide(waiter, too_late(waiter, self._trouble))

    # ------------------------------------------------------------------ the thread

    def _serve(self) -> None:
        store = bell = None
        try:
            self._poll = poll_seconds() if self._given_poll is None else self._given_poll
            bell = self._bell = Bell()
            store = self._open_store()
            while (todo := self._next_round(store, bell)) is not None:
                self._work(store, todo)
        except BaseException as error:
            self._fail(error)
        finally:
            if store is not None:
                store.close()
            if bell is not None:
                bell.close()

    def _work(self, store: LimitStore, todo: Round) -> None:
        lines = self._lines
        self._give_back(store, todo.released)
        for names in todo.released.values():
            lines.stir(names)
        self._forget(store, todo.left)
        for what, which in todo.due:
            if what == "renew":
                self._renew(store, which)
            elif what == "line":
                lines.stir((which,))
            elif what == "again":
                self._give_back(store, lines.take_owed())
            elif what == "rung" or store.changed():
                lines.stir(list(lines.first))
        self._serve_lines(store)
        for waiter in todo.arrived:
            self._admit(store, waiter)
        self._serve_lines(store)

    def _give_back(self, store: LimitStore, released: dict[str, frozenset[str]]) -> None:
        if not released:
            return
        try:
            store.release(released)
        except ConcurrencyLimitError as error:
            if store.may_pass(error) and not self._closed:
                self._lines.owed.update(released)
                with self._changed:
                    self._alarms.start(("again", None), AGAIN)
                self._in_trouble(error)
            else:
                library_logger().warning(
                    "Slots are given back by the end of their leases: %s", error
                )

    def _forget(self, store: LimitStore, left: Collection[Waiter]) -> None:
        """Those who wait no more leave their lines."""
        standing = [waiter.request.holder.id for waiter in left if waiter.stands]
        for waiter in left:
            if waiter.stands:
                self._lines.stir(waiter.lines)
        if standing:
            try:
                store.withdraw(standing)
            except ConcurrencyLimitError as error:
                library_logger().warning("Places in line are left when they are over: %s", error)

    def _renew(self, store: LimitStore, seconds: float) -> None:
        with self._changed:
            held = {id: it for id, it in self._held.items() if it.request.lease_seconds == seconds}
        if not held:
            return
        lost: list[Held] = []
        try:
            kept = store.renew(list(held), seconds)
            for id, it in held.items():
                gone = it.names - kept.get(id, set())
                if gone and not self._take_again(store, it, gone):
                    lost.append(it)
        except ConcurrencyLimitError as error:
            library_logger().warning("Leases could not be renewed, which is tried again: %s", error)
        if lost:
            library_logger().warning(
                "%d runs go on without the slots of their limits, which were reset, deleted, or not renewed in time"
                " because this process stood still: %s",
                len(lost),
                ", ".join(
                    sorted(it.request.holder.id for it in lost)[:10]
                ),  # there may be thousands
            )

    def _take_again(self, store: LimitStore, it: Held, gone: frozenset[str]) -> bool:
        """Takes slots that were lost once more if there is room; else they are held no more, and it returns False."""
        id = it.request.holder.id
        answer = store.try_acquire(replace(it.request, names=gone, strict=False), stand=False)
        taken = answer.names if isinstance(answer, Acquired) else frozenset[str]()
        with self._changed:
            held = self._held.get(id)
            if held is None:  # given back meanwhile
                self._released[id] = taken
            elif names := it.names - gone | taken:
                self._held[id] = Held(it.request, names)
            else:
                del self._held[id]
                self._count(it.request, -1)
        return held is None or taken == gone

    # ------------------------------------------------------------------ lines

    def _admit(self, store: LimitStore, waiter: Waiter) -> None:
        """A newcomer: tried unless others stand in line for what it wants."""
        if not self._waits(waiter):
            return
        lines = waiter.request.names & self._lines.first.keys()
        with self._changed:
            if lines and not waiter.once:
                self._lines.join(waiter, lines)
                return
        self._try(store, waiter, min(waiter.request.names), 0)

    def _serve_lines(self, store: LimitStore) -> None:
        while (name := self._lines.next_stirred()) is not None:
            while (waiter := self._lines.first_of(name, self._waits)) is not None:
                self._try(store, waiter, name, self._lines.behind(name))
                if self._waits(waiter) and not waiter.granted:
                    break
            else:
                with self._changed:
                    self._alarms.stop(("line", name))

    def _try(self, store: LimitStore, waiter: Waiter, name: str, behind: int) -> None:
        """Tries to get a waiter its slots; if it has to wait, it stands in line, and is tried again at its time."""
        waited = self._clock() - waiter.asked if waiter.tried or waiter.lines else None
        patience = None if waiter.timeout is None else max(0.0, waiter.timeout - (waited or 0.0))
        try:
            answer = store.try_acquire(waiter.request, waited, patience=patience, behind=behind)
        except ConcurrencyLimitError as error:
            if not store.may_pass(error):
                self._decide(waiter, error)
                return
            self._in_trouble(error)
            answer = Busy(waiter.request.names, AGAIN)
        else:
            self._out_of_trouble()
            waiter.tried = True
            waiter.stands = waiter.stands or isinstance(answer, Busy)
        if isinstance(answer, Busy):
            pause = REFRESH if answer.retry_after is None else min(answer.retry_after, REFRESH)
            waiter.tries += 1
            most = waiter.request.max_retries
            is_given_up = most is not None and waiter.tries > most
            with self._changed:
                is_late = waiter.once or is_given_up
                if not is_late:
                    self._lines.join(waiter, answer.names)
                    if name not in self._lines.first:
                        name = min(answer.names)
                    self._alarms.start(("line", name), max(pause, 0.0005), anew=True)
            if is_given_up:
                problem = f"it had no free slots, nor at {most} further tries"
                tag = min(answer.names).removeprefix(TAG)
                self._decide(waiter, ConcurrencyLimitError(tag=tag, problem=problem))
            elif is_late:
                self._decide(waiter, too_late(waiter, self._trouble))
        elif not isinstance(answer, Acquired):
            self._decide(waiter, refused(answer))
        elif answer.after:
            waiter.granted = True
            self._lines.stir(waiter.lines)
            waiter.timer = self._after(answer.after, partial(self._grant, waiter, answer))
        elif not self._decide(waiter, answer) and waiter.request.lease_seconds is not None:
            self._give_back(store, {waiter.request.holder.id: answer.names})

    def _waits(self, waiter: Waiter) -> bool:
        return self._waiting.get(waiter.request.holder.id) is waiter and not waiter.granted

    def _decide(self, waiter: Waiter, outcome: Acquired | ShoalError) -> bool:
        """Tells a waiter its outcome; False if it was withdrawn meanwhile."""
        id = waiter.request.holder.id
        with self._changed:
            if self._waiting.get(id) is not waiter:
                return False
            del self._waiting[id]
            if not isinstance(outcome, Acquired):
                self._leave(waiter)
            else:
                waiter.cancel()
                if outcome.names and waiter.request.lease_seconds is not None:
                    self._held[id] = Held(waiter.request, outcome.names)
                    self._count(waiter.request, 1)
        try:
            waiter.on_outcome(outcome)
        except BaseException:
            library_logger().exception("Telling %s of its slots failed", id)
        return True

    def _grant(self, waiter: Waiter, answer: Acquired) -> None:
        """The time of slots that were taken ahead has come."""
        self._decide(waiter, answer)

    def _in_trouble(self, error: ConcurrencyLimitError) -> None:
        if self._trouble is None:
            library_logger().warning("It is tried again until it works: %s", error)
        self._trouble = error

    def _out_of_trouble(self) -> None:
        if self._trouble is not None:
            library_logger().info("The limits can be used again")
            self._trouble = None
            self._lines.stir(list(self._lines.first))

    def _end(self) -> None:
        """The thread ends, and the next one begins anew; under `_changed`."""
        self._thread = self._bell = None
        self._alarms.stop_unless(lambda _: False)
        self._lines = Lines()

    def _fail(self, error: BaseException) -> None:
        """The thread ends by an error: nobody is left waiting."""
        with self._changed:
            self._end()
            waiters = list(self._waiting.values())
            self._arrived.clear()
        for waiter in waiters:
            self._decide(waiter, failed(waiter, error))


#: The keeper of this process. It opens nothing before the first request.
KEEPER = SlotKeeper()

atexit.register(KEEPER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KEEPER._reset)
