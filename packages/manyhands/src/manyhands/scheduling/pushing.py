"""The scheduler of backends to which batches are sent. Pure; see `scheduler`.

May import `scheduler`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.calls import (
    CRASHED,
    DONE,
    READY,
    RUNNING,
    SENT,
    WAITING,
    Batch,
    Handle,
    Outcome,
)
from manyhands.futures.maps import MapRecord, Span
from manyhands.futures.run import TaskFuture
from manyhands.scheduling.effects import (
    GONE,
    HELP,
    IDLE,
    LAUNCH,
    OVERDUE,
    RECALL,
    UNKNOWN,
)
from manyhands.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from manyhands.futures.blocking import Wanted
    from manyhands.scheduling.backend import Capabilities
    from manyhands.tasks import Task

__all__ = ["Helper", "PushingScheduler"]


#: Batches of coroutines in flight per slot.
LOOP_WINDOW = 64
#: Seconds that a run counts for in a slot's window as long as nothing is known of its task; Dask's guess too.
GUESS = 0.5


class Helper:
    """A run of a batch that waits, and whose worker can be given what it waits for.

    Attributes:
        batch: the batch it is in.
        run: the run, `None` if what waits is no run of ours (a flow inside one).
        wanted: what it waits for.
        blocks: whether its worker can do nothing else meanwhile.
        tag: what the backend knows it by.
        spare: the slot that stands in for the worker's, if any.
    """

    __slots__ = (
        "_queued",
        "_scheduler",
        "batch",
        "blocks",
        "run",
        "spare",
        "stack",
        "tag",
        "wanted",
    )

    def __init__(
        self,
        scheduler: PushingScheduler,
        batch: Batch,
        run: TaskFuture[Any] | None,
        wanted: Wanted,
        stack: list[TaskFuture[Any]],
        *,
        blocks: bool,
        tag: Any,
    ) -> None:
        self._scheduler = scheduler
        self._queued = False
        self.batch = batch
        self.run = run
        self.wanted = wanted
        self.stack = stack
        self.blocks = blocks
        self.tag = tag
        self.spare: int | None = None

    def serves(self, dispatcher: Any) -> bool:
        """Whether runs of a runner may be given to it."""
        return dispatcher.scheduler is self._scheduler

    def look_again(self) -> None:
        """Something that it waits for may be startable now."""
        if not self._queued:
            self._queued = True
            self._scheduler.effects.append((HELP, self))

    def looked(self) -> None:
        """`look_again` is done."""
        self._queued = False


class PushingScheduler(Scheduler):
    """For workers that are sent batches.

    A worker that waits for runs is blocked: its slot gets nothing but what it waits for, in batches that count
    towards no window. Where a slot has nothing to do while another holds runs it has not begun, these are recalled.

    Args:
        capabilities: of the backend.

    Attributes:
        slots: how many batches are in flight at each slot.
        batches: what is in flight: each batch, and the positions in it that have not been reported.
        helpers: by seat, the runs that wait there, innermost last: a seat is a slot, or, where slots are of no particular
            worker, what runs one batch and all that is run in place on top of it.
        ready_async: as `ready`, for coroutines of workers that have a loop for them.
        loops: how many batches of coroutines are in flight at each slot; they leave the slot free for others.
        broken: what every run ends with if no worker can be started.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        super().__init__(capabilities)
        self.slots: dict[int, int] = {}
        self.batches: dict[int, tuple[Batch, set[int]]] = {}
        self.helpers: dict[int, list[Helper]] = {}
        self.broken: Callable[[str], BaseException] | None = None
        self.ready_async: deque[TaskFuture[Any] | MapRecord[Any]] = deque()
        self.loops: dict[int, int] = {}
        self._batch_number = 0
        self._helping: dict[int, Helper] = {}
        self._recalled: set[int] = set()
        self._leaving: set[int] = set()
        self._spares: set[int] = set()
        self._on_loops: dict[int, bool] = {}  # batches, and whether they hold a place
        self._seconds: dict[int, float] = {}  # of work in flight at each slot
        self._awaited = False
        self._asked_of: set[Task[Any, Any]] = set()  # tasks of which nothing is known yet
        self._slow: set[Task[Any, Any]] = set()  # those whose first runs take their time
        self._has_room = True
        self._under_way: set[int] = set()  # batches of coroutines that no worker has yet

    def _push(self, future: TaskFuture[Any]) -> None:
        if self.broken is not None:
            self.settle(future, CRASHED, self.broken(future.name), future._since)
            return
        future._start = True
        self._lane(future._task).append(future)
        if self._has_room or self.ready_async:
            self._fill()

    def _lane(self, task: Task[Any, Any]) -> deque[TaskFuture[Any] | MapRecord[Any]]:
        return self.ready_async if task.is_async and self.capabilities.loops else self.ready

    def _push_record(self, record: MapRecord[Any], last: bool) -> None:
        if self.broken is not None:
            for index in range(record.size):
                future = record.materialize(index)
                self.settle(future, CRASHED, self.broken(future.name), future._since)
            return
        if record.queued:
            return
        record.queued = True
        if last:
            self._lane(record.task).append(record)
        else:
            self._lane(record.task).appendleft(record)
        self._fill()

    def broke(self, error: Callable[[str], BaseException], now: float) -> None:
        """No worker can be started: every run that is open, or comes later, is CRASHED with this."""
        self.broken = error
        while self.batches:
            batch, positions = next(iter(self.batches.values()))
            for position in list(positions):
                future = self.run_at(batch, position)
                self.settle(future, CRASHED, error(future.name), now)
            self.batch_closed(batch.number)
        while self.ready or self.ready_async:
            item = (self.ready or self.ready_async).popleft()
            if isinstance(item, MapRecord):
                item.queued = False
                while item.unclaimed:
                    start, stop = item.unclaimed.popleft()
                    for index in range(start, stop):
                        future = item.materialize(index)
                        self.settle(future, CRASHED, error(future.name), now)
            else:
                self.settle(item, CRASHED, error(item.name), now)

    # ------------------------------------------------------------------ waits on workers

    def claim(self, future: TaskFuture[Any]) -> bool:
        """Takes a ready run out of its turn, for a worker that waits for it."""
        if self._lane(future._task) is self.ready_async:
            return False  # it is sent at once, or waits for nothing but a loop
        if not (self._pick(future) and future._claim()):
            return False
        if future._call is None:
            record, index = future._details().origin  # type: ignore[misc]  # only an element has no call yet
            future._call = record.call(index)
        return True

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """Takes some elements of a map out of their turn, for a worker that waits for it."""
        if not record.unclaimed:
            return None
        seconds, observed = self._expected(record.task)
        span = self._take_span(record, len(self.slots), seconds, observed)
        if record.unclaimed:
            self._push_record(record, last=False)
        return span

    def run_waits(
        self,
        number: int,
        position: int | None,
        wanted: Wanted,
        *,
        blocks: bool,
        timed: bool,
        tag: Any = None,
    ) -> Helper | None:
        """A run on a worker is about to wait.

        Args:
            number: the batch it is in.
            position: of the run in it; `None` if what waits is no run of ours.
            wanted: what it waits for.
            blocks: whether its worker can do nothing else meanwhile.
            timed: whether the wait has a time limit; the worker then lends its slot to a spare one.
            tag: what the backend knows the wait by.

        Returns:
            What stands for it until `run_resumed`; `None` if the batch is not in flight any more.

        Raises:
            WaitCycle: the run would wait for itself.
        """
        entry = self.batches.get(number)
        if entry is None:
            return None
        batch = entry[0]
        seat = self._seat_of(batch)
        run = self.run_at(batch, position) if position is not None else None
        stack = [] if run is None else [run]
        if blocks:
            stack = [h.run for h in self.helpers.get(seat, ()) if h.blocks and h.run] + stack
        helper = Helper(self, batch, run, wanted, stack, blocks=blocks, tag=tag)
        if run is not None:
            for below in stack:
                self.check_cycle(wanted, below)
            self.waits(run, wanted)
        self.helpers.setdefault(seat, []).append(helper)
        if blocks:
            if timed:
                helper.spare = self._lend()
            helper.look_again()
        elif self._on_loops.get(number):
            self._on_loops[number] = (
                False  # who waits holds no place: what it waits for may need one
            )
            self.loops[batch.slot] -= 1
        self._fill()
        return helper

    def run_resumed(self, helper: Helper) -> None:
        """A run on a worker goes on."""
        seat = self._seat_of(helper.batch)
        here = self.helpers.get(seat)
        if here is None or helper not in here:
            return
        here.remove(helper)
        if not here:
            del self.helpers[seat]
        if helper.run is not None:
            self.waits(helper.run, None)
        if helper.spare is not None:
            self._take_back_slot(helper.spare)
        self._has_room = True
        self._fill()

    def help(self, helper: Helper) -> bool:
        """Gives a waiting worker a run that it waits for, or that one needs, if there is one to be had.

        Returns:
            False if its worker is blocked and was given nothing.

        Raises:
            WaitCycle: the run would wait for itself.
        """
        helper.looked()
        slot = helper.batch.slot
        here = self.helpers.get(self._seat_of(helper.batch), [])
        if not helper.blocks or helper is not next((h for h in reversed(here) if h.blocks), None):
            return True
        if helper in self._helping.values():
            return True
        work = self.wait_for(helper.wanted, helper, helper.stack)
        if work is None:
            return False
        if type(work) is TaskFuture:
            work._phase = SENT
        runs = [work] if type(work) is TaskFuture else work
        if helper.spare is not None:
            batch = self._new_batch(helper.spare, runs, None)
            self.slots[helper.spare] += 1
        else:
            batch = self._new_batch(slot, runs, None)
            batch.helper = helper
        self._helping[batch.number] = helper
        self.effects.append((LAUNCH, batch))
        return True

    def _seat_of(self, batch: Batch) -> int:
        """Where a batch runs: batches with the same seat are on top of each other."""
        if not self.capabilities.queues:
            return batch.slot
        while batch.helper is not None:
            batch = batch.helper.batch
        return -batch.number

    def _lend(self) -> int:
        """A spare slot. It gets only what its helper waits for: given anything, its worker might wait in turn for
        others that lend theirs, and there would be as many workers as runs.
        """
        spare = max(self.slots, default=-1) + 1
        self.slots[spare] = 0
        self._spares.add(spare)
        self._has_room = True
        return spare

    def _take_back_slot(self, slot: int) -> None:
        if slot not in self.slots:
            return
        self._leaving.add(slot)
        self._let_go(slot)

    def _let_go(self, slot: int) -> None:
        """A spare slot ends once nothing is in flight there."""
        in_use = slot in self.helpers or any(b.slot == slot for b, _ in self.batches.values())
        if slot in self._leaving and not in_use:
            self._leaving.discard(slot)
            self._spares.discard(slot)
            self.slots.pop(slot, None)
            self.effects.append((GONE, slot))

    # ------------------------------------------------------------------ recalls

    def _look_for_idle(self) -> None:
        """Has the dispatcher look again in a while if a slot is idle and another has more than it is at."""
        if not self.capabilities.recalls or self.ready or not self.batches or not self._idle_slot():
            return
        if any(self._can_be_shared(batch, positions) for batch, positions in self.batches.values()):
            self.effects.append((IDLE,))

    def _idle_slot(self) -> bool:
        if self.capabilities.queues:  # no worker is idle while the engine has something for it
            return len(self.batches) - len(self._helping) < len(self.slots) - len(self._spares)
        return any(
            in_flight == 0 or self._is_blocked(slot)
            for slot, in_flight in self.slots.items()
            if slot not in self._spares
        )

    def recall(self) -> None:
        """If a slot is still idle: what others have not begun becomes ready again."""
        if self.ready or not self._idle_slot():
            return
        for batch, positions in self.batches.values():
            if self._can_be_shared(batch, positions):
                self._recalled.add(batch.number)
                self.effects.append((RECALL, batch))

    def _can_be_shared(self, batch: Batch, positions: set[int]) -> bool:
        """Whether its worker may hold runs of a batch that another could begin."""
        if batch.number in self._recalled:
            return False
        if self.capabilities.queues:
            return len(positions) > batch.linked + 1
        return len(positions) > batch.linked + 1 or self.slots.get(batch.slot, 0) > 1

    def _is_blocked(self, slot: int) -> bool:
        return any(helper.blocks for helper in self.helpers.get(slot, ()))

    # ------------------------------------------------------------------ batches

    def cancel_some(self, most: int, now: float) -> bool:
        """See `Scheduler`; what is in flight last."""
        if super().cancel_some(most, now) or self._cancel_ready(self.ready_async, most, now) <= 0:
            return True
        # What was sent last first: the end of what runs must not let a worker begin what is about to be cancelled.
        for batch, positions in reversed(list(self.batches.values())):
            for position in sorted(positions, reverse=True):
                self.cancel(self.run_at(batch, position), now)
        return False

    def run_at(self, batch: Batch, position: int) -> TaskFuture[Any]:
        """The run at a position of a batch, with its call if it is open."""
        if type(batch.runs) is not Span:
            return batch.runs[position]  # type: ignore[no-any-return]
        record = batch.runs.record
        index = batch.runs.start + position
        future = record.materialize(index)
        if future._phase < DONE:
            future._claim()
            if future._call is None:
                future._call = record.call(index)
            if future._phase == READY:
                future._phase = SENT
        return future

    def slots_changed(self, numbers: Iterable[int], *, awaited: bool = False) -> None:
        """These slots exist now; no worker behind them yet if they are `awaited`."""
        self.slots = dict.fromkeys((*numbers, *(self._spares & self.slots.keys())), 0)
        self._seconds.clear()
        for batch, _ in self.batches.values():  # a slot that comes again may have left some behind
            if batch.helper is None and batch.number not in self._on_loops:
                self._count(batch)
        self._awaited = awaited
        self._has_room = True
        self._fill()

    def _fill(self) -> None:
        """Launches batches while something is ready and a slot has room."""
        if self.broken is not None:
            return
        while self.ready_async:
            slot = min(
                self.slots.keys() - self._spares,
                key=lambda number: (self.loops.get(number, 0), number),
                default=None,
            )
            if slot is None or self.loops.get(slot, 0) >= LOOP_WINDOW:
                break
            if len(self._under_way) >= len(self.slots):
                break  # what comes meanwhile travels together
            batch = self._make_batch(self.ready_async, slot, len(self.slots))
            if batch is not None:
                self.loops[slot] = self.loops.get(slot, 0) + 1
                self._on_loops[batch.number] = True
                if self.capabilities.queues:
                    self._under_way.add(batch.number)
                self.effects.append((LAUNCH, batch))
        while self.ready:
            slot, idle = self._roomiest()
            if slot is None or not self._takes_more(slot):
                self._has_room = False
                return
            if idle == 0 and self._few_ready():
                return  # it is better company for what comes while the slots are busy
            batch = self._make_batch(self.ready, slot, idle or len(self.slots))
            if batch is None:
                return
            self._count(batch)
            self.effects.append((LAUNCH, batch))
        self._look_for_idle()

    def _count(self, batch: Batch) -> None:
        """A batch is in flight at its slot."""
        slot = batch.slot
        if slot in self.slots:
            self.slots[slot] += 1
            if self.policy.seconds:
                self._seconds[slot] = self._seconds.get(slot, 0.0) + self._seconds_of(batch)

    def _takes_more(self, slot: int) -> bool:
        if self._awaited:
            return self.slots[slot] == 0
        if not self.policy.seconds:
            return self.slots[slot] < self.policy.window
        item = self.ready[0]
        task = item._task if type(item) is TaskFuture else item.task  # type: ignore[union-attr]
        seconds, observed = self.durations.of(task)
        known = (
            self.policy.is_known(seconds, observed) if seconds is not None else task in self._slow
        )
        if seconds is None and task not in self._asked_of:
            self._asked_of.add(task)
            self.effects.append((UNKNOWN, task))
        return self.policy.has_room(self.slots[slot], self._seconds.get(slot, 0.0), known=known)

    def is_slow(self, task: Task[Any, Any]) -> None:
        """The first runs of a task take their time: the engine is to see how many there are."""
        if self.durations.of(task)[0] is None:
            self._slow.add(task)
            self._has_room = True
            self._fill()

    def _seconds_of(self, batch: Batch) -> float:
        """How much work a batch counts for."""
        return GUESS * len(batch) if batch.seconds is None else batch.seconds

    def _roomiest(self) -> tuple[int | None, int]:
        """The slot with the least in flight, and how many have nothing."""
        if not self.helpers and not self._spares:
            slot = min(self.slots, key=self.slots.__getitem__, default=None)
            if slot is None or self.slots[slot]:
                return slot, 0
            return slot, sum(1 for in_flight in self.slots.values() if in_flight == 0)
        usable = {
            slot: in_flight
            for slot, in_flight in self.slots.items()
            if slot not in self._spares and not self._is_blocked(slot)
        }
        slot = min(usable, key=usable.__getitem__, default=None)
        return slot, sum(1 for in_flight in usable.values() if in_flight == 0)

    def _few_ready(self) -> bool:
        """Whether what is ready would fill less than a quarter of a message."""
        item = self.ready[0]
        seconds, observed = self.durations.of(item._task if type(item) is TaskFuture else item.task)  # type: ignore[union-attr]
        if seconds is None or seconds >= self.policy.alone or type(item) is not TaskFuture:
            return False
        most = self.policy.size(seconds, observed, 1 << 30, 1, None)
        return len(self.ready) < most // 4

    def company_of(self, future: TaskFuture[Any]) -> Any:
        """Only runs of the same company travel together: same options, same demands, large inputs in the same place."""
        call = future._call
        places = {
            entry.future._outcome.place
            for entry in (future._detail.upstreams if future._detail is not None else ())
            if isinstance(entry.future, TaskFuture) and isinstance(entry.future._outcome, Handle)
        }
        return (
            call.options if call is not None else None,
            tuple(sorted(future._task.resources.items())) if future._task.resources else None,
            frozenset(places),
        )

    def _make_batch(
        self, ready: deque[TaskFuture[Any] | MapRecord[Any]], slot: int, spread: int
    ) -> Batch | None:
        runs: Any = []
        total = 0.0
        limit = 1 << 30
        known = True
        linked = 0
        company: Any = None
        while ready and len(runs) < limit:
            item = ready[0]
            task = item._task if type(item) is TaskFuture else item.task  # type: ignore[union-attr]
            seconds, observed = self._expected(task)
            if type(item) is MapRecord:
                if runs:
                    break
                if not item.unclaimed:
                    ready.popleft()
                    item.queued = False
                    continue
                return self._record_batch(ready, item, slot, spread, seconds, observed)
            assert isinstance(item, TaskFuture)
            if item._phase != READY or not hasattr(item, "_start"):
                ready.popleft()
                continue
            size = self.policy.size(
                seconds, observed, len(ready) + len(runs), spread, task.batch_limit
            )
            if runs and (
                size == 1
                or total + (seconds or 0.0) > self.policy.target
                or task.is_async != runs[0]._task.is_async
            ):
                break
            alone = item._detail is not None and item._detail.alone
            if self.capabilities.sorts:
                wanted, company = company, self.company_of(item)
                if runs and company != wanted:
                    break
                alone = alone or _travels_alone(item)
            if alone:
                if runs:
                    break
                size = 1
            limit = min(limit, size)
            ready.popleft()
            item._claim()
            item._phase = SENT
            runs.append(item)
            total += seconds or 0.0
            known = known and seconds is not None
            if item._detail is not None and item._detail.dependants and self.capabilities.fuses:
                before = len(runs)
                self._fuse(runs, item)
                limit = min(limit + len(runs) - before, self.policy.cap)
                linked += len(runs) - before
        if not runs:
            return None
        batch = self._new_batch(slot, runs, total if known else None)
        batch.linked = linked
        return batch

    def _fuse(self, runs: list[TaskFuture[Any]], last: TaskFuture[Any]) -> None:
        """Lets the chain that hangs on a run travel with it: each run the only one that waits for the one before."""
        if last._task.is_async or last._task.batch_limit == 1 or last._details().alone:
            return
        if _travels_alone(last):
            return
        while len(runs) < self.policy.cap:
            dependants = last._details().dependants
            if not dependants or len(dependants) != 1:
                return
            follower, allow_failure = dependants[0]
            detail = follower._details()
            if (
                allow_failure
                or follower._phase != WAITING
                or detail.blockers != 1
                or detail.limited
                or detail.alone
                or follower._dispatcher.scheduler is not self
                or follower._task.is_async
                or follower._task.batch_limit is not None
                or (
                    self.capabilities.sorts
                    and self.company_of(follower) != self.company_of(runs[0])
                )
            ):
                return
            self.waiting.discard(follower)
            follower._phase = SENT
            runs.append(follower)
            last = follower

    def _take_span(
        self, record: MapRecord[Any], spread: int, seconds: float | None, observed: int
    ) -> Span:
        start, stop = record.unclaimed[0]
        most = 1 if getattr(record.options, "alone", False) else record.task.batch_limit
        size = self.policy.size(seconds, observed, stop - start, spread, most)
        if start + size >= stop:
            size = stop - start
            record.unclaimed.popleft()
        else:
            record.unclaimed[0] = (start + size, stop)
        for index in range(start, start + size) if record.futures else ():
            future = record.futures.get(index)
            if future is not None and future._claim():
                future._phase = SENT
        return Span(record, start, start + size)

    def _expected(self, task: Task[Any, Any]) -> tuple[float | None, int]:
        """How long a run of a task holds up those behind it in a batch, and the number of observations."""
        if task.is_async and self.capabilities.loops:
            return 0.0, self.policy.cap  # they run side by side
        return self.durations.of(task)

    def _record_batch(
        self,
        ready: deque[TaskFuture[Any] | MapRecord[Any]],
        record: MapRecord[Any],
        slot: int,
        spread: int,
        seconds: float | None,
        observed: int,
    ) -> Batch:
        span = self._take_span(record, spread, seconds, observed)
        if not record.unclaimed:
            ready.popleft()
            record.queued = False
        return self._new_batch(slot, span, None if seconds is None else seconds * len(span))

    def _new_batch(self, slot: int, runs: Any, seconds: float | None) -> Batch:
        self._batch_number += 1
        batch = Batch(self._batch_number, slot, runs, seconds)
        self.batches[batch.number] = (batch, set(range(len(batch))))
        return batch

    def batch_reported(
        self, number: int, positions: Sequence[int], values: Sequence[Any], ends: Sequence[float]
    ) -> None:
        """Runs of a batch have ended; late reports are dropped.

        Args:
            number: the batch.
            positions: of the runs in it.
            values: for each its value, or an `Outcome` where there is more to say.
            ends: when each ended, seconds since the epoch.
        """
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        span = batch.runs if type(batch.runs) is Span else None
        if span is not None and self._complete_range(span, open_positions, positions, values, ends):
            return
        for position, value, end in zip(positions, values, ends, strict=True):
            if position not in open_positions:
                continue
            open_positions.discard(position)
            if type(value) is Outcome:
                self.ended(self.run_at(batch, position), value, end)
            elif span is not None:
                self.element_completed(span.record, span.start + position, value, end)
            else:
                self.complete(batch.runs[position], value, end)

    def _complete_range(
        self,
        span: Span,
        open_positions: set[int],
        positions: Sequence[int],
        values: Sequence[Any],
        ends: Sequence[float],
    ) -> bool:
        """Takes the ends of consecutive elements together, if each has just completed: column by column, but for those
        of which somebody has the future. Hot.
        """
        record = span.record
        if (
            type(positions) is not range
            or not record.kept
            or not open_positions.issuperset(positions)
            or Outcome in map(type, values)
        ):
            return False
        open_positions.difference_update(positions)
        start = span.start + positions.start
        stop = start + len(positions)
        futures = record.futures
        known = [index for index in range(start, stop) if index in futures] if futures else []
        first = start
        for index in [*known, stop]:
            if first < index:
                here = slice(first - start, index - start)
                self.elements_completed(record, first, values[here], ends[here])
            if index < stop:
                self.element_completed(record, index, values[index - start], ends[index - start])
            first = index + 1
        return True

    def batch_observed(
        self, number: int, seconds: float, count: int, *, at_least: bool = False
    ) -> None:
        """Runs of a batch took this long together.

        Args:
            number: the batch.
            seconds: how long.
            count: how many runs.
            at_least: whether they have not ended, so that only a longer time than expected tells anything.
        """
        entry = self.batches.get(number)
        if entry is not None and count:
            runs = entry[0].runs
            task = runs.record.task if type(runs) is Span else runs[0]._task
            if at_least and seconds <= max(self.durations.of(task)[0] or 0.0, self.policy.target):
                return  # within what a message may take: perhaps the machine was at something else
            self.durations.observe(task, seconds, count)

    def batch_handed_back(self, number: int, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        back = sorted(open_positions.intersection(positions))
        open_positions.difference_update(back)
        self._again(batch, back)
        self._fill()

    def batch_split(self, number: int) -> None:
        """A batch could not be unpacked: its runs become ready again, to travel alone."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        for position in sorted(open_positions, reverse=True):
            future = self.run_at(batch, position)
            future._details().alone = True
            if future._phase < DONE:
                self._first_again(future)
        open_positions.clear()
        self.batch_closed(number)

    def batch_closed(self, number: int, helper: Helper | None = None) -> None:
        """A batch has said all; what it never spoke of was not started and becomes ready again.

        Args:
            number: the batch.
            helper: what waits for a run of it, and is given that before others are.
        """
        wanting, entry = helper, self.batches.pop(number, None)
        if entry is None:
            return
        batch, open_positions = entry
        self._recalled.discard(number)
        self._under_way.discard(number)
        helper = self._helping.pop(number, None)
        self._again(batch, sorted(open_positions))
        if helper is not None:
            helper.look_again()
            if batch.helper is None:  # at the spare slot of who waits
                self.slots[batch.slot] -= 1
        elif number in self._on_loops:
            if self._on_loops.pop(number):
                self.loops[batch.slot] -= 1
        elif batch.slot in self.slots:
            self.slots[batch.slot] -= 1
            if batch.slot in self._seconds:
                left_over = self._seconds[batch.slot] - self._seconds_of(batch)
                self._seconds[batch.slot] = left_over if self.slots[batch.slot] else 0.0
        for left in [h for h in self.helpers.get(self._seat_of(batch), ()) if h.batch is batch]:
            self.run_resumed(left)  # its worker died while it waited
        if batch.slot in self._leaving:
            self._let_go(batch.slot)
        self._has_room = True
        if wanting is not None:
            here = self.helpers.get(self._seat_of(wanting.batch), ())
            if wanting in here and not self.help(wanting):
                wanting.look_again()  # its run was cancelled meanwhile, say, and it waits for others too
        self._fill()

    def _again(self, batch: Batch, positions: Sequence[int]) -> None:
        """Runs of a batch that were not started become ready again, before what came later."""
        if type(batch.runs) is Span:
            record = batch.runs.record
            for position in reversed(positions):
                index = batch.runs.start + position
                future = record.futures.get(index)
                if future is not None:
                    if future._phase >= DONE:
                        continue
                    if future._call is not None:
                        self._first_again(future)
                        continue
                    future._phase = READY
                    future._start = True
                    self._tell_wanting(future._details().wanted)
                first = record.unclaimed[0] if record.unclaimed else (-1, -1)
                if first[0] == index + 1:
                    record.unclaimed[0] = (index, first[1])
                else:
                    record.unclaimed.appendleft((index, index + 1))
            if record.unclaimed and not record.queued:
                record.queued = True
                self._lane(record.task).appendleft(record)
            if positions:
                self._tell_wanting(record.wanted)
            return
        for position in reversed(positions):
            future = batch.runs[position]
            if future._phase < DONE:
                self._first_again(future)

    def _first_again(self, future: TaskFuture[Any]) -> None:
        detail = future._details()
        detail.blockers = sum(
            1
            for entry in detail.upstreams
            if isinstance(entry.future, TaskFuture) and entry.future._phase < DONE
        )
        if detail.blockers:  # it travelled in one batch with what it waits for
            future._phase = WAITING
            self.waiting.add(future)
            self._tell_wanting(detail.wanted)  # they can be given what it waits for
            return
        if self.broken is not None:
            self.settle(future, CRASHED, self.broken(future.name), future._since)
            return
        future._phase = READY
        future._start = True
        self._lane(future._task).appendleft(future)
        self._tell_wanting(detail.wanted)

    def batch_arrived(self, number: int) -> None:
        """A worker has a batch, and begins."""
        if number in self._under_way:
            self._under_way.discard(number)
            self._fill()

    def batch_started(self, number: int, position: int) -> TaskFuture[Any] | None:
        """A run of a batch has begun.

        Returns:
            The run, if it is open.
        """
        entry = self.batches.get(number)
        if entry is None or position not in entry[1]:
            return None
        future = self.run_at(entry[0], position)
        if future._phase == SENT:
            future._phase = RUNNING
        return future if future._phase == RUNNING else None

    def batch_lost(
        self,
        number: int,
        error: Callable[[str], BaseException],
        maybe_started: Sequence[int] | None,
        now: float,
    ) -> None:
        """A batch's worker died: what may have started is CRASHED or, within `crash_retries`, sent again."""
        entry = self.batches.get(number)
        if entry is None:
            return
        batch, open_positions = entry
        begun = (
            open_positions if maybe_started is None else open_positions.intersection(maybe_started)
        )
        for position in sorted(begun):
            open_positions.discard(position)
            future = self.run_at(batch, position)
            if future._phase >= DONE:
                continue
            detail = future._details()
            if detail.overdue:  # it was stopped at its limit, and has attempts left
                self.effects.append((OVERDUE, future, future._call))
            elif detail.crashes < future._task.crash_retries:
                detail.crashes += 1
                self.cancel_timer(future)
                self._first_again(future)
            else:
                self.settle(future, CRASHED, error(future.name), now)
        self.batch_closed(number)


def _travels_alone(run: TaskFuture[Any]) -> bool:
    """Whether the engine's options of a run say that it shares no message."""
    return run._call is not None and getattr(run._call.options, "alone", False)
