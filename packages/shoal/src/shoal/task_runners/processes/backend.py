"""The driver's side of the process pool: workers at their slots, batches to them, and what they say.

    scheduler ──launch──▶ `Sender`: pack ─▶ channel of the slot's worker (`Pool` starts it on demand) ─▶ worker
                                                                                                           │
    scheduler ◀──reported, handed back, waiting, submitted── `Listener` ◀── `Link`: I/O thread ◀──messages─┤
              ◀──reported, lost, split────────────────────── `Deaths` ◀───── of the dead ◀──────── record──┘

Who does what:

    any thread    launches (one at a time, the dispatcher sees to that), interrupts; sends without blocking
    I/O thread    reads what workers say, sends what the sockets would not take, buries the dead. Ends with the runner.

    Member.batches, lanes, tasks   written under `ProcessBackend.lock`
    Pool.members, alive            likewise

Each of these is in a file of its own and holds a reference to the backend, through which it reaches the others. May
import all of them, `contents` and what lies above them.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from shoal.logs import library_logger
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities
from shoal.scheduling.dispatcher import GRACE
from shoal.serialization import dumps
from shoal.task_runners.processes.carrier import SegmentCarrier
from shoal.task_runners.processes.deaths import Deaths
from shoal.task_runners.processes.driver_store import DriverStore
from shoal.task_runners.processes.link import Link
from shoal.task_runners.processes.listener import Listener
from shoal.task_runners.processes.members import died
from shoal.task_runners.processes.pool import Pool
from shoal.task_runners.processes.record import CAPACITY
from shoal.task_runners.processes.sender import Sender
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import BEGUN, NOT_BEGUN, WITHDRAWN
from shoal.task_runners.remote.contents import Contents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.calls import Batch
    from shoal.futures.run import TaskFuture
    from shoal.scheduling.dispatchers import SlotsDispatcher
    from shoal.scheduling.waits import Helper
    from shoal.specs import TaskSpec
    from shoal.task_runners.processes.members import ProcessMember, Sent

__all__ = ["ProcessBackend"]

#: Seconds of work that a message carries at most: so long a run may wait at one worker while another is idle.
LONGEST = 0.1


class ProcessBackend:
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
        events: whom to tell; there once it has started, like `contents` and `listener`.
        contents: what batches hold.
        link: the I/O thread.
        listener: takes what workers say.
        sender: gives them batches.
        deaths: sees to what they had when they die.
        pool: the workers.
        store: large values.
        carrier: of runs that workers submit; knows large values by their numbers.
    """

    captures = False
    events: SlotsDispatcher
    contents: Contents
    listener: Listener

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
            policy=BatchPolicy(target=0.005, alone=0.03, cap=CAPACITY, longest=LONGEST),
        )
        self._max_workers = max_workers
        self.lock = threading.RLock()
        self.stopping = False
        self.link = Link(self)
        self.sender = Sender(self)
        self.deaths = Deaths(self)
        self.pool = Pool(self, max_workers, method, env, most, initializer)
        self.store = DriverStore(self)
        self.carrier = SegmentCarrier(self.lock)

    # ------------------------------------------------------------------ starting and stopping

    def start(self, events: SlotsDispatcher) -> None:
        """See `Backend`: the workers start when there is work for them."""
        self.events = events
        self.contents = Contents(events, self.store.keep)
        self.listener = Listener(self)
        self.pool.prepare()
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

    def forget(self, member: ProcessMember, sent: Sent) -> None:
        """A batch has said all, or is not to be sent after all."""
        with self.lock:
            if member.batches.pop(sent.batch.number, None) is not None:
                member.lanes.append(sent.lane_number)

    # ------------------------------------------------------------------ runs are stopped

    def _find(self, run: TaskFuture[Any]) -> tuple[ProcessMember, Sent, int] | None:
        """Where a run was sent last; it may have been handed back before, by a worker that has not closed that batch."""
        found: tuple[ProcessMember, Sent, int] | None = None
        with self.lock:
            for member in self.pool.alive:
                for sent in member.batches.values():
                    position = sent.position_of(run)
                    if position is not None and (
                        found is None or found[1].batch.number < sent.batch.number
                    ):
                        found = member, sent, position
        return found

    def interrupt(self, run: TaskFuture[Any]) -> None:
        """See `Backend`."""
        found = self._find(run)
        if found is not None:
            member, sent, position = found
            if sent.lane.words[position] == NOT_BEGUN:
                sent.lane.words[position] = WITHDRAWN  # sooner than the message
            detail = run._detail
            overdue = detail is not None and detail.overdue
            member.channel.send(messages.INTERRUPT, dumps((run._number, overdue)))

    def force(self, run: TaskFuture[Any]) -> None:
        """See `Backend`: its worker is killed."""
        with self.lock:
            found = self._find(run)
            if found is not None:
                self._force(*found, run)

    def _force(
        self, member: ProcessMember, sent: Sent, position: int, run: TaskFuture[Any]
    ) -> None:
        """With the lock held."""
        number = sent.batch.number
        if member.batches.get(number) is not sent:
            return
        if any(helper.blocks and helper.run is run for helper in list(member.waits.values())):
            # What its worker is at is another run, which it waits for; it is stopped when control returns to it.
            sent.forced.add(position)
        elif sent.lane.words[position] == BEGUN or member.record.unpacking == number:
            member.stopped_for = run.name
            member.process.kill()

    def force_late(self, member: ProcessMember, helper: Helper) -> None:
        """A run goes on that was to be stopped while it waited; on the I/O thread."""
        sent = member.batches.get(helper.batch.number)
        run = helper.run
        position = sent.position_of(run) if sent is not None and run is not None else None
        if sent is not None and run is not None and position in sent.forced:
            sent.forced.discard(position)

            def force() -> None:
                with self.lock:
                    self._force(member, sent, position, run)

            self.events.after(GRACE / 2, force)

    # ------------------------------------------------------------------ the rest of a backend

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        """See `Backend`: its worker has written that down."""
        with self.lock:
            found = self._find(run)
            return found is not None and found[1].lane.words[found[2]] != NOT_BEGUN

    def recall(self, batch: Batch) -> None:
        """See `Backend`."""
        with self.lock:
            for member in self.pool.alive:
                if batch.number in member.batches:
                    member.channel.send(messages.RECALL, dumps(batch.number))

    def slot_gone(self, slot: int) -> None:
        """See `Backend`."""
        with self.lock:
            member = self.pool.members.get(slot)
            if member is not None:
                self.pool.retire(member)

    def refuse(self, helper: Helper, error: Exception) -> None:
        """See `Backend`."""
        member, wait = helper.tag
        member.channel.send(messages.REFUSED, dumps((wait, error)))

    def running(self) -> list[TaskFuture[Any]]:
        """Nothing that the scheduler does not know of."""
        return []

    def stuck(self, helper: Helper) -> None:
        """Not asked: slots are of particular workers."""

    def settle(self) -> None:
        """Not asked: likewise."""

    def capture(self, task: TaskSpec) -> Any:
        """There are no ambient options."""
        return None

    def native(self, run: TaskFuture[Any]) -> Any:
        """There is none."""
        return None


#: What is entered in this process.
_BACKENDS: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_BACKENDS):
        backend.leave_to_parent()
    _BACKENDS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
