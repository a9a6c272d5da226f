"""A worker process: runs batches on its main thread, coroutines on its loop, and talks with the driver.

    driver ──batch──▶ receiver thread ──▶ queue ──▶ main thread ─▶ each run through the engine ─▶ record ──report──▶ driver
              recall, interrupt ─▶ (receiver)                │
                                                             └─ waits: hands back what was not begun, asks the driver
                                                                for what it waits for, and runs that meanwhile

Who does what:

    main thread   takes batches from the queue and claims each run by a step of the batch's iterator; the only one
                  that runs sync tasks
    receiver      reads messages; exhausts a batch's iterator for a recall; interrupts; settles futures of this side
    loop          runs async tasks, those of a batch side by side
    timer         reports what ended while a slow run is at it

The driver's death closes the socket, which ends the worker whatever it is at. Nothing here knows the user's
`__main__`.

May import `remote`, `parcels`, `record`, `wire`, and what lies above task runners.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import signal
import socket
import struct
import threading
import time
from collections import deque
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands import names
from manyhands.calls import CANCELLED, COMPLETED, FAILED, Call, Outcome
from manyhands.context import HERE, LOCK, SCOPE, TAGS, Scope
from manyhands.engine.batch_run import flow_run_of, pack_outcome
from manyhands.engine.inputs import ATOMS
from manyhands.engine.interrupt import Frame, Frames, Interrupt
from manyhands.engine.services import TIMERS
from manyhands.engine.task_run import attempt, overdue_outcome, raised, returned, run_plain
from manyhands.exceptions import NestingTooDeep
from manyhands.futures.blocking import Countdown
from manyhands.logs import library_logger, log_prints_of, name_of
from manyhands.serialization import dumps, find_culprit, loads, portable_error
from manyhands.task_runners.processes import parcels, wire
from manyhands.task_runners.processes.batches import Batch, Rows, Tasks, Told, Untold
from manyhands.task_runners.processes.coroutines import Coroutines
from manyhands.task_runners.processes.parcels import LARGE, Store, Stored, pack, unpack
from manyhands.task_runners.processes.record import (
    BEGUN,
    REPORT_EVERY,
    TOLD,
    Record,
    size_of_record,
)
from manyhands.task_runners.processes.remote import RemoteDispatcher
from manyhands.task_runners.processes.segments import NoSegment, Segment, SegmentPool
from manyhands.task_runners.processes.wire import Message, WorkerChannel

if TYPE_CHECKING:
    import asyncio

    from manyhands.futures.blocking import Wanted

__all__ = ["Settings", "main"]

#: How deep runs may run what they wait for on one stack.
DEEPEST = 80
#: Seconds that a run may go on when the driver has gone.
LAST_GRACE = 2.0
#: Kicks the main thread out of a system call, so that an interrupt is raised there: a signal that programs seldom use
#: for themselves. `None` where there is none.
KICK = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGUSR2", None)

REPORT = struct.Struct("<QdI?")


class Settings(NamedTuple):
    """What a worker is told when it starts.

    Attributes:
        number: of the worker, among those of its runner.
        entropy: of the driver, so that run ids read the same here.
        block: the first of the run numbers that are the worker's own.
        block_size: how many these are.
        level: of the `manyhands` loggers.
        most: runs after which it retires, `None` for never.
        initializer: pickled `(function, arguments)`, `None` for none.
        segments: the most large values to keep in shared memory: the driver has a descriptor of each.
    """

    number: int
    entropy: int
    block: int
    block_size: int
    level: int
    most: int | None
    initializer: bytes | None
    segments: int


def main(fds: list[int], settings: bytes) -> None:
    """What a worker process does, from its start to its end.

    Args:
        fds: its socket, and its record's memory.
        settings: a pickled `Settings`.
    """
    connection = socket.socket(fileno=fds[0])
    memory = mmap.mmap(fds[1], size_of_record())
    os.close(fds[1])
    Worker(connection, Record(memory), Settings(*loads(settings))).serve()


class Worker:
    """This process."""

    def __init__(self, connection: socket.socket, record: Record, settings: Settings) -> None:
        self.channel = WorkerChannel(connection)
        self.record = record
        self.settings = settings
        self.queue: SimpleQueue[Batch | None] = SimpleQueue()
        self.batches: dict[int, Batch] = {}
        self.frames = Frames()
        self.pool = SegmentPool()
        self.store = Store((settings.number + 1) << 40, self.pool.take)
        self.made: dict[int, Segment] = {}
        self.attached: dict[int, Stored] = {}
        self._mapped: dict[int, int] = {}
        self._unmapped: deque[int] = deque()
        self.tasks = Tasks()
        self.scopes: dict[int, Scope] = Told()
        self.coroutines = Coroutines(self)
        self.remote = RemoteDispatcher(self)
        self.done = 0
        self.stopping = False
        self._gone = False
        self.retiring = False
        self._reporting = threading.Lock()
        self.overdue: set[int] = set()
        self._told_no_room = False
        self.is_child = False
        self._lost: set[int] = set()

    # ------------------------------------------------------------------ the main thread

    def serve(self) -> None:
        """Runs batches until the driver says stop, or has gone."""
        names.adopt_entropy(self.settings.entropy)
        names.number_from(self.settings.block, self.settings.block_size)
        self._set_up_logging()
        receiver = threading.Thread(target=self._receive, name="manyhands-receiver", daemon=True)
        try:
            if not self._initialize():
                return
            HERE.frames = self.frames
            HERE.block = self.block
            if KICK is not None:
                signal.signal(KICK, self._kicked)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._after_fork)
            self.channel.send(wire.READY)
            receiver.start()
            while True:
                batch = self.queue.get()
                if batch is not None:
                    self.run(batch)
                elif self.stopping and not self.coroutines.are_there():
                    break
                # else it was to wake a wait that has ended since
                del batch
        except (BrokenPipeError, ConnectionError):
            pass  # the driver has gone, and with it who could be told
        finally:
            HERE.frames = None
            HERE.block = None
            if KICK is not None:
                signal.signal(KICK, signal.SIG_IGN)

    def _after_fork(self) -> None:
        """In a child that a run has forked: it is no worker, so it ends with that run, and says nothing."""
        self.is_child = True
        for frame in self.frames.stack:
            self.frames.disarm(frame)  # which `_run` notices at no cost to others
        self.channel.leave_to_parent()

    def _initialize(self) -> bool:
        if self.settings.initializer is None:
            return True
        try:
            function, arguments = loads(self.settings.initializer)
            function(*arguments)
        except BaseException as error:
            self.channel.send(wire.UNREADY, portable_error(error, "(the initializer)"))
            return False
        return True

    def _set_up_logging(self) -> None:
        root = logging.getLogger("manyhands")
        root.handlers = [_Sender(self.channel)]
        root.propagate = False
        root.setLevel(self.settings.level)

    def run(self, batch: Batch) -> None:
        """Runs what is left of a batch, and reports. Hot."""
        rows = batch.rows
        lane = batch.lane
        words, ends, put = lane.words, lane.ends, lane.put
        numbers, positions, single = rows.numbers, rows.positions, rows.single
        scope, unreported = batch.scope, batch.unreported
        most = self.settings.most
        base = self.context(batch, 0)
        clock = time.time
        reported = batch.began = batch.observed_until = clock()
        last = len(rows) - 1
        for place in batch.indices:
            number = numbers[place]
            if batch.skipped and number in batch.skipped:
                continue
            position = positions[place]
            if single is not None:
                task = rows.task
                call = Call(task, (single[place],), None, number, base.copy(), scope)
            else:
                task, attempts, args, kwargs, tags, needs = rows.run(place)
                if needs and not all(need in batch.results for need in needs):
                    continue  # what it needs did not complete
                context = base.copy() if not tags else self.context(batch, tags)
                call = Call(task, args, kwargs, number, context, scope, attempts)
            words[position] = BEGUN
            if task.timeout_seconds is not None:
                self.channel.send(wire.BEGUN, dumps((batch.number, position)))
            outcome, value = self._run(batch, call)
            ends[position] = now = batch.began = clock()
            if outcome is not None or rows.linked or not put(position, value):
                self.put(batch, position, call, outcome, value)
            unreported.append(position)
            if place == last:
                pass  # the last report follows
            elif now - reported >= REPORT_EVERY:
                self._report(batch)
                reported = now
            elif not batch.timing:
                batch.timing = True
                TIMERS.after(REPORT_EVERY, lambda: self.report_late(batch))
            if most is not None:
                self.done += 1
                if self.done >= most:
                    self.retire()
        self.close(batch)

    def context(self, batch: Batch, tags: int) -> Context:
        context = Context()
        context.run(SCOPE.set, batch.scope)
        if batch.rows.tags[tags]:
            context.run(TAGS.set, batch.rows.tags[tags])
        return context

    def _run(self, batch: Batch, call: Call) -> tuple[Outcome | None, Any]:
        """Runs one call to the end of this attempt. Hot.

        Returns:
            Its outcome, or `None` and its value if there is no more to say.
        """
        frame = Frame(call)
        stack = self.frames.stack
        outcome: Outcome | None = None
        value: Any = None
        interrupted = False
        try:
            try:
                stack.append(frame)
                if batch.skipped and call.number in batch.skipped:
                    raise Interrupt  # it came between the look at `skipped` and here
                if batch.rows.linked and isinstance(call.args, bytes):
                    self._unpack_late(batch, call)
                if call.task.is_plain:
                    value = call.context.run(run_plain, call)
                    if type(value) not in ATOMS:
                        outcome = returned(call, value)
                        if outcome.phase == COMPLETED and outcome.state is None:
                            value, outcome = outcome.value, None
                else:
                    outcome = call.context.run(attempt, call)
            except Interrupt:
                interrupted = True
            except BaseException as error:
                outcome = call.context.copy().run(raised, call, error)
            try:
                del frame.armed
            except AttributeError:
                interrupted = True
                self._disarm(frame)
        except Interrupt:
            interrupted = True
            self._disarm(frame)
        if stack and stack[-1] is frame:
            stack.pop()
        if interrupted:
            if call.number in self.overdue:
                self.overdue.discard(call.number)
                outcome = overdue_outcome(call)
            else:
                outcome = Outcome(CANCELLED, None)
        return outcome, value

    def _disarm(self, frame: Frame) -> None:
        """Ends a frame that was interrupted; whatever was fired at it is over afterwards."""
        if self.is_child:
            os._exit(1)
        self.frames.finish(frame)

    def _unpack_late(self, batch: Batch, call: Any) -> None:
        """Arguments with values of runs of the same batch in them: unpickled now that these are known."""
        results = batch.results
        outer, parcels.HERE.upstream = parcels.HERE.upstream, lambda place: results[place]()
        try:
            call.args, call.kwargs = unpack(call.args, self.load)
        finally:
            parcels.HERE.upstream = outer

    def _kicked(self, number: int, frame: Any) -> None:
        with LOCK:
            if not self.frames.due():
                return
            self.frames.withdraw()
        raise Interrupt

    # ------------------------------------------------------------------ ends

    def put(
        self, batch: Batch, position: int, call: Call, outcome: Outcome | None, value: Any
    ) -> None:
        """Writes down how a run ended."""
        if outcome is not None:
            self._put_outcome(batch, position, call, outcome)
            return
        if batch.rows.linked and type(value) in ATOMS:
            batch.results[position] = lambda: value
        if batch.lane.put(position, value):
            return
        try:
            packed = pack(value)
        except Exception:
            error = find_culprit(value, "result", name_of(call))
            batch.results.pop(position, None)
            self._put_outcome(batch, position, call, Outcome(FAILED, error, name=call.name))
            return
        if packed.size > LARGE:
            try:
                number = self._tell_stored(batch, position, packed)
                if batch.rows.linked:
                    batch.results[position] = lambda: self.load(number)
                return
            except NoSegment as error:
                self._tell_no_room(call, packed.size, error)
        data = dumps(value) if packed.buffers else packed.data
        if batch.rows.linked:
            batch.results.setdefault(position, lambda: loads(data))
        if not batch.lane.put_pickled(position, data):
            self._tell(batch, position, data)

    def _put_outcome(self, batch: Batch, position: int, call: Call, outcome: Outcome) -> None:
        with self.remote.futures_travel():
            data = pack_outcome(call, outcome)
        if not batch.lane.put_pickled(position, data):
            self._tell(batch, position, data)

    def _tell(self, batch: Batch, position: int, data: bytes) -> None:
        self.channel.send(
            wire.VALUES, dumps((batch.number, position, batch.lane.ends[position], data, None))
        )
        batch.lane.words[position] = TOLD

    def _tell_no_room(self, call: Call, size: int, error: NoSegment) -> None:
        if not self._told_no_room:  # what one value finds, the next ones are likely to find too
            self._told_no_room = True
            library_logger().warning(
                "There is no room in shared memory for the result of task run %r (%d bytes: %s); "
                "it goes through the driver, as others may",
                name_of(call),
                size,
                error,
            )

    def _tell_stored(self, batch: Batch, position: int, packed: parcels.Packed) -> int:
        if len(self.made) >= self.settings.segments:
            raise NoSegment(errno.EMFILE, f"{len(self.made)} large values are kept already")
        stored = self.store.keep(packed.data, packed.buffers)
        self.made[stored.number] = stored.segment
        self.attached[stored.number] = stored
        end = batch.lane.ends[position]
        self.channel.send(
            wire.VALUES,
            dumps((batch.number, position, end, None, tuple(stored.describe(is_new=True)))),
            [stored.segment.fileno()],
        )
        batch.lane.words[position] = TOLD
        return stored.number

    def report_late(self, batch: Batch) -> None:
        """Reports what ended before a run that takes its time; on a service thread."""
        batch.timing = False
        try:
            self._report(batch)
        except OSError:
            return  # the driver has gone, as the receiver sees too

    def _report(self, batch: Batch, last: bool = False) -> None:
        """Tells the driver to look into the record."""
        unreported = batch.unreported
        with self._reporting:  # so that the last report is the last one
            positions = [unreported.popleft() for _ in range(len(unreported))]
            if not positions and not last:
                return
            count = len(positions)
            if batch.rows.task.is_async:
                seconds, batch.observed = batch.observed, 0.0
                positions.sort()  # the driver takes them for a range if they look like one
            elif positions:
                until = batch.lane.ends[positions[-1]]
                seconds, batch.observed_until = until - batch.observed_until, until
            else:
                seconds = 0.0
            body = REPORT.pack(batch.number, seconds, count, last)
            self.channel.send(wire.REPORT, body + struct.pack(f"<{count}H", *positions))

    def close(self, batch: Batch) -> None:
        with LOCK:
            self.batches.pop(batch.number, None)
        self._report(batch, last=True)
        self.remote.tell_dropped()

    def retire(self) -> None:
        with LOCK:
            if self.retiring or len(self.frames.stack):
                return
            self.retiring = True
        self._hand_back_all()
        self.channel.send(wire.RETIRING)

    # ------------------------------------------------------------------ handing back

    def _hand_back_all(self) -> None:
        """Gives back every run of the main thread's that was not begun."""
        with LOCK:
            batches = list(self.batches.values())
        for batch in batches:
            if not batch.rows.task.is_async:
                self.hand_back(batch)

    def hand_back(self, batch: Batch) -> None:
        """Gives back the runs of a batch that were not begun; what is under way of it goes on."""
        places = list(batch.indices)
        if not places:
            return
        positions = [batch.rows.positions[place] for place in places]
        running = time.time() - batch.began if batch.began else 0.0
        self.channel.send(wire.BACK, dumps((batch.number, positions, running)))

    # ------------------------------------------------------------------ waiting

    def block(self, wanted: Wanted, deadline: float | None, fail_fast: bool, first: bool) -> bool:
        """How the main thread waits: untimed, it runs what it waits for, as the driver gives it that."""
        self.frames.enter_shield()
        try:
            countdown = _Wakeup(self, fail_fast, first)
            with LOCK:
                countdown.watch(wanted)
                self.frames.countdown = countdown
                if self.frames.due(shielded=True):
                    countdown.interrupt()
            try:
                return countdown.woken or self._wait(countdown, wanted, deadline)
            finally:
                with LOCK:
                    self.frames.countdown = None
                    if countdown.pending:
                        countdown.forget(wanted)
        finally:
            self.frames.leave_shield()

    def _wait(self, countdown: _Wakeup, wanted: Wanted, deadline: float | None) -> bool:
        self.flush()
        self._hand_back_all()
        run, timed, watcher = self._innermost(), deadline is not None, _Watcher(self)
        self.remote.watchers.append(watcher)
        wait = self.remote.tell_waiting(run, wanted, timed=timed, watcher=watcher)
        outer = self.frames.countdown
        try:
            while not countdown.woken:
                if watcher.has_news:
                    watcher.has_news = False
                    self.channel.send(wire.RESUMED, dumps(wait))
                    wait = self.remote.tell_waiting(run, wanted, timed=timed, watcher=watcher)
                refusal = self.remote.refusals.pop(wait, None)
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
                    if self._gone:
                        raise ConnectionError("the driver has gone")
                    continue  # something to look at
                if batch.wait != wait:
                    self.hand_back(batch)  # it might want a lock that the waiting run holds
                    self.close(batch)
                elif len(self.frames.stack) >= DEEPEST:
                    self._refuse_too_deep(batch)
                else:
                    self.run(batch)
                del batch
                with LOCK:
                    self.frames.countdown = outer
                    if self.frames.due(shielded=True):
                        return True  # interrupted while it ran what it waits for
            return True
        finally:
            if self.stopping:
                self.queue.put(None)  # for the loop below
            self.remote.watchers.remove(watcher)
            self.channel.send(wire.RESUMED, dumps(wait))

    def _innermost(self) -> int | None:
        stack = self.frames.stack
        for frame in reversed(stack):
            if type(frame.run) is Call:
                return frame.run.number
        return None

    def flush(self) -> None:
        """Reports all that has ended."""
        with LOCK:
            batches = list(self.batches.values())
        for batch in batches:
            self._report(batch)

    def _refuse_too_deep(self, batch: Batch) -> None:
        """The stack has no room to run what is waited for: these runs fail."""
        rows = batch.rows
        for place in batch.indices:
            position = rows.positions[place]
            number = rows.numbers[place]
            task = rows.run(place)[0]
            call = Call(task, (), None, number, Context(), batch.scope)
            error = NestingTooDeep(run_name=name_of(call), depth=len(self.frames.stack))
            batch.lane.words[position] = BEGUN
            batch.lane.ends[position] = time.time()
            self.put(batch, position, call, Outcome(FAILED, error), None)
            batch.unreported.append(position)
        self.close(batch)

    def batch_of(self, number: int) -> tuple[int, int] | None:
        """The batch and position of a run that is under way here."""
        with LOCK:
            batches = list(self.batches.values())
        for batch in batches:
            if number in batch.rows.numbers:
                return batch.number, batch.rows.positions[batch.rows.numbers.index(number)]
        return None

    # ------------------------------------------------------------------ the receiver

    def _receive(self) -> None:
        inbox = self.channel.inbox
        try:
            while inbox.receive():
                for message in inbox.messages():
                    self._take(message)
        except BaseException:
            library_logger().exception("A worker's receiver failed")
        self._driver_gone()

    def _driver_gone(self) -> None:
        self._gone = self.stopping = True
        self.queue.put(None)
        last = threading.Timer(LAST_GRACE, os._exit, (1,))
        last.daemon = True
        last.start()
        with LOCK:
            for frame in list(self.frames.stack):
                self.frames.fire(frame.run)
        self._kick()

    def _take(self, message: Message) -> None:
        kind = message.kind
        if kind == wire.BATCH:
            self._take_batch(message)
        elif kind == wire.INTERRUPT:
            self._interrupt(*loads(message.body))
        elif kind == wire.RECALL:
            with LOCK:
                batch = self.batches.get(loads(message.body))
            if batch is not None:
                self.hand_back(batch)
        elif kind == wire.FREED:
            for number, recyclable in loads(message.body):
                self._free(number, recyclable)
        elif kind == wire.STOP:
            self.stopping = True
            self.queue.put(None)
        elif kind == wire.REFUSED:
            wait, error = loads(message.body)
            self.remote.refusals[wait] = error
            self.coroutines.refuse(wait)
            self.queue.put(None)
        else:
            self.remote.take(message)

    def _take_batch(self, message: Message) -> None:
        number, lane, wait, surroundings, tasks, described, own, content, tags = loads(message.body)
        self.record.unpacking = number
        fds = message.fds
        try:
            if message.is_cut:
                self.miss(described)
                raise _out_of_descriptors()
            whole = Segment(fds.pop(0), own[0]) if own is not None else None
            self.adopt(described, fds)
            if surroundings is not None:
                flow = loads(surroundings).flow
                flow_run = flow_run_of(flow) if flow is not None else None
                self.scopes[0] = Scope(self.remote, flow_run)
                log_prints_of(flow_run is not None and flow_run.flow.log_prints)
            for key, data in tasks:
                self.tasks.unpack(key, data)
                self.remote.know(self.tasks[key], key)
            if whole is not None:
                stored = Stored(0, whole, own[1])
                outer, parcels.HERE.attached = parcels.HERE.attached, self.load
                try:
                    content = stored.load()
                finally:
                    parcels.HERE.attached = outer
            else:
                content = unpack(content, self.load)
            rows = Rows(self.tasks, content, tags)
            scope = self.scopes[0]
        except Untold:
            # An earlier batch could not be unpacked, so the driver tells everything again, and sends this one again.
            self.record.unpacking = 0
            self.channel.send(wire.REPORT, REPORT.pack(number, 0.0, 0, True))
            return
        except BaseException as error:
            self.record.unpacking = 0
            self.channel.send(
                wire.UNPACKABLE, dumps((number, portable_error(error, "(unpacking)")))
            )
            return
        self.record.unpacking = 0
        batch = Batch(number, self.record.lane(lane), rows, scope, wait)
        batch.lane.open()
        with LOCK:
            self.batches[number] = batch
        if self.retiring:
            self.hand_back(batch)
        if rows.task.is_async:
            self.coroutines.begin(batch)
        else:
            self.queue.put(batch)

    def adopt(self, described: list[Any], fds: list[int]) -> None:
        """Takes the segments that came with a message."""
        for item in described:
            number, size, layout, is_new = item
            if is_new:
                self._lost.discard(number)
                self.attached[number] = Stored(number, Segment(fds.pop(0), size), layout)

    def miss(self, described: list[Any]) -> None:
        """Segments did not come, for want of descriptors."""
        self._lost.update(number for number, _, _, is_new in described if is_new)

    def load(self, number: int) -> Any:
        """The value of a stored one, loaded anew: runs must not see each other's changes."""
        if number in self._lost:
            raise _out_of_descriptors()
        with LOCK:  # arguments are unpickled by the receiver, and by the main thread
            self._mapped[number] = self._mapped.get(number, 0) + 1
        return self.attached[number].load(lambda: self._unmapped.append(number))

    def _free(self, number: int, recyclable: bool) -> None:
        """The driver says that a stored value is gone; its segment may be used again if nothing views it here."""
        with LOCK:
            while self._unmapped:
                gone = self._unmapped.popleft()
                self._mapped[gone] -= 1
                if not self._mapped[gone]:
                    del self._mapped[gone]
        self._lost.discard(number)
        stored = self.attached.pop(number, None)
        segment = self.made.pop(number, None)
        if segment is not None:
            loaded = stored is not None and stored.is_loaded()  # by a future of this side
            if recyclable and not loaded and number not in self._mapped:
                self.pool.give_back(segment)
            else:
                segment.close()

    def _interrupt(self, number: int, overdue: bool) -> None:
        task: asyncio.Task[None] | None = None
        with LOCK:
            if overdue:
                self.overdue.add(number)
            for batch in self.batches.values():
                batch.skipped.add(number)  # before it is looked for: it may be about to begin
            frame = next(
                (
                    frame
                    for frame in self.frames.stack
                    if type(frame.run) is Call and frame.run.number == number
                ),
                None,
            )
            if frame is not None:
                self.frames.fire(frame.run)
            else:
                task = self.coroutines.tasks.get(number)
                if task is None:
                    return
        if frame is not None:
            self._kick()
        else:
            from manyhands.engine.loops import SERVICE_LOOP

            assert task is not None  # else it was not under way
            SERVICE_LOOP.get().call_soon_threadsafe(task.cancel)

    def _kick(self) -> None:
        if KICK is not None:
            main = threading.main_thread().ident
            assert main is not None  # it runs
            signal.pthread_kill(main, KICK)


def _out_of_descriptors() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class _Wakeup(Countdown):
    """A countdown that wakes the main thread."""

    __slots__ = ("woken",)

    def __init__(self, worker: Worker, fail_fast: bool, first: bool) -> None:
        super().__init__(fail_fast, first)
        self.woken = False

        def wake() -> None:
            self.woken = True
            worker.queue.put(None)

        self._wake = wake


class _Watcher:
    """Wakes a waiting main thread to tell the driver more of what it waits for."""

    __slots__ = ("_worker", "has_news")

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.has_news = False

    def look_again(self) -> None:
        """Runs of other runners that it waits for go on, or wait in turn."""
        self.has_news = True
        self._worker.queue.put(None)


class _Sender(logging.Handler):
    """Sends log records to the driver as they are made, so that they are there before the run's result."""

    def __init__(self, channel: WorkerChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            record.msg = record.getMessage()
            record.args = None
            if record.exc_info:
                record.exc_text = record.exc_text or logging.Formatter().formatException(
                    record.exc_info
                )
                record.exc_info = None
            self._channel.send(wire.LOGGED, dumps(record))
        except OSError:
            return  # the driver has gone
        except Exception:
            self.handleError(record)
