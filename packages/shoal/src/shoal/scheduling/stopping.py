"""Runs are stopped where they are: they do not begin, are interrupted, or their worker is killed for them. Pure.

    interrupt ──┬─ no worker has its batch ──WITHDRAW──▶ it does not begin
                └─ else ─────STOP─────▶ its worker ──▶ it ends
    force ──────┬─ it waits ──▶ once it goes on
                ├─ its worker has nothing else to do ──KILL──▶ it dies with it
                └─ else ─────GIVE_UP──▶ it is left to itself

May import `in_flight` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.futures.maps import Span
from shoal.scheduling import effects

if TYPE_CHECKING:
    from shoal.calls import Batch
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.capabilities import LedgerRules
    from shoal.scheduling.in_flight import Books, InFlight, WorkerState
    from shoal.scheduling.pushing import PushingScheduler

__all__ = ["Stopping"]

#: Seconds that a run has to stop which was to be stopped by force while it waited, and goes on.
RESUMED_GRACE = 0.5


class Stopping:
    """Stops runs of one entered runner. It has no state of its own, but marks what is in flight.

    Args:
        scheduler: whose runs these are.
        books: where they are.
        rules: what is special about the system.
    """

    def __init__(self, scheduler: PushingScheduler, books: Books, rules: LedgerRules) -> None:
        self._scheduler = scheduler
        self._effects = scheduler.effects
        self._books = books
        self._shares = rules.shares
        self._spares_coroutines = rules.spares_coroutines

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """Stops a run that may be executing, or sees to it that it does not begin."""
        entry = self._books.find(run)
        if entry is None:
            return
        if entry.worker is None:
            entry.skipped.append(run)
            if entry.is_job:
                self._books.uncertain.add(entry.number)
            self._books.withdraw(entry)
            return
        self._effects.append((effects.STOP, entry.worker, entry, run))

    def force(self, run: TaskFuture[Any], now: float) -> None:
        """Stops an interrupted run that still executes by force: its worker is killed, if that harms nobody else."""
        entry = self._books.find(run)
        if entry is None or entry.worker is None:
            return
        worker = entry.worker
        books = self._scheduler.batches.get(entry.number)
        if books is None or entry.position_of(run) not in books[1]:
            return  # it has stopped, and the batch goes on
        if any(wait.blocks and wait.run is run for wait in worker.waits.values()):
            # What its worker is at is another run, which it waits for; it is stopped when control returns to it.
            entry.forced.add(run)
            return
        position = entry.position_of(run)
        if position is not None and entry.executes(position) is False:
            return  # it has not begun, or has ended and that will be heard
        job: InFlight | None = entry  # that runs it, perhaps beneath what it waits for
        numbers = {entry.number}
        while job is not None and not job.is_job and job.batch.blocked_run is not None:
            job = self._books.batches.get(job.batch.blocked_run.batch.number)
            if job is not None:
                numbers.add(job.number)
        others = [e for e in self._books.among(worker.batches - numbers) if e.is_job]
        has_company = run._task.is_async and len(books[1]) > 1 and self._spares_coroutines
        alone = not (self._shares and others) and not has_company
        if job is None or not job.is_job or not worker.killable or not alone:
            self.give_up(entry, run, now)
        elif not job.killed:
            job.killed = True
            worker.stopped_for = run.name
            self._effects.append((effects.KILL, worker, job, run))

    def resumed(self, blocked_run: BlockedRun) -> None:
        """A run goes on that waited on a worker; perhaps it was to be stopped by force meanwhile."""
        run = blocked_run.run
        entry = self._books.batches.get(blocked_run.batch.number)
        if run is not None and entry is not None and run in entry.forced:
            entry.forced.discard(run)
            self._effects.append((effects.LATER, RESUMED_GRACE, lambda now: self.force(run, now)))

    def kill_refused(self, worker: WorkerState, number: int, run_number: int, now: float) -> None:
        """A worker could not be killed for the sake of a run: something that is not ours runs there."""
        worker.stopped_for = None
        entry = self._books.batches.get(number)
        if entry is None:
            return
        entry.killed = False
        for other in [e for e in self._books.batches.values() if e.worker is worker]:
            run = self._run_numbered(other.batch, run_number)
            if run is not None:
                self.give_up(other, run, now)
                return

    def _run_numbered(self, batch: Batch, number: int) -> TaskFuture[Any] | None:
        if type(batch.runs) is Span:
            position = number - batch.runs.record.base - batch.runs.start
            return self._scheduler.run_at(batch, position) if 0 <= position < len(batch) else None
        return next((run for run in batch.runs if run._number == number), None)

    def give_up(self, entry: InFlight, run: TaskFuture[Any], now: float) -> None:
        """A run does not stop, and its worker is not killed for it: its end is no matter any more."""
        self._effects.append((effects.GIVE_UP, entry, run))
        self._scheduler.endings.given_up(run, now)
