"""What workers say, as the I/O thread hears it.

May import `handles`, `members`, `link` and the core's `remote` room.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import ray
from shoal.calls import Outcome
from shoal.names import reserve_block
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.cluster_listener import ClusterListener
from shoal.task_runners.remote.messages import Message
from shoal.task_runners.remote.parcels import LARGE

from shoal_ray.environment import check_worker
from shoal_ray.handles import Kept
from shoal_ray.members import RayMember, RaySent
from shoal_ray.natives import lending

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from shoal.exceptions import EnvironmentMismatch
    from shoal.task_runners.remote.nested import End

    from shoal_ray.backend import RayBackend
    from shoal_ray.link import Peer

__all__ = ["Listener"]


class Listener(ClusterListener):
    """Hears workers; see `Hearer`.

    Args:
        backend: of the runner.
    """

    backend: RayBackend
    kept_as = Kept
    values_come_last = True  # they are what the Ray task returns

    def __init__(self, backend: RayBackend) -> None:
        super().__init__(backend)
        self._told: list[tuple[int, bytes]] = []
        self._joined = 0

    # ------------------------------------------------------------------ workers come, speak and go

    def joined(self, peer: Peer) -> None:
        """See `Hearer`: it learns what was told to all before."""
        self._joined += 1
        member = peer.member = RayMember(self._joined, peer)
        self.ledger.joined(member)
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
            self.ledger.worker_left(peer.member)

    def failed(self, error: BaseException) -> None:
        """See `Hearer`."""
        self.backend.failed(error)

    def tell_all(self, kind: int, body: bytes) -> None:
        """Tells all workers, now and later; on the I/O thread."""
        self._told.append((kind, body))
        for member in self.ledger.workers():
            member.channel.write(kind, body)

    # ------------------------------------------------------------------ see `ClusterListener`

    def said_hello(self, member: Any) -> None:
        """See `ClusterListener`."""
        self.backend.seen_node(member.hello["node"])

    def check_worker(self, environment: Any) -> EnvironmentMismatch | None:
        """See `ClusterListener`."""
        return check_worker(environment) if self.backend.checks else None

    def misfit(self, member: Any, problem: Any) -> None:
        """See `ClusterListener`: what it does not know it would do wrong, or not at all."""
        self.backend.events.close_for(str(problem))
        self.backend.events.broken(lambda name: problem)

    def take_more(self, member: Any, message: Message) -> None:
        """See `ClusterListener`."""
        if message.kind == messages.WANTED:
            self._lend(*loads(message.body))
        else:
            super().take_more(member, message)

    def _lend(self, key: str | None, number: str | None) -> None:
        """A worker wants a value that is no argument of its Ray task, or the relay itself."""
        relay = self.backend.relay()
        if key is not None and number is not None:
            kept = self.backend.lent.get(number)
            relay.lend.remote(key, [kept.reference] if kept is not None else [])

    def tell_ended(self, member: Any, ends: Sequence[End]) -> None:
        """See `Carrier`: there may be references in what they returned."""
        with lending(self.backend.relays):
            super().tell_ended(member, ends)

    def kept(self, member: Any, sent: RaySent, told: Any) -> Kept:
        """See `ClusterListener`: one of the values that its Ray task returns."""
        with sent.giving:
            references = sent.values
        return self.backend.kept(references[told], f"Ray worker {member.hello.get('pid')}")

    def unpickled(self, data: bytes) -> Any:
        """See `ClusterListener`: a large value that could not be returned stays all the same."""
        value = super().unpickled(data)
        if len(data) > LARGE and not isinstance(value, Outcome):
            return self.backend.kept(ray.put(value))
        return value

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """See `Carrier`: Ray's options."""
        return options.entered() if options is not None else nullcontext()
