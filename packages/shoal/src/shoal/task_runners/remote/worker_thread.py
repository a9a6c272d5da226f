"""A worker thread: runs batches, and waits.

A run that waits does not leave its worker_thread: what it waits for is sent there, and runs on top of it meanwhile. The main
thread of a process that is there for runs alone is such a thread, too: a signal gets it out of system calls, so that a
run which sleeps is stopped at once. May import `worker` and what lies above it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from shoal.calls import CANCELLED, Call, Outcome
from shoal.context import HERE, LOCK
from shoal.engine.interrupt import Frame, Frames, Interrupt, answered_soon
from shoal.engine.services import TIMERS
from shoal.engine.task_run import attempt_here, overdue_outcome
from shoal.futures.blocking import Decision, Wakeup, until
from shoal.serialization import dumps
from shoal.task_runners.remote import messages, parcels
from shoal.task_runners.remote.batches import BEGUN, Batch
from shoal.task_runners.remote.parcels import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.engine.task_run import EndLimit
    from shoal.futures.blocking import Wanted
    from shoal.specs import TaskCap
    from shoal.task_runners.remote.worker import RemoteWorker

__all__ = ["MainThread", "WorkerThread"]

#: Seconds after which an outcome is reported at the latest, however long its batch: reports of one become rarer.
REPORTED_WITHIN = 0.05

#: How deep runs may run what they wait for on one stack.
DEEPEST = 80


class _Sides(Protocol):
    """What threads of a run wait for that it has started."""

    def stop(self) -> None:
        """The run is interrupted; with `LOCK` held."""


class WorkerThread:
    """A thread that runs batches.

    Args:
        home: the worker that it belongs to.

    Attributes:
        frames: of the runs on its stack.
        queue: batches for it; `None` to have it look at what has changed.
        sides: by run that it is at, what threads wait for that the run has started.
        base: the worker thread that does nothing else while this one waits.
    """

    def __init__(self, home: RemoteWorker) -> None:
        self.home = home
        self.frames = Frames()
        self.queue: SimpleQueue[Batch | None] = SimpleQueue()
        self.sides: dict[int, _Sides] = {}
        self.base: WorkerThread = self
        self._calling: dict[int, TaskCap | None] = {}  # by run, the cap of what it calls
        self._lent: set[int] = set()
        self._streams: dict[int, list[TaskCap]] = {}  # by run, those of generators that it is at

    def enter(self) -> None:
        """This is the thread from now on."""
        HERE.frames = self.frames
        HERE.block = self.block

    def leave(self) -> None:
        """It is not any more."""
        HERE.frames = None
        HERE.block = None

    def give(self, batch: Batch | None) -> None:
        """Puts something into its queue, and wakes it; from any thread."""
        self.queue.put(batch)

    def kick(self) -> None:
        """Gets it out of a system call, where that can be done, so that an interrupt is raised there."""

    def fire(self, number: int) -> bool:
        """Interrupts a run if it is on this thread's stack; whether it is. With `LOCK` held."""
        for frame in self.frames.stack:
            if type(frame.run) is Call and frame.run.number == number:
                self.frames.fire(frame.run)
                if number in self.sides:
                    self.sides[number].stop()
                return True
        return False

    def run(self, batch: Batch) -> None:
        """Runs what is left of a batch, and reports. Hot."""
        rows = batch.rows
        lane = batch.lane
        words, ends, put = lane.words, lane.ends, lane.put
        numbers, positions, single = rows.numbers, rows.positions, rows.single
        scope, unreported = batch.scope, batch.unreported
        home = self.home
        most = home.most
        report_every = home.report_every
        base = home.context(batch, 0)
        clock = time.time

        def prepare(call: Call) -> None:
            if batch.skipped and call.number in batch.skipped:
                raise Interrupt  # it came between the look at `skipped` and here
            if rows.linked and isinstance(call.args, bytes):
                self._unpack_late(batch, call)

        batch.began = batch.observed_until = clock()
        last = len(rows) - 1
        for place in batch.indices:
            number = numbers[place]
            if batch.skipped and number in batch.skipped:
                continue
            position = positions[place]
            if words[position]:
                continue  # withdrawn
            if single is not None:
                task = rows.task
                call = Call(task, (single[place],), None, number, base.copy(), scope)
            else:
                task, attempts, args, kwargs, tags, needs = rows.run(place)
                if needs and not all(need in batch.results for need in needs):
                    continue  # what it needs did not complete
                context = base.copy() if not tags else home.context(batch, tags)
                call = Call(task, args, kwargs, number, context, scope, attempts)
                if attempts > 1:
                    call.follow(rows.earlier(place))
            words[position] = BEGUN
            end_limit = None
            if task.timeout_seconds is not None:
                if unreported:  # not to be lost if the worker has to be killed for what comes
                    home.report(batch)
                home.channel.send(messages.STARTED, dumps((batch.number, position)))
                end_limit = home.guarded(partial(home.returned, batch, position))
            outcome, value = self._run(call, prepare, end_limit)
            ends[position] = batch.began = clock()
            if outcome is not None or rows.linked or not put(position, value):
                home.put(batch, position, call, outcome, value)
            # Its context knows it too: a cycle, which would keep its arguments until Python looks for such.
            del call.context
            unreported.append(position)
            if not batch.timing and place != last:  # the last report follows
                batch.timing = True
                TIMERS.after(report_every, home.guarded(lambda: home.report_late(batch)))
                report_every = min(2 * report_every, REPORTED_WITHIN)
            if most is not None:
                home.done += 1
                if home.done >= most:
                    home.retire()
        home.close(batch)

    def _run(
        self, call: Call, prepare: Callable[[Call], object], end_limit: EndLimit | None
    ) -> tuple[Outcome | None, Any]:
        """Runs one call to the end of this attempt. Hot.

        Returns:
            Its outcome, or `None` and its value if there is no more to say.
        """
        outcome, value, interrupted = attempt_here(
            self.frames, Frame(call), call, prepare, end_limit
        )
        if interrupted:
            if call.number in self.home.overdue:
                self.home.overdue.discard(call.number)
                outcome = overdue_outcome(call)
            else:
                outcome = Outcome(CANCELLED, None)
        return outcome, value

    def _unpack_late(self, batch: Batch, call: Any) -> None:
        """Arguments with values of runs of the same batch in them: unpickled now that these are known."""
        results = batch.results
        outer, parcels.HERE.upstream = parcels.HERE.upstream, lambda place: results[place]()
        try:
            call.args, call.kwargs = unpack(call.args, self.home.load)
        finally:
            parcels.HERE.upstream = outer

    # ------------------------------------------------------------------ waiting

    def block(self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        """How this thread waits: untimed, it runs what it waits for, as the driver gives it that."""
        if Decision.awaited(wanted) and answered_soon(wanted):
            return True
        self.frames.enter_shield()
        try:
            countdown = Wakeup(fail_fast, first, partial(self.give, None))
            with LOCK:
                countdown.watch(wanted)
                self.frames.countdown = countdown
                if self.frames.due(shielded=True):
                    countdown.interrupt()
            try:
                return countdown.woken or self._wait(
                    countdown, wanted, deadline, until(deadline, fail_fast, first)
                )
            finally:
                with LOCK:
                    self.frames.countdown = None
                    if countdown.pending:
                        countdown.forget(wanted)
        finally:
            self.frames.leave_shield()

    def _wait(self, countdown: Wakeup, wanted: Wanted, deadline: float | None, until: int) -> bool:
        home = self.home
        home.flush()
        home.hand_back_all(self.base)
        call, watcher = self.innermost(), _Watcher(self)
        home.remote.untold.watchers.append(watcher)
        wait = home.remote.new_wait()
        home.waiting[wait] = self
        self.tell(wait, wanted, until, watcher)
        outer = self.frames.countdown
        try:
            while not countdown.woken:
                if watcher.has_news:
                    watcher.has_news = False
                    home.channel.send(messages.RESUMED, dumps(wait))
                    del home.waiting[wait]
                    wait = home.remote.new_wait()
                    home.waiting[wait] = self
                    self.tell(wait, wanted, until, watcher)
                refusal = home.remote.refusals.pop(wait, None)
                if refusal is not None:
                    raise refusal
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                try:
                    batch = self.queue.get(timeout=left)
                except Empty:
                    return False
                if batch is None:
                    if home.gone:
                        raise ConnectionError("the driver has gone")
                    self.woken(left)
                    continue  # something to look at
                if batch.wait != wait:
                    home.hand_back(batch)  # it might want a lock that the waiting run holds
                    home.close(batch)
                elif len(self.frames.stack) >= DEEPEST:
                    home.refuse_too_deep(batch, len(self.frames.stack))
                else:
                    self.run(batch)
                del batch
                with LOCK:
                    self.frames.countdown = outer
                    if self.frames.due(shielded=True):
                        return True  # interrupted while it ran what it waits for
            return True
        finally:
            try:
                if call is not None and self.is_capped(call):
                    self.wait_for_place(wait, self.caps_of(call))
            finally:
                if home.stopping:
                    self.give(None)  # for the loop below
                home.remote.untold.watchers.remove(watcher)
                del home.waiting[wait]
                home.channel.send(messages.RESUMED, dumps(wait))
                self.resumed()

    def tell(self, wait: int, wanted: Wanted, until: int, watcher: Any) -> None:
        """Tells the driver that the innermost run is about to wait."""
        call = self.innermost()
        run = call.number if call is not None else None
        self.home.remote.tell_waiting(wait, run, wanted, until=until, watcher=watcher)

    def is_capped(self, call: Call) -> bool:
        """Whether a run here goes on only once it has a place."""
        return self.home.remote.capped or bool(self.caps_of(call)) or call.number in self._calling

    def cap_of(self, call: Call) -> TaskCap | None:
        """The cap of a run here, or of the task that it calls at the moment."""
        return self._calling.get(call.number, call.task.cap)

    def caps_of(self, call: Call) -> tuple[TaskCap, ...]:
        """`cap_of`, and the caps of generators that it is at; none while it has lent its places by itself."""
        if call.number in self._lent:
            return ()
        cap = self.cap_of(call)
        streams = self._streams.get(call.number, ())
        return tuple(dict.fromkeys([*([cap] if cap is not None else ()), *streams]))

    def change_cap(self, call: Call, cap: TaskCap | None) -> None:
        """A run here calls a task, or goes on after that: from now on it is under this cap."""
        before = self.caps_of(call)
        if cap == call.task.cap:
            self._calling.pop(call.number, None)
        else:
            self._calling[call.number] = cap
        self._change_places(call, before)

    def begin_stream(self, call: Call, cap: TaskCap) -> None:
        """A run here begins with a generator: from now on it is under its cap, too."""
        before = self.caps_of(call)
        self._streams.setdefault(call.number, []).append(cap)
        self._change_places(call, before)

    def end_stream(self, call: Call, cap: TaskCap) -> None:
        """The generator has ended."""
        before = self.caps_of(call)
        streams = self._streams[call.number]
        streams.remove(cap)
        if not streams:
            del self._streams[call.number]
        if HERE.frames is self.frames and self.innermost() is call:
            self._change_places(call, before)
        # Else somebody else has dropped it: the place goes with the run's next wait, or its end.

    def lent(self, call: Call, wait: Callable[[], Any]) -> Any:
        """A run here waits, for no other run, without its places."""
        before = self.caps_of(call)
        self._lent.add(call.number)
        try:
            self._change_places(call, before)
            return wait()
        finally:
            self._lent.discard(call.number)
            self._change_places(call, ())

    def _change_places(self, call: Call, before: tuple[TaskCap, ...]) -> None:
        """Gives the places of a run here back, and takes those that it needs now: at once, or none of them."""
        task_caps = self.caps_of(call)
        if set(task_caps) == set(before):
            return
        home = self.home
        self.frames.enter_shield()
        try:
            home.flush()
            home.hand_back_all(self)  # as in any wait
            wait = home.remote.new_wait()
            home.waiting[wait] = self
            home.remote.tell_waiting(wait, call.number, ())
            try:
                self.wait_for_place(wait, task_caps)
            finally:
                del home.waiting[wait]
                home.channel.send(messages.RESUMED, dumps(wait))
                self.resumed()
        finally:
            self.frames.leave_shield()

    def wait_for_place(self, wait: int, task_caps: tuple[TaskCap, ...]) -> None:
        """A run here waits no longer for others: it goes on once there is a place of its caps for it."""
        home = self.home
        home.channel.send(messages.GO_ON, dumps((wait, task_caps)))
        while wait not in home.placed:
            batch = self.queue.get()
            if batch is not None:  # it has a place, and would wait here for this run to end
                home.hand_back(batch)
                home.close(batch)
            elif home.gone:
                raise ConnectionError("the driver has gone")
            else:
                self.woken(None)
        home.placed.discard(wait)

    def woken(self, left: float | None) -> None:
        """Something has changed for a run that waits here.

        Args:
            left: seconds that it will wait at most, `None` for any time.
        """

    def resumed(self) -> None:
        """It goes on."""

    def innermost(self) -> Call | None:
        """The run that this thread is at, if any."""
        stack = self.frames.stack
        for frame in reversed(stack):
            if type(frame.run) is Call:
                return frame.run
        return None


class _Watcher:
    """Wakes a waiting worker thread to tell the driver more of what it waits for."""

    __slots__ = ("_worker_thread", "has_news")

    def __init__(self, worker_thread: WorkerThread) -> None:
        self._worker_thread = worker_thread
        self.has_news = False

    def look_again(self) -> None:
        """Runs of other runners that it waits for go on, or wait in turn."""
        self.has_news = True
        self._worker_thread.give(None)


#: Kicks the main thread out of a system call, so that an interrupt is raised there: a signal that programs seldom use
#: for themselves. `None` where there is none.
KICK = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGUSR2", None)

#: Seconds that a run may go on when the driver has gone.
LAST_GRACE = 2.0


class MainThread(WorkerThread):
    """The main thread of a worker process that is there for runs alone: takes batches until the process is to end.

    `begin` comes before anything is received, and `serve` is what the process does from then on.
    """

    def begin(self) -> None:
        """This is the thread from now on."""
        self.enter()
        if KICK is not None:
            signal.signal(KICK, self._kicked)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def serve(self) -> None:
        """Runs batches until the worker is `stopping`, or its driver has gone."""
        home = self.home
        try:
            while True:
                batch = self.queue.get()
                if batch is not None:
                    self.run(batch)
                elif home.stopping and not home.coroutines.are_there():
                    return
                # else it was to wake a wait that has ended since
                del batch
        except ConnectionError:
            pass  # the driver has gone, and with it who could be told
        finally:
            self.leave()
            if KICK is not None:
                signal.signal(KICK, signal.SIG_IGN)

    def begin_batch(self, batch: Batch) -> None:
        """Has a batch run that came by message: in its turn, or on the loop if it is of coroutines."""
        if batch.rows.task.is_async:
            self.home.coroutines.begin(batch)
        else:
            with LOCK:
                batch.worker_thread = self
                runs = [frame.run for frame in self.frames.stack if type(frame.run) is Call]
                lends = any(run.number in self.sides for run in runs)  # not what has ended since
            if lends:  # their threads may want what is in it, and gave back what was there when they began to wait
                self.home.hand_back(batch)
            self.give(batch)

    def end(self) -> None:
        """The driver has gone: what runs is stopped, and the process ends, by force if that takes too long."""
        last = threading.Timer(LAST_GRACE, _end_with_all)
        last.daemon = True
        last.start()
        self.home.end()

    def kick(self) -> None:
        """See `WorkerThread`."""
        if KICK is not None:
            main = threading.main_thread().ident
            assert main is not None  # it runs
            signal.pthread_kill(main, KICK)

    def _kicked(self, number: int, frame: Any) -> None:
        with LOCK:
            if not self.frames.due():
                return
            self.frames.withdraw()
        raise Interrupt

    def _after_fork(self) -> None:
        """In a child that a run has forked: it is no worker, so it says nothing to the driver. See `engine.forks`."""
        if KICK is not None:
            signal.signal(KICK, signal.SIG_DFL)
        self.home.leave_to_parent()


def _end_with_all() -> None:
    """Ends this process by force, and what it has started, whose group it leads."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
