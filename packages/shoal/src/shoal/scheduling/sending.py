"""What is ready goes to the slots that have room. Pure; `pushing` says how this fits with its neighbours.

May import `scheduler`, `forming`, `worker_slots` and `waits`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from shoal.calls import CRASHED, DONE, READY, SENT, Batch
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.scheduling.caps import Line, came_first, caps_of
from shoal.scheduling.effects import FILL, IDLE, LAUNCH, RECALL, UNKNOWN
from shoal.scheduling.forming import BatchMaker
from shoal.scheduling.scheduler import Scheduler
from shoal.scheduling.waits import WorkerWaits
from shoal.scheduling.worker_slots import Slots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.capabilities import Capabilities
    from shoal.scheduling.caps import Caps
    from shoal.specs import TaskSpec

__all__ = ["SendingScheduler"]

#: Batches that are made before they are sent. For ten thousand workers a million may be due at once, which takes seconds.
MADE_AT_ONCE = 256


class SendingScheduler(Scheduler):
    """The half of `PushingScheduler` that sends.

    It owns what is in flight, and enters what it sends there; the other half takes it out. A worker that waits for
    runs is blocked: its slot gets nothing but what it waits for, in batches that count towards no window. Where a slot
    has nothing to do while another holds runs it has not begun, these are recalled.

    Args:
        capabilities: of the backend.

    Attributes:
        batches: what is in flight: each batch, and the positions in it that have not been reported.
        recalled: those of them whose workers were asked for what they have not begun.
        slots: how much of it is where.
        maker: forms the batches.
        worker_waits: the runs that wait on workers.
        latest: the highest number that a batch in flight has had.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        super().__init__(capabilities)
        self.batches: dict[int, tuple[Batch, set[int]]] = {}
        self.recalled: set[int] = set()
        self.latest = 0
        self.slots = Slots(self.policy)
        self.maker = BatchMaker(capabilities, self.durations, self.waiting)
        self.worker_waits = WorkerWaits(self)
        # Where a slot is a worker's own, which executes its batches one after another.
        self._sends_ahead = capabilities.recalls and not capabilities.queues
        self._asked_of: set[TaskSpec] = set()  # tasks of which nothing is known yet
        self._slow: set[TaskSpec] = set()  # those whose first runs take their time
        self._several: OrderedDict[int, None] = (
            OrderedDict()
        )  # batches in flight that may be shared
        self._enough = 0.0  # runs below which `fill` would find too few ready, as it did last

    # ------------------------------------------------------------------ what is ready

    def _push(self, future: TaskFuture[Any]) -> None:
        if self.broken is not None:
            self.settle(future, CRASHED, self.broken(future.name), future._since)
            return
        future._start = True
        task = future._task
        if task.is_apart or self.caps is not None:
            self.ready_queue(task).append(future)
            self.fill()
            return
        self.ready.append(future)
        if self.ready_async or (self.slots.has_room and len(self.ready) >= self._enough):
            self.fill()

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
            self.ready_queue(record.task).append(record)
        else:
            self.ready_queue(record.task).appendleft(record)
        self.fill()

    def ready_queue(self, task: TaskSpec) -> deque[Any]:
        """Where runs of a task are queued when they are ready; `fill` follows."""
        if task.cap is not None or self.caps is not None:
            line = caps_of(self).line_of(task)
            if line is not None:
                return line.items
        return self.ready_async if self._goes_to_a_loop(task) else self.ready

    def _goes_to_a_loop(self, task: TaskSpec) -> bool:
        return task.is_async and self.capabilities.loops

    def claim(self, future: TaskFuture[Any]) -> bool:
        """Takes a ready run out of its turn, for a worker that waits for it."""
        if self._goes_to_a_loop(future._task) and not self.capabilities.queues:
            return False  # it is sent at once, or waits for nothing but a loop or a place; a queue may be behind who waits
        if self.caps is not None and self.caps.refuses(future):
            return False
        if not (self.pick(future) and future._claim()):
            return False
        if future._call is None:
            record, index = future._details().origin  # type: ignore[misc]  # only an element has no call yet
            future._call = record.call(index)
        return True

    def claim_span(self, record: MapRecord[Any]) -> Span | None:
        """Takes some elements of a map out of their turn, for a worker that waits for it."""
        if not record.unclaimed or (self.caps is not None and self.caps.refuses(record)):
            return None
        seconds, observed = self.maker.expected(record.task)
        span = self.maker.take_span(record, len(self.slots.in_flight), seconds, observed)
        if record.unclaimed:
            self._push_record(record, last=False)
        return span

    def cancel_some(self, most: int, now: float) -> bool:
        """See `Scheduler`; what is in flight last."""
        if super().cancel_some(most, now):
            return True
        # What was sent last first: the end of what runs must not let a worker begin what is about to be cancelled.
        for batch, positions in reversed(list(self.batches.values())):
            for position in sorted(positions, reverse=True):
                self.endings.cancel(self.run_at(batch, position), now)
        return False

    # ------------------------------------------------------------------ what is sent

    def slots_changed(self, numbers: Iterable[int], *, awaited: bool = False) -> None:
        """These slots exist now; no worker behind them yet if they are `awaited`."""
        self.slots.replace(numbers, awaited=awaited)
        self.fill()

    def fill(self) -> None:
        """Launches batches while something is ready and a slot has room; many not all at once, but those that are made leave
        before the next are.
        """
        if self.broken is not None:
            return
        slots = self.slots
        last = self.latest + MADE_AT_ONCE
        self._enough = 0.0
        if self.caps is not None:
            self._queue_lines(self.caps)
        while self.ready_async:
            slot = slots.roomiest_loop()
            if slot is None:
                break
            batch = self.maker.make(self.ready_async, slot, len(slots.in_flight))
            if batch is not None:
                slots.count_on_loop(batch, under_way=self.capabilities.queues)
                self.launch(batch)
        given = 0  # slots that have got their share, as bits: once one is idle all get one, behind what they are at
        while self._is_any_ready():
            blocked = self.worker_waits.blocked()
            slot, idle = slots.roomiest(blocked, given)
            if slot is None or not self._takes_more(slot):
                if given:
                    given = 0
                    continue
                slots.has_room = False
                return
            spread = len(slots.in_flight)
            if idle or (given and not self.capabilities.queues):
                spread = max(spread - len(slots.spares) - len(blocked) - given.bit_count(), 1)
                given |= 1 << slot
            else:
                self._enough = self._worth_sending()
                if len(self.ready) < self._enough:
                    return  # it is better company for what comes while the slots are busy
            batch = self.maker.make(self.ready, slot, spread)
            if batch is None:
                return
            slots.count(batch)
            self.launch(batch)
            if batch.number >= last:
                self.effects.append((FILL,))
                return
        if self.caps is not None and self._sends_ahead:
            self._send_ahead(self.caps)
        self._look_for_idle()

    def _send_ahead(self, caps: Caps) -> None:
        """A slot that has a place has its next batch under it before the last has ended, if that will be soon."""
        slots = self.slots
        blocked = self.worker_waits.blocked()
        for line, at_slots in caps.kept():
            for slot in at_slots:
                if slot in blocked or slot in slots.spares or slot not in slots.in_flight:
                    continue
                while slots.in_flight[slot] < self.policy.window and line.prune():
                    seconds, _ = self.durations.of(line.task)
                    if seconds is None or seconds >= self.policy.alone:
                        break
                    batch = self.maker.make(line.items, slot, len(at_slots))
                    if batch is None:
                        break
                    slots.count(batch)
                    self.launch(batch)

    def serve_caps(self) -> None:
        """See `Scheduler`."""
        self.fill()

    def _queue_lines(self, caps: Caps) -> None:
        """Free places go to who waits to go on; of what is ready, what could start now is queued before what came later."""
        caps.serve()
        caps.tell_refused()
        for line in caps.startable():
            line.queued = True
            queue = self.ready_async if line.on_loop and self.capabilities.loops else self.ready
            queue.insert(0 if queue and came_first(line, queue[0]) else 1, line)

    def _is_any_ready(self) -> bool:
        """Whether anything is ready that could start; what was taken out of its turn is among it until that is found out."""
        return Line.pruned(self.ready)

    def launch(self, batch: Batch) -> None:
        """A batch is in flight from now."""
        if self.caps is not None:
            alone = not self._sends_ahead or batch.blocked_run is not None
            slot = None if alone else batch.slot
            self.caps.sent(batch.number, batch.runs, loops=self.capabilities.loops, slot=slot)
        self.batches[batch.number] = (batch, set(range(len(batch))))
        self.latest = max(self.latest, batch.number)
        if len(batch) > batch.linked + 1:
            self._several[batch.number] = None
        self.effects.append((LAUNCH, batch))

    def _takes_more(self, slot: int) -> bool:
        in_flight = self.slots.in_flight[slot]
        if self.slots.awaited:
            return in_flight == 0
        if not self.policy.seconds:
            return in_flight < self.policy.window
        item = self.ready[0]
        task = item._task if type(item) is TaskFuture else item.task  # type: ignore[union-attr]
        seconds, observed = self.durations.of(task)
        known = (
            self.policy.is_known(seconds, observed) if seconds is not None else task in self._slow
        )
        if seconds is None and task not in self._asked_of:
            self._asked_of.add(task)
            self.effects.append((UNKNOWN, task))
        return self.policy.has_room(in_flight, self.slots.seconds.get(slot, 0.0), known=known)

    def _worth_sending(self) -> float:
        """How many runs have to be ready for a message while all slots are busy: what fills a quarter of one."""
        item = self.ready[0]
        if type(item) is not TaskFuture:
            return 0.0
        seconds, observed = self.durations.of(item._task)
        if seconds is None or seconds >= self.policy.alone:
            return 0.0
        return self.policy.quarter(seconds, observed)

    def is_slow(self, task: TaskSpec) -> None:
        """The first runs of a task take their time: the system is to see how many there are."""
        if self.durations.of(task)[0] is None:
            self._slow.add(task)
            self.slots.has_room = True
            self.fill()

    def run_at(self, batch: Batch, position: int) -> TaskFuture[Any]:
        """The run at a position of a batch, which may have left it since."""
        entry = self.batches.get(batch.number)
        if type(batch.runs) is Span and (entry is None or position not in entry[1]):
            return batch.runs.record.materialize(batch.runs.start + position)
        return self._sent_at(batch, position)

    def _sent_at(self, batch: Batch, position: int) -> TaskFuture[Any]:
        """The run at a position of a batch in which it was sent last, with its call if it is open."""
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

    # ------------------------------------------------------------------ recalls

    def _lingers(self, future: TaskFuture[Any]) -> None:
        """See `Scheduler`: a run that its worker has not begun comes back before what runs ahead of it has ended."""
        if not self.capabilities.recalls:
            return
        for batch, _ in self.batches.values():
            if type(batch.runs) is not Span and future in batch.runs:
                self._recall(batch)

    def lend_place(self, number: int, blocked_run: BlockedRun) -> None:
        """A run of a batch waits: it lends its place, and what its slot had ahead under this is for others."""
        assert self.caps is not None  # there are places
        for other in self.caps.lend(number, blocked_run):
            self._recall(self.batches[other][0])

    def _recall(self, batch: Batch) -> None:
        if batch.number not in self.recalled:
            self.recalled.add(batch.number)
            self.effects.append((RECALL, batch))

    def recall(self) -> None:
        """If a slot is still idle: what others have not begun becomes ready again."""
        if self._is_any_ready() or not self._idle_slot():
            return
        for number in list(self._several if self.capabilities.queues else self.batches):
            batch, positions = self.batches[number]
            if self._can_be_shared(batch, positions):
                self._recall(batch)

    def _look_for_idle(self) -> None:
        """Has the dispatcher look again in a while if a slot is idle and another has more than it is at."""
        if not self.capabilities.recalls or not self.batches:
            return
        if self._is_any_ready() or not self._idle_slot():
            return
        if self._can_any_be_shared():
            self.effects.append((IDLE,))

    def _idle_slot(self) -> bool:
        if self.capabilities.queues:  # no worker is idle while the system has something for it
            at_slots = len(self.batches) - len(self.worker_waits.helping)
            return at_slots < len(self.slots.in_flight) - len(self.slots.spares)
        return self.slots.has_idle(self.worker_waits.blocked())

    def _can_any_be_shared(self) -> bool:
        if not self.capabilities.queues:
            return any(self._can_be_shared(*entry) for entry in self.batches.values())
        # Of ten thousand batches in flight all may be of one run: nothing is looked at twice.
        several = self._several
        while several:
            number = next(iter(several))
            if self._can_be_shared(*self.batches[number]):
                return True
            if self.caps is not None:
                return any(self._can_be_shared(*self.batches[number]) for number in several)
            del several[number]  # nor can it ever be
        return False

    def _can_be_shared(self, batch: Batch, positions: set[int]) -> bool:
        """Whether its worker may hold runs of a batch that another could begin."""
        if batch.number in self.recalled:
            return False
        at_slot = 1 if self.capabilities.queues else self.slots.in_flight.get(batch.slot, 0)
        if self.caps is not None and not self.caps.can_be_shared(batch.number, at_slot):
            return False
        return len(positions) > batch.linked + 1 or at_slot > 1
