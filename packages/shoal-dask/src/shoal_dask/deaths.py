"""What becomes of batches whose worker has gone.

    Dask gives a task up, or has it refused by a second worker ─┐
    the scheduler says that a worker has gone ──────────────────┴─▶ the worker's record: what had begun?

        in the record          what has begun and was not reported is CRASHED; the rest is sent again
        not in the record      it was not begun: sent again, at no cost in retries
        no record to be had    whatever was there may have run: CRASHED, and says so

Everything here happens on the backend's I/O thread, but for the reading of records, which may take a while. May import
`members`, `handles` and the core's `remote` room.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from distributed import CancelledError, KilledWorker
from shoal.calls import NOT_READY
from shoal.exceptions import ResultLost, SerializationError, UpstreamTaskError, WorkerDied
from shoal.logs import library_logger
from shoal.safely import kind_of, repr_of
from shoal.task_runners.remote.record import NOTHING_LEFT, Left, left_in, read_record

from shoal_dask.handles import Kept
from shoal_dask.natives import Borrowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal_dask.backend import DaskBackend
    from shoal_dask.members import DaskMember, DaskSent

__all__ = ["Deaths"]

#: Seconds that a retired worker may go on with what it runs before its record is read.
FAREWELL_WITHIN = 25.0
#: Seconds that a nanny has to read a record.
READ_WITHIN = 10.0


class Deaths:
    """Sees to batches whose worker has gone.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: DaskBackend) -> None:
        self._backend = backend
        self._gone: dict[str, DaskMember] = {}
        self._refused: list[DaskSent] = []
        self._readers: list[threading.Thread] = []

    def member_at(self, address: str) -> DaskMember | None:
        """The worker at an address, perhaps one that says its last words; with the lock held."""
        return self._backend.members.get(address) or self._gone.get(address)

    def join(self) -> None:
        """Waits for the readers of records."""
        for reader in self._readers:
            reader.join(READ_WITHIN)

    # ------------------------------------------------------------------ what is said of workers

    def worker_gone(self, address: str, leaves: bool) -> None:
        """The scheduler has removed a worker; one that leaves in order may go on with what it runs."""
        backend = self._backend
        with backend.lock:
            member = backend.members.pop(address, None)
            if member is None:
                return
            self._gone[address] = member
        if member.has_left or backend.client.status != "running":
            self._bury(member, NOTHING_LEFT)
        elif leaves:
            backend.events.after(
                FAREWELL_WITHIN, lambda: backend.do(lambda: self._look_into(member))
            )
        else:
            self._look_into(member)

    def farewell(self, member: DaskMember) -> None:
        """A worker has said all it has to say."""
        member.has_left = True
        if member.address in self._gone:
            self._bury(member, NOTHING_LEFT)

    def _look_into(self, member: DaskMember) -> None:
        """Reads what a worker has left behind, and then sees to its batches."""
        if member.buried or member.reading:
            return
        member.reading = True
        backend = self._backend

        def read() -> None:
            found = self._record_of(member)
            backend.do(lambda: self._bury(member, found))

        reader = threading.Thread(
            target=backend.events.guarded(read), name="shoal-dask-record", daemon=True
        )
        self._readers = [thread for thread in self._readers if thread.is_alive()]
        self._readers.append(reader)
        reader.start()

    def _record_of(self, member: DaskMember) -> Left | None:
        """What had become of each batch that a worker had; `None` if that cannot be known."""
        path = member.hello.get("record")  # what it said of itself may have been lost with it
        if path is None:
            return None
        content: bytes | None = None
        if member.hello["host"] == socket.gethostname() and os.path.exists(path):
            content = read_record(path)
        elif member.nanny is not None and self._backend.client.status == "running":
            try:
                answers = self._backend.client.run(
                    read_record, path, workers=[member.nanny], on_error="return"
                )
            except Exception as error:
                library_logger().debug("A worker's record could not be read: %r", error)
            else:
                answer = answers.get(member.nanny)
                content = answer if isinstance(answer, bytes) else None
        return left_in(content) if content is not None else None

    def _bury(self, member: DaskMember, left: Left | None) -> None:
        """Ends what a worker had begun, and has the rest sent again."""
        backend = self._backend
        with backend.lock:
            if member.buried:
                return
            member.buried = True
        waited = {helper.run.name for helper in member.waits.values() if helper.run is not None}
        error = self._error_of(member, waited, left is None)
        with backend.lock:
            there = [s for number in list(member.begun) if (s := backend.sent.get(number))]
            killed = [s for s in member.killed if backend.is_open(s)]
        for number in left.begun if left is not None else ():
            with backend.lock:
                sent = backend.sent.get(number)
            if sent is not None and sent not in there:
                there.append(sent)
        for sent in there:
            number = sent.batch.number
            if left is not None and number in left.unpickling:
                backend.died_unpickling(sent, left.unpickling[number], member)
                continue
            with backend.lock:
                if not backend.is_open(sent):
                    continue
                backend.forget(sent)
            backend.events.lost(
                number, error, left.begun.get(number, []) if left is not None else None
            )
        for sent in killed:
            if sent in there:
                continue
            if left is None:
                with backend.lock:
                    backend.forget(sent)
                backend.events.lost(sent.batch.number, error)
            else:
                backend.send_again(sent)
        for helper in list(member.waits.values()):
            backend.events.resumed(helper)
        member.waits.clear()
        member.runs.clear()
        member.maps.clear()
        if self._gone.get(member.address) is member:
            del self._gone[member.address]
        self._settle_refused()

    def _error_of(
        self, member: DaskMember, waited: set[str], unknown: bool
    ) -> Callable[[str], BaseException]:
        host, pid = member.hello.get("host"), member.hello.get("pid")

        def error(run_name: str) -> BaseException:
            message = None
            if member.stopped_for is not None and run_name != member.stopped_for:
                does = "waited" if run_name in waited else "ran"
                message = f"it {does} on a Dask worker that was killed to stop task run {member.stopped_for!r}"
            elif run_name in waited:
                message = "it waited on a Dask worker that died while it ran something else"
            elif unknown:
                message = f"Dask worker {member.address} died; the run may have run, as nothing tells what had begun there"
            return WorkerDied(
                run_name=run_name, host=host or member.address, pid=pid, message=message
            )

        return error

    # ------------------------------------------------------------------ what Dask says of its tasks

    def dask_ended(self, key: str) -> None:
        """A batch's Dask task has ended. If the batch has said all before, that is of no matter."""
        backend = self._backend
        number = key.rpartition("-")[2]
        with backend.lock:
            sent = backend.sent.get(int(number)) if number.isdecimal() else None
            if sent is None or sent.key != key or sent.future is None:
                return
        future = sent.future
        status = future.status
        if status == "finished":
            if sent.member is None and not sent.withdrawn and sent not in self._refused:
                backend.send_again(
                    sent
                )  # its worker knows the session no more, or was told not to begin
            return
        if status in ("cancelled", "lost"):
            self._cancelled(sent)
            return
        error = future.exception()
        if isinstance(error, KilledWorker):
            self._killed(sent, error.last_worker.address)
        else:
            self._failed(sent, error)

    def _killed(self, sent: DaskSent, address: str) -> None:
        with self._backend.lock:
            member = self.member_at(address)
        if member is None:
            self._backend.send_again(sent)
        elif member.buried:
            if sent.member is None:
                self._backend.send_again(sent)
        else:
            member.killed.append(sent)

    def _failed(self, sent: DaskSent, error: BaseException) -> None:
        """The Dask task of a batch has failed, not a run in it: what it depends on did, or it could not begin."""
        backend = self._backend
        with backend.lock:
            if not backend.is_open(sent):
                return
            backend.forget(sent)
        if sent.member is not None:
            text = f"the Dask task of its batch failed: {repr_of(error)}"
            backend.events.lost(
                sent.batch.number,
                lambda name: backend.died(name, text, error),
            )
        elif len(sent.batch) > 1:
            backend.events.split(sent.batch.number)
        elif any(isinstance(stored, Borrowed) and stored.is_lost() for stored in sent.stored):
            backend.fail(sent, lambda name: _upstream(sent, error), NOT_READY)
        else:
            told = SerializationError(
                path="arguments",
                type_name=kind_of(error),
                problem=f"its Dask task could not begin: {repr_of(error)}",
            )
            told.__cause__ = error
            backend.fail(sent, lambda name: told)

    def _cancelled(self, sent: DaskSent) -> None:
        """Dask knows no more of a batch's task: something it depends on is lost, or the connection is."""
        backend = self._backend
        if backend.client.status != "running":
            return  # the watch sees to that
        if sent.withdrawn:
            return  # as it was asked for: the bus says so too
        lost = [stored for stored in sent.stored if stored.is_lost()]
        if all(isinstance(stored, Kept) and backend.renew(stored) for stored in lost):
            if sent.member is None:
                backend.send_again(sent)
            return
        with backend.lock:
            if not backend.is_open(sent):
                return
            backend.forget(sent)
        if len(sent.batch) > 1:
            backend.events.split(sent.batch.number)
        elif any(isinstance(stored, Borrowed) for stored in lost):
            backend.fail(sent, lambda name: _upstream(sent, None), NOT_READY)
        else:
            holder = lost[0].holder
            backend.fail(sent, lambda name: ResultLost(run_name=name, holder=holder))

    def refused(self, key: str) -> None:
        """A retired worker's task was given to another, which refuses it."""
        with self._backend.lock:
            sent = next((s for s in self._backend.sent.values() if s.key == key), None)
        if sent is not None and sent.member is None:
            self._refused.append(sent)
            self._settle_refused()

    def _settle_refused(self) -> None:
        """What was refused may have begun at a worker whose record was not read yet."""
        if any(not member.buried for member in self._gone.values()):
            return
        refused, self._refused = self._refused, []
        for sent in refused:
            if sent.member is None:
                self._backend.send_again(sent)

    def spared(self, address: str, key: str, run: int) -> None:
        """A worker could not be killed for the sake of a run."""
        with self._backend.lock:
            member = self.member_at(address)
            sent = next((s for s in self._backend.sent.values() if s.key == key), None)
        if member is not None and sent is not None:
            member.stopped_for = None
            self._backend.spare(sent, member, run)


def _upstream(sent: DaskSent, error: BaseException | None) -> UpstreamTaskError:
    """The end of a run that needs a future of Dask's own which has none."""
    lost = next(s for s in sent.stored if isinstance(s, Borrowed) and s.is_lost())
    return UpstreamTaskError(
        run_name=None,
        task_name=f"(Dask's {lost.number})",
        state=str(lost.future.status),
        cause=error or CancelledError(lost.number),
    )
