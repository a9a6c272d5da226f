"""Takes slots of limits for who asks in this process, keeps them while they are used, and gives them back.

request, withdraw, release ──▶ `Register` ──┐ a thread of its own:  ┌──▶ the store
timers ──▶ `Alarms` ────────────────────────┼─ one round at a time ─┤
other processes ──▶ the store's `rung` ─────┘ (`Serving`)           └──▶ on_outcome

guarantees   `request`, `withdraw` and `release` never wait for the store. Each request has its outcome once, told
             with no lock held, unless `withdraw` said True. Whoever is withdrawn or released holds nothing in the
             end, whatever was under way. The thread ends when nothing waits and nothing is held; if it ends by an
             error, or cannot be started, who waits is told, and what is held has another one soon.
assumes      `on_outcome` is quick. Who holds an id asks with it once.
who writes   All fields under `_changed`, the register's lock; those of `Serving` by the thread alone.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from shoal.engine.services import TIMERS
from shoal.exceptions import ConcurrencyLimitError
from shoal.futures.blocking import WATCHERS
from shoal.limits.alarms import Alarms
from shoal.limits.bell import Bell
from shoal.limits.lines import Asker
from shoal.limits.opening import open_store
from shoal.limits.refusals import failed, too_late
from shoal.limits.register import News, Register
from shoal.limits.serving import AGAIN, STUCK, STUCK_AFTER, Serving
from shoal.limits.settings import poll_seconds
from shoal.limits.store import TAG, Acquired
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shoal.futures.blocking import Bearer
    from shoal.futures.run import TaskFuture
    from shoal.limits.alarms import Alarm
    from shoal.limits.lines import OnOutcome
    from shoal.limits.store import LimitStore, Request

__all__ = ["KEEPER", "SlotKeeper"]

#: Seconds that the exit of the process may be held up by giving slots back.
LEAVING = 2.0

_NO_NEWS = News([], {}, [])
_RUNG: Alarm = ("rung", None)


class _Timers(Protocol):
    def after(self, seconds: float, action: Callable[[], Any], /) -> Any: ...


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
        WATCHERS.discard(self._look_for_stuck)
        self._register = Register(self._wake, self._look_for_stuck)
        self._changed = self._register.changed
        self._order = itertools.count()
        self._alarms = Alarms(self._after, self._changed, self._wake_up)
        self._thread: threading.Thread | None = None
        self._bell = None
        self._failure: RuntimeError | None = None  # why no thread could be started
        self._untold: BaseException | None = None  # what is to be logged without the lock
        self._poll = 0.0
        self._leaves_child = False

    # ------------------------------------------------------------------ what others ask for

    def request(
        self,
        request: Request,
        on_outcome: OnOutcome,
        timeout: float | None = None,
        who: TaskFuture[Any] | Bearer | None = None,
    ) -> None:
        """Asks for slots of every one of the request's names that has a limit. Does not wait.

        Args:
            request: what is asked for; its holder's id asks once.
            on_outcome: called once, with `Acquired` as soon as the slots may be used, or with the error of what never will:
                `ConcurrencyLimitError`, or `AcquireConcurrencySlotTimeoutError`. In a thread of the library's.
            timeout: seconds to wait at most; at 0, it is tried once.
            who: waits, and then holds them.

        Raises:
            ValueError: the id waits, or holds slots.
        """
        if not request.names:
            on_outcome(Acquired(frozenset()))
            return
        if self._register.closed:
            tag = min(request.names).removeprefix(TAG)
            on_outcome(ConcurrencyLimitError(tag=tag, problem="this process is at its end"))
            return
        with self._changed:
            is_within = bool(self._register.held_within(request))
            asker = Asker(
                (not is_within, next(self._order)), request, on_outcome, self._clock(), timeout, who
            )
            self._register.add(asker)
            if timeout:
                asker.timer = self._after(timeout, lambda: self._time_out(asker))
            self._wake()
            failure, askers = self._failure, list(self._register.waiting.values())
        self._tell_what_failed()
        if failure is not None:
            self._refuse(askers, failure)

    def withdraw(self, id: str) -> bool:
        """Takes a request back. Slots that it got meanwhile are given back, as by `release`.

        Returns:
            Whether it was still waiting: then `on_outcome` is not called any more.
        """
        with self._changed:
            was_waiting = self._register.remove(id)
        if self._untold is not None:
            self._tell_what_failed()
        return was_waiting

    def release(self, id: str) -> None:
        """The slots are needed no more: gives them back, or takes the request for them back. Does not wait.

        An id that never asked, or was released already, is ignored.
        """
        self.withdraw(id)

    def close(self, timeout: float = LEAVING) -> None:
        """Gives everything back and takes no more requests; for the exit of the process."""
        with self._changed:
            self._register.closed = True
            for id in [*self._register.waiting, *self._register.held]:
                self.withdraw(id)
            thread = self._thread
            if thread is not None:
                self._wake()
            else:
                self._alarms.stop_unless(lambda _: False)
        if thread is not None:
            thread.join(timeout)

    def _leave_child(self) -> None:
        """A child of `multiprocessing` is at its end, but for its threads, which it would wait for next."""
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        self.close()

    # ------------------------------------------------------------------ when the thread has to do what

    def _wake(self) -> None:
        """Has the thread look what is new; under `_changed`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="shoal-limits", daemon=True)
            self._register.is_served = True
            self._failure = None
            self._see_to_end()
            try:
                self._thread.start()
            except RuntimeError as error:  # the system has no more threads, or the process ends
                self._failure = error
                self._end()
                self._try_again(error)
        elif self._bell is not None:
            self._bell.ring()

    def _wake_up(self) -> None:
        """A timer has gone off."""
        with self._changed:
            self._wake()
        self._tell_what_failed()

    def _look_for_stuck(self) -> None:
        """Somebody waits while others wait for slots: looks in a while whether any of them does so for ever."""
        if self._register.may_be_stuck():
            self._alarms.start(STUCK, STUCK_AFTER)

    def _see_to_end(self) -> None:
        """Children of `multiprocessing` end without what `atexit` has, but not without its own; under `_changed`."""
        util = sys.modules.get("multiprocessing.util")
        if (
            util is None
            or self._leaves_child
            or sys.modules["multiprocessing"].parent_process() is None
        ):
            return
        self._leaves_child = True
        util.Finalize(
            None, self._leave_child, exitpriority=-100
        )  # after its own children have ended

    def _next_round(self, serving: Serving, bell: Bell) -> tuple[News, set[Alarm]] | None:
        """Waits until there is something to do; `None` if there is nothing any more, and the thread ends."""
        store = serving.store
        idle = False
        while True:
            with self._changed:
                # At each round, or a thread that always has something to do would let leases run out.
                self._keep_leases()
                news, due = self._register.take_news(), self._alarms.take_due()
                is_new = news is not None or bool(due)
                if not is_new:
                    self._keep_time(serving)
                busy = bool(self._register.waiting or self._register.held or serving.lines.owed)
                if not (is_new or busy) and (self._register.closed or idle):
                    self._end()
                    return None
            if (serving.lines.first or not is_new) and store.rung():
                due.add(_RUNG)
                is_new = True
            if is_new:
                return news or _NO_NEWS, due
            woken = bell.wait(store.fileno(), None if busy else store.linger)
            idle = not woken and not busy

    def _keep_leases(self) -> None:
        """Sets the timers by which leases are renewed; under `_changed`."""
        for seconds in self._register.leases:
            self._alarms.start(("renew", seconds), seconds / 3)

    def _keep_time(self, serving: Serving) -> None:
        """Sets the timers that who waits needs, and calls off what nobody does; under `_changed`."""
        if self._register.waiting:
            if serving.store.poll:
                self._alarms.start(("look", None), self._poll)
        else:
            serving.lines.first.clear()  # of those who were withdrawn
        self._alarms.stop_unless(self._is_wanted)

    def _is_wanted(self, alarm: Alarm) -> bool:
        what, which = alarm
        if what == "renew":
            return which in self._register.leases
        return what == "again" or bool(self._register.waiting)

    def _time_out(self, asker: Asker) -> None:
        """A asker's time is over. One that was never tried is tried first, if the store can be reached."""
        with self._changed:
            trouble = self._register.trouble
            if asker.granted:
                return
            if not (asker.tried or asker.lines or trouble is not None):
                asker.once = True
                return
        self._register.decide(asker, too_late(asker, trouble))

    # ------------------------------------------------------------------ the thread

    def _serve(self) -> None:
        store = bell = None
        try:
            self._poll = poll_seconds() if self._given_poll is None else self._given_poll
            bell = self._bell = Bell()
            store = self._open_store()
            serving = Serving(store, self._register, self._alarms, self._after, self._clock)
            while (todo := self._next_round(serving, bell)) is not None:
                serving.work(*todo)
        except BaseException as error:
            with self._changed:
                self._end()
                self._try_again(error)
                askers = list(self._register.waiting.values())
            self._tell_what_failed()
            self._refuse(askers, error)
        finally:
            if store is not None:
                store.close()
            if bell is not None:
                bell.close()

    def _end(self) -> None:
        """The thread ends, and the next one begins anew; under `_changed`."""
        self._thread = self._bell = None
        self._register.not_served()
        self._alarms.stop_unless(lambda _: False)

    def _try_again(self, error: BaseException) -> None:
        """There is no thread: there is to be one in a while, for what is held or to be given back; under `_changed`, and
        `_tell_what_failed` after it.
        """
        if self._register.closed or not self._register.needs_thread():
            return
        self._untold = error
        with contextlib.suppress(RuntimeError):  # as for threads: until somebody asks again
            self._alarms.start(("again", None), AGAIN)

    def _tell_what_failed(self) -> None:
        """Logs what is tried again, without the lock: handlers may do anything."""
        with self._changed:
            error, self._untold = self._untold, None
        if error is not None:
            library_logger().warning(
                "Slots of limits could not be kept or given back, which is tried again: %s", error
            )

    def _refuse(self, askers: Iterable[Asker], error: BaseException) -> None:
        """There was no thread for those who waited, by an error."""
        for asker in askers:
            self._register.decide(asker, failed(asker, error))


#: The keeper of this process. It opens nothing before the first request.
KEEPER = SlotKeeper()

atexit.register(KEEPER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KEEPER._reset)
