"""A worker process, as far as it is the same wherever it runs: what it holds, and what it says.

    driver ──batch──▶ queue of a worker thread ─▶ each run through the engine ─▶ lane ──report──▶ driver
              recall, interrupt ─▶ (the thread that receives)       │
                                                                    └─ waits: see `WorkerThread`

Who does what:

    threads    run batches; each claims a run by a step of the batch's iterator
    receiver   takes messages; exhausts a batch's iterator for a recall; interrupts; settles futures of this side
    loop       runs async tasks, those of a batch side by side
    timer      reports what ended while a slow run is at it

May import `dispatcher`, `coroutines`, `batches`, `parcels` and what lies above task runners.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import names
from shoal.calls import FAILED, Call, Outcome
from shoal.context import LOCK, SCOPE, TAGS, Scope, scope_of
from shoal.engine.batch_run import Surroundings, flow_run_of, pack_outcome
from shoal.engine.inputs import ATOMS
from shoal.engine.observing import be_traced, remove_observer
from shoal.engine.services import guarded
from shoal.exceptions import NestingTooDeep
from shoal.logs import in_plain_text, log_failure, log_prints_of, prints_are_logged
from shoal.serialization import dumps, loads, pack_error, unpicklable
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import BEGUN, Batch, Broadcasts, Rows, Tasks
from shoal.task_runners.remote.coroutines import Coroutines
from shoal.task_runners.remote.parcels import LARGE, Packed, pack

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from shoal.recording.inside import Inside
    from shoal.task_runners.remote.dispatcher import RemoteDispatcher
    from shoal.task_runners.remote.messages import Channel, Message, WorkerEnd
    from shoal.task_runners.remote.worker_thread import WorkerThread

__all__ = ["LogSender", "RemoteWorker", "flush_streams"]


class RemoteWorker:
    """A worker process. A runner adds how it is reached, and where large values stay.

    Args:
        channel: to the driver.
        most: runs after which it retires, `None` for never.

    Attributes:
        worker_threads: that run batches.
        waiting: by wait, the worker thread where it is.
        batches: that it holds, by number.
        entropy: of the driver, where this process's own differs.
        carrier: see `Surroundings`.
        tasks: that it was told of, by key.
        scopes: of the runs; there is one, 0.
        overdue: numbers of runs that are past their limits.
        placed: waits that may go on, as there is a place of their caps for them.
        is_observed: whether the driver is recorded, and wants to know what happens inside runs here.
        inside: tells it.
        done: runs so far, where they are counted.
        report_every: seconds after which outcomes are reported while their batch goes on.
        stopping: whether it is to end.
        gone: whether the driver has gone.
    """

    remote: RemoteDispatcher

    def __init__(self, channel: WorkerEnd, report_every: float, most: int | None = None) -> None:
        self.channel = channel
        self.report_every = report_every
        self.most = most
        self.worker_threads: list[WorkerThread] = []
        self.waiting: dict[int, WorkerThread] = {}
        self.batches: dict[int, Batch] = {}
        self.entropy: int | None = None
        self.carrier: dict[str, str] | None = None
        self.tasks = Tasks()
        self.scopes: dict[int, Scope] = Broadcasts()
        self.coroutines = Coroutines(self)
        self.overdue: set[int] = set()
        self.placed: set[int] = set()
        self.is_observed = False
        self.inside: Inside | None = None
        self.done = 0
        self.stopping = False
        self.gone = False
        self._reporting = threading.Lock()

    # ------------------------------------------------------------------ for subclasses

    def tell(self, batch: Batch, position: int, data: bytes) -> None:
        """Tells the driver of a run's end for which its lane has no room: a pickled value or `Outcome`."""
        raise NotImplementedError

    def keep(
        self, batch: Batch, position: int, call: Call, value: Any, packed: Packed
    ) -> Callable[[], Any] | None:
        """Keeps a large result, and tells the driver where it is.

        Returns:
            What loads it for a run of the same batch; `None` if it cannot be kept and has to travel.
        """
        raise NotImplementedError

    def has_to_stay(self, packed: Packed) -> bool:
        """Whether a result is to be kept here though it is small, because of handles in it."""
        return False

    def send_report(
        self, batch: Batch, positions: Sequence[int], seconds: float, last: bool
    ) -> None:
        """Tells the driver of runs that have ended.

        Args:
            batch: the batch.
            positions: of the runs.
            seconds: how long they took together.
            last: whether there will be no more.
        """
        raise NotImplementedError

    def load(self, number: Any) -> Any:
        """The value that a handle in arguments stands for, by its number."""
        raise NotImplementedError

    def adopt_ended(self, message: Message) -> list[Any]:
        """The entries of a message about runs that were submitted here, once their large values are known here."""
        raise NotImplementedError

    def handle_of(self, number: Any) -> Any:
        """What stands for a large value of a run that was submitted here, for its future; `None` if it is lost."""
        raise NotImplementedError

    def send_apart(self, kind: int, number: int, size: int, packed: Packed, task: Any) -> bool:
        """Sends large arguments of runs that are submitted here beside their message, where there is such a way."""
        return False

    def capture(self) -> Any:
        """The execution system's ambient options where a run submits another; `None` for none."""
        return None

    def is_elsewhere(self) -> bool:
        """Whether this is another process than the driver's."""
        return True

    def new_context(self) -> Context:
        """What a run's context begins as."""
        return Context()

    def retire(self) -> None:
        """It has had its `most` runs."""

    # ------------------------------------------------------------------ what must not happen

    def failed(self, error: BaseException) -> None:
        """Something went wrong here that is no run's fault, and runs depend on it: the driver is told, and ends them."""
        if issubclass(type(error), ConnectionError):
            return  # the driver has gone, as the receiver sees too
        log_failure(error, "A worker failed")
        with contextlib.suppress(OSError):
            self.channel.send(messages.FAILED, pack_error(error, "(a worker)"))

    def guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        """An action on which runs depend, for a service thread, a loop or a callback."""
        return guarded(action, self.failed)

    # ------------------------------------------------------------------ what the driver says

    def take(self, message: Message) -> None:
        """Takes a message that means the same everywhere; on the thread that receives."""
        kind = message.kind
        if kind == messages.INTERRUPT:
            self.interrupt(*loads(message.body))
        elif kind == messages.RECALL:
            with LOCK:
                batch = self.batches.get(loads(message.body))
            if batch is not None:
                self.hand_back(batch)
        elif kind == messages.STOP:
            self.stopping = True
            for worker_thread in self.worker_threads:
                worker_thread.give(None)
        elif kind == messages.REFUSED:
            wait, error = loads(message.body)
            self.remote.refusals[wait] = error
            self.coroutines.refuse(wait)
            for worker_thread in self.worker_threads:
                worker_thread.give(None)
        elif kind == messages.PLACE:
            wait = loads(message.body)
            waiting = self.waiting.get(wait)
            if waiting is None:
                self.coroutines.place(wait)
            else:
                self.placed.add(wait)
                waiting.give(None)
        elif kind == messages.SLOTS:
            self.remote.keeper.take(message.body)
        else:
            self.remote.take(message)

    def surround(self, surroundings: bytes) -> Surroundings:
        """Learns what surrounds the runs."""
        told: Surroundings = loads(surroundings)
        self.remote.limited = told.limited
        flow_run = flow_run_of(told.flow) if told.flow is not None else None
        self.remote.capped = told.capped
        self.is_observed = told.observed
        self.observe()
        self.carrier = told.carrier
        if flow_run is not None:
            self.remote.works_for(flow_run.label)
        self.scopes[0] = scope_of(self.remote, flow_run)
        log_prints_of(prints_are_logged(told.log_prints) or getattr(flow_run, "log_prints", False))
        return told

    def observe(self) -> None:
        """If its driver is recorded: from now on it is told what happens inside runs here."""
        if self.is_observed and self.inside is None and self.is_elsewhere():
            from shoal.recording.inside import observe_inside

            self.inside = observe_inside(self, partial(self.channel.send, messages.INSIDE))

    def learn(self, key: Any, data: bytes) -> None:
        """Learns a task.

        Raises:
            BaseException: whatever unpickling it raises.
        """
        self.tasks.unpack(key, data)
        self.remote.know(self.tasks[key], key)

    def rows(self, content: Any, tags: list[frozenset[str]]) -> tuple[Rows, Scope]:
        """The runs of a batch, and their scope."""
        return Rows(self.tasks, content, tags), self.scopes[0]

    def context(self, batch: Batch, tags: int) -> Context:
        context = self.new_context()
        context.run(SCOPE.set, batch.scope)
        if self.entropy is not None:
            context.run(names.ENTROPY.set, self.entropy)
        if self.carrier is not None:
            context.run(be_traced, self.carrier)
        if batch.rows.tags[tags]:
            context.run(TAGS.set, batch.rows.tags[tags])
        return context

    def batch_of(self, number: int) -> tuple[int, int] | None:
        """The batch and position of a run that is under way here."""
        with LOCK:
            batches = list(self.batches.values())
        # The newest first: an earlier one, still open for its other runs, may have handed the run back or ended an
        # attempt of it.
        for batch in reversed(batches):
            if number in batch.rows.numbers:
                return batch.number, batch.rows.positions[batch.rows.numbers.index(number)]
        return None

    def number_at(self, batch: int, position: int) -> int | None:
        """The number of the run at a position of a batch that is under way here."""
        with LOCK:
            known = self.batches.get(batch)
        if known is None or position not in known.rows.positions:
            return None
        number: int = known.rows.numbers[known.rows.positions.index(position)]
        return number

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
            if packed.size > LARGE or (packed.stored and self.has_to_stay(packed)):
                load = self.keep(batch, position, call, value, packed)
                if load is not None:
                    if batch.rows.linked:
                        batch.results[position] = load
                    return
            data = pack(value, whole=True).data if packed.buffers else packed.data
        except ConnectionError:
            raise  # the driver has gone
        except BaseException as problem:
            batch.results.pop(position, None)
            error = unpicklable(value, "result", problem, call.run_name())
            self._put_outcome(batch, position, call, Outcome(FAILED, error, name=call.name))
            return
        if batch.rows.linked:
            batch.results.setdefault(position, lambda: loads(data))
        if not batch.lane.put_pickled(position, data):
            self.tell(batch, position, data)

    def _put_outcome(self, batch: Batch, position: int, call: Call, outcome: Outcome) -> None:
        with self.remote.futures_travel():
            data = pack_outcome(call, outcome)
        if not batch.lane.put_pickled(position, data):
            self.tell(batch, position, data)

    def returned(self, batch: Batch, position: int) -> None:
        """The function of a run with a time limit has ended, and with it the time that counts."""
        self.channel.send(messages.RETURNED, dumps((batch.number, position)))

    def report(self, batch: Batch, last: bool = False) -> None:
        """Tells the driver of the runs that have ended since the last report."""
        unreported = batch.unreported
        with self._reporting:  # so that the last report is the last one
            positions = [unreported.popleft() for _ in range(len(unreported))]
            if not positions and not last:
                return
            if batch.rows.task.is_async:
                seconds, batch.observed = batch.observed, 0.0
                positions.sort()  # the driver takes them for a range if they look like one
            elif positions:
                until = batch.lane.ends[positions[-1]]
                seconds, batch.observed_until = until - batch.observed_until, until
            else:
                seconds = 0.0
            self.send_report(batch, positions, seconds, last)

    def report_late(self, batch: Batch) -> None:
        """Reports what ended before a run that takes its time; on a service thread."""
        batch.timing = False
        try:
            self.report(batch)
        except OSError:
            return  # the driver has gone, as the receiver sees too

    def give_waiting(self, batch: Batch) -> None:
        """Gives a batch to who waits for it; if nobody does any more, it goes back. One of coroutines is for the loop."""
        if batch.rows.task.is_async:
            self.coroutines.begin(batch)
            return
        with LOCK:
            worker_thread = self.waiting.get(batch.wait)
            batch.worker_thread = worker_thread
            if worker_thread is not None:
                worker_thread.give(batch)
        if worker_thread is None:
            self.hand_back(batch)
            self.close(batch)

    def close(self, batch: Batch) -> None:
        with LOCK:
            self.batches.pop(batch.number, None)
        self.report(batch, last=True)
        self.remote.tell_dropped()

    def flush(self) -> None:
        """Reports all that has ended."""
        with LOCK:
            batches = list(self.batches.values())
        for batch in batches:
            self.report(batch)

    def refuse_too_deep(self, batch: Batch, depth: int) -> None:
        """The stack has no room to run what is waited for: these runs fail."""
        rows = batch.rows
        for place in batch.indices:
            position = rows.positions[place]
            number = rows.numbers[place]
            task = rows.run(place)[0]
            call = Call(task, (), None, number, Context(), batch.scope)
            error = NestingTooDeep(run_name=call.run_name(), depth=depth)
            batch.lane.words[position] = BEGUN
            batch.lane.ends[position] = time.time()
            self.put(batch, position, call, Outcome(FAILED, error), None)
            batch.unreported.append(position)
        self.close(batch)

    # ------------------------------------------------------------------ handing back, stopping

    def hand_back_all(self, worker_thread: WorkerThread | None = None) -> None:
        """Gives back every run that was not begun, of one worker thread or of all; not those of coroutines."""
        with LOCK:
            batches = list(self.batches.values())
        for batch in batches:
            if not batch.rows.task.is_async and worker_thread in (None, batch.worker_thread):
                self.hand_back(batch)

    def hand_back(self, batch: Batch) -> None:
        """Gives back the runs of a batch that were not begun; what is under way of it goes on."""
        places = list(batch.indices)
        if not places:
            return
        positions = [batch.rows.positions[place] for place in places]
        running = time.time() - batch.began if batch.began else 0.0
        self.channel.send(messages.BACK, dumps((batch.number, positions, running)))

    def interrupt(self, number: int, overdue: bool) -> None:
        """Stops a run, or sees to it that it does not begin.

        Args:
            number: of the run.
            overdue: whether it is past its time limit; else it was cancelled.
        """
        task: asyncio.Task[None] | None = None
        with LOCK:
            if overdue:
                self.overdue.add(number)
            for batch in self.batches.values():
                batch.skipped.add(number)  # before it is looked for: it may be about to begin
            worker_thread = next(
                (
                    worker_thread
                    for worker_thread in self.worker_threads
                    if worker_thread.fire(number)
                ),
                None,
            )
            if worker_thread is None:
                task = self.coroutines.tasks.get(number)
        if worker_thread is not None:
            worker_thread.kick()
        elif task is not None:
            from shoal.engine.loops import SERVICE_LOOP

            SERVICE_LOOP.get().call_soon_threadsafe(task.cancel)

    def end(self) -> None:
        """The driver has left, or has gone: what runs is stopped, and what waits wakes up."""
        self.stopping = self.gone = True
        if self.inside is not None:
            remove_observer(self.inside)
        with LOCK:
            worker_threads = list(self.worker_threads)
            for worker_thread in worker_threads:
                for frame in list(worker_thread.frames.stack):
                    worker_thread.frames.fire(frame.run)
            numbers = list(self.coroutines.tasks)
        for worker_thread in worker_threads:
            worker_thread.give(None)
            worker_thread.kick()
        for number in numbers:
            self.interrupt(number, overdue=False)
        for wait in list(self.coroutines.places):
            self.coroutines.refuse(wait)

    def leave_to_parent(self) -> None:
        """In a child that a run has forked: it is no worker, so it ends with that run, and says nothing."""
        self.channel.leave_to_parent()


class LogSender(logging.Handler):
    """Sends log records to the driver as they are made, so that they are there before the run's result."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._channel.send(messages.LOGGED, dumps(in_plain_text(record)))
        except OSError:
            return  # the driver has gone
        except Exception:
            self.handleError(record)


def flush_streams() -> None:
    """What runs have printed is not to wait for the end of this process, which may be a sudden one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
