"""The driver's side of the process pool: workers at their slots, batches to them, and what they say.

    scheduler ──launch──▶ `Sender`: pack ─▶ channel of the slot's worker (`Pool` starts it on demand) ─▶ worker
                                                                                                           │
    dispatcher ◀──reported, handed back, waiting, submitted── `ProcessListener` ◀── `Link`: I/O thread ◀──messages─┤
               ◀──worker left, what it wrote down──────────── `Pool` ◀───── of the dead ◀────────────────record────┘

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that), interrupts; sends without blocking
    I/O thread    reads what workers say, sends what the sockets would not take, buries the dead. Ends with the runner.

    Member.lanes, tasks, segments   written under `ProcessBackend.lock`, in which `LOCK` may be taken, and not the
                                    other way about
    Pool.members, alive             likewise

Each of these is in a file of its own and holds a reference to the backend, through which it reaches the others. May
import all of them, `serializer` and what lies above them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from shoal.logs import library_logger
from shoal.scheduling.backend import LedgerBackend
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities, LedgerRules
from shoal.serialization import dumps
from shoal.task_runners.processes.driver_store import DriverStore, SegmentCarrier
from shoal.task_runners.processes.link import Link
from shoal.task_runners.processes.listener import ProcessListener, listener_for
from shoal.task_runners.processes.members import ProcessMember, Sent, died
from shoal.task_runners.processes.pool import Pool
from shoal.task_runners.processes.record import CAPACITY
from shoal.task_runners.processes.sender import Sender
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batch_serializer import BatchSerializer, serializer_for
from shoal.task_runners.remote.batches import WITHDRAWN
from shoal.task_runners.remote.members import is_overdue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.calls import Batch, Report
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.blocked_run import BlockedRun
    from shoal.scheduling.dispatchers import LedgerDispatcher
    from shoal.scheduling.in_flight import InFlight
    from shoal.scheduling.ledger_events import LedgerEvents

__all__ = ["ProcessBackend"]

#: Seconds of work that a message carries at most: so long a run may wait at one worker while another is idle.
LONGEST = 0.1
#: Seconds that the driver spends on a message.
COST = 0.0001


class ProcessBackend(LedgerBackend):
    """Worker processes of this machine.

    Args:
        max_workers: how many.
        method: "forkserver" or "spawn".
        env: environment variables of the workers, on top of the driver's.
        most: runs after which a worker is replaced, `None` for never.
        initializer: pickled `(function, arguments)` that each worker begins with, or `None`.

    Attributes:
        lock: guards the books about workers. Anew in a forked child, so it is looked up where it is taken.
        stopping: whether the runner is being left, or was left to the parent.
        events: whom to tell; there once it has started, like `ledger`, `serializer` and `listener`.
        ledger: whom to tell of batches and workers.
        serializer: what batches hold.
        link: the I/O thread.
        listener: takes what workers say.
        sender: gives them batches.
        pool: the workers.
        store: large values.
        carrier: of runs that workers submit; knows large values by their numbers.
    """

    events: LedgerDispatcher
    ledger: LedgerEvents
    serializer: BatchSerializer
    listener: ProcessListener

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
            ledger=LedgerRules("a worker process", socket.gethostname(), spares_coroutines=False),
            policy=BatchPolicy(target=0.005, alone=0.03, cap=CAPACITY, longest=LONGEST, cost=COST),
        )
        self._max_workers = max_workers
        self.lock = threading.RLock()
        self.stopping = False
        self.link = Link(self)
        self.sender = Sender(self)
        self.pool = Pool(self, max_workers, method, env, most, initializer)
        self.store = DriverStore(self)
        self.carrier = SegmentCarrier(self.lock)

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: LedgerDispatcher) -> None:
        """See `Backend`: the workers start when there is work for them."""
        self.events, self.ledger = events, events.ledger
        self.serializer = serializer_for(events, self.store.keep)
        self.listener = listener_for(self)
        self.link.start()
        _BACKENDS.add(self)
        events.slots(list(range(self._max_workers)))

    def stop(self, grace: float) -> None:
        """See `Backend`."""
        _BACKENDS.discard(self)
        deadline = time.monotonic() + grace
        with self.lock:
            self.stopping = True
            members = self.pool.dismiss()
        self.pool.join(members, deadline)
        self.link.end()
        self.link.join(max(deadline - time.monotonic(), 1.0))
        self.ledger.close()  # first: what is in the books is looked at in the records
        for member in members:
            self.pool.discard(member)
        self.link.close()

    def leave_to_parent(self) -> None:
        """In a child that the driver has forked: the workers are the parent's, and must not hear of what is done here."""
        self.stopping = True
        self.lock = threading.RLock()
        self.pool.leave_to_parent()
        self.link.leave_to_parent()

    # ------------------------------------------------------------------ batches go out

    def launch(self, batch: Batch) -> None:
        """See `Backend`."""
        if self.stopping:
            return
        try:
            member = self.pool.at(batch.slot)
        except Exception as error:
            self._not_started(batch, error)
            return
        if member is None:
            return  # the runner has just been left
        try:
            self.sender.send(member, batch)
        except BaseException as error:
            self.sender.not_sent(member, batch, error)
            if not isinstance(error, Exception):
                raise  # Ctrl-C, or its like

    def _not_started(self, batch: Batch, error: Exception) -> None:
        """No worker could be started for a batch: its slot is given up while there are others."""
        with self.lock:
            slots = sorted(self.pool.members)
        if not slots:
            text = f"no worker process could be started: {error!r}"
            self.events.broken(lambda run_name: died(run_name, text, error))
            return
        library_logger().warning(
            "No further worker process could be started (%r); %d go on", error, len(slots)
        )
        self.events.lost(batch.number, died, [])
        self.events.slots(slots)

    # ------------------------------------------------------------------ what the ledger wants done

    def interrupt(self, worker: ProcessMember, entry: Sent, run: TaskFuture[Any]) -> None:
        """See `LedgerBackend`."""
        position = entry.position_of(run)
        with self.lock:
            if worker.buried:
                return
            if position is not None and not entry.has_begun(position):
                entry.lane.words[position] = WITHDRAWN  # sooner than the message
            worker.channel.send(messages.INTERRUPT, dumps((run._number, is_overdue(run))))

    def tell(self, worker: ProcessMember, what: str, about: Any) -> None:
        """See `LedgerBackend`: nobody has to secede, as another worker takes a spare slot."""
        if what == "recall":
            worker.channel.send(messages.RECALL, dumps(about))
        elif what == "place":
            worker.channel.send(messages.PLACE, dumps(about))

    def kill(self, worker: ProcessMember, job: Sent, run: TaskFuture[Any]) -> None:
        """See `LedgerBackend`."""
        worker.process.kill()

    def closed(self, entry: Sent) -> None:
        """See `LedgerBackend`: its lane is free for another."""
        worker: Any = entry.worker
        with self.lock:
            worker.lanes.append(entry.lane_number)

    def read_outcomes(self, worker: ProcessMember) -> None:
        """See `LedgerBackend`."""
        self.link.do(lambda: self.pool.see_to(worker))

    def passed_on(self, entry: InFlight, report: Report) -> None:
        """See `LedgerBackend`."""
        self.listener.tell_others(entry, report)

    def deadly(self, key: int, error: BaseException) -> None:
        """See `LedgerBackend`."""
        self.serializer.packed_tasks[key] = error

    def slot_gone(self, slot: int) -> None:
        """See `LedgerBackend`: its worker ends."""
        with self.lock:
            member = self.pool.members.get(slot)
            if member is not None:
                self.pool.retire(member)

    def is_listening(self) -> bool:
        """See `LedgerBackend`."""
        return self.link.is_here()

    # ------------------------------------------------------------------ the rest of a backend

    def refuse(self, blocked_run: BlockedRun, error: Exception) -> None:
        """See `Backend`."""
        member, wait = blocked_run.tag
        member.channel.send(messages.REFUSED, dumps((wait, error)))


#: What is entered in this process.
_BACKENDS: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_BACKENDS):
        backend.leave_to_parent()
    _BACKENDS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
