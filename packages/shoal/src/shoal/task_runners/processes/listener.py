"""What worker processes say, as the driver takes it: what others do not say, and what they say in another way.

May import `members`, `record`, `segments`, `listener` and what lies above them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Outcome, Report
from shoal.exceptions import ResultLost
from shoal.scheduling.in_flight import Outcomes
from shoal.serialization import loads
from shoal.task_runners.processes.record import REPORT, TOLD
from shoal.task_runners.processes.segments import Segment
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import BEGUN
from shoal.task_runners.remote.listener import Listener
from shoal.task_runners.remote.members import not_unpickled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.members import ProcessMember, Sent
    from shoal.task_runners.processes.record import Lane
    from shoal.task_runners.remote.messages import Message

__all__ = ["ProcessListener", "listener_for"]


class ProcessListener(Listener):
    """Hears what is said.

    Args:
        backend: of the runner, which has its `events` and `serializer` already.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        super().__init__(backend.events, backend.serializer, backend.carrier)
        self._backend = backend

    # ------------------------------------------------------------------ messages

    def take(self, member: ProcessMember, message: Message) -> None:
        """Takes a message of a worker. Hot."""
        kind = message.kind
        if kind == messages.REPORT:
            self._take_report(message.body)
        elif kind == messages.VALUES:
            self._take_value(member, message)
        else:
            super().take(member, message)

    def take_more(self, member: ProcessMember, message: Message) -> None:
        """See `Listener`."""
        kind = message.kind
        if kind == messages.READY:
            member.ready = True
            member.pid = member.process.pid
        elif kind == messages.UNREADY:
            member.unready = loads(message.body)
        elif kind == messages.FAILED:
            raise loads(message.body)  # it is of no use any more
        elif kind == messages.RETIRING:
            self._backend.pool.retire(member)
        else:
            super().take_more(member, message)

    def take_unpackable(self, member: Any, number: int, data: bytes, is_function: bool) -> None:
        """See `Listener`."""
        self._backend.sender.untell(member, self.ledger.in_flight(number))
        super().take_unpackable(member, number, data, is_function)

    # ------------------------------------------------------------------ runs end

    def _take_report(self, body: bytes) -> None:
        """Runs of a batch have ended: what became of them is in the record. Hot."""
        number, seconds, count, last = REPORT.unpack_from(body)
        sent = self.ledger.in_flight(number)
        if sent is None:
            return
        size = (len(body) - REPORT.size) // 2
        positions = struct.unpack_from(f"<{size}H", body, REPORT.size)
        self._backend.pool.useless = 0
        report = self._report_of(sent, positions)
        report.seconds, report.count, report.last = seconds, count, last
        if self.ledger.told(report):
            self.tell_others(sent, report)

    def _report_of(self, sent: Sent, positions: Sequence[int]) -> Report:
        """What the record says of runs that have ended, but for those told by message. Hot."""
        lane = sent.lane
        number = sent.number
        words: list[int]
        ends: Sequence[float]
        if not positions:
            return Report(number, (), (), (), 0.0)
        first, after = positions[0], positions[-1] + 1
        if after - first == len(positions):
            positions = range(first, after)
            words = lane.words[first:after].tolist()
            ends = lane.ends[first:after].tolist()
        else:
            words = [lane.word(position) for position in positions]
            ends = [lane.ends[position] for position in positions]
        if TOLD in words:
            told = [place for place, word in enumerate(words) if word != TOLD]
            positions = [positions[place] for place in told]
            words = [words[place] for place in told]
            ends = [ends[place] for place in told]
        try:
            values = lane.values(words, positions)
        except BaseException:
            values = [self._value(lane, word, p) for word, p in zip(words, positions, strict=True)]
        return Report(number, positions, values, ends, 0.0)

    def _value(self, lane: Lane, word: int, position: int) -> Any:
        try:
            return lane.values([word], [position])[0]
        except BaseException as error:
            return Outcome(FAILED, not_unpickled(error))

    def _take_value(self, member: ProcessMember, message: Message) -> None:
        number, position, end, data, described = loads(message.body)
        store = self._backend.store
        value: Any
        if described is None:
            value = self.unpickled(data)
        else:
            name, size, layout, _ = described
            member.segments.add(name)
            if message.is_cut:
                value = Outcome(FAILED, ResultLost(holder="the descriptor of its memory"))
                store.miss(name)
            else:
                value = store.take(name, Segment(message.fds[0], size), layout)
        sent = self.ledger.in_flight(number)
        report = Report(number, [position], [value], [end], 0.0, last=False, count=0)
        if sent is not None and self.ledger.told(report):
            self.tell_others(sent, report)

    def written_by(self, sent: Sent) -> Outcomes:
        """What a worker that has gone had written down of a batch."""
        words = sent.lane.words[: len(sent.batch)].tolist()
        ended = self._report_of(
            sent, [p for p, word in enumerate(words) if sent.lane.is_written(word)]
        )
        begun = [p for p, word in enumerate(words) if word == BEGUN]
        return Outcomes(ended.positions, ended.values, ended.ends, begun, sent.unpacking())


class _ObservedListener(ProcessListener):
    """As `ProcessListener`, and tells how large results were."""

    def _report_of(self, sent: Sent, positions: Sequence[int]) -> Report:
        sizes = sent.lane.sizes(positions)
        if sizes and self.events.observer is not None:
            self.events.observer.sized(sent.number, sizes)
        return super()._report_of(sent, positions)

    def _take_value(self, member: ProcessMember, message: Message) -> None:
        number, position, _, data, described = loads(message.body)
        if described is None and self.events.observer is not None:  # else its worker tells
            self.events.observer.sized(number, {position: len(data)})
        super()._take_value(member, message)


def listener_for(backend: ProcessBackend) -> ProcessListener:
    """The listener of a runner; see `ProcessListener`."""
    kind = ProcessListener if backend.events.observer is None else _ObservedListener
    return kind(backend)
