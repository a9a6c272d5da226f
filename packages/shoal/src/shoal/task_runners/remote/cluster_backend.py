"""The driver's side of a cluster, as far as it is the same for every cluster: batches become jobs, words become messages.

    scheduler ──launch──▶ pack ─▶ `send_task`: a task of the cluster's ─▶ some worker
                            └──▶ a message to a worker that waits for it, that stands by, or that is at the batch's slot
    dispatcher ◀── `ClusterListener` ◀── messages of workers
               ◀── `job_ended`, `worker_left` ◀── the cluster

A slot is any worker's, of which the cluster decides; or, where it has no queue of its own, that of one worker. What
becomes of batches is for the ledger to say (`LedgerDispatcher.ledger`); a runner's package adds the cluster's own tasks,
and says how these and its workers end.

May import `batch_serializer`, `members` and what lies above task runners.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Batch, Outcome
from shoal.exceptions import ResultLost, WorkerDied
from shoal.futures.maps import Span
from shoal.logs import library_logger
from shoal.names import process_entropy, reserve_block
from shoal.scheduling.backend import LedgerBackend
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities, LedgerRules
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.members import ClusterMember, Sent, is_overdue
from shoal.task_runners.remote.parcels import Packed, pack
from shoal.task_runners.remote.record import CAPACITY
from shoal.task_runners.remote.standby import LARGEST, Standby

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pickle import PickleBuffer

    from shoal.calls import Report
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.dispatchers import LedgerDispatcher
    from shoal.scheduling.in_flight import InFlight
    from shoal.scheduling.ledger_events import LedgerEvents
    from shoal.specs import TaskSpec
    from shoal.task_runners.remote.batch_serializer import BatchSerializer
    from shoal.task_runners.remote.listener import Listener

__all__ = ["ClusterBackend"]

#: Seconds of work in a message: what a cluster spends on one (0.4 to 2 ms) shall be little beside it.
TARGET = 0.1
#: Seconds of work in a message while much is ready for each worker.
LONGEST = 0.5
#: Runs from this many seconds travel alone.
ALONE = 0.05
#: Seconds of work handed over for each slot: the scaling of clusters looks every 5 s at what waits.
SECONDS_AHEAD = 10.0
#: Seconds that what was stopped has to say so when the runner is left; then it is stopped by force.
LAST_WORDS = 0.6
#: Bytes up to which the pickle of a task goes with every batch of it: a worker that has it takes no notice.
ALONG = 16 * 1024

#: What a worker is told, by the ledger's word for it.
_KINDS = {
    "recall": messages.RECALL,
    "secede": messages.SECEDE,
    "place": messages.PLACE,
}


class ClusterBackend(LedgerBackend):
    """See the module.

    Args:
        rules: what is special about the cluster.
        place: what a run is sent to, in messages.
        cost: seconds that the driver spends on a message.
        patience: seconds after which a batch whose first runs have not ended counts as slow, and an idle worker gets
            what others hold.
        queues: whether the cluster has a queue of its own, in front of all workers; if not, a batch goes to the worker
            at its slot (`member_at`), one at a time.

    Attributes:
        cluster: what it is called in messages.
        stopping: whether the runner is being left.
        ledger: whom to tell of jobs and workers; there once it has started, like `serializer` and `listener`.
        standby: workers that stand by.
    """

    #: Whether large buffers of arguments travel beside the rest.
    takes_buffers = False
    events: LedgerDispatcher
    ledger: LedgerEvents
    serializer: BatchSerializer
    listener: Listener

    def __init__(
        self,
        rules: LedgerRules,
        place: str = "worker",
        *,
        cost: float = 0.0,
        patience: float = 0.005,
        queues: bool = True,
    ) -> None:
        self.capabilities = Capabilities(
            isolated=True,
            stops_hard=True,
            fuses=True,
            loops=True,
            queues=queues,
            ledger=rules,
            sorts=queues,
            resources=queues,
            policy=BatchPolicy(
                target=TARGET,
                alone=ALONE,
                cap=CAPACITY,
                growth=256,
                seconds=SECONDS_AHEAD,
                most=128,
                cost=cost,
                patience=patience,
                longest=LONGEST,
            )
            if queues
            # A worker with one batch at a time has begun what it has, as the driver takes it for.
            else BatchPolicy(cap=CAPACITY, window=1, cost=cost, patience=patience, longest=TARGET),
        )
        self.captures = queues
        self.cluster = rules.name
        self._place = place
        self._missed: set[tuple[tuple[str, float], ...]] = set()
        self.stopping = False
        self.standby = Standby()
        self._surrounded = False
        self._told: list[tuple[int, bytes]] = []

    # ------------------------------------------------------------------ for subclasses

    def packing(self) -> AbstractContextManager[Any]:
        """Inside, the cluster's own objects can be packed among arguments."""
        return nullcontext()

    def new_sent(self, batch: Batch, task: TaskSpec, packed: Packed) -> Any:
        """The books about a batch that is about to be sent: a `Sent`."""
        return Sent(batch, packed.stored)

    def send_task(
        self,
        sent: Any,
        task: TaskSpec,
        blob: bytes,
        buffers: list[PickleBuffer],
        options: Any,
    ) -> None:
        """Sends a batch as a task of the cluster's.

        Args:
            sent: the books about it.
            task: of its first run.
            blob: what a worker unpacks.
            buffers: large ones that are not in it, if the cluster `takes_buffers`.
            options: the ambient ones, where its runs were submitted.
        """
        raise NotImplementedError

    def member_at(self, slot: int) -> ClusterMember:
        """The worker at a slot, started if there is none, where the cluster has no queue of its own.

        Raises:
            Exception: it cannot be started.
        """
        raise NotImplementedError

    def travels_alone(self, sent: Any, task: TaskSpec, options: Any) -> bool:
        """Whether a batch has to be a task of the cluster's, though a worker waits for it."""
        return False

    def offers(self) -> list[Mapping[str, float]]:
        """What each place that a run could be sent to has, of what runs can ask for."""
        return []

    def goes_on(self, sent: Any, job: Any) -> None:
        """The cluster's task of one batch goes on with another: it is the other's, too."""

    def tell_all(self, kind: int, body: bytes) -> None:
        """Sends a message to all workers, now and later."""
        self._told.append((kind, body))
        for member in self.ledger.workers():
            self.down(member, kind, body)

    def down(self, member: ClusterMember, kind: int, body: bytes) -> None:
        """Sends a message to a worker."""
        member.channel.send(kind, body)

    def welcome(self, member: ClusterMember, *more: Any) -> None:
        """A worker is there: it is told its run numbers and whose it is, and what was told to all before.

        Args:
            member: the worker.
            more: what else it is to `join` with.
        """
        self.ledger.joined(member)
        first = (*reserve_block(), process_entropy(), *more)
        self.down(member, messages.NUMBERS, dumps(first))
        for kind, body in self._told:
            self.down(member, kind, body)

    def has_places(self, places: int) -> None:
        """So many runs can execute at once; 0 while there is no worker."""
        self.standby.places = max(places, 1)
        self.events.slots(list(range(max(places, 1))), awaited=not places)

    def kept(self, told: Any, member: Any, /) -> Any:
        """The handle of a large value that a worker keeps, by what the worker told of it."""
        raise NotImplementedError

    # ------------------------------------------------------------------ batches go out

    def died(self, run_name: str, text: str | None, cause: BaseException | None = None) -> Any:
        """The end of a run of whose worker no more is known."""
        host = f"(a {self.cluster} worker)"
        return WorkerDied(run_name=run_name, host=host, message=text, cause=cause)

    def launch(self, batch: Batch) -> None:
        """See `Backend`."""
        if self.stopping:
            return
        try:
            self._launch(batch)
        except ResultLost as error:
            self._argument_lost(batch, error)
        except WorkerDied as error:  # so have others of what it needs
            text, cause = error.message, error
            self.events.lost(batch.number, lambda name: self.died(name, text, cause))
        except BaseException as error:
            self.ledger.not_sent(batch.number, error)
            if not isinstance(error, Exception):
                raise  # Ctrl-C, or its like

    def _argument_lost(self, batch: Batch, error: ResultLost) -> None:
        """A value among a batch's arguments has gone with the cluster that held it."""
        if len(batch) > 1:  # whose argument it is shows if each is sent alone
            self.events.split(batch.number)
            return
        name = self.ledger.run_at(batch, 0).name
        lost = ResultLost(run_name=name, holder=error.holder, cause=error)
        self.serializer.report_failed(batch, {0: Outcome(FAILED, lost)}, last=True)

    def _launch(self, batch: Batch) -> None:
        with self.packing():
            content, tasks, tags, failed = self.serializer.of(batch)
            content, packed = self.serializer.pack(content, failed)
            blocked_run, (task, options) = batch.blocked_run, _first_of(batch)
            sent: Any = self.new_sent(batch, task, packed) if packed is not None else None
            is_task = self.capabilities.queues and (
                blocked_run is None
                or (sent is not None and self.travels_alone(sent, task, options))
            )
            if packed is not None and packed.buffers and not (is_task and self.takes_buffers):
                packed = pack(content, whole=True)
        if failed or packed is None:
            self.serializer.report_failed(batch, failed, last=packed is None)
        if packed is None:
            return
        self._tell_surroundings()
        sent.tasks = self.serializer.tasks(tasks)
        member, wait = blocked_run.tag if blocked_run is not None else (None, 0)
        if not is_task:
            sent.is_job = not self.capabilities.queues  # there is no other kind of job then
            member = member if member is not None else self.member_at(batch.slot)
            blob = dumps((len(batch), tasks, tags, packed.data, {}, False))
            self._send_to(member, sent, messages.BATCH, sent.number, wait, blob)
            return
        if member is not None:
            self.down(member, messages.SECEDE, dumps(wait))
        sent.is_job = True
        is_plain = (
            blocked_run is None
            and not (task.is_async or packed.buffers or packed.stored)
            and len(packed.data) <= LARGEST
            and not self.travels_alone(sent, task, options)
        )
        if is_plain:
            standing_by = self.standby.take_for(sent.tasks)
            if standing_by is not None:
                # Tasks that are new there go beside it.
                blob = dumps((len(batch), tasks, tags, packed.data, {}, True))
                self._send_next(*standing_by, sent, blob)
                return
        may_go_on = self.standby.sent(sent.number) and is_plain
        self.dismiss(self.standby.take())  # the cluster may want its place
        along = self._pickles(tasks, ALONG)
        blob = dumps((len(batch), tasks, tags, packed.data, along, may_go_on))
        self.ledger.sent(sent)
        self.send_task(sent, task, blob, packed.buffers, options)

    def warn_of_demands(self, sent: Any) -> None:
        """Says once if no place of the cluster has what a batch asks for."""
        key = tuple(sorted(sent.demands.items()))
        if not key or key in self._missed or sent.worker is not None:
            return
        offers = self.offers()
        if not offers or any(
            all(offer.get(name, 0) >= amount for name, amount in key) for offer in offers
        ):
            return
        self._missed.add(key)
        library_logger().warning(
            "Task run %r waits for a %s with %s; none of the %d %ss has that",
            self.ledger.run_at(sent.batch, 0).name,
            self._place,
            ", ".join(f"{name}={amount:g}" for name, amount in key),
            len(offers),
            self._place,
        )

    def _send_to(self, member: ClusterMember, sent: Any, kind: int, *about: Any) -> None:
        """Gives a batch to a worker by message: that begins with it, or says that it does not, so it need not say that it has it.

        Args:
            member: the worker.
            sent: the books about the batch.
            kind: of the message.
            about: what is in that, but for the tasks that are new there.
        """
        if self.ledger.given(sent, member):
            self.ledger.arrived(member, sent.number)
            self.down(member, kind, dumps((*about, self._new_pickles(member, sent))))

    def _send_next(self, member: ClusterMember, job: Any, sent: Any, blob: bytes) -> None:
        """Gives a batch to a worker that stands by."""
        sent.job = job
        self.goes_on(sent, job)
        self._send_to(member, sent, messages.NEXT, job.number, sent.number, blob)

    def stands_by(self, member: ClusterMember, sent: Any) -> None:
        """A worker that has ended a batch stands by for the next."""
        job = sent.job if sent.job is not None else sent
        if not self.standby.stands_by(member, job):
            self.dismiss((member, job))

    def dismiss(self, standing_by: tuple[ClusterMember, Any] | None) -> None:
        """Has a worker stand by no more, if one is given, with the batch as which its cluster's task came."""
        if standing_by is not None:
            member, job = standing_by
            self.down(member, messages.DISMISSED, dumps(job.number))

    def closed(self, entry: Any) -> None:
        """See `LedgerBackend`."""
        self.standby.begun(entry.number)

    def _tell_surroundings(self) -> None:
        """Tells all workers, now and later, of what surrounds the runs, once. It holds nothing of the user's unpickled."""
        if not self._surrounded and self.serializer.surroundings is not None:
            self._surrounded = True
            self.tell_all(messages.SURROUNDINGS, self.serializer.surroundings)

    def _pickles(self, tasks: list[int], largest: int | None = None) -> dict[int, bytes]:
        """What tasks pickle to, by key: only workers that have runs of a task get it, as it may be their end.

        Args:
            tasks: their keys.
            largest: bytes above which a worker that does not know a task had better ask for it.
        """
        pickles: dict[int, bytes] = {}
        for key in tasks:
            data = self.serializer.packed_tasks[key]
            if isinstance(data, bytes) and (largest is None or len(data) <= largest):
                pickles[key] = data
        return pickles

    def _new_pickles(self, member: ClusterMember, sent: Any) -> dict[int, bytes]:
        """The same of those tasks of a batch that were not sent to a worker by message yet; they will be now."""
        new = self._pickles([key for key in sent.tasks if key not in member.tasks])
        member.tasks.update(new)
        return new

    def tell_task(self, member: ClusterMember, key: int) -> None:
        """A worker has asked for a task."""
        self.down(member, messages.TASK, dumps((key, self.serializer.packed_tasks[key])))

    # ------------------------------------------------------------------ what the ledger wants done

    def tell(self, worker: ClusterMember, what: str, about: Any) -> None:
        """See `LedgerBackend`."""
        self.down(worker, _KINDS[what], dumps(about))

    def interrupt(self, worker: ClusterMember, entry: Sent, run: TaskFuture[Any]) -> None:
        """See `LedgerBackend`."""
        self.down(worker, messages.INTERRUPT, dumps((run._number, is_overdue(run))))

    def slot_gone(self, slot: int) -> None:
        """See `LedgerBackend`: any worker takes a batch, so that is nothing to anybody."""

    def refuse(self, blocked_run: BlockedRun, error: Exception) -> None:
        """See `LedgerBackend`."""
        member, wait = blocked_run.tag
        self.down(member, messages.REFUSED, dumps((wait, error)))

    def deadly(self, key: int, error: BaseException) -> None:
        """See `LedgerBackend`."""
        self.serializer.packed_tasks[key] = error

    def passed_on(self, entry: InFlight, report: Report) -> None:
        """See `LedgerBackend`."""
        self.listener.tell_others(entry, report)


def _first_of(batch: Batch) -> tuple[TaskSpec, Any]:
    """The task and the ambient options of a batch's first run; those of the others are the same."""
    if type(batch.runs) is Span:
        record = batch.runs.record
        return record.task, record.options
    first = batch.runs[0]
    return first._task, first._call.options if first._call is not None else None
