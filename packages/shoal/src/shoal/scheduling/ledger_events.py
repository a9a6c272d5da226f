"""What a backend tells of its workers and jobs, and what is asked of it: the ledger's half of the dispatcher.

Each event takes the lock, tells the ledger, and carries out what that decided. May import `ledger` and what lies above it.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED
from shoal.context import LOCK
from shoal.scheduling import effects as effects_of
from shoal.scheduling.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from shoal.calls import Batch, Report
    from shoal.futures import TaskFuture
    from shoal.scheduling.backend import LedgerBackend
    from shoal.scheduling.blocked_run import BlockedRun, Entered
    from shoal.scheduling.capabilities import LedgerRules
    from shoal.scheduling.in_flight import (
        Departure,
        ErrorOf,
        InFlight,
        JobEnd,
        Outcomes,
        WorkerState,
    )
    from shoal.scheduling.observed import RunnerObserver
    from shoal.scheduling.pushing import PushingScheduler
    from shoal.specs import TaskCap

__all__ = ["LedgerEvents"]

#: Seconds that a cancel waits until it is certain that what was queued will not begin.
CERTAIN_WITHIN = 1.0


class LedgerEvents:
    """The ledger behind its lock: events of a backend, and the effects carried out.

    Args:
        scheduler: of the runner.
        backend: of the runner.
        rules: what is special about its system.
        drain: carries out the effects.
        after: calls a function after so many seconds.
        observer: is told of workers.
    """

    def __init__(
        self,
        scheduler: PushingScheduler,
        backend: LedgerBackend,
        rules: LedgerRules,
        drain: Callable[[], None],
        after: Callable[[float, Callable[[], None]], object],
        observer: RunnerObserver | None = None,
    ) -> None:
        if observer is None:
            self._ledger = Ledger(scheduler, rules)
        else:
            from shoal.scheduling.observed import ObservedLedger

            self._ledger = ObservedLedger(scheduler, rules, observer)
        self._scheduler = scheduler
        self._backend = backend
        self._drain = drain
        self._after = after
        self._certain = threading.Condition(LOCK)
        self._waiting = 0  # threads that wait for what the condition tells

    # ------------------------------------------------------------------ batches go out

    def sent(self, entry: InFlight) -> None:
        """A batch is about to be given to the system."""
        with LOCK:
            self._ledger.sent(entry)

    def given(self, entry: InFlight, worker: WorkerState) -> bool:
        """A batch is about to go to a certain worker; False if nothing is heard of that one any more, and it is sent again."""
        with LOCK:
            return self._ledger.given(entry, worker)

    def not_sent(self, number: int, cause: BaseException) -> None:
        """A batch could not be given to the system."""
        with LOCK:
            self._ledger.not_sent(number, cause, time.time())
        self._drain()

    # ------------------------------------------------------------------ what workers say

    def joined(self, worker: WorkerState) -> None:
        """A worker is there."""
        with LOCK:
            self._ledger.joined(worker)

    def workers(self) -> list[Any]:
        """The workers that are there."""
        with LOCK:
            return [w for w in self._ledger.workers.values() if w.departure is None]

    def worker_at(self, key: Hashable) -> Any:
        """The worker that the backend knows by a key: one that is there, or has gone and is not settled yet."""
        with LOCK:
            return self._ledger.workers.get(key)

    def in_flight(self, number: int) -> Any:
        """A batch that has not said all, by its number; `None` if it has."""
        return self._ledger.books.batches.get(number)

    def in_flight_at(self, worker: WorkerState) -> list[Any]:
        """All that a worker has."""
        with LOCK:
            return self._ledger.books.among(worker.batches)

    def all_in_flight(self) -> list[Any]:
        """All of them."""
        with LOCK:
            return list(self._ledger.books.batches.values())

    def run_at(self, batch: Batch, position: int) -> TaskFuture[Any]:
        """The run at a position of a batch."""
        with LOCK:
            return self._scheduler.run_at(batch, position)

    def arrived(self, worker: WorkerState, number: int) -> None:
        """A worker has a batch, and begins."""
        with LOCK:
            self._ledger.arrived(worker, number)
        self._drain()

    def told(self, report: Report, *, held: bool = False) -> bool:
        """Runs of a batch have ended; whether that is known now, or waits for the job's end as its values do."""
        with LOCK:
            known = self._ledger.reported(report, held=held)
        self._drain()
        return known

    def unpackable(self, number: int, error: ErrorOf) -> None:
        """A worker could not unpack a batch; the run that is to blame ends with this error."""
        with LOCK:
            self._ledger.unpackable(number, error, time.time())
        self._drain()

    # ------------------------------------------------------------------ what the system says

    def job_ended(
        self,
        number: int,
        end: JobEnd,
        *,
        worker: Hashable = None,
        why: Departure | None = None,
        may_have_begun: bool = False,
        fails_with: ErrorOf | None = None,
        phase: int = FAILED,
    ) -> None:
        """A job has ended; see `Ledger.job_ended`."""
        with LOCK:
            self._ledger.job_ended(
                number,
                end,
                time.time(),
                worker=worker,
                why=why,
                may_have_begun=may_have_begun,
                fails_with=fails_with,
                phase=phase,
            )
        self._drain()

    def withdrawn(self, number: int) -> None:
        """A batch was not begun, and will not be."""
        with LOCK:
            self._ledger.withdrawn(number)
        self._drain()

    def worker_left(
        self, worker: WorkerState, departure: Departure | None = None, *, orderly: bool = False
    ) -> None:
        """A worker has gone, or is about to; see `Ledger.worker_left`."""
        with LOCK:
            self._ledger.worker_left(worker, departure, orderly=orderly)
        self._drain()

    def farewell(self, worker: WorkerState) -> None:
        """A worker has said all that it has to say."""
        with LOCK:
            self._ledger.farewell(worker, time.time())
        self._drain()

    def outcomes_read(self, worker: WorkerState, outcomes: Mapping[int, Outcomes] | None) -> None:
        """What a worker that has gone had written down is known; `None` if it cannot be."""
        with LOCK:
            self._ledger.outcomes_read(worker, outcomes, time.time())
        self._drain()

    def resumed(self, worker: WorkerState, wait: int) -> None:
        """A run goes on that waited on a worker."""
        with LOCK:
            self._ledger.resumed(worker, wait)
        self._drain()

    def would_go_on(self, worker: WorkerState, wait: int, task_caps: Sequence[TaskCap]) -> None:
        """A run that waited on a worker waits no more for others, and goes on once it has a place; see `Ledger`."""
        with LOCK:
            self._ledger.would_go_on(worker, wait, task_caps)
        self._drain()

    def kill_refused(self, worker: WorkerState, number: int, run_number: int) -> None:
        """A worker was not killed for the sake of a run, as others have something there."""
        with LOCK:
            self._ledger.stopping.kill_refused(worker, number, run_number, time.time())
        self._drain()

    # ------------------------------------------------------------------ what the dispatcher asks

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """Whether a run that was sent has begun, as far as can be known at once."""
        with LOCK:
            return self._ledger.has_begun(run)

    def executing(self, run: TaskFuture[Any]) -> WorkerState | None:
        """The worker that has a run, as far as can be known at once; with the lock held."""
        return self._ledger.executing(run)

    def recall(self, batch: Batch) -> None:
        """Asks for what has not begun of a batch."""
        with LOCK:
            self._ledger.recall(batch)

    def go_on(self, waiting: BlockedRun | Entered) -> None:
        """What waited on a worker for a place of its caps has it: told after recalls that were asked for before, since what
        these ask for has no place.
        """
        worker, wait = waiting.tag
        self._scheduler.effects.append((effects_of.TELL, worker, "place", wait))

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """Stops a run that may be executing; with the lock held."""
        self._ledger.stopping.interrupt(run)

    def force(self, run: TaskFuture[Any]) -> None:
        """An interrupted run has had its grace."""
        with LOCK:
            self._ledger.stopping.force(run, time.time())
        self._drain()

    def stuck(self, blocked_run: BlockedRun) -> None:
        """A blocked run can be given nothing."""
        with LOCK:
            self._ledger.stuck(blocked_run)

    def is_unbegun(self, item: Any) -> bool:
        """Whether a run, or some of a map, was sent and no worker has it, or needs what is so; with the lock held."""
        return self._ledger.books.first_unbegun((item,)) is not None

    def wait_until_certain(self) -> None:
        """Returns once what was stopped before it began cannot begin any more, or has begun; not on a listening thread."""
        if self._backend.is_listening():
            return
        deadline = time.monotonic() + CERTAIN_WITHIN
        with self._waited_for():
            asked = set(self._ledger.books.uncertain)
            while asked & self._ledger.books.uncertain:
                if not self._certain.wait(max(deadline - time.monotonic(), 0.0)):
                    return

    def is_waited_for(self) -> bool:
        """Whether anything is in flight, or ready to be sent."""
        with LOCK:
            return bool(self._scheduler.batches) or bool(self._scheduler.ready)

    def close(self) -> None:
        """The runner has been left: the books hold nothing any more."""
        with LOCK:
            self._ledger.books.batches.clear()
            for worker in self._ledger.workers.values():
                worker.see_off()
            self._ledger.workers.clear()

    def wait_until_idle(self, seconds: float) -> list[Any]:
        """Waits until no worker has anything; returns what is left in flight after so many seconds."""
        with self._waited_for():
            self._certain.wait_for(lambda: not self._at_workers(), seconds)
            return list(self._ledger.books.batches.values())

    @contextmanager
    def _waited_for(self) -> Iterator[None]:
        """Inside, the condition is told of what is certain and what is closed."""
        with self._certain:
            self._waiting += 1
            try:
                yield
            finally:
                self._waiting -= 1

    def _at_workers(self) -> bool:
        return any(entry.worker is not None for entry in self._ledger.books.batches.values())

    def perform(self, effect: tuple[Any, ...]) -> None:
        """Carries out one of the ledger's effects."""
        kind = effect[0]
        backend = self._backend
        if kind == effects_of.TELL:
            backend.tell(effect[1], effect[2], effect[3])
        elif kind == effects_of.STOP:
            backend.interrupt(effect[1], effect[2], effect[3])
        elif kind == effects_of.WITHDRAW:
            backend.withdraw(effect[1])
        elif kind == effects_of.KILL:
            backend.kill(effect[1], effect[2], effect[3])
        elif kind == effects_of.GIVE_UP:
            backend.give_up(effect[1], effect[2])
        elif kind == effects_of.READ:
            backend.read_outcomes(effect[1])
        elif kind == effects_of.LATER:
            self._look_later(effect[1], effect[2])
        elif kind == effects_of.CLOSED or kind == effects_of.CERTAIN:
            if self._waiting:
                with self._certain:
                    self._certain.notify_all()
            if kind == effects_of.CLOSED:
                backend.closed(effect[1])
        elif kind == effects_of.PASSED_ON:
            backend.passed_on(effect[1], effect[2])
        elif kind == effects_of.DEADLY:
            backend.deadly(effect[1], effect[2])
        else:
            raise ValueError(f"there is no effect {kind}")

    def _look_later(self, seconds: float, look: Callable[[float], None]) -> None:
        def fire() -> None:
            with LOCK:
                look(time.time())
            self._drain()

        if seconds:
            self._after(seconds, fire)
        else:
            with LOCK:  # the effects follow: this is one
                look(time.time())
