"""Caps: at most so many runs of a task, or of a flow run, at once. Pure; nothing is opened, and nothing is kept outside.

    a run is ready ─▶ its line ──── a place is free: the line is queued among what is ready, as a map is
                                      │
                                      ▼             ┌─ ends, or waits for its retry ─▶ free ─▶ who goes on, then lines
                  who was given it takes a place ───┤
                                      ▲             └─ waits for other runs ─────────▶ lent
                                      └──── goes on, once there is a place again ◀───────┘

Who has a place is a thread or a coroutine of this process, or a batch: its runs are executed one after another, so one place is
enough for it, and for the next one that its slot has. Only in a batch of coroutines, which run side by side, does each run
need one.

    guarantees   A cap never has more places taken than its limit. Who waits holds none, be it for runs, for a retry or for
                 a place: so nothing waits in a circle by its caps, and a recursion under a cap of 1 ends. Who has begun
                 comes before who has not.
    assumes      `LOCK` is held. After `free`, `lend` and `now_open` the scheduler's `serve_caps` follows.
                 A slot has no other worker before its first has stopped executing; and what is recalled from a worker does
                 not begin there once it has heard anything that was said later.

May import futures, `wait_graph` and what lies above them.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from shoal.calls import READY
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling.wait_graph import tell_of_run, tell_wanting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shoal.specs import TaskCap, TaskSpec

__all__ = ["Caps", "Line", "Ready", "came_first", "caps_of", "joined", "task_of"]


class GoesOn(Protocol):
    """Who waits for a place to go on."""

    def resume(self) -> None:
        """It has one now."""


class Lender(GoesOn, Protocol):
    """A run of a batch that waits: a `BlockedRun`."""

    batch: Any
    run: Any
    lends: bool


class _Cap:
    """A bound on how many run at once.

    Attributes:
        limit: the most.
        taken: places that somebody has.
    """

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0


class Line:
    """Runs under the same caps that are ready, in order; each needs a place of every one of these caps.

    Attributes:
        caps: the task's, and the one of all runs.
        items: the runs: futures, and map records with unclaimed elements; some may have ended since.
        queued: whether it is among what is ready.
        on_loop: whether they are coroutines.
        at_slots: the places that slots have, by slot, where each has a worker of its own.
    """

    __slots__ = ("at_slots", "caps", "items", "on_loop", "queued")

    def __init__(self, caps: tuple[_Cap, ...], *, on_loop: bool) -> None:
        self.caps = caps
        self.items: deque[TaskFuture[Any] | MapRecord[Any]] = deque()
        self.queued = False
        self.on_loop = on_loop
        self.at_slots: dict[int, _InBatch] = {}

    @property
    def task(self) -> TaskSpec:
        """The task of the first; there is one."""
        return task_of(self.items[0])

    def room(self) -> int:
        """How many more may run now."""
        return min((cap.limit - cap.taken for cap in self.caps), default=1)

    def without(self, covered: Collection[_Cap]) -> Line:
        """One under the rest of its caps; the same if none of them is covered."""
        rest = tuple(cap for cap in self.caps if cap not in covered)
        return self if rest == self.caps else Line(rest, on_loop=self.on_loop)

    def prune(self) -> bool:
        """See `pruned`."""
        return Line.pruned(self.items)

    @staticmethod
    def pruned(ready: deque[Any]) -> bool:
        """Forgets what was begun or ended out of its turn, or has no room, at the front; whether anything is left."""
        while ready:
            item = ready[0]
            if type(item) is TaskFuture:
                if item._phase == READY and hasattr(item, "_start"):
                    return True
            elif (item.room() > 0 and item.prune()) if type(item) is Line else item.unclaimed:
                return True
            else:
                item.queued = False
            ready.popleft()
        return False


def joined(lines: Sequence[Line]) -> Line:
    """A line under all the caps of some: places of all are taken at once, or of none."""
    caps = dict.fromkeys(cap for line in lines for cap in line.caps)
    return Line(tuple(caps), on_loop=lines[0].on_loop)


class _InBatch:
    """The places of a batch in flight, or of several at one slot, which are executed one after another.

    Attributes:
        line: whose caps they are of.
        each: whether each of its runs needs one, as they run side by side.
        taken: how many it has.
        lent: how many of its runs wait.
        without: those of its runs that go on without one.
        runs: how many have not ended, by the number of the batch.
    """

    __slots__ = ("each", "lent", "line", "runs", "taken", "without")

    def __init__(self, line: Line, *, each: bool) -> None:
        self.line = line
        self.each = each
        self.taken = 0
        self.lent = 0
        self.without: set[Any] = set()
        self.runs: dict[int, int] = {}

    def needed(self) -> int:
        """How many places it needs, as far as its runs do not wait."""
        if self.each:
            return max(sum(self.runs.values()) - self.lent, 0)
        return 1 if any(self.runs.values()) else 0


#: What is queued when it is ready.
Ready: TypeAlias = "TaskFuture[Any] | MapRecord[Any] | Line"


class Caps:
    """The caps of one entered runner, and who has their places. Made when the first capped run comes.

    Args:
        whole: the most of all its runs at once, `None` for any number.

    Attributes:
        going_on: who waits for a place to go on, and in which line's name; in order.
    """

    __slots__ = ("_batches", "_lines", "_refused", "_whole", "going_on")

    def __init__(self, whole: int | None = None) -> None:
        self._whole = _Cap(whole) if whole is not None else None
        self._lines: dict[Any, Line] = {}
        self._batches: dict[int, _InBatch] = {}
        self._refused: dict[TaskFuture[Any] | MapRecord[Any], Line] = {}
        self.going_on: deque[tuple[GoesOn, Line]] = deque()

    # ------------------------------------------------------------------ lines

    def line_of(self, task: TaskSpec) -> Line | None:
        """The line in which runs of a task wait for a place; `None` if they are under no cap."""
        return self._line_under(task.cap, on_loop=task.is_async)

    def line_under(self, task_caps: Sequence[TaskCap], *, on_loop: bool) -> Line | None:
        """As `line_of`, by the caps of tasks, of which one is at generators that the others are, and whether it is async."""
        lines = [self._line_under(cap, on_loop=on_loop) for cap in task_caps or (None,)]
        return lines[0] if len(lines) == 1 else joined([line for line in lines if line])

    def _line_under(self, cap: TaskCap | None, *, on_loop: bool) -> Line | None:
        if cap is None and self._whole is None:
            return None
        key = cap.key if cap is not None else on_loop
        line = self._lines.get(key)
        if line is None:
            own = (_Cap(cap.limit),) if cap is not None else ()
            whole = (self._whole,) if self._whole is not None else ()
            line = self._lines[key] = Line((*own, *whole), on_loop=on_loop)
        return line

    def beside(self, line: Line, task: TaskSpec) -> Line:
        """A line under those caps only under which runs of another task are not."""
        other = self.line_of(task)
        return line.without(other.caps) if other is not None else line

    def lines(self) -> list[Line]:
        """All lines."""
        return list(self._lines.values())

    def startable(self) -> list[Line]:
        """Lines that are to be queued among what is ready: some of their runs could start now."""
        return [
            line
            for line in self._lines.values()
            if line.items and not line.queued and line.room() > 0 and line.prune()
        ]

    def is_queued(self, future: TaskFuture[Any]) -> bool:
        """Whether a run that is ready waits for a place."""
        line = self.line_of(future._task)
        return line is not None and hasattr(future, "_start") and line.room() <= 0

    def refuses(self, item: TaskFuture[Any] | MapRecord[Any]) -> bool:
        """Whether a worker that waits for a run, or a map, cannot be given it, as there is no place; it is told once there is."""
        line = self.line_of(task_of(item))
        if line is None or line.room() > 0:
            return False
        self._refused[item] = line
        return True

    def tell_refused(self) -> None:
        """Has workers look again at what they were refused and could be given now."""
        for item in [item for item, line in self._refused.items() if line.room() > 0]:
            del self._refused[item]
            if isinstance(item, MapRecord):
                tell_wanting(item.wanting)
                continue
            tell_of_run(item._details())

    # ------------------------------------------------------------------ places

    def take(self, line: Line, count: int = 1) -> None:
        """Takes places; there are as many."""
        for cap in line.caps:
            cap.taken += count

    def free(self, line: Line, count: int = 1) -> None:
        """Places are free again."""
        for cap in line.caps:
            cap.taken -= count

    def go_on(self, who: GoesOn, line: Line) -> bool:
        """Somebody would go on: takes a place; False if there is none, and `who.resume()` is called once there is."""
        if line.room() > 0:
            self.take(line)
            return True
        self.going_on.append((who, line))
        return False

    def withdraw(self, who: GoesOn) -> bool:
        """Somebody waits no longer for a place; False if it has one."""
        waiting = len(self.going_on)
        self.going_on = deque(entry for entry in self.going_on if entry[0] is not who)
        return len(self.going_on) < waiting

    def in_the_way(self, blocked: Lender) -> list[int]:
        """The batches that have places which a run of a batch waits for to go on."""
        lines = [line for who, line in self.going_on if getattr(who, "blocked", None) is blocked]
        caps = {cap for line in lines for cap in line.caps}
        batches = self._batches.items()
        return [n for n, has in batches if has.taken and not caps.isdisjoint(has.line.caps)]

    def serve(self) -> None:
        """Gives places to those who wait to go on, in order."""
        for _ in range(len(self.going_on)):
            who, line = self.going_on.popleft()
            if line.room() > 0:
                self.take(line)
                who.resume()
            else:
                self.going_on.append((who, line))

    # ------------------------------------------------------------------ batches

    def sent(self, number: int, runs: Any, *, loops: bool, slot: int | None = None) -> None:
        """A batch is in flight.

        Args:
            number: of the batch.
            runs: in it.
            loops: whether coroutines of a batch run side by side.
            slot: that executes its batches one after another, if this is one of them.
        """
        task = runs.record.task if type(runs) is Span else runs[0]._task
        line = self.line_of(task)
        if line is None:
            return
        each = task.is_async and loops
        places = line.at_slots.get(slot) if slot is not None and not each else None
        if places is None:
            places = _InBatch(line, each=each)
            if slot is not None and not each:
                line.at_slots[slot] = places
        self._batches[number] = places
        places.runs[number] = len(runs)
        missing = places.needed() - places.taken
        places.taken += missing
        self.take(line, missing)

    def kept(self) -> list[tuple[Line, list[int]]]:
        """Lines all of whose places are taken, and which nobody else waits for; and the slots that have one."""
        if self.going_on:
            return []
        waiting = [line for line in self._lines.values() if line.items and line.prune()]
        return [
            (line, list(line.at_slots))
            for line in waiting
            if line.at_slots
            and line.room() <= 0
            and all(other is line or not {*other.caps} & {*line.caps} for other in waiting)
        ]

    def now_open(self, number: int, runs: int) -> bool:
        """So many runs of a batch have not ended, 0 if it is in flight no more; whether a place is free by that."""
        places = self._batches.get(number)
        if places is None:
            return False
        places.runs[number] = runs
        if not runs:
            self._forget(number, places)
        unneeded = places.taken - places.needed()
        if unneeded <= 0:
            return False
        places.taken -= unneeded
        self.free(places.line, unneeded)
        return True

    def _forget(self, number: int, places: _InBatch) -> None:
        del self._batches[number], places.runs[number]
        if not places.runs:
            self._leave_slot(places)
            self.going_on = deque(
                entry for entry in self.going_on if getattr(entry[0], "places", None) is not places
            )

    def _leave_slot(self, places: _InBatch) -> None:
        """What comes to its slot from now on does not share its place."""
        at_slots = places.line.at_slots
        for slot in [slot for slot, others in at_slots.items() if others is places]:
            del at_slots[slot]

    def can_be_shared(self, number: int, at_slot: int) -> bool:
        """Whether what has not begun of a batch could begin elsewhere meanwhile: there is room, or it may take its places along,
        as its slot may be at something else; of which it has so many.
        """
        places = self._batches.get(number)
        return places is None or places.line.room() > 0 or at_slot > len(places.runs)

    def lend(self, number: int, blocked: Lender) -> list[int]:
        """A run of a batch waits; which others have lost the place with it, and are to be recalled before it goes on."""
        places = self._batches.get(number)
        if places is not None and blocked.run in places.without:
            places.without.remove(blocked.run)
            places.lent += 1
            blocked.lends = True
            return []
        if places is None or not places.taken:
            return []
        places.taken -= 1
        places.lent += 1
        blocked.lends = True
        self.free(places.line)
        if places.each:
            return []
        self._leave_slot(places)
        others = [other for other in places.runs if other != number]
        for other in others:
            self._forget(other, places)
        return others

    def stopped(self, blocked: Lender) -> None:
        """A run that has lent its place is not given one: it ends, or waits again."""
        blocked.lends = False
        places = self._batches.get(blocked.batch.number)
        if places is not None and places.each:
            places.lent -= 1
            places.without.add(blocked.run)
            others = (e for e in self.going_on if getattr(e[0], "blocked", None) is not blocked)
            self.going_on = deque(others)

    def take_again(self, number: int, blocked: Lender, task_caps: Sequence[TaskCap]) -> bool:
        """A run of a batch in flight would go on.

        Args:
            number: of the batch.
            blocked: the run; `resume` is called if there is no place at once.
            task_caps: that it is under from now on.

        Returns:
            Whether it may.
        """
        places = self._batches.get(number)
        line = self.line_under(task_caps, on_loop=places is not None and places.line.on_loop)
        if places is not None and not places.each and places.taken:
            return True  # it goes on already
        if line is None:
            self._batches.pop(number, None)  # from now on it is under no cap
            return True
        if places is None:
            places = self._batches[number] = _InBatch(line, each=False)
            places.runs[number] = 1  # at least
        elif not places.each:
            places.line = line
        goes_on = _BatchGoesOn(places, blocked)
        if not self.go_on(goes_on, places.line):
            return False
        goes_on.count()
        return True


class _BatchGoesOn:
    """A batch, a run of which would go on."""

    __slots__ = ("blocked", "places")

    def __init__(self, places: _InBatch, blocked: Lender) -> None:
        self.places = places
        self.blocked = blocked

    def count(self) -> None:
        self.blocked.lends = False
        self.places.taken += 1
        self.places.lent = max(self.places.lent - 1, 0)

    def resume(self) -> None:
        self.count()
        self.blocked.resume()


def caps_of(scheduler: Any) -> Caps:
    """The caps of a scheduler, made if there were none."""
    if scheduler.caps is None:
        scheduler.caps = scheduler.new_caps()
    caps: Caps = scheduler.caps
    return caps


def came_first(line: Line, other: Ready) -> bool:
    """Whether the first run of a line came before something else that is ready. Who came first goes first; else it is second,
    so that neither keeps the other from ever being begun.
    """
    return _since(line) < _since(other)


def _since(item: Ready) -> float:
    if isinstance(item, Line):
        return _since(item.items[0]) if item.items else inf
    return item._since if isinstance(item, TaskFuture) else item.submitted


def task_of(item: TaskFuture[Any] | MapRecord[Any] | Span) -> TaskSpec:
    """The task of a run, of a map, or of some of its elements."""
    if type(item) is TaskFuture:
        return item._task
    return item.task if type(item) is MapRecord else item.record.task  # type: ignore[union-attr]
