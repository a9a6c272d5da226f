"""Worker processes at their slots: started when there is work for them, retired, discarded.

    slot ──at──▶ started ──▶ ready ──▶ retired, or dismissed with the runner, or dead ──▶ discarded

Workers are started on the thread that launches, and discarded on the I/O thread, or on the one that leaves the runner
when that has ended. Both books are written with `ProcessBackend.lock` held.

May import `cores`, `members`, `record`, `wire`, `spawning` and what lies above them.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import time
from typing import TYPE_CHECKING

from shoal.logs import library_logger
from shoal.names import process_entropy, reserve_block
from shoal.scheduling.in_flight import Departure
from shoal.serialization import dumps
from shoal.task_runners.processes.cores import shares
from shoal.task_runners.processes.members import ProcessMember, died
from shoal.task_runners.processes.record import Record, size_of_record
from shoal.task_runners.processes.segments import Segment
from shoal.task_runners.processes.spawning import ENTRY, start_worker
from shoal.task_runners.processes.wire import DriverChannel
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.members import futures_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.scheduling.in_flight import ErrorOf, Outcomes
    from shoal.task_runners.processes.backend import ProcessBackend

__all__ = ["Pool"]

#: Workers that may die, one after the other, before they have begun a run.
MOST_USELESS = 3


class Pool:
    """See the module.

    Args:
        backend: of the runner.
        max_workers: how many there are at most.
        method: "forkserver" or "spawn".
        env: environment variables of the workers, on top of the driver's.
        most: runs after which a worker is replaced, `None` for never.
        initializer: pickled `(function, arguments)` that each worker begins with, or `None`.

    Attributes:
        members: by slot, the workers that take batches.
        alive: these, and those that take none any more but have not been discarded.
        useless: how many workers have ended, one after the other, before they began a run; 0 when runs end.
    """

    def __init__(
        self,
        backend: ProcessBackend,
        max_workers: int,
        method: str,
        env: Mapping[str, str],
        most: int | None,
        initializer: bytes | None,
    ) -> None:
        self._backend = backend
        self._max_workers = max_workers
        self._method = method
        self._env = env
        self._most = most
        self._initializer = initializer
        self._next_member = 0
        self.members: dict[int, ProcessMember] = {}
        self.alive: set[ProcessMember] = set()
        self.useless = 0

    # ------------------------------------------------------------------ workers start

    def at(self, slot: int) -> ProcessMember | None:
        """The worker at a slot, started if there is none; `None` if the runner has been left."""
        backend = self._backend
        with backend.lock:
            if backend.stopping:
                return None
            member = self.members.get(slot)
            if member is None:
                member = self.members[slot] = self._start(slot)
                self.alive.add(member)
            return member

    def _start(self, slot: int) -> ProcessMember:
        link = self._backend.link
        ours, theirs = socket.socketpair()
        memory = Segment.create(size_of_record())
        try:
            record = Record(mmap.mmap(memory.fileno(), memory.size))
            self._next_member += 1
            member = ProcessMember(
                self._next_member,
                slot,
                DriverChannel(ours, lambda: link.do(lambda: link.watch_writes(member))),
                record,
            )
            settings = (
                member.number,
                process_entropy(),
                *reserve_block(),
                logging.getLogger("shoal.task_runs").getEffectiveLevel(),
                self._most,
                self._initializer,
                _descriptors() // 4 // self._max_workers,
            )
            member.process = start_worker(
                self._method,
                ENTRY,
                [theirs.fileno(), memory.fileno()],
                dumps(settings),
                env={
                    **shares(self._max_workers, {*os.environ, *self._env}),
                    **self._env,
                },
                on_exit=lambda process: link.do(lambda: self.bury(member)),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            memory.close()
        self._backend.ledger.joined(member)
        link.do(lambda: link.register(member))
        return member

    # ------------------------------------------------------------------ workers go

    def retire(self, member: ProcessMember) -> None:
        """A worker takes no more batches, and ends once it has done what it has."""
        with self._backend.lock:
            member.leaving = True
            self.vacate(member)
            member.channel.send(messages.STOP)

    def vacate(self, member: ProcessMember) -> None:
        """A worker's slot is another's, to be started when there is work; with the lock held."""
        if self.members.get(member.slot) is member:
            del self.members[member.slot]

    def bury(self, member: ProcessMember) -> None:
        """A worker's process has ended: what it said last counts, and what it wrote down; on the I/O thread."""
        backend = self._backend
        if member.buried:
            return
        while backend.link.read(member):
            pass
        backend.link.unregister(member)
        with backend.lock:
            member.buried = True
            self.vacate(member)
        process = member.process
        member.pid = process.pid
        backend.ledger.worker_left(member, Departure(process.exit_code, process.signal))

    def see_to(self, member: ProcessMember) -> None:
        """What a worker that has gone had written down is read; on the I/O thread."""
        backend = self._backend
        with futures_of(member):
            outcomes = {
                sent.number: backend.listener.written_by(sent)
                for sent in backend.ledger.in_flight_at(member)
            }
        broken = self._why_broken(member, outcomes)
        if broken is not None:
            backend.events.broken(broken)
        backend.ledger.outcomes_read(member, outcomes)
        self.discard(member)

    def _why_broken(self, member: ProcessMember, outcomes: dict[int, Outcomes]) -> ErrorOf | None:
        """Why no worker is of any use, if that must be concluded from how one ended."""
        if self._backend.stopping or member.leaving:
            return None
        if member.unready is not None:
            error = member.unready
            text = f"the initializer of the worker processes raised {type(error).__name__}: {error}"
            return lambda run_name: died(run_name, text, error)
        did_something = any(o.positions or o.begun or o.unpacking for o in outcomes.values())
        if member.ready and (not outcomes or member.stopped_for is not None or did_something):
            self.useless = 0
            return None
        self.useless += 1
        if self.useless < MOST_USELESS:
            return None
        text = f"{self.useless} worker processes in a row ended before they began a run, the last one (pid {member.process.pid}) {member.process.fate()}"
        return lambda run_name: died(run_name, text)

    def discard(self, member: ProcessMember) -> None:
        """A worker has ended: nothing is left of it."""
        with self._backend.lock:
            self.alive.discard(member)
            self.vacate(member)
            member.buried = True
            member.channel.close()
            member.record.close()

    def dismiss(self) -> list[ProcessMember]:
        """Has all workers end, those that run something at once; with the lock held."""
        members = list(self.alive)
        for member in members:
            member.leaving = True
            if not member.ready or self._is_at_something(member):
                member.process.kill()  # what it runs was cancelled
            else:
                member.channel.send(messages.STOP)
        return members

    def _is_at_something(self, member: ProcessMember) -> bool:
        return any(sent.is_under_way() for sent in self._backend.ledger.in_flight_at(member))

    def join(self, members: list[ProcessMember], deadline: float) -> None:
        """Waits for the ends of workers that were dismissed, and kills those that take too long."""
        for member in members:
            if not member.process.join(max(min(deadline - time.monotonic(), 2.0), 0.0)):
                library_logger().warning(
                    "Worker process %s did not end; it is killed", member.process.pid
                )
                member.process.kill()
                member.process.join(1.0)

    def leave_to_parent(self) -> None:
        """In a child that the driver has forked: the workers are the parent's."""
        members, self.alive = self.alive, set()
        self.members = {}
        for member in members:
            member.buried = True
            member.channel.leave_to_parent()


def _descriptors() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 30
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
