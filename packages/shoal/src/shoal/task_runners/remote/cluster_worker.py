"""What runs batches inside a cluster's own worker process: the same for every cluster.

    the cluster's task ─▶ `opened` ─▶ a worker_thread, or the service loop ─▶ each run through the engine ─▶ columns ──report──▶ driver
    messages ─▶ receiver thread: tasks asked for, interrupts, recalls, what waiting runs are given, ends of nested runs

A runner's package adds how messages travel, how the cluster's tasks begin and end, and where large values stay.

May import `cluster_thread`, `worker`, `record` and what lies above them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from shoal import names
from shoal.context import LOCK, SCOPE
from shoal.serialization import dumps, loads, pack_error
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import Batch, Opening
from shoal.task_runners.remote.cluster_thread import ClusterThread
from shoal.task_runners.remote.columns import Columns
from shoal.task_runners.remote.dispatcher import RemoteDispatcher
from shoal.task_runners.remote.parcels import unpack
from shoal.task_runners.remote.record import ARGUMENTS, Record
from shoal.task_runners.remote.standby import Next
from shoal.task_runners.remote.worker import LogSender, RemoteWorker, flush_streams
from shoal.task_runners.remote.worker_thread import MainThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.task_runners.remote.messages import Message, WorkerEnd
    from shoal.task_runners.remote.standby import StandingBy
    from shoal.task_runners.remote.worker_thread import WorkerThread

__all__ = ["ClusterWorker"]


class _Numbers:
    """Numbers of runs that are submitted here, as soon as the driver has given some."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.numbers: names.Numbers

    def next_number(self) -> int:
        """See `names.Numbers`."""
        self.there.wait()
        return self.numbers.next_number()

    def reserve(self, n: int) -> int:
        """See `names.Numbers`."""
        self.there.wait()
        return self.numbers.reserve(n)


class ClusterWorker(RemoteWorker):
    """One runner's part of a cluster's worker process.

    Args:
        channel: to the driver.
        report_every: seconds after which outcomes are reported while their batch goes on.

    Attributes:
        record: what has begun, in memory that outlives this process; `None` in the driver's own process, and where
            there is no room for it.
        main_thread: that runs batches, where this process is there for runs alone; see `serve`.
        loading: gives the values of handles while a thread unpacks a batch that came with them.
        standing_by: who stands by, by the number of the batch as which the cluster's task came.
        news: told of what batches may wait for: what surrounds the runs, tasks, the end.
    """

    def __init__(self, channel: WorkerEnd, report_every: float) -> None:
        super().__init__(channel, report_every)
        self._numbers = _Numbers()
        self.remote = RemoteDispatcher(self, self._numbers)
        self.record: Record | None = None
        self._unrecorded: str | None = None
        self.main_thread: MainThread | None = None
        self.loading = threading.local()
        self._level: int | None = None
        self.news = threading.Condition(LOCK)
        self._opening: dict[int, Opening] = {}
        self.standing_by: dict[int, StandingBy] = {}
        self._pickles: dict[int, bytes] = {}
        self._learning = threading.Lock()
        self._withdrawn: set[int] = set()

    # ------------------------------------------------------------------ for subclasses

    def catch_up(self) -> None:
        """Waits until what surrounds the runs is known here; nothing to do where all that is said comes by one way."""

    def fetch(self, number: Any) -> Any:
        """The value of a handle that did not come with a batch."""
        raise NotImplementedError

    def hear_more(self, message: Message) -> None:
        """Takes a message of the runner's own."""
        self.take(message)

    def may_stand_by(self, batch: Batch) -> bool:
        """Whether the thread that has run a batch may stand by, unless it is time for others; with `LOCK` held."""
        return True

    def is_refused(self, batch: int) -> bool:
        """Whether a batch must not begin here, for a reason of the runner's own; with `LOCK` held."""
        return False

    # ------------------------------------------------------------------ a process of its own

    def serve(self, receive: Callable[[], object]) -> None:
        """What a process does that is there for runs alone, on its main thread, until its driver says stop or has gone.

        Args:
            receive: hears what the driver says, until that has gone; on a thread of its own.
        """
        main_thread = self.main_thread = MainThread(self)
        self.worker_threads.append(main_thread)
        main_thread.begin()

        def receive_all() -> None:
            self.guarded(receive)()
            main_thread.end()

        threading.Thread(target=receive_all, name="shoal-receiver", daemon=True).start()
        main_thread.serve()
        if self.record is not None:
            self.record.remove()  # all of it was told

    # ------------------------------------------------------------------ what the driver says; on the receiver

    def hear(self, message: Message) -> None:
        """Takes a message."""
        kind, body = message.kind, message.body
        if kind == messages.BATCH:
            self._take_batch(*loads(body))
        elif kind == messages.NEXT:
            self._take_next(*loads(body))
        elif kind == messages.DISMISSED:
            self.dismiss(loads(body))
        elif kind == messages.TASK:
            key, data = loads(body)
            with self.news:  # it is unpickled by who needs it
                self._pickles[key] = data
                self.news.notify_all()
        elif kind == messages.SURROUNDINGS:
            self._level = self.surround(body).level
            self._set_level()
        else:
            self.hear_more(message)

    def identify(self, entropy: int, folder: str) -> None:
        """Learns whose worker this is.

        Args:
            entropy: the driver's.
            folder: where the record goes, if this is not the driver's process.
        """
        if entropy != names.process_entropy():
            self.entropy = entropy
            _send_logs()
            self._set_level()
            try:
                self.record = Record(folder)
            except OSError as error:
                self._unrecorded = str(error)

    def is_elsewhere(self) -> bool:
        """See `RemoteWorker`."""
        return self.entropy is not None

    def number(self, base: int, size: int) -> None:
        """Learns its own run numbers: the first of them, and how many.

        The last quarter is for runs of flows inside its runs, which no driver hears of: their ids are made of the driver's
        entropy, too, and must be like none of its.
        """
        self.observe()
        if self.is_elsewhere():
            names.number_from(base + size // 4 * 3, size // 4)
        self._numbers.numbers = names.Numbers(base, size)
        self._numbers.there.set()

    def join(
        self, base: int, size: int, entropy: int, folder: str, environment: Any = None
    ) -> None:
        """The driver's first words have come (`ClusterBackend.welcome`): says who this is.

        Args:
            base: the first of this worker's own run numbers.
            size: how many these are.
            entropy: the driver's.
            folder: where the record goes.
            environment: what the driver compares with its own, if it does.
        """
        self.identify(entropy, folder)
        self.channel.send(messages.HELLO, dumps(self.hello(environment)))
        self.number(base, size)

    def hello(self, environment: Any) -> dict[str, Any]:
        """What this worker says of itself.

        Without a record its runs are run all the same. Should it die, none of what it has begun and not reported can be
        told from what it has not begun: all of it is CRASHED then, which costs less than to run nothing here.
        """
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "record": self.record.path if self.record is not None else None,
            "unrecorded": self._unrecorded,
            "environment": environment,
        }

    def _set_level(self) -> None:
        if self.entropy is not None and self._level is not None:
            logging.getLogger("shoal").setLevel(self._level)

    # ------------------------------------------------------------------ batches

    def begins(self, number: int) -> bool:
        """Whether a batch that has come may begin: it can be asked back from now on."""
        with LOCK:
            barred = self._is_barred(number)
            if not barred:
                self._opening[number] = Opening()
        return not barred

    def opened(
        self,
        number: int,
        blob: bytes,
        wait: int | None = None,
        buffers: Sequence[Any] | None = None,
    ) -> Batch | None:
        """Unpacks a batch that `begins`, and says so if it came as a task of the cluster's; `None` if that cannot be done, or it
        is not to be begun any more, as the driver is told.

        Args:
            number: of the batch.
            blob: what the driver packed.
            wait: for which it came by message, 0 for none; `None` if it came as a task of the cluster's.
            buffers: large ones that came beside it.

        Raises:
            ConnectionError: the driver has gone.
        """
        opening = self._opening[number]
        size, keys, tags, data, along, may_go_on = loads(blob)  # nothing of the user's
        record = self.record
        is_function = True  # what is unpickled first
        lane = record.open(number, size) if record is not None else -1
        if wait is None:
            # First: should this process die of what comes, the driver knows whose record to read.
            self.channel.send(messages.ARRIVED, dumps(number))
        try:
            if 0 not in self.scopes:
                self.catch_up()
            for key in keys:
                self._see_task(key, along.get(key), lane)
            is_function = False
            if record is not None:
                record.unpickles(lane, ARGUMENTS)
            content = unpack(data, self.load, buffers)
            rows, scope = self.rows(content, tags)
        except BaseException as error:
            del self._opening[number]
            self._close_lane(lane)
            failure = pack_error(error, "(unpacking)")
            self.channel.send(messages.UNPACKABLE, dumps((number, failure, is_function)))
            return None
        columns = record.begin(lane, size) if record is not None else None
        batch = Batch(number, Columns(lane, columns, size), rows, scope, wait or 0)
        batch.job = number if may_go_on else 0
        with LOCK:
            del self._opening[number]
            barred = self._is_barred(number)
            if not barred:
                self.batches[number] = batch
            batch.skipped |= opening.skipped
        if barred:
            self.send_report(batch, [], 0.0, last=True)  # as it was said to begin
            self._close_lane(lane)
            return None
        if opening.is_recalled:
            self.hand_back(batch)
        return batch

    def _see_task(self, key: int, data: bytes | None, lane: int) -> None:
        """Sees to it that a task is known here.

        Args:
            key: of the task.
            data: its pickle, if that came with the batch.
            lane: of the batch that needs it.

        Raises:
            BaseException: whatever unpickling it raises.
        """
        if self.tasks.is_known(key):
            return
        if data is None:
            data = self._asked_for(key)
        with self._learning:
            if data is not None and not self.tasks.is_known(key):
                if self.record is not None:
                    self.record.unpickles(lane, key + 1)
                self.learn(key, data)
        self._pickles.pop(key, None)

    def _asked_for(self, key: int) -> bytes | None:
        """The pickle of a task, from the driver; `None` if the task is known by now. The thread that receives has either.

        Raises:
            ConnectionError: the driver has gone.
        """
        with self.news:
            if self.tasks.is_known(key):
                return None
            if key not in self._pickles:
                self.channel.send(messages.ASKED, dumps(key))
            while key not in self._pickles:
                if self.gone:
                    raise ConnectionError("the driver has gone")
                self.news.wait()
            return self._pickles[key]

    def interrupt(self, number: int, overdue: bool) -> None:
        """See `RemoteWorker`: also a run of a batch that is just being unpacked."""
        with LOCK:
            for opening in self._opening.values():
                opening.skipped.add(number)
        super().interrupt(number, overdue)

    def take(self, message: Message) -> None:
        """See `RemoteWorker`."""
        if message.kind == messages.RECALL:
            with LOCK:
                opening = self._opening.get(loads(message.body))
                if opening is not None:
                    opening.is_recalled = True
                    return
        super().take(message)

    def withdraw(self, number: int) -> bool:
        """Sees to it that a batch does not begin, unless it has; whether it had not."""
        with LOCK:
            if number in self.batches:
                return False
            self._withdrawn.add(number)
            return True

    def _is_barred(self, number: int) -> bool:
        """Whether a batch must not begin (any more); with `LOCK` held."""
        barred = self.gone or number in self._withdrawn or self.is_refused(number)
        self._withdrawn.discard(number)
        return barred

    def _take_batch(self, number: int, wait: int, blob: bytes, tasks: dict[int, bytes]) -> None:
        """A batch that came by message, with what it needs of tasks that are not known here.

        What a waiting run waits for is run on its thread.
        """
        self._pickles.update(tasks)
        batch = self.opened(number, blob, wait) if self.begins(number) else None
        if batch is None:
            return
        if not wait:
            assert self.main_thread is not None  # else batches are tasks of the cluster's
            self.main_thread.begin_batch(batch)
            return
        self.give_waiting(batch)

    def _take_next(self, job: int, number: int, blob: bytes, tasks: dict[int, bytes]) -> None:
        """A batch for who stands by, and unpacks it there; if nobody does any more, it has not begun."""
        self._pickles.update(tasks)
        with LOCK:
            standing = self.standing_by.pop(job, None)
            begins = standing is not None and self.begins(number)
            if standing is not None:
                standing.give(Next(number, blob) if begins else None)
        if not begins:
            nothing = dumps((number, (0, 0), b"", [], [], 0.0, True, False))
            self.channel.send(messages.ENDS, nothing)

    def opened_next(self, job: int, following: Next, worker_thread: WorkerThread) -> Batch | None:
        """Unpacks what a cluster's task goes on with.

        Args:
            job: number of the batch as which that came.
            following: the next one.
            worker_thread: that stood by for it.
        """
        batch = self.opened(following.number, following.blob, 0)
        if batch is not None:
            batch.job, batch.worker_thread = job, worker_thread
        return batch

    def dismiss(self, job: int) -> None:
        """Who stands by in a task of the cluster's does so no more."""
        with LOCK:
            standing = self.standing_by.pop(job, None)
            if standing is not None:
                standing.give(None)

    def close(self, batch: Batch) -> None:
        """See `RemoteWorker`."""
        flush_streams()
        thread = batch.worker_thread
        if batch.job and isinstance(thread, ClusterThread):
            with LOCK:  # as has who ends it
                batch.stands_by = (
                    not (self.stopping or self.gone)
                    and thread.standing.may_go_on()
                    and self.may_stand_by(batch)
                )
                if batch.stands_by:
                    self.standing_by[batch.job] = thread.standing
        super().close(batch)
        lane: Any = batch.lane
        self._close_lane(lane.number)

    def _close_lane(self, lane: int) -> None:
        if self.record is not None:
            self.record.close_lane(lane)

    # ------------------------------------------------------------------ ends

    def send_report(
        self, batch: Batch, positions: Sequence[int], seconds: float, last: bool
    ) -> None:
        """See `RemoteWorker`: kinds and values in columns."""
        lane: Any = batch.lane
        ends: list[float]
        first, after = (positions[0], positions[-1] + 1) if positions else (0, 0)
        if after - first == len(positions):
            where: Any = (first, after)
            here = slice(first, after)
            kinds, values = bytes(lane.kinds[here]), lane.values[here]
            ends = list(lane.ends[here])
            lane.values[here] = [None] * len(positions)
        else:
            where = list(positions)
            kinds = bytes([lane.kinds[position] for position in positions])
            values = [lane.values[position] for position in positions]
            ends = [lane.ends[position] for position in positions]
            for position in positions:
                lane.values[position] = None
        stands_by = last and batch.stands_by
        body = dumps((batch.number, where, kinds, values, ends, seconds, last, stands_by))
        self.channel.send(messages.ENDS, body)

    def end(self) -> None:
        """See `RemoteWorker`: nobody will ask for the record."""
        super().end()
        for job in list(self.standing_by):
            self.dismiss(job)
        with self.news:
            self.news.notify_all()
        if self.record is not None:
            self.record.remove()

    def adopt_ended(self, message: Message) -> list[Any]:
        """See `RemoteWorker`: the large ones come when they are asked for."""
        return loads(message.body)  # type: ignore[no-any-return]

    def load(self, number: Any) -> Any:
        """See `RemoteWorker`: given with the batch, or had from the cluster now."""
        values = getattr(self.loading, "values", {})
        return values[number] if number in values else self.fetch(number)


class _LogRouter(logging.Handler):
    """Sends what a run logs to the driver that it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        scope = SCOPE.get()
        remote = scope.own_dispatcher if scope is not None else None
        if isinstance(remote, RemoteDispatcher):
            LogSender(remote._worker.channel).emit(record)


def _send_logs() -> None:
    """Has log records of runs in this process go to their drivers."""
    root = logging.getLogger("shoal")
    if not any(isinstance(handler, _LogRouter) for handler in root.handlers):
        root.handlers = [_LogRouter()]
        root.propagate = False
