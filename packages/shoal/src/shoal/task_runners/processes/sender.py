"""How batches go out to worker processes.

    batch ─▶ serializer, packed ─▶ large ones into segments ─▶ what is new to this worker goes along ─▶ its channel

One batch at a time, the dispatcher sees to that, on whichever thread launches it, and nothing blocks. Packing happens
outside all locks; from the look at whether the worker is still of use until the message is sent, `ProcessBackend.lock`
is held, so that what a worker was told of is what messages before said. What comes of it at once (the batch cannot be
sent after all) is left to the I/O thread.

May import `members`, `wire`, `segments`, `parcels` and what lies above them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Batch, Outcome, Report
from shoal.exceptions import NestingTooDeep
from shoal.futures.maps import Span
from shoal.logs import library_logger
from shoal.serialization import dumps
from shoal.task_runners.processes import wire
from shoal.task_runners.processes.members import ProcessMember, Sent, died
from shoal.task_runners.processes.segments import NoSegment
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.parcels import LARGE, pack

if TYPE_CHECKING:
    from shoal.futures.run import TaskFuture
    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.stored import Stored

__all__ = ["Sender"]


class Sender:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend

    def send(self, member: ProcessMember, batch: Batch) -> None:
        """Sends a batch to a worker. Hot.

        Raises:
            Exception: whatever packing raises; then `not_sent` sees to the batch.
        """
        backend = self._backend
        content, tasks, tags, failed = backend.serializer.of(batch)
        content, packed = backend.serializer.pack(content, failed)
        if failed or packed is None:
            backend.serializer.report_failed(batch, failed, last=packed is None)
        if packed is None:
            return
        fds: list[int] = []
        own: tuple[int, Any] | None = None
        whole: Stored | None = None
        body: Any = packed.data
        if packed.size > LARGE:
            try:
                whole = backend.store.put(packed)
            except NoSegment as error:
                library_logger().warning(
                    "There is no room in shared memory for arguments of %d bytes (%s); they go through a socket",
                    packed.size,
                    error,
                )
            else:
                own = (whole.segment.size, whole.layout)
                fds.append(whole.segment.fileno())
                body = None
        if packed.buffers and whole is None:
            packed = pack(content, whole=True)
            body = packed.data
        with backend.lock:
            if member.leaving or member.buried:
                # It has gone, or is about to, since the scheduler counted on it: the batch was not begun.
                backend.link.do(lambda: backend.events.lost(batch.number, died, []))
                return
            if not member.lanes:
                backend.link.do(lambda: self._refuse_too_deep(batch))
                return
            described: list[Any] = []
            new_segments: list[int] = []
            for stored in packed.stored:
                is_new = stored.number not in member.segments
                if is_new:
                    if len(fds) == wire.MOST_FDS:
                        ahead = fds if own is None else fds[1:]
                        member.channel.send(messages.RUNS_ENDED, dumps((described, [])), ahead)
                        described, fds = [], fds[: len(fds) - len(ahead)]
                    member.segments.add(stored.number)
                    new_segments.append(stored.number)
                    fds.append(stored.segment.fileno())
                described.append(tuple(stored.describe(is_new)))
            new_tasks = [
                (key, backend.serializer.packed_tasks[key])
                for key in tasks
                if key not in member.tasks
            ]
            member.tasks.update(tasks)
            surroundings = None
            if not member.surrounded:
                member.surrounded = True
                surroundings = backend.serializer.surroundings
            lane_number = member.lanes.pop()
            sent = Sent(batch, backend.serializer.tasks(tasks), member.record, lane_number)
            sent.lane.clear(len(batch))
            sent.segments = new_segments
            if backend.ledger.given(sent, member):
                wait = batch.blocked_run.tag[1] if batch.blocked_run is not None else 0
                message = dumps(
                    (
                        batch.number,
                        lane_number,
                        wait,
                        surroundings,
                        new_tasks,
                        described,
                        own,
                        body,
                        tags,
                    )
                )
                member.channel.send(messages.BATCH, message, fds)
        if whole is not None:
            whole.segment.close()

    def not_sent(self, member: ProcessMember, batch: Batch, error: BaseException) -> None:
        """A batch could not be given to its worker."""
        self.untell(member, self._backend.ledger.in_flight(batch.number))
        self._backend.ledger.not_sent(batch.number, error)

    def untell(self, member: ProcessMember, sent: Sent | None) -> None:
        """What a worker has kept of what it was told is not certain, so it is told again."""
        with self._backend.lock:
            member.tasks.clear()
            member.surrounded = False
            if sent is not None:
                member.segments.difference_update(sent.segments)

    def _refuse_too_deep(self, batch: Batch) -> None:
        """So many runs wait for each other on one worker that it can hold no more: these fail. On the I/O thread."""
        count = len(batch)
        errors = [
            Outcome(FAILED, NestingTooDeep(run_name=run.name)) for run in self._runs_of(batch)
        ]
        self._backend.events.reported(
            Report(batch.number, range(count), errors, [time.time()] * count, 0.0)
        )

    def _runs_of(self, batch: Batch) -> list[TaskFuture[Any]]:
        runs = batch.runs
        if type(runs) is Span:
            return [runs.record.future(index) for index in range(runs.start, runs.stop)]
        return list(runs)
