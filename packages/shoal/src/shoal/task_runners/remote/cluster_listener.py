"""What a cluster's workers say, as the driver takes it.

May import `listener`, `members` and what lies above task runners.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED, Report
from shoal.logs import library_logger
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.columns import KEPT, PICKLED, PLAIN
from shoal.task_runners.remote.listener import Listener
from shoal.task_runners.remote.members import futures_of
from shoal.task_runners.remote.parcels import LARGE, Parcel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from shoal.task_runners.remote.cluster_backend import ClusterBackend
    from shoal.task_runners.remote.members import ClusterMember
    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.nested import End

__all__ = ["ClusterListener"]


class ClusterListener(Listener):
    """Hears what is said, and carries what runs on workers want (see `Carrier`).

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: ClusterBackend) -> None:
        super().__init__(backend.events, backend.serializer, self)
        self.backend = backend
        if self.events.observer is not None:
            self._take_ends = self._take_sized_ends  # type: ignore[assignment,method-assign]

    #: Whether values that stay in the cluster exist when their job has ended, and not before.
    values_come_last = False
    #: Handles that workers find the value of a run by.
    kept_as: type[Parcel] = Parcel

    # ------------------------------------------------------------------ for subclasses

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """See `Carrier`: there are none."""
        return nullcontext()

    def kept(self, member: Any, sent: Any, told: Any) -> Any:
        """The handle of a value that a worker keeps; the backend's, if it makes no difference which batch that was in."""
        return self.backend.kept(told, member)

    def misfit(self, member: Any, problem: Any) -> None:
        """A worker's environment does not go with the driver's."""
        hello = member.hello
        cluster = self.backend.cluster
        library_logger().warning(
            "%s worker %s on %s: %s", cluster, hello["pid"], hello["host"], problem
        )

    def said_hello(self, member: Any) -> None:
        """A worker has said who it is."""

    def check_worker(self, environment: Any) -> Any:
        """What is wrong with a worker's environment, if anything."""
        return None

    # ------------------------------------------------------------------ messages

    def take(self, member: Any, message: Message) -> None:
        """Takes a message of a worker."""
        with futures_of(member):
            if message.kind == messages.ENDS:
                self._take_ends(member, *loads(message.body))
            else:
                super().take(member, message)

    def take_more(self, member: Any, message: Message) -> None:
        """See `Listener`."""
        kind, body = message.kind, message.body
        if kind == messages.ARRIVED:
            number = loads(body)
            self.backend.standby.begun(number)
            self.ledger.arrived(member, number)
        elif kind == messages.ASKED:
            self.backend.tell_task(member, loads(body))
        elif kind == messages.FAILED:
            self.events.failed(loads(body))
        elif kind == messages.HELLO:
            self._take_hello(member, loads(body))
        else:
            super().take_more(member, message)

    def _take_hello(self, member: ClusterMember, hello: dict[str, Any]) -> None:
        member.greet(hello)
        if hello["unrecorded"] is not None:
            library_logger().warning(
                "%s worker %s on %s cannot write down what it begins; should it die, all that it has is CRASHED: %s",
                *(self.backend.cluster, hello["pid"], hello["host"], hello["unrecorded"]),
            )
        self.said_hello(member)
        problem = self.check_worker(hello["environment"])
        if problem is not None:
            self.misfit(member, problem)

    # ------------------------------------------------------------------ runs end

    def _take_ends(
        self,
        member: ClusterMember,
        number: int,
        where: Any,
        kinds: bytes,
        values: list[Any],
        ends: list[float],
        seconds: float,
        last: bool,
        stands_by: bool,
    ) -> None:
        """Runs of a batch have ended. Hot."""
        positions: Sequence[int] = range(*where) if type(where) is tuple else where
        sent = self.ledger.in_flight(number)
        if sent is None:
            return  # it was given up
        is_large = False
        if PICKLED in kinds or KEPT in kinds:
            is_large = KEPT in kinds or any(type(v) is bytes and len(v) > LARGE for v in values)
            values = [
                value
                if kind not in (PICKLED, KEPT)
                else self.kept(member, sent, value)
                if kind == KEPT
                else self.unpickled(value)
                for kind, value in zip(kinds, values, strict=True)
            ]
        if stands_by or is_large:
            self.backend.standby.saw(sent.tasks, is_large=is_large)
        if stands_by:
            self.backend.stands_by(member, sent)
        report = Report(number, positions, values, ends, seconds, last=last)
        if self.ledger.told(report, held=KEPT in kinds and self.values_come_last):
            self.tell_others(sent, report)

    def _take_sized_ends(
        self,
        member: ClusterMember,
        number: int,
        where: Any,
        kinds: bytes,
        values: list[Any],
        *more: Any,
    ) -> None:
        """As `_take_ends`, and tells how large the results were."""
        positions: Sequence[int] = range(*where) if type(where) is tuple else where
        observer = self.events.observer
        assert observer is not None  # only then is it called
        sizes = {
            position: len(value)
            for position, kind, value in zip(positions, kinds, values, strict=True)
            if kind == PICKLED or (kind == PLAIN and type(value) in (str, bytes))
        }
        if sizes:
            observer.sized(number, sizes)
        ClusterListener._take_ends(self, member, number, where, kinds, values, *more)

    # ------------------------------------------------------------------ runs that workers submit

    def arguments(self, message: Message, packed: Any) -> Any:
        """See `Carrier`."""
        return loads(packed[0])

    def tell_ended(self, member: Any, ends: Sequence[End]) -> None:
        """See `Carrier`."""
        entries = []
        for end in ends:
            if end.phase == COMPLETED and isinstance(end.value, self.kept_as):
                phase, data = end.phase, end.value.number
            else:
                phase, data = end.packed()
            entries.append((end.number, phase, end.since, end.name, data))
        member.channel.send(messages.RUNS_ENDED, dumps(entries))

    def take_waiting(self, member: Any, wait: int, *described: Any) -> None:
        """See `Listener`."""
        super().take_waiting(member, wait, *described)
        blocked_run = member.waits.get(wait)
        if blocked_run is not None and blocked_run.spare is not None:
            # Who waits with a limit runs nothing meanwhile.
            self.backend.down(member, messages.SECEDE, dumps(wait))
