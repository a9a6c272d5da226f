"""A record as a timeline for Perfetto (https://ui.perfetto.dev): its TrackEvent format, written without a library.

    a process ─▶ a track for each thread of it that ran tasks ─▶ a slice for each attempt
                 and for the driver: flow runs, starts of runners
    arrows from a run to those that waited for it

Slices on one track lie one after another or one inside the other; what overlaps, as coroutines do, goes to further
tracks of its worker. The numbers of fields are those of `perfetto_trace.proto`, which promises to keep them.

May import `record`.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from math import inf, isnan
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shoal.recording.record import EventRow, Record

__all__ = ["write_trace"]

#: Seconds by which two slices may overlap that come one after the other: so well are clocks corrected.
NOISE = 100e-6
#: Arrows from the runs of a list that one run was given; of a longer list only the run that ended last has one.
ARROWS = 8
#: The packets are one sequence; any number but 0 will do.
_SEQUENCE = 1
_CLEARED, _NEEDED = 1, 2  # flags of a packet: names are interned from here on, or were
_BEGIN, _END, _INSTANT = 1, 2, 3  # types of events
_REALTIME, _BOOTTIME = 1, 6  # clocks
_CHRONOLOGICAL, _EXPLICIT = 2, 3  # orders of the tracks below one


def write_trace(record: Record, file: BinaryIO) -> None:
    """Writes a record as a trace.

    Args:
        record: what ran.
        file: open for writing bytes; conventionally `….pftrace`.

    Raises:
        OSError: it cannot be written.
    """
    file.writelines(_Trace(record).packets())


# ---------------------------------------------------------------------- protocol buffers


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _number(field: int, value: int) -> bytes:
    if field < 16 and value < 0x80:  # most of them
        return bytes((field << 3, value))
    return _varint(field << 3) + _varint(value)


def _fixed(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<Q", value)


def _nested(field: int, content: bytes) -> bytes:
    if field < 16 and len(content) < 0x80:
        return bytes((field << 3 | 2, len(content))) + content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _nested(field, value.encode("utf-8", "replace"))


#: How nearly all packets begin.
_HEAD = _number(10, _SEQUENCE) + _number(13, _NEEDED)


# ---------------------------------------------------------------------- the trace


class _Slice(NamedTuple):
    """Something that took time; `ended` is infinite for what had not ended."""

    begun: float
    ended: float
    name: str
    more: bytes  # further fields of the event that begins it


class _Names:
    """Interned strings: each is written once, with the packet that first needs it."""

    def __init__(self, field: int) -> None:
        self._field = field
        self._known: dict[str, int] = {}
        self.new: list[bytes] = []

    def __getitem__(self, text: str) -> int:
        number = self._known.get(text)
        if number is None:
            number = self._known[text] = len(self._known) + 1
            self.new.append(_nested(self._field, _number(1, number) + _text(2, text)))
        return number


class _Trace:
    def __init__(self, record: Record) -> None:
        self.record = record
        self._names = _Names(2)
        self._labels = _Names(3)
        self._tracks = 0
        self._processes: dict[tuple[str, int], tuple[int, int]] = {}
        self._out: dict[int, list[int]] = defaultdict(list)  # arrows, by index in the columns
        self._into: dict[int, list[int]] = defaultdict(list)
        self._alike: dict[
            tuple[int, int], bytes
        ] = {}  # what is shown of attempts, by state and attempt
        columns = record.columns
        known = [t for t in columns.begun if not isnan(t)] + [run.began for run in record.flow_runs]
        known += [runner.entered for runner in record.runners]
        known += [event.at for event in record.events]
        self._base = min(known, default=0.0 if isnan(record.started) else record.started)

    def packets(self) -> Iterator[bytes]:
        """The whole trace, packet by packet."""
        self._draw_arrows()
        yield self._clocks()
        yield from self._driver()
        yield from self._workers()

    def _clocks(self) -> bytes:
        """When it was, by the calendar; it begins the sequence."""
        at = int(self._base * 1e9)
        clocks = _nested(1, _number(1, _BOOTTIME) + _number(2, 0))
        clocks += _nested(1, _number(1, _REALTIME) + _number(2, at))
        return self._packet(_nested(6, clocks + _number(2, _BOOTTIME)), flags=_CLEARED)

    # ------------------------------------------------------------------ tracks

    def _driver(self) -> Iterator[bytes]:
        record = self.record
        flows = [
            _Slice(
                run.began,
                inf if run.ended is None else run.ended,
                run.flow,
                self._facts(run=run.name, state=run.state, message=run.message, **run.parameters),
            )
            for run in record.flow_runs
        ]
        starts = [
            _Slice(runner.entered, runner.started, f"start of {runner.name}", b"")
            for runner in record.runners
        ]
        yield from self._track(record.host, record.pid, "flow runs", flows)
        yield from self._track(record.host, record.pid, "runners", starts)
        at_no_worker = [event for event in record.events if event.worker < 0]
        if at_no_worker:
            yield from self._track(record.host, record.pid, "events", (), at_no_worker)

    def _workers(self) -> Iterator[bytes]:
        record = self.record
        found: dict[int, list[int]] = defaultdict(list)
        for index, begun in enumerate(record.columns.begun):
            if not isnan(begun):
                found[record.columns.worker[index]].append(index)
        events = defaultdict(list)
        for event in record.events:
            if event.worker >= 0:
                events[event.worker].append(event)
        for worker in record.workers:
            slices = [self._slice(index) for index in found.pop(worker.index, ())]
            name = worker.thread or "runs"
            ended = f" ({worker.ending})" if worker.ending else ""
            yield from self._track(
                worker.host, worker.pid, name + ended, slices, events.pop(worker.index, ())
            )
        for left in found.values():
            slices = [self._slice(index) for index in left]
            yield from self._track(record.host, record.pid, "on an unknown worker", slices)

    def _slice(self, index: int) -> _Slice:
        """An attempt. Hot: there may be a million."""
        record, c = self.record, self.record.columns
        number, attempt, task = c.number[index], c.attempt[index], c.task[index]
        ended = c.ended[index]
        key = c.state[index], attempt
        more = self._alike.get(key)
        if more is None:
            state = record.states[c.state[index]]
            more = self._alike[key] = self._facts(state=state, attempt=attempt)
        more += self._facts(run=record.run_name(number, task))
        if number in record.errors:
            for error in record.errors[number]:
                if error.attempt == attempt:
                    more += self._facts(error=f"{error.kind}: {error.text}")
        if index in self._out:
            more += b"".join([_fixed(47, arrow) for arrow in self._out[index]])
        if index in self._into:
            more += b"".join([_fixed(48, arrow) for arrow in self._into[index]])
        return _Slice(
            c.begun[index], ended if ended == ended else inf, record.tasks[task].name, more
        )

    def _facts(self, **facts: str | int) -> bytes:
        """What is shown of a slice that is clicked at; what is empty is not."""
        return b"".join(
            [
                _nested(
                    4,
                    _number(1, self._labels[name])
                    + (_number(3, value) if isinstance(value, int) else _text(6, value)),
                )
                for name, value in facts.items()
                if value != ""
            ]
        )

    def _track(
        self,
        host: str,
        pid: int,
        name: str,
        slices: Iterable[_Slice],
        events: Iterable[EventRow] = (),
    ) -> Iterator[bytes]:
        """A thread's track, and as many below it as overlapping slices need."""
        process, shown_pid = self._processes.get((host, pid), (0, 0))
        if not process:
            # Two machines may have processes of one number, and to Perfetto they would be one.
            taken = {pid for _, pid in self._processes.values()}
            shown_pid = pid if pid not in taken else (1 << 22) + len(taken)
            process = self._new_track()
            self._processes[host, pid] = process, shown_pid
            where = "driver" if (host, pid) == (self.record.host, self.record.pid) else "worker"
            described = _number(1, shown_pid) + _text(6, f"{where} {pid} on {host}")
            content = _number(1, process) + _nested(3, described)
            yield self._packet(_nested(60, content + _number(11, _EXPLICIT)))
        thread = self._new_track()
        described = _number(1, shown_pid) + _number(2, (1 << 32) + thread) + _text(5, name)
        content = _number(1, thread) + _number(5, process) + _nested(4, described)
        yield self._packet(_nested(60, content + _number(11, _CHRONOLOGICAL) + _number(12, thread)))
        for lane, found in enumerate(_lanes(slices)):
            track = thread
            if lane:
                track = self._new_track()
                content = _number(1, track) + _text(2, f"{name} ({lane + 1})")
                yield self._packet(_nested(60, content + _number(5, thread)))
            yield from self._on_track(track, found)
        for event in events:
            yield self._instant(thread, event)

    def _new_track(self) -> int:
        self._tracks += 1
        return self._tracks

    def _on_track(self, track: int, slices: list[_Slice]) -> Iterator[bytes]:
        """Begins and ends, in order: what ends at a moment comes before what begins then."""
        ending = _nested(11, _number(9, _END) + _number(11, track))
        beginning = _number(9, _BEGIN) + _number(11, track)
        open_ends: list[float] = []
        for begun, ended, name, more in slices:
            while open_ends and open_ends[-1] <= begun:
                yield self._packet(ending, open_ends.pop())
            event = beginning + _number(10, self._names[name]) + more
            yield self._packet(_nested(11, event), begun)
            open_ends.append(ended)
        for ended in reversed(open_ends):
            if ended < inf:
                yield self._packet(ending, ended)

    def _instant(self, track: int, event: EventRow) -> bytes:
        facts = self._facts(what=event.text)
        content = _number(9, _INSTANT) + _number(11, track) + _number(10, self._names[event.kind])
        return self._packet(_nested(11, content + facts), event.at)

    def _packet(self, content: bytes, at: float | None = None, flags: int = _NEEDED) -> bytes:
        head = _HEAD if flags == _NEEDED else _number(10, _SEQUENCE) + _number(13, flags)
        if at is not None:
            head += b"\x40" + _varint(max(round((at - self._base) * 1e9), 0))  # field 8
        if self._names.new or self._labels.new:
            interned = b"".join(self._names.new + self._labels.new)
            self._names.new.clear()
            self._labels.new.clear()
            head += _nested(12, interned)
        return _nested(1, head + content)

    # ------------------------------------------------------------------ arrows

    def _draw_arrows(self) -> None:
        """Gives each dependency a number, which both its ends carry."""
        edges, columns = self.record.edges, self.record.columns
        if not len(edges):
            return
        first: dict[
            int, int
        ] = {}  # of each run the attempt that waited, and the one that was waited for
        last: dict[int, int] = {}
        for index, number in enumerate(columns.number):
            if not isnan(columns.begun[index]):
                if number not in first or columns.attempt[index] < columns.attempt[first[number]]:
                    first[number] = index
                if number not in last or columns.attempt[index] > columns.attempt[last[number]]:
                    last[number] = index
        arrow = 0
        for run, start, stop in zip(edges.run, edges.first, edges.stop, strict=True):
            target = first.get(run)
            sources = [last[number] for number in range(start, stop) if number in last]
            if target is None or not sources:
                continue
            if len(sources) > ARROWS:
                sources = [max(sources, key=lambda index: columns.ended[index])]
            for source in sources:
                arrow += 1
                self._out[source].append(arrow)
                self._into[target].append(arrow)


def _lanes(slices: Iterable[_Slice]) -> list[list[_Slice]]:
    """Slices by track: on each they lie one after another, or one inside the other."""
    lanes: list[list[_Slice]] = []
    open_ends: list[list[float]] = []  # of each lane, outermost first
    for found in sorted(slices, key=lambda s: (s.begun, -s.ended)):
        for lane, ends in zip(lanes, open_ends, strict=True):
            while ends and ends[-1] <= found.begun:
                ends.pop()
            # It begins before what precedes it ended, by so little that only the clocks say so.
            while (
                ends and found.ended > ends[-1] >= found.begun and ends[-1] - found.begun <= NOISE
            ):
                found = found._replace(begun=ends.pop())
            if not ends or found.ended <= ends[-1]:
                lane.append(found)
                ends.append(found.ended)
                break
        else:
            lanes.append([found])
            open_ends.append([found.ended])
    return lanes
