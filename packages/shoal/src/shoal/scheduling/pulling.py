"""The scheduler of workers in this process, which take what is ready. Pure; see `scheduler`.

May import `scheduler` and what lies above it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from shoal.calls import CRASHED
from shoal.context import LOCK
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling.caps import Line, came_first, caps_of, task_of
from shoal.scheduling.effects import CROWDED, LOOP, WAKE
from shoal.scheduling.scheduler import Scheduler
from shoal.scheduling.wait_graph import tell_wanting

if TYPE_CHECKING:
    from shoal.scheduling.capabilities import Capabilities
    from shoal.specs import TaskSpec

__all__ = ["PullingScheduler"]


class PullingScheduler(Scheduler):
    """For workers of this process, which take what is ready.

    The common run passes without a lock: `submit`, `pop`, `complete`. A lock there would not only cost its own time:
    under the interpreter's lock, whoever blocks on a lock is handed it while not running, so that two busy threads soon
    change places at every run (measured: 10-15 µs a run instead of 3). What makes it safe are the tokens described in
    `futures`, and counters whose step is atomic.

    Args:
        capabilities: of the backend.
        limit: the most runs that may run at once; `None` for no bound.

    Attributes:
        workers: every worker; kept by the backend.
        idle: workers that found nothing to take.
        growable: whether the backend is to be told when something is ready and nobody is idle.
        counting: whether `busy` is kept: only since there was a coroutine, as threads are bounded by being so many.
        busy: runs that hold one of the `limit` places.
        resuming: who waits for a place to go on, and under which caps.
    """

    def __init__(self, capabilities: Capabilities, limit: int | None = None) -> None:
        super().__init__(capabilities)
        self.limit = limit
        self.workers: list[Any] = []
        self.idle: list[Any] = []
        self.growable = True
        self.counting = False
        self.busy = 0
        self.resuming: deque[tuple[Any, Line | None]] = deque()

    def leave_no_shortcut(self) -> None:
        """From now on every run that comes passes the caps."""
        self.submit = self._submit_capped  # type: ignore[method-assign]

    def _submit_capped(self, future: TaskFuture[Any]) -> None:
        super().submit(future)

    def submit(self, future: TaskFuture[Any]) -> None:
        """See `Scheduler`. Hot; takes no lock unless somebody is to be told."""
        if future._task.is_apart:
            super().submit(future)
            return
        next(self._submitted)
        future._start = True
        self.ready.append(future)
        if self.idle or self.growable:
            with LOCK:
                self._call_worker()

    def _push(self, future: TaskFuture[Any]) -> None:
        if self.broken is not None:
            error = self.broken(future.name)
            self.settle(future, CRASHED, error, future._since, executes=False)
            return
        future._start = True
        line = self._line_for(future._task)
        if line is not None:
            line.items.append(future)
            self._queue_lines()
        elif future._task.is_async:
            self.count_places()
            self.ready_async.append(future)
            self.effects.append((LOOP,))
        else:
            self.ready.append(future)
            self._call_worker()

    def _line_for(self, task: TaskSpec) -> Line | None:
        """The line for runs of a task that are ready, `None` if they are under no cap."""
        if self.caps is None and task.cap is None:
            return None
        line = caps_of(self).line_of(task)
        if line is not None:
            self.count_places()
        return line

    def _queue_lines(self) -> None:
        """Lines of which something could start are queued, and workers called for them."""
        assert self.caps is not None  # there are lines
        for line in self.caps.startable():
            line.queued = True
            if line.on_loop:
                self.ready_async.append(line)
                self.effects.append((LOOP,))
            else:
                try:
                    first = came_first(line, self.ready[0])
                except IndexError:  # there is nothing else, or it was taken at this moment
                    first = True
                self.ready.insert(0 if first else 1, line)
                self._call_worker(line.room())

    def _push_record(self, record: MapRecord[Any], last: bool) -> None:
        if record.queued:
            return
        if self.broken is not None:
            self.endings.crash_unclaimed(record, self.broken, record.submitted)
            return
        record.queued = True
        line = self._line_for(record.task)
        ready_queue: deque[Any] = self.ready_async if record.task.is_async else self.ready
        if line is not None:
            ready_queue = line.items
        if last:
            ready_queue.append(record)
        else:
            ready_queue.appendleft(record)
        if line is not None:
            self._queue_lines()
        elif record.task.is_async:
            self.count_places()
            self.effects.append((LOOP,))
        else:
            self._call_worker(record.size)

    def _call_worker(self, count: int = 1) -> None:
        while self.idle and count:
            self.effects.append((WAKE, self.idle.pop()))
            count -= 1
        if count and self.growable:
            self.growable = False
            self.effects.append((CROWDED,))

    def pop(self) -> TaskFuture[Any] | None:
        """The next run, claimed, if it is a single one that can be had without the lock. Hot; takes no lock."""
        ready = self.ready
        while True:
            try:
                if type(ready[0]) is not TaskFuture:
                    return None
                item = ready.popleft()
            except IndexError:
                return None
            if type(item) is not TaskFuture:  # another thread took the one that was seen
                with LOCK:
                    ready.appendleft(item)
                return None
            if item._claim():
                return item

    def take(self, worker: Any) -> TaskFuture[Any] | Span | None:
        """What an idle worker is to run next; `None` if there is nothing, and then it counts as idle."""
        self.vacated(worker)  # who asks holds nothing; it was between two runs when counting began
        if self.counting and self.limit is not None and self.busy >= self.limit:
            self.idle.append(worker)
            return None
        work = self._first()
        if work is None:
            self.idle.append(worker)
            work = self._first()  # what was submitted before the worker could be seen as idle
            if work is None:
                if self.ready_async:  # the place may be free that it was woken for
                    self.effects.append((LOOP,))
                return None
            if worker in self.idle:
                self.idle.remove(worker)
        self.occupied(worker, work)
        return work

    def _first(self) -> TaskFuture[Any] | Span | None:
        ready = self.ready
        while ready:
            item = ready.popleft()
            if type(item) is TaskFuture:
                if item._claim():
                    return item
                continue
            if type(item) is Line:
                work = self._first_of(item)
                if work is not None:
                    return work
                continue
            assert isinstance(item, MapRecord)
            span = self._take_span(item)
            if item.unclaimed:
                ready.appendleft(item)
                if self.idle:
                    self._call_worker()
            else:
                item.queued = False
            if span is not None:
                return span
        return None

    def _first_of(self, line: Line) -> TaskFuture[Any] | Span | None:
        """The first run of a line, or some elements of a map, if there is a place for it: it is about to be taken."""
        room = line.room()
        work: TaskFuture[Any] | Span | None = None
        while room > 0 and work is None and line.prune():
            item = line.items[0]
            if type(item) is TaskFuture:
                line.items.popleft()
                work = item if item._claim() else None
            else:
                work = self._take_span(item)  # type: ignore[arg-type]
        line.queued = room > 1 and line.prune()
        if line.queued:
            self.ready.appendleft(line)
            if self.idle:
                self._call_worker()
        return work

    # Places: how many runs may run at once. Threads are bounded by being so many; they are counted only since there
    # was a coroutine, which shares the bound with them.

    def count_places(self) -> None:
        """From now on places are counted, those that workers hold already first.

        Threads are bounded by being so many; but not beside coroutines, nor beside a thread that lent its place.
        """
        if self.counting or (self.limit is None and self.caps is None):
            return
        self.counting = True
        for worker in self.workers:
            if worker not in self.idle and not worker.counted and not worker.is_asleep():
                worker.counted = True
                self.busy += 1

    def occupied(self, worker: Any, work: TaskFuture[Any] | Span) -> None:
        """A worker is about to begin a run, or elements of a map."""
        if self.counting:
            worker.counted = True
            self.busy += 1
            if self.caps is not None:
                worker.line = self.caps.line_of(task_of(work))
                if worker.line is not None:
                    self.caps.take(worker.line)

    def vacated(self, worker: Any) -> None:
        """A worker's run has ended, or waits."""
        if worker.counted:
            worker.counted = False
            line, worker.line = worker.line, None
            self.vacate(line)

    def take_async(self, most: int) -> list[TaskFuture[Any]]:
        """Up to `most` coroutines' runs for the loop."""
        taken: list[TaskFuture[Any]] = []
        ready = self.ready_async
        if self.limit is not None:
            most = min(most, self.limit - self.busy)
        while ready and len(taken) < most:
            item = ready[0]
            if type(item) is Line:
                ready.popleft()
                room = min(item.room(), most - len(taken))
                some = self._some_coroutines(item.items, room)
                assert self.caps is not None  # there are lines
                self.caps.take(item, len(some))
                item.queued = item.room() > 0 and item.prune()
                if item.queued:
                    ready.append(item)
                taken.extend(some)
            else:
                taken.extend(self._some_coroutines(ready, most - len(taken)))
        self.busy += len(taken)
        return taken

    def _some_coroutines(self, ready: deque[Any], most: int) -> list[TaskFuture[Any]]:
        """Up to `most` of what is queued, claimed, up to the first line."""
        taken: list[TaskFuture[Any]] = []
        while ready and len(taken) < most:
            item = ready[0]
            if isinstance(item, TaskFuture):
                ready.popleft()
                future = item
            elif type(item) is Line:
                break
            elif not item.unclaimed:  # those that were left were cancelled one by one
                ready.popleft()
                item.queued = False
                continue
            else:
                index, _ = item.take(1)
                future = item.materialize(index)
                item.since[index] = item.submitted
            if future._claim():
                taken.append(future)
        return taken

    def _take_span(self, record: MapRecord[Any]) -> Span | None:
        if not record.unclaimed:
            return None
        start, stop = record.unclaimed[0]
        seconds, observed = self.durations.of(record.task)
        size = self.policy.size(seconds, observed, stop - start, 1, None)
        span = Span(record, *record.take(size))
        record.spans.append(span)
        return span

    def span_ended(self, worker: Any, span: Span, count: int, began: float, ended: float) -> None:
        """A worker has gone through the first so many elements of a span."""
        span.record.spans.remove(span)
        self.durations.observe(span.record.task, max(ended - began, 0.0), count)
        self.vacated(worker)

    def take_back(self, span: Span) -> None:
        """What a worker has not started of a span becomes ready again, for others."""
        rest = span.rest()
        if rest is not None:
            span.record.unclaimed.appendleft(rest)
            self._push_record(span.record, last=False)
            tell_wanting(span.record.wanting)

    def vacate(self, line: Line | None = None) -> None:
        """A place among the `limit` is free again (its run ended, or waits), and one of a line's caps."""
        self.busy -= 1
        if line is not None:
            assert self.caps is not None  # there are lines
            self.caps.free(line)
        if self.caps is not None:
            self.serve_caps()
        elif self.limit is None:
            return
        elif self.resuming:
            self.busy += 1
            self.resuming.popleft()[0].resume()
        elif self.ready and self.idle:
            self.effects.append((WAKE, self.idle.pop()))
        elif self.ready_async:
            self.effects.append((LOOP,))

    def serve_caps(self) -> None:
        """See `Scheduler`."""
        assert self.caps is not None  # only then are there any
        for _ in range(len(self.resuming)):
            who, line = self.resuming.popleft()
            if self.occupy(who, line):
                who.resume()
        self.caps.serve()
        self.caps.tell_refused()
        self._queue_lines()
        if self.limit is None or self.busy < self.limit:
            if self.ready and self.idle:
                self.effects.append((WAKE, self.idle.pop()))
            if self.ready_async:
                self.effects.append((LOOP,))

    def occupy(self, who: Any, line: Line | None = None) -> bool:
        """A run that had waited goes on: takes a place, or queues for one (`who.resume()` is called then).

        Args:
            who: the thread or coroutine.
            line: whose caps it is under, if any.
        """
        if (self.limit is None or self.busy < self.limit) and (line is None or line.room() > 0):
            self.busy += 1
            if line is not None:
                assert self.caps is not None  # there are lines
                self.caps.take(line)
            return True
        self.resuming.append((who, line))
        return False

    def withdraw(self, who: Any) -> None:
        """Somebody waits no longer for a place."""
        self.resuming = deque(entry for entry in self.resuming if entry[0] is not who)

    def line_of(self, future: TaskFuture[Any]) -> Line | None:
        """Whose caps a run is under, if any."""
        return self.caps.line_of(future._task) if self.caps is not None else None

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """Takes some elements of a map out of their turn, wherever they are queued."""
        if self.caps is not None and self.caps.refuses(record):
            return None
        record.gather()
        span = self._take_span(record)
        if span is not None and record.unclaimed:
            self._push_record(record, last=False)
        return span

    def claim(self, future: TaskFuture[Any]) -> bool:
        """Takes a ready run out of its turn, wherever it is queued."""
        if future._task.is_async:
            return False  # the loop runs it
        if self.caps is not None and self.caps.refuses(future):
            return False
        return self.pick(future) and future._claim()
