"""What was submitted on this worker, for as long as somebody here holds the future: the driver keeps the run that long.

May import futures and what lies above them.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from shoal.context import LOCK

if TYPE_CHECKING:
    from collections import deque

    from shoal.futures import TaskFuture
    from shoal.futures.maps import MapRecord

__all__ = ["Submitted"]

#: Dropped futures that the driver is told of together.
DROPPED_TOGETHER = 256


class Submitted:
    """Futures and maps by the number of the run, held weakly.

    Args:
        dropped: is given what is gone, until `take_dropped`.
    """

    def __init__(self, dropped: deque[_Reference]) -> None:
        self._runs: dict[int, _Reference] = {}
        self._maps: list[tuple[int, int, _Reference]] = []
        self._dropped = dropped
        self._split: dict[int, int] = {}

    def add(self, future: TaskFuture[Any]) -> None:
        """A run was submitted."""
        self._runs[future._number] = _Reference(future, future._number, self._dropped)

    def add_map(self, record: MapRecord[Any]) -> None:
        """A map was submitted."""
        with LOCK:
            self._maps.append(
                (record.base, record.size, _Reference(record, record.base, self._dropped))
            )

    def split(self, record: MapRecord[Any]) -> None:
        """The driver is told of a map's elements one by one."""
        self._split[record.base] = record.size

    def find(self, number: int) -> TaskFuture[Any] | None:
        reference = self._runs.get(number)
        if reference is not None:
            return reference()
        with LOCK:
            for base, size, record_reference in self._maps:
                if 0 <= number - base < size:
                    record = record_reference()
                    return record.materialize(number - base) if record is not None else None
        return None

    def take_dropped(self, *, at_once: bool) -> list[int]:
        """The numbers of what is gone here, once.

        Args:
            at_once: whether also a few are worth a message.
        """
        dropped = self._dropped
        if not dropped or (len(dropped) < DROPPED_TOGETHER and not at_once):
            return []
        numbers = [dropped.popleft().number for _ in range(len(dropped))]
        for number in numbers:
            self._runs.pop(number, None)
        gone = set(numbers)
        for base in self._split.keys() & gone:
            numbers += range(base + 1, base + self._split.pop(base))
        with LOCK:
            self._maps = [entry for entry in self._maps if entry[0] not in gone]
        return numbers


class _Reference(weakref.ref):  # type: ignore[type-arg]  # it cannot be subscripted at run time
    """Refers to a future, or to a map's record, and joins the dropped ones when that is gone.

    In C alone: an interrupt of the run that drops the future would be lost in Python code here.
    """

    __slots__ = ("number",)
    number: int

    def __new__(cls, item: Any, number: int, dropped: deque[_Reference]) -> Self:
        reference = super().__new__(cls, item, dropped.append)
        reference.number = number
        return reference

    def __init__(self, item: Any, number: int, dropped: deque[_Reference]) -> None:
        super().__init__(item, dropped.append)  # type: ignore[call-arg]
