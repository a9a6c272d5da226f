"""A worker session on Ray: what runs its batches there, and talks with it.

    Ray task `execute` ─▶ the main thread ─▶ each run through the engine ─▶ columns ──report──▶ driver
    TCP ─▶ receiver thread: tasks, interrupts, recalls, what waiting runs are given, ends of nested runs

Large values of a batch are what its Ray task returns, so that they belong to the driver and outlive the worker. They
exist when the task ends: after one of them, what is left of the batch is given back, unless it needs that very value.

Who does what:

    main thread    `execute`: unpacks a batch, runs it, reports it. While a run waits and can be given nothing, it
                   blocks in `ray.get` on a gate, so that Ray lends its CPU to others
    receiver       all that the driver says, in order
    service loop   coroutines of batches (`shoal.engine.loops`)

May import `wire`, `natives`, `environment`, `options` and the core's `remote` room.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import ray
from shoal.context import LOCK
from shoal.logs import library_logger
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.cluster_thread import ClusterThread
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.messages import Message
from shoal.task_runners.remote.parcels import Lent

from shoal_ray.environment import this_environment
from shoal_ray.natives import PASSED_WITHIN, lends_here
from shoal_ray.options import captured
from shoal_ray.wire import Channel, Contact, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.calls import Call
    from shoal.task_runners.remote.batches import Batch
    from shoal.task_runners.remote.parcels import Packed

__all__ = ["Buffer", "WorkerSession", "execute", "execute_async", "fail"]

#: Seconds after which outcomes are reported while their batch goes on.
REPORT_EVERY = 0.05


class Buffer:
    """A large buffer among the arguments of a Ray task: Ray puts it into its object store as it is.

    Args:
        buffer: the buffer; on the worker a view of the store's memory, which can only be read.
    """

    __slots__ = ("buffer",)

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Buffer, (pickle.PickleBuffer(self.buffer),)


def execute(head: bytes, *values: Any) -> Any:
    """A batch, as a Ray task.

    Args:
        head: what `RayBackend` packed: where its driver is, the batch's number, how many large values it may return,
            the batch, how many buffers there are, and the numbers of the handles.
        values: large buffers of its arguments, then the values of the handles.

    Returns:
        Whether it was begun, or what kept it from that; then its large values, if it may return any.
    """
    return _executed(head, values, WorkerSession.execute)


def execute_async(head: bytes, *values: Any) -> Any:
    """As `execute`, for a batch of coroutines: they run side by side."""
    return _executed(head, values, WorkerSession.execute_async)


def _executed(head: bytes, values: tuple[Any, ...], run: Callable[..., Any]) -> Any:
    contact, number, slots, blob, buffers, handles = loads(head)
    try:
        worker_session = session_of(Contact(*contact)) if goes_on() else None
    except OSError as error:
        host = socket.gethostname()
        return _returned(
            f"its worker on {host} cannot reach the driver at {contact[1]}:{contact[2]}: {error}",
            (),
            slots,
        )
    if worker_session is None:
        return _returned(False, (), slots)
    views = [value.buffer for value in values[:buffers]]
    given = dict(zip(handles, values[buffers:], strict=True))
    return run(worker_session, number, slots, blob, views, given)


def fail(error: BaseException) -> None:
    """The end of a run that did not complete, as a Ray task."""
    raise error


def _returned(begun: bool | str, values: Sequence[Any], slots: int) -> Any:
    if not slots:
        return begun
    return (begun, *values, *(None for _ in range(slots - len(values))))


def _scratch() -> str:
    """A folder of this node, where the driver has none here: that of Ray's session."""
    node = getattr(ray._private.worker, "_global_node", None)
    return node.get_session_dir_path() if node is not None else tempfile.gettempdir()


# ------------------------------------------------------------------ cancels


class _Cancels:
    """What Ray's `cancel` does to this worker's main thread.

    Attributes:
        task: the Ray task that is a batch of ours.
        before: what would happen without us.
    """

    task: str | None = None
    before: Any = None


#: Whether a task can ask if it was cancelled.
_TELLS = hasattr(ray.runtime_context.RuntimeContext, "is_canceled")


def goes_on() -> bool:
    """Whether the Ray task that begins was not asked back. If not, it goes on from here: it has begun, as the driver is told.

    Ray raises `KeyboardInterrupt` in a task that is cancelled; before this it ends the task unseen, as it should.
    """
    if threading.current_thread() is threading.main_thread():
        _Cancels.task = ray.get_runtime_context().get_task_id()
        if signal.getsignal(signal.SIGINT) is not _interrupted:
            _Cancels.before = signal.signal(signal.SIGINT, _interrupted)
    # A cancel that came between its arrival and its begin raises nothing.
    return not (_TELLS and _is_cancelled())


def _interrupted(signum: int, stack: Any) -> None:
    if _Cancels.task is not None and ray.get_runtime_context().get_task_id() == _Cancels.task:
        return
    if callable(_Cancels.before):
        _Cancels.before(signum, stack)


def _get(reference: Any, timeout: float | None = None) -> Any:
    """`ray.get`, which may be interrupted for the sake of a cancel that came too late."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            return ray.get(reference, timeout=left)
        except KeyboardInterrupt:
            if not _is_cancelled():
                raise


def _is_cancelled() -> bool:
    """Whether the Ray task of this thread was cancelled, as far as this version of Ray tells."""
    return not _TELLS or bool(ray.get_runtime_context().is_canceled())


# ------------------------------------------------------------------ sessions

_sessions: dict[str, WorkerSession] = {}
_joining = threading.Lock()


def session_of(contact: Contact) -> WorkerSession | None:
    """The worker session of a driver's session here, made where there is none; `None` if its driver has left it.

    Raises:
        OSError: the driver cannot be reached.
    """
    worker_session = _sessions.get(contact.session)
    if worker_session is not None:
        return worker_session if not worker_session.gone else None
    with _joining:
        worker_session = _sessions.get(contact.session)
        if worker_session is None:
            worker_session = WorkerSession(contact, Channel(connect(contact)))
            worker_session.begin()
            _sessions[contact.session] = worker_session
    return worker_session


def _after_fork() -> None:
    global _joining
    _joining = threading.Lock()
    for worker_session in _sessions.values():
        worker_session.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _RayThread(ClusterThread):
    """The main thread of a worker."""

    def __init__(self, home: WorkerSession) -> None:
        super().__init__(home)
        self._side = home
        self._lock = threading.Lock()
        self._gate: str | None = None

    def give(self, batch: Batch | None) -> None:
        """See `WorkerThread`: opens the gate that it stands at, if it does."""
        if batch is not None:
            self.asked_to_secede = (
                False  # there is something for it: the driver says so again when that is over
            )
        self.queue.put(batch)
        with self._lock:
            gate, self._gate = self._gate, None
        if gate is not None:
            self._side.relay().open.remote(gate)

    def woken(self, left: float | None) -> None:
        """See `WorkerThread`: what waits can be given nothing, so others get its CPU, for as long as that is so."""
        if not (self.asked_to_secede and self._side.has_gates):
            return
        relay = self._side.relay()
        with self._lock:
            if not self.queue.empty():
                return  # and again when that was seen to
            gate = self._gate = self._side.new_gate()
        try:
            _get(relay.wait.remote(gate), left)
        except ray.exceptions.RayActorError as error:
            # Nobody opens gates any more: runs wait as they are, with their CPU.
            library_logger().warning(
                "Waiting runs keep their CPUs, as the relay has gone: %s", error
            )
            self.asked_to_secede = False
            self._side.has_gates = False
        except ray.exceptions.GetTimeoutError:
            with self._lock:
                passed, self._gate = self._gate, None
            if passed is not None:
                relay.open.remote(gate)  # so that nobody waits there

    def resumed(self) -> None:
        """See `WorkerThread`."""
        self.asked_to_secede = False
        super().resumed()


class WorkerSession(ClusterWorker):
    """What this worker has for one use of one runner.

    Args:
        contact: where the driver is.
        channel: to it.
    """

    def __init__(self, contact: Contact, channel: Channel) -> None:
        super().__init__(channel, REPORT_EVERY)
        self.session = contact.session
        self._contact = contact
        self._connection = channel
        self._worker_thread = _RayThread(self)
        self._kept: dict[int, list[Any]] = {}
        self._slots: dict[int, int] = {}
        self._over: dict[int, threading.Event] = {}
        self._gates = count(1)
        self.has_gates = True
        self._relay: Any = None
        self._receiver = threading.Thread(target=self._receive, name="shoal-receiver", daemon=True)

    def begin(self) -> None:
        """Says who this is, and begins to listen."""
        self.identify(self._contact.entropy, self._contact.scratch or _scratch())
        hello = self.hello(this_environment())
        hello["node"] = ray.get_runtime_context().get_node_id()
        self.channel.send(messages.HELLO, dumps(hello))
        self._receiver.start()

    def leave_to_parent(self) -> None:
        """In a child that a run has forked: it is no worker, so it ends with that run, and says nothing."""
        frames = self._worker_thread.frames
        for frame in frames.stack:
            frames.disarm(frame)  # which `WorkerThread` notices at no cost to others
        self._connection.leave_to_parent()

    # ------------------------------------------------------------------ what the driver says; on the receiver

    def _receive(self) -> None:
        try:
            for kind, body in self._connection.messages():
                self.hear(Message(kind, body, []))
                if kind == messages.SURROUNDINGS:
                    with self.news:
                        self.news.notify_all()
        except BaseException as error:
            self.failed(error)
        finally:
            self.end()

    def hear_more(self, message: Message) -> None:
        """See `ClusterWorker`."""
        kind, body = message.kind, message.body
        if kind == messages.NUMBERS:
            self.number(*loads(body))
        elif kind == messages.SECEDE:
            worker_thread = self.waiting.get(loads(body))
            if isinstance(worker_thread, _RayThread):
                worker_thread.asked_to_secede = True
                worker_thread.give(None)
        else:
            self.take(message)

    def catch_up(self) -> None:
        """See `ClusterWorker`: Ray's tasks and what is said here come by different ways."""
        if threading.current_thread() is self._receiver:
            return  # it came by this way
        with self.news:
            while not (self.gone or 0 in self.scopes):
                self.news.wait()

    def end(self) -> None:
        """See `RemoteWorker`: the driver has left the session, or has gone."""
        super().end()
        for over in list(self._over.values()):
            over.set()
        self._connection.close()
        with _joining:
            _sessions.pop(self._contact.session, None)

    # ------------------------------------------------------------------ batches

    def execute(
        self, number: int, slots: int, blob: bytes, buffers: list[Any], values: dict[str, Any]
    ) -> Any:
        """Runs a batch on this thread."""
        if not self.begins(number):
            return _returned(False, (), slots)
        batch = self._opened(number, slots, blob, buffers, values)
        if batch is None:  # which the driver was told, and may hear later than of the end
            return _returned(True, (), slots)
        worker_thread = batch.worker_thread = self._worker_thread
        with LOCK:
            self.worker_threads.append(worker_thread)
        worker_thread.enter()
        try:
            with contextlib.suppress(ConnectionError):  # the driver has gone: nobody is to be told
                worker_thread.run_job(batch)
        finally:
            worker_thread.leave()
            with LOCK:
                self.worker_threads.remove(worker_thread)
            self._slots.pop(number, None)
        return _returned(True, self._kept.pop(number, ()), slots)

    def execute_async(
        self, number: int, slots: int, blob: bytes, buffers: list[Any], values: dict[str, Any]
    ) -> Any:
        """Runs a batch of coroutines on the service loop, and waits for its end."""
        if not self.begins(number):
            return _returned(False, (), slots)
        over = self._over[number] = threading.Event()
        try:
            batch = self._opened(number, slots, blob, buffers, values)
            if batch is None:
                return _returned(True, (), slots)
            self.coroutines.begin(batch)
            del batch
            over.wait()
        finally:
            self._over.pop(number, None)
            self._slots.pop(number, None)
        return _returned(True, self._kept.pop(number, ()), slots)

    def _opened(
        self, number: int, slots: int, blob: bytes, buffers: list[Any], values: dict[str, Any]
    ) -> Batch | None:
        lends_here(self)
        self._slots[number] = slots
        self.loading.values = values
        try:
            return self.opened(number, blob, buffers=buffers)
        finally:
            self.loading.values = {}

    def close(self, batch: Batch) -> None:
        """See `RemoteWorker`."""
        super().close(batch)
        over = self._over.get(batch.number)
        if over is not None:
            over.set()

    def may_stand_by(self, batch: Batch) -> bool:
        """See `ClusterWorker`: the values of its Ray task exist only when that has ended."""
        return batch.number not in self._kept

    # ------------------------------------------------------------------ values

    def keep(
        self, batch: Batch, position: int, call: Call, value: Any, packed: Packed
    ) -> Callable[[], Any] | None:
        """See `RemoteWorker`: as something that the batch's Ray task returns."""
        slots = self._slots.get(batch.number, 0)  # none in a batch that came by message
        if len(self._kept.get(batch.number, ())) >= slots:
            return None
        kept = self._kept.setdefault(batch.number, [])
        kept.append(value)
        batch.lane.put_kept(position, len(kept) - 1)  # type: ignore[attr-defined]
        if not batch.rows.linked:
            self.hand_back(batch)  # others are not to wait with it
        # Whoever needs it here gets what others get: the store's memory can only be read.
        views = [memoryview(buffer).toreadonly() for buffer in packed.buffers]
        return lambda: loads(packed.data, buffers=views)

    def capture(self) -> Any:
        """See `RemoteWorker`: Ray's options."""
        return captured()

    def relay(self) -> Any:
        """The driver's actor, which it makes if this is the first to ask for it."""
        is_asked = False
        while self._relay is None:
            try:
                contact = self._contact
                self._relay = ray.get_actor(contact.relay, namespace=contact.namespace)
            except ValueError:
                if self.gone:
                    raise
                if not is_asked:
                    is_asked = True
                    self.channel.send(messages.WANTED, dumps((None, None)))
                time.sleep(0.005)  # the receiver may be the one who asks: no message could wake it
        return self._relay

    def new_gate(self) -> str:
        """The name of a gate that nobody else waits at."""
        return f"{os.getpid()}-{next(self._gates)}-{time.time_ns()}"

    def fetch(self, number: Any) -> Any:
        """See `ClusterWorker`: the driver lends its reference."""
        key = self.new_gate()
        self.channel.send(messages.WANTED, dumps((key, number)))
        references: list[Any] = _get(self.relay().borrow.remote(key))
        if not references:
            raise KeyError(number)
        return _get(references[0])

    def lend(self, reference: Any) -> str:
        """See `Lender`."""
        key = f"{self._contact.session}-{self.new_gate()}"
        _get(
            self.relay().lend.remote(key, [reference])
        )  # whoever asks for it does not wait in vain
        return key

    def borrow(self, key: str) -> Any:
        """See `Lender`."""
        return _get(self.relay().borrow.remote(key), PASSED_WITHIN)[0]

    def handle_of(self, number: Any) -> Any:
        """See `RemoteWorker`."""
        return Lent(number, self.fetch, "Ray", (ray.exceptions.RayError, KeyError, OSError))
