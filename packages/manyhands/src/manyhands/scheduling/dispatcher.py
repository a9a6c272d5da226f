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
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    CRASHED,
    DONE,
    FAILED,
    QUEUED,
    RUNNING,
    WAITING,
    Call,
    Outcome,
)
from manyhands.context import HERE, LOCK, TAGS, Scope
from manyhands.engine import inputs
from manyhands.engine.inputs import ATOMS
from manyhands.engine.interrupt import shielded
from manyhands.engine.services import CALLBACKS, TIMERS
from manyhands.engine.values import value_of
from manyhands.exceptions import MissingResult, RunnerStateError
from manyhands.futures import TaskFuture, TaskFutureList
from manyhands.futures.maps import RELEASED, MapRecord
from manyhands.logs import library_logger
from manyhands.names import next_number, reserve
from manyhands.scheduling import effects as effects_of
from manyhands.scheduling.pulling import PullingScheduler
from manyhands.scheduling.pushing import PushingScheduler
from manyhands.scheduling.runlog import RunLog
from manyhands.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from manyhands.calls import Report
    from manyhands.scheduling.backend import AnyBackend
    from manyhands.tasks import Task

__all__ = ["Dispatcher"]

#: Seconds that an interrupted run is given to stop before it is reported and its worker given up.
GRACE = 1.0


class Gate(Protocol):
    """Who gives slots of concurrency limits."""

    def request(
        self, tags: frozenset[str], run_id: str, on_outcome: Callable[[Any], object], /
    ) -> None:
        """Asks for a slot of each tag; `on_outcome` is called with `None` once they are held, or with a refusal."""

    def release(self, run_id: str, /) -> None:
        """Gives slots back, or takes the request for them back."""


class Dispatcher:
    """What an entered runner is made of: a scheduler, a backend, and the way between them.

    Args:
        backend: the execution system.
        limit: the most runs at once on a pulling backend, or `None`.
        runner_name: for messages.
    """

    def __init__(self, backend: AnyBackend, limit: int | None, runner_name: str) -> None:
        self.backend: Any = backend
        self.capabilities = backend.capabilities
        # Not their common type: a backend's kind decides which half of the events it uses.
        self.scheduler: Any = (
            PullingScheduler(backend.capabilities, limit)
            if backend.capabilities.pulls
            else PushingScheduler(backend.capabilities)
        )
        self.runner_name = runner_name
        self.closed = False
        #: Gives slots of concurrency limits; `None` where there are no limits.
        self.gate: Gate | None = None
        self._effects = self.scheduler.effects
        self._draining = threading.Lock()
        self._log = RunLog()
        self.scheduler.tells_ends = self._log.wanted()
        self._captures = backend.captures
        self._ended: TaskFuture[None] | None = None

    # ------------------------------------------------------------------ runs come in

    def submit(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFuture[Any]:
        """Takes a run whose arguments fit the task's signature. Hot."""
        if self.closed:
            raise RunnerStateError(
                runner=self.runner_name, problem="it has been left, so it takes no more runs"
            )
        if task.resources and not task.told_resources:
            self._tell_resources(task)
        call = Call(task, args, kwargs, next_number(), copy_context(), scope)
        future: TaskFuture[Any] = TaskFuture(self, task, call.number, call, time.time())
        if self._captures:
            call.options = self.backend.capture()
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
        return found or None

    def submit_map(
        self,
        task: Task[Any, Any],
        positional: list[tuple[list[Any] | None, Any]],
        keywords: dict[str, tuple[list[Any] | None, Any]],
        size: int,
        wait_for: Any,
        scope: Scope,
    ) -> TaskFutureList[Any]:
        """Takes the runs of a map: columns of mapped arguments and values that are the same for all."""
        if self.closed:
            raise RunnerStateError(
                runner=self.runner_name, problem="it has been left, so it takes no more runs"
            )
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
                futures.append(self.submit(task, args, kwargs or None, wait_for, scope))
            return TaskFutureList(futures)
        record: MapRecord[Any] = MapRecord(
            self, task, reserve(size), size, positional, keywords or None, copy_context(), scope
        )
        if self._captures:
            record.options = self.backend.capture()
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

    def state_of(self, future: TaskFuture[Any]) -> State[Any]:
        """The state of a run as it is now."""
        from manyhands.engine.task_run import failure_message

        phase = future._phase
        detail = future._detail
        now = future._since
        if phase >= DONE:
            if detail is not None and detail.state is not None:
                return detail.state
            outcome = future._outcome
            if phase == COMPLETED:
                return State(StateType.COMPLETED, data=outcome, timestamp=now)
            if phase == FAILED:
                return State(
                    StateType.FAILED, None, failure_message(outcome), data=outcome, timestamp=now
                )
            if phase == CANCELLED:
                return State(StateType.CANCELLED, timestamp=now)
            if phase == CRASHED:
                return State(StateType.CRASHED, None, str(outcome), data=outcome, timestamp=now)
            return State(StateType.PENDING, "NotReady", str(outcome), data=outcome, timestamp=now)
        call = future._call
        if future._is_running():
            retrying = call is not None and call.attempt > 1
            return State(StateType.RUNNING, "Retrying" if retrying else None, timestamp=now)
        if phase == QUEUED:
            return State(StateType.PENDING, "Queued", timestamp=now)
        if phase == AWAITING_RETRY:
            due = detail.due if detail is not None else None
            return State(StateType.SCHEDULED, "AwaitingRetry", timestamp=now, scheduled_time=due)
        return State(StateType.PENDING, timestamp=now)

    def value_of(self, future: TaskFuture[Any]) -> Any:
        """The value of a completed run.

        Raises:
            MissingResult: it is an element of a map whose list was dropped before anybody took the future.
        """
        value = future._outcome
        if value is RELEASED:
            raise MissingResult(run_name=future.name)
        return value

    def values_of(self, record: MapRecord[Any]) -> list[Any]:
        """The values of a map all of whose elements completed."""
        return list(record.values)

    def native(self, future: TaskFuture[Any]) -> Any:
        """The engine's own future of a run, `None` on runners of this machine."""
        return self.backend.native(future)

    def add_callback(
        self, future: TaskFuture[Any], fn: Callable[[TaskFuture[Any]], object]
    ) -> None:
        """Arranges for a user's callback."""
        context = copy_context()
        with LOCK:
            if future.watch(lambda ended: self._call_back(ended, fn, context)):
                return
        self._call_back(future, fn, context)

    def _call_back(
        self, future: TaskFuture[Any], fn: Callable[[TaskFuture[Any]], object], context: Context
    ) -> None:
        CALLBACKS.put(f"A callback of task run {future.name!r}", context.run, fn, future)

    def cancel(self, future: TaskFuture[Any]) -> bool:
        """Ends a run as CANCELLED; False if it had ended."""
        frames = HERE.frames
        if frames is not None:
            frames.enter_shield()
        try:
            with LOCK:
                cancelled: bool = self.scheduler.cancel(future, time.time())
            self.drain()
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

    # ------------------------------------------------------------------ what workers in this process ask

    def begin(self, future: TaskFuture[Any]) -> Call:
        """Fills a claimed run's arguments in and starts its time limit; the worker calls it before the attempt.

        Raises:
            Exception: an argument could not be put together.
        """
        detail = future._detail
        call = future._call
        if call is None:
            # Cancelled between claim and start; or an element of a map, whose call is made now.
            if detail is None or detail.origin is None or future._phase >= DONE:
                raise GoneError
            record, index = detail.origin
            call = future._call = record.call(index)
        future._since = time.time()
        if detail is not None and detail.upstreams:
            call.args, kwargs = inputs.substitute(call.args, call.kwargs, value_of)
            call.kwargs = kwargs or None
            detail.upstreams = ()  # filled in once, for all attempts
        limit = call.task.timeout_seconds
        if limit is not None:
            attempt = call.attempt
            with LOCK:
                future._details().timer = TIMERS.after(
                    limit, lambda: self._expired(future, attempt, limit)
                )
        return call

    def ended(self, future: TaskFuture[Any], outcome: Outcome) -> None:
        """An attempt on a worker of this process has ended; with `LOCK` held."""
        if outcome.phase == WAITING:
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
                self._returned(future, call, value)

        pending -= {upstream for upstream in list(pending) if not upstream.watch(one_ended)}
        if not pending:
            self.scheduler.effects.append((effects_of.RETURNED, future, call, value))

    def _returned(self, future: TaskFuture[Any], call: Call, value: Any) -> None:
        """The last of the futures in a run's return value has ended."""
        from manyhands.engine.task_run import resolved, run_final_hooks

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
            from manyhands.engine.task_run import run_final_hooks

            outcome = Outcome(FAILED, future._outcome, future.state)
            CALLBACKS.put(f"A hook of task run {future.name!r}", run_final_hooks, call, outcome)
        self.drain()

    # ------------------------------------------------------------------ BackendEvents

    def slots(self, numbers: list[int]) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.slots_changed(numbers)
        self.drain()

    def started(self, batch: int, position: int) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.batch_started(batch, position)
        self.drain()

    def reported(self, report: Report) -> None:
        """See `BackendEvents`."""
        import logging

        for record in report.logs:
            logging.getLogger(record.name).handle(record)
        with LOCK:
            entry = self.scheduler.batches.get(report.batch)
            if entry is not None:
                self.scheduler.batch_observed(report.batch, report.seconds, len(report.values))
                self.scheduler.batch_reported(
                    report.batch, report.positions, report.values, report.ends
                )
                if report.last:
                    self.scheduler.batch_closed(report.batch)
        self.drain()

    def handed_back(self, batch: int, positions: list[int]) -> None:
        """See `BackendEvents`."""
        with LOCK:
            self.scheduler.batch_handed_back(batch, positions)
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
                    except Exception:  # one effect must not take the others along
                        library_logger().exception(
                            "The scheduler could not carry out what it decided"
                        )
            finally:
                self._draining.release()

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
        elif kind == effects_of.ELEMENT:
            self._log.element(effect[1], effect[2])
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

    def _settled(self, future: TaskFuture[Any]) -> None:
        try:
            self._log.ended(future)
        finally:
            detail = future._detail
            if detail is not None:
                with LOCK:
                    waiters, detail.waiters = detail.waiters, None
                for waiter in waiters or ():
                    waiter(future)

    def _record_moved(self, record: MapRecord[Any]) -> None:
        with LOCK:
            waiters = list(record.waiters)
            if record.ended:
                record.waiters.clear()
        for waiter in waiters:
            waiter(record)

    def _start_timer(self, future: TaskFuture[Any], seconds: float) -> None:
        self._log.retried(future, seconds)
        timer = TIMERS.after(seconds, lambda: self._due(future)) if seconds > 0 else None
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
            attempt = call.attempt if call is not None else None
            self.backend.interrupt(future)
        if self.capabilities.pulls:
            TIMERS.after(GRACE / 4, lambda: self._insist(future, attempt, 3))

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
            TIMERS.after(GRACE / 4, lambda: self._insist(future, attempt, more - 1))

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


def _without_annotations(column: tuple[list[Any] | None, Any]) -> tuple[list[Any] | None, Any]:
    """An argument of a map with annotations around plain values taken off; left as it is if it holds futures."""
    mapped, value = column
    held = mapped if mapped is not None else value
    if inputs.collect((held,)):
        return column
    (held,), _ = inputs.substitute((held,), None, value_of)
    return (held, None) if mapped is not None else (None, held)
