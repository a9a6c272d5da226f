"""Which of the runs that are ready go together in a batch. Pure; how many is for `batching` to say.

May import `caps` and what lies above it; of schedulers, nothing else.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from shoal.calls import READY, SENT, WAITING, Batch, Handle
from shoal.engine.inputs import runs_among
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling.caps import Line

if TYPE_CHECKING:
    from collections import deque

    from shoal.scheduling.batching import Durations
    from shoal.scheduling.capabilities import Capabilities
    from shoal.specs import TaskCap, TaskSpec

__all__ = ["BatchMaker"]


class BatchMaker:
    """Makes batches of what is ready: the runs in them are claimed, and taken from where they were queued.

    Of its own it has the numbers of batches only. Durations and what is waiting belong to its scheduler, which shares
    them: a run that travels with the one that it waits for is taken from there.

    Args:
        capabilities: of the backend.
        durations: how long runs of each task take.
        waiting: runs whose upstreams have not all ended.

    Attributes:
        numbers: of the next batches.
    """

    __slots__ = ("_capabilities", "_durations", "_policy", "_waiting", "numbers")

    def __init__(
        self, capabilities: Capabilities, durations: Durations, waiting: set[TaskFuture[Any]]
    ) -> None:
        self._capabilities = capabilities
        self._policy = capabilities.policy
        self._durations = durations
        self._waiting = waiting
        self.numbers = itertools.count(1)

    def make(
        self, ready: deque[Any], slot: int, spread: int, most_runs: int = 1 << 30
    ) -> Batch | None:
        """The next batch; `None` if nothing of all this can still start. Hot.

        Args:
            ready: what it is made of, in order; what goes into it, or cannot start any more, is taken out.
            slot: where it will be sent.
            spread: over how many slots what is ready could be spread.
            most_runs: in it.
        """
        runs: Any = []
        total = 0.0
        limit = most_runs
        known = True
        linked = 0
        company: Any = None
        expected_of: TaskSpec | None = None
        seconds: float | None = None
        observed, most, worth = 0, 1, 0.0  # of that task
        while ready and len(runs) < limit:
            item = ready[0]
            if type(item) is TaskFuture:
                task = item._task
            elif type(item) is Line:
                if runs:
                    break
                batch = self._line_batch(item, slot, spread)
                if batch is not None:
                    return batch
                ready.popleft()
                item.queued = False
                continue
            else:
                task = item.task
            if task is not expected_of:
                expected_of = task
                seconds, observed = self.expected(task)
                left = len(ready) + len(runs)
                most = self._policy.size(seconds, observed, left, spread, task.batch_limit)
                if left > 1:
                    worth = self._policy.worth(seconds or 0.0, left, spread)
            if type(item) is MapRecord:
                if runs:
                    break
                if not item.unclaimed:
                    ready.popleft()
                    item.queued = False
                    continue
                return self._record_batch(ready, item, slot, spread, seconds, observed, most_runs)
            if item._phase != READY or not hasattr(item, "_start"):
                ready.popleft()
                continue
            size = most
            if runs and (
                size == 1
                or total + (seconds or 0.0) > worth
                or task.is_async != runs[0]._task.is_async
            ):
                break
            alone = item._detail is not None and item._detail.alone
            if self._capabilities.sorts:
                wanted, company = company, self.company_of(item)
                if runs and company != wanted:
                    break
                alone = alone or _travels_alone(item)
            if alone:
                if runs:
                    break
                size = 1
            limit = min(limit, size)
            ready.popleft()
            item._claim()
            item._phase = SENT
            runs.append(item)
            total += seconds or 0.0
            known = known and seconds is not None
            if item._detail is not None and item._detail.dependants and self._capabilities.fuses:
                before = len(runs)
                self._fuse(runs, item)
                limit = min(limit + len(runs) - before, self._policy.cap)
                linked += len(runs) - before
        if not runs:
            return None
        batch = Batch(next(self.numbers), slot, runs, total if known else None)
        batch.linked = linked
        return batch

    def _record_batch(
        self,
        ready: deque[Any],
        record: MapRecord[Any],
        slot: int,
        spread: int,
        seconds: float | None,
        observed: int,
        most_runs: int,
    ) -> Batch:
        span = self.take_span(record, spread, seconds, observed, most_runs)
        if not record.unclaimed:
            ready.popleft()
            record.queued = False
        total = None if seconds is None else seconds * len(span)
        return Batch(next(self.numbers), slot, span, total)

    def _line_batch(self, line: Line, slot: int, spread: int) -> Batch | None:
        """The next batch of a line, if there is a place for it; coroutines need one each, as they run side by side."""
        room = line.room()
        if room <= 0 or not line.prune():
            return None
        if line.on_loop and self._capabilities.loops:
            return self.make(line.items, slot, spread, room)
        return self.make(line.items, slot, min(spread, room))

    def _fuse(self, runs: list[TaskFuture[Any]], last: TaskFuture[Any]) -> None:
        """Lets the chain that hangs on a run travel with it: each run the only one that waits for the one before."""
        cap = last._task.cap
        if last._task.is_async or last._task.batch_limit == 1 or last._details().alone:
            return
        if _travels_alone(last):
            return
        scheduler = last._dispatcher.scheduler
        while len(runs) < self._policy.cap:
            dependants = last._details().dependants
            if not dependants or len(dependants) != 1:
                return
            follower, allow_failure = dependants[0]
            detail = follower._details()
            if (
                allow_failure
                or follower._phase != WAITING
                or detail.blockers != 1
                or detail.limited
                or detail.alone
                or follower._dispatcher.scheduler is not scheduler
                or not (follower._task.links if cap is None else _shares_cap(follower, cap))
                or (
                    self._capabilities.sorts
                    and self.company_of(follower) != self.company_of(runs[0])
                )
            ):
                return
            self._waiting.discard(follower)
            follower._phase = SENT
            runs.append(follower)
            last = follower

    def take_span(
        self,
        record: MapRecord[Any],
        spread: int,
        seconds: float | None,
        observed: int,
        most: int = 1 << 30,
    ) -> Span:
        """Takes the next elements of a map, as many as travel together.

        Args:
            record: the map; some of it is unclaimed.
            spread: over how many slots its elements could be spread.
            seconds: what `expected` says of its task.
            observed: the same.
            most: of them.
        """
        start, stop = record.unclaimed[0]
        batch_limit = 1 if getattr(record.options, "alone", False) else record.task.batch_limit
        size = self._policy.size(seconds, observed, stop - start, spread, batch_limit)
        start, stop = record.take(min(size, most))
        for index in range(start, stop) if record.futures else ():
            future = record.futures.get(index)
            if future is not None and future._claim():
                future._phase = SENT
        return Span(record, start, stop)

    def expected(self, task: TaskSpec) -> tuple[float | None, int]:
        """How long a run of a task holds up those behind it in a batch, and the number of observations."""
        if task.is_async and self._capabilities.loops:
            return 0.0, self._policy.cap  # they run side by side
        return self._durations.of(task)

    def company_of(self, future: TaskFuture[Any]) -> Any:
        """Only runs of the same company travel together: same options, same demands, large inputs in the same place."""
        call = future._call
        places = {
            run._outcome.place
            for run in runs_among(future._detail.upstreams if future._detail is not None else ())
            if isinstance(run._outcome, Handle)
        }
        return (
            call.options if call is not None else None,
            tuple(sorted(future._task.resources.items())) if future._task.resources else None,
            frozenset(places),
        )


def _shares_cap(run: TaskFuture[Any], cap: TaskCap) -> bool:
    """Whether a run needs no place besides the one of a batch under a cap."""
    return run._task.cap == cap and run._task.batch_limit is None


def _travels_alone(run: TaskFuture[Any]) -> bool:
    """Whether the system's options of a run say that it shares no message."""
    return run._call is not None and getattr(run._call.options, "alone", False)
