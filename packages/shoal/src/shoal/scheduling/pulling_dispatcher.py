"""The dispatcher for workers of this process, which ask the scheduler for runs themselves.

May import `dispatcher`, `pulling` and what lies above them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from shoal.calls import DONE, WAITING, Call, Outcome
from shoal.context import LOCK
from shoal.engine import inputs
from shoal.engine.inputs import value_of
from shoal.safely import in_words
from shoal.scheduling import effects as effects_of
from shoal.scheduling.dispatcher import GRACE, Dispatcher
from shoal.scheduling.pulling import PullingScheduler

if TYPE_CHECKING:
    from shoal.futures import TaskFuture
    from shoal.futures.blocking import Wanted
    from shoal.futures.side_threads import RunAround
    from shoal.scheduling.backend import PullingBackend
    from shoal.scheduling.observed import RunnerObserver

__all__ = ["GoneError", "PullingDispatcher"]


class GoneError(Exception):
    """A claimed run was cancelled before it began."""


class PullingDispatcher(Dispatcher[PullingScheduler, "PullingBackend"]):
    """For workers of this process.

    Args:
        backend: the workers.
        limit: the most runs at once, or `None`.
        runner_name: for messages.
        observer: is told of its runs.
    """

    def __init__(
        self,
        backend: PullingBackend,
        limit: int | None,
        runner_name: str,
        observer: RunnerObserver | None = None,
    ) -> None:
        if observer is None:
            scheduler = PullingScheduler(backend.capabilities, limit)
        else:
            from shoal.scheduling.observed import ObservedPullingScheduler

            scheduler = ObservedPullingScheduler(backend.capabilities, limit, observer)
        super().__init__(scheduler, backend, runner_name)

    def cap_all(self, most: int) -> None:
        """See `Intake`."""
        super().cap_all(most)
        self.scheduler.leave_no_shortcut()

    # ------------------------------------------------------------------ what workers ask

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
            call.args, call.kwargs = inputs.substitute(call.args, call.kwargs, value_of)
            detail.upstreams = ()  # filled in once, for all attempts
        return call

    def start_limit(self, future: TaskFuture[Any], call: Call) -> None:
        """Starts an attempt's time limit; the worker calls it when the function comes next, if the task has one."""
        limit = call.task.timeout_seconds
        assert limit is not None  # only then is this called
        with LOCK:
            if future._phase < DONE:
                self._start_time_limit(future, call.attempt, limit)

    def end_limit(self, future: TaskFuture[Any]) -> bool:
        """Ends an attempt's time limit, as its function has ended; whether nobody has stopped the run before."""
        with LOCK:
            detail = future._details()
            detail.cancel_timer()
            return future._phase < DONE and not detail.overdue

    def ended(self, future: TaskFuture[Any], outcome: Outcome) -> None:
        """An attempt has ended; with `LOCK` held."""
        if outcome.phase == WAITING and future._phase < DONE:
            future._details().code_ended = True
            self._wait_for_returned(future, outcome.value)
        else:
            self.scheduler.ended(future, outcome, time.time())

    def run_around(self, number: int, *, certain: bool) -> RunAround | None:
        """See `Answers`."""
        return self.backend.run_around(number, certain=certain)

    def help_out(self, wanted: Wanted) -> None:
        """See `Dispatcher`."""
        self.backend.help_out(wanted)

    def failed(self, error: BaseException) -> None:
        """See `BackendEvents`."""
        # Of a run that is submitted without the lock nobody would know.
        self.close_for(f"it has failed: {in_words(error)}")
        super().failed(error)

    # ------------------------------------------------------------------ effects

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
        else:
            super()._perform(effect)

    def _has_begun(self, future: TaskFuture[Any]) -> bool:
        return False  # it says so itself

    def _stop(self, future: TaskFuture[Any]) -> None:
        self.backend.interrupt(future)

    def _running(self) -> list[TaskFuture[Any]]:
        return self.backend.running()

    def _see_it_stop(self, future: TaskFuture[Any], attempt: int | None) -> None:
        self.after(GRACE / 4, lambda: self._insist(future, attempt, 3), future)

    def _insist(self, future: TaskFuture[Any], attempt: int | None, more: int) -> None:
        """Interrupts again what may still run of an attempt, and in the end gives it up."""
        call = future._call
        if call is not None and call.attempt != attempt:
            return
        if more == 0:
            self.backend.give_up(future)
            return
        with LOCK:
            running = future in self._running()
            if running:
                self.backend.interrupt(future)
        if running:
            self.after(GRACE / 4, lambda: self._insist(future, attempt, more - 1), future)
