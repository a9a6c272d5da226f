"""Many futures at once: `TaskFutureList`, `wait`, `as_completed`.

May import `maps`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from queue import Empty
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

from shoal.calls import COMPLETED, DONE
from shoal.exceptions import WaitTimeout
from shoal.futures.blocking import Arrivals, Wanted, block, blocker, check_timeout
from shoal.futures.maps import MapRecord
from shoal.futures.run import Pending, TaskFuture
from shoal.tracebacks import fold

if TYPE_CHECKING:
    from shoal.states import State

__all__ = [
    "DoneAndNotDoneFutures",
    "TaskFutureList",
    "as_completed",
    "resolve_futures_to_results",
    "resolve_futures_to_states",
    "wait",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class TaskFutureList(Sequence[TaskFuture[R_co]], Pending[list[R_co]]):
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
        # Not the record's own iterator: `for future in task.map(...)` would drop this list, and the values with it.
        for index in range(len(self)):
            yield self._items[index]

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
        counts = self._counts()
        return f"<TaskFutureList of {len(self)}{': ' if counts else ''}{counts}>"

    def _repr_html_(self) -> str:
        from shoal.markup import card

        return card("TaskFutureList", f"of {len(self)}", [("states", self._counts())])

    def _counts(self) -> str:
        """How many runs are in which state, in words: `9 Completed, 1 Failed`."""
        items = self._items
        if isinstance(items, MapRecord):
            counts = items.count_states()
        else:
            counts = Counter(future.state.name for future in items)
        return ", ".join(f"{count} {name}" for name, count in counts.most_common())

    def __await__(self) -> Generator[Any, None, list[R_co]]:
        """Waits for every run without blocking the loop, and gives the results."""
        from shoal.futures.awaiting import settled

        yield from settled(self._wanted(), fail_fast=True).__await__()
        try:
            return self.result()
        except BaseException as error:
            fold(error)
            raise

    def _wanted(self) -> Wanted:
        """What to wait for: the map as one, or each future."""
        return (self._items,) if isinstance(self._items, MapRecord) else self._items

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until every run has ended or `timeout` seconds are over; never raises on expiry."""
        if timeout is not None:
            check_timeout(timeout)
        block(self._wanted(), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[R_co]:
        """All results in input order.

        Args:
            timeout: seconds for the whole list, or `None`.
            raise_on_failure: whether to raise as soon as the first failure is known, or to give exceptions as values.

        Raises:
            WaitTimeout: not every run had ended in time.
            Exception: the exception of the first failed run.
        """
        try:
            return self._results(timeout, raise_on_failure)
        except BaseException as error:
            fold(error)
            raise

    def _results(self, timeout: float | None, raise_on_failure: bool) -> list[R_co]:
        items = self._items
        if timeout is not None:
            check_timeout(timeout)
        if not block(self._wanted(), timeout, fail_fast=raise_on_failure):
            unfinished = sum(not future.done() for future in items)
            raise WaitTimeout(
                run_name=None, timeout=timeout, unfinished=unfinished, total=len(items)
            )
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


class DoneAndNotDoneFutures(NamedTuple, Generic[R]):
    """What `wait` gives: two sets of futures."""

    done: set[TaskFuture[R]]
    not_done: set[TaskFuture[R]]


def _listed(futures: Iterable[TaskFuture[R]]) -> list[TaskFuture[R]]:
    if isinstance(futures, TaskFuture):
        raise TypeError("a list of futures is expected; for a single one use future.wait()")
    items = list(futures)
    for item in items:
        if not isinstance(item, TaskFuture):
            raise TypeError(f"expected futures of task runs, got {item!r}")
    return items


def wait(
    futures: Iterable[TaskFuture[R]], timeout: float | None = None
) -> DoneAndNotDoneFutures[R]:
    """Blocks until every run has ended or `timeout` seconds are over. Moves no result.

    Args:
        futures: futures of any runners, or a `TaskFutureList`.
        timeout: seconds, or `None`.

    Returns:
        The named tuple `(done, not_done)` of sets.
    """
    if timeout is not None:
        check_timeout(timeout)
    if isinstance(futures, TaskFutureList):
        futures.wait(timeout)
    items = _listed(futures)
    if not isinstance(futures, TaskFutureList):
        block(items, timeout)
    done: set[TaskFuture[R]] = set()
    not_done: set[TaskFuture[R]] = set()
    for future in items:
        (done if future._phase >= DONE else not_done).add(future)
    return DoneAndNotDoneFutures(done, not_done)


class as_completed(Generic[R]):  # the standard library's and Prefect's name for it
    """Gives each future once, as its run ends; iterate with `for` or `async for`.

    Args:
        futures: futures of any runners, or a `TaskFutureList`. Duplicates are given once.
        timeout: seconds for the whole iteration, or `None`.

    Raises:
        WaitTimeout: (a `TimeoutError`) `N (of M) futures unfinished`.
    """

    def __init__(self, futures: Iterable[TaskFuture[R]], timeout: float | None = None) -> None:
        if timeout is not None:
            check_timeout(timeout)
        self._futures = list(dict.fromkeys(_listed(futures)))
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
        if blocker(self._futures) is not None:
            yield from self._helping()
            return
        arrivals = Arrivals(self._futures)
        try:
            for given in range(len(self._futures)):
                try:
                    future = arrivals.take(self._deadline)
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

    def __aiter__(self) -> AsyncIterator[TaskFuture[R]]:
        from shoal.futures.awaiting import AsyncArrivals

        return AsyncArrivals(self._futures, self._deadline, self._expired)


#: Replaces futures at any depth of a value; set by the engine, which knows containers. Before that is loaded there
#: can be no future.
replacer: Callable[[Any, Callable[[TaskFuture[Any]], object]], Any] = lambda value, replace: value  # noqa: E731


def resolve_futures_to_states(value: Any) -> Any:
    """Replaces every future in a value, at any depth, by its final state, waiting for it."""
    return replacer(value, _final_state)


def resolve_futures_to_results(value: Any) -> Any:
    """Replaces every future in a value, at any depth, by its result, waiting for it.

    Raises:
        Exception: the exception of the first future whose run did not complete.
    """
    return replacer(value, TaskFuture.result)


def _final_state(future: TaskFuture[Any]) -> State[Any]:
    future.wait()
    return future.state
