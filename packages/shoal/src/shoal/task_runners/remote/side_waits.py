"""Waits of threads that a run on a worker thread has started.

    a thread that the run has started ─waits─▶ driver ─batch of what it waits for─▶ the run's stand-in, one more worker thread

The worker thread itself is at the run, or sits in `Executor.__exit__`, which nobody can tell; so what the run's threads wait for
is run beside it, one after the other, whatever they are. See `shoal.futures.side_threads`.

May import `worker_thread` and what lies above it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shoal.calls import Call
from shoal.context import LOCK
from shoal.exceptions import CancelledRun
from shoal.futures.blocking import Countdown, block_plainly
from shoal.task_runners.remote.worker_thread import WorkerThread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.futures.blocking import Wanted
    from shoal.futures.side_threads import Blocker
    from shoal.specs import TaskCap
    from shoal.task_runners.remote.batches import Batch

__all__ = ["blocker_beside"]


class StandIn(WorkerThread):
    """Runs what the threads of one run wait for; its thread begins with the first batch, and ends when it is `dismissed`."""

    def __init__(self, host: WorkerThread) -> None:
        super().__init__(host.home)
        self._begun = self._dismissed = False

    def give(self, batch: Batch | None) -> None:
        """See `WorkerThread`; a batch with `LOCK` held."""
        if batch is not None:
            batch.worker_thread = self
        self.queue.put(batch)
        if batch is not None and not self._begun:
            self._begun = True
            self.home.worker_threads.append(self)
            serve = self.home.guarded(self._serve)
            threading.Thread(target=serve, name="shoal-stand-in", daemon=True).start()

    def dismissed(self) -> None:
        """Nobody waits any more: it does what it has, and ends. With `LOCK` held."""
        self._dismissed = True
        self.queue.put(None)

    def _serve(self) -> None:
        self.frames.thread = threading.get_ident()
        self.enter()
        try:
            while True:
                batch = self.queue.get()
                if batch is not None:
                    self.run(batch)
                elif self._dismissed or self.home.gone:
                    return
                # else it was to wake a wait that has ended since
                del batch
        finally:
            self.leave()
            with LOCK:
                self.home.worker_threads.remove(self)


class SideWaits:
    """The waits of the threads of one run. With `LOCK` held.

    Args:
        host: the worker thread that is at the run.

    Attributes:
        threads: those that wait.
        stand_in: runs what they wait for.
    """

    def __init__(self, host: WorkerThread) -> None:
        self.threads: list[SideThread] = []
        self.stand_in = StandIn(host)
        self._stopped = False

    def begins(self, thread: SideThread) -> None:
        """A thread is about to wait."""
        self.threads.append(thread)
        if self._stopped:
            thread.stop()

    def stop(self) -> None:
        """The run is interrupted: what it has started waits no longer, so that it can end."""
        self._stopped = True
        for thread in self.threads:
            thread.stop()


class SideThread(WorkerThread):
    """A thread that a run has started, while it waits. It runs nothing; a thread of the run's own otherwise.

    Args:
        host: the worker thread that is at the run.
        call: the run.
        certain: whether the run has started it; if not, only the worker is lent.
    """

    def __init__(self, host: WorkerThread, call: Call, *, certain: bool) -> None:
        super().__init__(host.home)
        self.base = host
        self._call = call
        self._certain = certain
        self._stopped = False
        self._side: SideWaits

    def begin(self) -> bool:
        """It is about to wait; False if the run has just ended."""
        with LOCK:
            if not any(frame.run is self._call for frame in self.base.frames.stack):
                return False
            sides: dict[int, Any] = self.base.sides
            self._side = sides.setdefault(self._call.number, SideWaits(self.base))
            self._side.begins(self)
            self.home.worker_threads.append(self)
        return True

    def end(self) -> None:
        """It has waited."""
        with LOCK:
            self.home.worker_threads.remove(self)
            self._side.threads.remove(self)
            if not self._side.threads:
                del self.base.sides[self._call.number]
                self._side.stand_in.dismissed()

    def stop(self) -> None:
        """The run is interrupted; with `LOCK` held."""
        self._stopped = self._certain
        self.give(None)

    def give(self, batch: Batch | None) -> None:
        """See `WorkerThread`: what is to be run is for the stand-in."""
        if batch is None:
            self.queue.put(None)
        else:
            self._side.stand_in.give(batch)

    def woken(self, left: float | None) -> None:
        """See `WorkerThread`.

        Raises:
            CancelledRun: the run is stopped.
        """
        if self._stopped:
            raise CancelledRun(run_name=self._call.run_name())

    def innermost(self) -> Call | None:
        """See `WorkerThread`: the run that has started it."""
        return self._call

    def is_capped(self, call: Call) -> bool:
        """See `WorkerThread`."""
        return self.base.is_capped(call)

    def caps_of(self, call: Call) -> tuple[TaskCap, ...]:
        """See `WorkerThread`."""
        return self.base.caps_of(call)

    def wait_for_place(self, wait: int, task_caps: tuple[TaskCap, ...]) -> None:
        """See `WorkerThread`: also if the run is stopped."""
        self._stopped = False
        super().wait_for_place(wait, task_caps)

    def tell(self, wait: int, wanted: Wanted, until: int, watcher: Any) -> None:
        """See `WorkerThread`."""
        at: tuple[int, int | None] | None = self.home.batch_of(self._call.number)
        if at is not None and not self._certain:
            at = at[0], None
        self.home.remote.tell_waiting(
            wait, None, wanted, until=until, at=at, watcher=watcher, beside=True
        )


def blocker_beside(
    worker_threads: Sequence[WorkerThread], number: int, *, certain: bool
) -> Blocker | None:
    """How a thread waits that a run has started; `None` if none of these threads is at that run.

    Args:
        worker_threads: all that there are.
        number: of the run.
        certain: whether the run has started it.
    """
    with LOCK:
        for host in worker_threads:
            for frame in host.frames.stack:
                if type(frame.run) is Call and frame.run.number == number:
                    return _blocker(host, frame.run, certain=certain)
    return None


def _blocker(host: WorkerThread, call: Call, *, certain: bool) -> Blocker:
    def block(wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        thread = SideThread(host, call, certain=certain)
        if not thread.begin():
            return block_plainly(Countdown(fail_fast, first), wanted, deadline)
        try:
            return thread.block(wanted, deadline, fail_fast, first)
        finally:
            thread.end()

    return block
