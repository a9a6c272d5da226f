"""The driver's side of a cluster, as far as it is the same for every cluster: what was sent, what may be had back.

    scheduler ──launch──▶ pack ─▶ `send_task`: a task of the cluster's ─▶ some worker
                            └──▶ a message to a worker that waits for it
    scheduler ◀──reported, handed back, waiting, lost── `ClusterListener` ◀── messages of workers

A slot is any worker's: the cluster decides of which. A runner's package adds the cluster's own tasks, and what becomes
of those whose worker has gone.

    members, sent, settling   under `lock`, which may be taken under the core's `LOCK`, never the other way about

May import `contents`, `cluster_members` and what lies above task runners.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, SENT, WAITING, Batch, Outcome, Report
from shoal.context import LOCK
from shoal.exceptions import ResultLost, WorkerDied
from shoal.futures.maps import MapRecord, Span
from shoal.futures.run import TaskFuture
from shoal.logs import library_logger
from shoal.safely import repr_of
from shoal.scheduling.backend import Capabilities
from shoal.scheduling.batching import BatchPolicy
from shoal.serialization import dumps
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.cluster_members import ClusterMember, Sent, died
from shoal.task_runners.remote.parcels import Packed, pack
from shoal.task_runners.remote.record import ARGUMENTS, CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pickle import PickleBuffer

    from shoal.futures.blocking import Wanted
    from shoal.scheduling.dispatcher import Dispatcher
    from shoal.scheduling.waits import Helper
    from shoal.task_runners.remote.contents import Contents
    from shoal.tasks import Task

__all__ = ["ClusterBackend"]

#: Seconds of work in a message: what a cluster spends on one (0.4 to 2 ms) shall be little beside it.
TARGET = 0.1
#: Runs from this many seconds travel alone.
ALONE = 0.05
#: Seconds of work handed over for each slot: the scaling of clusters looks every 5 s at what waits.
WINDOW = 10.0
#: Seconds that what was stopped has to say so when the runner is left; then it is stopped by force.
LAST_WORDS = 0.6
#: Seconds that a cancel waits until it is certain that what was queued will not begin.
SETTLES_WITHIN = 1.0
#: Bytes up to which the pickle of a task goes with every batch of it: a worker that has it takes no notice.
ALONG = 16 * 1024
#: Times that a batch may come back without having begun, for no known reason.
FRUITLESS = 5


class ClusterBackend:
    """See the module.

    Args:
        cluster: what the cluster is called in messages.
        place: what a run is sent to, in messages.
        least: seconds of work below which a message is not made smaller to spread it over more workers.
        patience: seconds after which a batch whose first runs have not ended counts as slow, and an idle worker gets
            what others hold.

    Attributes:
        members: the workers that there are, by whatever identifies them.
        sent: by number, the batches that have not said all.
        settling: numbers of batches of which it is not certain yet whether they begin.
        settled: told when one of these, or of `sent`, is not any more.
        stopping: whether the runner is being left.
    """

    captures = True
    #: Whether large buffers of arguments travel beside the rest.
    takes_buffers = False
    events: Dispatcher
    contents: Contents

    def __init__(self, cluster: str, place: str, *, least: float, patience: float) -> None:
        self.capabilities = Capabilities(
            isolated=True,
            stops_hard=True,
            fuses=True,
            loops=True,
            queues=True,
            sorts=True,
            resources=True,
            policy=BatchPolicy(
                target=TARGET,
                alone=ALONE,
                cap=CAPACITY,
                growth=256,
                seconds=WINDOW,
                most=128,
                least=least,
                patience=patience,
            ),
        )
        self.cluster = cluster
        self._place = place
        self._missed: set[tuple[tuple[str, float], ...]] = set()
        self.lock = threading.RLock()
        self.settling: set[int] = set()
        self.settled = threading.Condition(self.lock)
        self.members: dict[Any, Any] = {}
        self.sent: dict[int, Any] = {}
        self.stopping = False
        self._surrounded = False
        self._fruitless: dict[int, int] = {}

    # ------------------------------------------------------------------ for subclasses

    def packing(self) -> AbstractContextManager[Any]:
        """Inside, the cluster's own objects can be packed among arguments."""
        return nullcontext()

    def new_sent(self, batch: Batch, task: Task[Any, Any], packed: Packed) -> Any:
        """The books about a batch that is about to be sent: a `Sent`."""
        return Sent(batch, packed.stored)

    def send_task(
        self,
        sent: Any,
        task: Task[Any, Any],
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

    def travels_alone(self, sent: Any, task: Task[Any, Any], options: Any) -> bool:
        """Whether a batch has to be a task of the cluster's, though a worker waits for it."""
        raise NotImplementedError

    def offers(self) -> list[Mapping[str, float]]:
        """What each place that a run could be sent to has, of what runs can ask for."""
        raise NotImplementedError

    def tell_all(self, kind: int, body: bytes) -> None:
        """Sends a message to all workers, now and later."""
        raise NotImplementedError

    def down(self, member: ClusterMember, kind: int, body: bytes) -> None:
        """Sends a message to a worker."""
        member.channel.send(kind, body)

    def withdraw(self, sent: Any) -> None:
        """Asks the cluster for a batch that nobody has begun: `withdrawn` follows, or its worker says that it has."""
        raise NotImplementedError

    def kill(self, sent: Any, member: Any, run: TaskFuture[Any]) -> None:
        """Stops a run that its worker executes, by force."""
        raise NotImplementedError

    def is_listening(self) -> bool:
        """Whether this thread is the one that takes what workers say."""
        raise NotImplementedError

    # ------------------------------------------------------------------ batches go out

    def died(self, run_name: str, text: str | None, cause: BaseException | None = None) -> Any:
        """The end of a run of whose worker no more is known."""
        return died(run_name, text, cause, host=f"(a {self.cluster} worker)")

    def living(self) -> list[Any]:
        """The workers that there are."""
        with self.lock:
            return list(self.members.values())

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
            self.not_sent(batch.number, error)
            if not isinstance(error, Exception):
                raise  # Ctrl-C, or its like

    def _argument_lost(self, batch: Batch, error: ResultLost) -> None:
        """A value among a batch's arguments has gone with the cluster that held it."""
        if len(batch) > 1:  # whose argument it is shows if each is sent alone
            self.events.split(batch.number)
            return
        self.fail(
            Sent(batch, []),
            lambda name: ResultLost(run_name=name, holder=error.holder, cause=error),
        )

    def not_sent(self, number: int, cause: BaseException) -> None:
        """A batch could not be given to the cluster."""
        with self.lock:
            sent = self.sent.get(number)
            if sent is not None:
                self.forget(sent)
        text = f"it could not be sent to {self.cluster}: {repr_of(cause)}"
        self.events.lost(number, lambda name: self.died(name, text, cause))

    def _launch(self, batch: Batch) -> None:
        with self.packing():
            content, tasks, tags, failed = self.contents.of(batch)
            content, packed = self.contents.pack(content, failed)
            helper, (task, options) = batch.helper, _first_of(batch)
            sent: Any = self.new_sent(batch, task, packed) if packed is not None else None
            is_task = helper is None or (
                sent is not None and self.travels_alone(sent, task, options)
            )
            if packed is not None and packed.buffers and not (is_task and self.takes_buffers):
                packed = pack(content, whole=True)
        if failed or packed is None:
            self.contents.report_failed(batch, failed, last=packed is None)
        if packed is None:
            return
        self._tell_surroundings()
        sent.tasks = tasks
        with self.lock:
            self.sent[batch.number] = sent
        if helper is not None:
            member, wait = helper.tag
            if not is_task:
                self._send_to(member, wait, sent, dumps((tasks, tags, packed.data, {})))
                return
            self.down(member, messages.STEP_ASIDE, dumps(wait))
        blob = dumps((tasks, tags, packed.data, self._pickles(tasks, ALONG)))
        sent.is_task = True
        self.send_task(sent, task, blob, packed.buffers, options)

    def warn_of_demands(self, sent: Any) -> None:
        """Says once if no place of the cluster has what a batch asks for."""
        key = tuple(sorted(sent.demands.items()))
        if not key or key in self._missed or sent.member is not None:
            return
        offers = self.offers()
        if not offers or any(
            all(offer.get(name, 0) >= amount for name, amount in key) for offer in offers
        ):
            return
        self._missed.add(key)
        library_logger().warning(
            "Task run %r waits for a %s with %s; none of the %d %ss has that",
            self.events.scheduler.run_at(sent.batch, 0).name,
            self._place,
            ", ".join(f"{name}={amount:g}" for name, amount in key),
            len(offers),
            self._place,
        )

    def _send_to(self, member: ClusterMember, wait: int, sent: Any, blob: bytes) -> None:
        """Gives a batch to the worker that waits for it."""
        number = sent.batch.number
        with self.lock:
            if not member.buried:
                sent.member = member
                member.begun.add(number)
                new = self._pickles([key for key in sent.tasks if key not in member.tasks])
                member.tasks.update(new)
                self.down(member, messages.BATCH, dumps((number, wait, blob, new)))
                return
            self.forget(sent)
        self.events.lost(number, lambda name: self.died(name, None), [])

    def _tell_surroundings(self) -> None:
        """Tells all workers, now and later, of what surrounds the runs, once. It holds nothing of the user's unpickled."""
        if not self._surrounded and self.contents.surroundings is not None:
            self._surrounded = True
            self.tell_all(messages.SURROUNDINGS, self.contents.surroundings)

    def _pickles(self, tasks: list[int], largest: int | None = None) -> dict[int, bytes]:
        """What tasks pickle to, by key: only workers that have runs of a task get it, as it may be their end.

        Args:
            tasks: their keys.
            largest: bytes above which a worker that does not know a task had better ask for it.
        """
        pickles: dict[int, bytes] = {}
        for key in tasks:
            data = self.contents.packed_tasks[key]
            if isinstance(data, bytes) and (largest is None or len(data) <= largest):
                pickles[key] = data
        return pickles

    def tell_task(self, member: ClusterMember, key: int) -> None:
        """A worker has asked for a task."""
        self.down(member, messages.TASK, dumps((key, self.contents.packed_tasks[key])))

    def died_unpickling(self, sent: Any, what: int, member: ClusterMember) -> None:
        """A worker has died while it unpickled a batch, which runs code of the user's: it counts as executing.

        Args:
            sent: the batch.
            what: see `record`.
            member: the worker.
        """
        with self.lock:
            if not self.is_open(sent):
                return
            self.forget(sent)
        batch = sent.batch
        pid, host = member.hello.get("pid"), member.hello.get("host", "(a worker)")
        part = "arguments" if what == ARGUMENTS else "function"

        def error(name: str) -> BaseException:
            text = f"its worker on {host} (pid {pid}) died while it unpickled its {part}"
            return WorkerDied(run_name=name, host=host, pid=pid, message=text)

        if what != ARGUMENTS and self.contents.died_of(what - 1, pid, host):
            self.lose_unbegun(
                lambda other: self.contents.positions_of(other.batch, what - 1), error
            )
            self.events.lost(batch.number, error, self.contents.positions_of(batch, what - 1))
        elif len(batch) > 1:
            self.events.split(batch.number)  # which of them it was shows if each is sent alone
        else:
            self.events.lost(batch.number, error, [0])

    def lose_unbegun(
        self, positions_of: Callable[[Any], list[int]], error: Callable[[str], BaseException]
    ) -> None:
        """Something is deadly for workers: what needs it, was sent and has not begun is asked back, and ends.

        Args:
            positions_of: gives the runs of a batch that need it.
            error: gives what they end with, for their names.
        """
        with self.lock:
            lost = [
                (sent, positions)
                for sent in self.sent.values()
                if sent.member is None and (positions := positions_of(sent))
            ]
            for sent, _ in lost:
                self.withdraw(sent)
                self.forget(sent)
        for sent, positions in lost:
            self.events.lost(sent.batch.number, error, positions)

    def is_open(self, sent: Any) -> bool:
        """Whether a batch has not said all; with the lock held."""
        return self.sent.get(sent.batch.number) is sent

    def forget(self, sent: Any) -> None:
        """A batch has said all; with the lock held."""
        self.sent.pop(sent.batch.number, None)
        self.settling.discard(sent.batch.number)
        self.settled.notify_all()
        if sent.member is not None:
            sent.member.begun.discard(sent.batch.number)
        for helper in sent.wanting:  # whatever has become of it: they may need something else now
            helper.look_again()

    def fail(self, sent: Any, error: Callable[[str], BaseException], phase: int = FAILED) -> None:
        """Ends every open run of a batch that was not begun."""
        batch = sent.batch
        runs = [self.events.scheduler.run_at(batch, position) for position in range(len(batch))]
        outcomes = [Outcome(phase, error(run.name)) for run in runs]
        now = time.time()
        self.events.reported(
            Report(batch.number, range(len(batch)), outcomes, [now] * len(batch), 0.0, count=0)
        )

    # ------------------------------------------------------------------ waits on workers

    def stuck(self, helper: Helper) -> None:
        """See `Backend`: what it waits for was sent already, or executes elsewhere."""
        member, wait = helper.tag
        with LOCK, self.lock:
            sent = self._first_unbegun(helper.wanted)
            if sent is not None and helper not in sent.wanting:
                sent.wanting.append(helper)
        if sent is not None:
            self._withdraw(sent)
        else:
            self.down(member, messages.STEP_ASIDE, dumps(wait))

    def _first_unbegun(self, wanted: Wanted) -> Any:
        """A batch that nobody has begun, of what a run waits for or what that needs; with the locks held."""
        seen: set[Any] = set()
        stack: list[Any] = list(reversed(wanted))
        while stack:
            item = stack.pop()
            if item in seen or item.done():
                continue
            seen.add(item)
            found: list[Any] = []
            if isinstance(item, MapRecord):
                found = [
                    sent
                    for sent in self.sent.values()
                    if type(sent.batch.runs) is Span and sent.batch.runs.record is item
                ]
                stack.extend(item.futures.values())
            elif item._phase == SENT:
                sent = self.find(item)
                found = [sent] if sent is not None else []
            elif item._phase == WAITING:
                detail = item._details()
                upstreams = [entry.future for entry in detail.upstreams]
                stack.extend(u for u in upstreams if isinstance(u, TaskFuture))
            stack.extend(item._details().waits_on or () if isinstance(item, TaskFuture) else ())
            for sent in found:
                if sent.member is None and sent.is_task:
                    return sent
        return None

    def refuse(self, helper: Helper, error: Exception) -> None:
        """See `Backend`."""
        member, wait = helper.tag
        self.down(member, messages.REFUSED, dumps((wait, error)))

    # ------------------------------------------------------------------ taking back, stopping

    def _withdraw(self, sent: Any) -> None:
        with self.lock:
            if sent.withdrawn:
                return
            sent.withdrawn = True
        self.withdraw(sent)

    def withdrawn(self, number: int) -> None:
        """A batch was not begun, and will not be."""
        with self.lock:
            sent = self.sent.get(number)
            if sent is None:
                return
            helper = sent.wanting.pop(0) if sent.wanting else None
            self.forget(sent)
        self.events.taken_back(number, helper)

    def send_again(self, sent: Any, most: int = FRUITLESS) -> None:
        """A batch was not begun, as far as can be known: its runs are sent again, at no cost in retries.

        Args:
            sent: the batch.
            most: times that this is done.
        """
        number = sent.batch.number
        with self.lock:
            if not self.is_open(sent):
                return
            self.forget(sent)
        first = self.events.scheduler.run_at(sent.batch, 0)._number
        tries = self._fruitless[first] = self._fruitless.get(first, 0) + 1
        if tries > most:
            text = f"{self.cluster} gave its batch back {tries} times without beginning it"
            self.events.lost(number, lambda name: self.died(name, text))
            return
        self.events.lost(number, lambda name: self.died(name, None), [])

    def find(self, run: TaskFuture[Any]) -> Any:
        """The batch in which a run was sent last, if any; with the lock held."""
        found: Any = None
        for sent in self.sent.values():
            if sent.position_of(run) is not None and (
                found is None or found.batch.number < sent.batch.number
            ):
                found = sent
        return found

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`."""
        with self.lock:
            sent = self.find(run)
            if sent is None:
                return
            member = sent.member
            if member is None:
                sent.skipped.append(run)
                if sent.is_task:
                    self.settling.add(sent.batch.number)
        if member is None:
            self._withdraw(sent)
            return
        detail = run._detail
        overdue = detail is not None and detail.overdue
        self.down(member, messages.INTERRUPT, dumps((run._number, overdue)))

    def settle(self) -> None:
        """See `Backend`: until each of the batches concerned was given back, or has begun (and is told)."""
        if self.is_listening():
            return
        deadline = time.monotonic() + SETTLES_WITHIN
        with self.settled:
            asked = set(self.settling)
            while asked & self.settling and not self.stopping:
                if not self.settled.wait(max(deadline - time.monotonic(), 0.0)):
                    return

    def force(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: its worker is killed, if it executes nothing else."""
        with self.lock:
            sent = self.find(run)
            if sent is None or sent.member is None:
                return
            entry = self.events.scheduler.batches.get(sent.batch.number)
            if entry is None or sent.position_of(run) not in entry[1]:
                return  # it has stopped, and the batch goes on
            member = sent.member
            if any(helper.run is run for helper in list(member.waits.values())):
                return  # what its worker is at is another run, which it waits for
        self.kill(sent, member, run)

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """See `Backend`: the first of a begun batch that has not been reported."""
        with self.lock:
            sent = self.find(run)
            if sent is None or sent.member is None:
                return False
            entry = self.events.scheduler.batches.get(sent.batch.number)
            return entry is not None and sent.position_of(run) == min(entry[1], default=None)

    def recall(self, batch: Batch) -> None:
        """See `Backend`."""
        with self.lock:
            sent = self.sent.get(batch.number)
            if sent is None:
                return
            if sent.member is None:
                sent.recalled = True
                return
        self.down(sent.member, messages.RECALL, dumps(batch.number))

    def slot_gone(self, slot: int) -> None:
        """A slot is no thing of ours."""

    def running(self) -> list[TaskFuture[Any]]:
        """Nothing that the scheduler does not know of."""
        return []

    def give_up(self, run: TaskFuture[Any]) -> None:
        """A run does not stop, and its worker is spared: its end is no matter any more."""
        with LOCK:
            self.events.scheduler.given_up(run, time.time())
        self.events.drain()


def _first_of(batch: Batch) -> tuple[Task[Any, Any], Any]:
    """The task and the ambient options of a batch's first run; those of the others are the same."""
    if type(batch.runs) is Span:
        record = batch.runs.record
        return record.task, record.options
    first = batch.runs[0]
    return first._task, first._call.options if first._call is not None else None
