"""Who waits in this process, and in which lines. Pure; for one thread."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.exceptions import ShoalError
    from shoal.limits.store import Acquired, Request

    #: Called with `Acquired` when the slots may be used, or with why they never will.
    OnOutcome = Callable[[Acquired | ShoalError], object]

__all__ = ["Asker", "Lines"]


class Asker:
    """Who asked for slots and has had no answer.

    Attributes:
        order: of the requests: who holds slots of what it asks for comes first, as others wait for these.
        request: what it asked for.
        on_outcome: to be told.
        asked: when.
        timeout: how long it waits; `None` for ever.
        once: whether it is tried once more at most: it has no time, or that was over before the first try.
        timer: ends its wait, one way or the other.
        lines: names at which it stands in line.
        tried: whether the store was asked.
        tries: how often it has said that slots are not free.
        stands: whether it stands in the store's line.
        granted: whether its slots are taken, and their time has not come.
        who: the run, or the `Bearer`, that waits, and then holds them; `None` if that is not known.
    """

    __slots__ = (
        "asked",
        "granted",
        "lines",
        "on_outcome",
        "once",
        "order",
        "request",
        "stands",
        "timeout",
        "timer",
        "tried",
        "tries",
        "who",
    )

    def __init__(
        self,
        order: tuple[bool, int],
        request: Request,
        on_outcome: OnOutcome,
        asked: float,
        timeout: float | None,
        who: Any = None,
    ) -> None:
        self.order = order
        self.who = who
        self.request = request
        self.on_outcome = on_outcome
        self.asked = asked
        self.timeout = timeout
        self.once = timeout == 0 or request.max_retries == 0
        self.tries = 0
        self.timer: Any = None
        self.lines: set[str] = set()
        self.tried = self.stands = self.granted = False

    def __lt__(self, other: Asker) -> bool:
        return self.order < other.order

    def cancel(self) -> None:
        """Its timer has nothing to do any more."""
        if self.timer is not None:
            self.timer.cancel()


class Lines:
    """The lines of a process, by name, and those whose first is to be tried.

    Attributes:
        first: the lines, as heaps; none is empty.
        owed: slots that could not be given back yet: names, by id.
    """

    def __init__(self) -> None:
        self.first: dict[str, list[Asker]] = {}
        self.owed: dict[str, frozenset[str]] = {}
        self._stirred: set[str] = set()

    def join(self, asker: Asker, names: Iterable[str]) -> None:
        """A asker stands in line at names, too."""
        for name in set(names) - asker.lines:
            heapq.heappush(self.first.setdefault(name, []), asker)
            asker.lines.add(name)

    def first_of(self, name: str, waits: Callable[[Asker], bool]) -> Asker | None:
        """The first of a line that still waits; `None` if nobody does, and there is no line any more."""
        line = self.first.get(name, [])
        while line:
            if waits(line[0]):
                return line[0]
            self.stir(heapq.heappop(line).lines - {name})
        self.first.pop(name, None)
        return None

    def behind(self, name: str) -> int:
        """How many stand in a line behind its first, at most."""
        return len(self.first.get(name, [])) - 1

    def stir(self, names: Iterable[str]) -> None:
        """Has the first of lines tried."""
        self._stirred.update(name for name in names if name in self.first)

    def next_stirred(self) -> str | None:
        """A line whose first is to be tried; `None` if there is none."""
        if not self._stirred:
            return None
        name = min(self._stirred)
        self._stirred.remove(name)
        return name

    def take_owed(self) -> dict[str, frozenset[str]]:
        """What is owed, which is then not owed any more."""
        owed, self.owed = self.owed, {}
        return owed
