"""A runner whose runs are remembered: what comes in gets its key, what completes goes to the journal.

    submit, submit_map ─▶ is its value there? ─▶ a run that has ended: Cached
                                            └──▶ as ever

The methods of the dispatcher and the scheduler of an entered runner are replaced on those objects, and nowhere else: a runner without a journal
executes what it would if there were none. May import `journal`.

Who says that a run has completed holds `LOCK` where batches are sent, and must not run user code, which pickling is. There it
is an effect, which is carried out before those who wait are told.
"""

from __future__ import annotations

import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED
from shoal.context import TAGS
from shoal.engine import inputs
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.maps import MapRecord
from shoal.names import next_number, reserve
from shoal.results.journal.contents import PLAIN_TYPES, split
from shoal.results.journal.journal import MapKeys
from shoal.results.journal.reading import MISSING
from shoal.scheduling.effects import REMEMBER
from shoal.scheduling.intake import without_annotations
from shoal.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.context import Scope
    from shoal.results.journal.journal import Journal
    from shoal.results.journal.places import Place
    from shoal.specs import TaskSpec

__all__ = ["KeptRunner", "cached"]

_Columns = list[tuple[list[Any] | None, Any]]
_Keywords = dict[str, tuple[list[Any] | None, Any]]


def cached(value: Any) -> State[Any]:
    """The state of a run whose value was there."""
    return State(StateType.COMPLETED, "Cached", data=value)


class KeptRunner:
    """Has the runs of one entered runner remembered.

    Args:
        journal: of the flow run.
        body: the place of the flow's body that the runner was entered for.
        dispatcher: of the runner.
    """

    def __init__(self, journal: Journal, body: Place, dispatcher: Any) -> None:
        self._journal = journal
        self._body = body
        self._dispatcher = dispatcher
        scheduler = self._scheduler = dispatcher.scheduler
        self._submit = dispatcher.submit
        self._submit_map = dispatcher.submit_map
        self._state_of = dispatcher.state_of
        self._perform = dispatcher._perform
        self._close = dispatcher.close
        self._complete = scheduler.complete
        self._settle = scheduler.settle
        self._element_completed = scheduler.element_completed
        self._elements_completed = scheduler.elements_completed
        #: Whether ends are told with the lock held.
        self._locked = not dispatcher.capabilities.pulls
        for name in ("submit", "submit_map", "state_of", "close"):
            setattr(dispatcher, name, getattr(self, name))
        dispatcher._perform = self.perform
        for name in ("complete", "settle", "elements_completed"):
            setattr(scheduler, name, getattr(self, name))
        scheduler.element_completed = self._hot_element_completed()

    # ------------------------------------------------------------------ runs come in

    def submit(
        self,
        task: TaskSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
        number: int | None = None,
    ) -> TaskFuture[Any]:
        """See `Intake.submit`."""
        if not task.is_remembered or (
            number is not None and self._journal.key_of(number) is not None
        ):
            known = None  # it is in a transaction, or an element of a map that has its key
        else:
            known = self._journal.key_for(self._body, task, args, kwargs, wait_for)
        if known is None or self._dispatcher.closed:
            return self._submit(task, args, kwargs, wait_for, scope, number)  # type: ignore[no-any-return]
        if number is None:
            number = next_number()
        of, key, doubts = known
        value = self._journal.value(key) if doubts is None else MISSING
        if value is not MISSING:
            self._journal.reuses(number, of, key)
            return TaskFuture(self._dispatcher, task, number, None, time.time(), COMPLETED, value)
        self._journal.submits(number, of, key, doubts)
        return self._submit(task, args, kwargs, wait_for, scope, number)  # type: ignore[no-any-return]

    def submit_map(
        self,
        task: TaskSpec,
        positional: _Columns,
        keywords: _Keywords,
        size: int,
        wait_for: Any,
        scope: Scope,
        base: int | None = None,
    ) -> TaskFutureList[Any]:
        """See `Intake.submit_map`."""
        dispatcher = self._dispatcher
        positional = [_without_annotations(column) for column in positional]
        keywords = {name: _without_annotations(column) for name, column in keywords.items()}
        given = task, positional, keywords, size, wait_for, scope
        one_by_one = (
            size == 0
            or dispatcher.closed
            or (dispatcher.gate is not None and task.tags | TAGS.get())
            or wait_for is not None
            or inputs.collect((positional, keywords))
        )
        keys = None
        if not one_by_one and task.is_remembered:
            keys = self._journal.keys_for(self._body, task, positional, keywords, size)
        if keys is None:
            return self._submit_map(*given, base)  # type: ignore[no-any-return]
        values = self._values(keys)
        if values is not None:
            keys.reused = bytearray(value is not MISSING for value in values)
        if values is not None and all(keys.reused):
            return self._reused_map(keys, values, given, base)
        if values is not None and any(keys.reused):
            return self._partly_reused(keys, values, given, base)
        if base is None:
            base = reserve(size)
        self._journal.maps(base, keys)
        return self._submit_map(*given, base)  # type: ignore[no-any-return]

    def _values(self, keys: MapKeys) -> list[Any] | None:
        """The values of a map that were there, `MISSING` in the place of others; `None` if the run is new."""
        known = self._journal.values
        if known is None:
            return None
        return [known.get(key) if key in known else MISSING for key in split(keys.of(0, len(keys)))]

    def _reused_map(
        self, keys: MapKeys, values: list[Any], given: tuple[Any, ...], base: int | None
    ) -> TaskFutureList[Any]:
        """A map all of whose values were there; the scheduler never hears of it."""
        task, _, _, size, _, scope = given
        if base is None:
            base = reserve(size)
        self._journal.maps(base, keys)
        record: MapRecord[Any] = MapRecord(
            self._dispatcher, task, base, size, [], None, copy_context(), scope
        )
        record.unclaimed.clear()
        now = time.time()
        for index in range(size):
            record.since[index] = now
        record.values = values
        record.ended = True
        return TaskFutureList(record)

    def _partly_reused(
        self, keys: MapKeys, values: list[Any], given: tuple[Any, ...], base: int | None
    ) -> TaskFutureList[Any]:
        """The others are a map of their own; if a worker has numbered them, each is submitted by itself."""
        task, positional, keywords, _, _, scope = given
        journal, dispatcher = self._journal, self._dispatcher
        of, now = keys.task, time.time()
        futures: list[Any] = [None] * len(values)
        rest = [index for index, value in enumerate(values) if value is MISSING]
        for index, value in enumerate(values):
            if value is not MISSING:
                number = base + index if base is not None else next_number()
                journal.reuses(number, of, keys[index])
                futures[index] = TaskFuture(dispatcher, task, number, None, now, COMPLETED, value)
        if base is not None:
            for index in rest:
                args = tuple([v if c is None else c[index] for c, v in positional])
                kwargs = {name: v if c is None else c[index] for name, (c, v) in keywords.items()}
                journal.submits(base + index, of, keys[index])
                futures[index] = self._submit(task, args, kwargs or None, None, scope, base + index)
            return TaskFutureList(futures)
        others = MapKeys(of, b"".join([keys[index] for index in rest]))
        base = reserve(len(rest))
        journal.maps(base, others)
        submitted = self._submit_map(
            task,
            [_some(column, rest) for column in positional],
            {name: _some(column, rest) for name, column in keywords.items()},
            len(rest),
            None,
            scope,
            base,
        )
        for index, future in zip(rest, submitted, strict=True):
            futures[index] = future
        return TaskFutureList(futures)

    def state_of(self, future: TaskFuture[Any]) -> State[Any]:
        """See `Answers`."""
        state: State[Any] = self._state_of(future)
        if future._phase == COMPLETED and self._journal.is_reused(future._number):
            state.name = "Cached"
        return state

    def close(self) -> None:
        """See `Dispatcher`. The runner is about to stop its workers, and what these keep is gone with them."""
        self._close()
        self._journal.writer.wait()

    # ------------------------------------------------------------------ runs complete

    def complete(self, future: TaskFuture[Any], value: Any, now: float) -> None:
        """See `Scheduler`."""
        if hasattr(future, "_open"):  # it was not cancelled meanwhile
            self._completed(future._number, value, self._locked)
        self._complete(future, value, now)

    def settle(
        self,
        future: TaskFuture[Any],
        phase: int,
        value: Any,
        now: float,
        state: Any = None,
        **more: Any,
    ) -> bool:
        """See `Scheduler`."""
        if phase == COMPLETED and hasattr(future, "_open"):
            self._completed(future._number, value, True)
        return self._settle(future, phase, value, now, state, **more)  # type: ignore[no-any-return]

    def _completed(self, number: int, value: Any, locked: bool) -> None:
        if locked and type(value) not in PLAIN_TYPES:
            self._scheduler.effects.append((REMEMBER, number, value))
        else:
            self._journal.completed(number, value)

    def _hot_element_completed(self) -> Callable[[MapRecord[Any], int, Any, float], None]:
        """See `Scheduler.element_completed`: the way of most runs on threads, so all it needs is at hand."""
        element_completed = self._element_completed
        map_keys, wake = self._journal.map_keys, self._journal.writer.wake_for
        locked, completed = self._locked, self._completed

        def keep(record: MapRecord[Any], index: int, value: Any, now: float) -> None:
            keys = map_keys(record.base)
            if keys is not None and index not in record.futures:  # else `settle` tells
                if type(value) in PLAIN_TYPES:
                    keys.pending.append((index, value))
                    if not keys.awake:
                        wake(keys)
                else:
                    completed(record.base + index, value, locked)
            element_completed(record, index, value, now)

        return keep

    def elements_completed(
        self, record: MapRecord[Any], start: int, values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """See `Scheduler`. Hot."""
        keys = self._journal.map_keys(record.base)
        if keys is not None:
            if PLAIN_TYPES.issuperset(map(type, values)):
                self._journal.all_completed(keys, start, list(values))
            else:
                self._scheduler.effects.append((REMEMBER, keys, start, list(values)))
        self._elements_completed(record, start, values, ends)

    def perform(self, effect: tuple[Any, ...]) -> None:
        """See `Dispatcher`."""
        if effect[0] != REMEMBER:
            self._perform(effect)
        elif len(effect) == 3:
            self._journal.completed(effect[1], effect[2])
        else:
            self._journal.all_completed(effect[1], effect[2], effect[3])


def _without_annotations(
    column: tuple[list[Any] | None, Any],
) -> tuple[list[Any] | None, Any]:
    mapped, value = column
    if inputs.has_no_inputs((value,) if mapped is None else mapped):
        return column
    return without_annotations(column)


def _some(column: tuple[list[Any] | None, Any], indices: list[int]) -> tuple[list[Any] | None, Any]:
    """Some elements of an argument of a map."""
    mapped, value = column
    return ([mapped[index] for index in indices], None) if mapped is not None else (None, value)
