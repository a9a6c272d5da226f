"""Futures: what a submitted run gives back, alone, as a list, or as a view of one element of a map.

A `TaskFuture` is the driver's record of one run. The common run is claimed, run and settled without a lock, by two
tokens: slots that exist until somebody deletes them. Deleting a slot is one step of the interpreter that fails where
the slot is gone, so exactly one thread succeeds.

    _start    exists while the run is ready; who deletes it may start the run (a worker) or see that none does (cancel)
    _open     exists until the run ends; who deletes it writes the end: `_outcome`, `_since`, and last `_phase`
    _phase    otherwise written by the scheduler under `LOCK`; "running" is READY without `_start`, or RUNNING
    _detail   made under `LOCK` by whoever first needs it: a waiter, a dependant, a retry

Readers take no lock: who sees a done phase sees its outcome. The window between "not done" and "registered" closes
because one side writes `_detail` and then reads `_phase`, and the other writes `_phase` and then reads `_detail`.

A map is one `MapRecord`: columns of arguments, times and values. An element has a `TaskFuture` as soon as anything
asks for more than its value: the user takes it, it fails, somebody depends on it.

May import `calls`, what surrounds a run, and what things are called.
"""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, overload

from manyhands.calls import COMPLETED, DONE, READY, RUNNING, Call
from manyhands.context import HERE, LOCK
from manyhands.exceptions import CancelledRun, WaitTimeout
from manyhands.names import run_uuid, task_run_name

if TYPE_CHECKING:
    from contextvars import Context

    from manyhands.context import Scope
    from manyhands.scheduling.dispatcher import Dispatcher
    from manyhands.states import State
    from manyhands.tasks import Task

__all__ = [
    "DoneAndNotDoneFutures",
    "TaskFuture",
    "TaskFutureList",
    "as_completed",
    "resolve_futures_to_results",
    "resolve_futures_to_states",
    "wait",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Blocker(Protocol):
    """How a special thread waits (a worker runs what it waits for; a loop refuses).

    Takes what `block` takes, with a deadline of `time.monotonic` for the timeout.
    """

    def __call__(
        self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool
    ) -> bool: ...


class Detail:
    """What only some runs need beyond the common fields of a future.

    Attributes:
        alone: whether it must not share a batch.
        waiters: called once with the future when the run ended, outside the lock; never user code.
        dependants: runs that wait for this one.
        upstreams: the runs this one waits for, with whether their failure is allowed.
        blockers: how many of the upstreams have not ended.
        wanted: threads that wait for this run and could run it themselves.
        waits_on: what this run, executing, is blocked on.
        state: a final state that says more than phase and outcome do.
        name: the run's name where it is not the default one.
        attempts: attempts that have begun.
        crashes: attempts that were lost with their worker.
        overdue: the running attempt is past its limit and will be retried once it has stopped.
        timer: what will wake a run that waits for its retry, or end one that is past its limit.
        origin: the map record and index of a mapped run.
    """

    __slots__ = (
        "alone",
        "attempts",
        "blockers",
        "crashes",
        "dependants",
        "name",
        "origin",
        "overdue",
        "state",
        "timer",
        "upstreams",
        "waiters",
        "waits_on",
        "wanted",
    )

    def __init__(self) -> None:
        self.alone = False
        self.waiters: list[Callable[[TaskFuture[Any]], None]] | None = None
        self.dependants: list[TaskFuture[Any]] | None = None
        self.upstreams: Sequence[Any] = ()
        self.blockers = 0
        self.wanted: list[Any] | None = None
        self.waits_on: Wanted | None = None
        self.state: State[Any] | None = None
        self.name: str | None = None
        self.attempts = 0
        self.crashes = 0
        self.overdue = False
        self.timer: Any = None
        self.origin: tuple[MapRecord[Any], int] | None = None


class TaskFuture(Generic[R]):
    """A run of a task: its state at every moment, and its result once there is one.

    Made by `task.submit` and `task.map`. Dropping it neither cancels nor loses the work. Futures compare by their run.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_detail",
        "_dispatcher",
        "_number",
        "_open",
        "_outcome",
        "_phase",
        "_since",
        "_start",
        "_task",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        task: Task[Any, Any],
        number: int,
        call: Call | None,
        since: float,
        phase: int = READY,
        outcome: Any = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._task = task
        self._number = number
        self._call = call
        self._since = since
        self._phase = phase
        self._outcome = outcome
        self._detail: Detail | None = None
        if phase < DONE:
            self._open = True

    # ------------------------------------------------------------------ what it is

    @property
    def task_run_id(self) -> str:
        """The run's UUID."""
        return run_uuid(self._number)

    @property
    def name(self) -> str:
        """The run's name, for example `inc-3f2`, or what `task_run_name` gave once the run began."""
        detail = self._detail
        if detail is not None and detail.name is not None:
            return detail.name
        return task_run_name(self._task.name, self._number)

    @property
    def state(self) -> State[R]:
        """The run's state as it is now, without waiting."""
        return self._dispatcher.state_of(self)

    @property
    def native(self) -> Any:
        """The engine's own future of this run; `None` on runners of this machine."""
        return self._dispatcher.native(self)

    def __repr__(self) -> str:
        return f"<TaskFuture {self.name!r} {self.state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"the future of task run {self.name!r} cannot be pickled: pass it as an argument of a task, "
            "which then receives the value"
        )

    # ------------------------------------------------------------------ waiting

    def done(self) -> bool:
        """Whether the run has ended; it never changes afterwards."""
        return self._phase >= DONE

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until the run has ended or `timeout` seconds are over; never raises on expiry."""
        if self._phase < DONE:
            block((self,), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """The task's return value, waiting for it.

        Args:
            timeout: seconds to wait at the most, `None` for as long as it takes.
            raise_on_failure: whether to raise the exception of a run that did not complete, or to return it.

        Raises:
            WaitTimeout: (a `TimeoutError`) the run had not ended in time; it goes on.
            Exception: the task's own exception; `CancelledRun`, `CrashedRun`, `UpstreamTaskError` for runs that
                ended so.
        """
        if self._phase < DONE and not block((self,), timeout):
            raise WaitTimeout(run_name=self.name, timeout=timeout)
        if self._phase == COMPLETED:
            return self._dispatcher.value_of(self)  # type: ignore[no-any-return]
        error = self._error()
        if raise_on_failure:
            raise error
        return error  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception of a run that did not complete, `None` if it did; waits like `result`."""
        if self._phase < DONE and not block((self,), timeout):
            raise WaitTimeout(run_name=self.name, timeout=timeout)
        return None if self._phase == COMPLETED else self._error()

    def _error(self) -> BaseException:
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            return outcome
        from manyhands.states import get_state_exception

        error = get_state_exception(self.state)
        return error if error is not None else CancelledRun(run_name=self.name)

    def cancel(self) -> bool:
        """Ends the run as CANCELLED at once: it never starts, or what runs is stopped.

        Returns:
            False if the run had already ended.
        """
        return self._dispatcher.cancel(self)

    def add_done_callback(self, fn: Callable[[TaskFuture[R]], object]) -> None:
        """Calls `fn(future)` on the callback thread once the run has ended, at once if it has.

        An exception in it is logged.
        """
        self._dispatcher.add_callback(self, fn)

    def __await__(self) -> Generator[Any, None, R]:
        """Waits without blocking the loop, under asyncio and trio; being cancelled only detaches."""
        if self._phase < DONE:
            from manyhands.engine.loops import settled

            yield from settled((self,)).__await__()
        return self.result()

    # ------------------------------------------------------------------ for the library

    def _claim(self) -> bool:
        """Whether the caller, and nobody else, may start the run."""
        try:
            del self._start
        except AttributeError:
            return False
        return True

    def _is_running(self) -> bool:
        """Whether an attempt is under way."""
        return self._phase == RUNNING or (self._phase == READY and not hasattr(self, "_start"))

    def _watch(self, waiter: Callable[[Any], object]) -> bool:
        """Has `waiter` called with the future when it ends; with `LOCK` held.

        Returns:
            False if it has ended, and `waiter` is not called.
        """
        if self._phase >= DONE:
            return False
        detail = self._details()
        if detail.waiters is None:
            detail.waiters = []
        detail.waiters.append(waiter)
        if self._phase >= DONE and waiter in detail.waiters:
            detail.waiters.remove(waiter)  # it ended meanwhile, and who ended it has not seen the waiter
            return False
        return True

    def _details(self) -> Detail:
        """The run's `Detail`; with `LOCK` held."""
        detail = self._detail
        if detail is None:
            detail = self._detail = Detail()
        return detail


# What a thread may wait for at once: futures, or a whole map (a `MapRecord` is a sequence of futures).
Wanted = Sequence[TaskFuture[Any]]


class Countdown:
    """Wakes one blocked thread when all that it waits for has ended, or enough of it.

    Called with each future (or map) as it ends, outside the lock.

    Args:
        fail_fast: the first failure is enough.
        first: the first end is enough.
    """

    __slots__ = ("_closed", "_wake", "ended", "fail_fast", "failed", "first", "interrupted", "pending")

    def __init__(self, fail_fast: bool = False, first: bool = False) -> None:
        self.fail_fast = fail_fast
        self.first = first
        self.pending = 0
        self.ended = False
        self.failed = False
        self.interrupted = False
        self._closed = threading.Lock()
        self._closed.acquire()
        self._wake = self._closed.release

    def watch(self, wanted: Wanted) -> None:
        """Registers with all that has not ended; with `LOCK` held."""
        if type(wanted) is MapRecord:
            self.failed = wanted.failed
            if not wanted.ended:
                wanted.waiters.append(self)
                self.pending = 1
                if wanted.ended and self in wanted.waiters:
                    wanted.waiters.remove(self)
                    self.pending = 0
        else:
            for future in wanted:
                if future._watch(self):
                    self.pending += 1
                else:
                    self.ended = True
                    if future._phase != COMPLETED:
                        self.failed = True
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

    def __call__(self, source: TaskFuture[Any] | MapRecord[Any]) -> None:
        with LOCK:
            if type(source) is MapRecord:
                self.failed = self.failed or source.failed
                if not source.ended:
                    self._check()
                    return
            elif source._phase != COMPLETED:  # type: ignore[union-attr]
                self.failed = True
            self.ended = True
            self.pending -= 1
            self._check()

    def interrupt(self) -> None:
        """Ends the wait early: there is something else for the waiting thread to do; with `LOCK` held."""
        self.interrupted = True
        self._check()

    def wait(self, deadline: float | None) -> bool:
        """Blocks; returns whether it was woken before `deadline` (of `time.monotonic`)."""
        if deadline is None:
            return self._closed.acquire()
        left = min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
        return self._closed.acquire(timeout=left)

    def forget(self, wanted: Wanted) -> None:
        """Unregisters after a wait that ended early, so that nothing is kept alive; with `LOCK` held."""
        if type(wanted) is MapRecord:
            if self in wanted.waiters:
                wanted.waiters.remove(self)
            return
        for future in wanted:
            detail = future._detail
            if detail is not None and detail.waiters is not None and self in detail.waiters:
                detail.waiters.remove(self)


def _nothing() -> None:
    pass


def block(
    wanted: Wanted, timeout: float | None = None, fail_fast: bool = False, first: bool = False
) -> bool:
    """Waits until everything wanted has ended; the one place where a thread of the driver blocks on runs.

    Args:
        wanted: futures, or a map.
        timeout: seconds, or `None`.
        fail_fast: whether the first failure ends the wait too.
        first: whether the first end ends the wait.

    Returns:
        False if `timeout` was over first.
    """
    if timeout is not None and timeout != timeout:
        raise ValueError("timeout is not a number")
    deadline = None if timeout is None else time.monotonic() + timeout
    special = HERE.block
    if special is not None:
        return special(wanted, deadline, fail_fast, first)
    return block_plainly(Countdown(fail_fast, first), wanted, deadline)


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


# ---------------------------------------------------------------------- maps


class _Marker:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


#: Stands in a map's column of values for one that is not there (yet).
NO_VALUE = _Marker("<no value>")


class MapRecord(Generic[R]):
    """All runs of one `map`, in columns.

    An element is claimed by a step of a `Span`'s iterator. Its end is a value in `values`, or its future's: who stores
    a value looks into `futures` afterwards, who makes a future looks into `values` (and `since`) afterwards, so one
    of them sees the other.

    Attributes:
        base: the first run's number; element `i` has `base + i`.
        size: how many elements.
        positional, keywords: for each argument `(column, None)` if mapped, else `(None, value)`.
        values: per element its value, or `NO_VALUE`.
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
        wanted: threads that wait for the map and could run elements themselves.
    """

    __slots__ = (
        "__weakref__",
        "base",
        "context",
        "counter",
        "dispatcher",
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
        "wanted",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        task: Task[Any, Any],
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
        self.counter = itertools.count(1)
        self.ended = False
        self.failed = False
        self.unclaimed: deque[tuple[int, int]] = deque([(0, size)])
        self.spans: list[Span] = []
        self.queued = False
        self.kept = True
        self.waiters: list[Callable[[Any], object]] = []
        self.wanted: list[Any] = []
        # The one mapped column of the most common map, so that making a call is one subscript.
        self.single: list[Any] | None = None
        if len(positional) == 1 and not keywords and positional[0][0] is not None:
            self.single = positional[0][0]

    def arguments(self, index: int) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        """The arguments of one element."""
        if self.single is not None:
            return (self.single[index],), None
        args = tuple([value if column is None else column[index] for column, value in self.positional])
        if not self.keywords:
            return args, None
        kwargs = {
            name: value if column is None else column[index]
            for name, (column, value) in self.keywords.items()
        }
        return args, kwargs

    def call(self, index: int) -> Call:
        """The call of one element, with a context of its own."""
        args, kwargs = self.arguments(index)
        call = Call(self.task, args, kwargs, self.base + index, self.context.copy(), self.scope)
        call.options = self.options
        return call

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

    def future(self, index: int) -> TaskFuture[R]:
        """The element's future, made if there is none yet."""
        future = self.futures.get(index)
        if future is not None:
            return future
        with LOCK:
            return self.materialize(index)

    def materialize(self, index: int) -> TaskFuture[R]:
        """As `future`; with `LOCK` held."""
        future = self.futures.get(index)
        if future is not None:
            return future
        since = self.since[index] or self.submitted
        future = TaskFuture(self.dispatcher, self.task, self.base + index, None, since)
        future._details().origin = (self, index)
        future._start = True
        self.futures[index] = future
        if self.since[index]:
            future._claim()
        value = self.values[index]
        if value is not NO_VALUE:
            future._claim()
            del future._open
            future._outcome = value
            future._since = self.since[index]
            future._phase = COMPLETED
            future._detail = None
        return future

    def drop(self) -> None:
        """The user let go of the list: values that only the list held are released.

        Runs in a finalizer, perhaps inside the lock, so it takes no lock: a worker that stores a value at the same
        moment leaves it to the record's own end.
        """
        self.kept = False
        self.values = [NO_VALUE] * self.size

    # As a sequence of futures, so that a list, a slice and a wait can treat it as one.

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

    def rest(self) -> tuple[int, int] | None:
        """Takes back what has not been started: a range, or `None`."""
        left = list(self.indices)
        return (left[0], left[-1] + 1) if left else None


class TaskFutureList(Sequence[TaskFuture[R_co]]):
    """The futures of a map, in the order of its input.

    A sequence; elements of a map are made when they are looked at. Joins with lists by `+`.
    """

    __slots__ = ("__weakref__", "_items")

    def __init__(self, futures: Iterable[TaskFuture[R_co]] = ()) -> None:
        self._items: MapRecord[R_co] | list[TaskFuture[R_co]] = (
            futures if isinstance(futures, MapRecord) else list(futures)
        )

    def __del__(self) -> None:
        items = getattr(self, "_items", None)
        if type(items) is MapRecord:
            items.drop()

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> TaskFuture[R_co]: ...
    @overload
    def __getitem__(self, index: slice) -> TaskFutureList[R_co]: ...
    def __getitem__(self, index: int | slice) -> TaskFuture[R_co] | TaskFutureList[R_co]:
        if isinstance(index, slice):
            return TaskFutureList([self._items[i] for i in range(*index.indices(len(self)))])
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} of a list of {len(self)} futures")
        return self._items[position]

    def __iter__(self) -> Iterator[TaskFuture[R_co]]:
        return iter(self._items)

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, TaskFuture):
            return False
        items = self._items
        if isinstance(items, MapRecord):
            index = item._number - items.base
            return 0 <= index < items.size and items.future(index) is item
        return item in items

    def __add__(self, other: Iterable[TaskFuture[Any]]) -> TaskFutureList[Any]:
        if not isinstance(other, (list, tuple, TaskFutureList)):
            return NotImplemented
        return TaskFutureList([*self, *other])

    def __radd__(self, other: Iterable[TaskFuture[Any]]) -> TaskFutureList[Any]:
        if not isinstance(other, (list, tuple)):
            return NotImplemented
        return TaskFutureList([*other, *self])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, TaskFutureList)):
            return NotImplemented
        return len(self) == len(other) and all(a is b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<TaskFutureList of {len(self)}>"

    def __await__(self) -> Generator[Any, None, list[R_co]]:
        """Waits for every run without blocking the loop, and gives the results."""
        from manyhands.engine.loops import settled

        yield from settled(self._items, fail_fast=True).__await__()
        return self.result()

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until every run has ended or `timeout` seconds are over; never raises on expiry."""
        block(self._items, timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[R_co]:
        """All results in input order.

        Args:
            timeout: seconds for the whole list, or `None`.
            raise_on_failure: whether to raise as soon as the first failure is known, or to give exceptions as values.

        Raises:
            WaitTimeout: not every run had ended in time.
            Exception: the exception of the first failed run.
        """
        items = self._items
        if not block(items, timeout, fail_fast=raise_on_failure):
            unfinished = sum(not future.done() for future in items)
            raise WaitTimeout(run_name=None, timeout=timeout, unfinished=unfinished, total=len(items))
        if isinstance(items, MapRecord):
            if items.ended and not items.failed and items.kept:
                return items.dispatcher.values_of(items)
            if raise_on_failure:
                for future in list(items.futures.values()):
                    if future._phase > COMPLETED:
                        raise future._error()
        elif raise_on_failure:
            for future in items:
                if future._phase > COMPLETED:
                    raise future._error()
        return [future.result(raise_on_failure=raise_on_failure) for future in items]


# ---------------------------------------------------------------------- functions over futures


class DoneAndNotDoneFutures(NamedTuple):
    """What `wait` gives: two sets of futures."""

    done: set[TaskFuture[Any]]
    not_done: set[TaskFuture[Any]]


def _flatten(futures: Iterable[TaskFuture[R]]) -> Sequence[TaskFuture[R]]:
    if isinstance(futures, TaskFutureList):
        return futures._items
    items = list(futures)
    for item in items:
        if not isinstance(item, TaskFuture):
            raise TypeError(f"expected futures of task runs, got {item!r}")
    return items


def wait(futures: Iterable[TaskFuture[Any]], timeout: float | None = None) -> DoneAndNotDoneFutures:
    """Blocks until every run has ended or `timeout` seconds are over. Moves no result.

    Args:
        futures: futures of any runners, or a `TaskFutureList`.
        timeout: seconds, or `None`.

    Returns:
        The named tuple `(done, not_done)` of sets.
    """
    items = _flatten(futures)
    block(items, timeout)
    done: set[TaskFuture[Any]] = set()
    not_done: set[TaskFuture[Any]] = set()
    for future in items:
        (done if future._phase >= DONE else not_done).add(future)
    return DoneAndNotDoneFutures(done, not_done)


class Arrivals:
    """Futures in the order in which they ended, for one consumer; called with each as it ends."""

    __slots__ = ("_futures", "queue", "wake")

    def __init__(self, futures: Iterable[TaskFuture[Any]], wake: Callable[[], object] | None = None) -> None:
        self.queue: SimpleQueue[TaskFuture[Any]] = SimpleQueue()
        self.wake = wake
        self._futures = list(futures)
        with LOCK:
            for future in self._futures:
                if not future._watch(self):
                    self(future)

    def __call__(self, future: TaskFuture[Any]) -> None:
        self.queue.put(future)
        if self.wake is not None:
            self.wake()

    def close(self) -> None:
        """Unregisters from what has not ended."""
        with LOCK:
            for future in self._futures:
                detail = future._detail
                if detail is not None and detail.waiters is not None and self in detail.waiters:
                    detail.waiters.remove(self)


class as_completed(Generic[R]):  # noqa: N801 - the standard library's and Prefect's name for it
    """Gives each future once, as its run ends; iterate with `for` or `async for`.

    Args:
        futures: futures of any runners, or a `TaskFutureList`. Duplicates are given once.
        timeout: seconds for the whole iteration, or `None`.

    Raises:
        WaitTimeout: (a `TimeoutError`) `N (of M) futures unfinished`.
    """

    def __init__(self, futures: Iterable[TaskFuture[R]], timeout: float | None = None) -> None:
        self._futures = list(dict.fromkeys(_flatten(futures)))
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def _left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def _expired(self, given: int) -> WaitTimeout:
        total = len(self._futures)
        return WaitTimeout(
            run_name=None, timeout=self._timeout, unfinished=total - given, total=total
        )

    def __iter__(self) -> Iterator[TaskFuture[R]]:
        if HERE.block is not None:
            yield from self._helping()
            return
        arrivals = Arrivals(self._futures)
        try:
            for given in range(len(self._futures)):
                try:
                    future = arrivals.queue.get(timeout=self._left())
                except Empty:
                    raise self._expired(given) from None
                yield future
        finally:
            arrivals.close()

    def _helping(self) -> Iterator[TaskFuture[R]]:
        """The same on a thread that itself runs what it waits for, so that there is nothing to queue."""
        pending = list(self._futures)
        while pending:
            if not block(pending, self._left(), first=True):
                raise self._expired(len(self._futures) - len(pending))
            done = [future for future in pending if future._phase >= DONE]
            pending = [future for future in pending if future._phase < DONE]
            yield from done

    async def __aiter__(self) -> AsyncIterator[TaskFuture[R]]:
        from manyhands.engine.loops import arrive

        given = 0
        async for future in arrive(self._futures, self._deadline):
            if future is None:
                raise self._expired(given)
            given += 1
            yield future


def resolve_futures_to_states(value: Any) -> Any:
    """Replaces every future in a value, at any depth, by its final state, waiting for it."""
    from manyhands.engine.inputs import replace_futures

    return replace_futures(value, _final_state)


def resolve_futures_to_results(value: Any) -> Any:
    """Replaces every future in a value, at any depth, by its result, waiting for it.

    Raises:
        Exception: the exception of the first future whose run did not complete.
    """
    from manyhands.engine.inputs import replace_futures

    return replace_futures(value, TaskFuture.result)


def _final_state(future: TaskFuture[Any]) -> State[Any]:
    future.wait()
    return future.state
