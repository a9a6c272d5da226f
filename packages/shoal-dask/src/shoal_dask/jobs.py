"""What Dask says of its tasks and workers, in the words of the ledger; and what workers that have gone have left behind.

    Dask's task has ended     how: see `JobEnd`
    a worker has gone         its record is read where it is: by this process, or by the worker's nanny

Everything here happens on the backend's I/O thread, but for the reading of records, which may take a while. May import
`members`, `handles` and the core's `remote` room.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from distributed import CancelledError, KilledWorker
from shoal.calls import NOT_READY
from shoal.exceptions import ResultLost, SerializationError, UpstreamTaskError
from shoal.logs import library_logger
from shoal.safely import kind_of, repr_of
from shoal.scheduling.in_flight import Departure, JobEnd
from shoal.task_runners.remote.files import is_own
from shoal.task_runners.remote.record import outcomes_in, read_record

from shoal_dask.handles import Kept
from shoal_dask.natives import Borrowed

if TYPE_CHECKING:
    from shoal_dask.backend import DaskBackend
    from shoal_dask.members import DaskMember, DaskSent

__all__ = ["Jobs"]

#: Seconds that a nanny has to read a record.
READ_WITHIN = 10.0


class Jobs:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: DaskBackend) -> None:
        self._backend = backend
        self._readers: list[threading.Thread] = []

    def join(self) -> None:
        """Waits for the readers of records."""
        for reader in self._readers:
            reader.join(READ_WITHIN)

    # ------------------------------------------------------------------ workers

    def worker_gone(self, address: str, leaves: bool) -> None:
        """The scheduler has removed a worker; one that leaves in order may go on with what it runs."""
        backend = self._backend
        member = backend.ledger.worker_at(address)
        if member is not None:
            leaves = leaves and backend.client.status == "running"
            backend.ledger.worker_left(member, orderly=leaves)

    def read(self, member: DaskMember) -> None:
        """Reads what a worker that has gone has left behind."""
        backend = self._backend
        if not member.hello:  # nothing begins there before it is heard of
            backend.do(lambda: backend.ledger.outcomes_read(member, {}))
            return

        def read() -> None:
            content = self._record_of(member)
            outcomes = outcomes_in(
                content, lambda key: backend.kept_by_the_dead(key, member), set(member.batches)
            )
            backend.do(lambda: backend.ledger.outcomes_read(member, outcomes))

        reader = threading.Thread(
            target=backend.events.guarded(read), name="shoal-dask-record", daemon=True
        )
        self._readers = [thread for thread in self._readers if thread.is_alive()]
        self._readers.append(reader)
        reader.start()

    def _record_of(self, member: DaskMember) -> bytes | None:
        """A worker's record; `None` if there is none to be had."""
        path = member.hello["record"]
        if path is None:
            return None
        if member.host == socket.gethostname() and is_own(path):
            return read_record(path)
        if member.nanny is None or self._backend.client.status != "running":
            return None
        try:
            answers = self._backend.client.run(
                read_record, path, workers=[member.nanny], on_error="return"
            )
        except Exception as error:
            library_logger().debug("A worker's record could not be read: %r", error)
            return None
        answer = answers.get(member.nanny)
        return answer if isinstance(answer, bytes) else None

    # ------------------------------------------------------------------ Dask's tasks

    def ended(self, key: str) -> None:
        """A batch's Dask task has ended."""
        backend = self._backend
        number = key.rpartition("-")[2]
        if not number.isdecimal():
            return
        went_on = backend.standby.ended(int(number))
        if went_on is not None:
            backend.no_longer_wants(went_on)
        sent: DaskSent | None = backend.ledger.in_flight(int(number))
        if sent is None or sent.key != key or sent.future is None:
            return
        status = sent.future.status
        if status == "finished":
            # If no worker has spoken of it, one knew the session no more, or was told not to begin.
            end = JobEnd.NOT_BEGUN if sent.worker is None else JobEnd.RAN
            backend.ledger.job_ended(sent.number, end)
            return
        if status in ("cancelled", "lost"):
            self._cancelled(sent)
            return
        error = sent.future.exception()
        if isinstance(error, KilledWorker):
            address = error.last_worker.address
            backend.ledger.job_ended(sent.number, JobEnd.DIED, worker=address)
        else:
            self._failed(sent, error)

    def _failed(self, sent: DaskSent, error: BaseException) -> None:
        """The Dask task of a batch has failed, not a run in it: what it depends on did, or it could not begin."""
        ledger = self._backend.ledger
        if any(isinstance(stored, Borrowed) and stored.is_lost() for stored in sent.stored):
            upstream = _upstream(sent, error)
            ledger.job_ended(
                sent.number, JobEnd.UNFIT, fails_with=lambda name: upstream, phase=NOT_READY
            )
            return
        told = SerializationError(
            path="arguments",
            type_name=kind_of(error),
            problem=f"its Dask task could not begin: {repr_of(error)}",
        )
        told.__cause__ = error
        text = f"the Dask task of its batch failed: {repr_of(error)}"
        why = Departure(message=text, cause=error)
        ledger.job_ended(sent.number, JobEnd.UNFIT, why=why, fails_with=lambda name: told)

    def _cancelled(self, sent: DaskSent) -> None:
        """Dask knows no more of a batch's task: something it depends on is lost, or the connection is."""
        backend = self._backend
        if backend.client.status != "running":
            return  # the watch sees to that
        if sent.withdrawn:
            return  # as it was asked for: the bus says so too
        lost = [stored for stored in sent.stored if stored.is_lost()]
        if all(isinstance(stored, Kept) and backend.renew(stored) for stored in lost):
            if sent.worker is None:
                backend.ledger.job_ended(sent.number, JobEnd.NOT_BEGUN)
            return
        if any(isinstance(stored, Borrowed) for stored in lost):
            upstream = _upstream(sent, None)
            backend.ledger.job_ended(
                sent.number, JobEnd.UNFIT, fails_with=lambda name: upstream, phase=NOT_READY
            )
            return
        holder = lost[0].holder
        backend.ledger.job_ended(
            sent.number,
            JobEnd.UNFIT,
            why=Departure(message="Dask has lost what its batch needs"),
            fails_with=lambda name: ResultLost(run_name=name, holder=holder),
        )

    def refused(self, key: str) -> None:
        """A retired worker's task was given to another, which refuses it."""
        sent = self._backend.in_flight_under(key)
        if sent is not None:
            self._backend.ledger.job_ended(sent.number, JobEnd.REFUSED)

    def spared(self, address: str, key: str, run: int) -> None:
        """A worker could not be killed for the sake of a run."""
        member = self._backend.ledger.worker_at(address)
        sent = self._backend.in_flight_under(key)
        if member is not None and sent is not None:
            self._backend.ledger.kill_refused(member, sent.number, run)


def _upstream(sent: DaskSent, error: BaseException | None) -> UpstreamTaskError:
    """The end of a run that needs a future of Dask's own which has none."""
    lost = next(s for s in sent.stored if isinstance(s, Borrowed) and s.is_lost())
    return UpstreamTaskError(
        run_name=None,
        task_name=f"(Dask's {lost.number})",
        state=str(lost.future.status),
        cause=error or CancelledError(lost.number),
    )
