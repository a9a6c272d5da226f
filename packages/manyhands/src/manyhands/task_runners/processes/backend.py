"""The driver's side of the process pool: workers at their slots, batches to them, and what they say.

    scheduler ──launch──▶ pack ─▶ channel of the slot's worker (started on demand) ─────────────▶ worker
                                                                                                   │
    scheduler ◀──reported, handed back, waiting, submitted, lost── I/O thread ◀──messages, record──┘

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that), interrupts; sends without blocking
    I/O thread    reads what workers say, sends what the sockets would not take, buries the dead. Ends with the runner.

    Member.batches, lanes, tasks   written under `ProcessBackend._lock`

May import `contents`, `nested`, `spawning` and what lies above them.
"""

from __future__ import annotations

import logging
import mmap
import os
import selectors
import socket
import struct
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.calls import FAILED, Batch, Outcome, Report
from manyhands.engine.services import TIMERS
from manyhands.exceptions import (
    NestingTooDeep,
    ResultLost,
    SerializationError,
    WorkerDied,
)
from manyhands.futures.maps import Span
from manyhands.futures.run import TaskFuture
from manyhands.logs import library_logger
from manyhands.names import process_entropy, reserve_block
from manyhands.scheduling.backend import Capabilities
from manyhands.scheduling.batching import BatchPolicy
from manyhands.scheduling.dispatcher import GRACE
from manyhands.serialization import dumps, loads
from manyhands.task_runners.processes import wire
from manyhands.task_runners.processes.carrier import SegmentCarrier
from manyhands.task_runners.processes.members import ProcessMember, Sent
from manyhands.task_runners.processes.record import (
    CAPACITY,
    TOLD,
    Lane,
    Record,
    size_of_record,
)
from manyhands.task_runners.processes.segments import NoSegment, Segment
from manyhands.task_runners.processes.spawning import ENTRY, prepare, start_worker
from manyhands.task_runners.processes.stored import Store, Stored
from manyhands.task_runners.processes.wire import DriverChannel
from manyhands.task_runners.remote import messages
from manyhands.task_runners.remote.batches import BEGUN, NOT_BEGUN, WITHDRAWN
from manyhands.task_runners.remote.contents import Contents
from manyhands.task_runners.remote.members import futures_of, not_unpickled
from manyhands.task_runners.remote.nested import NestedRuns
from manyhands.task_runners.remote.parcels import LARGE, Packed, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from manyhands.scheduling.dispatcher import Dispatcher
    from manyhands.scheduling.pushing import Helper
    from manyhands.task_runners.remote.messages import Message
    from manyhands.tasks import Task

__all__ = ["ProcessBackend"]

_REPORT = struct.Struct("<QdI?")
#: Workers that may die, one after the other, before they have begun a run.
MOST_USELESS = 3


class ProcessBackend:
    """Worker processes of this machine.

    Args:
        max_workers: how many.
        method: "forkserver" or "spawn".
        env: environment variables of the workers, on top of the driver's.
        most: runs after which a worker is replaced, `None` for never.
        initializer: pickled `(function, arguments)` that each worker begins with, or `None`.
    """

    captures = False

    def __init__(
        self,
        max_workers: int,
        method: str,
        env: Mapping[str, str],
        most: int | None,
        initializer: bytes | None,
    ) -> None:
        self.capabilities = Capabilities(
            isolated=True,
            stops_hard=True,
            fuses=True,
            loops=True,
            policy=BatchPolicy(target=0.005, alone=0.03, cap=CAPACITY),
        )
        self._max_workers = max_workers
        self._method = method
        self._env = env
        self._most = most
        self._initializer = initializer
        self._lock = threading.RLock()
        self._members: dict[int, ProcessMember] = {}
        self._alive: set[ProcessMember] = set()
        self._next_member = 0
        self._useless = 0
        self._freed: deque[tuple[int, bool]] = deque()
        self._selector: selectors.BaseSelector
        self._wake_in, self._wake_out = socket.socketpair()
        self._todo: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._left = False
        self._store = Store(1)
        self._carrier = SegmentCarrier(self._lock)
        self._events: Dispatcher
        self._contents: Contents
        self._nested: NestedRuns

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: Dispatcher) -> None:
        """See `Backend`: the workers start when there is work for them."""
        self._events = events
        self._contents = Contents(events, self._keep)
        self._nested = NestedRuns(events, self._contents, lambda: self._alive, self._carrier)
        prepare(self._method)
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="manyhands-processes", daemon=True)
        self._thread.start()
        _BACKENDS.add(self)
        events.slots(list(range(self._max_workers)))

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        _BACKENDS.discard(self)
        deadline = time.monotonic() + grace
        with self._lock:
            self._stopping = True
            members = list(self._alive)
            for member in members:
                member.leaving = True
                if not member.ready or any(sent.is_under_way() for sent in member.batches.values()):
                    member.process.kill()  # what it runs was cancelled
                else:
                    member.channel.send(messages.STOP)
        for member in members:
            if not member.process.join(max(min(deadline - time.monotonic(), 2.0), 0.0)):
                library_logger().warning(
                    "Worker process %s did not end; it is killed", member.process.pid
                )
                member.process.kill()
                member.process.join(1.0)
        self._do(_End.end)
        if self._thread is not None:
            self._thread.join(max(deadline - time.monotonic(), 1.0))
        for member in members:
            self._discard(member)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def leave_to_parent(self) -> None:
        """In a child that the driver has forked: the workers are the parent's, and must not hear of what is done here."""
        self._stopping = self._left = True
        self._lock = threading.RLock()
        self._thread = None
        members, self._alive = self._alive, set()
        self._members = {}
        for member in members:
            member.buried = True
            member.channel.leave_to_parent()
        self._selector.close()  # not unregistered: that would be so for the parent too
        self._wake_in.close()
        self._wake_out.close()

    def _member_at(self, slot: int) -> ProcessMember | None:
        """The worker at a slot, started if there is none; `None` if the runner has been left."""
        with self._lock:
            if self._stopping:
                return None
            member = self._members.get(slot)
            if member is None:
                member = self._members[slot] = self._start_member(slot)
                self._alive.add(member)
            return member

    def _start_member(self, slot: int) -> ProcessMember:
        ours, theirs = socket.socketpair()
        memory = Segment.create(size_of_record())
        try:
            record = Record(mmap.mmap(memory.fileno(), memory.size))
            self._next_member += 1
            member = ProcessMember(
                self._next_member,
                slot,
                DriverChannel(ours, lambda: self._do(lambda: self._watch_writes(member))),
                record,
            )
            settings = (
                member.number,
                process_entropy(),
                *reserve_block(),
                logging.getLogger("manyhands.task_runs").getEffectiveLevel(),
                self._most,
                self._initializer,
                _descriptors() // 4 // self._max_workers,
            )
            member.process = start_worker(
                self._method,
                ENTRY,
                [theirs.fileno(), memory.fileno()],
                dumps(settings),
                env=self._env,
                on_exit=lambda process: self._do(lambda: self._bury(member)),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            memory.close()
        self._do(lambda: self._register(member))
        return member

    def _register(self, member: ProcessMember) -> None:
        if not member.buried:
            events = selectors.EVENT_READ
            if member.channel.is_blocked():
                events |= selectors.EVENT_WRITE
            self._selector.register(member.channel.connection, events, member)

    def _unregister(self, member: ProcessMember) -> None:
        if member.channel.connection.fileno() in self._selector.get_map():
            self._selector.unregister(member.channel.connection)

    def _watch_writes(self, member: ProcessMember) -> None:
        if not member.buried and member.channel.connection.fileno() in self._selector.get_map():
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(member.channel.connection, both, member)

    def _discard(self, member: ProcessMember) -> None:
        with self._lock:
            self._alive.discard(member)
            if self._members.get(member.slot) is member:
                del self._members[member.slot]
            if not member.buried:
                member.buried = True
            member.channel.close()
            member.record.close()

    # ------------------------------------------------------------------ batches go out

    def launch(self, batch: Batch) -> None:
        """See `Backend`."""
        if self._stopping:
            if self._left:
                text = "it was submitted by a child that the process with the workers has forked"
                self._events.broken(lambda run_name: self._death(run_name, text, None))
            return
        try:
            member = self._member_at(batch.slot)
        except Exception as error:
            self._not_started(batch, error)
            return
        if member is None:
            return  # the runner has just been left
        try:
            self._send(member, batch)
        except Exception as error:
            with self._lock:
                self._untell(member, member.batches.get(batch.number))
            self._tell_unsent(batch, error)

    def _not_started(self, batch: Batch, error: Exception) -> None:
        """No worker could be started for a batch: its slot is given up while there are others."""
        with self._lock:
            slots = sorted(self._members)
        if not slots:
            text = f"no worker process could be started: {error!r}"
            self._events.broken(lambda run_name: self._death(run_name, text, error))
            return
        library_logger().warning(
            "No further worker process could be started (%r); %d go on", error, len(slots)
        )
        self._events.lost(batch.number, _unknown, [])
        self._events.slots(slots)

    def _untell(self, member: ProcessMember, sent: Sent | None) -> None:
        """What a worker has kept of what it was told is not certain, so it is told again; with the lock held."""
        member.tasks.clear()
        member.surrounded = False
        if sent is not None:
            member.segments.difference_update(sent.segments)
            self._forget(member, sent)

    def _tell_unsent(self, batch: Batch, error: Exception) -> None:
        text = f"it could not be sent to a worker: {error!r}"
        self._events.lost(batch.number, lambda run_name: self._death(run_name, text, error))

    def _send(self, member: ProcessMember, batch: Batch) -> None:
        content, tasks, tags, failed = self._contents.of(batch)
        content, packed = self._contents.pack(content, failed)
        if failed:
            now = time.time()
            self._events.reported(
                Report(
                    batch.number,
                    list(failed),
                    list(failed.values()),
                    [now] * len(failed),
                    0.0,
                    last=False,
                    count=0,
                )
            )
        if packed is None:
            self._events.reported(Report(batch.number, [], [], [], 0.0))
            return
        fds: list[int] = []
        own: tuple[int, Any] | None = None
        whole: Stored | None = None
        body: Any = packed.data
        if packed.size > LARGE:
            try:
                whole = self._store.keep(packed.data, packed.buffers)
            except NoSegment as error:
                library_logger().warning(
                    "There is no room in shared memory for arguments of %d bytes (%s); they go through a socket",
                    packed.size,
                    error,
                )
            else:
                own = (whole.segment.size, whole.layout)
                fds.append(whole.segment.fileno())
                body = None
        if packed.buffers and whole is None:
            packed = pack(content, whole=True)
            body = packed.data
        with self._lock:
            if member.leaving or member.buried:
                # It has gone, or is about to, since the scheduler counted on it: the batch was not begun.
                self._do(lambda: self._events.lost(batch.number, _unknown, []))
                return
            if not member.lanes:
                self._do(lambda: self._refuse_too_deep(batch))
                return
            described: list[Any] = []
            new_segments: list[int] = []
            for stored in packed.stored:
                is_new = stored.number not in member.segments
                if is_new:
                    if len(fds) == wire.MOST_FDS:
                        ahead = fds if own is None else fds[1:]
                        member.channel.send(messages.RUNS_ENDED, dumps((described, [])), ahead)
                        described, fds = [], fds[: len(fds) - len(ahead)]
                    member.segments.add(stored.number)
                    new_segments.append(stored.number)
                    fds.append(stored.segment.fileno())
                described.append(tuple(stored.describe(is_new)))
            new_tasks = [
                (key, self._contents.packed_tasks[key]) for key in tasks if key not in member.tasks
            ]
            member.tasks.update(tasks)
            surroundings = None
            if not member.surrounded:
                member.surrounded = True
                surroundings = self._contents.surroundings
            lane_number = member.lanes.pop()
            lane = member.record.lane(lane_number)
            lane.clear(len(batch))
            sent = member.batches[batch.number] = Sent(batch, lane, lane_number)
            sent.segments = new_segments
            wait = batch.helper.tag[1] if batch.helper is not None else 0
            message = dumps(
                (
                    batch.number,
                    lane_number,
                    wait,
                    surroundings,
                    new_tasks,
                    described,
                    own,
                    body,
                    tags,
                )
            )
            member.channel.send(messages.BATCH, message, fds)
        if whole is not None:
            whole.segment.close()

    def _refuse_too_deep(self, batch: Batch) -> None:
        """So many runs wait for each other on one worker that it can hold no more: these fail."""
        count = len(batch)
        errors = [
            Outcome(FAILED, NestingTooDeep(run_name=run.name)) for run in self._runs_of(batch)
        ]
        self._events.reported(
            Report(batch.number, range(count), errors, [time.time()] * count, 0.0)
        )

    def _runs_of(self, batch: Batch) -> list[TaskFuture[Any]]:
        runs = batch.runs
        if type(runs) is Span:
            return [runs.record.future(index) for index in range(runs.start, runs.stop)]
        return list(runs)

    # ------------------------------------------------------------------ the I/O thread

    def _do(self, action: Callable[[], None]) -> None:
        """Has the I/O thread do something. Safe in finalizers."""
        self._todo.append(action)
        try:
            self._wake_in.send(b"x")
        except (BlockingIOError, OSError):
            pass  # it is awake already, or has ended

    def _serve(self) -> None:
        try:
            while True:
                for key, mask in self._selector.select():
                    member: ProcessMember | None = key.data
                    if member is None:
                        if not self._do_all():
                            return
                        continue
                    if (
                        mask & selectors.EVENT_WRITE
                        and member.channel.flush()
                        and not member.buried
                    ):
                        self._selector.modify(
                            member.channel.connection, selectors.EVENT_READ, member
                        )
                    if mask & selectors.EVENT_READ:
                        self._read(member)
        except BaseException as error:
            library_logger().exception("The process pool failed")
            text = f"the process pool failed: {error!r}"
            self._events.broken(lambda run_name: self._death(run_name, text, None))

    def _do_all(self) -> bool:
        try:
            while self._wake_out.recv(4096):
                pass
        except BlockingIOError:
            pass
        while self._todo:
            try:
                self._todo.popleft()()
            except _End:
                return False
        self._tell_freed()
        return True

    def _read(self, member: ProcessMember) -> bool:
        """Takes what a worker has said; whether there may be more."""
        if member.buried:
            return False
        try:
            more = member.channel.inbox.receive()
        except BlockingIOError:
            return False
        with futures_of(member):
            for message in member.channel.inbox.messages():
                try:
                    self._take(member, message)
                except Exception:
                    pid = member.process.pid
                    library_logger().exception("Worker process %s is killed: it said nonsense", pid)
                    member.process.kill()
        if not more:
            self._unregister(member)
            if member.process.alive and not member.leaving:
                member.process.kill()  # it has closed its socket, so it is of no use
        return more

    def _take(self, member: ProcessMember, message: Message) -> None:
        kind = message.kind
        if kind == messages.REPORT:
            self._take_report(member, message.body)
        elif kind == messages.VALUES:
            self._take_value(member, message)
        elif kind == messages.BACK:
            number, positions, seconds = loads(message.body)
            self._events.handed_back(number, positions, seconds)
        elif kind == messages.BEGUN:
            self._events.started(*loads(message.body))
        elif kind == messages.RETURNED:
            self._events.returned(*loads(message.body))
        elif kind == messages.LOGGED:
            self._take_logged(message.body)
        elif kind == messages.SUBMITTED:
            self._nested.take_submitted(member, message)
        elif kind == messages.MAPPED:
            self._nested.take_mapped(member, message)
        elif kind == messages.WAITING:
            self._nested.take_waiting(member, *loads(message.body))
        elif kind == messages.RESUMED:
            helper = member.waits.pop(loads(message.body), None)
            if helper is not None:
                self._events.resumed(helper)
                self._force_late(member, helper)
        elif kind == messages.QUESTION:
            self._nested.take_question(member, *loads(message.body))
        elif kind == messages.DROPPED:
            self._nested.take_dropped(member, loads(message.body))
        elif kind == messages.UNPACKABLE:
            self._take_unpackable(member, *loads(message.body))
        elif kind == messages.READY:
            member.ready = True
        elif kind == messages.UNREADY:
            member.unready = loads(message.body)
        elif kind == messages.RETIRING:
            self._retire(member)

    def _take_logged(self, body: bytes) -> None:
        try:
            self._events.logged(loads(body))
        except Exception:  # what the user put into the record, or does with it
            library_logger().exception("A log record of a worker could not be handled")

    def _retire(self, member: ProcessMember) -> None:
        with self._lock:
            member.leaving = True
            if self._members.get(member.slot) is member:
                del self._members[member.slot]
            member.channel.send(messages.STOP)

    # ------------------------------------------------------------------ runs end

    def _take_report(self, member: ProcessMember, body: bytes) -> None:
        """Runs of a batch have ended: what became of them is in the record. Hot."""
        number, seconds, count, last = _REPORT.unpack_from(body)
        sent = member.batches.get(number)
        if sent is None:
            return
        size = (len(body) - _REPORT.size) // 2
        positions = struct.unpack_from(f"<{size}H", body, _REPORT.size)
        self._useless = 0
        report = self._report_of(sent, positions)
        report.seconds = seconds
        report.count = count
        report.last = last
        self._events.reported(report)
        if last:
            self._forget(member, sent)
        if type(sent.batch.runs) is Span and any(other.maps for other in list(self._alive)):
            self._nested.tell_elements(sent.batch.runs, positions)

    def _forget(self, member: ProcessMember, sent: Sent) -> None:
        with self._lock:
            if member.batches.pop(sent.batch.number, None) is not None:
                member.lanes.append(sent.lane_number)

    def _report_of(self, sent: Sent, positions: Sequence[int]) -> Report:
        lane = sent.lane
        number = sent.batch.number
        words: list[int]
        ends: Sequence[float]
        if not positions:
            return Report(number, (), (), (), 0.0)
        first, after = positions[0], positions[-1] + 1
        if after - first == len(positions):
            positions = range(first, after)
            words = lane.words[first:after].tolist()
            ends = lane.ends[first:after].tolist()
        else:
            words = [lane.word(position) for position in positions]
            ends = [lane.ends[position] for position in positions]
        if TOLD in words:
            told = [place for place, word in enumerate(words) if word != TOLD]
            positions = [positions[place] for place in told]
            words = [words[place] for place in told]
            ends = [ends[place] for place in told]
        try:
            values = lane.values(words, positions)
        except Exception:
            values = [self._value(lane, word, p) for word, p in zip(words, positions, strict=True)]
        return Report(number, positions, values, ends, 0.0)

    def _value(self, lane: Lane, word: int, position: int) -> Any:
        try:
            return lane.values([word], [position])[0]
        except Exception as error:
            return Outcome(FAILED, not_unpickled(error))

    def _take_value(self, member: ProcessMember, message: Message) -> None:
        number, position, end, data, described = loads(message.body)
        value: Any
        if described is not None:
            name, size, layout, _ = described
            if message.is_cut:
                value = Outcome(FAILED, ResultLost(holder="the descriptor of its memory"))
                self._freed.append((name, False))
            else:
                value = Stored(name, Segment(message.fds[0], size), layout, self._on_freed)
                self._carrier.stored[name] = value
            member.segments.add(name)
        else:
            try:
                value = loads(data)
            except Exception as error:
                value = Outcome(FAILED, not_unpickled(error))
        self._events.reported(Report(number, [position], [value], [end], 0.0, last=False, count=0))
        sent = member.batches.get(number)
        if sent is not None and type(sent.batch.runs) is Span:
            self._nested.tell_elements(sent.batch.runs, [position])

    def _take_unpackable(self, member: ProcessMember, number: int, data: bytes) -> None:
        sent = member.batches.get(number)
        if sent is None:
            return
        with self._lock:
            self._untell(member, sent)
        if len(sent.batch) > 1:
            self._events.split(number)
            return
        error = loads(data)
        told = SerializationError(
            path="arguments",
            type_name=type(error).__qualname__,
            problem=f"unpickling on the worker raised {error!r}",
        )
        told.__cause__ = error
        self._events.reported(
            Report(number, [0], [Outcome(FAILED, told)], [time.time()], 0.0, count=0)
        )

    # ------------------------------------------------------------------ deaths

    def _bury(self, member: ProcessMember) -> None:
        """A worker's process has ended: what it said and wrote last counts, the rest is lost."""
        if member.buried:
            return
        while self._read(member):
            pass
        self._unregister(member)
        with self._lock:
            member.buried = True
            if self._members.get(member.slot) is member:
                del self._members[member.slot]
            batches = list(member.batches.values())
            member.batches.clear()
        unpacking = member.record.unpacking
        waited = {helper.run.name for helper in member.waits.values() if helper.run is not None}
        process = member.process
        pid = process.pid

        def error_of(run_name: str) -> BaseException:
            message = None
            if member.stopped_for is not None and run_name != member.stopped_for:
                does = "waited" if run_name in waited else "ran"
                message = (
                    f"it {does} on a worker that was killed to stop task run {member.stopped_for!r}"
                )
            elif run_name in waited:
                message = "it waited on a worker that died while it ran something else"
            return WorkerDied(
                run_name=run_name,
                host=socket.gethostname(),
                pid=pid,
                exit_code=process.exit_code,
                signal=process.signal,
                message=message,
            )

        broken = self._why_broken(member, batches)
        if broken is not None:
            self._events.broken(broken)
        for sent in batches:
            number = sent.batch.number
            words = sent.lane.words[: len(sent.batch)].tolist()
            ended = [p for p, word in enumerate(words) if word not in _OPEN]
            with futures_of(member):
                report = self._report_of(sent, ended)
            report.last = False
            report.count = 0
            self._events.reported(report)
            if type(sent.batch.runs) is Span:
                self._nested.tell_elements(sent.batch.runs, ended)
            begun = [p for p, word in enumerate(words) if word == BEGUN]
            if number == unpacking:
                if not sent.was_alone():
                    self._events.split(number)  # perhaps the arguments of one of them killed it
                    continue
                begun = [0]
            self._events.lost(number, error_of, begun)
        for helper in list(member.waits.values()):
            self._events.resumed(helper)
        member.waits.clear()
        member.runs.clear()
        member.maps.clear()
        self._discard(member)

    def _why_broken(
        self, member: ProcessMember, batches: list[Sent]
    ) -> Callable[[str], BaseException] | None:
        """Why no worker is of any use, if that must be concluded from how one ended."""
        if self._stopping or member.leaving:
            return None
        if member.unready is not None:
            error = member.unready
            text = f"the initializer of the worker processes raised {type(error).__name__}: {error}"
            return lambda run_name: self._death(run_name, text, error)
        if member.ready and (
            not batches
            or member.stopped_for is not None
            or member.record.unpacking
            or any(
                word != NOT_BEGUN for sent in batches for word in sent.lane.words[: len(sent.batch)]
            )
        ):
            self._useless = 0
            return None
        self._useless += 1
        if self._useless < MOST_USELESS:
            return None
        text = f"{self._useless} worker processes in a row ended before they began a run, the last one (pid {member.process.pid}) {member.process.fate()}"
        return lambda run_name: self._death(run_name, text, None)

    def _death(self, run_name: str, text: str, cause: BaseException | None) -> BaseException:
        return WorkerDied(run_name=run_name, host=socket.gethostname(), message=text, cause=cause)

    def refuse(self, helper: Helper, error: Exception) -> None:
        """See `Backend`."""
        member, wait = helper.tag
        member.channel.send(messages.REFUSED, dumps((wait, error)))

    # ------------------------------------------------------------------ stored values

    def _keep(self, value: Any, packed: Packed) -> Stored:
        """Puts a large argument into shared memory."""
        stored = self._store.keep(packed.data, packed.buffers, self._on_freed)
        self._carrier.stored[stored.number] = stored
        return stored

    def _on_freed(self, number: int, loaded: bool) -> None:
        """Nobody here has a stored value any more. Called by finalizers."""
        self._freed.append((number, loaded))
        self._do(_nothing)

    def _tell_freed(self) -> None:
        while self._freed:
            number, loaded = self._freed.popleft()
            with self._lock:
                holders = [member for member in self._alive if number in member.segments]
                for member in holders:
                    member.segments.discard(number)
                    # Its maker may fill the segment anew only if nobody else may still look at it.
                    member.channel.send(
                        messages.FREED, dumps([(number, len(holders) == 1 and not loaded)])
                    )

    # ------------------------------------------------------------------ the rest of a backend

    def _find(self, run: TaskFuture[Any]) -> tuple[ProcessMember, Sent, int] | None:
        """Where a run was sent last; it may have been handed back before, by a worker that has not closed that batch."""
        found: tuple[ProcessMember, Sent, int] | None = None
        with self._lock:
            for member in self._alive:
                for sent in member.batches.values():
                    position = sent.position_of(run)
                    if position is not None and (
                        found is None or found[1].batch.number < sent.batch.number
                    ):
                        found = member, sent, position
        return found

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`."""
        found = self._find(run)
        if found is not None:
            member, sent, position = found
            if sent.lane.words[position] == NOT_BEGUN:
                sent.lane.words[position] = WITHDRAWN  # sooner than the message
            detail = run._detail
            overdue = detail is not None and detail.overdue
            member.channel.send(messages.INTERRUPT, dumps((run._number, overdue)))

    def force(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: its worker is killed."""
        with self._lock:
            found = self._find(run)
            if found is not None:
                self._force(*found, run)

    def _force(
        self, member: ProcessMember, sent: Sent, position: int, run: TaskFuture[Any]
    ) -> None:
        """With the lock held."""
        number = sent.batch.number
        if member.batches.get(number) is not sent:
            return
        if any(helper.blocks and helper.run is run for helper in list(member.waits.values())):
            # What its worker is at is another run, which it waits for; it is stopped when control returns to it.
            sent.forced.add(position)
        elif sent.lane.words[position] == BEGUN or member.record.unpacking == number:
            member.stopped_for = run.name
            member.process.kill()

    def _force_late(self, member: ProcessMember, helper: Helper) -> None:
        """A run goes on that was to be stopped while it waited."""
        sent = member.batches.get(helper.batch.number)
        run = helper.run
        position = sent.position_of(run) if sent is not None and run is not None else None
        if sent is not None and run is not None and position in sent.forced:
            sent.forced.discard(position)

            def force() -> None:
                with self._lock:
                    self._force(member, sent, position, run)

            TIMERS.after(GRACE / 2, force)

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """See `Backend`: its worker has written that down."""
        with self._lock:
            found = self._find(run)
            return found is not None and found[1].lane.words[found[2]] != NOT_BEGUN

    def recall(self, batch: Batch) -> None:
        """See `Backend`."""
        with self._lock:
            for member in self._alive:
                if batch.number in member.batches:
                    member.channel.send(messages.RECALL, dumps(batch.number))

    def slot_gone(self, slot: int) -> None:
        """See `Backend`."""
        with self._lock:
            member = self._members.get(slot)
            if member is not None:
                self._retire(member)

    def running(self) -> list[TaskFuture[Any]]:
        """Nothing that the scheduler does not know of."""
        return []

    def stuck(self, helper: Helper) -> None:
        """Not asked: slots are of particular workers."""

    def settle(self) -> None:
        """Not asked: likewise."""

    def capture(self, task: Task[Any, Any]) -> Any:
        """There are no ambient options."""
        return None

    def native(self, run: TaskFuture[Any]) -> Any:
        """There is none."""
        return None


#: Words of runs that have not ended, or whose ends are told by message.
_OPEN = (NOT_BEGUN, BEGUN, TOLD, WITHDRAWN)

#: What is entered in this process.
_BACKENDS: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_BACKENDS):
        backend.leave_to_parent()
    _BACKENDS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _End(Exception):
    """Ends the I/O thread."""

    @classmethod
    def end(cls) -> None:
        """Raises it there."""
        raise cls


def _nothing() -> None:
    pass


def _descriptors() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 30
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def _unknown(run_name: str) -> BaseException:
    return WorkerDied(run_name=run_name, host=socket.gethostname())
