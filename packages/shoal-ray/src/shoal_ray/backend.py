"""The driver's side of Ray: batches become Ray tasks; what workers say comes over TCP.

    scheduler ──launch──▶ pack ─▶ `execute.remote(…)` ─▶ Ray's queue ─▶ a worker session
                                                                           │
    scheduler ◀──reported, handed back, waiting, lost── I/O thread ◀──TCP──┘
              ◀──how Ray tasks have ended─────────── `jobs` ◀── Ray

Plain tasks, not actors: an actor holds its CPU while it has nothing to do, keeps it while it waits, and cannot be
stopped by force.

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that)
    Ray's thread  tells of the ends of Ray tasks; that goes to the I/O thread
    I/O thread    hears workers; cancels Ray tasks; ends with the runner

May import all of this package but `task_runners`.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import ray
from ray.exceptions import RayError
from shoal.engine.services import TIMERS, Calls
from shoal.exceptions import ClusterFailed, WorkerDied
from shoal.logs import library_logger
from shoal.names import process_entropy
from shoal.scheduling.capabilities import LedgerRules
from shoal.scheduling.unpickling import DEADLY
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batch_serializer import serializer_for
from shoal.task_runners.remote.cluster_backend import LAST_WORDS, ClusterBackend
from shoal.task_runners.remote.modules import shipped_by_value

from shoal_ray.handles import Kept
from shoal_ray.jobs import Jobs
from shoal_ray.link import Link
from shoal_ray.listening import Listener
from shoal_ray.members import RayMember, RaySent
from shoal_ray.natives import Borrowed, borrowing
from shoal_ray.options import Options, captured, check_resources, for_task, max_calls
from shoal_ray.relays import Relays
from shoal_ray.session import Buffer, execute, execute_async
from shoal_ray.watch import Watch
from shoal_ray.wire import Contact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pickle import PickleBuffer

    from ray import ObjectRef
    from shoal.calls import Batch
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.dispatchers import LedgerDispatcher
    from shoal.specs import TaskSpec
    from shoal.task_runners.remote.parcels import Packed

    from shoal_ray.connection import Connection

__all__ = ["RayBackend"]

#: Seconds that the driver spends on a message and its answer: 0.5 ms on one to who stands by, 1.7 on a task of Ray's.
COST = 0.001
#: Seconds after which a task whose first runs have not ended counts as slow, and an idle worker gets what others hold.
PATIENCE = 0.2
#: Seconds that Ray has to say how a worker died that has hung up, and a worker to hang up of whose death Ray speaks.
WORDS_WITHIN = 3.0
#: Seconds in which a batch begins that Ray has a worker for.
BEGUN_WITHIN = 0.03
#: Large values that a chain may return: as many as its runs, up to this.
SLOTS = 64

_sessions = count(1)


class RayBackend(ClusterBackend):
    """Ray.

    Args:
        connection: to it.
        check_environment: whether versions are compared.
        ship_modules: see `RayTaskRunner`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        check_environment: bool = True,
        ship_modules: str | Sequence[str] = "auto",
    ) -> None:
        rules = LedgerRules("Ray", words_within=WORDS_WITHIN)
        super().__init__(rules, "Ray node", cost=COST, patience=PATIENCE)
        self.takes_buffers = True
        self.lent: WeakValueDictionary[str, Kept] = WeakValueDictionary()
        self.session = f"{process_entropy() & 0xFFFFFFFF:08x}x{next(_sessions)}"
        self.connection = connection
        self.checks = check_environment
        self.link: Link
        self.jobs = Jobs(self)
        self.relays = Relays(self)
        self.watch = Watch(self)
        self._shipping = shipped_by_value(ship_modules)
        self.listener: Listener
        self._nodes: set[str] = set()
        self._contact: Contact
        self._relay: Any = None
        self._bases: dict[tuple[bool, int], Any] = {}
        self._functions: dict[Any, Any] = {}
        self._checked: set[TaskSpec] = set()
        self._acquired = False
        self.calls = Calls("shoal-ray-calls", self._call_failed)

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: LedgerDispatcher) -> None:
        """See `Backend`: connects, and starts a temporary instance if there is none."""
        self.events, self.ledger = events, events.ledger
        self.serializer = serializer_for(events, self._keep)
        self.listener = Listener(self)
        self.connection.acquire()
        self._acquired = True
        try:
            if self.connection.shares_path:
                self._shipping = shipped_by_value(())
            self._shipping.__enter__()
            self.count_slots()
            self.link = Link(self.listener)
            self.link.start()
            self._contact = self._listen()
            self.watch.start()
        except BaseException:
            self.stop(0.0)
            raise

    def _listen(self) -> Contact:
        """Lets workers reach this driver."""
        namespace = ray.get_runtime_context().namespace
        secret = secrets.token_bytes(32)
        host = self.connection.node_ip
        if host is not None:
            try:
                host, port = self.link.listen(host, secret)
            except OSError as error:
                problem = f"workers cannot be listened to at {host}: {error}"
                raise ClusterFailed(cluster="Ray", problem=problem, address=host) from error
        else:
            relay = self.relay()
            host, port = ray.get(relay.listen.remote(self.session, secret))
            self.link.ask(relay, self.session)
        name, scratch = self.connection.relay_name, self.connection.scratch
        return Contact(
            self.session, host, port, secret, process_entropy(), name, namespace, scratch
        )

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        self.watch.stop()
        is_lost = self.watch.has_lost or self.connection.is_lost
        has_link = hasattr(self, "link")
        with ExitStack() as last:
            if self._acquired:
                self._acquired = False
                last.callback(self.connection.release, grace)
            last.callback(self._shipping.__exit__, None, None, None)
            last.callback(self._let_go)
            if self._relay is not None and not is_lost:
                last.callback(self._relay.leave.remote, self.session)
            last.callback(self.calls.close, grace)
            last.callback(self.jobs.close)
            if has_link:
                last.callback(self.link.close, max(grace, 1.0))
                if not is_lost:
                    self._stop_what_runs()
            self.stopping = True

    def _let_go(self) -> None:
        self.ledger.close()
        self.relays.clear()
        self.standby.clear()
        self._relay = None
        self._bases.clear()
        self._functions.clear()

    def _stop_what_runs(self) -> None:
        """What was cancelled and does not stop by itself is stopped by force: the cluster may go on without this runner."""
        for sent in self.ledger.wait_until_idle(LAST_WORDS):
            if sent.is_job and sent.status is not None:
                ray.cancel(sent.status, force=sent.worker is not None, recursive=False)

    def failed(self, error: BaseException) -> None:
        """A service thread could not do its work: no run can be told of any more."""
        if not (self.stopping or self.watch.has_lost):
            self.events.failed(error)

    def _call_failed(self, error: BaseException) -> None:
        if isinstance(error, (RayError, ConnectionError)):  # it has gone, as the watch sees too
            library_logger().debug("A call of Ray failed: %r", error)
        else:
            self.failed(error)

    def is_listening(self) -> bool:
        """See `ClusterBackend`."""
        return hasattr(self, "link") and self.link.is_here()  # a start may wait for the first run

    def count_slots(self) -> None:
        """A slot is a CPU of the cluster's."""
        cpus = int(ray.cluster_resources().get("CPU", 0))
        self._nodes.update(node["NodeID"] for node in ray.nodes() if node["Alive"])
        self.has_places(cpus)

    def seen_node(self, node: str) -> None:
        """A worker of this node has come: there may be more CPUs than before. On the I/O thread, which does not wait."""
        if node not in self._nodes:
            self._nodes.add(node)
            self.calls.do(self.count_slots)

    def relay(self) -> Any:
        """The driver's actor in the cluster; workers wait for it to start, so if it cannot, runs end."""
        if self._relay is None:
            self._relay = self.connection.relay()
            self.jobs.await_start(self._relay.is_there.remote())
        return self._relay

    # ------------------------------------------------------------------ batches go out

    def launch(self, batch: Batch) -> None:
        """See `Backend`."""
        if not self.watch.has_lost:  # a Ray that has gone may keep whoever asks it for ever
            super().launch(batch)

    def packing(self) -> AbstractContextManager[Any]:
        """See `ClusterBackend`: Ray's references are arguments of its tasks."""
        self._shipping.refresh()
        return borrowing()

    def new_sent(self, batch: Batch, task: TaskSpec, packed: Packed) -> RaySent:
        """See `ClusterBackend`."""
        for stored in packed.stored:
            if isinstance(stored, Kept) and stored.reference is None:
                raise stored.lost()
            if isinstance(stored, Kept) and stored.deaths >= DEADLY:
                text = f"{stored.deaths} workers died when a large argument was about to be unpickled there"
                raise WorkerDied(host="(a Ray worker)", message=text)
        slots = min(len(batch), SLOTS) if batch.linked or len(batch) == 1 else 1
        if task.is_async and len(batch) > 1:
            slots = 0  # the value of one would wait for the end of all
        sent = RaySent(batch, packed.stored, slots)
        sent.suspects = [stored for stored in packed.stored if isinstance(stored, Kept)]
        return sent

    def travels_alone(self, sent: Any, task: TaskSpec, options: Any) -> bool:
        """See `ClusterBackend`: Ray has to find a node for it, or to see to a value that may not exist yet."""
        demanding = bool(options or task.resources)
        return demanding or any(isinstance(item, Borrowed) for item in sent.stored)

    def goes_on(self, sent: Any, job: Any) -> None:
        """See `ClusterBackend`."""
        with job.giving:
            sent.status = job.status
        job.at = sent.number

    def down(self, member: Any, kind: int, body: bytes) -> None:
        """See `ClusterBackend`."""
        if kind == messages.SECEDE:
            self.relay()  # it blocks at a gate there
        member.channel.send(kind, body)

    def tell_all(self, kind: int, body: bytes) -> None:
        """See `ClusterBackend`."""
        self.link.do(lambda: self.listener.tell_all(kind, body))

    def send_task(
        self,
        sent: Any,
        task: TaskSpec,
        blob: bytes,
        buffers: list[PickleBuffer],
        options: Options | None,
    ) -> None:
        """See `ClusterBackend`."""
        function = self._function(sent, task, options)
        self.warn_of_demands(sent)
        handles = [stored.number for stored in sent.stored]
        head = (tuple(self._contact), sent.batch.number, sent.slots, blob, len(buffers), handles)
        with sent.giving:
            references = function.remote(
                dumps(head),
                *(Buffer(buffer) for buffer in buffers),
                *(stored.reference for stored in sent.stored),
            )
            if sent.slots:
                sent.status, *sent.values = references
            else:
                sent.status = references
        self.jobs.await_end(sent)

    def _function(self, sent: Any, task: TaskSpec, options: Options | None) -> Any:
        """`execute` with the options of a batch: made once for all that are alike."""
        resources = tuple(sorted(task.resources.items())) if task.resources else None
        key = (task.name, task.is_async, sent.slots, options, resources)
        known = self._functions.get(key)
        if known is None:
            given = for_task(options, task.resources)
            if task.is_async:
                given.setdefault("num_cpus", 0)  # a loop computes nothing
            kind = task.is_async, max_calls(options, task.resources)
            base = self._bases.get(kind)
            if base is None:  # Ray exports it once
                function = execute_async if task.is_async else execute
                base = self._bases[kind] = ray.remote(max_calls=kind[1], max_retries=0)(function)
            function = base.options(
                name=task.name, num_returns=1 + sent.slots, max_retries=0, **given
            )
            known = self._functions[key] = function, _demands(given)
        function, sent.demands = known
        return function

    def offers(self) -> list[Mapping[str, float]]:
        """See `ClusterBackend`: the resources of each node."""
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def _keep(self, value: Any, packed: Packed) -> Kept:
        """Puts a large argument of a map into the object store, once."""
        if packed.stored:
            raise ValueError("there are handles in it")
        return self.kept(ray.put(value))

    def kept(self, reference: ObjectRef[Any], place: str | None = None) -> Kept:
        """The handle of a value in the object store; workers can ask for it by its number while it lives."""
        handle = Kept(reference, place)
        self.lent[handle.number] = handle
        return handle

    # ------------------------------------------------------------------ taking back, stopping

    def withdraw(self, sent: Any) -> None:
        """See `ClusterBackend`: Ray drops what waits in its queue, and `session` ignores it in what has begun.

        A batch that a waiting run wants is not asked back at once: what is about to begin does so meanwhile. Ray ends a
        driver whose cancel crosses the end of a task ("Tried to complete task that was not pending",
        ray-project/ray#54798; seen with 2.60), as that of a short one would. What was stopped must not begin.
        """

        def cancel() -> None:
            with sent.giving:
                status = sent.status
            # Without one it is about to be given: whoever begins it is told then.
            if status is not None and sent.worker is None:
                ray.cancel(status, force=False, recursive=False)

        def cancel_later() -> None:
            if not self.stopping:
                self.calls.do(cancel)

        if sent.wanting and not sent.skipped:
            TIMERS.after(BEGUN_WITHIN, cancel_later)
        else:
            self.calls.do(cancel)

    def kill(self, worker: RayMember, job: RaySent, run: TaskFuture[Any]) -> None:
        """See `LedgerBackend`."""
        self.calls.do(lambda: ray.cancel(job.status, force=True, recursive=False))

    def read_outcomes(self, worker: RayMember) -> None:
        """See `LedgerBackend`."""
        self.link.do(lambda: self.jobs.read(worker))

    def capture(self, task: TaskSpec) -> Options | None:
        """See `Backend`: what `remote_options` says."""
        if task.resources and task not in self._checked:
            check_resources(task.resources, task.name)
            self._checked.add(task)
        return captured()

    def native(self, run: TaskFuture[Any]) -> ObjectRef[Any]:
        """See `Backend`."""
        return self.relays.native(run)


def _demands(given: dict[str, Any]) -> dict[str, float]:
    """What a node has to have, in the words of `ray.nodes()`, beyond a CPU."""
    words = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    demands = {words[name]: given[name] for name in words if given.get(name)}
    demands.update(given.get("resources") or {})
    if demands.get("CPU", 1) <= 1:
        demands.pop("CPU", None)
    return demands
