"""What workers say, as the I/O thread hears it.

May import `handles`, `members`, `link` and the core's `remote` room.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import ray
from manyhands.calls import Outcome
from manyhands.names import reserve_block
from manyhands.serialization import dumps, loads
from manyhands.task_runners.remote import messages
from manyhands.task_runners.remote.cluster_listener import ClusterListener
from manyhands.task_runners.remote.messages import Message
from manyhands.task_runners.remote.parcels import LARGE

from manyhands_ray.environment import check_worker
from manyhands_ray.handles import Kept
from manyhands_ray.members import RayMember, RaySent

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from manyhands.calls import Report

    from manyhands_ray.backend import RayBackend
    from manyhands_ray.link import Peer

__all__ = ["Listener"]


class Listener(ClusterListener):
    """Hears workers; see `Hearer`.

    Args:
        backend: of the runner.
    """

    backend: RayBackend

    def __init__(self, backend: RayBackend) -> None:
        super().__init__(backend)
        self._told: list[tuple[int, bytes]] = []
        self._joined = 0

    # ------------------------------------------------------------------ workers come, speak and go

    def joined(self, peer: Peer) -> None:
        """See `Hearer`: it learns what was told to all before."""
        self._joined += 1
        member = peer.member = RayMember(self._joined, peer)
        with self.backend.lock:
            self.backend.members[member.number] = member
        peer.write(messages.NUMBERS, dumps(reserve_block()))
        for kind, body in self._told:
            peer.write(kind, body)

    def heard(self, peer: Peer, kind: int, body: bytes) -> None:
        """See `Hearer`."""
        if not self.backend.stopping:
            self.take(peer.member, Message(kind, body, []))

    def gone(self, peer: Peer) -> None:
        """See `Hearer`."""
        if not self.backend.stopping:
            self.backend.deaths.worker_gone(peer.member)

    def failed(self, error: Exception) -> None:
        """See `Hearer`."""
        self.backend.failed(error)

    def tell_all(self, kind: int, body: bytes) -> None:
        """Tells all workers, now and later; on the I/O thread."""
        self._told.append((kind, body))
        for member in self.backend.living():
            member.channel.write(kind, body)

    # ------------------------------------------------------------------ see `ClusterListener`

    def said_hello(self, member: Any) -> None:
        """See `ClusterListener`."""
        self.backend.seen_node(member.hello["node"])

    def check_worker(self, environment: Any) -> str | None:
        """See `ClusterListener`."""
        problem = check_worker(environment) if self.backend.checks else None
        return str(problem) if problem is not None else None

    def take_more(self, member: Any, message: Message) -> None:
        """See `ClusterListener`."""
        if message.kind == messages.WANTED:
            self._lend(*loads(message.body))
        else:
            super().take_more(member, message)

    def _lend(self, key: str, number: str) -> None:
        """A worker wants a value that is no argument of its Ray task."""
        kept = self.backend.lent.get(number)
        self.backend.relay().lend.remote(key, [kept.reference] if kept is not None else [])

    def kept(self, member: Any, sent: Any, told: Any) -> Kept:
        """See `ClusterListener`: one of the values that its Ray task returns."""
        assert isinstance(sent, RaySent)  # nobody else makes them
        return self.backend.kept(sent.values[told], f"Ray worker {member.hello.get('pid')}")

    def unpickled(self, data: bytes) -> Any:
        """See `ClusterListener`: a large value that could not be returned stays all the same."""
        value = super().unpickled(data)
        if len(data) > LARGE and not isinstance(value, Outcome):
            return self.backend.kept(ray.put(value))
        return value

    def is_kept(self, value: Any) -> bool:
        """See `ClusterListener`."""
        return isinstance(value, Kept)

    def holds_back(self, sent: Any, report: Report) -> bool:
        """See `ClusterListener`."""
        if sent.has_ended:
            return False
        sent.held.append(report)
        return True

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """See `Carrier`: Ray's options."""
        return options.entered() if options is not None else nullcontext()
