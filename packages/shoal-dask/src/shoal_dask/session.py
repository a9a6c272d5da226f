"""A worker session on Dask: what runs its batches there, and talks with it.

    Dask task `execute` ─▶ a worker thread on Dask's thread ─▶ each run through the engine ─▶ columns ──report──▶ driver
    bus ─▶ inbox ─▶ receiver thread: tasks, interrupts, recalls, what waiting runs are given, ends of nested runs

Who does what:

    Dask's threads   `execute`: unpack a batch, run it, report it
    Dask's loop      takes messages in order; answers whether a task has begun; sends
    receiver         everything else that is said, in order
    service loop     coroutines of batches (`shoal.engine.loops`)

May import `bus`, `values` and the core's `remote` room.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dask.sizeof import sizeof
from distributed import get_worker, rejoin
from distributed.core import Status
from distributed.metrics import time as dask_time
from distributed.threadpoolexecutor import thread_state, threads_lock
from distributed.worker import secede
from distributed.worker_state_machine import SecedeEvent
from shoal.context import LOCK
from shoal.serialization import loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import Batch
from shoal.task_runners.remote.cluster_thread import ClusterThread
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.messages import Message
from shoal.task_runners.remote.parcels import Lent

from shoal_dask.bus import NAME, key_of
from shoal_dask.environment import this_environment
from shoal_dask.natives import Inside, register
from shoal_dask.options import captured
from shoal_dask.values import ClusterValues

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Worker
    from shoal.calls import Call
    from shoal.task_runners.remote.parcels import Packed

__all__ = ["WorkerSession", "execute", "execute_async", "fail", "relay", "session_of"]

#: Seconds after which outcomes are reported while their batch goes on.
REPORT_EVERY = 0.05
#: Seconds that a worker which is about to close gives what runs.
LAST_GRACE = 20.0


class Inline:
    """A large argument that no worker has taken: it travels with a task, pickled as other arguments are.

    Args:
        data: its pickle.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _by_handle(handles: list[str], values: tuple[Any, ...]) -> dict[str, Any]:
    """Large values by their handles."""
    there = [loads(value.data) if type(value) is Inline else value for value in values]
    return dict(zip(handles, there, strict=True))


def execute(
    session: str, number: int, key: str, blob: bytes, handles: list[str], *values: Any
) -> None:
    """A batch, as a Dask task.

    Args:
        session: whose it is.
        number: of the batch.
        key: of the Dask task.
        blob: what `DaskBackend` packed.
        handles: Dask keys of large values among the arguments.
        values: these.
    """
    worker_session = session_of(get_worker(), session)
    if worker_session is not None:
        worker_session.execute(number, key, blob, _by_handle(handles, values))


async def execute_async(
    session: str, number: int, key: str, blob: bytes, handles: list[str], *values: Any
) -> None:
    """A batch of coroutines, as a Dask task: it holds no thread, and no place among those that run."""
    worker_session = session_of(get_worker(), session)
    if worker_session is not None:
        await worker_session.execute_async(number, key, blob, _by_handle(handles, values))


def fail(error: BaseException) -> None:
    """The end of a run that did not complete, as a Dask task."""
    raise error


async def relay(session: str, number: int, key: str) -> Any:
    """The value of a run, as a Dask task: it ends when the run does, and holds no thread meanwhile.

    Args:
        session: whose run it is.
        number: of the run.
        key: of the Dask task.
    """
    worker_session = session_of(get_worker(), session)
    if worker_session is None:
        raise RuntimeError("the runner of this run has been left")
    give = await worker_session.values.of_run(number, key)
    return give()


def session_of(worker: Any, session: str) -> WorkerSession | None:
    """The worker session of a driver's session, made where there is none; `None` if the session has ended."""
    sessions: dict[str, WorkerSession] = worker.shoal_sessions
    with LOCK:
        worker_session = sessions.get(session)
        if worker_session is None and session not in worker.shoal_ended:
            worker_session = sessions[session] = WorkerSession(worker, session)
    return worker_session


class _Channel:
    """To the driver, over the worker's stream to the scheduler."""

    def __init__(self, worker: Worker, session: str) -> None:
        self._worker = worker
        self._session = session

    def post(self, op: str, **message: Any) -> None:
        """Sends a message to the scheduler, after all that were posted before."""
        message.update(op=f"{NAME}-{op}", session=self._session)
        self._worker.loop.add_callback(self._worker.batched_send, message)

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `Channel`."""
        self.post("up", kind=kind, body=body)

    def leave_to_parent(self) -> None:
        """In a child that a run has forked: says nothing any more, for the loop is the worker's."""
        self.post = lambda op, **message: None  # type: ignore[method-assign]


class _DaskThread(ClusterThread):
    """One of Dask's threads, while it runs a batch."""

    def __init__(self, home: WorkerSession) -> None:
        super().__init__(home)
        self.thread = threading.current_thread()
        self.key = getattr(thread_state, "key", None)
        self.seceded = False
        self.given_up = False

    def woken(self, left: float | None) -> None:
        """See `WorkerThread`: what waits can be given nothing, so others get its place in Dask's pool."""
        if self.asked_to_secede and not self.seceded and not self.given_up:
            self.seceded = True
            secede()
        self.asked_to_secede = False

    def resumed(self) -> None:
        """See `WorkerThread`: it takes a place again, once one is free.

        Not if it has slots of limits: those who have the places may wait for these slots.
        """
        super().resumed()
        if self.seceded and not self.waits_below():
            from shoal.limits.holding import holds_here  # seldom needed

            if not holds_here():
                self.seceded = False
                rejoin()

    def waits_below(self) -> bool:
        """Whether another run waits here, beneath the one that goes on."""
        return self in self.home.waiting.values()


#: Those of this process.
_SESSIONS: weakref.WeakSet[WorkerSession] = weakref.WeakSet()


def _after_fork() -> None:
    for worker_session in list(_SESSIONS):
        worker_session.leave_to_parent()
    _SESSIONS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class WorkerSession(ClusterWorker):
    """What this worker has for one use of one runner.

    Args:
        worker: Dask's worker.
        session: whose it is.

    Attributes:
        values: those that are elsewhere in the cluster.
    """

    channel: _Channel

    def __init__(self, worker: Worker, session: str) -> None:
        super().__init__(_Channel(worker, session), REPORT_EVERY)
        register()
        _SESSIONS.add(self)
        self._worker = worker
        self._origin: Context | None = None
        self._session = session
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._refused: set[int] = set()
        self._heard = threading.Event()
        self._emptied: asyncio.Event | None = None
        self._over: dict[int, asyncio.Event] = {}
        self.values = ClusterValues(worker, self.channel)
        self._thread = threading.Thread(target=self._receive, name="shoal-receiver", daemon=True)
        self._thread.start()

    def leave_to_parent(self) -> None:
        """In a child that a run has forked: it is no worker, so it ends with that run, and says nothing."""
        for worker_thread in self.worker_threads:
            for frame in worker_thread.frames.stack:
                worker_thread.frames.disarm(frame)  # which `_run` notices at no cost to others
        self.channel.leave_to_parent()

    # ------------------------------------------------------------------ what is said; on Dask's loop

    def brought(self, message: dict[str, Any]) -> None:
        """Takes a message from the bus."""
        if "withdraw" in message:
            self._asked_back(*message["withdraw"])
        elif "refuse" in message:
            self._refused.add(int(message["refuse"].rpartition("-")[2]))
        else:
            said = Message(message["kind"], message["body"], [])
            self._inbox.put(lambda: self.hear(said))

    def _asked_back(self, key: str, number: int) -> None:
        """The driver wants back what has not begun of a batch."""
        here, state = False, None
        with LOCK:
            batch = self.batches.get(number)
            if batch is None:
                state = self._worker.state.tasks.get(key)
                here = state is not None and state.state not in ("released", "cancelled", "memory")
                if here:
                    self._withdrawn.add(number)
        if batch is not None:
            self._inbox.put(lambda: self.hand_back(batch))
        elif state is None or state.state != "memory":
            self.channel.post("returned", key=key, number=number, here=here)

    async def farewell(self) -> None:
        """The worker is about to close: what runs may end, what has not begun is given back.

        `stopping` is set on all sessions of the worker before this is called for any.
        """
        with LOCK:
            for batch in self.batches.values():
                self._inbox.put(lambda batch=batch: self.hand_back(batch))  # type: ignore[misc]
            self._emptied = asyncio.Event() if self.batches else None
        if self._emptied is not None:
            try:
                await asyncio.wait_for(self._emptied.wait(), LAST_GRACE)
            except TimeoutError:
                return  # the record tells what had begun
        self.end()  # first, so that nothing begins any more
        self.channel.send(messages.FAREWELL)

    def end(self) -> None:
        """See `RemoteWorker`: the driver has left the session, or has gone."""
        super().end()
        self._heard.set()
        self._worker.loop.add_callback(self.values.refuse)
        self._inbox.put(None)

    # ------------------------------------------------------------------ what is said; on the receiver

    def _receive(self) -> None:
        while True:
            action = self._inbox.get()
            if action is None:
                return
            self.guarded(action)()

    def hear_more(self, message: Message) -> None:
        """See `ClusterWorker`."""
        kind, body = message.kind, message.body
        if kind == messages.NUMBERS:
            base, size, entropy = loads(body)
            folder = os.path.dirname(self._worker.local_directory)
            self.join(base, size, entropy, folder, this_environment())
        elif kind == messages.HEARD:
            self._heard.set()
        elif kind == messages.SECEDE:
            worker_thread = self.waiting.get(loads(body))
            if isinstance(worker_thread, _DaskThread):
                worker_thread.asked_to_secede = True
                worker_thread.queue.put(None)
        elif kind == messages.VALUE:
            self.values.take(*loads(body))
        elif kind == messages.GIVE_UP:
            self._give_up(*loads(body))
        else:
            self.take(message)

    # ------------------------------------------------------------------ batches

    def execute(self, number: int, key: str, blob: bytes, values: dict[str, Any]) -> None:
        """Runs a batch on this thread, one of Dask's."""
        self._see_context()
        self.loading.values = values
        try:
            batch = self.opened(number, blob) if self.begins(number) else None
        finally:
            self.loading.values = {}
        if batch is None:
            return
        worker_thread = _DaskThread(self)
        batch.worker_thread = worker_thread
        with LOCK:
            self.worker_threads.append(worker_thread)
        worker_thread.enter()
        try:
            worker_thread.run_job(batch)
        finally:
            worker_thread.leave()
            with LOCK:
                self.worker_threads.remove(worker_thread)
            if worker_thread.given_up:
                thread_state.proceed = False  # another thread has taken its place

    def may_stand_by(self, batch: Batch) -> bool:
        """See `ClusterWorker`: if it has its place in Dask's pool, and Dask nothing else for that."""
        worker, thread = self._worker, batch.worker_thread
        has_place = isinstance(thread, _DaskThread) and not (thread.seceded or thread.given_up)
        return has_place and worker.status is Status.running and not worker.state.ready

    async def execute_async(
        self, number: int, key: str, blob: bytes, values: dict[str, Any]
    ) -> None:
        """Runs a batch of coroutines on the service loop, and waits for its end without a thread of Dask's."""
        self._see_context()
        began = dask_time()
        over = self._over[number] = asyncio.Event()

        def opened() -> Batch | None:
            self.loading.values = values
            try:
                return self.opened(number, blob) if self.begins(number) else None
            finally:
                self.loading.values = {}

        try:
            batch = await asyncio.to_thread(opened)
            del opened
            values.clear()
            if batch is None:
                return
            now = dask_time()
            event = SecedeEvent(key=key, compute_duration=now - began, stimulus_id=f"secede-{now}")
            self._worker.handle_stimulus(event)
            self.coroutines.begin(batch)
            del batch
            await over.wait()
        finally:
            self._over.pop(number, None)

    def _see_context(self) -> None:
        """Keeps what Dask puts around a task: it knows its worker by a context variable."""
        if self._origin is None:
            self._origin = copy_context()

    def new_context(self) -> Context:
        """See `RemoteWorker`."""
        return self._origin.copy() if self._origin is not None else Context()

    def opened(
        self,
        number: int,
        blob: bytes,
        wait: int | None = None,
        buffers: Sequence[Any] | None = None,
    ) -> Batch | None:
        """See `ClusterWorker`."""
        self._heard.wait()  # nothing begins before the driver knows where that is written down
        with LOCK:
            if self.gone:
                del self._opening[number]
                return None  # Dask's task ends, and no worker has spoken of it
        batch = super().opened(number, blob, wait, buffers)
        if batch is not None and self.stopping:
            self._inbox.put(lambda: self.hand_back(batch))
        return batch

    def is_refused(self, batch: int) -> bool:
        """See `ClusterWorker`: it has begun at another worker."""
        refused = batch in self._refused
        self._refused.discard(batch)
        return refused

    def catch_up(self) -> None:
        """See `ClusterWorker`: all that is said comes by one way."""
        if threading.current_thread() is self._thread:
            return
        done = threading.Event()
        self._inbox.put(done.set)
        done.wait()

    def close(self, batch: Batch) -> None:
        """See `RemoteWorker`."""
        super().close(batch)
        over = self._over.pop(batch.number, None)
        if over is not None:
            self._worker.loop.add_callback(over.set)
        if self._emptied is not None and not self.batches:
            self._worker.loop.add_callback(self._emptied.set)

    # ------------------------------------------------------------------ ends

    def keep(
        self, batch: Batch, position: int, call: Call, value: Any, packed: Packed
    ) -> Callable[[], Any] | None:
        """See `RemoteWorker`: as a value of this Dask worker, under a key that the driver's client owns."""
        key = key_of(call.task.name, self._session, f"{call.number}.{call.attempt}")
        # First the scheduler learns of the key: a worker's value under a key that it does not know is thrown away.
        self.channel.post("keep", key=key, nbytes=sizeof(value))
        self._worker.loop.add_callback(self.guarded(self._worker.update_data), {key: value})
        batch.lane.put_kept(position, key)  # type: ignore[attr-defined]
        return lambda: value

    def has_to_stay(self, packed: Packed) -> bool:
        """See `RemoteWorker`: a collection with futures that this worker holds."""
        return any(isinstance(stored, Inside) for stored in packed.stored)

    def capture(self) -> Any:
        """See `RemoteWorker`: Dask's annotations."""
        return captured()

    def fetch(self, number: Any) -> Any:
        """See `ClusterWorker`."""
        return self.values.fetch(number)

    def handle_of(self, number: Any) -> Any:
        """See `RemoteWorker`."""
        return Lent(number, self.fetch, "a Dask worker", (KeyError, OSError))

    # ------------------------------------------------------------------ what does not stop

    def _give_up(self, number: int, run: int) -> None:
        """A run does not stop, and the worker cannot be killed: another thread takes the place of its own."""
        with LOCK:
            batch = self.batches.get(number)
            worker_thread: Any = (
                batch.worker_thread if batch is not None and not batch.wait else None
            )
            if (
                worker_thread is None
                or batch is None
                or worker_thread.given_up
                or worker_thread.seceded
            ):
                return
            stack = worker_thread.frames.stack
            if not stack or getattr(stack[-1].run, "number", None) != run:
                return  # it has stopped
            worker_thread.given_up = True
        from shoal.limits.holding import give_up  # seldom needed

        give_up(worker_thread.thread)
        self.hand_back(batch)
        self.send_report(batch, [], 0.0, last=True)  # what it may say later is of no interest
        pool: Any = self._worker.executors["default"]
        with threads_lock:
            pool._threads.discard(worker_thread.thread)
            pool._adjust_thread_count()
        now = dask_time()
        event = SecedeEvent(
            key=worker_thread.key, compute_duration=0.1, stimulus_id=f"secede-{now}"
        )
        self._worker.loop.add_callback(self._worker.handle_stimulus, event)
