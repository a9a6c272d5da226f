"""The timeline's columns as a text that `page.js` unpacks: integers in planes of bytes, deflated, in base64.

A plane is one byte of each entry: the high ones of small numbers are all zero, and cost nothing. Entries go row by row,
in the order in which they began. A row is a worker, or one lane of it where several runs went on at once, as coroutines
do. Times are differences, in ticks.
"""

from __future__ import annotations

import math
import sys
import zlib
from array import array
from base64 import b64encode
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.recording.record import Record

__all__ = ["Packed", "packed"]

#: How many attempts a timeline shows at most; of more than these, a sample.
MOST = 1_000_000

#: Run numbers have 48 bits. Differences are taken modulo that, as those of maps are in the upper half.
NUMBERS = (1 << 48) - 1

#: How many lanes a worker has at most; beyond, runs share the last one.
LANES = 64

#: Waits and sizes are shown roughly: 21 steps for each factor of ten. Code 1 is one microsecond, or one byte.


@dataclass(frozen=True)
class Packed:
    """Columns of a timeline.

    Attributes:
        text: of all columns, one after the other.
        columns: name and bytes an entry of each.
        count: of entries.
        total: of attempts that there were; more than `count` in a sample.
        rows: for each its worker (an index, -1 for none), lane, and how many entries it has.
        tick: seconds that a unit of time stands for.
    """

    text: str
    columns: list[tuple[str, int]]
    count: int
    total: int
    rows: list[tuple[int, int, int]]
    tick: float


def packed(record: Record, order: list[list[int]], elapsed: float, most: int = MOST) -> Packed:
    """Packs a record's attempts.

    Args:
        record: whose.
        order: indices of those that began and ended, by worker (the last is for none), in the order in which they began.
        elapsed: seconds that the record takes.
        most: how many to show.
    """
    columns = record.columns
    total = sum(map(len, order))
    if total > most:
        shown = set(columns.sample(most).indices)
        order = [[index for index in indices if index in shown] for indices in order]
    tick = max(1e-6, elapsed / 2**30)
    rows: list[tuple[int, int, int]] = []
    chosen: list[int] = []
    gaps, spans = array("i"), array("i")
    # Numbered threads in the order of their numbers, processes of a machine together; what was on no worker comes last.
    places = sorted(
        (worker.host, worker.pid, len(worker.thread), worker.thread, worker.index)
        for worker in record.workers
    )
    for worker in (*(place[-1] for place in places), -1):
        for lane, entries in enumerate(_lanes(record, order[worker])):
            rows.append((worker, lane, len(entries)))
            chosen += entries
            start = record.started
            begun = [int((columns.begun[i] - start) / tick + 0.5) for i in entries]
            ended = [int((columns.ended[i] - start) / tick + 0.5) for i in entries]
            gaps.extend(a - b for a, b in zip(begun, chain((0,), ended), strict=False))
            spans.extend(b - a for a, b in zip(begun, ended, strict=True))
    numbers = array(
        "q", ((b - a) & NUMBERS for a, b in pairwise(chain((0,), _of(columns.number, chosen))))
    )
    upstreams = _rough((columns.ready[i] - columns.submitted[i]) * 1e6 for i in chosen)
    queued = _rough((columns.begun[i] - columns.ready[i]) * 1e6 for i in chosen)
    parts = [
        ("gap", 4, _planes(gaps)),
        ("span", 4, _planes(spans)),
        ("number", 6, _planes(numbers, 6)),
        ("task", 2, _planes(array("H", _of(columns.task, chosen)))),
        ("state", 1, bytes(_of(columns.state, chosen))),
        ("attempt", 1, bytes(min(one, 255) for one in _of(columns.attempt, chosen))),
        ("upstreams", 1, upstreams),
        ("queued", 1, queued),
        ("size", 1, _rough(_of(columns.bytes, chosen))),
    ]
    text = b64encode(zlib.compress(b"".join(part for _, _, part in parts))).decode("ascii")
    names = [(name, width) for name, width, _ in parts]
    return Packed(text, names, len(chosen), total, rows, tick)


def _lanes(record: Record, indices: list[int]) -> list[list[int]]:
    """Attempts of a worker, so that those of a lane do not overlap; one lane for most workers."""
    begun, ended = record.columns.begun, record.columns.ended
    if all(ended[a] <= begun[b] for a, b in pairwise(indices)):
        return [indices] if indices else []
    lanes: list[list[int]] = []
    free: list[int] = []  # lanes that are free again
    busy: list[tuple[float, int]] = []  # until when, and which lane
    for index in indices:
        while busy and busy[0][0] <= begun[index]:
            heappush(free, heappop(busy)[1])
        if free:
            lane = heappop(free)
        elif len(lanes) < LANES:
            lane = len(lanes)
            lanes.append([])
        else:
            lane = heappop(busy)[1]
        lanes[lane].append(index)
        heappush(busy, (ended[index], lane))
    return lanes


def _of(column: array[Any], chosen: list[int]) -> Iterable[Any]:
    return map(column.__getitem__, chosen)


def _planes(values: array[int], planes: int | None = None) -> bytes:
    """The lowest byte of each value, then the second one of each, and so on; of all bytes, or so many of them."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    raw, width = values.tobytes(), values.itemsize
    return b"".join(raw[plane::width] for plane in range(planes or width))


def _rough(values: Iterable[float]) -> bytes:
    """A byte for each value: its logarithm, 0 for what is not known or less than one."""
    log = math.log10
    codes = [int(log(value) * 21) + 1 if value >= 1 else 0 for value in values]
    return bytes(codes if max(codes, default=0) < 256 else [min(code, 255) for code in codes])
