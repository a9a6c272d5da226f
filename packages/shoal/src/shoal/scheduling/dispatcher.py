"""The impure shell around one scheduler: takes the lock, tells the time, and carries out effects.

    user thread, worker, timer, loop ──event──▶ LOCK: Scheduler ──▶ effects (one ordered queue)
                                                                         │ drained by one thread at a time,
                                                                         ▼ outside all locks
                            wake waiters · launch batches · arm timers · interrupt · call user callbacks · log

Whoever brought an event drains the effects afterwards, unless another thread is at it, which then carries on with
them. So nothing here needs a thread of its own but the clock and the user's callbacks.
"""

from __future__ import annotations

import threading
import time
from logging import LogRecord, getLogger
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.calls import (
    AWAITING_RETRY,
    COMPLETED,
    DONE,
    FAILED,
    QUEUED,
    READY,
    RUNNING,
    SENT,
    Call,
    Outcome,
)
from shoal.context import HERE, LOCK
from shoal.engine import inputs
from shoal.engine.interrupt import shielded
from shoal.engine.services import CALLBACKS, TIMERS, guarded
from shoal.exceptions import CrashedRun
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord
from shoal.logs import log_failure
from shoal.names import next_number
from shoal.safely import in_words
from shoal.scheduling import effects as effects_of
from shoal.scheduling.answers import NOT_HERE
from shoal.scheduling.intake import BackendT, Intake, SchedulerT
from shoal.scheduling.runlog import RunLog
from shoal.scheduling.scheduler import Scheduler
from shoal.scheduling.wait_graph import blocked_on
from shoal.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.context import FlowLabel
    from shoal.engine.services import Timer
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.backend import Backend

__all__ = ["AnyDispatcher", "Dispatcher"]

#: Seconds that an interrupted run is given to stop before it is reported and its worker given up; half of them where
#: it can be stopped by force.
GRACE = 1.0


class Dispatcher(Intake[SchedulerT, BackendT]):
    """What an entered runner is made of: a scheduler, a backend, and the way between them; `dispatchers` has the kinds.

    Args:
        scheduler: of the kind that the backend needs.
        backend: the execution system.
        runner_name: for messages.
    """

    def __init__(self, scheduler: SchedulerT, backend: BackendT, runner_name: str) -> None:
        super().__init__(scheduler, backend, runner_name)
        self._draining = threading.Lock()
        self._log = RunLog()
        scheduler.tells_ends = self._log.wanted()
        self._ended: TaskFuture[None] | None = None
        self._calls_hooks = False

    def works_for(self, flow_run: FlowLabel) -> None:
        """See `Answers`."""
        super().works_for(flow_run)
        self._log.flow_run = self.flow_run

    # ------------------------------------------------------------------ what futures ask

    def open_state(self, future: TaskFuture[Any]) -> State[Any]:
        """See `Answers`."""
        phase = future._phase
        detail = future._detail
        now = future._since
        call = future._call
        # A future of a map that is made late does not know that its run was sent.
        is_sent = phase == SENT or (phase == READY and self.backend.capabilities.isolated)
        if future._is_running() or (is_sent and self._has_begun(future)):
            retrying = call is not None and call.attempt > 1
            return State(StateType.RUNNING, "Retrying" if retrying else None, timestamp=now)
        caps = self.scheduler.caps
        if phase == QUEUED or (phase == READY and caps is not None and caps.is_queued(future)):
            return State(StateType.PENDING, "Queued", timestamp=now)
        if phase == AWAITING_RETRY:
            due = detail.due if detail is not None else None
            return State(StateType.SCHEDULED, "AwaitingRetry", timestamp=now, scheduled_time=due)
        return State(StateType.PENDING, timestamp=now)

    def _has_begun(self, future: TaskFuture[Any]) -> bool:
        """Whether a run that was sent has begun, as far as can be known at once."""
        raise NotImplementedError

    def native(self, future: TaskFuture[Any]) -> Any:
        """The system's own future of a run, `None` on runners of this machine."""
        return self.backend.native(future)

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """Ends a run as CANCELLED; False if it had ended."""
        frames = HERE.frames
        if frames is not None:
            frames.enter_shield()
        try:
            with LOCK:
                cancelled = self.scheduler.endings.cancel(future, time.time())
            self.drain()
            self._cancelled()
            return cancelled
        finally:
            if frames is not None:
                frames.leave_shield()

    def cancel_all(self) -> None:
        """Ends every open run as CANCELLED."""
        with shielded():
            now = time.time()
            more = True
            while more:  # a thousand at a time, so that nobody waits long for the lock
                with LOCK:
                    more = self.scheduler.cancel_some(1000, now)
                    if not more:
                        for future in self._running():
                            self.scheduler.endings.cancel(future, now)
                self.drain()
            self._cancelled()

    def _running(self) -> list[TaskFuture[Any]]:
        """Runs that execute and that the scheduler sees in no batch; with `LOCK` held."""
        return []

    def _cancelled(self) -> None:
        """Returns once what was cancelled before it began cannot begin any more."""

    # ------------------------------------------------------------------ attempts end

    def _wait_for_returned(self, future: TaskFuture[Any], value: Any) -> None:
        """The return value holds futures that have not ended: their ends settle the run, and no worker is held."""
        call = future._call
        if future._phase >= DONE or call is None:
            return
        future._details().cancel_timer()
        pending = {run for run in inputs.runs_in(value) if not run.done()}
        blocked_on(future, list(pending))

        def one_ended(upstream: TaskFuture[Any]) -> None:
            with LOCK:
                pending.discard(upstream)
                finished = not pending
            if finished:
                try:
                    self._returned_ended(future, call, value)
                except BaseException as error:
                    self.crash(future, error)

        pending -= {upstream for upstream in list(pending) if not upstream.watch(one_ended)}
        if not pending:
            self.scheduler.effects.append((effects_of.RETURNED_ENDED, future, call, value))

    def _returned_ended(self, future: TaskFuture[Any], call: Call, value: Any) -> None:
        """The last of the futures in a run's return value has ended."""
        from shoal.engine.task_run import resolved

        outcome = call.context.copy().run(resolved, call, value)
        with LOCK:
            if future._phase < DONE:
                self.scheduler.ended(future, outcome, time.time())
                if future._phase >= DONE:
                    self._call_hooks(future, call, outcome)
        self.drain()

    def _expired(self, future: TaskFuture[Any], attempt: int, limit: float) -> None:
        call = future._call
        with LOCK:
            # Called off, it may have been due already.
            expired = future._details().timer is not None and self.scheduler.endings.expired(
                future, attempt, limit, time.time()
            )
            # Code that is out of reach has a limit of its own where it runs, and calls the hooks there when it stops.
            told = expired and future._phase >= DONE and self.capabilities.stops
            if told and call is not None and call.task.on_failure_hooks:
                call.must_have_begun(time.time() - limit)
                self._call_hooks(future, call, Outcome(FAILED, future._outcome, future.state))
        self.drain()

    def _call_hooks(self, future: TaskFuture[Any], call: Call, outcome: Outcome) -> None:
        """Has the hooks of an end called that was decided here; with LOCK, so that who leaves the runner waits for them."""
        from shoal.engine.hooks import run_final_hooks

        self._calls_hooks = True
        CALLBACKS.put(f"A hook of task run {future.name!r}", run_final_hooks, call, outcome)

    def after(
        self,
        seconds: float,
        action: Callable[[], object],
        about: TaskFuture[Any] | None = None,
    ) -> Timer:
        """Has the timer thread do something on which runs depend.

        Args:
            seconds: from now.
            action: what is to be done.
            about: the run that ends if it fails, where it is only one.
        """
        if about is None:
            return TIMERS.after(seconds, guarded(action, self.failed))
        return TIMERS.after(seconds, guarded(action, lambda error: self.crash(about, error)))

    def help_out(self, wanted: Wanted) -> None:
        """Has runs begun, or what they need, for which holders of slots wait, even if everybody who could waits for slots.

        Args:
            wanted: what they wait for.
        """

    # ------------------------------------------------------------------ what any backend tells

    def leave_to_parent(self) -> None:
        """See `Answers`."""
        self.close_for(NOT_HERE)
        # Threads that are not here may hold these, and what was to be summed up is the parent's to tell.
        self._draining = threading.Lock()
        self._log = RunLog()

    def _start_time_limit(self, future: TaskFuture[Any], attempt: int, limit: float) -> None:
        """Starts an attempt's time limit; with `LOCK` held."""
        future._details().cancel_timer()
        future._details().timer = self.after(
            limit, lambda: self._expired(future, attempt, limit), future
        )

    def logged(self, record: LogRecord) -> None:
        """See `BackendEvents`."""
        getLogger(record.name).handle(record)

    def broken(self, error: Callable[[str], BaseException]) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.broke(error, time.time())
        self.drain()

    def failed(self, error: BaseException) -> None:
        """See `BackendEvents`."""
        log_failure(error, "%s failed", self.runner_name)
        try:
            self.broken(self._crash_of(error))
        except BaseException as another:
            log_failure(another, "%s could not end its runs", self.runner_name)

    def guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        """An action on which runs depend, for a service thread, a loop or a callback: they end if it fails."""
        return guarded(action, self.failed)

    def crash(self, future: TaskFuture[Any], error: BaseException) -> None:
        """What was done for one run has failed, and it would never end: it is CRASHED. It must not hold `LOCK`."""
        log_failure(error, "The runner failed at task run %r", future.name)
        with LOCK:
            self.scheduler.endings.crash(future, self._crash_of(error), time.time())
        self.drain()

    def _crash_of(self, error: BaseException) -> Callable[[str], BaseException]:
        text = f"{self.runner_name} failed: {in_words(error)}"
        return lambda name: CrashedRun(run_name=name, message=text, cause=error)

    # ------------------------------------------------------------------ effects

    def drain(self) -> None:
        """Carries out what the scheduler asked for, in order."""
        effects = self._effects
        while effects:
            if not self._draining.acquire(blocking=False):
                return  # the thread that is at it looks again after it has let go
            try:
                while effects:
                    try:
                        effect = effects.popleft()
                    except IndexError:
                        break
                    try:
                        self._perform(effect)
                    except BaseException as error:  # one effect must not take the others along
                        if _ends_program(error) and effect[0] != effects_of.LAUNCH:
                            effects.appendleft(effect)  # it came from outside: there is another try
                            raise
                        self._not_performed(effect, error)
                        if _ends_program(error):
                            raise
            finally:
                self._draining.release()

    def _not_performed(self, effect: tuple[Any, ...], error: BaseException) -> None:
        """Something could not be done about a decision: whatever depends on that ends."""
        about = effect[1] if len(effect) > 1 else None
        if type(about) is TaskFuture and about._phase < DONE:
            self.crash(about, error)
        else:
            self.failed(error)

    def _perform(self, effect: tuple[Any, ...]) -> None:
        """Carries out what every scheduler may ask for."""
        kind = effect[0]
        if kind == effects_of.SETTLED:
            self._settled(effect[1])
        elif kind == effects_of.RECORD:
            self._record_moved(effect[1])
        elif kind == effects_of.ELEMENTS:
            self._log.elements(effect[1], effect[2], effect[3])
        elif kind == effects_of.TIMER:
            self._start_timer(effect[1], effect[2])
        elif kind == effects_of.INTERRUPT:
            self._interrupt(effect[1])
        elif kind == effects_of.RETURNED_ENDED:
            self._returned_ended(effect[1], effect[2], effect[3])
        elif kind == effects_of.OTHER:
            effect[1].drain()
        elif kind == effects_of.LIMIT:
            self._request_slots(effect[1])
        elif kind == effects_of.RELEASE:
            self._release_slots(effect[1])
        elif kind == effects_of.DRAINED:
            self._drained()
        elif kind == effects_of.WAIT_FOR_RETURNED:
            with LOCK:
                self._wait_for_returned(effect[1], effect[2])
        else:
            raise ValueError(f"there is no effect {kind}")

    def _settled(self, future: TaskFuture[Any]) -> None:
        try:
            self._log.ended(future)
        except Exception as error:  # no run depends on a log line
            log_failure(error, "The end of task run %r could not be logged", future.name)
        finally:
            detail = future._detail
            if detail is not None:
                with LOCK:
                    waiters, detail.waiters = detail.waiters, None
                for waiter in waiters or ():
                    self._tell(waiter, future)

    def _record_moved(self, record: MapRecord[Any]) -> None:
        with LOCK:
            waiters = list(record.waiters)
            if record.ended:
                record.waiters.clear()
        for waiter in waiters:
            self._tell(waiter, record)

    def _tell(self, waiter: Callable[[Any], object], ended: Any) -> None:
        """Tells a waiter; one that fails must not keep others from being told."""
        try:
            waiter(ended)
        except BaseException as error:
            self.failed(error)

    def _start_timer(self, future: TaskFuture[Any], seconds: float) -> None:
        self._log.retried(future, seconds)
        timer = self.after(seconds, lambda: self._due(future), future) if seconds > 0 else None
        with LOCK:
            if future._phase == AWAITING_RETRY:
                future._details().timer = timer
            elif timer is not None:
                timer.cancel()
        if timer is None:
            self._due(future)

    def _due(self, future: TaskFuture[Any]) -> None:
        with LOCK:
            self.scheduler.due(future)
        self.drain()

    def _request_slots(self, future: TaskFuture[Any]) -> None:
        assert self.gate is not None  # only then are runs limited

        def decided(refusal: Exception | None) -> None:
            with LOCK:
                if refusal is None:
                    self.scheduler.admitted(future)
                else:
                    self.scheduler.settle(future, FAILED, refusal, time.time())
            self.drain()

        limited = future._details().limited
        self.gate.request(limited, self._slots_id(future), future.name, decided, future)

    def _release_slots(self, future: TaskFuture[Any]) -> None:
        assert self.gate is not None  # only then are runs limited
        self.gate.release(self._slots_id(future))

    def _slots_id(self, future: TaskFuture[Any]) -> str:
        """By what a run's slots are given back. On a worker UUIDs of runs read otherwise on threads without a context."""
        return future.task_run_id if self.keeper is None else str(future._number)

    def _interrupt(self, future: TaskFuture[Any]) -> None:
        if not self.capabilities.stops:
            return
        with LOCK:
            call = future._call
            detail = future._detail
            if future._phase < DONE and not (detail is not None and detail.overdue):
                return  # the attempt has ended by itself meanwhile, and another may be under way
            attempt = call.attempt if call is not None else None
            self._stop(future)
        self._see_it_stop(future, attempt)

    def _stop(self, future: TaskFuture[Any]) -> None:
        """Has a run interrupted that may be executing; with `LOCK` held."""
        raise NotImplementedError

    def _see_it_stop(self, future: TaskFuture[Any], attempt: int | None) -> None:
        """An attempt was interrupted: sees to it that it stops, or is given up."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the end

    def end(self) -> TaskFuture[None]:
        """A future that is done once no run is open any more; for those who wait for all.

        It stands in the graph of waits like a run that waits for every run of this runner, so a worker that waits for
        it does what these runs need.
        """
        with LOCK:
            future = self._ended
            if future is None:
                number = next_number()
                future = TaskFuture(self, _ALL_RUNS, number, None, time.time(), RUNNING)
                self._ended = future
            future._details().waits_on = list(self.scheduler.waiting)
            self.scheduler.tells_drained = True
            if self.scheduler.open == 0:  # what was decided before is carried out first
                self.scheduler.effects.append((effects_of.DRAINED,))
        self.drain()
        return future

    def _drained(self) -> None:
        with LOCK:
            future = self._ended
            if future is None or self.scheduler.open:
                return
            self._ended = None
            future._phase = COMPLETED
        self._settled(future)

    def left(self) -> None:
        """What the backend could not stop is given up, what was not logged one by one is summed up, hooks are waited for."""
        if self.capabilities.stops:  # else it still tells of what executes
            with LOCK:
                self.scheduler.endings.all_stopped()
            self.drain()
        self._log.flush()
        if self._calls_hooks:
            CALLBACKS.flush(2 * GRACE)

    def close(self) -> None:
        """Takes no more runs."""
        self.closed = True


AnyDispatcher: TypeAlias = "Dispatcher[Scheduler, Backend]"


class _AllRuns:
    """Stands for a task: the end of all runs of a runner."""

    name = "all runs"
    hidden = True
    is_async = False
    retries = 0


_ALL_RUNS: Any = _AllRuns()


def _ends_program(error: BaseException) -> bool:
    """Whether it is Ctrl-C or a SIGTERM: who gets it is whatever the main thread is at."""
    return (
        isinstance(error, (KeyboardInterrupt, SystemExit))
        and threading.current_thread() is threading.main_thread()
    )
