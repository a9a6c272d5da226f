"""What is in flight, as the ledger and the backends know it: batches, workers, how both end, and the books of them. Pure.

May import the schedulers and what lies above them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.calls import READY, SENT, WAITING
from shoal.engine.inputs import runs_among
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling import effects
from shoal.scheduling.wait_graph import not_done

if TYPE_CHECKING:
    from shoal.calls import Batch, Outcome, Report
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.capabilities import LedgerRules
    from shoal.scheduling.pushing import PushingScheduler
    from shoal.specs import TaskSpec

__all__ = ["Books", "Departure", "ErrorOf", "InFlight", "JobEnd", "Outcomes", "WorkerState"]

#: Gives, for a run's name, what it ends with.
ErrorOf = Callable[[str], BaseException]


class JobEnd(Enum):
    """How a system says that a job has ended."""

    RAN = "a worker has run it"
    NOT_BEGUN = "it was not begun, and will not be"
    DIED = "its worker has gone"
    REFUSED = "a second worker was given it, and refused"
    UNFIT = "it could not begin: what it needs is lost, has failed, or cannot be unpacked"
    BROKE = "it failed, and not by a run in it"


class Departure(NamedTuple):
    """How a worker went.

    Attributes:
        exit_code: of its process, where that is known.
        signal: that ended it, likewise.
        message: how else the system tells it.
        cause: the system's own error.
    """

    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    cause: BaseException | None = None

    @classmethod
    def of_process(cls, code: int) -> Departure:
        """How a process went, by its `Popen.returncode`."""
        return cls(exit_code=code) if code >= 0 else cls(signal=-code)


class Outcomes(NamedTuple):
    """What a worker had written down of one batch.

    Attributes:
        positions: of the runs that had ended.
        values: for each its value, or an `Outcome` where there is more to say.
        ends: when each ended, seconds since the epoch.
        begun: positions of those that had begun and not ended.
        unpacking: what of the batch was being unpickled: `ARGUMENTS`, the key of a task + 1, or 0 for nothing.
    """

    positions: Sequence[int] = ()
    values: Sequence[Any] = ()
    ends: Sequence[float] = ()
    begun: Sequence[int] = ()
    unpacking: int = 0


class WorkerState:
    """A worker, as far as it matters to runs.

    Attributes:
        key: what the backend knows it by.
        host: its machine, as it says itself; `None` until it has.
        pid: of its process, likewise.
        killable: whether it is a process of its own, which may be killed for a run that does not stop.
        batches: numbers of those that it has, and has not said all of.
        waits: by the worker's number of the wait, the blocked runs there.
        stopped_for: name of the run for whose sake it was killed.
        departure: how it went, `None` while it is there.
        read: whether its file was asked for.
        seen_off: whether all that it had was seen to: nothing that it says counts any more.
        blamed: batches of which the system says that they died with it.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.host: str | None = None
        self.pid: int | None = None
        self.killable = False
        self.batches: set[int] = set()
        self.waits: dict[int, BlockedRun] = {}
        self.stopped_for: str | None = None
        self.departure: Departure | None = None
        self.read = False
        self.seen_off = False
        self.blamed: list[int] = []

    def see_off(self) -> None:
        """All that it had was seen to: it is of no more interest."""
        self.seen_off = True
        self.waits.clear()
        self.batches.clear()


class InFlight:
    """A batch that was sent.

    Attributes:
        batch: the batch.
        number: of the batch.
        tasks: the tasks in it, by key.
        is_job: whether it is a job of the system's, or what one goes on with; else it was given to a blocked run.
        worker: that has it, if any has.
        skipped: runs that were stopped before a worker had it.
        recalled: whether what has not begun of it is wanted back.
        wanting: blocked runs that it was asked back for; they look again when it is known what became of it.
        withdrawn: whether it was asked back before a worker had it.
        killed: whether it was stopped by force.
        forced: runs that are to be stopped by force once they do not wait any more.
        ended: how the system says that it ended, `None` while it has not.
        why: what else the system says of that.
        may_have_begun: whether it says that it was under way somewhere, though no worker has said so.
        held: reports that wait for its end, as values in them do.
        suspects: values that the system unpickles at the worker before our code begins, each with a count of `deaths`.
    """

    __slots__ = (
        "_places",
        "batch",
        "ended",
        "forced",
        "held",
        "is_job",
        "killed",
        "may_have_begun",
        "number",
        "recalled",
        "skipped",
        "suspects",
        "tasks",
        "wanting",
        "why",
        "withdrawn",
        "worker",
    )

    def __init__(
        self, batch: Batch, *, is_job: bool, tasks: Mapping[int, TaskSpec] | None = None
    ) -> None:
        self.batch = batch
        self.number = batch.number
        self.tasks = tasks if tasks is not None else {}
        self.is_job = is_job
        self.worker: WorkerState | None = None
        self.skipped: list[TaskFuture[Any]] = []
        self.recalled = False
        self.wanting: list[BlockedRun] = []
        self.withdrawn = False
        self.killed = False
        self.forced: set[TaskFuture[Any]] = set()
        self.ended: JobEnd | None = None
        self.why = Departure()
        self.may_have_begun = False
        self.held: list[Report] = []
        self.suspects: Sequence[Any] = ()
        self._places: dict[TaskFuture[Any], int] | None = None

    def position_of(self, run: TaskFuture[Any]) -> int | None:
        """Where a run is in it, if it is."""
        runs = self.batch.runs
        if type(runs) is Span:
            index = run._number - runs.record.base
            return index - runs.start if runs.start <= index < runs.stop else None
        if self._places is None:
            self._places = {future: position for position, future in enumerate(runs)}
        return self._places.get(run)

    def has_begun(self, position: int) -> bool | None:
        """Whether a run of it has begun, if its worker can be asked at once; `None` if it cannot."""
        return None

    def executes(self, position: int) -> bool | None:
        """Whether a run of it executes, or is being unpickled, likewise."""
        return None

    def was_alone(self) -> bool:
        """Whether it holds one run that must not share a batch."""
        if type(self.batch.runs) is Span or len(self.batch) > 1:
            return False
        detail = self.batch.runs[0]._detail
        return detail is not None and detail.alone

    def positions_of_task(self, key: int) -> list[int]:
        """Where the runs of a task are in it."""
        task = self.tasks.get(key)
        runs = self.batch.runs
        if type(runs) is Span:
            return list(range(len(runs))) if runs.record.task is task else []
        return [position for position, run in enumerate(runs) if run._task is task]

    def has_futures(self) -> bool:
        """Whether somebody has the future of a run of it."""
        runs = self.batch.runs
        return type(runs) is not Span or runs.has_futures()

    def has_time_limit(self) -> bool:
        """Whether its first run has a time limit."""
        runs = self.batch.runs
        task = runs.record.task if type(runs) is Span else runs[0]._task
        return task.timeout_seconds is not None


#: Batches that are looked through for a run, from the newest, before whereabouts are made of all.
LOOKED_THROUGH = 32


class _Whereabouts:
    """Which batch each run was sent in: who cancels all that ten thousand workers have must not search for each run.

    Args:
        entries: the batches, by number.
    """

    def __init__(self, entries: Iterable[InFlight]) -> None:
        self._by_run: dict[TaskFuture[Any], InFlight] = {}
        spans: list[tuple[int, int, InFlight]] = []
        for entry in entries:
            runs = entry.batch.runs
            if type(runs) is Span:
                spans.append((runs.record.base + runs.start, entry.number, entry))
            else:
                self._by_run.update(dict.fromkeys(runs, entry))
        spans.sort(key=itemgetter(0, 1))
        self._firsts = [first for first, _, _ in spans]
        self._spans = [entry for _, _, entry in spans]

    def of(self, run: TaskFuture[Any]) -> InFlight | None:
        """A batch with a run, as a rule the last: one that was sent again in a longer span may be in both."""
        entry = self._by_run.get(run)
        place = bisect_right(self._firsts, run._number) - 1
        if place >= 0:
            span = self._spans[place]
            if span.position_of(run) is not None and (entry is None or span.number > entry.number):
                return span
        return entry


#: Times that a batch may come back without having begun, for no known reason.
FRUITLESS = 5


class Books:
    """What is in flight, and the ways in which a batch leaves: it is closed, sent again, lost, or taken apart.

    Args:
        scheduler: whose runs these are.
        rules: what is special about the system.
        error_for: what they end with of whose worker no more is known than this.

    Attributes:
        batches: by number, those that have not said all.
        uncertain: numbers of batches with stopped runs of which it is not known yet whether they begin.
    """

    def __init__(
        self,
        scheduler: PushingScheduler,
        rules: LedgerRules,
        error_for: Callable[[Departure], ErrorOf],
    ) -> None:
        self._scheduler = scheduler
        self._effects = scheduler.effects
        self._error_for = error_for
        self._system = rules.name
        self._fruitless: dict[TaskFuture[Any], int] = {}
        self._whereabouts: _Whereabouts | None = None
        self.batches: dict[int, InFlight] = {}
        self.uncertain: set[int] = set()

    def add(self, entry: InFlight) -> None:
        """A batch is about to be sent."""
        self.batches[entry.number] = entry
        self._whereabouts = None

    def is_open(self, entry: InFlight) -> bool:
        """Whether a batch has not said all."""
        return self.batches.get(entry.number) is entry

    def among(self, numbers: Iterable[int]) -> list[InFlight]:
        """Those of these numbers that have not said all."""
        return [self.batches[number] for number in numbers if number in self.batches]

    def close(self, entry: InFlight) -> None:
        """A batch has said all."""
        number = entry.number
        self.batches.pop(number, None)
        self.certain(number)
        if entry.worker is not None:
            entry.worker.batches.discard(number)
        for blocked_run in entry.wanting:
            blocked_run.look_again()  # whatever has become of it: it may need something else now
        self._effects.append((effects.CLOSED, entry))

    def certain(self, number: int) -> None:
        """It is known of a batch whether it begins."""
        if number in self.uncertain:
            self.uncertain.discard(number)
            self._effects.append((effects.CERTAIN,))

    def find(self, run: TaskFuture[Any]) -> InFlight | None:
        """The batch in which a run was sent last, if any."""
        newest_first = reversed(self.batches.values())  # numbers grow
        for entry in islice(newest_first, LOOKED_THROUGH):
            if entry.position_of(run) is not None:
                return entry
        if self._whereabouts is None:
            self._whereabouts = _Whereabouts(self.batches.values())
        found = self._whereabouts.of(run)
        if found is not None and self._awaits(found, run):
            return found
        return next((e for e in newest_first if e.position_of(run) is not None), None)

    def _awaits(self, entry: InFlight, run: TaskFuture[Any]) -> bool:
        """Whether a batch has yet to say what became of a run of it: it was not given back, to be sent in another."""
        known = self._scheduler.batches.get(entry.number)
        return self.is_open(entry) and known is not None and entry.position_of(run) in known[1]

    def first_unbegun(self, wanted: Wanted) -> InFlight | None:
        """A job that nobody has begun, of what a run waits for or what that needs."""
        stack: list[Any] = list(reversed(wanted))
        for item in not_done(stack):
            found: list[InFlight] = []
            if isinstance(item, MapRecord):
                found = [e for e in self.batches.values() if _is_of(e.batch, item)]
                stack.extend(item.futures.values())
            else:
                # An element of a map that was sent does not show it, if nobody had its future then.
                if item._phase == SENT or (item._phase == READY and item._details().origin):
                    entry = self.find(item)
                    found = [entry] if entry is not None else []
                elif item._phase == WAITING:
                    stack.extend(runs_among(item._details().upstreams))
                stack.extend(item._details().waits_on or ())
            for entry in found:
                if entry.worker is None and entry.is_job:
                    return entry
        return None

    def withdraw(self, entry: InFlight) -> None:
        """A batch is asked back, unless a worker has it."""
        if not entry.withdrawn:
            entry.withdrawn = True
            self._effects.append((effects.WITHDRAW, entry))

    def again(self, entry: InFlight, now: float, most: int = FRUITLESS) -> None:
        """A batch was not begun, as far as can be known: it is sent again, at no cost in retries, so often at most."""
        if not self.is_open(entry):
            return
        self.close(entry)
        tries = self._tries(self._scheduler.run_at(entry.batch, 0))
        begun: list[int] | None = []
        why = entry.why
        if tries > most:
            begun = None
            why = Departure(
                message=f"{self._system} gave its batch back {tries} times without beginning it"
            )
        self._scheduler.batch_lost(entry.number, self._error_for(why), begun, now)

    def _tries(self, first: TaskFuture[Any]) -> int:
        """How often a batch that begins with this run has come back without having begun."""
        tries = self._fruitless.get(first, 0) + 1
        self._fruitless = {run: n for run, n in self._fruitless.items() if not run.done()}
        self._fruitless[first] = tries
        return tries

    def lose(
        self,
        entry: InFlight,
        begun: list[int] | None,
        now: float,
        error: ErrorOf | None = None,
    ) -> None:
        """A batch will say no more; these of its runs had begun, `None` for perhaps all."""
        if not self.is_open(entry):
            return
        self.close(entry)
        error_of = error if error is not None else self._error_for(entry.why)
        self._scheduler.batch_lost(entry.number, error_of, begun, now)

    def split(self, entry: InFlight) -> None:
        """A batch is taken apart: each of its runs is sent alone."""
        self.close(entry)
        self._scheduler.batch_split(entry.number)

    def take_apart(self, entry: InFlight, outcome: Outcome, error: ErrorOf, now: float) -> None:
        """A batch cannot begin for the sake of a run in it: each is sent alone, and the one to blame ends."""
        if not self.is_open(entry):
            return
        if len(entry.batch) > 1:
            self.split(entry)
            return
        self.close(entry)
        outcome.value = error(self._scheduler.run_at(entry.batch, 0).name)
        self._scheduler.batch_reported(entry.number, [0], [outcome], [now])
        self._scheduler.batch_closed(entry.number)


def _is_of(batch: Batch, record: MapRecord[Any]) -> bool:
    return type(batch.runs) is Span and batch.runs.record is record
