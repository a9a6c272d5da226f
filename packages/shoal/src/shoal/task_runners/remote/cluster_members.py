"""The driver's books about a cluster's workers, and about the batches that were sent to it.

May import `members`, `record` and what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.exceptions import WorkerDied
from shoal.scheduling.in_flight import InFlight
from shoal.task_runners.remote.members import Member, futures_of
from shoal.task_runners.remote.record import outcomes_in, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from shoal.calls import Batch
    from shoal.scheduling.in_flight import Outcomes
    from shoal.task_runners.remote.messages import Channel

__all__ = ["ClusterMember", "Sent", "died"]


def died(
    run_name: str, text: str | None, cause: BaseException | None = None, *, host: str = "(a worker)"
) -> WorkerDied:
    """The end of a run of whose worker no more is known."""
    return WorkerDied(run_name=run_name, host=host, message=text, cause=cause)


class ClusterMember(Member):
    """A worker of a cluster.

    Attributes:
        hello: what it says of itself; empty until it has.
    """

    def __init__(self, number: int, channel: Channel, key: Hashable) -> None:
        super().__init__(number, channel, key)
        self.hello: dict[str, Any] = {}

    def greet(self, hello: dict[str, Any]) -> None:
        """It has said who it is."""
        self.hello = hello
        self.host, self.pid = hello["host"], hello["pid"]
        self.killable = hello["record"] is not None or hello["unrecorded"] is not None

    def outcomes(self, kept: Callable[[Any], Any]) -> Mapping[int, Outcomes] | None:
        """What it had written down before it went, where this process can read that, and once only; `None` if that
        cannot be known.

        Args:
            kept: gives the value that stays elsewhere, by what it is found by there.
        """
        if not self.hello:
            return {}  # it has said nothing, so it has begun nothing
        path = self.hello["record"]
        content = read_record(path) if path is not None else None
        with futures_of(self):
            return outcomes_in(content, kept, set(self.batches))


class Sent(InFlight):
    """A batch that was sent.

    Attributes:
        stored: handles among its arguments.
        demands: what it asks of its worker, in the cluster's words.
    """

    __slots__ = ("demands", "stored")

    def __init__(self, batch: Batch, stored: list[Any]) -> None:
        super().__init__(batch, is_job=False)
        self.stored = stored
        self.demands: dict[str, float] = {}
