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

May import `remote`, `stored`, `record`, `wire`, and what lies above task runners.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal import names
from shoal.context import LOCK
from shoal.logs import library_logger, log_to_stderr
from shoal.serialization import dumps, loads, pack_error
from shoal.task_runners.processes.record import REPORT, REPORT_EVERY, TOLD, Record, size_of_record
from shoal.task_runners.processes.segments import NoSegment, Segment, SegmentPool
from shoal.task_runners.processes.stored import Store, Stored
from shoal.task_runners.processes.wire import WorkerChannel
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import Batch, UnknownKeyError
from shoal.task_runners.remote.dispatcher import RemoteDispatcher
from shoal.task_runners.remote.parcels import Packed, unpack
from shoal.task_runners.remote.worker import LogSender, RemoteWorker
from shoal.task_runners.remote.worker_thread import MainThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Call
    from shoal.task_runners.remote.messages import Message

__all__ = ["Settings", "main"]


class Settings(NamedTuple):
    """What a worker is told when it starts.

    Attributes:
        number: of the worker, among those of its runner.
        entropy: of the driver, so that run ids read the same here.
        block: the first of the run numbers that are the worker's own.
        block_size: how many these are.
        level: of the `shoal` loggers.
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


class Worker(RemoteWorker):
    """This process, whose main thread is its one worker thread."""

    channel: WorkerChannel

    def __init__(self, connection: socket.socket, record: Record, settings: Settings) -> None:
        super().__init__(WorkerChannel(connection), REPORT_EVERY, settings.most)
        self.record = record
        self.settings = settings
        self.worker_thread = MainThread(self)
        self.worker_threads.append(self.worker_thread)
        self.pool = SegmentPool()
        self.store = Store((settings.number + 1) << 40, self.pool.take)
        self.made: dict[int, Segment] = {}
        self.attached: dict[int, Stored] = {}
        self._mapped: dict[int, int] = {}
        self._unmapped: deque[int] = deque()
        self.remote = RemoteDispatcher(self)
        self.retiring = False
        self._told_no_room = False
        self._lost: set[int] = set()

    # ------------------------------------------------------------------ the main thread

    def serve(self) -> None:
        """Runs batches until the driver says stop, or has gone."""
        names.adopt_entropy(self.settings.entropy)
        names.number_from(self.settings.block, self.settings.block_size)
        self._set_up_logging()
        receiver = threading.Thread(target=self._receive, name="shoal-receiver", daemon=True)
        with contextlib.suppress(ConnectionError):  # the driver has gone: nobody is to be told
            if not self._initialize():
                return
            self.worker_thread.begin()
            self.channel.send(messages.READY)
            receiver.start()
            self.worker_thread.serve()

    def leave_to_parent(self) -> None:
        """See `RemoteWorker`."""
        super().leave_to_parent()
        log_to_stderr()

    def _initialize(self) -> bool:
        if self.settings.initializer is None:
            return True
        try:
            function, arguments = loads(self.settings.initializer)
            function(*arguments)
        except BaseException as error:
            self.channel.send(messages.UNREADY, pack_error(error, "(the initializer)"))
            return False
        return True

    def _set_up_logging(self) -> None:
        root = logging.getLogger("shoal")
        root.handlers = [LogSender(self.channel)]
        root.propagate = False
        root.setLevel(self.settings.level)

    # ------------------------------------------------------------------ ends

    def tell(self, batch: Batch, position: int, data: bytes) -> None:
        """See `RemoteWorker`."""
        self.channel.send(
            messages.VALUES, dumps((batch.number, position, batch.lane.ends[position], data, None))
        )
        batch.lane.words[position] = TOLD

    def keep(
        self, batch: Batch, position: int, call: Call, value: Any, packed: Packed
    ) -> Callable[[], Any] | None:
        """See `RemoteWorker`: in shared memory."""
        try:
            number = self._tell_stored(batch, position, packed)
        except NoSegment as error:
            self._tell_no_room(call, packed.size, error)
            return None
        return lambda: self.load(number)

    def _tell_no_room(self, call: Call, size: int, error: NoSegment) -> None:
        if not self._told_no_room:  # what one value finds, the next ones are likely to find too
            self._told_no_room = True
            library_logger().warning(
                "There is no room in shared memory for the result of task run %r (%d bytes: %s); "
                "it goes through the driver, as others may",
                call.run_name(),
                size,
                error,
            )

    def _tell_stored(self, batch: Batch, position: int, packed: Packed) -> int:
        if len(self.made) >= self.settings.segments:
            raise NoSegment(errno.EMFILE, f"{len(self.made)} large values are kept already")
        stored: Stored = self.store.keep(packed.data, packed.buffers)
        self.made[stored.number] = stored.segment
        self.attached[stored.number] = stored
        end = batch.lane.ends[position]
        self.channel.send(
            messages.VALUES,
            dumps((batch.number, position, end, None, tuple(stored.describe(is_new=True)))),
            [stored.segment.fileno()],
        )
        batch.lane.words[position] = TOLD
        return stored.number

    def send_report(
        self, batch: Batch, positions: Sequence[int], seconds: float, last: bool
    ) -> None:
        """See `RemoteWorker`: the driver is told to look into the record."""
        count = len(positions)
        body = REPORT.pack(batch.number, seconds, count, last)
        self.channel.send(messages.REPORT, body + struct.pack(f"<{count}H", *positions))

    def send_apart(self, kind: int, number: int, size: int, packed: Packed, task: Any) -> bool:
        """See `RemoteWorker`: in a segment."""
        try:
            whole = self.store.keep(packed.data, packed.buffers)
        except NoSegment:
            return False
        where = (whole.segment.size, whole.layout)
        body = dumps((number, size, (*task, None, where)))
        self.channel.send(kind, body, [whole.segment.fileno()])
        whole.segment.close()
        return True

    def retire(self) -> None:
        """See `RemoteWorker`."""
        with LOCK:
            if self.retiring or len(self.worker_thread.frames.stack):
                return
            self.retiring = True
        self.hand_back_all()
        self.channel.send(messages.RETIRING)

    # ------------------------------------------------------------------ the receiver

    def _receive(self) -> None:
        inbox = self.channel.inbox
        try:
            while inbox.receive():
                for message in inbox.messages():
                    self._take(message)
        except BaseException:
            library_logger().exception("A worker's receiver failed")
        self.worker_thread.end()

    def _take(self, message: Message) -> None:
        kind = message.kind
        if kind == messages.BATCH:
            self._take_batch(message)
        elif kind == messages.FREED:
            for number, recyclable in loads(message.body):
                self._free(number, recyclable)
        else:
            self.take(message)

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
                self.surround(surroundings)
            for key, data in tasks:
                self.record.task = key
                self.learn(key, data)
            self.record.task = None
            if whole is not None:
                content = Stored(0, whole, own[1]).load(attached=self.load)
            else:
                content = unpack(content, self.load)
            rows, scope = self.rows(content, tags)
        except UnknownKeyError:
            # An earlier batch could not be unpacked, so the driver tells everything again, and sends this one again.
            self.record.unpacking = 0
            self.channel.send(messages.REPORT, REPORT.pack(number, 0.0, 0, True))
            return
        except BaseException as error:
            is_function = self.record.task is not None
            self.record.unpacking = 0
            self.record.task = None
            failure = pack_error(error, "(unpacking)")
            self.channel.send(messages.UNPACKABLE, dumps((number, failure, is_function)))
            return
        self.record.unpacking = 0
        outcomes = self.record.lane(lane)
        outcomes.open()
        batch = Batch(number, outcomes, rows, scope, wait)
        with LOCK:
            self.batches[number] = batch
        if self.retiring:
            self.hand_back(batch)
        if wait:
            self.give_waiting(batch)
        else:
            self.worker_thread.begin_batch(batch)

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

    def adopt_ended(self, message: Message) -> list[Any]:
        """See `RemoteWorker`."""
        described, entries = loads(message.body)
        if message.is_cut:
            self.miss(described)
        else:
            self.adopt(described, message.fds)
        return entries  # type: ignore[no-any-return]

    def handle_of(self, number: Any) -> Any:
        """See `RemoteWorker`."""
        return self.attached.get(number)

    def load(self, number: int) -> Any:
        """See `RemoteWorker`: loaded anew, as runs must not see each other's changes."""
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


def _out_of_descriptors() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
