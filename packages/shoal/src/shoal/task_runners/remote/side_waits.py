"""Waits of threads that a run on a worker thread has started.

    a thread that the run has started ─waits─▶ driver ─batch of what it waits for─▶ the run's stand-in, one more worker thread

The worker thread itself is at the run, or sits in `Executor.__exit__`, which nobody can tell; so what the run's threads wait for
is run beside it, one after the other, whatever they are. So it is with what waits on a loop in the run's own thread. See
`shoal.futures.side_threads`.

May import `worker_thread` and what lies above it.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.calls import Call
from shoal.context import LOCK
from shoal.engine.interrupt import shielded
from shoal.engine.services import TIMERS
from shoal.exceptions import CancelledRun
from shoal.futures.awaiting import waker
from shoal.futures.blocking import Countdown, block_plainly
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.worker_thread import WorkerThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.futures.blocking import Wait, Wanted
    from shoal.specs import TaskCap
    from shoal.task_runners.remote.batches import Batch

__all__ = ["RunHere", "run_around"]


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


def run_around(
    worker_threads: Sequence[WorkerThread], number: int, *, certain: bool
) -> RunHere | None:
    """A run as a thread sees it that it has started; `None` if none of these threads is at that run.

    Args:
        worker_threads: all that there are.
        number: of the run.
        certain: whether the run has started it.
    """
    with LOCK:
        for host in worker_threads:
            for frame in host.frames.stack:
                if type(frame.run) is Call and frame.run.number == number:
                    return RunHere(host, frame.run, certain=certain)
    return None


class RunHere:
    """The `RunAround` of a run on a worker thread.

    Args:
        host: the worker thread that is at the run.
        call: the run.
        certain: whether it has started the thread that waits.
    """

    def __init__(self, host: WorkerThread, call: Call, *, certain: bool) -> None:
        self._host = host
        self._call = call
        self._certain = certain

    def block(self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        """See `RunAround`."""
        thread = SideThread(self._host, self._call, certain=self._certain)
        if not thread.begin():
            return block_plainly(Countdown(fail_fast, first), wanted, deadline)
        try:
            return thread.block(wanted, deadline, fail_fast, first)
        finally:
            thread.end()

    def place(self) -> _Place:
        """See `RunAround`."""
        return _Place(partial(_Awaiting, self._host, self._call, certain=self._certain))


class _Awaiting(SideThread):
    """One wait of a coroutine on a loop in a thread of a run, perhaps the run's own; a thread of its own otherwise.

    Args:
        host: the worker thread that is at the run.
        call: the run.
        wait: for what.
        wake: ends the wait early.
        certain: see `SideThread`.
    """

    def __init__(
        self,
        host: WorkerThread,
        call: Call,
        wait: Wait,
        wake: Callable[[], None],
        *,
        certain: bool,
    ) -> None:
        super().__init__(host, call, certain=certain)
        self._wait_for = wait
        self._wake = wake
        self._telling = threading.Lock()  # none is taken within it that may be held around it
        self._number = self.home.remote.new_wait()
        self._is_over = False

    def begins(self) -> bool:
        """The coroutine is about to wait; False if the run has just ended."""
        if not self.begin():
            return False
        home = self.home
        home.flush()
        home.hand_back_all(self.base)
        home.remote.untold.watchers.append(self)
        with self._telling:
            self._tell()
        return True

    def _tell(self) -> None:
        self.home.waiting[self._number] = self
        self.tell(self._number, self._wait_for.wanted, self._wait_for.until, self)
        self.give(None)  # what it is to be woken for may have come before

    def look_again(self) -> None:
        """There is more to tell: runs of other runners that it waits for go on, or wait in turn. With `LOCK` or without."""
        TIMERS.after(0, self.home.guarded(self._tell_again))

    def _tell_again(self) -> None:
        with self._telling:
            if not self._is_over:
                self._resumed()
                self._number = self.home.remote.new_wait()
                self._tell()

    def _resumed(self) -> None:
        del self.home.waiting[self._number]
        self.home.channel.send(messages.RESUMED, dumps(self._number))

    def give(self, batch: Batch | None) -> None:
        """See `WorkerThread`."""
        home = self.home
        if batch is not None:
            super().give(batch)
        elif (
            self._stopped
            or home.gone
            or self._number in home.placed
            or self._number in home.remote.refusals
        ):
            self._wake()

    async def ends(self) -> None:
        """It goes on, once there is a place for its run.

        Raises:
            WaitCycle: it would have waited for its own run.
            CancelledRun: the run is stopped.
        """
        try:
            with self._telling:
                self._is_over = True
            refusal = self.home.remote.refusals.pop(self._number, None)
            if self.is_capped(self._call):
                await self._placed()
        finally:
            with shielded():
                self.leave()
        if refusal is not None:
            raise refusal
        if self.home.gone:
            raise ConnectionError("the driver has gone")
        self.woken(None)

    async def _placed(self) -> None:
        home = self.home
        event, self._wake = waker()
        with shielded():
            task_caps = self.caps_of(self._call)
            home.channel.send(messages.GO_ON, dumps((self._number, task_caps)))
        while not (self._number in home.placed or home.gone):
            await event.wait()
            event, self._wake = waker()
        home.placed.discard(self._number)

    def leave(self) -> None:
        """It waits no more."""
        with self._telling:
            self._is_over = True
            self._resumed()
        self.home.remote.untold.watchers.remove(self)
        self.end()


class _Place:
    """What such a coroutine gives up. See `Place`.

    Args:
        make: one of its waits, by what it waits for and what wakes it.
    """

    def __init__(self, make: Callable[[Wait, Callable[[], None]], _Awaiting]) -> None:
        self._make = make
        self._waits: list[tuple[Wait, _Awaiting]] = []

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """See `Place`."""
        awaiting = self._make(wait, wake)
        begun = False
        try:
            with shielded():
                begun = awaiting.begins()
        except BaseException:  # it is interrupted
            if begun:
                awaiting.leave()
            raise
        if begun:
            self._waits.append((wait, awaiting))

    async def take_again(self, wait: Wait) -> None:
        """See `Place`."""
        for at, (begun, awaiting) in enumerate(self._waits):
            if begun is wait:
                del self._waits[at]
                await awaiting.ends()
                return
