"""The driver's books: workers of Ray, and the batches that were sent.

May import `handles`, `link` and the core's `remote` room.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shoal.task_runners.remote.members import ClusterMember, Sent

if TYPE_CHECKING:
    from ray import ObjectRef
    from shoal.calls import Batch

    from shoal_ray.link import Peer

__all__ = ["RayMember", "RaySent"]


class RayMember(ClusterMember):
    """A worker process of Ray's that has connected."""

    channel: Peer

    def __init__(self, number: int, channel: Peer) -> None:
        super().__init__(number, channel, number)


class RaySent(Sent):
    """A batch that was sent.

    Attributes:
        slots: how many large values its Ray task can return.
        status: tells the end of its Ray task.
        values: references of the large values that it returns.
        at: number of the batch that its Ray task is at: its own, or one that the task goes on with.
        giving: held while it is given to Ray; a worker may speak of it before its references are known here.
    """

    __slots__ = ("at", "giving", "slots", "status", "values")

    def __init__(self, batch: Batch, stored: list[Any], slots: int) -> None:
        super().__init__(batch, stored)
        self.slots = slots
        self.at = batch.number
        self.status: ObjectRef[Any] | None = None
        self.values: list[ObjectRef[Any]] = []
        self.giving = threading.Lock()
