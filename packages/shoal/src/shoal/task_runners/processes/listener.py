"""What worker processes say, as the driver takes it.

All of it happens on the I/O thread, in order, and no lock is held but where the books are changed: events go to the
dispatcher outside `ProcessBackend.lock`.

May import `members`, `record`, `segments`, `nested` and what lies above them.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any

from shoal.calls import FAILED, Outcome, Report
from shoal.exceptions import ResultLost
from shoal.futures.maps import Span
from shoal.logs import log_failure
from shoal.serialization import loads
from shoal.task_runners.processes.record import TOLD
from shoal.task_runners.processes.segments import Segment
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.members import not_unpacked, not_unpickled
from shoal.task_runners.remote.nested import NestedRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.members import ProcessMember, Sent
    from shoal.task_runners.processes.record import Lane
    from shoal.task_runners.remote.messages import Message

__all__ = ["Listener"]

_REPORT = struct.Struct("<QdI?")


class Listener:
    """Hears what is said.

    Args:
        backend: of the runner, which has its `events` and `contents` already.

    Attributes:
        nested: takes the runs that workers submit.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        pool = backend.pool
        self.nested = NestedRuns(
            backend.events, backend.contents, lambda: pool.alive, backend.carrier
        )

    # ------------------------------------------------------------------ messages

    def take(self, member: ProcessMember, message: Message) -> None:
        """Takes a message of a worker. Hot."""
        kind = message.kind
        if kind == messages.REPORT:
            self._take_report(member, message.body)
        elif kind == messages.VALUES:
            self._take_value(member, message)
        elif kind == messages.BACK:
            number, positions, seconds = loads(message.body)
            self._backend.events.handed_back(number, positions, seconds)
        elif kind == messages.BEGUN:
            self._backend.events.started(*loads(message.body))
        elif kind == messages.RETURNED:
            self._backend.events.returned(*loads(message.body))
        elif kind == messages.LOGGED:
            self._take_logged(message.body)
        elif kind == messages.SUBMITTED:
            self.nested.take_submitted(member, message)
        elif kind == messages.MAPPED:
            self.nested.take_mapped(member, message)
        elif kind == messages.WAITING:
            self.nested.take_waiting(member, *loads(message.body))
        elif kind == messages.RESUMED:
            helper = member.waits.pop(loads(message.body), None)
            if helper is not None:
                self._backend.events.resumed(helper)
                self._backend.force_late(member, helper)
        elif kind == messages.QUESTION:
            self.nested.take_question(member, *loads(message.body))
        elif kind == messages.DROPPED:
            self.nested.take_dropped(member, loads(message.body))
        elif kind == messages.UNPACKABLE:
            self._take_unpackable(member, *loads(message.body))
        elif kind == messages.READY:
            member.ready = True
        elif kind == messages.UNREADY:
            member.unready = loads(message.body)
        elif kind == messages.FAILED:
            raise loads(message.body)  # it is of no use any more
        elif kind == messages.RETIRING:
            self._backend.pool.retire(member)

    def _take_logged(self, body: bytes) -> None:
        try:
            self._backend.events.logged(loads(body))
        except BaseException as error:  # what the user put into the record, or does with it
            log_failure(error, "A log record of a worker could not be handled")

    # ------------------------------------------------------------------ runs end

    def _take_report(self, member: ProcessMember, body: bytes) -> None:
        """Runs of a batch have ended: what became of them is in the record. Hot."""
        number, seconds, count, last = _REPORT.unpack_from(body)
        sent = member.batches.get(number)
        if sent is None:
            return
        size = (len(body) - _REPORT.size) // 2
        positions = struct.unpack_from(f"<{size}H", body, _REPORT.size)
        backend = self._backend
        backend.deaths.useless = 0
        backend.contents.came_through(sent.batch, positions)
        report = self.report_of(sent, positions)
        report.seconds = seconds
        report.count = count
        report.last = last
        backend.events.reported(report)
        if last:
            backend.forget(member, sent)
        if type(sent.batch.runs) is Span and any(other.maps for other in list(backend.pool.alive)):
            self.nested.tell_elements(sent.batch.runs, positions)

    def report_of(self, sent: Sent, positions: Sequence[int]) -> Report:
        """What the record says of runs that have ended, but for those told by message. Hot."""
        lane = sent.lane
        number = sent.batch.number
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
        backend = self._backend
        value: Any
        if described is not None:
            name, size, layout, _ = described
            if message.is_cut:
                value = Outcome(FAILED, ResultLost(holder="the descriptor of its memory"))
                backend.store.miss(name)
            else:
                value = backend.store.take(name, Segment(message.fds[0], size), layout)
            member.segments.add(name)
        else:
            try:
                value = loads(data)
            except BaseException as error:
                value = Outcome(FAILED, not_unpickled(error))
        backend.events.reported(
            Report(number, [position], [value], [end], 0.0, last=False, count=0)
        )
        sent = member.batches.get(number)
        if sent is not None and type(sent.batch.runs) is Span:
            self.nested.tell_elements(sent.batch.runs, [position])

    def _take_unpackable(
        self, member: ProcessMember, number: int, data: bytes, is_function: bool
    ) -> None:
        sent = member.batches.get(number)
        if sent is None:
            return
        backend = self._backend
        with backend.lock:
            backend.sender.untell(member, sent)
        if len(sent.batch) > 1:
            backend.events.split(number)
            return
        runs = sent.batch.runs
        run = runs.record.future(runs.start) if type(runs) is Span else runs[0]
        told = not_unpacked(loads(data), run, is_function=is_function)
        backend.events.reported(
            Report(number, [0], [Outcome(FAILED, told)], [time.time()], 0.0, count=0)
        )
