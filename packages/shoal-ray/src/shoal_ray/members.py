"""The driver's books: workers of Ray, and the batches that were sent.

May import `handles`, `link` and the core's `remote` room.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shoal.task_runners.remote.cluster_members import ClusterMember, Sent

if TYPE_CHECKING:
    from ray import ObjectRef
    from shoal.calls import Batch, Report

    from shoal_ray.link import Peer

__all__ = ["RayMember", "RaySent"]


class RayMember(ClusterMember):
    """A worker process of Ray's that has connected.

    Args:
        number: identifies it among those of its runner.
        channel: to it.

    Attributes:
        has_gone: whether it has hung up.
        is_read: whether the record was looked at.
    """

    channel: Peer

    def __init__(self, number: int, channel: Peer) -> None:
        super().__init__(number, channel)
        self.has_gone = False
        self.is_read = False


class RaySent(Sent):
    """A batch that was sent.

    Attributes:
        slots: how many large values its Ray task can return.
        status: tells the end of its Ray task.
        values: references of the large values that it returns.
        has_ended: whether its Ray task has ended by itself.
        error: how Ray says that it ended otherwise.
        held: reports that wait for its end, as the values in them do.
        is_killed: whether it was stopped by force.
        giving: held while it is given to Ray; a worker may speak of it before its references are known here.
    """

    __slots__ = ("error", "giving", "has_ended", "held", "is_killed", "slots", "status", "values")

    def __init__(self, batch: Batch, stored: list[Any], slots: int) -> None:
        super().__init__(batch, stored)
        self.slots = slots
        self.status: ObjectRef[Any] | None = None
        self.values: list[ObjectRef[Any]] = []
        self.has_ended = False
        self.error: BaseException | None = None
        self.held: list[Report] = []
        self.is_killed = False
        self.giving = threading.Lock()
