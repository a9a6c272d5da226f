"""What workers say, as the driver takes it: what all of them say alike.

    worker ──message──▶ I/O thread ─▶ `Listener.take` ─▶ dispatcher, and its ledger

One thread, in order, with no lock held. May import `members`, `nested` and what lies above task runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Outcome
from shoal.futures.maps import Span
from shoal.logs import log_failure
from shoal.serialization import loads
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.members import not_unpacked, not_unpickled
from shoal.task_runners.remote.nested import NestedRuns

if TYPE_CHECKING:
    from shoal.calls import Report
    from shoal.scheduling.dispatchers import LedgerDispatcher
    from shoal.scheduling.in_flight import InFlight
    from shoal.task_runners.remote.batch_serializer import BatchSerializer
    from shoal.task_runners.remote.limit_slots import WorkerSlots
    from shoal.task_runners.remote.members import Member
    from shoal.task_runners.remote.messages import Message
    from shoal.task_runners.remote.nested import Carrier

__all__ = ["Listener"]


class Listener:
    """See the module.

    Args:
        events: the dispatcher of the runner.
        serializer: of its batches.
        carrier: of what runs on workers submit.

    Attributes:
        nested: takes the runs that workers submit.
        slots: takes slots of limits for runs on workers; made when one wants some.
    """

    def __init__(
        self, events: LedgerDispatcher, serializer: BatchSerializer, carrier: Carrier
    ) -> None:
        self.events = events
        self.ledger = events.ledger
        self.nested = NestedRuns(events, serializer, carrier)
        self.slots: WorkerSlots | None = None

    def take(self, member: Any, message: Message) -> None:
        """Takes a message of a worker; see `futures_of`."""
        kind, body = message.kind, message.body
        if kind == messages.BACK:
            self.events.handed_back(*loads(body))
        elif kind == messages.STARTED:
            self.events.started(*loads(body))
        elif kind == messages.RETURNED:
            self.events.returned(*loads(body))
        elif kind == messages.LOGGED:
            self._take_logged(body)
        elif kind == messages.SUBMITTED:
            self.nested.take_submitted(member, message)
        elif kind == messages.MAPPED:
            self.nested.take_mapped(member, message)
        elif kind == messages.WAITING:
            self.take_waiting(member, *loads(body))
        elif kind == messages.ENTER:
            self.nested.take_entering(member, *loads(body))
        elif kind == messages.LEAVE:
            self.nested.take_leaving(member, loads(body))
        elif kind == messages.GO_ON:
            self.ledger.would_go_on(member, *loads(body))
        elif kind == messages.RESUMED:
            self.ledger.resumed(member, loads(body))
        elif kind == messages.QUESTION:
            self.nested.take_question(member, *loads(body))
        elif kind == messages.DROPPED:
            self.nested.take_dropped(member, loads(body))
        elif kind == messages.UNPACKABLE:
            self.take_unpackable(member, *loads(body))
        elif kind == messages.INSIDE:
            if self.events.observer is not None:
                self.events.observer.told_inside(body)
        elif kind in (messages.SLOTS_WANTED, messages.SLOTS_RELEASED):
            self._take_slots(member, kind, loads(body))
        else:
            self.take_more(member, message)

    def _take_slots(self, member: Member, kind: int, told: Any) -> None:
        if self.slots is None:
            from shoal.task_runners.remote.limit_slots import WorkerSlots

            self.slots = WorkerSlots(self.events)
        if kind == messages.SLOTS_WANTED:
            self.slots.take_wanted(member, *told)
        else:
            self.slots.take_released(member, told)

    def take_more(self, member: Any, message: Message) -> None:
        """Takes a message that only workers of one kind send."""
        raise ValueError(f"message of unknown kind {message.kind}")

    def take_waiting(self, member: Member, wait: int, *described: Any) -> None:
        """A run on a worker waits."""
        self.nested.take_waiting(member, wait, *described)

    def take_unpackable(self, member: Member, number: int, data: bytes, is_function: bool) -> None:
        """A worker could not unpickle a batch."""
        sent = self.ledger.in_flight(number)
        if sent is not None:
            run = self.ledger.run_at(sent.batch, 0)
            told = not_unpacked(loads(data), run, is_function=is_function)
            self.ledger.unpackable(number, lambda name: told)

    def tell_others(self, sent: InFlight, report: Report) -> None:
        """Workers whose runs have submitted these are told of their ends."""
        runs = sent.batch.runs
        if type(runs) is Span:
            self.nested.tell_elements(runs, report.positions)

    def unpickled(self, data: bytes) -> Any:
        """A value that travelled, or an `Outcome`."""
        try:
            return loads(data)
        except BaseException as error:
            return Outcome(FAILED, not_unpickled(error))

    def _take_logged(self, body: bytes) -> None:
        try:
            self.events.logged(loads(body))
        except BaseException as error:  # what the user put into the record, or does with it
            log_failure(error, "A log record of a worker could not be handled")
