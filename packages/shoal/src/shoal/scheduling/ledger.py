"""Batches in flight and the workers that have them: what becomes of runs when a job, a worker or the connection goes.

A batch is given to the engine as a *job*, which it takes to some worker, or to the worker where a blocked run waits for
it. From then on what is known of it comes from three sides, in any order and sometimes twice:

    the worker    has it (`arrived`), says how runs ended (`reported`), gives back what it has not begun
    the engine    says how the job ended (`job_ended`), and which workers have gone (`worker_left`)
    the file      of a worker that has gone: what had begun there, and how what ended had ended (`outcomes_read`)

What the ledger makes of it, the same for every engine:

    job ended     worker known             worker unknown
    RAN           its reports tell         lost, once what is on its way must have come
    NOT_BEGUN     sent again, or taken back if that was asked for
    DIED          the worker's file tells  sent again, unless the engine says that it may have begun
    REFUSED       -                        sent again, once the files of all that have gone were read
    UNFIT         lost                     taken apart to find the run to blame, which fails
    BROKE         lost                     lost

    worker left   ended as the file says; begun and not ended is CRASHED, or repeated within `crash_retries`; the rest is
                  sent again, at no cost in retries. Without its file all of it may have begun.

Pure, as the scheduler is: events come in as method calls, with `LOCK` held; what is to be done goes out through the
scheduler's `effects`. A batch that is in no book any more is spoken of in vain: late and doubled events change nothing.

May import `scheduler` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, SENT, WAITING, Batch, Outcome, Report
from shoal.exceptions import WorkerDied
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.safely import repr_of
from shoal.scheduling import effects
from shoal.scheduling.capabilities import EngineRules
from shoal.scheduling.in_flight import (
    Departure,
    InFlight,
    JobEnd,
    Outcomes,
    WorkerState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from shoal.futures.blocking import Wanted
    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.in_flight import ErrorOf
    from shoal.scheduling.pushing import PushingScheduler

__all__ = ["Ledger"]

#: Times that a batch may come back without having begun, for no known reason.
FRUITLESS = 5

#: Seconds that a run has to stop which was to be stopped by force while it waited, and goes on.
RESUMED_GRACE = 0.5

#: Workers that may die, one after the other, while they unpickle the function of one task, before that counts as deadly;
#: once a worker has unpickled it, the count begins anew.
DEADLY = 3


class Ledger:
    """The books of one entered runner; see the module.

    Args:
        scheduler: whose runs these are.
        rules: what is special about the engine.

    Attributes:
        batches: by number, those that have not said all.
        workers: by key, those that are there, and those that have gone and whose runs were not seen to yet.
        uncertain: numbers of batches with stopped runs of which it is not known yet whether they begin.
    """

    def __init__(self, scheduler: PushingScheduler, rules: EngineRules) -> None:
        self._scheduler = scheduler
        self._effects = scheduler.effects
        self._engine = rules.name
        self._nowhere = rules.host or f"(a {rules.name} worker)"
        self._words_within = rules.words_within
        self._leaves_within = rules.leaves_within
        self._shares = rules.shares
        self._spares_coroutines = rules.spares_coroutines
        self._fruitless: dict[TaskFuture[Any], int] = {}
        self._refused: list[InFlight] = []
        self._silent_jobs: list[InFlight] = []
        self._deaths: dict[int, int] = {}
        self.batches: dict[int, InFlight] = {}
        self.workers: dict[Hashable, WorkerState] = {}
        self.uncertain: set[int] = set()

    # ------------------------------------------------------------------ batches go out

    def sent(self, entry: InFlight) -> None:
        """A batch is about to be given to the engine."""
        self.batches[entry.number] = entry

    def given(self, entry: InFlight, worker: WorkerState) -> bool:
        """A batch is about to be given to a blocked run's worker; False if nothing is heard of that any more."""
        if worker.settled:
            self._scheduler.batch_lost(entry.number, self._error, [], 0.0)
            return False
        self.batches[entry.number] = entry
        entry.worker = worker
        worker.batches.add(entry.number)
        return True

    def not_sent(self, number: int, cause: BaseException, now: float) -> None:
        """A batch could not be given to the engine."""
        entry = self.batches.get(number)
        if entry is not None:
            self._close(entry)
        text = f"it could not be sent to {self._engine}: {repr_of(cause)}"
        why = Departure(message=text, cause=cause)
        self._scheduler.batch_lost(number, lambda name: self._error(name, why), None, now)

    # ------------------------------------------------------------------ what workers say

    def joined(self, worker: WorkerState) -> None:
        """A worker is there."""
        self.workers[worker.key] = worker

    def arrived(self, worker: WorkerState, number: int) -> None:
        """A worker has a batch, and begins."""
        entry = self.batches.get(number)
        if entry is None or worker.settled:
            return
        entry.worker = worker
        worker.batches.add(number)
        for value in entry.suspects:
            value.deaths = 0  # it was unpickled there
        skipped, entry.skipped = entry.skipped, []
        wanting, entry.wanting = entry.wanting, []
        self._certain(number)
        self._scheduler.batch_arrived(number)
        if entry.is_job and len(entry.batch) == 1 and not entry.is_limited():
            self._scheduler.batch_started(number, 0)  # else the worker says so
        for run in skipped:
            self.interrupt(run)
        if entry.recalled:
            self._effects.append((effects.TELL, worker, "recall", number))
        for blocked_run in wanting:
            blocked_run.look_again()
        if entry.ended is JobEnd.RAN:  # the engine was sooner than the worker
            self._pass_on_held(entry)

    def reported(self, report: Report, *, held: bool = False) -> bool:
        """Runs of a batch have ended.

        Args:
            report: how.
            held: whether there are values in it that exist when the job has ended.

        Returns:
            Whether the scheduler knows it now.
        """
        entry = self.batches.get(report.batch)
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
        if self._deaths and report.positions:
            self._unpickled(entry)
        if report.last:
            self._close(entry)
            scheduler.batch_closed(report.batch)

    def _pass_on_held(self, entry: InFlight) -> None:
        held, entry.held = entry.held, []
        for report in held:
            self._report(entry, report)
            self._effects.append((effects.PASSED_ON, entry, report))

    def unpackable(self, number: int, error: ErrorOf, now: float) -> None:
        """A worker could not unpack a batch: the run to blame fails with this error."""
        entry = self.batches.get(number)
        if entry is not None:
            self._take_apart(entry, Outcome(FAILED, None), error, now)

    # ------------------------------------------------------------------ what the engine says of jobs

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
            worker: key of the worker that the engine blames, with `DIED`.
            why: what else the engine says.
            may_have_begun: whether it was under way somewhere, though no worker has said so.
            fails_with: with `UNFIT`, what the run ends with that is to blame.
            phase: with `UNFIT`, how it ends.
        """
        entry = self.batches.get(number)
        if entry is None or not entry.is_job:
            return
        entry.ended = end
        entry.why = why if why is not None else Departure()
        entry.may_have_begun = entry.may_have_begun or may_have_begun
        known = entry.worker is not None
        if end is JobEnd.RAN:
            self._pass_on_held(entry)
            if self._is_open(entry) and not known:
                self._later(self._unheard, entry)
        elif end is JobEnd.NOT_BEGUN:
            if entry in self._refused:
                pass  # the file of the worker that had it first tells
            elif entry.withdrawn:
                self.withdrawn(number)
            else:
                self._again(entry, now)
        elif end is JobEnd.DIED:
            self._job_died(entry, worker, now)
        elif end is JobEnd.REFUSED:
            if not known:
                self._refused.append(entry)
                self._look_at_refused(now)
        elif end is JobEnd.UNFIT and not known:
            assert fails_with is not None  # the backend knows what was the matter
            self._take_apart(entry, Outcome(phase, None), fails_with, now)
        else:
            self._lose(entry, None, now)

    def _job_died(self, entry: InFlight, key: Hashable, now: float) -> None:
        worker = entry.worker if entry.worker is not None else self.workers.get(key)
        if worker is None or worker.settled:
            if entry.worker is None:
                self._later(self._unheard, entry)
            else:
                self._lose(entry, None, now)
            return
        if entry.worker is None:
            worker.blamed.append(entry.number)
        if worker.departure is not None:
            self._look_into(worker)
        else:
            self._later(self._silent, worker, entry.why)

    def _unheard(self, entry: InFlight, now: float) -> None:
        """A job has ended, and what its worker has said of it must have come by now."""
        if not self._is_open(entry) or entry.worker is not None:
            return
        if self._is_anybody_leaving():
            self._silent_jobs.append(entry)  # one of them may have written down what it did not say
        elif entry.ended is JobEnd.DIED and not entry.may_have_begun:
            if entry.suspects:
                self._died_in_silence(entry, now)
            else:
                self._again(entry, now)
        else:
            text = "its worker has run it, and what it said was lost"
            entry.why = entry.why._replace(message=entry.why.message or text)
            self._lose(entry, None, now)

    def _died_in_silence(self, entry: InFlight, now: float) -> None:
        """A worker died before our code began there: perhaps one of the large values was its end."""
        for value in entry.suspects:
            value.deaths += 1
        worst = max(entry.suspects, key=lambda value: value.deaths)
        if worst.deaths >= DEADLY:
            text = (
                f"{worst.deaths} workers died when a large argument was about to be unpickled there"
            )
            why = Departure(message=text)
            for other in [e for e in self.batches.values() if worst in e.suspects and not e.worker]:
                self._withdraw(other)
                self._lose(other, None, now, lambda name: self._error(name, why))
        elif len(entry.batch) > 1:
            self._close(entry)
            self._scheduler.batch_split(entry.number)
        else:
            self._again(entry, now, most=1)

    def _silent(self, worker: WorkerState, now: float, why: Departure) -> None:
        """The engine has said that a worker died, and that has not been seen otherwise."""
        if worker.departure is None:
            self.worker_left(worker, why)
        if not worker.settled:
            self._look_into(worker)

    def withdrawn(self, number: int) -> None:
        """A batch was not begun, and will not be: what blocked runs want of it can be given to them."""
        entry = self.batches.get(number)
        if entry is None:
            return
        blocked_run = entry.wanting.pop(0) if entry.wanting else None
        self._close(entry)
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
                self._lose(entry, None, now)
            else:
                self._again(entry, now)
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
        if worker.departure is not None or worker.settled:
            return
        worker.departure = departure if departure is not None else Departure()
        jobs = [self.batches[number] for number in worker.batches if number in self.batches]
        if orderly:
            self._effects.append(
                (effects.LATER, self._leaves_within, lambda now: self._look_into(worker))
            )
        elif self._words_within and any(e.is_job and e.ended is None for e in jobs):
            # The engine is about to say how it died.
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
        if not worker.settled and not worker.read:
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
        if worker.settled:
            return
        worker.settled = True  # first: nothing is given to it any more
        if worker.departure is None:
            worker.departure = Departure()
        self.workers.pop(worker.key, None)
        numbers = [*worker.batches, *(outcomes or ())]
        there = {n: entry for n in numbers if (entry := self.batches.get(n)) is not None}
        error = self._error_at(worker, there, unknown=outcomes is None)
        for number, entry in there.items():
            if entry.worker not in (None, worker):
                continue  # it was begun elsewhere since
            self._pass_on_held(entry)
            if not self._is_open(entry):
                continue
            known = None if outcomes is None else outcomes.get(number, _NOTHING)
            if known is not None and known.positions:
                self._scheduler.batch_reported(number, known.positions, known.values, known.ends)
                self._unpickled(entry)
                told = Report(number, known.positions, known.values, known.ends, 0.0, last=False)
                self._effects.append((effects.PASSED_ON, entry, told))
            if known is not None and known.unpacking:
                self._died_unpacking(entry, known.unpacking, worker, now)
            else:
                self._lose(entry, None if known is None else list(known.begun), now, error)
        for number in worker.blamed:
            blamed = self.batches.get(number)
            if blamed is None or blamed.worker is not None:
                continue
            if outcomes is None:
                self._lose(blamed, None, now, error)
            else:
                self._again(blamed, now)
        # One of which nothing was ever heard was too young to have begun anything.
        if outcomes is None and worker.host is not None:
            for entry in self._refused:
                entry.may_have_begun = True
        for blocked_run in list(worker.waits.values()):
            self._scheduler.run_resumed(blocked_run)
        worker.settle()
        self._look_at_refused(now)

    def _died_unpacking(self, entry: InFlight, what: int, worker: WorkerState, now: float) -> None:
        """A worker died while it unpickled a batch: that may be chance once, and is the batch's doing then.

        Its runs are sent alone; one that was sent alone is to blame. A function that is deadly again and again ends all runs
        of its task.

        Args:
            entry: the batch.
            what: see `Outcomes.unpacking`.
            worker: the worker.
            now: seconds since the epoch.
        """
        part = "function" if what > 0 else "arguments"
        host, pid = worker.host or "(a worker)", worker.pid
        departure = worker.departure or Departure()
        text = f"its worker on {host} (pid {pid}) died while it unpickled its {part}"

        def error(run_name: str) -> BaseException:
            return WorkerDied(
                run_name=run_name,
                host=host,
                pid=pid,
                exit_code=departure.exit_code,
                signal=departure.signal,
                message=text,
            )

        if what > 0 and self._is_deadly(what - 1):
            task = entry.tasks[what - 1]
            told = f"{DEADLY} workers died while they unpickled the function of task {task.name!r}"
            end = WorkerDied(host=host, pid=pid, message=told)
            self._effects.append((effects.DEADLY, what - 1, end))
            self._lose_task(what - 1, error, now)
            self._lose(entry, entry.positions_of_task(what - 1), now, error)
        elif entry.was_alone():
            self._lose(entry, [0], now, error)
        elif self._is_open(entry):
            self._close(entry)
            self._scheduler.batch_split(entry.number)

    def _is_deadly(self, key: int) -> bool:
        deaths = self._deaths[key] = self._deaths.get(key, 0) + 1
        return deaths >= DEADLY

    def _unpickled(self, entry: InFlight) -> None:
        """The tasks of a batch were unpickled by a worker: deaths before were chance."""
        for key in entry.tasks:
            self._deaths.pop(key, None)

    def _lose_task(self, key: int, error: ErrorOf, now: float) -> None:
        """What was sent of a deadly task and has not begun is asked back, and ends."""
        for entry in list(self.batches.values()):
            if key in entry.tasks and entry.worker is None:
                self._withdraw(entry)
                self._lose(entry, entry.positions_of_task(key), now, error)

    # ------------------------------------------------------------------ ends of batches

    def _is_open(self, entry: InFlight) -> bool:
        return self.batches.get(entry.number) is entry

    def _close(self, entry: InFlight) -> None:
        """A batch has said all."""
        number = entry.number
        self.batches.pop(number, None)
        self._certain(number)
        if entry.worker is not None:
            entry.worker.batches.discard(number)
        for (
            blocked_run
        ) in entry.wanting:  # whatever has become of it: they may need something else now
            blocked_run.look_again()
        self._effects.append((effects.CLOSED, entry))

    def _certain(self, number: int) -> None:
        if number in self.uncertain:
            self.uncertain.discard(number)
            self._effects.append((effects.CERTAIN,))

    def _again(self, entry: InFlight, now: float, most: int = FRUITLESS) -> None:
        """A batch was not begun, as far as can be known: it is sent again, at no cost in retries, so often at most."""
        if not self._is_open(entry):
            return
        self._close(entry)
        tries = self._tries(self._scheduler.run_at(entry.batch, 0))
        begun: list[int] | None = []
        why = entry.why
        if tries > most:
            begun = None
            why = Departure(
                message=f"{self._engine} gave its batch back {tries} times without beginning it"
            )
        self._scheduler.batch_lost(entry.number, lambda name: self._error(name, why), begun, now)

    def _tries(self, first: TaskFuture[Any]) -> int:
        """How often a batch that begins with this run has come back without having begun."""
        tries = self._fruitless.get(first, 0) + 1
        self._fruitless = {run: n for run, n in self._fruitless.items() if not run.done()}
        self._fruitless[first] = tries
        return tries

    def _lose(
        self,
        entry: InFlight,
        begun: list[int] | None,
        now: float,
        error: ErrorOf | None = None,
    ) -> None:
        """A batch will say no more; these of its runs had begun, `None` for perhaps all."""
        if not self._is_open(entry):
            return
        self._close(entry)
        why = entry.why
        error_of = error if error is not None else lambda name: self._error(name, why)
        self._scheduler.batch_lost(entry.number, error_of, begun, now)

    def _take_apart(self, entry: InFlight, outcome: Outcome, error: ErrorOf, now: float) -> None:
        """A batch cannot begin for the sake of a run in it: each is sent alone, and the one to blame ends."""
        if not self._is_open(entry):
            return
        self._close(entry)
        if len(entry.batch) > 1:
            self._scheduler.batch_split(entry.number)
            return
        outcome.value = error(self._scheduler.run_at(entry.batch, 0).name)
        self._scheduler.batch_reported(entry.number, [0], [outcome], [now])
        self._scheduler.batch_closed(entry.number)

    def _error(self, run_name: str, why: Departure | None = None) -> BaseException:
        """The end of a run of whose worker no more is known."""
        why = why if why is not None else Departure()
        return WorkerDied(
            run_name=run_name,
            host=self._nowhere,
            message=why.message,
            cause=why.cause,
        )

    def _error_at(
        self, worker: WorkerState, there: Mapping[int, InFlight], *, unknown: bool
    ) -> ErrorOf:
        """How runs end that were at a worker that has gone."""
        waited = {h.run.name for h in worker.waits.values() if h.run is not None}
        departure = worker.departure if worker.departure is not None else Departure()
        said = next((e.why for e in there.values() if e.why.cause is not None), departure)

        def error(run_name: str) -> BaseException:
            message = departure.message or said.message
            if worker.stopped_for is not None and run_name != worker.stopped_for:
                does = "waited" if run_name in waited else "ran"
                message = (
                    f"it {does} on a worker that was killed to stop task run {worker.stopped_for!r}"
                )
            elif run_name in waited:
                message = "it waited on a worker that died while it ran something else"
            elif message is None and unknown:
                message = (
                    f"its {self._engine} worker died; the run may have run, as nothing tells what "
                    "had begun there"
                )
            return WorkerDied(
                run_name=run_name,
                host=worker.host or self._nowhere,
                pid=worker.pid,
                exit_code=departure.exit_code,
                signal=departure.signal,
                message=message,
                cause=said.cause,
            )

        return error

    # ------------------------------------------------------------------ blocked runs

    def stuck(self, blocked_run: BlockedRun) -> None:
        """A blocked run can be given nothing: what it waits for was sent already, or executes elsewhere."""
        worker, wait = blocked_run.tag
        entry = self._first_unbegun(blocked_run.wanted)
        if entry is None:
            self._effects.append((effects.TELL, worker, "secede", wait))
            return
        if blocked_run not in entry.wanting:
            entry.wanting.append(blocked_run)
        self._withdraw(entry)

    def _first_unbegun(self, wanted: Wanted) -> InFlight | None:
        """A job that nobody has begun, of what a run waits for or what that needs."""
        seen: set[Any] = set()
        stack: list[Any] = list(reversed(wanted))
        while stack:
            item = stack.pop()
            if item in seen or item.done():
                continue
            seen.add(item)
            found: list[InFlight] = []
            if isinstance(item, MapRecord):
                found = [e for e in self.batches.values() if _is_of(e.batch, item)]
                stack.extend(item.futures.values())
            else:
                if item._phase == SENT:
                    entry = self.find(item)
                    found = [entry] if entry is not None else []
                elif item._phase == WAITING:
                    upstreams = [entry.future for entry in item._details().upstreams]
                    stack.extend(u for u in upstreams if isinstance(u, TaskFuture))
                stack.extend(item._details().waits_on or ())
            for entry in found:
                if entry.worker is None and entry.is_job:
                    return entry
        return None

    def _withdraw(self, entry: InFlight) -> None:
        if not entry.withdrawn:
            entry.withdrawn = True
            self._effects.append((effects.WITHDRAW, entry))

    # ------------------------------------------------------------------ runs are stopped, batches recalled

    def find(self, run: TaskFuture[Any]) -> InFlight | None:
        """The batch in which a run was sent last, if any."""
        for entry in reversed(self.batches.values()):  # numbers grow
            if entry.position_of(run) is not None:
                return entry
        return None

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """Stops a run that may be executing, or sees to it that it does not begin."""
        entry = self.find(run)
        if entry is None:
            return
        if entry.worker is None:
            entry.skipped.append(run)
            if entry.is_job:
                self.uncertain.add(entry.number)
            self._withdraw(entry)
            return
        self._effects.append((effects.STOP, entry.worker, entry, run))

    def force(self, run: TaskFuture[Any], now: float) -> None:
        """Stops an interrupted run that still executes by force: its worker is killed, if that harms nobody else."""
        entry = self.find(run)
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
            job = self.batches.get(job.batch.blocked_run.batch.number)
            if job is not None:
                numbers.add(job.number)
        others = [
            n for n in worker.batches - numbers if n in self.batches and self.batches[n].is_job
        ]
        has_company = run._task.is_async and len(books[1]) > 1 and self._spares_coroutines
        alone = not (self._shares and others) and not has_company
        if job is None or not job.is_job or not worker.killable or not alone:
            self.give_up(entry, run, now)
        elif not job.killed:
            job.killed = True
            worker.stopped_for = run.name
            self._effects.append((effects.KILL, worker, job, run))

    def resumed(self, worker: WorkerState, wait: int) -> None:
        """A run goes on that waited on a worker."""
        blocked_run = worker.waits.pop(wait, None)
        if blocked_run is None:
            return
        self._scheduler.run_resumed(blocked_run)
        run = blocked_run.run
        entry = self.batches.get(blocked_run.batch.number)
        if run is not None and entry is not None and run in entry.forced:
            entry.forced.discard(run)
            self._effects.append((effects.LATER, RESUMED_GRACE, lambda now: self.force(run, now)))

    def kill_refused(self, worker: WorkerState, number: int, run_number: int, now: float) -> None:
        """A worker could not be killed for the sake of a run: something that is not ours runs there."""
        worker.stopped_for = None
        entry = self.batches.get(number)
        if entry is None:
            return
        entry.killed = False
        for other in [e for e in self.batches.values() if e.worker is worker]:
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

    def recall(self, batch: Batch) -> None:
        """What has not begun of a batch is wanted back."""
        entry = self.batches.get(batch.number)
        if entry is None:
            return
        entry.recalled = True
        if entry.worker is not None:
            self._effects.append((effects.TELL, entry.worker, "recall", batch.number))

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """Whether a run that was sent has begun: the first of a begun batch that has not been reported."""
        entry = self.find(run)
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


def _is_of(batch: Batch, record: MapRecord[Any]) -> bool:
    return type(batch.runs) is Span and batch.runs.record is record
