"""Batches in flight and the workers that have them: what becomes of runs when a job, a worker or the connection goes.

A batch is given to the system as a *job*, which it takes to some worker, or to the worker where a blocked run waits for
it. From then on what is known of it comes from three sides, in any order and sometimes twice:

    the worker    has it (`arrived`), says how runs ended (`reported`), gives back what it has not begun
    the system    says how the job ended (`job_ended`), and which workers have gone (`worker_left`)
    the file      of a worker that has gone: what had begun there, and how what ended had ended (`outcomes_read`)

What the ledger makes of it, the same for every system:

    job ended     worker known             worker unknown
    RAN           its reports tell         lost, once what is on its way must have come
    NOT_BEGUN     sent again, or taken back if that was asked for
    DIED          the worker's file tells  sent again, unless the system says that it may have begun
    REFUSED       -                        sent again, once the files of all that have gone were read
    UNFIT         lost                     taken apart to find the run to blame, which fails
    BROKE         lost                     lost

    worker left   ended as the file says; begun and not ended is CRASHED, or repeated within `crash_retries`; the rest is
                  sent again, at no cost in retries. Without its file all of it may have begun.

Pure, as the scheduler is: events come in as method calls, with `LOCK` held; what is to be done goes out through the
scheduler's `effects`. A batch that is in no book any more is spoken of in vain: late and doubled events change nothing.

It is made of:

    in_flight.py      the books: batches and workers, and the ways in which a batch leaves
    stopping.py       runs are stopped where they are
    unpickling.py     workers that die while they unpickle a batch
    worker_errors.py  what runs end with whose worker has gone

May import these and what lies above them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Batch, Outcome, Report
from shoal.futures.run import TaskFuture
from shoal.safely import repr_of
from shoal.scheduling import effects
from shoal.scheduling.capabilities import LedgerRules
from shoal.scheduling.in_flight import (
    Books,
    Departure,
    InFlight,
    JobEnd,
    Outcomes,
    WorkerState,
)
from shoal.scheduling.stopping import Stopping
from shoal.scheduling.unpickling import Unpickling
from shoal.scheduling.worker_errors import WorkerErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.in_flight import ErrorOf
    from shoal.scheduling.pushing import PushingScheduler
    from shoal.specs import TaskCap

__all__ = ["Ledger"]


class Ledger:
    """Decides about the batches and workers of one entered runner; see the module.

    Args:
        scheduler: whose runs these are.
        rules: what is special about the system.

    Attributes:
        books: what is in flight.
        workers: by key, those that are there, and those that have gone and whose runs were not seen to yet.
        stopping: stops runs where they are.
    """

    def __init__(self, scheduler: PushingScheduler, rules: LedgerRules) -> None:
        self._scheduler = scheduler
        self._effects = scheduler.effects
        self._system = rules.name
        self._words_within = rules.words_within
        self._leaves_within = rules.leaves_within
        self._refused: list[InFlight] = []
        self._silent_jobs: list[InFlight] = []
        self.workers: dict[Hashable, WorkerState] = {}
        self._errors = WorkerErrors(rules)
        self.books = Books(scheduler, rules, self._errors.of_unknown)
        self.stopping = Stopping(scheduler, self.books, rules)
        self._unpickling = Unpickling(scheduler, self.books, self._errors)

    # ------------------------------------------------------------------ batches go out

    def sent(self, entry: InFlight) -> None:
        """A batch is about to be given to the system."""
        self.books.add(entry)

    def given(self, entry: InFlight, worker: WorkerState) -> bool:
        """A batch is about to go to a certain worker; False if nothing is heard of that one any more, and it is sent again."""
        if worker.seen_off:
            self._scheduler.batch_lost(entry.number, self._errors.of_unknown(), [], 0.0)
            return False
        self.books.add(entry)
        entry.worker = worker
        worker.batches.add(entry.number)
        return True

    def not_sent(self, number: int, cause: BaseException, now: float) -> None:
        """A batch could not be given to the system."""
        entry = self.books.batches.get(number)
        if entry is not None:
            self.books.close(entry)
        text = f"it could not be sent to {self._system}: {repr_of(cause)}"
        why = Departure(message=text, cause=cause)
        self._scheduler.batch_lost(number, self._errors.of_unknown(why), None, now)

    # ------------------------------------------------------------------ what workers say

    def joined(self, worker: WorkerState) -> None:
        """A worker is there."""
        self.workers[worker.key] = worker

    def arrived(self, worker: WorkerState, number: int) -> None:
        """A worker has a batch, and begins."""
        entry = self.books.batches.get(number)
        if entry is None or worker.seen_off:
            return
        entry.worker = worker
        worker.batches.add(number)
        for value in entry.suspects:
            value.deaths = 0  # it was unpickled there
        skipped, entry.skipped = entry.skipped, []
        wanting, entry.wanting = entry.wanting, []
        self.books.certain(number)
        self._scheduler.batch_arrived(number)
        if (
            entry.is_job
            and len(entry.batch) == 1
            and not entry.has_time_limit()  # else the worker says so
            and entry.has_futures()  # else nobody asks, and the future that would be made costs 600 bytes
        ):
            self._scheduler.batch_started(number, 0)
        for run in skipped:
            self.stopping.interrupt(run)
        if entry.recalled:
            self._effects.append((effects.TELL, worker, "recall", number))
        for blocked_run in wanting:
            blocked_run.look_again()
        if entry.ended is JobEnd.RAN:  # the system was sooner than the worker
            self._pass_on_held(entry)

    def reported(self, report: Report, *, held: bool = False) -> bool:
        """Runs of a batch have ended.

        Args:
            report: how.
            held: whether there are values in it that exist when the job has ended.

        Returns:
            Whether the scheduler knows it now.
        """
        entry = self.books.batches.get(report.batch)
        if entry is None:
            return False
        if (held or entry.held) and entry.is_job and entry.ended is not JobEnd.RAN:
            entry.held.append(report)
            return False
        self._report(entry, report)
        return True

    def _report(self, entry: InFlight, report: Report) -> None:
        scheduler = self._scheduler
        scheduler.batch_observed(report.batch, report.seconds, report.count)
        scheduler.batch_reported(report.batch, report.positions, report.values, report.ends)
        if self._unpickling.deaths and report.positions:
            self._unpickling.succeeded(entry)
        if report.last:
            self.books.close(entry)
            scheduler.batch_closed(report.batch)

    def _pass_on_held(self, entry: InFlight) -> None:
        held, entry.held = entry.held, []
        for report in held:
            self._report(entry, report)
            self._effects.append((effects.PASSED_ON, entry, report))

    def unpackable(self, number: int, error: ErrorOf, now: float) -> None:
        """A worker could not unpack a batch: the run to blame fails with this error."""
        entry = self.books.batches.get(number)
        if entry is not None:
            self.books.take_apart(entry, Outcome(FAILED, None), error, now)

    # ------------------------------------------------------------------ what the system says of jobs

    def job_ended(
        self,
        number: int,
        end: JobEnd,
        now: float,
        *,
        worker: Hashable = None,
        why: Departure | None = None,
        may_have_begun: bool = False,
        fails_with: ErrorOf | None = None,
        phase: int = FAILED,
    ) -> None:
        """A job has ended. If its batch has said all before, that is of no matter.

        Args:
            number: of its batch.
            end: how.
            now: seconds since the epoch.
            worker: key of the worker that the system blames, with `DIED`.
            why: what else the system says.
            may_have_begun: whether it was under way somewhere, though no worker has said so.
            fails_with: with `UNFIT`, what the run ends with that is to blame.
            phase: with `UNFIT`, how it ends.
        """
        entry = self.books.batches.get(number)
        if entry is None or not entry.is_job:
            return
        entry.ended = end
        entry.why = why if why is not None else Departure()
        entry.may_have_begun = entry.may_have_begun or may_have_begun
        known = entry.worker is not None
        if end is JobEnd.RAN:
            self._pass_on_held(entry)
            if self.books.is_open(entry) and not known:
                self._later(self._unheard, entry)
        elif end is JobEnd.NOT_BEGUN:
            if entry in self._refused:
                pass  # the file of the worker that had it first tells
            elif entry.withdrawn:
                self.withdrawn(number)
            else:
                self.books.again(entry, now)
        elif end is JobEnd.DIED:
            self._job_died(entry, worker, now)
        elif end is JobEnd.REFUSED:
            if not known:
                self._refused.append(entry)
                self._look_at_refused(now)
        elif end is JobEnd.UNFIT and not known:
            assert fails_with is not None  # the backend knows what was the matter
            self.books.take_apart(entry, Outcome(phase, None), fails_with, now)
        else:
            self.books.lose(entry, None, now)

    def _job_died(self, entry: InFlight, key: Hashable, now: float) -> None:
        worker = entry.worker if entry.worker is not None else self.workers.get(key)
        if worker is None or worker.seen_off:
            if entry.worker is None:
                self._later(self._unheard, entry)
            else:
                self.books.lose(entry, None, now)
            return
        if entry.worker is None:
            worker.blamed.append(entry.number)
        if worker.departure is not None:
            self._look_into(worker)
        else:
            self._later(self._silent, worker, entry.why)

    def _unheard(self, entry: InFlight, now: float) -> None:
        """A job has ended, and what its worker has said of it must have come by now."""
        if not self.books.is_open(entry) or entry.worker is not None:
            return
        if self._is_anybody_leaving():
            self._silent_jobs.append(entry)  # one of them may have written down what it did not say
        elif entry.ended is JobEnd.DIED and not entry.may_have_begun:
            if entry.suspects:
                self._unpickling.died_in_silence(entry, now)
            else:
                self.books.again(entry, now)
        else:
            text = "its worker has run it, and what it said was lost"
            entry.why = entry.why._replace(message=entry.why.message or text)
            self.books.lose(entry, None, now)

    def _silent(self, worker: WorkerState, now: float, why: Departure) -> None:
        """The system has said that a worker died, and that has not been seen otherwise."""
        if worker.departure is None:
            self.worker_left(worker, why)
        if not worker.seen_off:
            self._look_into(worker)

    def withdrawn(self, number: int) -> None:
        """A batch was not begun, and will not be: what blocked runs want of it can be given to them."""
        entry = self.books.batches.get(number)
        if entry is None:
            return
        blocked_run = entry.wanting.pop(0) if entry.wanting else None
        self.books.close(entry)
        self._scheduler.batch_closed(number, blocked_run)

    def _is_anybody_leaving(self) -> bool:
        return any(worker.departure is not None for worker in self.workers.values())

    def _look_at_refused(self, now: float) -> None:
        """What was refused, or ended in silence, may have begun at a worker whose file was not read yet."""
        if self._is_anybody_leaving():
            return
        refused, self._refused = self._refused, []
        for entry in refused:
            if entry.worker is not None:
                continue
            if entry.may_have_begun:
                text = "the worker that may have begun it is gone, and nothing tells"
                entry.why = entry.why._replace(message=entry.why.message or text)
                self.books.lose(entry, None, now)
            else:
                self.books.again(entry, now)
        silent, self._silent_jobs = self._silent_jobs, []
        for entry in silent:
            self._unheard(entry, now)

    # ------------------------------------------------------------------ workers go

    def worker_left(
        self, worker: WorkerState, departure: Departure | None = None, *, orderly: bool = False
    ) -> None:
        """A worker has gone.

        Args:
            worker: the worker.
            departure: how.
            orderly: whether it may go on for a while with what it runs.
        """
        if worker.departure is not None or worker.seen_off:
            return
        worker.departure = departure if departure is not None else Departure()
        there = self.books.among(worker.batches)
        if orderly:
            self._effects.append(
                (effects.LATER, self._leaves_within, lambda now: self._look_into(worker))
            )
        elif self._words_within and any(e.is_job and e.ended is None for e in there):
            # The system is about to say how it died.
            self._later(lambda subject, now: self._look_into(subject), worker)
        else:
            self._look_into(worker)

    def farewell(self, worker: WorkerState, now: float) -> None:
        """A worker has said all that it has to say; it goes, or has gone."""
        if worker.departure is None:
            worker.departure = Departure()
        self.outcomes_read(worker, {}, now)

    def _look_into(self, worker: WorkerState) -> None:
        """Has what a worker has left behind read."""
        if not worker.seen_off and not worker.read:
            worker.read = True
            self._effects.append((effects.READ, worker))

    def outcomes_read(
        self,
        worker: WorkerState,
        outcomes: Mapping[int, Outcomes] | None,
        now: float,
    ) -> None:
        """What a worker that has gone had written down is known: its runs are seen to.

        Args:
            worker: the worker.
            outcomes: by the number of the batch; `None` if that cannot be known.
            now: seconds since the epoch.
        """
        if worker.seen_off:
            return
        worker.seen_off = True  # first: nothing is given to it any more
        if worker.departure is None:
            worker.departure = Departure()
        self.workers.pop(worker.key, None)
        there = self.books.among(dict.fromkeys([*worker.batches, *(outcomes or ())]))
        error = self._errors.at(worker, there, unknown=outcomes is None)
        for entry in there:
            number = entry.number
            if entry.worker not in (None, worker):
                continue  # it was begun elsewhere since
            self._pass_on_held(entry)
            if not self.books.is_open(entry):
                continue
            known = None if outcomes is None else outcomes.get(number, _NOTHING)
            if known is not None and known.positions:
                self._scheduler.batch_reported(number, known.positions, known.values, known.ends)
                self._unpickling.succeeded(entry)
                told = Report(number, known.positions, known.values, known.ends, 0.0, last=False)
                self._effects.append((effects.PASSED_ON, entry, told))
            if known is not None and known.unpacking:
                self._unpickling.died(entry, known.unpacking, worker, now)
            else:
                self.books.lose(entry, None if known is None else list(known.begun), now, error)
        for number in worker.blamed:
            blamed = self.books.batches.get(number)
            if blamed is None or blamed.worker is not None:
                continue
            if outcomes is None:
                self.books.lose(blamed, None, now, error)
            else:
                self.books.again(blamed, now)
        # One of which nothing was ever heard was too young to have begun anything.
        if outcomes is None and worker.host is not None:
            for entry in self._refused:
                entry.may_have_begun = True
        for blocked_run in list(worker.waits.values()):
            self._scheduler.worker_waits.run_resumed(blocked_run)
        worker.see_off()
        self._look_at_refused(now)

    # ------------------------------------------------------------------ blocked runs

    def stuck(self, blocked_run: BlockedRun) -> None:
        """A blocked run can be given nothing: what it waits for was sent already, or executes elsewhere."""
        worker, wait = blocked_run.tag
        lends = blocked_run.lends_worker and self._scheduler.capabilities.queues
        lends = lends and not blocked_run.beside
        entry = None if lends else self.books.first_unbegun(blocked_run.wanted)
        if entry is None and blocked_run.beside:
            # What it waits for is at work elsewhere, and the run may be at work here; so what has the place that it waits
            # for may never find a worker, if it has not begun.
            entry = self._unbegun_in_the_way(blocked_run)
            if entry is None:
                if any(effect[0] == effects.LAUNCH for effect in tuple(self._effects)):
                    blocked_run.look_again()  # behind what is about to be sent: it may be that
                return
        if entry is None:
            self._effects.append((effects.TELL, worker, "secede", wait))
            return
        if blocked_run not in entry.wanting:
            entry.wanting.append(blocked_run)
        self.books.withdraw(entry)

    def _unbegun_in_the_way(self, blocked_run: BlockedRun) -> InFlight | None:
        """A job that nobody has begun, and that has a place which a run waits for to go on."""
        caps = self._scheduler.caps
        numbers = caps.in_the_way(blocked_run) if caps is not None else ()
        entries = self.books.among(numbers)
        return next((entry for entry in entries if entry.worker is None and entry.is_job), None)

    def would_go_on(self, worker: WorkerState, wait: int, task_caps: Sequence[TaskCap]) -> None:
        """A run that waited on a worker waits no more for others, and goes on once it has a place of its caps.

        Args:
            worker: the worker.
            wait: its number there.
            task_caps: that the run is under from now on.
        """
        blocked_run = worker.waits.get(wait)
        if blocked_run is None:  # its batch is in flight no more, or the wait was refused
            self._effects.append((effects.TELL, worker, "place", wait))
        else:
            self._scheduler.worker_waits.would_go_on(blocked_run, task_caps)

    # ------------------------------------------------------------------ runs are stopped, batches recalled

    def resumed(self, worker: WorkerState, wait: int) -> None:
        """A run goes on that waited on a worker."""
        blocked_run = worker.waits.pop(wait, None)
        if blocked_run is None:
            return
        self._scheduler.worker_waits.run_resumed(blocked_run)
        self.stopping.resumed(blocked_run)

    def recall(self, batch: Batch) -> None:
        """What has not begun of a batch is wanted back."""
        entry = self.books.batches.get(batch.number)
        if entry is None:
            return
        entry.recalled = True
        if entry.worker is not None:
            self._effects.append((effects.TELL, entry.worker, "recall", batch.number))

    def executing(self, run: TaskFuture[Any]) -> WorkerState | None:
        """The worker that has a run that was sent, as far as it is known."""
        entry = self.books.find(run)
        return entry.worker if entry is not None else None

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """Whether a run that was sent has begun: the first of a begun batch that has not been reported."""
        entry = self.books.find(run)
        if entry is None or entry.worker is None:
            return False
        position = entry.position_of(run)
        known = entry.has_begun(position) if position is not None else None
        if known is not None:
            return known
        books = self._scheduler.batches.get(entry.number)
        return books is not None and position == min(books[1], default=None)

    def _later(self, look: Callable[..., None], subject: Any, *more: Any) -> None:
        """Looks again once what is on its way must have come."""
        self._effects.append(
            (effects.LATER, self._words_within, lambda now: look(subject, now, *more))
        )


_NOTHING = Outcomes()
