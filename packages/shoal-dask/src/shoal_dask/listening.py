"""What workers and the scheduler say, as the bus brings it; all of it on the I/O thread.

May import `handles`, `members`, `relays` and the core's `remote` room.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any

from dask.base import annotate
from shoal.serialization import loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.cluster_listener import ClusterListener
from shoal.task_runners.remote.messages import Message

from shoal_dask.environment import check_worker
from shoal_dask.handles import Kept
from shoal_dask.members import DaskMember

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from shoal_dask.backend import DaskBackend

__all__ = ["Listener"]


class Listener(ClusterListener):
    """Hears what is said.

    Args:
        backend: of the runner.
        check: whether workers that join are to have fitting versions.
    """

    backend: DaskBackend
    kept_as = Kept

    def __init__(self, backend: DaskBackend, *, check: bool) -> None:
        super().__init__(backend)
        self._check = check
        self._numbers = count(1)

    def hear(self, message: dict[str, Any]) -> None:
        """Takes a message from the bus; on the I/O thread."""
        if self.backend.stopping:
            return
        if "kind" in message:
            member = self.ledger.worker_at(message["worker"])
            if member is not None:
                self.take(member, Message(message["kind"], message["body"], []))
        elif "ended" in message:
            self.backend.jobs.ended(message["ended"])
        elif "joined" in message:
            self._joined(message["joined"])
        elif "gone" in message:
            self.backend.connection.worker_gone()
            self.backend.jobs.worker_gone(*message["gone"])
            self._count_slots()
        elif "withdrawn" in message:
            self.ledger.withdrawn(message["withdrawn"])
        elif "again" in message:
            self.backend.jobs.refused(message["again"])
        elif "spared" in message:
            self.backend.jobs.spared(*message["spared"])
        elif "failed" in message:
            self.backend.events.failed(RuntimeError(message["failed"]))
        elif "pong" in message:
            self.backend.watch.answered(message["pong"])

    def _joined(self, joined: dict[str, Any]) -> None:
        if self.ledger.worker_at(joined["address"]) is not None:
            return
        channel = _Down(self.backend)
        member = DaskMember(next(self._numbers), channel, joined)
        channel.member = member
        self.backend.welcome(member)
        self.backend.arrived.set()
        self._count_slots()

    def _count_slots(self) -> None:
        threads = sum(member.nthreads for member in self.ledger.workers())
        self.backend.has_places(threads)

    # ------------------------------------------------------------------ see `ClusterListener`

    def take_more(self, member: Any, message: Message) -> None:
        """See `ClusterListener`."""
        if message.kind == messages.WANTED:
            self.backend.relays.wanted(member, loads(message.body))
        elif message.kind == messages.FAREWELL:
            self.ledger.farewell(member)
        else:
            super().take_more(member, message)

    def said_hello(self, member: Any) -> None:
        """See `ClusterListener`: runs may begin there."""
        self.backend.down(member, messages.HEARD, b"")

    def check_worker(self, environment: Any) -> str | None:
        """See `ClusterListener`."""
        return check_worker(environment) if self._check else None

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """See `Carrier`: Dask's annotations."""
        return annotate(**options.annotations) if options is not None else nullcontext()


class _Down:
    """A channel to a worker."""

    member: DaskMember

    def __init__(self, backend: DaskBackend) -> None:
        self.backend = backend

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `Channel`."""
        self.backend.down(self.member, kind, body)
