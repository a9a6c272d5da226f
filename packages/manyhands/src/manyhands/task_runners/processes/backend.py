"""The driver's side of the process pool: workers at their slots, batches to them, and what they say.

    scheduler ──launch──▶ pack ─▶ channel of the slot's worker (started on demand) ─────────────▶ worker
                                                                                                   │
    scheduler ◀──reported, handed back, waiting, submitted, lost── I/O thread ◀──messages, record──┘

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that), interrupts; sends without blocking
    I/O thread    reads what workers say, sends what the sockets would not take, buries the dead. Ends with the runner.

    Member.batches, lanes, tasks   written under `ProcessBackend._lock`

May import `spawning` and what lies above it.
"""

from __future__ import annotations

import errno
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
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any

from manyhands.calls import COMPLETED, DONE, FAILED, Batch, Call, Handle, Outcome, Report
from manyhands.context import LOCK, TAGS, Scope
from manyhands.engine.batch_run import pack_task, surroundings_of
from manyhands.engine.inputs import ATOMS
from manyhands.engine.services import TIMERS
from manyhands.engine.values import value_of
from manyhands.exceptions import (
    NestingTooDeep,
    ResultLost,
    RunnerStateError,
    SerializationError,
    WaitCycle,
    WorkerDied,
)
from manyhands.futures import TaskFutureList
from manyhands.futures.maps import CANCELLED_UNSEEN, NO_VALUE, MapRecord, Span
from manyhands.futures.run import TaskFuture
from manyhands.logs import library_logger
from manyhands.names import BLOCK, process_entropy, reserve
from manyhands.scheduling.backend import Capabilities
from manyhands.scheduling.batching import BatchPolicy
from manyhands.scheduling.dispatcher import GRACE
from manyhands.serialization import dumps, find_culprit, loads
from manyhands.states import State
from manyhands.task_runners.packing import calls_of, culprit_of, follow
from manyhands.task_runners.processes import parcels, wire
from manyhands.task_runners.processes.parcels import LARGE, Packed, ResultOf, Store, Stored, pack
from manyhands.task_runners.processes.record import (
    BEGUN,
    CAPACITY,
    LANES,
    NOT_BEGUN,
    TOLD,
    Lane,
    Record,
    size_of_record,
)
from manyhands.task_runners.processes.segments import NoSegment, Segment
from manyhands.task_runners.processes.spawning import ENTRY, prepare, start_worker
from manyhands.task_runners.processes.wire import DriverChannel, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from manyhands.scheduling.dispatcher import Dispatcher
    from manyhands.scheduling.pushing import Helper
    from manyhands.task_runners.processes.spawning import WorkerProcess
    from manyhands.tasks import Task

__all__ = ["ProcessBackend"]

_REPORT = struct.Struct("<QdI?")
#: Workers that may die, one after the other, before they have begun a run.
MOST_USELESS = 3


class Sent:
    """A batch at a worker.

    Attributes:
        batch: the batch.
        lane: where its outcomes are.
        lane_number: of the lane.
        segments: numbers of stored values whose descriptors went along.
        forced: positions that are to be stopped by force once they do not wait any more.
        places: its runs' positions; made when somebody looks for a run.
    """

    __slots__ = ("_places", "batch", "forced", "lane", "lane_number", "segments")

    def __init__(self, batch: Batch, lane: Lane, lane_number: int) -> None:
        self.batch = batch
        self.lane = lane
        self.lane_number = lane_number
        self.segments: list[int] = []
        self.forced: set[int] = set()
        self._places: dict[TaskFuture[Any], int] | None = None

    def was_alone(self) -> bool:
        """Whether it holds one run that must not share a batch."""
        if type(self.batch.runs) is Span or len(self.batch) > 1:
            return False
        detail = self.batch.runs[0]._detail
        return detail is not None and detail.alone

    def is_under_way(self) -> bool:
        """Whether a run of it has begun and not ended."""
        return BEGUN in self.lane.words[: len(self.batch)].tolist()

    def position_of(self, run: TaskFuture[Any]) -> int | None:
        """Where a run is in it, if it is."""
        runs = self.batch.runs
        if type(runs) is Span:
            index = run._number - runs.record.base
            return index - runs.start if runs.start <= index < runs.stop else None
        if self._places is None:
            self._places = {future: position for position, future in enumerate(runs)}
        return self._places.get(run)


class NestedMap:
    """A map that a run on a worker submitted.

    Attributes:
        futures: the list, which keeps the values.
        told: which elements' ends its worker knows of.
    """

    __slots__ = ("futures", "told")

    def __init__(self, futures: TaskFutureList[Any]) -> None:
        self.futures = futures
        self.told = bytearray(len(futures))


class Member:
    """A worker as the driver knows it."""

    def __init__(self, number: int, slot: int, channel: DriverChannel, record: Record) -> None:
        self.number = number
        self.slot = slot
        self.channel = channel
        self.record = record
        self.process: WorkerProcess
        self.batches: dict[int, Sent] = {}
        self.lanes = list(range(LANES - 1, -1, -1))
        self.tasks: set[int] = set()
        self.segments: set[int] = set()
        self.surrounded = False
        self.ready = False
        self.leaving = False
        self.buried = False
        self.stopped_for: str | None = None
        self.unready: BaseException | None = None
        self.waits: dict[int, Helper] = {}
        self.runs: dict[int, TaskFuture[Any]] = {}
        self.maps: dict[int, NestedMap] = {}

    def run_numbered(self, number: int) -> TaskFuture[Any]:
        """The run that it submitted under this number."""
        run = self.runs.get(number)
        if run is not None:
            return run
        for base, nested in self.maps.items():
            if 0 <= number - base < len(nested.told):
                return nested.futures[number - base]
        raise KeyError(f"worker {self.number} has submitted no run {number}")


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
        self._members: dict[int, Member] = {}
        self._alive: set[Member] = set()
        self._next_member = 0
        self._useless = 0
        self._tasks: dict[Task[Any, Any], int] = {}
        self._packed_tasks: list[bytes | SerializationError] = []
        self._tasks_by_key: list[Task[Any, Any]] = []
        self._tasks_by_digest: dict[bytes, Task[Any, Any]] = {}
        self._scope: Scope | None = None
        self._surroundings: bytes | None = None
        self._store = Store(1)
        self._stored: weakref.WeakValueDictionary[int, Stored] = weakref.WeakValueDictionary()
        self._freed: deque[tuple[int, bool]] = deque()
        self._prepared: weakref.WeakSet[MapRecord[Any]] = weakref.WeakSet()
        self._selector: selectors.BaseSelector
        self._wake_in, self._wake_out = socket.socketpair()
        self._todo: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._left = False
        self._events: Dispatcher

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: Dispatcher) -> None:
        """See `Backend`: the workers start when there is work for them."""
        self._events = events
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
        self._stopping = True
        _BACKENDS.discard(self)
        deadline = time.monotonic() + grace
        with self._lock:
            members = list(self._alive)
            for member in members:
                member.leaving = True
                if not member.ready or any(sent.is_under_way() for sent in member.batches.values()):
                    member.process.kill()  # what it runs was cancelled
                else:
                    member.channel.send(wire.STOP)
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

    def _member_at(self, slot: int) -> Member:
        """The worker at a slot, started if there is none."""
        with self._lock:
            member = self._members.get(slot)
            if member is None:
                member = self._members[slot] = self._start_member(slot)
                self._alive.add(member)
            return member

    def _start_member(self, slot: int) -> Member:
        ours, theirs = socket.socketpair()
        memory = Segment.create(size_of_record())
        try:
            record = Record(mmap.mmap(memory.fileno(), memory.size))
            self._next_member += 1
            member = Member(
                self._next_member,
                slot,
                DriverChannel(ours, lambda: self._do(lambda: self._watch_writes(member))),
                record,
            )
            settings = (
                member.number,
                process_entropy(),
                reserve(BLOCK),
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
        finally:
            theirs.close()
            memory.close()
        self._do(lambda: self._register(member))
        return member

    def _register(self, member: Member) -> None:
        if not member.buried:
            events = selectors.EVENT_READ
            if member.channel.is_blocked():
                events |= selectors.EVENT_WRITE
            self._selector.register(member.channel.connection, events, member)

    def _unregister(self, member: Member) -> None:
        if member.channel.connection.fileno() in self._selector.get_map():
            self._selector.unregister(member.channel.connection)

    def _watch_writes(self, member: Member) -> None:
        if not member.buried and member.channel.connection.fileno() in self._selector.get_map():
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(member.channel.connection, both, member)

    def _discard(self, member: Member) -> None:
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
        except OSError as error:
            text, cause = f"no worker process could be started: {error}", error
            self._events.broken(lambda run_name: self._death(run_name, text, cause))
            return
        try:
            self._send(member, batch)
        except Exception as error:
            with self._lock:
                member.batches.pop(batch.number, None)
            self._tell_unsent(batch, error)

    def _tell_unsent(self, batch: Batch, error: Exception) -> None:
        text = f"it could not be sent to a worker: {error!r}"
        self._events.lost(batch.number, lambda run_name: self._death(run_name, text, error))

    def _send(self, member: Member, batch: Batch) -> None:
        content, tasks, tags, failed = self._content(batch)
        content, packed = self._pack(content, failed)
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
                        member.channel.send(wire.RUNS_ENDED, dumps((described, [])), ahead)
                        described, fds = [], fds[: len(fds) - len(ahead)]
                    member.segments.add(stored.number)
                    new_segments.append(stored.number)
                    fds.append(stored.segment.fileno())
                described.append(tuple(stored.describe(is_new)))
            new_tasks = [(key, self._packed_tasks[key]) for key in tasks if key not in member.tasks]
            member.tasks.update(tasks)
            surroundings = None
            if not member.surrounded:
                member.surrounded = True
                surroundings = self._surroundings
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
            member.channel.send(wire.BATCH, message, fds)
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

    def _content(
        self, batch: Batch
    ) -> tuple[Any, list[int], list[frozenset[str]], dict[int, Outcome]]:
        """What a batch holds, as the worker wants it; its tasks' keys; tags; and the ends of what cannot be sent."""
        runs = batch.runs
        failed: dict[int, Outcome] = {}
        if type(runs) is Span:
            record = runs.record
            if record not in self._prepared:
                self._prepare(record)
            self._see_scope(record.scope)
            tags = [record.context.get(TAGS, frozenset())]
            if record.single is not None and not record.futures:
                try:
                    key = self._key_of(record.task)
                except SerializationError as error:
                    return None, [], [], dict.fromkeys(range(len(runs)), Outcome(FAILED, error))
                values = record.single[runs.start : runs.stop]
                return ("map", key, record.base + runs.start, values), [key], tags, failed
        else:
            plain = self._plain_content(batch)
            if plain is not None:
                return plain
        calls, failed = calls_of(batch, self._resolve)
        rows: list[Any] = []
        keys: dict[int, None] = {}
        all_tags: dict[frozenset[str], int] = {}
        places: dict[TaskFuture[Any], int] = {}
        for position in range(len(batch)):
            call = calls.get(position)
            args: Any
            needs: list[int] = []
            if call is None:
                if type(runs) is Span or position in failed:
                    continue
                try:
                    places = places or {future: place for place, future in enumerate(runs)}
                    linked = self._linked(batch, position, places)
                except Exception as error:
                    failed[position] = Outcome(FAILED, error)
                    continue
                if linked is None:
                    continue
                call, args, needs = linked
            else:
                args = call.args
            self._see_scope(call.scope)
            try:
                key = self._key_of(call.task)
            except SerializationError as error:
                failed[position] = Outcome(FAILED, error)
                continue
            keys[key] = None
            tags_index = all_tags.setdefault(call.context.get(TAGS, frozenset()), len(all_tags))
            kwargs = None if isinstance(args, bytes) else call.kwargs
            rows.append((position, key, call.number, call.attempt, args, kwargs, tags_index, needs))
        return ("runs", rows) if rows else None, list(keys), list(all_tags), failed

    def _plain_content(
        self, batch: Batch
    ) -> tuple[Any, list[int], list[frozenset[str]], dict[int, Outcome]] | None:
        """As `_content` for first attempts of one task that wait for nothing: columns; `None` for others. Hot."""
        runs = batch.runs
        task = runs[0]._task
        first = runs[0]._call
        if first is None or first.task is not task:
            return None
        tags = first.context.get(TAGS)
        numbers: list[int] = []
        arguments: list[Any] = []
        for future in runs:
            call = future._call
            detail = future._detail
            if (
                call is None
                or call.task is not task
                or call.kwargs is not None
                or call.attempt != 1
                or (detail is not None and detail.upstreams)
                or call.context.get(TAGS) != tags
            ):
                return None
            numbers.append(call.number)
            arguments.append(call.args)
        try:
            key = self._key_of(task)
        except SerializationError:
            return None
        self._see_scope(first.scope)
        return ("calls", key, numbers, arguments), [key], [tags or frozenset()], {}

    def _linked(
        self, batch: Batch, position: int, places: dict[TaskFuture[Any], int]
    ) -> tuple[Call, bytes, list[int]] | None:
        """A run that waits for others of its batch: its arguments are unpickled when these are known."""
        followed = follow(
            batch, position, self._resolve, lambda upstream: ResultOf(places[upstream])
        )
        if followed is None:
            return None
        call, needed = followed
        if any(upstream not in places for upstream in needed):
            return None  # it ended only now, or was sent elsewhere: the run waits again
        try:
            packed = pack((call.args, call.kwargs), whole=True)
        except Exception:
            raise culprit_of(call) from None
        return call, packed.data, [places[upstream] for upstream in needed]

    def _resolve(self, source: TaskFuture[Any] | State[Any], allow_failure: bool) -> Any:
        """What an upstream is replaced by: a stored value stays where it is."""
        if (
            isinstance(source, TaskFuture)
            and source._phase == COMPLETED
            and isinstance(source._outcome, Stored)
            and source._dispatcher is self._events
        ):
            return source._outcome
        return value_of(source, allow_failure)

    def _prepare(self, record: MapRecord[Any]) -> None:
        """Large values that are the same for all elements of a map are stored once."""
        self._prepared.add(record)
        record.positional = [
            (column, value if column is not None else self._kept(value))
            for column, value in record.positional
        ]
        if record.keywords:
            record.keywords = {
                name: (column, value if column is not None else self._kept(value))
                for name, (column, value) in record.keywords.items()
            }

    def _kept(self, value: Any) -> Any:
        if type(value) in ATOMS and not (isinstance(value, (str, bytes)) and len(value) > LARGE):
            return value
        try:
            packed = pack(value)
            if packed.size <= LARGE:
                return value
            stored = self._store.keep(packed.data, packed.buffers, self._on_freed)
        except Exception:
            return value  # found again, and told, where the runs are packed
        self._stored[stored.number] = stored
        return stored

    def _see_scope(self, scope: Scope | None) -> None:
        if self._surroundings is None:
            self._scope = scope
            self._surroundings = surroundings_of(scope)

    def _key_of(self, task: Task[Any, Any]) -> int:
        """What workers know a task by.

        Raises:
            SerializationError: its function cannot be pickled.
        """
        key = self._tasks.get(task)
        if key is None:
            key = self._tasks[task] = len(self._packed_tasks)
            self._tasks_by_key.append(task)
            try:
                digest, data = pack_task(task)
            except SerializationError as error:
                self._packed_tasks.append(error)
            else:
                self._packed_tasks.append(data)
                self._tasks_by_digest.setdefault(digest, task)
        packed = self._packed_tasks[key]
        if isinstance(packed, SerializationError):
            raise packed
        return key

    def _pack(self, content: Any, failed: dict[int, Outcome]) -> tuple[Any, Packed | None]:
        """A batch's content, without runs that cannot be pickled, which go to `failed`; and what it pickles to."""
        if content is None:
            return None, None
        try:
            return content, pack(content)
        except Exception:
            pass
        rows: list[Any]
        if content[0] == "map":
            rows = [
                (p, content[1], content[2] + p, 1, (value,), None, 0, [])
                for p, value in enumerate(content[3])
            ]
        elif content[0] == "calls":
            rows = [
                (p, content[1], number, 1, args, None, 0, [])
                for p, (number, args) in enumerate(zip(*content[2:], strict=True))
            ]
        else:
            rows = content[1]
        kept = []
        for row in rows:
            try:
                pack(row)
            except Exception:
                task = self._tasks_by_key[row[1]]
                call = Call(task, row[4], row[5], row[2], Context(), None)
                failed[row[0]] = Outcome(FAILED, culprit_of(call))
            else:
                kept.append(row)
        if not kept:
            return None, None
        content = ("runs", kept)
        return content, pack(content)

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
                    member: Member | None = key.data
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

    def _read(self, member: Member) -> bool:
        """Takes what a worker has said; whether there may be more."""
        if member.buried:
            return False
        try:
            more = member.channel.inbox.receive()
        except BlockingIOError:
            return False
        with _futures_of(member):
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

    def _take(self, member: Member, message: Message) -> None:
        kind = message.kind
        if kind == wire.REPORT:
            self._take_report(member, message.body)
        elif kind == wire.VALUES:
            self._take_value(member, message)
        elif kind == wire.BACK:
            number, positions, seconds = loads(message.body)
            self._events.handed_back(number, positions, seconds)
        elif kind == wire.BEGUN:
            self._events.started(*loads(message.body))
        elif kind == wire.LOGGED:
            self._take_logged(message.body)
        elif kind == wire.SUBMITTED:
            self._take_submitted(member, message)
        elif kind == wire.MAPPED:
            self._take_mapped(member, message)
        elif kind == wire.WAITING:
            self._take_waiting(member, *loads(message.body))
        elif kind == wire.RESUMED:
            helper = member.waits.pop(loads(message.body), None)
            if helper is not None:
                self._events.resumed(helper)
                self._force_late(member, helper)
        elif kind == wire.QUESTION:
            self._take_question(member, *loads(message.body))
        elif kind == wire.DROPPED:
            for number in loads(message.body):
                member.runs.pop(number, None)
                nested = member.maps.pop(number, None)
                if nested is not None and isinstance(nested.futures._items, MapRecord):
                    nested.futures._items.each = None  # it refers to `nested`
        elif kind == wire.UNPACKABLE:
            self._take_unpackable(member, *loads(message.body))
        elif kind == wire.READY:
            member.ready = True
        elif kind == wire.UNREADY:
            member.unready = loads(message.body)
        elif kind == wire.RETIRING:
            self._retire(member)

    def _take_logged(self, body: bytes) -> None:
        try:
            self._events.logged(loads(body))
        except Exception:  # what the user put into the record, or does with it
            library_logger().exception("A log record of a worker could not be handled")

    def _retire(self, member: Member) -> None:
        with self._lock:
            member.leaving = True
            if self._members.get(member.slot) is member:
                del self._members[member.slot]
            member.channel.send(wire.STOP)

    # ------------------------------------------------------------------ runs end

    def _take_report(self, member: Member, body: bytes) -> None:
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
            self._tell_elements(sent.batch.runs, positions)

    def _forget(self, member: Member, sent: Sent) -> None:
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
            return Outcome(FAILED, _not_unpickled(error))

    def _take_value(self, member: Member, message: Message) -> None:
        number, position, end, data, described = loads(message.body)
        value: Any
        if described is not None:
            name, size, layout, _ = described
            if message.is_cut:
                value = Outcome(FAILED, ResultLost(holder="the descriptor of its memory"))
                self._freed.append((name, False))
            else:
                value = Stored(name, Segment(message.fds[0], size), layout, self._on_freed)
                self._stored[name] = value
            member.segments.add(name)
        else:
            try:
                value = loads(data)
            except Exception as error:
                value = Outcome(FAILED, _not_unpickled(error))
        self._events.reported(Report(number, [position], [value], [end], 0.0, last=False, count=0))
        sent = member.batches.get(number)
        if sent is not None and type(sent.batch.runs) is Span:
            self._tell_elements(sent.batch.runs, [position])

    def _take_unpackable(self, member: Member, number: int, data: bytes) -> None:
        sent = member.batches.get(number)
        if sent is None:
            return
        self._forget(member, sent)
        # What it has kept of what it was told is not certain, so it is told again.
        member.segments.difference_update(sent.segments)
        member.tasks.clear()
        member.surrounded = False
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

    def _bury(self, member: Member) -> None:
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
            if run_name in waited:
                message = "it waited on a worker that " + (
                    f"was killed to stop task run {member.stopped_for!r}"
                    if member.stopped_for
                    else "died while it ran something else"
                )
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
            ended = [p for p, word in enumerate(words) if word not in (NOT_BEGUN, BEGUN, TOLD)]
            with _futures_of(member):
                report = self._report_of(sent, ended)
            report.last = False
            report.count = 0
            self._events.reported(report)
            if type(sent.batch.runs) is Span:
                self._tell_elements(sent.batch.runs, ended)
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
        self, member: Member, batches: list[Sent]
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

    # ------------------------------------------------------------------ runs that workers submit

    def _take_content(self, message: Message, packed: Any) -> tuple[Task[Any, Any], Any]:
        key, data, plain, whole = packed
        task: Any
        if isinstance(key, int):
            task = self._tasks_by_key[key]
        else:
            task = self._tasks_by_digest.get(key)
            if task is None:
                task = self._tasks_by_digest[key] = loads(data)
        outer, parcels.HERE.attached = parcels.HERE.attached, self._stored.__getitem__
        try:
            if message.is_cut:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if whole is not None:
                size, layout = whole
                content = Stored(0, Segment(message.fds[0], size), layout).load()
            else:
                content = loads(plain)
        finally:
            parcels.HERE.attached = outer
        return task, content

    def _take_submitted(self, member: Member, message: Message) -> None:
        number, _, packed = loads(message.body)
        try:
            task, (args, kwargs, wait_for, tags) = self._take_content(message, packed)
            context = Context()
            context.run(TAGS.set, tags)
            scope = Scope(self._events, self._scope.flow_run if self._scope is not None else None)
            run = context.run(self._events.submit, task, args, kwargs, wait_for, scope, number)
        except Exception as error:
            if not isinstance(error, RunnerStateError):  # that is: the runner is being left
                error = _not_unpickled(error, "arguments")
            self._tell_ended(member, [(number, FAILED, time.time(), None, error, None)])
            return
        with LOCK:
            member.runs[number] = run
            watched = run.watch(lambda ended: self._tell_ended(member, [ended]))
        if not watched:
            self._tell_ended(member, [run])

    def _take_mapped(self, member: Member, message: Message) -> None:
        base, size, packed = loads(message.body)
        try:
            task, content = self._take_content(message, packed)
        except Exception:
            member.channel.send(wire.SPLIT, dumps(base))
            return
        positional, keywords, wait_for, tags = content
        context = Context()
        context.run(TAGS.set, tags)
        scope = Scope(self._events, self._scope.flow_run if self._scope is not None else None)
        try:
            futures = context.run(
                self._events.submit_map, task, positional, keywords, size, wait_for, scope, base
            )
        except RunnerStateError as error:
            now = time.time()
            ends = [(base + index, FAILED, now, None, error, None) for index in range(size)]
            self._tell_ended(member, ends)
            return
        nested = NestedMap(futures)
        with LOCK:
            member.maps[base] = nested
            items = futures._items
            unwatched: list[TaskFuture[Any]] = []
            if isinstance(items, MapRecord):
                items.watch(lambda _: self._tell_rest(member, nested))
                items.each = lambda run: self._tell_some(member, nested, [run._number - base])
                for run in items.futures.values():
                    run.watch(items.each)
            else:
                unwatched = [
                    run
                    for run in items
                    if not run.watch(lambda ended: self._tell_ended(member, [ended]))
                ]
        if isinstance(items, MapRecord):
            self._tell_rest(member, nested)
        elif unwatched:
            self._tell_ended(member, unwatched)

    def _tell_elements(self, span: Span, positions: Sequence[int]) -> None:
        """Elements of a map have ended: if a worker submitted it, that worker is told."""
        record = span.record
        for member in list(self._alive):
            nested = member.maps.get(record.base)
            if nested is not None:
                self._tell_some(member, nested, [span.start + p for p in positions])

    def _tell_rest(self, member: Member, nested: NestedMap) -> None:
        if nested.futures._items.done():  # type: ignore[union-attr]
            self._tell_some(member, nested, [i for i, told in enumerate(nested.told) if not told])
        else:
            record: Any = nested.futures._items
            self._tell_some(member, nested, [i for i in list(record.futures) if not nested.told[i]])

    def _tell_some(self, member: Member, nested: NestedMap, indices: Sequence[int]) -> None:
        record: Any = nested.futures._items
        ended: list[Any] = []
        for index in indices:
            if nested.told[index]:
                continue
            value = record.values[index]
            future = record.futures.get(index)
            if value is NO_VALUE or value is CANCELLED_UNSEEN:
                if value is CANCELLED_UNSEEN:
                    future = record.future(index)
                elif future is None or future._phase < DONE:
                    continue
            elif future is None:
                nested.told[index] = 1
                ended.append(
                    (record.base + index, COMPLETED, record.since[index], None, value, None)
                )
                continue
            nested.told[index] = 1
            ended.append(future if future is not None else record.future(index))
        if ended:
            self._tell_ended(member, ended)

    def _tell_ended(self, member: Member, runs: Sequence[Any]) -> None:
        """Tells a worker how runs ended that it submitted."""
        described: list[Any] = []
        fds: list[int] = []
        entries: list[Any] = []
        kept: list[Any] = []
        with self._lock:
            if member.buried:
                return
            for run in runs:
                if isinstance(run, TaskFuture):
                    detail = run._detail
                    state = detail.state if detail is not None else None
                    name = detail.name if detail is not None else None
                    number, phase, since, value = run._number, run._phase, run._since, run._outcome
                else:
                    number, phase, since, name, value, state = run
                data: Any
                if isinstance(value, Handle) and not isinstance(value, Stored):
                    value = value.value()
                if isinstance(value, Stored):
                    is_new = value.number not in member.segments
                    if is_new:
                        member.segments.add(value.number)
                        fds.append(value.segment.fileno())
                    described.append(tuple(value.describe(is_new)))
                    kept.append(value)
                    data = value.number
                else:
                    try:
                        data = dumps((value, state))
                    except Exception:
                        phase = FAILED if phase == COMPLETED else phase
                        data = dumps((find_culprit(value, "result"), None))
                entries.append((number, phase, since, name, data))
                if len(fds) == wire.MOST_FDS:
                    member.channel.send(wire.RUNS_ENDED, dumps((described, entries)), fds)
                    described, entries, fds = [], [], []
            if entries:
                member.channel.send(wire.RUNS_ENDED, dumps((described, entries)), fds)

    def _take_waiting(
        self,
        member: Member,
        wait: int,
        at: tuple[int, int] | None,
        numbers: list[int],
        maps: list[tuple[int, int]],
        blocks: bool,
        timed: bool,
    ) -> None:
        wanted: list[Any] = []
        for number in numbers:
            try:
                wanted.append(member.run_numbered(number))
            except KeyError:
                continue  # its arguments could not be unpickled, as its worker is being told
        for base, size in maps:
            nested = member.maps.get(base)
            if nested is not None:
                wanted.extend(nested.futures._wanted())
            else:  # its elements came one by one
                elements = [member.runs.get(number) for number in range(base, base + size)]
                wanted.extend(element for element in elements if element is not None)
        if at is None:
            return
        try:
            helper = self._events.waiting(
                at[0], at[1], wanted, blocks=blocks, timed=timed, tag=(member, wait)
            )
        except WaitCycle as error:
            member.channel.send(wire.LOOK_AGAIN, dumps((wait, error)))
            return
        if helper is not None:
            member.waits[wait] = helper

    def refuse(self, helper: Helper, error: Exception) -> None:
        """See `Backend`."""
        member, wait = helper.tag
        member.channel.send(wire.LOOK_AGAIN, dumps((wait, error)))

    def _take_question(self, member: Member, question: int, what: str, number: int) -> None:
        try:
            run = member.run_numbered(number)
            answer: Any
            if what == "cancel":
                answer = self._events.cancel(run)
            else:
                state = run.state
                answer = State(state.type, state.name, state.message, timestamp=state.epoch)
            reply = (question, False, answer)
        except Exception as error:
            reply = (question, True, error)
        member.channel.send(wire.REPLY, dumps(reply))

    # ------------------------------------------------------------------ stored values

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
                        wire.FREED, dumps([(number, len(holders) == 1 and not loaded)])
                    )

    # ------------------------------------------------------------------ the rest of a backend

    def _find(self, run: TaskFuture[Any]) -> tuple[Member, Sent, int] | None:
        with self._lock:
            for member in self._alive:
                for sent in member.batches.values():
                    position = sent.position_of(run)
                    if position is not None:
                        return member, sent, position
        return None

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`."""
        found = self._find(run)
        if found is not None:
            detail = run._detail
            overdue = detail is not None and detail.overdue
            found[0].channel.send(wire.INTERRUPT, dumps((run._number, overdue)))

    def force(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: its worker is killed."""
        with self._lock:
            found = self._find(run)
            if found is not None:
                self._force(*found, run)

    def _force(self, member: Member, sent: Sent, position: int, run: TaskFuture[Any]) -> None:
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

    def _force_late(self, member: Member, helper: Helper) -> None:
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
                    member.channel.send(wire.RECALL, dumps(batch.number))

    def slot_gone(self, slot: int) -> None:
        """See `Backend`."""
        with self._lock:
            member = self._members.get(slot)
            if member is not None:
                self._retire(member)

    def running(self) -> list[TaskFuture[Any]]:
        """Nothing that the scheduler does not know of."""
        return []

    def capture(self) -> Any:
        """There are no ambient options."""
        return None

    def native(self, run: TaskFuture[Any]) -> Any:
        """There is none."""
        return None


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


@contextmanager
def _futures_of(member: Member) -> Iterator[None]:
    """Inside, what stands in a pickle for a run that a worker has submitted becomes its future."""
    outer, parcels.HERE.run = parcels.HERE.run, member.run_numbered
    try:
        yield
    finally:
        parcels.HERE.run = outer


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


def _not_unpickled(error: Exception, path: str = "result") -> SerializationError:
    return SerializationError(
        path=path, type_name="unknown", problem=f"unpickling in the driver raised {error!r}"
    )
