"""The driver's side of Dask: batches become Dask tasks; what workers say comes over the bus.

    scheduler ──launch──▶ pack ─▶ `Client.submit(execute, …)` ─▶ Dask's scheduler ─▶ a worker session
                                                                                        │
    scheduler ◀──reported, handed back, waiting, lost── I/O thread ◀──bus───────────────┘

A slot is a thread of some worker: Dask decides of which. What Dask tells of its tasks matters only where a batch ends
without having been reported: then the worker's record says what had become of it (see `jobs`, and the core's ledger).

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that), interrupts
    Dask's loop   sends, and puts what the bus brings into the inbox (see `link`)
    I/O thread    takes it from there, in order (see `listening`). Ends with the runner.

May import all of this package but `task_runners`.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask.base import annotate
from distributed.client import _current_client
from distributed.worker import Worker  # noqa: F401  # so that its cost is here, not in the first submit
from shoal.engine.services import Calls
from shoal.exceptions import InvalidOption
from shoal.logs import library_logger
from shoal.names import process_entropy
from shoal.scheduling.capabilities import LedgerRules
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batch_serializer import serializer_for
from shoal.task_runners.remote.cluster_backend import LAST_WORDS, ClusterBackend
from shoal.task_runners.remote.modules import shipped_by_value

from shoal_dask.bus import SESSION, key_of
from shoal_dask.clients import CURRENT
from shoal_dask.environment import check_environment
from shoal_dask.handles import NOTHING, Kept, future_of, lost_future_of
from shoal_dask.jobs import Jobs
from shoal_dask.link import Link
from shoal_dask.listening import Listener
from shoal_dask.members import DaskMember, DaskSent
from shoal_dask.natives import Borrowed, Inside, borrowing
from shoal_dask.options import Options, captured
from shoal_dask.relays import Relays
from shoal_dask.session import Inline, execute, execute_async
from shoal_dask.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pickle import PickleBuffer

    from distributed import Client, Future
    from shoal.calls import Batch
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.dispatchers import LedgerDispatcher
    from shoal.specs import TaskSpec
    from shoal.task_runners.remote.parcels import Packed

    from shoal_dask.connection import Connection

__all__ = ["DaskBackend"]

#: Seconds that the driver spends on a message and its answer: 1.7 ms on one to who stands by, 3 on a Dask task.
COST = 0.002
#: Seconds after which a task whose first runs have not ended counts as slow, and an idle worker gets what others hold.
PATIENCE = 0.05
#: Seconds for which a Dask task that has ended is held: what to forget is told of many at once, so as not to hold up the task
#: that comes next.
RELEASED_AFTER = 0.05
#: Bytes of arguments from which a batch goes to a worker first, and not with Dask's graph.
SCATTERED = 1 << 20
#: Seconds that the first worker may take to be heard of.
ARRIVED_WITHIN = 1.0
#: Seconds that a retired worker may go on with what it runs before its record is read.
FAREWELL_WITHIN = 25.0
#: Seconds that a large argument may take to be given to a worker.
SCATTERED_WITHIN = 5

_sessions = count(1)


class DaskBackend(ClusterBackend):
    """A Dask cluster.

    Args:
        connection: to it.
        check_environment: whether versions are compared.
        ship_modules: see `DaskTaskRunner`.
        worker_timeout: see `DaskTaskRunner`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        check_environment: bool = True,
        ship_modules: str | Sequence[str] = "auto",
        worker_timeout: float | str | None = "auto",
    ) -> None:
        rules = LedgerRules("Dask", leaves_within=FAREWELL_WITHIN, shares=True)
        super().__init__(rules, "Dask worker", cost=COST, patience=PATIENCE)
        self.session = f"{SESSION}{process_entropy() & 0xFFFFFFFF:08x}x{next(_sessions)}"
        self.arrived = threading.Event()
        self.client: Client
        self.connection = connection
        self._check = check_environment
        self._shipping = shipped_by_value(ship_modules, "DaskTaskRunner")
        self._link: Link
        self.jobs = Jobs(self)
        self.relays = Relays(self)
        self.watch = Watch(self, worker_timeout)
        self._tokens: list[tuple[Any, Any]] = []
        self._ended: deque[Future[Any]] = deque()
        self._is_releasing = False

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: LedgerDispatcher) -> None:
        """See `Backend`: connects, and starts a temporary cluster if one is asked for."""
        self.events, self.ledger = events, events.ledger
        self.serializer = serializer_for(events, self._keep)
        self._storing = Calls("shoal-dask-storing", events.failed)
        self.listener = Listener(self, check=self._check)
        self.connection.acquire()
        try:
            self.client = self.connection.client
            if self.connection.is_local:  # its workers have the driver's path
                self._shipping = shipped_by_value(())
            self._shipping.__enter__()
            if self._check:
                check_environment(self.client)
            self.has_places(0)
            every = _send_seconds()
            self._link = Link(self.client, self.session, every, self.listener.hear, events.failed)
            self._link.open()
            self.watch.start()
        except BaseException:
            self.stop(0.0)
            raise
        # Dask's own API finds this client too, before any ambient one.
        self._tokens = [(CURRENT, CURRENT.set(self.client))]
        self._tokens.append((_current_client, _current_client.set(self.client)))

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        self.watch.stop()
        if hasattr(self, "_link") and self.client.status == "running":
            self._stop_what_runs()
        self.stopping = True
        for variable, token in self._tokens:
            with contextlib.suppress(ValueError):  # it is left in another context
                variable.reset(token)
        if hasattr(self, "_link"):
            self._link.close(max(grace, 1.0))
        self._storing.close(max(grace, 1.0))
        self.jobs.join()
        self.ledger.close()
        self.relays.clear()
        self._ended.clear()
        self.standby.clear()
        self._shipping.__exit__(None, None, None)
        self.connection.release(grace)

    def send(self, op: str, **message: Any) -> None:
        """Sends a message to the scheduler's part of the bus."""
        self._link.send(op, **message)

    def down(self, member: Any, kind: int, body: bytes) -> None:
        """See `ClusterBackend`."""
        self._link.send("down", worker=member.address, kind=kind, body=body)

    def do(self, action: Callable[[], None]) -> None:
        """Has the I/O thread do something, after what the bus brought before."""
        self._link.do(action)

    # ------------------------------------------------------------------ batches go out

    def packing(self) -> AbstractContextManager[Any]:
        """See `ClusterBackend`: Dask's objects become dependencies."""
        self._shipping.refresh()
        return borrowing(self.client)

    def new_sent(self, batch: Batch, task: TaskSpec, packed: Packed) -> DaskSent:
        """See `ClusterBackend`."""
        return DaskSent(batch, key_of(task.name, self.session, batch.number), packed.stored)

    def travels_alone(self, sent: Any, task: TaskSpec, options: Any) -> bool:
        """See `ClusterBackend`: Dask has to find a worker for it, or to see to a value that may not exist yet."""
        demanding = bool(options or task.resources)
        return demanding or any(
            isinstance(item, Borrowed) or _is_on_its_way(item) for item in sent.stored
        )

    def goes_on(self, sent: Any, job: Any) -> None:
        """See `ClusterBackend`."""
        sent.key = job.key

    def tell_all(self, kind: int, body: bytes) -> None:
        """See `ClusterBackend`."""
        self.send("tell", kind=kind, body=body)

    def is_listening(self) -> bool:
        """See `ClusterBackend`."""
        return threading.current_thread() is self._link.thread

    def send_task(
        self,
        sent: Any,
        task: TaskSpec,
        blob: Any,
        buffers: list[PickleBuffer],
        options: Options | None,
    ) -> None:
        """See `ClusterBackend`."""
        client = self.client
        given: dict[str, Any] = options.for_submit() if options is not None else {}
        if task.resources:
            given["resources"] = {**given.get("resources", {}), **task.resources}
        sent.demands = given.get("resources") or {}
        self.warn_of_demands(sent)
        needed = [stored for stored in sent.stored if not isinstance(stored, Inside)]
        handles = [stored.number for stored in needed]
        function = execute_async if task.is_async else execute

        def submit(blob: Any, values: list[Any]) -> Any:
            with annotate(**(options.others() if options is not None else {})):
                return client.submit(
                    function,
                    self.session,
                    sent.batch.number,
                    sent.key,
                    blob,
                    handles,
                    *values,
                    key=sent.key,
                    pure=False,
                    **given,
                )

        def send(blob: Any) -> None:
            # What no worker has taken travels with the task.
            values = [Inline(dumps(s.original)) if s.future is None else s.future for s in needed]

            def post() -> None:
                try:
                    # In a context of its own: what is annotated where this happens to run is of no matter to this batch.
                    sent.future = Context().run(submit, blob, values)
                except Exception as error:
                    cause = error
                    self.do(lambda: self.ledger.not_sent(sent.number, cause))

            with sent.sending:
                sent.is_given = not sent.is_taken_back
                if sent.is_given:
                    self._link.post(post)
            if not sent.is_given:
                self.ledger.withdrawn(sent.number)

        def send_later() -> None:
            there = blob
            try:
                for stored in needed:
                    if _is_on_its_way(stored):
                        self.renew(stored)  # there may be a worker by now
                if len(blob) > SCATTERED:
                    with contextlib.suppress(TimeoutError):
                        there = self._scatter(blob)
                send(there)
            except BaseException as error:
                self.ledger.not_sent(sent.number, error)

        if len(blob) > SCATTERED or any(_is_on_its_way(stored) for stored in needed):
            self._storing.do(send_later)
        else:
            send(blob)

    def closed(self, entry: DaskSent) -> None:
        """See `LedgerBackend`: Dask is told later that nobody wants its task any more, of many at once."""
        super().closed(entry)
        self.no_longer_wants(entry)

    def no_longer_wants(self, entry: DaskSent) -> None:
        """Nobody wants a batch's Dask task, unless that goes on."""
        if entry.future is None:
            return
        self._ended.append(entry.future)
        if not self._is_releasing:
            self._is_releasing = True
            self.events.after(RELEASED_AFTER, self._release)

    def _release(self) -> None:
        self._is_releasing = False
        self._ended.clear()

    def offers(self) -> list[Mapping[str, float]]:
        """See `ClusterBackend`: the resources of each worker."""
        return [member.resources for member in self.ledger.workers()]

    def _keep(self, value: Any, packed: Packed) -> Kept:
        """Sees to it that a large argument of a map is put to a worker, once."""
        if packed.stored:
            raise ValueError("there are handles in it")
        kept = Kept(f"shoal-argument-{uuid4().hex}", None, original=value)
        self._storing.do(lambda: self.renew(kept))
        return kept

    def _scatter(self, value: Any, key: str | None = None) -> Any:
        """Gives a value to a worker.

        Raises:
            TimeoutError: there is none to take it.
        """
        if threading.current_thread() is not self._link.thread:
            self.arrived.wait(ARRIVED_WITHIN)
        if not self.ledger.workers():
            raise TimeoutError
        key = key if key is not None else f"shoal-argument-{uuid4().hex}"
        return self.client.scatter({key: value}, timeout=SCATTERED_WITHIN)[key]

    def renew(self, kept: Kept) -> bool:
        """Gives an argument to a worker, also again if it was lost with one; whether it has arrived."""
        if kept.original is NOTHING:
            return False
        key = kept.number if kept.future is None else f"shoal-argument-{uuid4().hex}"
        try:
            future = self._scatter(kept.original, key)
        except BaseException as error:  # Dask's own pickling may not take what ours does
            library_logger().debug("A large argument was not given to a worker", exc_info=error)
            return False
        kept.number, kept.future = key, future
        return True

    # ------------------------------------------------------------------ taking back, stopping

    def withdraw(self, sent: Any) -> None:
        """See `ClusterBackend`."""
        with sent.sending:
            if not sent.is_given:  # its arguments are on their way
                sent.is_taken_back = True
                return
        self.send("withdraw", key=sent.key, number=sent.batch.number)

    def kill(self, worker: DaskMember, job: DaskSent, run: TaskFuture[Any]) -> None:
        """See `LedgerBackend`: through its nanny, if nothing of others is there."""
        self.send("kill", worker=worker.address, pid=worker.pid, keys=[job.key], run=run._number)

    def give_up(self, entry: DaskSent, run: TaskFuture[Any]) -> None:
        """See `LedgerBackend`: another thread takes the place of the run's."""
        worker: Any = entry.worker
        library_logger().warning(
            "Task run %r did not stop when it was interrupted, and Dask worker %s cannot be killed for it; "
            "its thread is given up and replaced",
            run.name,
            worker.address,
        )
        self.down(worker, messages.GIVE_UP, dumps((entry.number, run._number)))

    def read_outcomes(self, worker: DaskMember) -> None:
        """See `LedgerBackend`."""
        self.jobs.read(worker)

    def kept(self, key: str, member: DaskMember) -> Kept:
        """The handle of a value that a worker keeps: a Dask key that the scheduler keeps for the driver's client."""
        return Kept(key, future_of(key, self.client), member.address)

    def kept_by_the_dead(self, key: str, member: DaskMember) -> Kept:
        """The handle of a value that a worker has taken along: whoever asks for it is told so."""
        return Kept(key, lost_future_of(key, self.client), member.address)

    def in_flight_under(self, key: str) -> DaskSent | None:
        """The batch whose Dask task has this key."""
        return next((sent for sent in self.ledger.all_in_flight() if sent.key == key), None)

    def _stop_what_runs(self) -> None:
        """What was cancelled and does not stop by itself is stopped by force: the cluster may go on without this runner."""
        for sent in self.ledger.wait_until_idle(LAST_WORDS):
            if sent.worker is not None:
                self.ledger.force(self.ledger.run_at(sent.batch, 0))

    def capture(self, task: TaskSpec) -> Options | None:
        """See `Backend`: Dask's annotations."""
        return captured()

    def native(self, run: TaskFuture[Any]) -> Future[Any]:
        """See `Backend`."""
        return self.relays.native(run)


#: Seconds between what the streams of a session send: Dask's own 2 to 10 ms a hop are most of a round trip, and what goes
#: together is together here.
SEND_SECONDS = 0.001


def _send_seconds() -> float:
    """How often the streams of a session send.

    Raises:
        InvalidOption: the environment says something that cannot be.
    """
    text = os.environ.get("SHOAL_DASK_SEND_SECONDS", str(SEND_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidOption(
            where="the environment",
            option="SHOAL_DASK_SEND_SECONDS",
            value=text,
            problem="a number of seconds is needed",
        )
    return seconds


def _is_on_its_way(stored: Any) -> bool:
    """Whether it is an argument that no worker has yet."""
    return isinstance(stored, Kept) and stored.future is None
