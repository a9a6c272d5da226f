"""Columns of numbers as the file of a record has them: packed, one behind the other.

May import the standard library only.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COLUMNS", "Chunk", "ranges", "unpacked"]

#: The columns of each kind of chunk, as typecodes of `array`.
#:
#: The ends of the runs of `spans` and `reports` follow in the same transaction, one behind the other, and so do numbers of
#: runs that are no range, and sizes that are not the same for all.
COLUMNS = {
    "submitted": "qiqqd",  # number, task, flow run, submitter, when
    "edges": "qqq",  # run, first upstream, one behind the last
    "ready": "qd",  # number, when
    "ran": "qHidd",  # number, attempt, worker, began, ended
    "ended": "qHiBdd",  # number, attempt, worker, state, began, ended
    "spans": "qqid",  # first number, how many, worker, began
    # runner, batch, first number (-1: listed), how many, worker, sent, arrived, told, seconds, task, whether coroutines,
    # bytes of each result (-1: listed)
    "reports": "qqqqiddddiBq",
    "listed": "qH",  # number and attempt of runs of those reports that list them
    "lost": "qHiddd",  # number, attempt, worker, sent, arrived, when
    "submitters": "qqq",  # first number, how many, submitter: of runs that runs on workers submitted
    "sized": "qq",  # number, bytes of a result that stays on its worker
    "packed": "qqq",  # runner, batch, bytes of its message
    "span_ends": "d",
    "report_sizes": "q",
    "report_ends": "d",
}


class Chunk:
    """Columns of one kind in the making.

    Args:
        types: of the columns.

    Attributes:
        columns: they.
        append: adds a value to each.
    """

    __slots__ = ("append", "columns")

    def __init__(self, types: str) -> None:
        self.columns: list[array[Any]] = [array(code) for code in types]
        appends = [column.append for column in self.columns]

        def append(*values: Any) -> None:
            for add, value in zip(appends, values, strict=True):
                add(value)

        self.append = append

    def packed(self) -> bytes:
        """All of them, one behind the other."""
        return b"".join(column.tobytes() for column in self.columns)


def unpacked(kind: str, data: bytes) -> list[array[Any]]:
    """The columns of a chunk."""
    columns = [array(code) for code in COLUMNS[kind]]
    count = len(data) // sum(column.itemsize for column in columns)
    start = 0
    for column in columns:
        stop = start + count * column.itemsize
        column.frombytes(data[start:stop])
        start = stop
    return columns


def ranges(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Numbers as ranges `(first, one behind the last)`."""
    first = last = None
    for number in numbers:
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last + 1
        first = last = number
    if first is not None and last is not None:
        yield first, last + 1
