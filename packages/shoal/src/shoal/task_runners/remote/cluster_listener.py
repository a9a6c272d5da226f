"""What a cluster's workers say, as the driver takes it: one thread, in order.

May import `cluster_members`, `nested` and what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import COMPLETED, FAILED, Outcome, Report
from shoal.futures.maps import Span
from shoal.logs import library_logger, log_failure
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.cluster_worker import KEPT, PICKLED
from shoal.task_runners.remote.members import futures_of, not_unpacked, not_unpickled
from shoal.task_runners.remote.nested import NestedRuns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from shoal.task_runners.remote.cluster_backend import ClusterBackend
    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.nested import End

__all__ = ["ClusterListener"]


class ClusterListener:
    """Hears what is said, and carries what runs on workers want (see `Carrier`).

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: ClusterBackend) -> None:
        self.backend: Any = backend
        self.engine = backend.engine
        self.nested = NestedRuns(backend.events, backend.contents, self.engine.workers, self)

    #: Whether values that stay in the cluster exist when their job has ended, and not before.
    values_come_last = False

    # ------------------------------------------------------------------ for subclasses

    def options(self, options: Any) -> AbstractContextManager[Any]:
        """See `Carrier`."""
        raise NotImplementedError

    def kept(self, member: Any, sent: Any, told: Any) -> Any:
        """The handle of a value that a worker keeps."""
        raise NotImplementedError

    def is_kept(self, value: Any) -> bool:
        """Whether a run's value is a handle."""
        raise NotImplementedError

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
        raise NotImplementedError

    # ------------------------------------------------------------------ messages

    def take(self, member: Any, message: Message) -> None:
        """Takes a message of a worker."""
        with futures_of(member):
            self._take(member, message)

    def _take(self, member: Any, message: Message) -> None:
        kind, body = message.kind, message.body
        backend = self.backend
        if kind == messages.ENDS:
            self._take_ends(member, *loads(body))
        elif kind == messages.STARTED:
            self.engine.begun(member, loads(body))
        elif kind == messages.BACK:
            backend.events.handed_back(*loads(body))
        elif kind == messages.BEGUN:
            backend.events.started(*loads(body))
        elif kind == messages.RETURNED:
            backend.events.returned(*loads(body))
        elif kind == messages.LOGGED:
            self._take_logged(body)
        elif kind == messages.SUBMITTED:
            self.nested.take_submitted(member, message)
        elif kind == messages.MAPPED:
            self.nested.take_mapped(member, message)
        elif kind == messages.WAITING:
            self._take_waiting(member, *loads(body))
        elif kind == messages.RESUMED:
            helper = member.waits.pop(loads(body), None)
            if helper is not None:
                backend.events.resumed(helper)
        elif kind == messages.QUESTION:
            self.nested.take_question(member, *loads(body))
        elif kind == messages.DROPPED:
            self.nested.take_dropped(member, loads(body))
        elif kind == messages.UNPACKABLE:
            self._take_unpackable(*loads(body))
        elif kind == messages.ASKED:
            backend.tell_task(member, loads(body))
        elif kind == messages.FAILED:
            backend.events.failed(loads(body))
        elif kind == messages.HELLO:
            self._take_hello(member, loads(body))
        else:
            self.take_more(member, message)

    def take_more(self, member: Any, message: Message) -> None:
        """Takes a message of the runner's own."""
        raise ValueError(f"message of unknown kind {message.kind}")

    def _take_hello(self, member: Any, hello: dict[str, Any]) -> None:
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

    def _take_logged(self, body: bytes) -> None:
        try:
            self.backend.events.logged(loads(body))
        except BaseException as error:  # what the user put into the record, or does with it
            log_failure(error, "A log record of a worker could not be handled")

    # ------------------------------------------------------------------ runs end

    def _take_ends(
        self,
        member: Any,
        number: int,
        where: Any,
        kinds: bytes,
        values: list[Any],
        ends: list[float],
        seconds: float,
        last: bool,
    ) -> None:
        """Runs of a batch have ended. Hot."""
        positions: Sequence[int] = range(*where) if type(where) is tuple else where
        sent = self.engine.in_flight(number)
        if sent is None:
            return  # it was given up
        if PICKLED in kinds or KEPT in kinds:
            values = [
                value
                if kind not in (PICKLED, KEPT)
                else self.kept(member, sent, value)
                if kind == KEPT
                else self.unpickled(value)
                for kind, value in zip(kinds, values, strict=True)
            ]
        report = Report(number, positions, values, ends, seconds, last=last)
        if self.engine.told(report, held=KEPT in kinds and self.values_come_last):
            self.tell_others(sent, report)

    def tell_others(self, sent: Any, report: Report) -> None:
        """Workers whose runs have submitted these are told of their ends."""
        runs = sent.batch.runs
        if type(runs) is Span and any(other.maps for other in self.engine.workers()):
            self.nested.tell_elements(runs, report.positions)

    def unpickled(self, data: bytes) -> Any:
        """A value that travelled, or an `Outcome`."""
        try:
            return loads(data)
        except BaseException as error:
            return Outcome(FAILED, not_unpickled(error))

    def _take_unpackable(self, number: int, data: bytes, is_function: bool) -> None:
        sent = self.engine.in_flight(number)
        if sent is not None:
            run = self.engine.run_at(sent.batch, 0)
            told = not_unpacked(loads(data), run, is_function=is_function)
            self.engine.unpackable(number, lambda name: told)

    # ------------------------------------------------------------------ runs that workers submit

    def arguments(self, message: Message, packed: Any) -> Any:
        """See `Carrier`."""
        return loads(packed[0])

    def tell_ended(self, member: Any, ends: Sequence[End]) -> None:
        """See `Carrier`."""
        entries = []
        for end in ends:
            if end.phase == COMPLETED and self.is_kept(end.value):
                phase, data = end.phase, end.value.number
            else:
                phase, data = end.packed()
            entries.append((end.number, phase, end.since, end.name, data))
        member.channel.send(messages.RUNS_ENDED, dumps(entries))

    def _take_waiting(self, member: Any, wait: int, *described: Any) -> None:
        self.nested.take_waiting(member, wait, *described)
        helper = member.waits.get(wait)
        if helper is not None and helper.spare is not None:
            # Who waits with a limit runs nothing meanwhile.
            self.backend.down(member, messages.STEP_ASIDE, dumps(wait))
