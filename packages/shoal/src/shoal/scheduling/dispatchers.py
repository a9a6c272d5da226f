"""Dispatchers by the kind of their backend, each with the events that this tells and the effects that it carries out.

    pulling    workers of this process, which ask the scheduler for runs themselves: `pulling_dispatcher`
    ledger     batches are jobs of a system, whose workers the ledger knows
    slots      the scheduler sends batches to slots, of which nothing more is known

May import `pulling_dispatcher`, `dispatcher`, the schedulers, `ledger_events` and what lies above them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from shoal.context import LOCK
from shoal.engine.services import CALLBACKS
from shoal.exceptions import BackendError, WaitCycle
from shoal.futures.blocking import ALL
from shoal.logs import log_failure
from shoal.scheduling import effects as effects_of
from shoal.scheduling.dispatcher import GRACE, Dispatcher
from shoal.scheduling.pulling_dispatcher import GoneError, PullingDispatcher
from shoal.scheduling.pushing import PushingScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Batch, Call, Outcome, Report
    from shoal.futures import TaskFuture
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.backend import (
        Backend,
        LaunchingBackend,
        LedgerBackend,
        PullingBackend,
        SlotsBackend,
    )
    from shoal.scheduling.blocked_run import BlockedRun, Entered
    from shoal.scheduling.capabilities import LedgerRules
    from shoal.scheduling.observed import RunnerObserver
    from shoal.specs import TaskSpec

__all__ = [
    "GoneError",
    "LedgerDispatcher",
    "PullingDispatcher",
    "PushingDispatcher",
    "SlotsDispatcher",
    "dispatcher_for",
]

LaunchingT = TypeVar("LaunchingT", bound="LaunchingBackend", covariant=True)


class PushingDispatcher(Dispatcher[PushingScheduler, LaunchingT]):
    """For backends that are given batches.

    Args:
        backend: the execution system.
        runner_name: for messages.
        observer: is told of its runs.

    Attributes:
        observer: it.
    """

    def __init__(
        self, backend: LaunchingT, runner_name: str, observer: RunnerObserver | None = None
    ) -> None:
        if observer is None:
            scheduler = PushingScheduler(backend.capabilities)
        else:
            from shoal.scheduling.observed import ObservedPushingScheduler

            scheduler = ObservedPushingScheduler(backend.capabilities, observer)
        super().__init__(scheduler, backend, runner_name)
        self.observer = observer
        self._looking = False

    # ------------------------------------------------------------------ BackendEvents

    def _knows(self, event: str, number: int, positions: Sequence[int] = ()) -> bool:
        """Whether a backend speaks of what is in flight. What comes late, or twice, is of no matter; what never was is a
        mistake, of which the log tells.
        """
        entry = self.scheduler.batches.get(number)
        if entry is None:
            if 0 < number <= self.scheduler.latest:
                return False
            problem = "none of this number was sent"
        elif positions and not 0 <= min(positions) <= max(positions) < len(entry[0]):
            problem = f"it has {len(entry[0])} runs, and none at one of {list(positions)}"
        else:
            return True
        self._complain(event, number, problem)
        return False

    def _complain(self, event: str, number: int, problem: str) -> BackendError:
        error = BackendError(runner=self.runner_name, event=event, batch=number, problem=problem)
        log_failure(error, "A mistake of a backend was passed over")
        return error

    def slots(self, numbers: list[int], *, awaited: bool = False) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.slots_changed(numbers, awaited=awaited)
        self.drain()

    def started(self, batch: int, position: int) -> None:
        """See `BackendEvents`."""
        if not self._knows("started", batch, (position,)):
            return
        with LOCK:
            future = self.scheduler.batch_started(batch, position)
            call = future._call if future is not None else None
            if future is not None and call is not None and self._tells_in_time():
                future._since = time.time()
                limit = call.task.timeout_seconds
                if limit is not None:
                    self._start_time_limit(future, call.attempt, limit)
        self.drain()

    def _tells_in_time(self) -> bool:
        """Whether `started` comes when a run begins, so that its time limit can be kept here too: code that will not stop
        at it is stopped by force, or, in this process, left to itself.
        """
        return self.capabilities.stops_hard or not self.capabilities.isolated

    def returned(self, batch: int, position: int) -> None:
        """See `BackendEvents`."""
        if not self._knows("returned", batch, (position,)):
            return
        with LOCK:
            future = self.scheduler.batch_started(batch, position)
            if future is not None:
                future._details().cancel_timer()

    def reported(self, report: Report) -> None:
        """See `BackendEvents`."""
        for record in report.logs:
            self.logged(record)
        if not self._knows("reported", report.batch, report.positions):
            return
        if not len(report.positions) == len(report.values) == len(report.ends):
            problem = "as many positions as values and ends are needed"
            error = self._complain("reported", report.batch, problem)
            self.lost(report.batch, self._crash_of(error))
            return
        with LOCK:
            self.scheduler.batch_observed(report.batch, report.seconds, report.count)
            self.scheduler.batch_reported(
                report.batch, report.positions, report.values, report.ends
            )
            if report.last:
                self.scheduler.batch_closed(report.batch)
        self.drain()

    def handed_back(self, batch: int, positions: list[int], seconds: float = 0.0) -> None:
        """See `BackendEvents`."""
        if not self._knows("handed_back", batch, positions):
            return
        with LOCK:
            self.scheduler.batch_observed(batch, seconds, 1 if seconds else 0, at_least=True)
            self.scheduler.batch_handed_back(batch, positions)
        self.drain()

    def split(self, batch: int) -> None:
        """See `BackendEvents`."""
        if not self._knows("split", batch):
            return
        with LOCK:
            self.scheduler.batch_split(batch)
        self.drain()

    def lost(
        self,
        batch: int,
        error: Callable[[str], BaseException],
        maybe_started: list[int] | None = None,
    ) -> None:
        """See `BackendEvents`."""
        if not self._knows("lost", batch, maybe_started or ()):
            return
        with LOCK:
            self.scheduler.batch_lost(batch, error, maybe_started, time.time())
        self.drain()

    def waiting(
        self,
        batch: int,
        position: int | None,
        wanted: list[Any],
        *,
        blocks: bool,
        until: int = ALL,
        lends: bool = False,
        beside: bool = False,
        tag: Any,
    ) -> BlockedRun | None:
        """See `BackendEvents`."""
        with LOCK:
            blocked_run: BlockedRun | None = self.scheduler.worker_waits.run_waits(
                *(batch, position, wanted),
                blocks=blocks,
                until=until,
                lends=lends,
                beside=beside,
                tag=tag,
            )
        self.drain()
        return blocked_run

    def waits_for_more(self, blocked_run: BlockedRun, wanted: list[Any], until: int) -> None:
        """See `WorkerWaits`."""
        with LOCK:
            self.scheduler.worker_waits.waits_for_more(blocked_run, wanted, until)
        self.drain()

    def resumed(self, blocked_run: BlockedRun) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.worker_waits.run_resumed(blocked_run)
        self.drain()

    def help_out(self, wanted: Wanted) -> None:
        """See `Dispatcher`."""
        with LOCK:
            lent = self.scheduler.worker_waits.help_out(wanted)
        if lent is not None:
            self._stuck(lent)
        self.drain()

    # ------------------------------------------------------------------ effects

    def _perform(self, effect: tuple[Any, ...]) -> None:
        kind = effect[0]
        if kind == effects_of.SETTLED:
            self._settled(effect[1])
        elif kind == effects_of.LAUNCH:
            self.backend.launch(effect[1])
        elif kind == effects_of.FILL:
            with LOCK:
                self.scheduler.fill()
        elif kind == effects_of.HELP:
            self._help(effect[1])
        elif kind == effects_of.GO_ON:
            self._go_on(effect[1])
        elif kind == effects_of.RECALL:
            self._recall_batch(effect[1])
        elif kind == effects_of.IDLE:
            self._look_for_idle()
        elif kind == effects_of.UNKNOWN:
            task = effect[1]
            self.after(self.capabilities.policy.patience, lambda: self._look_at(task))
        elif kind == effects_of.OVERDUE:
            self._overdue(effect[1], effect[2])
        elif kind == effects_of.GONE:
            self.backend.slot_gone(effect[1])
        else:
            super()._perform(effect)

    def _not_performed(self, effect: tuple[Any, ...], error: BaseException) -> None:
        if effect[0] == effects_of.LAUNCH:
            log_failure(error, "A batch could not be sent")
            self.lost(effect[1].number, self._crash_of(error))
        else:
            super()._not_performed(effect, error)

    def _help(self, blocked_run: BlockedRun) -> None:
        try:
            with LOCK:
                found = self.scheduler.worker_waits.help(blocked_run)
            if not found:
                self._stuck(blocked_run)
        except WaitCycle as error:
            self.backend.refuse(blocked_run, error)

    def _look_for_idle(self) -> None:
        """A slot is idle: after a while, what others have not begun is taken back, unless it found something to do."""
        if not self._looking:
            self._looking = True
            self.after(self.capabilities.policy.patience, self._recall)

    def _look_at(self, task: TaskSpec) -> None:
        with LOCK:
            self.scheduler.is_slow(task)
        self.drain()

    def _recall(self) -> None:
        self._looking = False
        with LOCK:
            self.scheduler.recall()
        self.drain()

    def _stuck(self, blocked_run: BlockedRun) -> None:
        """A blocked run can be given nothing."""

    def _go_on(self, waiting: BlockedRun | Entered) -> None:
        """What waited on a worker may go on."""

    def _recall_batch(self, batch: Batch) -> None:
        """Asks for what has not begun of a batch."""
        raise NotImplementedError

    def _see_it_stop(self, future: TaskFuture[Any], attempt: int | None) -> None:
        if self.capabilities.stops_hard:
            self.after(GRACE / 2, lambda: self._insist(future, attempt), future)

    def _insist(self, future: TaskFuture[Any], attempt: int | None) -> None:
        """An interrupted run has had its grace."""
        call = future._call
        if call is None or call.attempt == attempt:
            self._force(future)

    def _force(self, future: TaskFuture[Any]) -> None:
        """Stops an interrupted run by force."""
        raise NotImplementedError

    def _overdue(self, future: TaskFuture[Any], call: Call | None) -> None:
        """An attempt was stopped by force at its time limit, so nobody but us can say what that means."""
        from shoal.engine.task_run import overdue_outcome

        if call is None:
            return

        def end() -> None:
            try:
                outcome = overdue_outcome(call)
            except BaseException as error:
                self.crash(future, error)
            else:
                self._ended_overdue(future, outcome)

        CALLBACKS.put(f"The end of task run {future.name!r}", end)

    def _ended_overdue(self, future: TaskFuture[Any], outcome: Outcome) -> None:
        with LOCK:
            self.scheduler.ended(future, outcome, time.time())
        self.drain()


class SlotsDispatcher(PushingDispatcher["SlotsBackend"]):
    """For a backend with slots of its own."""

    def _has_begun(self, future: TaskFuture[Any]) -> bool:
        return self.backend.has_begun(future)

    def _recall_batch(self, batch: Batch) -> None:
        self.backend.recall(batch)

    def _stop(self, future: TaskFuture[Any]) -> None:
        self.backend.interrupt(future)

    def _force(self, future: TaskFuture[Any]) -> None:
        self.backend.force(future)


class LedgerDispatcher(PushingDispatcher["LedgerBackend"]):
    """For a system whose workers are known.

    Attributes:
        ledger: what it tells of jobs and workers.
    """

    def __init__(
        self,
        backend: LedgerBackend,
        rules: LedgerRules,
        runner_name: str,
        observer: RunnerObserver | None = None,
    ) -> None:
        from shoal.scheduling.ledger_events import (
            LedgerEvents,  # with the ledger: threads need neither
        )

        super().__init__(backend, runner_name, observer)
        self.ledger = LedgerEvents(self.scheduler, backend, rules, self.drain, self.after, observer)

    def _perform(self, effect: tuple[Any, ...]) -> None:
        if effect[0] in effects_of.OF_LEDGER:
            self.ledger.perform(effect)
        else:
            super()._perform(effect)

    def _has_begun(self, future: TaskFuture[Any]) -> bool:
        return self.ledger.has_begun(future)

    def _cancelled(self) -> None:
        self.ledger.wait_until_certain()

    def _stuck(self, blocked_run: BlockedRun) -> None:
        self.ledger.stuck(blocked_run)

    def _go_on(self, waiting: BlockedRun | Entered) -> None:
        self.ledger.go_on(waiting)

    def _recall_batch(self, batch: Batch) -> None:
        self.ledger.recall(batch)

    def _stop(self, future: TaskFuture[Any]) -> None:
        self.ledger.interrupt(future)

    def _force(self, future: TaskFuture[Any]) -> None:
        self.ledger.force(future)


def dispatcher_for(
    backend: Backend,
    limit: int | None,
    runner_name: str,
    observer: RunnerObserver | None = None,
) -> Dispatcher[Any, Backend]:
    """The dispatcher for a backend, of the kind that its capabilities tell.

    Args:
        backend: the execution system.
        limit: the most runs at once on one that pulls, or `None`.
        runner_name: for messages.
        observer: is told of its runs.
    """
    if backend.capabilities.pulls:
        return PullingDispatcher(cast("PullingBackend", backend), limit, runner_name, observer)
    rules = backend.capabilities.ledger
    if rules is not None:
        return LedgerDispatcher(cast("LedgerBackend", backend), rules, runner_name, observer)
    return SlotsDispatcher(cast("SlotsBackend", backend), runner_name, observer)
