"""The scheduler of backends to which batches are sent. Pure; see `scheduler`.

May import `scheduler`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.calls import (
    COMPLETED,
    CRASHED,
    DONE,
    READY,
    RUNNING,
    SENT,
    Batch,
    Outcome,
)
from manyhands.futures.maps import MapRecord, Span
from manyhands.futures.run import TaskFuture
from manyhands.scheduling.effects import LAUNCH
from manyhands.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from manyhands.scheduling.backend import Capabilities

__all__ = ["PushingScheduler"]


class PushingScheduler(Scheduler):
    """For workers that are sent batches.

    Args:
        capabilities: of the backend.

    Attributes:
        slots: how many batches are in flight at each slot.
        batches: what is in flight: each batch, and the positions in it that have not been reported.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        super().__init__(capabilities)
        self.slots: dict[int, int] = {}
        self.batches: dict[int, tuple[Batch, set[int]]] = {}
        self._batch_number = 0

    def _push(self, future: TaskFuture[Any]) -> None:
        future._start = True
        self.ready.append(future)
        self._fill()

    def _push_record(self, record: MapRecord[Any], last: bool) -> None:
        if record.queued:
            return
        record.queued = True
        if last:
            self.ready.append(record)
        else:
            self.ready.appendleft(record)
        self._fill()

    def claim(self, future: TaskFuture[Any]) -> bool:
        """See `Scheduler`: no worker of this kind runs things in the driver."""
        return False

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """See `claim`."""
        return None

    def cancel_some(self, most: int, now: float) -> bool:
        """See `Scheduler`; what is in flight last."""
        if super().cancel_some(most, now):
            return True
        for batch, positions in list(self.batches.values()):
            for position in list(positions):
                if type(batch.runs) is Span:
                    self.cancel(batch.runs.record.materialize(batch.runs.start + position), now)
                else:
                    self.cancel(batch.runs[position], now)
        return False

    def slots_changed(self, numbers: Iterable[int]) -> None:
        """These slots exist now."""
        self.slots = {number: self.slots.get(number, 0) for number in numbers}
        self._fill()

    def _fill(self) -> None:
        """Launches batches while something is ready and a slot has room."""
        while self.ready:
            slot = min(self.slots, key=self.slots.__getitem__, default=None)
            if slot is None or self.slots[slot] >= self.policy.window:
                return
            idle = sum(1 for in_flight in self.slots.values() if in_flight == 0)
            if idle == 0 and self._few_ready():
                return  # it is better company for what comes while the slots are busy
            batch = self._make_batch(slot, idle or len(self.slots))
            if batch is None:
                return
            self.slots[slot] += 1
            self.effects.append((LAUNCH, batch))

    def _few_ready(self) -> bool:
        """Whether what is ready would fill less than a quarter of a message."""
        item = self.ready[0]
        seconds, observed = self.durations.of(item._task if type(item) is TaskFuture else item.task)  # type: ignore[union-attr]
        if seconds is None or seconds >= self.policy.alone or type(item) is not TaskFuture:
            return False
        most = self.policy.size(seconds, observed, 1 << 30, 1, None)
        return len(self.ready) < most // 4

    def _make_batch(self, slot: int, spread: int) -> Batch | None:
        ready = self.ready
        runs: Any = []
        total = 0.0
        limit = 1 << 30
        known = True
        while ready and len(runs) < limit:
            item = ready[0]
            task = item._task if type(item) is TaskFuture else item.task  # type: ignore[union-attr]
            seconds, observed = self.durations.of(task)
            if type(item) is MapRecord:
                if runs:
                    break
                if not item.unclaimed:
                    ready.popleft()
                    item.queued = False
                    continue
                return self._record_batch(item, slot, spread, seconds, observed)
            assert isinstance(item, TaskFuture)
            if item._phase != READY or not hasattr(item, "_start"):
                ready.popleft()
                continue
            size = self.policy.size(
                seconds, observed, len(ready) + len(runs), spread, task.batch_limit
            )
            if runs and (
                size == 1
                or total + (seconds or 0.0) > self.policy.target
                or task.is_async != runs[0]._task.is_async
            ):
                break
            if item._detail is not None and item._detail.alone:
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
        if not runs:
            return None
        return self._new_batch(slot, runs, total if known else None)

    def _record_batch(
        self, record: MapRecord[Any], slot: int, spread: int, seconds: float | None, observed: int
    ) -> Batch:
        start, stop = record.unclaimed[0]
        size = self.policy.size(seconds, observed, stop - start, spread, record.task.batch_limit)
        if start + size >= stop:
            size = stop - start
            record.unclaimed.popleft()
            if not record.unclaimed:
                self.ready.popleft()
                record.queued = False
        else:
            record.unclaimed[0] = (start + size, stop)
        for index in range(start, start + size):
            future = record.futures.get(index)
            if future is not None and future._claim():
                future._phase = SENT
        span = Span(record, start, start + size)
        return self._new_batch(slot, span, None if seconds is None else seconds * size)

    def _new_batch(self, slot: int, runs: Any, seconds: float | None) -> Batch:
        self._batch_number += 1
        batch = Batch(self._batch_number, slot, runs, seconds)
        self.batches[batch.number] = (batch, set(range(len(batch))))
        return batch

    def batch_reported(
        self, number: int, positions: Sequence[int], values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """Runs of a batch have ended; late reports are dropped.

        Args:
            number: the batch.
            positions: of the runs in it.
            values: for each its value, or an `Outcome` where there is more to say.
            ends: when each ended, seconds since the epoch.
        """
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        span = batch.runs if type(batch.runs) is Span else None
        for position, value, end in zip(positions, values, ends, strict=True):
            if position not in open_positions:
                continue
            open_positions.discard(position)
            if span is not None:
                index = span.start + position
                record = span.record
                if type(value) is not Outcome:
                    self.element_completed(record, index, value, end)
                    continue
                future = record.materialize(index)
                if future._call is None and future._phase < DONE:
                    future._call = record.call(index)
            else:
                future = batch.runs[position]
            if type(value) is Outcome:
                self.ended(future, value, end)
            else:
                self.settle(future, COMPLETED, value, end)

    def batch_observed(self, number: int, seconds: float, count: int) -> None:
        """Runs of a batch took this long together."""
        entry = self.batches.get(number)
        if entry is not None and count:
            runs = entry[0].runs
            task = runs.record.task if type(runs) is Span else runs[0]._task
            self.durations.observe(task, seconds, count)

    def batch_handed_back(self, number: int, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        back = sorted(open_positions.intersection(positions))
        open_positions.difference_update(back)
        self._again(batch, back)
        self._fill()

    def batch_split(self, number: int) -> None:
        """A batch could not be unpacked: its runs become ready again, to travel alone."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        for position in open_positions:
            if type(batch.runs) is Span:
                index = batch.runs.start + position
                future = batch.runs.record.materialize(index)
                if future._phase < DONE and future._call is None:
                    future._call = batch.runs.record.call(index)
            else:
                future = batch.runs[position]
            future._details().alone = True
        for position in sorted(open_positions, reverse=True):
            future = (
                batch.runs.record.futures[batch.runs.start + position]
                if type(batch.runs) is Span
                else batch.runs[position]
            )
            if future._phase < DONE:
                self._first_again(future)
        open_positions.clear()
        self.batch_closed(number)

    def batch_closed(self, number: int) -> None:
        """A batch has said all; what it never spoke of was not started and becomes ready again."""
        entry = self.batches.pop(number, None)
        if entry is None:
            return
        batch, open_positions = entry
        if batch.slot in self.slots:
            self.slots[batch.slot] -= 1
        self._again(batch, sorted(open_positions))
        self._fill()

    def _again(self, batch: Batch, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again, before what came later."""
        if type(batch.runs) is Span:
            record = batch.runs.record
            for position in reversed(positions):
                index = batch.runs.start + position
                future = record.futures.get(index)
                if future is not None:
                    if future._phase >= DONE:
                        continue
                    future._phase = READY
                    future._start = True
                first = record.unclaimed[0] if record.unclaimed else (-1, -1)
                if first[0] == index + 1:
                    record.unclaimed[0] = (index, first[1])
                else:
                    record.unclaimed.appendleft((index, index + 1))
            if record.unclaimed and not record.queued:
                record.queued = True
                self.ready.appendleft(record)
            return
        for position in reversed(positions):
            future = batch.runs[position]
            if future._phase < DONE:
                self._first_again(future)

    def _first_again(self, future: TaskFuture[Any]) -> None:
        future._phase = READY
        future._start = True
        self.ready.appendleft(future)

    def batch_started(self, number: int, position: int) -> None:
        """A run of a batch has begun."""
        entry = self.batches.get(number)
        if entry is None or type(entry[0].runs) is Span:
            return
        future = entry[0].runs[position]
        if future._phase == SENT:
            future._phase = RUNNING

    def batch_lost(
        self,
        number: int,
        error: Callable[[str], BaseException],
        maybe_started: Sequence[int] | None,
        now: float,
    ) -> None:
        """A batch's worker died: what may have started is CRASHED or, within `crash_retries`, sent again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        begun = (
            open_positions if maybe_started is None else open_positions.intersection(maybe_started)
        )
        for position in sorted(begun):
            open_positions.discard(position)
            if type(batch.runs) is Span:
                record = batch.runs.record
                index = batch.runs.start + position
                future = record.materialize(index)
                if future._call is None and future._phase < DONE:
                    future._call = record.call(index)
            else:
                future = batch.runs[position]
            if future._phase >= DONE:
                continue
            detail = future._details()
            if detail.crashes < future._task.crash_retries:
                detail.crashes += 1
                self._first_again(future)
            else:
                self.settle(future, CRASHED, error(future.name), now)
        self.batch_closed(number)
