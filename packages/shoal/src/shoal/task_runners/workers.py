"""Workers of this process: they take runs from the scheduler, run them, and hand back how they ended.

    submit ─▶ Scheduler.ready ◀─ pop (a run) or take (a range of a map) ─ Worker ─▶ engine ─▶ Scheduler.complete
                                                                            ▲                        │
                                                                            └───────── next ◀────────┘

Who owns what:

    Worker.frames           what the worker runs, innermost last; written by its own thread
    Worker._parked          a lock that an idle or waiting worker blocks on; released under `LOCK`, by whoever has
                            something for it
    Pool.workers            every living worker that was not given up; under `LOCK`

A worker that waits for runs of its own runner does them itself where they have not started (and only those, or what
they need: an unrelated one might want a lock that the waiting task holds). So nesting ends with one worker.

May import `packing`, `pools` and what lies above task runners.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from shoal.calls import CANCELLED, COMPLETED, DONE, FAILED, Call, Outcome
from shoal.context import HERE, LOCK
from shoal.engine.interrupt import Frame, Frames, Interrupt, answered_soon
from shoal.engine.task_run import attempt_here, overdue_outcome
from shoal.exceptions import NestingTooDeep
from shoal.futures.blocking import Countdown, Decision, Wakeup, block_plainly, until
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling import wait_graph
from shoal.scheduling.dispatchers import GoneError
from shoal.task_runners.packing import not_begun

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.engine.task_run import EndLimit
    from shoal.futures.blocking import Wanted
    from shoal.scheduling.caps import Line
    from shoal.scheduling.dispatchers import PullingDispatcher
    from shoal.task_runners.pools import Pool, SharedByThreads

__all__ = ["Worker", "dispatcher_of"]

#: How deep runs may run what they wait for on one stack. A level takes about ten Python frames and some C stack.
DEEPEST = 80


class Worker:
    """One thread of the pool, or a caller's thread that runs things itself (`SequentialTaskRunner`)."""

    __slots__ = (
        "_asleep",
        "_parked",
        "abandoned",
        "backend",
        "counted",
        "frames",
        "helps",
        "line",
        "sides",
        "since",
        "span",
        "stopping",
        "thread",
    )

    def __init__(self, backend: Pool, frames: Frames) -> None:
        self.backend = backend
        self.frames = frames
        self.helps = {backend.dispatcher}
        self.span: Span | None = None
        self.since = 0.0
        self.stopping = False
        self.abandoned = False
        self.counted = False
        self.line: Line | None = None
        self.sides: dict[TaskFuture[Any], SharedByThreads] = {}
        self.thread: threading.Thread | None = None
        self._parked = threading.Lock()
        self._parked.acquire()
        self._asleep = False

    # -------------------------------------------------------------- parking; all but `park` with `LOCK` held

    def park(self) -> None:
        """Blocks until `look_again`; `_asleep` was set under the lock before. No signal is handled here."""
        self._parked.acquire()

    def look_again(self) -> None:
        """Something has changed for a worker that sleeps."""
        if self._asleep:
            self._asleep = False
            self._parked.release()

    def resume(self) -> None:
        """It has a place again, and goes on."""
        self.counted = True
        self.look_again()

    def is_asleep(self) -> bool:
        """Whether it waits for something to do, or for a run."""
        return self._asleep

    def waits(self) -> bool:
        """Whether it does nothing until something ends, or comes."""
        return self._asleep or self.frames.countdown is not None or bool(self.sides)

    def serves(self, dispatcher: PullingDispatcher) -> bool:
        """Whether runs of a runner may be run on this thread."""
        return dispatcher in self.helps

    # -------------------------------------------------------------- the loop

    def serve(self, work: Callable[[Worker], object] | None = None) -> None:
        """The body of the thread: takes runs until the pool stops.

        Args:
            work: it does this instead, and ends.
        """
        self.frames.thread = threading.get_ident()
        HERE.frames = self.frames
        HERE.block = self.block
        HERE.worker = self
        try:
            if work is None:
                self._take_all()
            else:
                work(self)
        except BaseException as error:
            self.backend.dispatcher.failed(error)
        finally:
            HERE.frames = None
            HERE.block = None
            HERE.worker = None
            self.backend.left(self)

    def _take_all(self) -> None:
        """Runs whatever is ready. Hot."""
        backend = self.backend
        scheduler = backend.dispatcher.scheduler
        slept = False
        while not (self.stopping or self.abandoned):
            # Most runs are had without the lock; see `Scheduler`.
            work: TaskFuture[Any] | Span | None = None
            if not (slept or scheduler.counting or backend.surplus):
                work = scheduler.pop()
            if work is None:
                with LOCK:
                    if slept and self in scheduler.idle:
                        scheduler.idle.remove(self)  # woken by something else than work
                    if self.is_over() or (backend.surplus and backend.retire()):
                        return
                    work = scheduler.take(self)
                    slept = work is None
                    if slept:
                        self._asleep = True
                if scheduler.effects:
                    backend.dispatcher.drain()
            if work is None:
                self.park()
            elif type(work) is TaskFuture:
                try:
                    self.run(work)
                except BaseException as error:  # there are others to run
                    dispatcher_of(work).crash(work, error)
            else:
                self.run_span(work)  # type: ignore[arg-type]
            work = None

    def is_over(self) -> bool:
        """Whether it is to end."""
        return self.stopping or self.abandoned

    def run(self, future: TaskFuture[Any], in_span: bool = False) -> None:
        """Runs a claimed run to the end of this attempt. Hot.

        Args:
            future: the run.
            in_span: whether it is an element of a span, whose place among the runner's it takes.
        """
        dispatcher: PullingDispatcher = future._dispatcher  # type: ignore[assignment]  # see `dispatcher_of`
        outcome: Outcome | None = None
        value: Any = None
        call: Call | None = None
        interrupted = False
        end_limit: EndLimit | None = None
        try:
            call = dispatcher.begin(future)
            if call.task.timeout_seconds is not None:
                dispatcher.start_limit(future, call)
                end_limit = partial(_end_limit, dispatcher, future)
            self.since = future._since
        except GoneError:
            pass
        except BaseException as error:
            outcome = not_begun(future, error)
        else:
            outcome, value, interrupted = attempt_here(
                self.frames, Frame(future), call, _interrupt_if_over, end_limit
            )
        scheduler = dispatcher.scheduler
        if outcome is None and not interrupted:
            scheduler.complete(future, value, time.time())
            if call is not None:
                # The call is in it: a cycle, which would keep arguments until it is collected.
                del call.context
        else:
            self._end(future, call, None if interrupted else outcome)
        if scheduler.counting and not in_span:
            with LOCK:
                scheduler.vacated(self)
        if scheduler.effects:
            dispatcher.drain()

    def _end(self, future: TaskFuture[Any], call: Call | None, outcome: Outcome | None) -> None:
        """Ends an attempt that did not just give a value; without an outcome it was interrupted."""
        detail = future._detail
        if detail is not None and detail.overdue and call is not None:
            outcome = overdue_outcome(call)  # stopped at its limit, with attempts left
        elif outcome is None:
            outcome = Outcome(CANCELLED, None)
        with LOCK:
            dispatcher_of(future).ended(future, outcome)
            if future in self.sides:
                self.sides[future].ended()
        if call is not None and future._phase == COMPLETED:
            del call.context  # as above

    def run_span(self, span: Span) -> None:
        """Runs a claimed range of a map. Hot."""
        record = span.record
        dispatcher = dispatcher_of(span)
        scheduler = dispatcher.scheduler
        outer, self.span = self.span, span
        if len(span) > 1:
            self.backend.span_taken()
        plain = record.task.is_plain
        futures, since = record.futures, record.since
        count = 0
        now = started = time.time()
        for index in span.indices:
            count += 1
            since[index] = self.since = now  # a short element begins when the one before it ended
            try:
                if plain and index not in futures:
                    now = self._run_element(record, index)
                else:
                    with LOCK:
                        future = record.materialize(index)
                        future._claim()
                    if future._phase < DONE:
                        self.run(future, in_span=True)
                    now = time.time()
            except BaseException as error:  # the elements behind it are to be run all the same
                dispatcher.crash(record.future(index), error)
                now = time.time()
            if self.abandoned:
                break
        with LOCK:
            self.span = outer
            scheduler.span_ended(self, span, count, started, now)
        if scheduler.effects:
            dispatcher.drain()

    def _run_element(self, record: MapRecord[Any], index: int) -> float:
        """Runs one element that, so far, is but a place in columns, and says when it ended. Hot."""
        call = record.call(index)
        outcome, value, interrupted = attempt_here(self.frames, Frame(call, record), call)
        now = time.time()
        if outcome is None and not interrupted:
            record.dispatcher.scheduler.element_completed(record, index, value, now)
            del call.context  # as above
            return now
        with LOCK:
            future = record.materialize(index)
            if future._call is None and future._phase < DONE:
                future._call = call
        self._end(future, call, None if interrupted else outcome)
        return now

    # -------------------------------------------------------------- waiting inside a run

    def running(self) -> list[TaskFuture[Any]]:
        """The runs on this thread's stack, innermost last; with `LOCK` held."""
        found = []
        for frame in list(self.frames.stack):
            run = frame.run
            if type(run) is Call and frame.record is not None:
                future = frame.record.materialize(run.number - frame.record.base)
                if future._phase < DONE:
                    future._call = run
                frame.run = run = future
            if type(run) is TaskFuture:
                found.append(run)
        return found

    def block(self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        """How a worker waits: untimed, it runs what it waits for; timed, or where there is nothing to run for it, it lends
        its place to a spare thread.
        """
        if Decision.awaited(wanted) and answered_soon(wanted):
            return True
        frames = self.frames
        frames.enter_shield()
        try:
            if deadline is None and not Decision.awaited(wanted):
                self.help(wanted, fail_fast, first)
                return True
            return self._wait_idly(wanted, deadline, fail_fast, first)
        finally:
            frames.leave_shield()

    def help(self, wanted: Wanted, fail_fast: bool = False, first: bool = False) -> None:
        """Waits, and meanwhile runs what is waited for, or what that needs.

        Raises:
            WaitCycle: a run on this stack would wait for itself.
        """
        waiter = Wakeup(fail_fast, first, self.look_again)
        with LOCK:
            waiter.watch(wanted)
            running = self.running()
            me = running[-1] if running else None
            line = self.line
            waits = me is not None and not waiter.woken
            if waits:
                self._begins_to_wait(me, wanted, until(None, fail_fast, first))
        try:
            while True:
                with LOCK:
                    if waiter.woken or self._interrupted():
                        return
                    if me is not None:  # first: what it waits for may need its place
                        dispatcher_of(me).scheduler.vacated(self)
                    work = wait_graph.claim_wanted(wanted, self, running)
                    self.has_found(work)
                if me is not None and dispatcher_of(me).scheduler.effects:
                    dispatcher_of(me).drain()
                if work is None:
                    self.park()
                else:
                    self.run_found(work)
                work = None
        finally:
            with LOCK:
                turn = self._goes_on(me, line) if waits else None
                if waiter.pending:
                    waiter.forget(wanted)
            if waits and turn is None:
                self._take_place(me, line)
            self._has_turn(me, turn)

    def has_found(self, work: TaskFuture[Any] | Span | None) -> None:
        """It has claimed this to run, or nothing, and then it sleeps; with `LOCK` held."""
        if work is None:
            self._asleep = True
        else:
            dispatcher_of(work).scheduler.occupied(self, work)

    def run_found(self, work: TaskFuture[Any] | Span) -> None:
        """Runs something that is waited for."""
        if len(self.frames.stack) >= DEEPEST:
            self._too_deep(work)
        elif isinstance(work, TaskFuture):
            try:
                self.run(work)
            except BaseException as error:  # who waits for it goes on
                dispatcher_of(work).crash(work, error)
        else:
            self.run_span(work)

    # The run that waits may share its place with threads that it has started. With `LOCK` held, but for `_has_turn`.

    def _begins_to_wait(self, me: TaskFuture[Any] | None, wanted: Wanted, until: int) -> None:
        assert me is not None  # only then is it known who waits
        wait_graph.blocked_on(me, wanted, until)
        side = self.sides.get(me)
        if side is not None:
            side.begin()

    def _goes_on(self, me: TaskFuture[Any] | None, line: Line | None) -> Decision | None:
        assert me is not None  # as above
        wait_graph.blocked_on(me, None)
        side = self.sides.get(me)
        return side.goes_on_itself(line) if side is not None else None

    def _has_turn(self, me: TaskFuture[Any] | None, turn: Decision | None) -> None:
        """Waits for it."""
        if me is not None and dispatcher_of(me).scheduler.effects:
            dispatcher_of(me).drain()
        if turn is not None:
            block_plainly(Countdown(), (turn,), None)

    def _interrupted(self) -> bool:
        """Whether the run that waits was interrupted, or there is none and the pool stops; with `LOCK` held."""
        stack = self.frames.stack
        return stack[-1].fired if stack else self.stopping

    def _take_place(self, me: TaskFuture[Any] | None, line: Line | None) -> None:
        """The run that waited goes on: it takes a place of its runner again, and one of its caps."""
        assert me is not None  # as above
        scheduler = dispatcher_of(me).scheduler
        if not scheduler.counting:
            return
        with LOCK:
            if self.counted or me in self.sides:  # which take it for all who share it
                return
            self.line = line
            self.counted = scheduler.occupy(self, line)
            self._asleep = not self.counted
        while not self.counted:
            self.park()
            with LOCK:  # what it has waited for may wake it, too
                if self.abandoned or me in self.sides:
                    return
                self._asleep = not self.counted

    def _too_deep(self, work: TaskFuture[Any] | Span) -> None:
        """The stack has no room to run what is waited for: that run fails."""
        with LOCK:
            if isinstance(work, TaskFuture):
                futures = [work]
            else:
                futures = [work.record.materialize(index) for index in work.indices]
                work.record.spans.remove(work)
            dispatcher = dispatcher_of(work)
            for future in futures:
                error = NestingTooDeep(run_name=future.name, depth=len(self.frames.stack))
                dispatcher.scheduler.settle(future, FAILED, error, time.time())
            dispatcher.scheduler.vacated(self)
        dispatcher.drain()

    def _wait_idly(
        self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool
    ) -> bool:
        countdown = Countdown(fail_fast, first)
        with LOCK:
            running = self.running()
            me = running[-1] if running else None
            line = self.line
            if me is not None:
                wait_graph.check_cycle(wanted, me)
                dispatcher_of(me).scheduler.count_places()
                self._begins_to_wait(me, wanted, until(deadline, fail_fast, first))
                dispatcher_of(me).scheduler.vacated(self)
            self.frames.countdown = countdown
            if self.frames.due(shielded=True):
                countdown.interrupt()
        backend = dispatcher_of(me).backend if me is not None else self.backend
        lent = backend.lend(sparingly=Decision.awaited(wanted))
        try:
            return block_plainly(countdown, wanted, deadline)
        finally:
            with LOCK:
                self.frames.countdown = None
                turn = self._goes_on(me, line) if me is not None else None
            if lent:
                backend.lend_back()
            if me is not None and turn is None:
                self._take_place(me, line)
            self._has_turn(me, turn)


def _end_limit(dispatcher: PullingDispatcher, future: TaskFuture[Any]) -> None:
    """The function of a run has ended.

    Raises:
        Interrupt: the run was stopped before.
    """
    if not dispatcher.end_limit(future):
        raise Interrupt


def _interrupt_if_over(future: TaskFuture[Any]) -> None:
    """What was stopped before it could be seen here does not begin.

    Raises:
        Interrupt: it was.
    """
    if future._phase >= DONE or (future._detail is not None and future._detail.overdue):
        raise Interrupt


def dispatcher_of(work: TaskFuture[Any] | Span) -> PullingDispatcher:
    """Whose work it is: a worker is given runs of runners like its own only."""
    owner = work._dispatcher if isinstance(work, TaskFuture) else work.record.dispatcher
    return cast("PullingDispatcher", owner)
