"""Who waits for slots in this process, and who holds some: what the keeper's thread and those who ask tell each other.

    add, remove ─▶ `arrived`, `released`, `left` ─▶ `take_news` ─▶ the thread ─▶ `decided`, `took_again`

    who writes   All fields under `changed`, which is held around every call but those of `decide`.

May import `lines` and `store`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from shoal.limits.store import Acquired
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.exceptions import ConcurrencyLimitError, ShoalError
    from shoal.limits.lines import Waiter
    from shoal.limits.store import Request

__all__ = ["Held", "News", "Register"]


class Held(NamedTuple):
    """Slots that somebody here holds, and of which limits."""

    request: Request
    names: frozenset[str]


class News(NamedTuple):
    """What has come since the thread looked last: who asked, what was given back (names, by id), who waits no more."""

    arrived: list[Waiter]
    released: dict[str, frozenset[str]]
    left: list[Waiter]


class Register:
    """See the module.

    Args:
        wake: has the thread look what is new.

    Attributes:
        changed: the lock. Re-entrant, because the garbage collector may end a run inside (a generator task), which gives
            its slots back.
        waiting: who has had no answer, by id.
        held: by id.
        leases: how many are held for so many seconds.
        is_served: whether there is a thread; else nobody stands in any line.
        closed: whether it is the end of the process.
        trouble: why the store cannot be reached at the moment; it is tried again.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.changed = threading.RLock()
        self.waiting: dict[str, Waiter] = {}
        self.held: dict[str, Held] = {}
        self.leases: dict[float, int] = {}
        self.is_served = self.closed = False
        self.trouble: ConcurrencyLimitError | None = None
        self._news = News([], {}, [])

    def add(self, waiter: Waiter) -> None:
        """Somebody asks.

        Raises:
            ValueError: the id waits, or holds slots.
        """
        id = waiter.request.holder.id
        if id in self.waiting or id in self.held:
            raise ValueError(f"{id} has asked for its slots already")
        self.waiting[id] = waiter
        self._news.arrived.append(waiter)

    def remove(self, id: str) -> bool:
        """Somebody needs no slots any more; returns whether it was still waiting for them."""
        waiter = self.waiting.pop(id, None)
        if waiter is not None:
            self._leave(waiter)
        elif held := self.held.pop(id, None):
            self._count(held.request, -1)
            self._news.released[id] = held.names
            self._wake()
        return waiter is not None

    def take_news(self) -> News | None:
        """What is new; `None` if nothing is."""
        if not any(self._news):
            return None
        news, self._news = self._news, News([], {}, [])
        return news

    def not_served(self) -> None:
        """There is no thread any more, nor any line."""
        self.is_served = False
        self.trouble = None
        self._news = News([], self._news.released, [])

    def needs_thread(self) -> bool:
        """Whether there is anything to be kept or given back."""
        return bool(self.held or self._news.released)

    def waits(self, waiter: Waiter) -> bool:
        """Whether somebody waits for what nobody has got it yet."""
        return self.waiting.get(waiter.request.holder.id) is waiter and not waiter.granted

    def held_for(self, seconds: float) -> dict[str, Held]:
        """What is held by leases of so many seconds, by id."""
        return {id: it for id, it in self.held.items() if it.request.lease_seconds == seconds}

    def decide(self, waiter: Waiter, outcome: Acquired | ShoalError) -> bool:
        """Tells somebody its outcome, without the lock; False if it waits no more."""
        id = waiter.request.holder.id
        with self.changed:
            if self.waiting.get(id) is not waiter:
                return False
            del self.waiting[id]
            if not isinstance(outcome, Acquired):
                self._leave(waiter)
            else:
                waiter.cancel()
                if outcome.names and waiter.request.lease_seconds is not None:
                    self.held[id] = Held(waiter.request, outcome.names)
                    self._count(waiter.request, 1)
        try:
            waiter.on_outcome(outcome)
        except BaseException:
            library_logger().exception("Telling %s of its slots failed", id)
        return True

    def took_again(self, id: str, gone: frozenset[str], taken: frozenset[str]) -> bool:
        """Of slots that were lost some were taken once more; returns whether somebody goes on without some."""
        held = self.held.get(id)
        if held is None:  # given back meanwhile
            if taken:
                self._news.released[id] = taken
                self._wake()
            return False
        if names := held.names - gone | taken:
            self.held[id] = Held(held.request, names)
        else:
            del self.held[id]
            self._count(held.request, -1)
        return taken != gone

    def _leave(self, waiter: Waiter) -> None:
        """Somebody waits no more: the thread takes it out of its lines."""
        waiter.cancel()
        if self.is_served:
            self._news.left.append(waiter)
            self._wake()

    def _count(self, request: Request, change: int) -> None:
        """One more is held, or one less."""
        if (seconds := request.lease_seconds) is not None:
            self.leases[seconds] = self.leases.get(seconds, 0) + change
            if not self.leases[seconds]:
                del self.leases[seconds]
