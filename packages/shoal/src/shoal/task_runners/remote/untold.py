"""What was submitted on this worker, and which of it the driver is not told of yet.

The driver keeps a run for as long as somebody here holds its future. It is told of one late that waits for runs of other
runners of this process, of which it knows nothing:

    submit ──▶ upstreams here, not ended ──▶ the last has ended ──▶ the driver is told, and waits are told again

May import what lies above task runners.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from shoal.context import CALL, LOCK
from shoal.engine import inputs
from shoal.exceptions import SerializationError
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord
from shoal.futures.side_threads import outermost
from shoal.scheduling.wait_graph import not_done
from shoal.task_runners.packing import culprit_of

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from shoal.calls import Call
    from shoal.futures.blocking import Waitable, Wanted
    from shoal.futures.run import Owner

__all__ = ["Submitted", "Untold", "itself", "run_here", "submitter", "told"]


class Untold:
    """Holds runs back until the driver can be told of them.

    Args:
        owner: whose runs these are; those of others are foreign.

    Attributes:
        watchers: of the waits under way on worker threads.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._numbers: set[int] = set()
        self.watchers: list[Any] = []

    def when_foreign_ended(
        self,
        number: int,
        told: TaskFuture[Any] | MapRecord[Any],
        value: Any,
        tell: Callable[[], None],
    ) -> None:
        """Calls `tell` once all runs of other runners of this process among some arguments have ended."""
        pending = {
            run
            for run in inputs.runs_in(value)
            if run._dispatcher is not self._owner and not run.done()
        }
        if not pending:
            tell()
            return
        self._numbers.add(number)

        def ended() -> None:
            with LOCK:
                self._numbers.discard(number)
            tell()
            with LOCK:
                if isinstance(told, TaskFuture):
                    told._details().waits_on = None
            self.tell_watchers()

        def one_ended(upstream: TaskFuture[Any]) -> None:
            with LOCK:
                pending.discard(upstream)
                finished = not pending
            if finished:
                ended()

        with LOCK:
            if isinstance(told, TaskFuture):
                told._details().waits_on = list(pending)
            pending -= {upstream for upstream in list(pending) if not upstream.watch(one_ended)}
            finished = not pending
        if finished:
            ended()

    def tell_watchers(self) -> None:
        """Waits have to be told again: the driver knows of more runs."""
        for watcher in list(self.watchers):
            watcher.look_again()

    def knows(self, item: Waitable) -> bool:
        """Whether the driver has been told of what is waited for. Of an answer it has: it is the one to give it."""
        if isinstance(item, TaskFuture):
            return item._dispatcher is self._owner and not self.holds(item)
        if isinstance(item, MapRecord):
            return item.dispatcher is self._owner and item.base not in self._numbers
        return True

    def holds(self, future: TaskFuture[Any]) -> bool:
        """Whether the driver does not know of a run yet."""
        detail = future._detail
        if detail is not None and detail.origin is not None:
            return detail.origin[0].base in self._numbers
        return future._number in self._numbers

    def reach(self, wanted: Wanted, watcher: Any) -> tuple[list[int], list[tuple[int, int]]]:
        """Runs and maps of ours that a wait is for, or that runs of this process's other runners need for it."""
        numbers: list[int] = []
        maps: list[tuple[int, int]] = []
        stack: list[Any] = list(reversed(wanted))
        for item in not_done(stack):
            if isinstance(item, MapRecord):
                if item.dispatcher is self._owner and item.base not in self._numbers:
                    maps.append((item.base, item.size))
                    continue
                watching = item.wanting
                stack.extend(item.futures.values())
            else:
                if item._dispatcher is self._owner and not self.holds(item):
                    numbers.append(item._number)
                    continue
                detail = item._details()
                if detail.wanting is None:
                    detail.wanting = []
                watching = detail.wanting
                stack.extend(inputs.runs_among(detail.upstreams))
                stack.extend(detail.waits_on or ())
            if watcher is not None and watcher not in watching:
                watching.append(watcher)
        return numbers, maps


def submitter() -> tuple[int, int] | None:
    """Number and attempt of the run that submits."""
    call = CALL.get()
    return (call.number, call.attempt) if call is not None else None


def run_here() -> int | None:
    """The number of the run here whose code this is, also where that has called a task."""
    call = CALL.get()
    return outermost(call).number if call is not None else None


def itself(value: Any) -> Any:
    """What a pickle is made of that is to give this."""
    return value


def told(error: BaseException, call: Call) -> BaseException:
    """What a run ends with of which the driver could not be told."""
    if isinstance(error, SerializationError):
        return error
    return culprit_of(call) or error


#: Dropped futures that the driver is told of together.
DROPPED_TOGETHER = 256


class Submitted:
    """What was submitted here: futures and maps by the number of the run, held weakly.

    Args:
        dropped: is given what is gone, until `take_dropped`.
    """

    def __init__(self, dropped: deque[_Reference]) -> None:
        self._runs: dict[int, _Reference] = {}
        self._maps: list[tuple[int, int, _Reference]] = []
        self._dropped = dropped
        self._split: dict[int, int] = {}

    def add(self, future: TaskFuture[Any], submitter: int | None) -> None:
        """A run was submitted; by which run here."""
        self._runs[future._number] = _Reference(future, future._number, self._dropped, submitter)

    def add_map(self, record: MapRecord[Any], submitter: int | None) -> None:
        """A map was submitted; by which run here."""
        with LOCK:
            self._maps.append(
                (
                    record.base,
                    record.size,
                    _Reference(record, record.base, self._dropped, submitter),
                )
            )

    def submitter_of(self, item: TaskFuture[Any] | MapRecord[Any]) -> int | None:
        """The number of the run here that submitted this."""
        if isinstance(item, TaskFuture):
            reference = self._runs.get(item._number)
            if reference is not None:
                return reference.submitter
            number = item._number
        else:
            number = item.base
        with LOCK:
            for base, size, record_reference in self._maps:
                if 0 <= number - base < size:
                    return record_reference.submitter
        return None

    def split(self, record: MapRecord[Any]) -> None:
        """The driver is told of a map's elements one by one."""
        self._split[record.base] = record.size

    def find(self, number: int) -> TaskFuture[Any] | None:
        reference = self._runs.get(number)
        if reference is not None:
            return reference()
        with LOCK:
            for base, size, record_reference in self._maps:
                if 0 <= number - base < size:
                    record = record_reference()
                    return record.materialize(number - base) if record is not None else None
        return None

    def take_dropped(self, *, at_once: bool) -> list[int]:
        """The numbers of what is gone here, once.

        Args:
            at_once: whether also a few are worth a message.
        """
        dropped = self._dropped
        if not dropped or (len(dropped) < DROPPED_TOGETHER and not at_once):
            return []
        numbers = [dropped.popleft().number for _ in range(len(dropped))]
        for number in numbers:
            self._runs.pop(number, None)
        gone = set(numbers)
        for base in self._split.keys() & gone:
            numbers += range(base + 1, base + self._split.pop(base))
        with LOCK:
            self._maps = [entry for entry in self._maps if entry[0] not in gone]
        return numbers


class _Reference(weakref.ref):  # type: ignore[type-arg]  # it cannot be subscripted at run time
    """Refers to a future, or to a map's record, and joins the dropped ones when that is gone.

    In C alone: an interrupt of the run that drops the future would be lost in Python code here.
    """

    __slots__ = ("number", "submitter")
    number: int
    submitter: int | None

    def __new__(
        cls, item: Any, number: int, dropped: deque[_Reference], submitter: int | None
    ) -> Self:
        reference = super().__new__(cls, item, dropped.append)
        reference.number = number
        reference.submitter = submitter
        return reference

    def __init__(
        self, item: Any, number: int, dropped: deque[_Reference], submitter: int | None
    ) -> None:
        super().__init__(item, dropped.append)  # type: ignore[call-arg]
