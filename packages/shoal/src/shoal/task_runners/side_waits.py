"""Waits of threads that a run on a worker of this process has started.

    a thread that the run has started ─▶ RunHere.block ─▶ the place of its worker is lent
                                             │
                                             └─▶ a stand-in: one more worker, which runs what these threads wait for, or
                                                 what that needs, and nothing else, as the run's own thread would if it waited

One stand-in a run, however many of its threads wait, so that a run never has more than one other at work for it. The run's
own thread may wait meanwhile, too; the place is taken again when the last of these waits has ended. Threads that a run has
left behind wait plainly once it has ended. What waits on a loop in the run's own thread does it in the same way.

May import `workers` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.context import LOCK
from shoal.engine.interrupt import shielded
from shoal.exceptions import CancelledRun
from shoal.futures.awaiting import waker
from shoal.futures.blocking import Countdown, Decision, Wakeup, block_plainly
from shoal.futures.places import LentPlace
from shoal.scheduling import wait_graph
from shoal.task_runners.workers import dispatcher_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.engine.interrupt import Frame
    from shoal.futures import TaskFuture
    from shoal.futures.blocking import Wait, Wanted
    from shoal.scheduling.caps import Line
    from shoal.task_runners.workers import Worker

__all__ = ["RunHere", "SideWaits"]


class SideWaits(LentPlace):
    """What the threads of one attempt wait for. With `LOCK` held where nothing else is said.

    Args:
        worker: that executes the run.
        run: the run.
        frame: its frame on the worker's stack.

    Attributes:
        line: under whose caps the place is.
        stand_in: the worker that runs what they wait for, if there is one.
    """

    __slots__ = (
        "_dispatcher",
        "_frame",
        "_run",
        "_scheduler",
        "_stopped",
        "_waits",
        "_worker",
        "line",
        "stand_in",
    )

    def __init__(self, worker: Worker, run: TaskFuture[Any], frame: Frame) -> None:
        is_innermost = worker.frames.stack[-1:] == [frame]
        waits_itself = not is_innermost or bool(run._details().waits_on)
        super().__init__(holds=not waits_itself)
        self._worker = worker
        self._run = run
        self._frame = frame
        self._dispatcher = dispatcher_of(run)
        self._scheduler = self._dispatcher.scheduler
        self._waits: dict[Countdown, tuple[Wanted, bool]] = {}
        self._stopped = False
        self.line: Line | None = None
        self.stand_in: Worker | None = None
        worker.sides[run] = self
        if (
            not worker.counted
        ):  # the run may be about to take its place again: it does so with these
            self._scheduler.withdraw(worker)
            worker.look_again()
        run.watch(self.ended)
        if worker.span is not None:
            self._scheduler.take_back(
                worker.span
            )  # what stands behind it would come without the place

    # -------------------------------------------------------------- the place

    def free(self) -> None:
        """See `LentPlace`."""
        self.line = self._worker.line
        self._scheduler.vacated(self._worker)

    def take(self) -> bool:
        """See `LentPlace`."""
        scheduler, worker = self._scheduler, self._worker
        if worker.counted or not scheduler.counting or self._is_over():
            return True
        taken: bool = scheduler.occupy(self, self.line)
        if taken:
            self._is_counted()
        return taken

    def withdraw(self) -> None:
        """See `LentPlace`."""
        self._scheduler.withdraw(self)

    def resume(self) -> None:
        """See `LentPlace`."""
        if self._is_over():  # it has just ended, and nobody would give it back
            line = self.line
            self._dispatcher.after(0, lambda: self._vacate(line))
        else:
            self._is_counted()
        super().resume()
        if not self.waits:
            self._forget()

    def _is_counted(self) -> None:
        self._worker.counted = True
        self._worker.line = self.line

    def _vacate(self, line: Line | None) -> None:
        with LOCK:
            self._scheduler.vacate(line)
        self._dispatcher.drain()

    # -------------------------------------------------------------- the run's own thread

    def goes_on_itself(self, line: Line | None) -> Decision | None:
        """See `SharedByThreads`."""
        if self.line is None:
            self.line = line
        return self._went_on()

    # -------------------------------------------------------------- the run ends

    def ended(self, run: TaskFuture[Any] | None = None) -> None:
        """The run, or its attempt, has ended; its code may go on where it was stopped. With `LOCK` or without."""
        with LOCK:
            if not self._is_over():
                return
            self.left = True
            if not self.holds:
                self._give_back()  # nobody is to be given it any more
            self._forget()

    def stop(self) -> None:
        """The run is interrupted: what it has started waits no longer, so that it can end."""
        self._stopped = True
        for countdown, (_, certain) in self._waits.items():
            if certain:
                countdown.interrupt()

    def _is_over(self) -> bool:
        return self._frame not in self._worker.frames.stack

    def _forget(self) -> None:
        """Nobody waits any more, or for no run."""
        if self._worker.sides.get(self._run) is self:
            del self._worker.sides[self._run]
            self._run.unwatch(self.ended)
            wait_graph.waits_beside(self._run, None)
        if self.stand_in is not None:
            self.stand_in.look_again()

    # -------------------------------------------------------------- the threads

    def wait(self, countdown: Countdown, wanted: Wanted, deadline: float | None) -> bool:
        """A thread waits for runs; it has begun to. Without `LOCK`."""
        try:
            self.has_begun()
            woken = block_plainly(countdown, wanted, deadline)
        finally:
            turn = self.has_waited(countdown)
            if turn is not None:
                block_plainly(Countdown(), (turn,), None)
        self.raise_if_stopped(countdown)
        return woken

    def has_begun(self) -> None:
        """A wait has: others may go on. Without `LOCK`."""
        self._dispatcher.drain()

    def has_waited(self, countdown: Countdown) -> Decision | None:
        """A wait is over; what is decided once it may go on, `None` if it may at once. Without `LOCK`."""
        with LOCK:
            del self._waits[countdown]
            self._tell()
            turn = self._went_on()
        self._dispatcher.drain()
        return turn

    def raise_if_stopped(self, countdown: Countdown) -> None:
        """What has waited does not go on if the run was interrupted.

        Raises:
            CancelledRun: it was.
        """
        if countdown.interrupted:
            raise CancelledRun(run_name=self._run.name)

    def begin_to_wait(self, countdown: Countdown, wanted: Wanted, *, certain: bool) -> None:
        """A thread is about to wait; if it is not certain whose it is, the wait is nobody's.

        Raises:
            WaitCycle: for what waits for the run.
        """
        if certain:
            wait_graph.check_cycle(wanted, self._run)
        self._scheduler.count_places()
        self._waits[countdown] = wanted, certain
        if self._stopped and certain:
            countdown.interrupt()
        self.begin()
        self._tell()
        if self.stand_in is not None:
            self.stand_in.look_again()
        elif wanted and not Decision.awaited(wanted):
            self.stand_in = self._worker.backend.stand_in(self)

    def _went_on(self) -> Decision | None:
        turn = self.end()
        if not self.waits and turn is None:
            self._forget()
        return turn

    def _tell(self) -> None:
        if not self.left:
            wait_graph.waits_beside(self._run, self._wanted(certain=True))

    def _wanted(self, *, certain: bool = False) -> list[Any]:
        """What all of them wait for; `certain`: only what it is certain that the run's own threads do."""
        return [
            item for wanted, its in self._waits.values() if its or not certain for item in wanted
        ]

    def serve(self, stand_in: Worker) -> None:
        """What the stand-in does until nobody waits any more, or for no run. Without `LOCK`."""
        while True:
            with LOCK:
                self._scheduler.vacated(stand_in)
                if stand_in.is_over() or self.left or not self._waits:
                    self.stand_in = None
                    return
                work = wait_graph.claim_wanted(self._wanted(), stand_in, ())
                stand_in.has_found(work)
            self._dispatcher.drain()
            if work is None:
                stand_in.park()
            else:
                stand_in.run_found(work)
            work = None


class RunHere:
    """The `RunAround` of a run on a worker of this process.

    Args:
        worker: that executes the run.
        run: the run.
        frame: its frame on the worker's stack.
        certain: whether it has started the thread that waits.
    """

    def __init__(
        self, worker: Worker, run: TaskFuture[Any], frame: Frame, *, certain: bool
    ) -> None:
        self._worker = worker
        self._run = run
        self._frame = frame
        self._certain = certain

    def block(self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        """See `RunAround`."""
        countdown = Countdown(fail_fast, first)
        side = self.begins_to_wait(countdown, wanted)
        if side is None:
            return block_plainly(countdown, wanted, deadline)
        return side.wait(countdown, wanted, deadline)

    def place(self) -> _Place:
        """See `RunAround`."""
        return _Place(self)

    def begins_to_wait(self, countdown: Countdown, wanted: Wanted) -> SideWaits | None:
        """What the waits of the run are, one more now; `None` if it has just ended.

        Raises:
            WaitCycle: for what waits for the run.
        """
        with LOCK:
            known: Any = self._worker.sides.get(self._run)
            side: SideWaits | None = known
            if side is None and self._frame in self._worker.frames.stack:
                side = SideWaits(self._worker, self._run, self._frame)
            if side is not None:
                side.begin_to_wait(countdown, wanted, certain=self._certain)
        return side


class _Place:
    """What a coroutine gives up that runs on a loop in a thread of a run, perhaps the run's own. See `Place`."""

    def __init__(self, run: RunHere) -> None:
        self._run = run
        self._waits: list[tuple[Wait, Countdown, SideWaits | None]] = []

    def give_up(self, wait: Wait, wake: Callable[[], None]) -> None:
        """See `Place`."""
        with shielded():
            countdown = Wakeup(False, False, wake)
            side = self._run.begins_to_wait(countdown, wait.wanted)
            self._waits.append((wait, countdown, side))
            if side is not None:
                side.has_begun()

    async def take_again(self, wait: Wait) -> None:
        """See `Place`.

        Raises:
            CancelledRun: the run is stopped.
        """
        with shielded():
            at = next(at for at, begun in enumerate(self._waits) if begun[0] is wait)
            _, countdown, side = self._waits.pop(at)
            turn = side.has_waited(countdown) if side is not None else None
        if turn is not None:
            event, wake = waker()
            with LOCK:
                decided = not turn.watch(lambda _: wake())
            if not decided:
                await event.wait()
        if side is not None:
            side.raise_if_stopped(countdown)
