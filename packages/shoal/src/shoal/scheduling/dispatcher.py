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
from contextvars import Context, copy_context
from logging import LogRecord, getLogger
from typing import TYPE_CHECKING, Any, Protocol, cast

from shoal.calls import (
    AWAITING_RETRY,
    COMPLETED,
    DONE,
    FAILED,
    QUEUED,
    READY,
    RUNNING,
    SENT,
    WAITING,
    Call,
    Handle,
    Outcome,
)
from shoal.context import HERE, INHERITED, LOCK, SCOPE, TAGS, Scope
from shoal.engine import inputs
from shoal.engine.inputs import ATOMS
from shoal.engine.interrupt import shielded
from shoal.engine.services import CALLBACKS, TIMERS, guarded
from shoal.engine.values import value_of
from shoal.exceptions import CrashedRun, RunnerStateError, WaitCycle
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.blocking import refuse_inherited
from shoal.futures.maps import MapRecord
from shoal.logs import library_logger, log_failure
from shoal.names import next_number, reserve
from shoal.safely import in_words
from shoal.scheduling import effects as effects_of
from shoal.scheduling.answers import NOT_HERE, Answers
from shoal.scheduling.engine_events import EngineEvents
from shoal.scheduling.pulling import PullingScheduler
from shoal.scheduling.pushing import PushingScheduler
from shoal.scheduling.runlog import RunLog
from shoal.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.calls import Batch, Report
    from shoal.engine.services import Timer
    from shoal.scheduling.backend import AnyBackend
    from shoal.scheduling.waits import Helper
    from shoal.tasks import Task

__all__ = ["Dispatcher"]

#: Seconds that an interrupted run is given to stop before it is reported and its worker given up; half of them where
#: it can be stopped by force.
GRACE = 1.0


class Gate(Protocol):
    """Who gives slots of concurrency limits."""

    def request(
        self, tags: frozenset[str], run_id: str, on_outcome: Callable[[Any], object], /
    ) -> None:
        """Asks for a slot of each tag; `on_outcome` is called with `None` once they are held, or with a refusal."""

    def release(self, run_id: str, /) -> None:
        """Gives slots back, or takes the request for them back."""


class Dispatcher(Answers):
    """What an entered runner is made of: a scheduler, a backend, and the way between them.

    Args:
        backend: the execution system.
        limit: the most runs at once on a pulling backend, or `None`.
        runner_name: for messages.
    """

    #: Whether the thread that submits a run executes it.
    in_place = False

    def __init__(self, backend: AnyBackend, limit: int | None, runner_name: str) -> None:
        super().__init__()
        self.backend: Any = backend
        self.capabilities = backend.capabilities
        # Not their common type: a backend's kind decides which half of the events it uses.
        self.scheduler: Any = (
            PullingScheduler(backend.capabilities, limit)
            if backend.capabilities.pulls
            else PushingScheduler(backend.capabilities)
        )
        self.runner_name = runner_name
        #: What an engine with a queue of its own tells; `None` for other backends.
        self.engine: EngineEvents | None = (
            EngineEvents(cast("Any", self.scheduler), cast("Any", backend), self.drain, self.after)
            if backend.capabilities.queues
            else None
        )
        self.closed = False
        self._problem = "it has been left, so it takes no more runs"
        #: Gives slots of concurrency limits; `None` where there are no limits.
        self.gate: Gate | None = None
        self._effects = self.scheduler.effects
        self._draining = threading.Lock()
        self._log = RunLog()
        self.scheduler.tells_ends = self._log.wanted()
        self._captures = backend.captures
        self._ended: TaskFuture[None] | None = None
        self._looking = False
        self._shares_context = backend.capabilities.shares_context
        self._contexts: dict[frozenset[str], Context] = {}

    # ------------------------------------------------------------------ runs come in

    def submit(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
        number: int | None = None,
    ) -> TaskFuture[Any]:
        """Takes a run whose arguments fit the task's signature. Hot.

        Args:
            task: the task.
            args: positional arguments.
            kwargs: keyword arguments, `None` where there are none.
            wait_for: futures whose runs must have ended first.
            scope: the runner and flow run that it belongs to.
            number: the run's number if a worker that submits it has given it one.
        """
        if self.closed:
            raise RunnerStateError(runner=self.runner_name, problem=self._problem)
        if task.resources and not task.told_resources:
            self._tell_resources(task)
        if number is None:
            number = next_number()
        context = copy_context() if self._shares_context else self._context_with(TAGS.get(), scope)
        call = Call(task, args, kwargs, number, context, scope)
        future: TaskFuture[Any] = TaskFuture(self, task, call.number, call, time.time())
        if self._captures:
            call.options = self.backend.capture(task)
        found: list[inputs.Input] | None = None
        if kwargs is not None or wait_for is not None:
            found = self._inputs(call, wait_for)
        else:
            for value in args:
                if type(value) not in ATOMS:
                    found = self._inputs(call, None)
                    break
        if self.gate is not None:
            limited = task.tags | TAGS.get()
            if limited:
                future._details().limited = limited
                found = found or []
        frames = HERE.frames
        if frames is None:
            self._take_in(future, found)
        else:
            frames.enter_shield()
            try:
                self._take_in(future, found)
            finally:
                frames.leave_shield()
        return future

    def _context_with(self, tags: frozenset[str], scope: Scope) -> Context:
        """What surrounds a run on a worker that sees none of the submitter's variables: made once, as it never differs."""
        context = self._contexts.get(tags)
        if context is None:
            context = self._contexts[tags] = Context()
            context.run(TAGS.set, tags)
            context.run(SCOPE.set, scope)
        return context

    def _tell_resources(self, task: Task[Any, Any]) -> None:
        if not self.capabilities.resources:
            task.told_resources = True
            library_logger().warning(
                "Task %r asks for %s; %s knows no resources, and runs it without",
                task.name,
                ", ".join(f"{name}={amount:g}" for name, amount in task.resources.items()),
                self.runner_name,
            )

    def _take_in(self, future: TaskFuture[Any], found: list[inputs.Input] | None) -> None:
        if found is None:
            self.scheduler.submit(future)
        else:
            with LOCK:
                self.scheduler.submit_after(future, found)
        if self._effects:
            self.drain()

    def _inputs(self, call: Call, wait_for: Any) -> list[inputs.Input] | None:
        found = inputs.collect(call.args, call.kwargs)
        if not found:
            # Annotations around plain values are taken off here, once.
            call.args, kwargs = inputs.substitute(call.args, call.kwargs, value_of)
            call.kwargs = kwargs or None
        if wait_for is not None:
            found = [*found, *inputs.collect_wait_for(wait_for)]
        if INHERITED:
            refuse_inherited(
                entry.future for entry in found if isinstance(entry.future, TaskFuture)
            )
        return found or None

    def submit_map(
        self,
        task: Task[Any, Any],
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
        base: int | None = None,
    ) -> TaskFutureList[Any]:
        """Takes the runs of a map: columns of mapped arguments and values that are the same for all.

        Args:
            task: the task.
            positional: for each positional argument `(column, None)` if mapped, else `(None, value)`.
            keywords: likewise by name.
            size: how many elements.
            wait_for: futures whose runs must have ended first.
            scope: the runner and flow run that they belong to.
            base: the first run's number if a worker that submits them has numbered them.
        """
        if self.closed:
            raise RunnerStateError(runner=self.runner_name, problem=self._problem)
        if size == 0:
            return TaskFutureList()
        if task.resources and not task.told_resources:
            self._tell_resources(task)
        positional = [_without_annotations(column) for column in positional]
        keywords = {name: _without_annotations(column) for name, column in keywords.items()}
        limited = self.gate is not None and task.tags | TAGS.get()
        if limited or wait_for is not None or inputs.collect((positional, keywords)):
            futures = []
            for index in range(size):
                args = tuple(
                    [value if column is None else column[index] for column, value in positional]
                )
                kwargs = {
                    name: value if column is None else column[index]
                    for name, (column, value) in keywords.items()
                }
                number = base + index if base is not None else None
                futures.append(self.submit(task, args, kwargs or None, wait_for, scope, number))
            return TaskFutureList(futures)
        record: MapRecord[Any] = MapRecord(
            self,
            task,
            base if base is not None else reserve(size),
            size,
            positional,
            keywords or None,
            copy_context(),
            scope,
        )
        if self._captures:
            record.options = self.backend.capture(task)
        frames = HERE.frames
        if frames is not None:
            frames.enter_shield()
        try:
            with LOCK:
                self.scheduler.submit_map(record)
            self.drain()
        finally:
            if frames is not None:
                frames.leave_shield()
        return TaskFutureList(record)

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
        if phase == QUEUED:
            return State(StateType.PENDING, "Queued", timestamp=now)
        if phase == AWAITING_RETRY:
            due = detail.due if detail is not None else None
            return State(StateType.SCHEDULED, "AwaitingRetry", timestamp=now, scheduled_time=due)
        return State(StateType.PENDING, timestamp=now)

    def _has_begun(self, future: TaskFuture[Any]) -> bool:
        if self.engine is None:
            return bool(self.backend.has_begun(future))
        with LOCK:
            return self.engine.ledger.has_begun(future)

    def argument_of(self, future: TaskFuture[Any]) -> Any:
        """What a completed run gives to a run of the same runner: its value, or where that is."""
        value = future._outcome
        return value if isinstance(value, Handle) else self.value_of(future)

    def native(self, future: TaskFuture[Any]) -> Any:
        """The engine's own future of a run, `None` on runners of this machine."""
        return self.backend.native(future)

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """Ends a run as CANCELLED; False if it had ended."""
        frames = HERE.frames
        if frames is not None:
            frames.enter_shield()
        try:
            with LOCK:
                cancelled: bool = self.scheduler.cancel(future, time.time())
            self.drain()
            if self.engine is not None:
                self.engine.settle()
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
                        for future in self.backend.running():
                            self.scheduler.cancel(future, now)
                self.drain()
            if self.engine is not None:
                self.engine.settle()

    # ------------------------------------------------------------------ what workers in this process ask

    def begin(self, future: TaskFuture[Any]) -> Call:
        """Fills a claimed run's arguments in; the worker calls it before the attempt.

        Raises:
            Exception: an argument could not be put together.
        """
        detail = future._detail
        call = future._call
        if call is None:
            # Cancelled between claim and start; or an element of a map, whose call is made now.
            origin = detail.origin if detail is not None else None
            if origin is None or future._phase >= DONE:
                raise GoneError
            record, index = origin
            call = future._call = record.call(index)
        future._since = time.time()
        if detail is not None and detail.upstreams:
            call.args, kwargs = inputs.substitute(call.args, call.kwargs, value_of)
            call.kwargs = kwargs or None
            detail.upstreams = ()  # filled in once, for all attempts
        return call

    def start_limit(self, future: TaskFuture[Any], call: Call) -> None:
        """Starts an attempt's time limit; the worker calls it when the function comes next, if the task has one."""
        limit = call.task.timeout_seconds
        assert limit is not None  # only then is this called
        with LOCK:
            if future._phase < DONE:
                self._limit(future, call.attempt, limit)

    def ended(self, future: TaskFuture[Any], outcome: Outcome) -> None:
        """An attempt on a worker of this process has ended; with `LOCK` held."""
        if outcome.phase == WAITING and future._phase < DONE:
            future._details().returned = True
            self._wait_for_returned(future, outcome.value)
        else:
            self.scheduler.ended(future, outcome, time.time())

    def _wait_for_returned(self, future: TaskFuture[Any], value: Any) -> None:
        """The return value holds futures that have not ended: their ends settle the run, and no worker is held."""
        call = future._call
        if future._phase >= DONE or call is None:
            return
        self.scheduler.cancel_timer(future)
        pending = {
            entry.future
            for entry in inputs.collect((value,), None)
            if isinstance(entry.future, TaskFuture) and not entry.future.done()
        }
        self.scheduler.waits(future, list(pending))

        def one_ended(upstream: TaskFuture[Any]) -> None:
            with LOCK:
                pending.discard(upstream)
                finished = not pending
            if finished:
                try:
                    self._returned(future, call, value)
                except BaseException as error:
                    self.crash(future, error)

        pending -= {upstream for upstream in list(pending) if not upstream.watch(one_ended)}
        if not pending:
            self.scheduler.effects.append((effects_of.RETURNED, future, call, value))

    def _returned(self, future: TaskFuture[Any], call: Call, value: Any) -> None:
        """The last of the futures in a run's return value has ended."""
        from shoal.engine.task_run import resolved, run_final_hooks

        if future._phase >= DONE:
            return
        outcome = call.context.copy().run(resolved, call, value)
        with LOCK:
            ended = future._phase < DONE
            if ended:
                self.scheduler.ended(future, outcome, time.time())
        if ended and future._phase >= DONE:
            CALLBACKS.put(f"A hook of task run {future.name!r}", run_final_hooks, call, outcome)
        self.drain()

    def _expired(self, future: TaskFuture[Any], attempt: int, limit: float) -> None:
        call = future._call
        with LOCK:
            expired = self.scheduler.expired(future, attempt, limit, time.time())
        if expired and future._phase >= DONE and call is not None and call.task.on_failure_hooks:
            from shoal.engine.task_run import run_final_hooks

            outcome = Outcome(FAILED, future._outcome, future.state)
            CALLBACKS.put(f"A hook of task run {future.name!r}", run_final_hooks, call, outcome)
        self.drain()

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

    # ------------------------------------------------------------------ BackendEvents

    def close_for(self, problem: str) -> None:
        """Takes no more runs, and says why to whoever submits one."""
        self._problem = problem
        self.closed = True

    def leave_to_parent(self) -> None:
        """See `Answers`."""
        self.close_for(NOT_HERE)
        # Threads that are not here may hold these, and what was to be summed up is the parent's to tell.
        self._draining = threading.Lock()
        self._log = RunLog()

    def slots(self, numbers: list[int], *, awaited: bool = False) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.slots_changed(numbers, awaited=awaited)
        self.drain()

    def arrived(self, batch: int) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.batch_arrived(batch)
        self.drain()

    def started(self, batch: int, position: int) -> None:
        """See `BackendEvents`."""
        with LOCK:
            future = self.scheduler.batch_started(batch, position)
            call = future._call if future is not None else None
            if future is not None and call is not None and self.capabilities.stops_hard:
                future._since = time.time()
                limit = call.task.timeout_seconds
                if limit is not None:
                    self._limit(future, call.attempt, limit)
        self.drain()

    def returned(self, batch: int, position: int) -> None:
        """See `BackendEvents`."""
        with LOCK:
            future = self.scheduler.batch_started(batch, position)
            if future is not None:
                self.scheduler.cancel_timer(future)

    def _limit(self, future: TaskFuture[Any], attempt: int, limit: float) -> None:
        """Starts an attempt's time limit; with `LOCK` held."""
        self.scheduler.cancel_timer(future)
        future._details().timer = self.after(
            limit, lambda: self._expired(future, attempt, limit), future
        )

    def reported(self, report: Report) -> None:
        """See `BackendEvents`."""
        for record in report.logs:
            self.logged(record)
        with LOCK:
            entry = self.scheduler.batches.get(report.batch)
            if entry is not None:
                self.scheduler.batch_observed(report.batch, report.seconds, report.count)
                self.scheduler.batch_reported(
                    report.batch, report.positions, report.values, report.ends
                )
                if report.last:
                    self.scheduler.batch_closed(report.batch)
        self.drain()

    def handed_back(self, batch: int, positions: list[int], seconds: float = 0.0) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.batch_observed(batch, seconds, 1 if seconds else 0, at_least=True)
            self.scheduler.batch_handed_back(batch, positions)
        self.drain()

    def taken_back(self, batch: int, helper: Helper | None) -> None:
        """See `BackendEvents`."""
        try:
            with LOCK:
                self.scheduler.batch_closed(batch, helper)
        except WaitCycle as error:
            assert helper is not None  # else nothing waits
            self.backend.refuse(helper, error)
        self.drain()

    def split(self, batch: int) -> None:
        """See `BackendEvents`."""
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
        with LOCK:
            self.scheduler.batch_lost(batch, error, maybe_started, time.time())
        self.drain()

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
        if self.capabilities.pulls:  # of a run that is submitted without the lock nobody would know
            self.close_for(f"it has failed: {in_words(error)}")
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
            self.scheduler.crash(future, self._crash_of(error), time.time())
        self.drain()

    def _crash_of(self, error: BaseException) -> Callable[[str], BaseException]:
        text = f"{self.runner_name} failed: {in_words(error)}"
        return lambda name: CrashedRun(run_name=name, message=text, cause=error)

    def waiting(
        self,
        batch: int,
        position: int | None,
        wanted: list[Any],
        *,
        blocks: bool,
        timed: bool,
        tag: Any,
    ) -> Helper | None:
        """See `BackendEvents`."""
        with LOCK:
            helper: Helper | None = self.scheduler.run_waits(
                batch, position, wanted, blocks=blocks, timed=timed, tag=tag
            )
        self.drain()
        return helper

    def resumed(self, helper: Helper) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.run_resumed(helper)
        self.drain()

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
        if effect[0] == effects_of.LAUNCH:
            log_failure(error, "A batch could not be sent")
            self.lost(effect[1].number, self._crash_of(error))
        elif type(about) is TaskFuture and about._phase < DONE:
            self.crash(about, error)
        else:
            self.failed(error)

    def _perform(self, effect: tuple[Any, ...]) -> None:
        kind = effect[0]
        if kind == effects_of.SETTLED:
            self._settled(effect[1])
        elif kind == effects_of.WAKE:
            self.backend.wake(effect[1])
        elif kind == effects_of.CROWDED:
            self.backend.crowded()
        elif kind == effects_of.LOOP:
            self.backend.wake_loop()
        elif kind == effects_of.LAUNCH:
            self.backend.launch(effect[1])
        elif kind == effects_of.RECORD:
            self._record_moved(effect[1])
        elif kind == effects_of.ELEMENTS:
            self._log.elements(effect[1], effect[2], effect[3])
        elif kind == effects_of.TIMER:
            self._start_timer(effect[1], effect[2])
        elif kind == effects_of.INTERRUPT:
            self._interrupt(effect[1])
        elif kind == effects_of.RETURNED:
            self._returned(effect[1], effect[2], effect[3])
        elif kind == effects_of.OTHER:
            effect[1].drain()
        elif kind == effects_of.LIMIT:
            self._request_slots(effect[1])
        elif kind == effects_of.RELEASE:
            self._release_slots(effect[1])
        elif kind == effects_of.DRAINED:
            self._drained()
        elif kind == effects_of.RETURNS:
            with LOCK:
                self._wait_for_returned(effect[1], effect[2])
        elif kind == effects_of.HELP:
            self._help(effect[1])
        elif kind == effects_of.RECALL:
            self._recall_batch(effect[1])
        elif kind == effects_of.IDLE:
            self._look_for_idle()
        elif kind == effects_of.GONE:
            self.backend.slot_gone(effect[1])
        elif kind == effects_of.UNKNOWN:
            task = effect[1]
            self.after(self.capabilities.policy.patience, lambda: self._look_at(task))
        elif kind == effects_of.OVERDUE:
            self._overdue(effect[1], effect[2])
        elif self.engine is not None:
            self.engine.perform(effect)

    def _help(self, helper: Helper) -> None:
        try:
            with LOCK:
                found = self.scheduler.help(helper)
            if not found and self.engine is not None:
                self.engine.stuck(helper)
        except WaitCycle as error:
            self.backend.refuse(helper, error)

    def _recall_batch(self, batch: Batch) -> None:
        if self.engine is None:
            self.backend.recall(batch)
            return
        with LOCK:
            self.engine.ledger.recall(batch)

    def _look_for_idle(self) -> None:
        """A slot is idle: after a while, what others have not begun is taken back, unless it found something to do."""
        if not self._looking:
            self._looking = True
            self.after(self.capabilities.policy.patience, self._recall)

    def _look_at(self, task: Task[Any, Any]) -> None:
        with LOCK:
            self.scheduler.is_slow(task)
        self.drain()

    def _recall(self) -> None:
        self._looking = False
        with LOCK:
            self.scheduler.recall()
        self.drain()

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

        self.gate.request(future._details().limited, future.task_run_id, decided)

    def _release_slots(self, future: TaskFuture[Any]) -> None:
        assert self.gate is not None  # only then are runs limited
        self.gate.release(future.task_run_id)

    def _interrupt(self, future: TaskFuture[Any]) -> None:
        if not self.capabilities.stops:
            return
        with LOCK:
            call = future._call
            detail = future._detail
            if future._phase < DONE and not (detail is not None and detail.overdue):
                return  # the attempt has ended by itself meanwhile, and another may be under way
            attempt = call.attempt if call is not None else None
            if self.engine is not None:
                self.engine.interrupt(future)
            else:
                self.backend.interrupt(future)
        if self.capabilities.pulls:
            self.after(GRACE / 4, lambda: self._insist(future, attempt, 3), future)
        elif self.capabilities.stops_hard:
            self.after(GRACE / 2, lambda: self._force(future, attempt), future)

    def _force(self, future: TaskFuture[Any], attempt: int | None) -> None:
        """An interrupted run has had its grace."""
        call = future._call
        if call is not None and call.attempt != attempt:
            return
        if self.engine is not None:
            self.engine.force(future)
        else:
            self.backend.force(future)

    def _insist(self, future: TaskFuture[Any], attempt: int | None, more: int) -> None:
        """Interrupts again what may still run of an attempt, and in the end gives it up."""
        call = future._call
        if call is not None and call.attempt != attempt:
            return
        if more == 0:
            self.backend.give_up(future)
            return
        with LOCK:
            running = future in self.backend.running()
            if running:
                self.backend.interrupt(future)
        if running:
            self.after(GRACE / 4, lambda: self._insist(future, attempt, more - 1), future)

    # ------------------------------------------------------------------ the end

    def end(self) -> TaskFuture[None]:
        """A future that is done once no run is open any more; for those who wait for all.

        It stands in the graph of waits like a run that waits for every run of this runner, so a worker that waits for
        it does what these runs need.
        """
        with LOCK:
            future: TaskFuture[None] = TaskFuture(
                self, _ALL_RUNS, next_number(), None, time.time(), RUNNING
            )
            self.scheduler.tells_drained = True
            if self.scheduler.open == 0:
                future._phase = COMPLETED
            else:
                future._details().waits_on = list(self.scheduler.waiting)
                self._ended = future
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
        """The backend has stopped all that can be stopped: what it left behind is given up."""
        if not self.capabilities.stops:
            return  # it still tells of what executes
        with LOCK:
            self.scheduler.all_stopped()
        self.drain()

    def close(self) -> None:
        """Takes no more runs; sums up what was not logged one by one."""
        self.closed = True
        self._log.flush()


class _AllRuns:
    """Stands for a task: the end of all runs of a runner."""

    name = "all runs"
    hidden = True
    is_async = False
    retries = 0


_ALL_RUNS: Any = _AllRuns()


class GoneError(Exception):
    """A claimed run was cancelled before it began."""


def _ends_program(error: BaseException) -> bool:
    """Whether it is Ctrl-C or a SIGTERM: who gets it is whatever the main thread is at."""
    return (
        isinstance(error, (KeyboardInterrupt, SystemExit))
        and threading.current_thread() is threading.main_thread()
    )


def _without_annotations(column: tuple[list[Any] | None, Any]) -> tuple[list[Any] | None, Any]:
    """An argument of a map with annotations around plain values taken off; left as it is if it holds futures."""
    mapped, value = column
    held = mapped if mapped is not None else value
    if inputs.collect((held,)):
        return column
    (held,), _ = inputs.substitute((held,), None, value_of)
    return (held, None) if mapped is not None else (None, held)
