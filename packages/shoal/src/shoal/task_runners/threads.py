"""The thread pool.

It starts with one thread and adds more when a ready run has waited `PATIENCE`: as many again as there are if no worker
got anything done meanwhile (they sleep, or wait for the network), one if runs are long, none if they are so short that
another thread would only contend for the interpreter, or if the threads that there are do not get a processor. At the
same moments it takes back what stands behind a slow element of a map, for other workers.

A thread whose run does not stop when it is interrupted is given up: reported, and replaced.

May import `workers` and what lies above it.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from operator import length_hint
from typing import TYPE_CHECKING, Any

from shoal import settings
from shoal.context import LOCK
from shoal.engine.interrupt import Frames
from shoal.futures.maps import MapRecord
from shoal.logs import library_logger
from shoal.scheduling.caps import Line
from shoal.task_runners.base import BaseTaskRunner
from shoal.task_runners.worker_backend import WorkerBackend
from shoal.task_runners.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.futures.blocking import Wanted
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.caps import Ready
    from shoal.task_runners.pools import SharedByThreads

__all__ = ["ThreadPoolTaskRunner"]

#: Seconds that a ready run waits before the pool grows.
PATIENCE = 0.005
#: Threads from which it is not looked whether any of them is runnable: so many are for runs that wait.
MANY = 16
#: Seconds after which the pool grows for a run that waits, even if nothing seems to be gained by it.
LONG_ENOUGH = 0.5
#: Seconds since a worker began its last run within which one that runs nothing is taken to be between two runs.
BETWEEN_RUNS = 1.0
#: Runs shorter than this gain nothing from another thread: the interpreter switches threads every 5 ms.
TOO_SHORT = 0.0002
#: Threads that a warning names.
MOST_NAMED = 3

#: A run that is ready, or a map and the index of an element of it.
_Waiting = tuple[Any, int | None]
_NOBODY: tuple[_Waiting, _Waiting] = ((None, None), (None, None))


class ThreadBackend(WorkerBackend):
    """Threads of this process.

    Args:
        max_workers: the most runs at once, or `None` for as many threads as waiting runs need.
    """

    def __init__(self, max_workers: int | None) -> None:
        super().__init__(concurrent=True)
        self._most = max_workers if max_workers is not None else settings.max_threads()
        self._lent = 0
        self._threads: list[threading.Thread] = []
        self._given_up: list[Worker] = []
        self._helpers: list[
            Worker
        ] = []  # threads that run what is waited for with slots, and end with it
        self._timing = False
        self._stopping = False
        self._finished = 0
        self._waiting: tuple[_Waiting, _Waiting] = _NOBODY
        self._since = 0.0
        self._looked = (0.0, 0.0)

    # -------------------------------------------------------------- growing

    def crowded(self) -> None:
        """A run is ready and no worker is idle: the first thread starts at once, others after `PATIENCE`."""
        with LOCK:
            if self._stopping:
                return
            first = not self.workers
            if not first:
                self._time_growth()
        if first:
            self._add()
            with LOCK:
                self._watch()

    def _watch(self) -> None:
        """Looks again later, or has the scheduler tell when it is crowded again; with `LOCK` held."""
        scheduler = self.dispatcher.scheduler
        scheduler.growable = (
            True  # first, for a run that is submitted, without the lock, at this moment
        )
        if scheduler.ready or any(_has_rest(worker) for worker in self.workers):
            self._time_growth()

    def _time_growth(self) -> None:
        if not self._timing:
            self._timing = True
            scheduler = self.dispatcher.scheduler
            self._finished = scheduler.finished
            waiting = _ends_of(scheduler.ready)
            if waiting[0] != self._waiting[0]:
                self._since = time.monotonic()
            self._waiting = waiting
            self._looked = (time.monotonic(), time.process_time())
            self.dispatcher.after(PATIENCE, self._grow)

    def _grow(self) -> None:
        """`PATIENCE` after the pool was found crowded."""
        scheduler = self.dispatcher.scheduler
        count = 0
        wall = time.monotonic() - self._looked[0]
        is_busy = self._interpreter_is_busy(wall)
        could_grow = scheduler.ready and len(self.workers) < min(self._most + self._lent, MANY)
        is_starved = bool(could_grow) and not is_busy and _a_thread_is_runnable()
        with LOCK:
            self._timing = False
            if self._stopping:
                return
            self._take_back_overdue()
            room = self._most + self._lent - len(self.workers)
            if scheduler.ready and room > 0:
                count = self._of_use(wall, is_busy, is_starved)
                if not count and time.monotonic() - self._since > LONG_ENOUGH:
                    count = int(_still_waits(self._waiting[0]))  # whatever the reason against it
                count = min(count, room)
            self._watch()
            if not self._timing:
                self._waiting = _NOBODY  # which keeps no run alive
        for _ in range(count):
            self._add()
        self.dispatcher.drain()

    def _of_use(self, wall: float, is_busy: bool, is_starved: bool) -> int:
        """How many further threads the last `wall` seconds give reason for; with `LOCK` held.

        Args:
            wall: since the last look.
            is_busy: see `_interpreter_is_busy`.
            is_starved: see `_a_thread_is_runnable`.
        """
        scheduler = self.dispatcher.scheduler
        finished = scheduler.finished - self._finished
        if not any(map(_still_waits, self._waiting)) or self._somebody_is_about_to_come():
            return 0  # nothing has waited since then, or not for a thread
        if is_busy:
            return 0 if finished * TOO_SHORT > PATIENCE else 1
        if is_starved:
            return 0  # others have the processors
        if finished:
            return 0 if finished * TOO_SHORT > PATIENCE * len(self.workers) else 1
        if wall > 2 * PATIENCE:
            return 1  # the machine did something else meanwhile: no ground to double
        return min(max(len(self.workers), 1), _few(scheduler.ready))

    def _somebody_is_about_to_come(self) -> bool:
        """Whether a worker has ended a short run and not yet taken another (it logs, or garbage is collected)."""
        now = time.time()
        return any(
            not (worker.frames.stack or worker.is_asleep()) and now - worker.since < BETWEEN_RUNS
            for worker in self.workers
        )

    def _interpreter_is_busy(self, wall: float) -> bool:
        """Whether this process computed, since the last look `wall` seconds ago, for most of what one thread can."""
        return time.process_time() - self._looked[1] > 0.7 * wall

    def span_taken(self) -> None:
        """See `WorkerBackend`: somebody has to look whether an element holds up those behind it."""
        if not self._timing:
            with LOCK:
                self._time_growth()

    def _take_back_overdue(self) -> None:
        """What stands behind a slow element of a map goes to other workers."""
        now = time.time()
        for worker in self.workers:
            span = worker.span
            if span is not None and now - worker.since >= PATIENCE:
                span.record.dispatcher.scheduler.take_back(span)

    def _add(self, work: Callable[[Worker], object] | None = None) -> Worker | None:
        """Starts another thread if there may be one, and returns it; `work`: see `Worker.serve`."""
        with LOCK:
            if self._stopping or len(self.workers) >= self._most + self._lent:
                return None
            worker = Worker(self, Frames())
            thread = threading.Thread(
                target=worker.serve,
                args=(work,),
                name=f"shoal-worker-{len(self._threads)}",
                daemon=True,
            )
            worker.thread = thread
            try:
                thread.start()  # under the lock, so that `stop` sees either nothing or a started thread
            except RuntimeError:  # the system has no room for another: those that exist must do
                if not self.workers:
                    raise
                library_logger().warning(
                    "No further worker thread could be started; %d go on", len(self.workers)
                )
                return None
            self.workers.append(worker)
            self._threads.append(thread)
            return worker

    # -------------------------------------------------------------- lending, giving up, stopping

    def lend(self, *, sparingly: bool) -> bool:
        """See `Pool`: a spare thread may take its place."""
        with LOCK:
            if sparingly and self._lent >= self._most:
                return False
            self._lent += 1
            spare = bool(self.dispatcher.scheduler.ready) and not self.dispatcher.scheduler.idle
            self._watch()
        if spare:
            self._add()
        return True

    def lend_back(self) -> None:
        """It goes on: one thread too many retires when it is next idle."""
        with LOCK:
            self._lent -= 1
            if len(self.workers) > self._most + self._lent:
                self.surplus += 1
                scheduler = self.dispatcher.scheduler
                if scheduler.idle:
                    scheduler.idle.pop().look_again()

    def help_out(self, wanted: Wanted) -> None:
        """See `PullingBackend`."""
        with LOCK:
            scheduler = self.dispatcher.scheduler
            may_grow = len(self.workers) < self._most + self._lent
            if scheduler.idle or may_grow or not all(worker.waits() for worker in self.workers):
                return  # somebody will come to it
            self._help(lambda helper: helper.help(wanted))

    def stand_in(self, side: SharedByThreads) -> Worker | None:
        """See `Pool`."""
        return self._help(side.serve)

    def _help(self, work: Callable[[Worker], object]) -> Worker | None:
        """Starts a thread that stands in for one which waits; with `LOCK` held."""
        self._lent += 1
        helper = self._add(work)
        if helper is not None:
            self._helpers.append(helper)
        else:
            self._lent -= 1
        return helper

    def left(self, worker: Worker) -> None:
        """See `Pool`."""
        with LOCK:
            super().left(worker)
            if worker in self._helpers:
                self._helpers.remove(worker)
                self._lent -= 1

    def retire(self) -> bool:
        """Whether an idle worker is to end because it was a spare; with `LOCK` held."""
        self.surplus -= 1
        return len(self.workers) > self._most + self._lent

    def give_up(self, run: TaskFuture[Any]) -> None:
        """A run that was interrupted had its grace: if its thread still runs it, the thread is given up."""
        with LOCK:
            if self._stopping:
                return
            stuck = next((w for w in self.workers if w.running()[-1:] == [run]), None)
            if stuck is None:
                self._give_up_coroutine(run)
                return
            stuck.abandoned = True
            self.workers.remove(stuck)
            self._given_up.append(stuck)
            scheduler = self.dispatcher.scheduler
            if stuck.span is not None:
                scheduler.take_back(stuck.span)
            scheduler.endings.given_up(run, time.time())
            scheduler.vacated(stuck)
            scheduler.withdraw(stuck)  # it may be about to go on
            stuck.look_again()
            replace = bool(scheduler.ready)
            self._watch()
        from shoal.limits.holding import give_up  # seldom needed

        give_up(stuck.thread)
        library_logger().warning(
            "Task run %r did not stop when it was interrupted; its thread is given up and replaced",
            run.name,
        )
        if replace:
            self._add()
        self.dispatcher.drain()

    def _give_up_coroutine(self, run: TaskFuture[Any]) -> None:
        if not self.lane.give_up(run):
            return
        self.dispatcher.scheduler.endings.given_up(run, time.time())
        library_logger().warning(
            "Async task run %r did not stop when it was cancelled; it is left behind", run.name
        )
        self.dispatcher.after(0, self.dispatcher.drain)

    def _warn_of(self, left: list[threading.Thread]) -> None:
        """Says which threads are left behind, and what they do."""
        with LOCK:
            runs = {w.thread: run.name for w in self.workers for run in w.running()[-1:]}
        told = [
            f"{thread.name} in task run {runs[thread]!r}" if thread in runs else thread.name
            for thread in left[:MOST_NAMED]
        ]
        if len(left) > MOST_NAMED:
            told.append(f"and {len(left) - MOST_NAMED} more")
        library_logger().warning(
            "Worker threads did not stop and are left behind: %s", ", ".join(told)
        )

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        with LOCK:
            self._stopping = True
            workers = list(self.workers)
            for worker in workers:
                worker.stopping = True
                worker.look_again()
            self.lane.stop()
        deadline = time.monotonic() + grace
        left = []
        for thread in self._threads:
            if thread is threading.current_thread() or any(
                w.thread is thread for w in self._given_up
            ):
                continue
            thread.join(max(deadline - time.monotonic(), 0.0))
            if thread.is_alive():
                left.append(thread)
        if left:
            self._warn_of(left)
        self.lane.join(max(deadline - time.monotonic(), 0.0))


def _a_thread_is_runnable() -> bool:
    """Whether another thread of this process could run at this moment, as Linux tells it; elsewhere False.

    The state is the third field of `/proc/self/task/<id>/stat`, behind the name in parentheses (proc_pid_stat(5)).
    """
    me = str(threading.get_native_id())
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return False
    for thread in threads:
        if thread != me:
            with suppress(OSError), open(f"/proc/self/task/{thread}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] == b"R":
                    return True
    return False


def _has_rest(worker: Worker) -> bool:
    return worker.span is not None and length_hint(worker.span.indices) > 0


def _ends_of(ready: Sequence[Ready]) -> tuple[_Waiting, _Waiting]:
    """The first and the last of what is ready and waits for a worker, as far as it is found near the ends."""
    few = min(len(ready), 100)
    return _found(ready, range(few), 0), _found(ready, range(-1, -few - 1, -1), -1)


def _found(ready: Sequence[Ready], places: range, end: int) -> _Waiting:
    for place in places:
        try:
            item = ready[place]
            index = None
            if isinstance(item, Line):
                item = item.items[end]
            if isinstance(item, MapRecord):
                start, stop = item.unclaimed[end]
                index = start if end == 0 else stop - 1
        except IndexError:  # it has been taken since
            continue
        if _still_waits((item, index)):
            return item, index
    return None, None


def _still_waits(waiting: _Waiting) -> bool:
    """Whether something that was ready is; what a blocked run has claimed is left in its place."""
    item, index = waiting
    if index is not None:
        return any(start <= index < stop for start, stop in list(item.unclaimed))
    return item is not None and hasattr(item, "_start")


def _few(ready: Sequence[Ready]) -> int:
    """How many runs are ready, counted no further than it matters for growing.

    By index: workers take from it meanwhile, and an iterator would notice.
    """
    count = 0
    for index in range(min(len(ready), 300)):
        try:
            item = ready[index]
        except IndexError:
            break
        if isinstance(item, Line):
            count += min(item.room(), _few(item.items))
        elif isinstance(item, MapRecord):
            count += sum(stop - start for start, stop in list(item.unclaimed))
        else:
            count += 1
    return count


class ThreadPoolTaskRunner(BaseTaskRunner):
    """Runs tasks on threads of this process.

    Good for tasks that wait (network, disk, subprocesses) and for those whose libraries release the interpreter lock.
    Async tasks run on one event loop, thousands at a time.

    Args:
        max_workers: the most task runs at once, sync and async together; `None` grows the pool while runs wait (up
            to `SHOAL_MAX_THREADS`, 256) and leaves async tasks unbounded.

    Raises:
        InvalidOption: `max_workers` is not a positive whole number.
    """

    name = "threads"

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__()
        self.check_count("max_workers", max_workers)
        self.max_workers = max_workers

    def settings(self) -> dict[str, Any]:
        """See `TaskRunner`."""
        return {"max_workers": self.max_workers}

    @classmethod
    def from_argument(cls, argument: str) -> ThreadPoolTaskRunner:
        """See `TaskRunner`: `"threads:4"`."""
        return cls(max_workers=cls.whole_number(argument))

    def make_backend(self) -> tuple[ThreadBackend, int | None]:
        """See `TaskRunner`."""
        return ThreadBackend(self.max_workers), self.max_workers
