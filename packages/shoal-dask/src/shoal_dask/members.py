"""The driver's books: Dask workers, and the batches that were sent.

May import `handles` and the core's `remote` room.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shoal.task_runners.remote.members import ClusterMember, Sent

if TYPE_CHECKING:
    from distributed import Future
    from shoal.calls import Batch
    from shoal.task_runners.remote.messages import Channel

__all__ = ["DaskMember", "DaskSent"]


class DaskMember(ClusterMember):
    """A Dask worker.

    Args:
        number: identifies it among those of its runner.
        channel: to it.
        joined: what the scheduler says of it.

    Attributes:
        address: where Dask reaches it.
        nthreads: how many tasks it runs at once.
        resources: what it has of each of Dask's resources.
        nanny: the address of its nanny, `None` if it has none.
    """

    def __init__(self, number: int, channel: Channel, joined: dict[str, Any]) -> None:
        super().__init__(number, channel, joined["address"])
        self.address: str = joined["address"]
        self.name: str = joined["name"]
        self.nthreads: int = joined["nthreads"]
        self.resources: dict[str, float] = joined["resources"]
        self.nanny: str | None = joined["nanny"]


class DaskSent(Sent):
    """A batch that was sent.

    Attributes:
        key: of its Dask task.
        future: of its Dask task, once that was sent.
        sending: held while it is given to Dask, or taken back before.
        is_given: whether Dask has it, or is about to.
        is_taken_back: whether it must not be given any more.
    """

    __slots__ = ("future", "is_given", "is_taken_back", "key", "sending")

    def __init__(self, batch: Batch, key: str, stored: list[Any]) -> None:
        super().__init__(batch, stored)
        self.key = key
        self.future: Future[Any] | None = None
        self.sending = threading.Lock()
        self.is_given = False
        self.is_taken_back = False
