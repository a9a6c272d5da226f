"""The scheduler of backends to which batches are sent. Pure; see `scheduler`.

    worker_slots.py  how much is in flight at each slot
    forming.py       which runs go together in a batch
    waits.py         workers that wait for runs, and what they are given
    sending.py       what is ready goes to the slots that have room
    pushing.py       what becomes of the batches that were sent

    ready ── sending ──LAUNCH──▶ a worker ──run_waits──▶ waits
      ▲   (forming, worker_slots)   │ ▲                    │
      │                             │ └───────LAUNCH───────┘
      └──────── pushing ◀───────────┘ started, reported, handed back, closed, lost

Calls go up this list, but for those of `waits`, which sends through `sending`.

May import `sending`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import CRASHED, DONE, READY, RUNNING, SENT, WAITING, Batch, Outcome
from shoal.engine.inputs import runs_among
from shoal.futures.maps import Span
from shoal.scheduling.effects import OVERDUE
from shoal.scheduling.sending import SendingScheduler
from shoal.scheduling.wait_graph import tell_wanting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.futures.run import TaskFuture
    from shoal.scheduling.blocked_run import BlockedRun

__all__ = ["PushingScheduler"]


class PushingScheduler(SendingScheduler):
    """For workers that are sent batches.

    To the half that sends it adds what workers say of their batches. It has no state of its own: it takes out of
    `batches` what has ended, or makes it ready again.

    Args:
        capabilities: of the backend.
    """

    # ------------------------------------------------------------------ batches begin, and runs of them end

    def batch_arrived(self, number: int) -> None:
        """A worker has a batch, and begins."""
        if self.slots.arrived(number):
            self.fill()

    def batch_started(self, number: int, position: int) -> TaskFuture[Any] | None:
        """A run of a batch has begun.

        Returns:
            The run, if it is open.
        """
        entry = self.batches.get(number)
        if entry is None or position not in entry[1]:
            return None
        future = self._sent_at(entry[0], position)
        if future._phase == SENT:
            future._phase = RUNNING
        return future if future._phase == RUNNING else None

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
        if span is None or not self._complete_range(span, open_positions, positions, values, ends):
            for position, value, end in zip(positions, values, ends, strict=True):
                if position not in open_positions:
                    continue
                open_positions.discard(position)
                if type(value) is Outcome:
                    self.ended(self._sent_at(batch, position), value, end)
                elif span is not None:
                    self.element_completed(span.record, span.start + position, value, end)
                else:
                    self.complete(batch.runs[position], value, end)
        if self.caps is not None and self.caps.now_open(number, len(open_positions)):
            self.fill()

    def _complete_range(
        self,
        span: Span,
        open_positions: set[int],
        positions: Sequence[int],
        values: Sequence[Any],
        ends: Sequence[float],
    ) -> bool:
        """Takes the ends of consecutive elements together, if each has just completed: column by column, but for those
        of which somebody has the future. Hot.
        """
        record = span.record
        if (
            type(positions) is not range
            or not record.kept
            or not open_positions.issuperset(positions)
            or Outcome in map(type, values)
        ):
            return False
        open_positions.difference_update(positions)
        start = span.start + positions.start
        stop = start + len(positions)
        futures = record.futures
        known = [index for index in range(start, stop) if index in futures] if futures else []
        first = start
        for index in [*known, stop]:
            if first < index:
                here = slice(first - start, index - start)
                self.elements_completed(record, first, values[here], ends[here])
            if index < stop:
                self.element_completed(record, index, values[index - start], ends[index - start])
            first = index + 1
        return True

    def batch_observed(
        self, number: int, seconds: float, count: int, *, at_least: bool = False
    ) -> None:
        """Runs of a batch took this long together.

        Args:
            number: the batch.
            seconds: how long.
            count: how many runs.
            at_least: whether they have not ended, so that only a longer time than expected tells anything.
        """
        entry = self.batches.get(number)
        if entry is not None and count:
            runs = entry[0].runs
            task = runs.record.task if type(runs) is Span else runs[0]._task
            if at_least and seconds <= max(self.durations.of(task)[0] or 0.0, self.policy.target):
                return  # within what a message may take: perhaps the machine was at something else
            self.durations.observe(task, seconds, count)

    # ------------------------------------------------------------------ batches end

    def batch_handed_back(self, number: int, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        back = sorted(open_positions.intersection(positions))
        open_positions.difference_update(back)
        self._again(batch, back)
        if self.caps is not None:
            self.caps.now_open(number, len(open_positions))
        self.fill()

    def batch_split(self, number: int) -> None:
        """A batch could not be unpacked: its runs become ready again, to travel alone."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        for position in sorted(open_positions, reverse=True):
            future = self._sent_at(batch, position)
            future._details().alone = True
            if future._phase < DONE:
                self._first_again(future)
            else:
                self.endings.stopped(future)
        open_positions.clear()
        self.batch_closed(number)

    def batch_closed(self, number: int, blocked_run: BlockedRun | None = None) -> None:
        """A batch has said all; what it never spoke of was not started and becomes ready again.

        Args:
            number: the batch.
            blocked_run: what waits for a run of it, and is given that before others are.
        """
        entry = self.batches.pop(number, None)
        if entry is None:
            return
        batch, open_positions = entry
        self.recalled.discard(number)
        self._several.pop(number, None)
        if self.caps is not None:
            self.caps.now_open(number, 0)
        self._again(batch, sorted(open_positions))
        if batch.blocked_run is None:
            self.slots.closed(batch)
        self.worker_waits.batch_closed(batch)
        self.slots.has_room = True
        if blocked_run is not None:
            self.worker_waits.help_first(blocked_run)
        self.fill()

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
            future = self._sent_at(batch, position)
            if future._phase >= DONE:
                self.endings.stopped(future)
                continue
            detail = future._details()
            if detail.overdue:  # it was stopped at its limit, and has attempts left
                detail.code_ended = True
                self.effects.append((OVERDUE, future, future._call))
            elif detail.crashes < future._task.crash_retries:
                detail.crashes += 1
                detail.cancel_timer()
                self._first_again(future)
            else:
                self.settle(future, CRASHED, error(future.name), now)
        self.batch_closed(number)

    def broke(self, error: Callable[[str], BaseException], now: float) -> None:
        """See `Scheduler`: what was sent is lost too."""
        self.broken = error
        while self.batches:
            batch, positions = next(iter(self.batches.values()))
            for position in list(positions):
                future = self._sent_at(batch, position)
                self.settle(future, CRASHED, error(future.name), now)
            self.batch_closed(batch.number)
        super().broke(error, now)

    # ------------------------------------------------------------------ runs go again

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
                    if future._call is not None:
                        self._first_again(future)
                        continue
                    future._phase = READY
                    future._start = True
                    tell_wanting(future._details().wanting)
                record.give_back(index)
            if record.unclaimed and not record.queued:
                record.queued = True
                self.ready_queue(record.task).appendleft(record)
            if positions:
                tell_wanting(record.wanting)
            return
        for position in reversed(positions):
            future = batch.runs[position]
            if future._phase < DONE:
                self._first_again(future)
            else:
                self.endings.stopped(future)

    def _first_again(self, future: TaskFuture[Any]) -> None:
        detail = future._details()
        detail.blockers = sum(run._phase < DONE for run in runs_among(detail.upstreams))
        if detail.blockers:  # it travelled in one batch with what it waits for
            future._phase = WAITING
            self.waiting.add(future)
            tell_wanting(detail.wanting)  # they can be given what it waits for
            return
        if self.broken is not None:
            self.settle(future, CRASHED, self.broken(future.name), future._since)
            return
        future._phase = READY
        future._start = True
        self.ready_queue(future._task).appendleft(future)
        tell_wanting(detail.wanting)
