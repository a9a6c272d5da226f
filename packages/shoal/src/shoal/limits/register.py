"""Who waits for slots in this process, and who holds some: what the keeper's thread and those who ask tell each other.

    add, remove ─▶ `arrived`, `released`, `left` ─▶ `take_news` ─▶ the thread ─▶ `decided`, `took_again`

    who writes   All fields under `changed`, which is held around every call but those of `decide`.

May import `lines` and `store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.context import LOCK
from shoal.futures.blocking import WATCHERS
from shoal.limits.store import Acquired
from shoal.logs import library_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.exceptions import ConcurrencyLimitError, ShoalError
    from shoal.limits.lines import Asker
    from shoal.limits.store import Request

__all__ = ["Held", "News", "Register"]


class Held(NamedTuple):
    """Slots that somebody here holds: what for, of which limits, and who; see `Asker`."""

    request: Request
    names: frozenset[str]
    who: Any


class News(NamedTuple):
    """What has come since the thread looked last: who asked, what was given back (names, by id), who waits no more."""

    arrived: list[Asker]
    released: dict[str, frozenset[str]]
    left: list[Asker]


class Register:
    """See the module.

    Args:
        wake: has the thread look what is new.
        waits: told that somebody here begins to wait, for slots or for anything else, while anybody waits for slots.

    Attributes:
        changed: the lock: `LOCK`. The garbage collector may end a run anywhere, also within it (a generator task), which
            gives its slots back: with a lock of its own, that would be taken within `LOCK` as well as around it.
        waiting: who has had no answer, by id.
        held: by id.
        leases: how many are held for so many seconds.
        is_served: whether there is a thread; else nobody stands in any line.
        closed: whether it is the end of the process.
        trouble: why the store cannot be reached at the moment; it is tried again.
    """

    def __init__(self, wake: Callable[[], None], waits: Callable[[], None]) -> None:
        self._wake = wake
        self._waits = waits
        self.changed = LOCK
        self.waiting: dict[str, Asker] = {}
        self.held: dict[str, Held] = {}
        self.leases: dict[float, int] = {}
        self.is_served = self.closed = False
        self.trouble: ConcurrencyLimitError | None = None
        self._news = News([], {}, [])

    def add(self, asker: Asker) -> None:
        """Somebody asks.

        Raises:
            ValueError: the id waits, or holds slots.
        """
        id = asker.request.holder.id
        if id in self.waiting or id in self.held:
            raise ValueError(f"{id} has asked for its slots already")
        self.waiting[id] = asker
        self._news.arrived.append(asker)
        WATCHERS.add(self._waits)
        self._waits()

    def remove(self, id: str) -> bool:
        """Somebody needs no slots any more; returns whether it was still waiting for them."""
        asker = self._waits_no_more(id)
        if asker is not None:
            self._leave(asker)
        elif held := self.held.pop(id, None):
            self._count(held.request, -1)
            self._news.released[id] = held.names
            self._wake()
        return asker is not None

    def _waits_no_more(self, id: str) -> Asker | None:
        asker = self.waiting.pop(id, None)
        if not self.waiting:
            WATCHERS.discard(self._waits)
        return asker

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

    def may_be_stuck(self) -> bool:
        """Whether it is known of anybody who holds slots what it waits for."""
        return any(held.who is not None for held in self.held.values())

    def waits(self, asker: Asker) -> bool:
        """Whether somebody waits for what nobody has got it yet."""
        return self.waiting.get(asker.request.holder.id) is asker and not asker.granted

    def held_within(self, request: Request) -> set[str]:
        """The limits of a request of which the asker holds slots here already: it comes before others."""
        held = [self.held[id].names for id in request.within if id in self.held]
        return {name for names in held for name in names & request.names}

    def held_for(self, seconds: float) -> dict[str, Held]:
        """What is held by leases of so many seconds, by id."""
        return {id: it for id, it in self.held.items() if it.request.lease_seconds == seconds}

    def decide(self, asker: Asker, outcome: Acquired | ShoalError) -> bool:
        """Tells somebody its outcome, without the lock; False if it waits no more."""
        id = asker.request.holder.id
        with self.changed:
            if self.waiting.get(id) is not asker:
                return False
            self._waits_no_more(id)
            if not isinstance(outcome, Acquired):
                self._leave(asker)
            else:
                asker.cancel()
                if outcome.names and asker.request.lease_seconds is not None:
                    self.held[id] = Held(asker.request, outcome.names, asker.who)
                    self._count(asker.request, 1)
        try:
            asker.on_outcome(outcome)
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
            self.held[id] = held._replace(names=names)
        else:
            del self.held[id]
            self._count(held.request, -1)
        return taken != gone

    def _leave(self, asker: Asker) -> None:
        """Somebody waits no more: the thread takes it out of its lines."""
        asker.cancel()
        if self.is_served:
            self._news.left.append(asker)
            self._wake()

    def _count(self, request: Request, change: int) -> None:
        """One more is held, or one less."""
        if (seconds := request.lease_seconds) is not None:
            self.leases[seconds] = self.leases.get(seconds, 0) + change
            if not self.leases[seconds]:
                del self.leases[seconds]
