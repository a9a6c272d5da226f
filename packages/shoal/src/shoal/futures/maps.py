"""`MapRecord`: all runs of one map, in columns. See the package for how it goes with `TaskFuture`.

May import `run`.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal.calls import CANCELLED, COMPLETED, Call
from shoal.context import LOCK
from shoal.futures.run import TaskFuture

if TYPE_CHECKING:
    from contextvars import Context

    from shoal.context import Scope
    from shoal.futures.run import Owner
    from shoal.specs import TaskSpec

__all__ = ["CANCELLED_UNSEEN", "NO_VALUE", "RELEASED", "MapRecord", "Span"]

R = TypeVar("R")


class _Marker:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


# What a map's column of values holds besides values.
NO_VALUE = _Marker("<no value>")  # has not ended, or its future says how
RELEASED = _Marker("<released>")  # completed, and nobody could ask for the value any more
CANCELLED_UNSEEN = _Marker("<cancelled>")  # cancelled before anybody took its future


class MapRecord(Generic[R]):
    """All runs of one `map`, in columns.

    An element is claimed by a step of a `Span`'s iterator. Its end is a value in `values`, or its future's: who stores
    a value looks into `futures` afterwards, who makes a future looks into `values` (and `since`) afterwards, so one
    of them sees the other.

    Attributes:
        base: the first run's number; element `i` has `base + i`.
        size: how many elements.
        positional, keywords: for each argument `(column, None)` if mapped, else `(None, value)`.
        values: per element its value, or a marker.
        since: per element when it began or ended, seconds since the epoch; 0 before.
        futures: of the elements that have one.
        counter: counts ends; its step is atomic.
        ended: whether every element has.
        failed: whether an element did not complete.
        unclaimed: ranges `(start, stop)` of elements that no worker has taken.
        spans: ranges that workers are going through.
        queued: whether it is among what is ready.
        kept: whether the user still holds the list; values of a dropped list are not stored.
        waiters: called with the record at the first failure and at the end.
        each: called with each future of an element when that has ended, if anybody wants to know.
        wanting: threads and blocked runs that wait for the map and could run elements themselves.
    """

    __slots__ = (
        "__weakref__",
        "base",
        "context",
        "counter",
        "dispatcher",
        "each",
        "ended",
        "failed",
        "futures",
        "kept",
        "keywords",
        "options",
        "positional",
        "queued",
        "scope",
        "since",
        "single",
        "size",
        "spans",
        "submitted",
        "task",
        "unclaimed",
        "values",
        "waiters",
        "wanting",
    )

    def __init__(
        self,
        dispatcher: Owner,
        task: TaskSpec,
        base: int,
        size: int,
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]] | None,
        context: Context,
        scope: Scope,
    ) -> None:
        self.dispatcher = dispatcher
        self.task = task
        self.base = base
        self.size = size
        self.positional = positional
        self.keywords = keywords
        self.context = context
        self.scope = scope
        self.options: Any = None
        self.values: list[Any] = [NO_VALUE] * size
        self.submitted = time.time()
        self.since = array("d", bytes(8 * size))
        self.futures: dict[int, TaskFuture[R]] = {}
        self.each: Callable[[TaskFuture[R]], object] | None = None
        self.counter = itertools.count(1)
        self.ended = False
        self.failed = False
        self.unclaimed: deque[tuple[int, int]] = deque([(0, size)])
        self.spans: list[Span] = []
        self.queued = False
        self.kept = True
        self.waiters: list[Callable[[Any], object]] = []
        self.wanting: list[Any] = []
        # The one mapped column of the most common map, so that making a call is one subscript.
        self.single: list[Any] | None = None
        if len(positional) == 1 and not keywords and positional[0][0] is not None:
            self.single = positional[0][0]

    def arguments(self, index: int) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        """The arguments of one element."""
        args = tuple(
            [value if column is None else column[index] for column, value in self.positional]
        )
        if not self.keywords:
            return args, None
        kwargs = {
            name: value if column is None else column[index]
            for name, (column, value) in self.keywords.items()
        }
        return args, kwargs

    def call(self, index: int) -> Call:
        """The call of one element, with a context of its own. Hot."""
        single = self.single
        if single is not None:
            args: tuple[Any, ...] = (single[index],)
            kwargs = None
        else:
            args, kwargs = self.arguments(index)
        call = Call(self.task, args, kwargs, self.base + index, self.context.copy(), self.scope)
        if self.options is not None:
            call.options = self.options
        return call

    def count_states(self) -> Counter[str]:
        """How many elements are in which state, by the names of states.

        It makes no futures. An element whose future nobody has counts as running where its worker says when it begins:
        on threads; else it is pending until it ends.
        """
        futures = dict(self.futures)
        names = Counter(future.state.name for future in futures.values())
        for index, value in enumerate(self.values):
            if index in futures:
                continue
            if value is NO_VALUE:
                names["Running" if self.since[index] else "Pending"] += 1
            else:
                names["Cancelled" if value is CANCELLED_UNSEEN else "Completed"] += 1
        return names

    def release_arguments(self, index: int) -> None:
        """Lets go of one element's arguments once it has ended."""
        if self.single is not None:
            self.single[index] = None
            return
        for column, _ in self.positional:
            if column is not None:
                column[index] = None
        if self.keywords:
            for column, _ in self.keywords.values():
                if column is not None:
                    column[index] = None

    def release_range(self, start: int, stop: int) -> None:
        """As `release_arguments` for consecutive elements."""
        nothing = [None] * (stop - start)
        if self.single is not None:
            self.single[start:stop] = nothing
            return
        for column, _ in self.positional:
            if column is not None:
                column[start:stop] = nothing
        if self.keywords:
            for column, _ in self.keywords.values():
                if column is not None:
                    column[start:stop] = nothing

    def future(self, index: int) -> TaskFuture[R]:
        """The element's future, made if there is none yet. Hot."""
        future = self.futures.get(index)
        if future is not None:
            return future
        value = self.values[index]
        if type(value) is not _Marker:
            # It has completed, and nobody had its future: nothing can happen to either any more, so no lock is needed.
            return self.futures.setdefault(
                index,
                TaskFuture(
                    self.dispatcher,
                    self.task,
                    self.base + index,
                    None,
                    self.since[index],
                    COMPLETED,
                    value,
                ),
            )
        with LOCK:
            return self.materialize(index)

    def materialize(self, index: int) -> TaskFuture[R]:
        """As `future`; with `LOCK` held."""
        future = self.futures.get(index)
        if future is not None:
            return future
        value = self.values[index]
        if type(value) is not _Marker:
            return self.future(index)
        since = self.since[index] or self.submitted
        future = TaskFuture(self.dispatcher, self.task, self.base + index, None, since)
        future._details().origin = (self, index)
        future._start = True
        known = self.futures.setdefault(index, future)
        if known is not future:
            return known
        if self.since[index]:
            future._claim()
        value = self.values[index]  # again: who stored one since has not seen the future
        if value is not NO_VALUE:
            future._claim()
            del future._open
            future._since = self.since[index]
            if value is CANCELLED_UNSEEN:
                future._phase = CANCELLED
            else:
                future._outcome = value
                future._phase = COMPLETED
            future._detail = None
        elif self.each is not None:
            future.watch(self.each)
        return future

    def take(self, most: int) -> tuple[int, int]:
        """Takes the next elements that no worker has, as a range of at most so many; there are some."""
        start, stop = self.unclaimed[0]
        if start + most >= stop:
            self.unclaimed.popleft()
            return start, stop
        self.unclaimed[0] = (start + most, stop)
        return start, start + most

    def gather(self) -> None:
        """Makes all that no worker has started unclaimed."""
        for span in self.spans:
            rest = span.rest()
            if rest is not None:
                self.unclaimed.append(rest)

    def pick(self, index: int) -> bool:
        """Takes one element that no worker has started out of its turn; whether that was possible."""
        self.gather()
        for place, (start, stop) in enumerate(self.unclaimed):
            if start <= index < stop:
                del self.unclaimed[place]
                if index + 1 < stop:
                    self.unclaimed.insert(place, (index + 1, stop))
                if start < index:
                    self.unclaimed.insert(place, (start, index))
                return True
        return False

    def give_back(self, index: int) -> None:
        """Makes an element that no worker has started the next to be taken."""
        start, stop = self.unclaimed[0] if self.unclaimed else (-1, -1)
        if start == index + 1:
            self.unclaimed[0] = (index, stop)
        else:
            self.unclaimed.appendleft((index, index + 1))

    def drop(self) -> None:
        """The user let go of the list: values that only the list held are released.

        Runs in a finalizer, perhaps inside the lock, so it takes no lock: a worker that stores a value at the same
        moment leaves it to the record's own end.
        """
        self.kept = False
        values = self.values
        for index, value in enumerate(values):
            if value is not NO_VALUE and value is not CANCELLED_UNSEEN:
                values[index] = RELEASED

    def open(self) -> int:
        """How many elements have not ended."""
        ended = int(repr(self.counter)[6:-1]) - 1  # there is no other way to ask a counter
        return self.size - ended

    def done(self) -> bool:
        """Whether every element has ended."""
        return self.ended

    def flawed(self) -> bool:
        """Whether an element has ended and did not complete."""
        return self.failed

    def watch(self, waiter: Callable[[Any], object]) -> bool:
        """See `Waitable`."""
        if self.ended:
            return False
        self.waiters.append(waiter)
        if self.ended and waiter in self.waiters:
            self.waiters.remove(waiter)
            return False
        return True

    def unwatch(self, waiter: Callable[[Any], object]) -> None:
        """See `Waitable`."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)

    # As a sequence of futures, so that a list, a slice and a loop can treat it as one.

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> TaskFuture[R]:
        return self.future(index)

    def __iter__(self) -> Iterator[TaskFuture[R]]:
        return map(self.future, range(self.size))


class Span:
    """A range of a map's elements that one worker goes through.

    Each element is claimed by one step of `indices`, an iterator of the interpreter's own whose step is atomic; who
    takes the rest back exhausts it in one step too. So an element is never started twice.
    """

    __slots__ = ("indices", "record", "start", "stop")

    def __init__(self, record: MapRecord[Any], start: int, stop: int) -> None:
        self.record = record
        self.start = start
        self.indices = iter(range(start, stop))
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def has_futures(self) -> bool:
        """Whether somebody has the future of one of these elements."""
        futures = self.record.futures
        if len(futures) > len(self):
            return any(index in futures for index in range(self.start, self.stop))
        return any(self.start <= index < self.stop for index in list(futures))

    def rest(self) -> tuple[int, int] | None:
        """Takes back what has not been started: a range, or `None`."""
        left = list(self.indices)
        return (left[0], left[-1] + 1) if left else None
