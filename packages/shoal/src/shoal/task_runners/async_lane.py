"""Async tasks of a runner whose workers are in this process: coroutines on the service loop, taken in bulk.

A coroutine needs no thread. Where the runner has a limit, it holds one of its places while it runs, and gives it up
while it awaits other runs. All but `wake`, `interrupt`, `running` and `stop` happen on the loop's thread.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.calls import CANCELLED, COMPLETED, Outcome
from shoal.context import LOCK
from shoal.engine.loops import SERVICE_LOOP, under_asyncio
from shoal.engine.task_run import attempt_async, overdue_outcome_async, raised
from shoal.futures.awaiting import PLACES, had, waker
from shoal.futures.blocking import NOTHING
from shoal.scheduling import wait_graph
from shoal.scheduling.dispatchers import GoneError
from shoal.task_runners.packing import not_begun

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from shoal.calls import Call
    from shoal.engine.task_run import EndLimit
    from shoal.futures import TaskFuture
    from shoal.futures.blocking import Wait
    from shoal.scheduling.dispatchers import PullingDispatcher

__all__ = ["AsyncLane"]

#: Runs taken in one step of the loop, so that it stays responsive.
BULK = 500


class AsyncLane:
    """The coroutines of one entered runner."""

    def __init__(self, dispatcher: PullingDispatcher) -> None:
        self.dispatcher = dispatcher
        self._tasks: dict[TaskFuture[Any], asyncio.Task[None]] = {}
        self._given_up: set[TaskFuture[Any]] = set()
        self._scheduled = False
        self._take_guarded = dispatcher.guarded(self._take)
        self._idle = threading.Event()
        self._idle.set()

    def wake(self) -> None:
        """There are runs to take."""
        with LOCK:
            if self._scheduled:
                return
            self._scheduled = True
        SERVICE_LOOP.get().call_soon_threadsafe(self._take_guarded)

    def _take(self) -> None:
        loop = SERVICE_LOOP.get()
        with LOCK:
            self._scheduled = False
            runs = self.dispatcher.scheduler.take_async(BULK)
            if runs:
                self._idle.clear()
        for future in runs:
            try:
                call = self.dispatcher.begin(future)
            except GoneError:
                self._end(future, Outcome(CANCELLED, None))
                continue
            except BaseException as error:
                self._end(future, not_begun(future, error))
                continue
            context = call.context if call.attempt == 1 else call.context.copy()
            task = loop.create_task(self._run(future, call), context=under_asyncio(context))
            self._tasks[future] = task
            task.add_done_callback(partial(self._never_began, future))
        if len(runs) == BULK:
            with LOCK:
                self._scheduled = True
            loop.call_soon(self._take_guarded)

    def _never_began(self, future: TaskFuture[Any], task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step says nothing: user code may cancel all that it finds."""
        if self._tasks.get(future) is task:
            self._end(future, Outcome(CANCELLED, None))

    async def _run(self, future: TaskFuture[Any], call: Call) -> None:
        PLACES[call.number] = place = _Place(self, future)
        try:
            outcome = await self._outcome(future, call)
        except BaseException as error:
            outcome = raised(call, error)
        PLACES.pop(call.number, None)
        try:
            self._end(future, outcome, place)
        except BaseException as error:
            self.dispatcher.crash(future, error)
        if future._phase == COMPLETED:
            del call.context  # see `Worker.run`

    async def _outcome(self, future: TaskFuture[Any], call: Call) -> Outcome:
        import asyncio

        end_limit: EndLimit | None = None
        if call.task.timeout_seconds is not None:

            def end_limit() -> None:
                if not self.dispatcher.end_limit(future):
                    raise asyncio.CancelledError

        try:
            if end_limit is not None:
                # Not sooner: others of the bulk may have come before.
                self.dispatcher.start_limit(future, call)
            return await attempt_async(call, end_limit)
        except asyncio.CancelledError:
            detail = future._detail
            if detail is not None and detail.overdue:
                return await overdue_outcome_async(call)
            return Outcome(CANCELLED, None)

    def _end(self, future: TaskFuture[Any], outcome: Outcome, place: _Place | None = None) -> None:
        dispatcher = self.dispatcher
        with LOCK:
            self._tasks.pop(future, None)
            given_up = future in self._given_up
            self._given_up.discard(future)
            try:
                dispatcher.ended(future, outcome)
            finally:
                # A generator that it has begun may have its place still.
                has_left = place is not None and place.leave()
                if not given_up and not has_left:
                    dispatcher.scheduler.vacate(dispatcher.scheduler.line_of(future))
                if not self._tasks:
                    self._idle.set()
        dispatcher.drain()

    # ------------------------------------------------------------------ from other threads, with `LOCK` held

    def running(self) -> list[TaskFuture[Any]]:
        """Runs that are executing."""
        return list(self._tasks)

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """Throws a cancellation into a coroutine."""
        task = self._tasks.get(run)
        if task is not None:
            SERVICE_LOOP.get().call_soon_threadsafe(task.cancel)

    def give_up(self, run: TaskFuture[Any]) -> bool:
        """Lets go of a coroutine that takes no notice of its cancellation; False if it is not here."""
        task = self._tasks.pop(run, None)
        if task is None:
            return False
        from shoal.limits.holding import give_up  # seldom needed

        give_up(task)
        self._given_up.add(run)
        if not self._tasks:
            self._idle.set()
        place = PLACES.get(run._number)
        if not (isinstance(place, _Place) and place.leave()):
            self.dispatcher.scheduler.vacate(self.dispatcher.scheduler.line_of(run))
        return True

    def stop(self) -> None:
        """Cancels every coroutine that is left."""
        for future in list(self._tasks):
            self.interrupt(future)

    def join(self, timeout: float) -> bool:
        """Waits, without the lock, until no coroutine is left; returns whether it came to that."""
        return self._idle.wait(timeout)


class _Place:
    """One of the runner's places, held by a coroutine while it does not wait for runs."""

    __slots__ = ("_holds", "_lane", "_run", "_waits", "_wake", "_wanted", "_wanting", "has_left")

    def __init__(self, lane: AsyncLane, run: TaskFuture[Any]) -> None:
        self._lane = lane
        self._run = run
        self._waits = 0
        self._wanting = 0  # those of its waits that are for something
        self._wanted: list[Any] = []  # of all of these
        self._holds = True
        self.has_left = False
        self._wake: Callable[[], None] | None = None

    def leave(self) -> bool:
        """Its run is given up, and takes no place any more; whether it has none. With `LOCK` held."""
        self.has_left = True
        if not self._holds:
            self._lane.dispatcher.scheduler.withdraw(self)
            self.resume()
        return not self._holds

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """The coroutine is about to wait.

        Raises:
            WaitCycle: for what waits for it.
        """
        scheduler = self._lane.dispatcher.scheduler
        with LOCK:
            wait_graph.check_cycle(wait.wanted, self._run)
            self._waits += 1
            if wait.until != NOTHING:
                until = wait.until
                if self._wanting:
                    until = max(until, self._run._details().waits_until)
                self._wanting += 1
                self._wanted.extend(wait.wanted)
                wait_graph.blocked_on(self._run, self._wanted, until)
            if self._waits == 1 and not self.has_left:
                if self._holds:
                    self._holds = False
                    scheduler.vacate(scheduler.line_of(self._run))
                else:  # it would have gone on, and waits again
                    scheduler.withdraw(self)
                    self._let_go_on()
        self._lane.dispatcher.drain()

    async def take_again(self, wait: Wait) -> None:
        """The coroutine goes on, or its wait was one of several."""
        scheduler = self._lane.dispatcher.scheduler
        with LOCK:
            self._waits -= 1
            if wait.until != NOTHING:
                self._wanting -= 1
                if not self._wanting:
                    self._wanted = []
                    wait_graph.blocked_on(self._run, None)
            if self._waits:
                return
            if self.has_left or scheduler.occupy(self, scheduler.line_of(self._run)):
                self._holds = not self.has_left
                return
            event, self._wake = waker()
        await had(event)

    def resume(self) -> None:
        """It has a place again, or needs none; with `LOCK` held, from any thread."""
        self._holds = not self.has_left
        self._let_go_on()

    def _let_go_on(self) -> None:
        if self._wake is not None:
            self._wake()
