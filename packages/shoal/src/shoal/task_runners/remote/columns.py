"""Outcomes of a batch that was sent to a cluster, until they are reported; and how each is told.

May import `record` and what lies above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.engine.inputs import ATOMS
from shoal.serialization import dumps
from shoal.task_runners.remote.record import SMALL_PICKLE

if TYPE_CHECKING:
    from shoal.task_runners.remote.record import Lane

__all__ = ["KEPT", "PICKLED", "PLAIN", "Columns"]

# How a run's end is told.
PLAIN = 1  # the value itself
PICKLED = 2  # a pickled value or `Outcome`
KEPT = 3  # what the driver finds a value by that stays in the cluster


class Columns:
    """The lane of a batch: outcomes by position, until they are reported; and beside that in the record.

    Args:
        number: of the lane in the record, -1 for none.
        lane: in the record, `None` for none.
        size: positions.

    Attributes:
        words: see `Lane`.
    """

    __slots__ = ("ends", "kinds", "lane", "number", "values", "words")

    def __init__(self, number: int, lane: Lane | None, size: int) -> None:
        self.number = number
        self.lane = lane
        self.words: Any = lane.words if lane is not None else bytearray(size)
        self.ends: Any = lane.ends if lane is not None else [0.0] * size
        self.kinds = bytearray(size)
        self.values: list[Any] = [None] * size

    def put(self, position: int, value: Any) -> bool:
        """See `Lane`. Hot."""
        if type(value) in ATOMS and not (type(value) in (str, bytes) and len(value) > 1024):
            self.kinds[position] = PLAIN
            self.values[position] = value
            if self.lane is not None and not self.lane.put(position, value):
                self.lane.put_pickled(position, dumps(value))
            return True
        return False

    def put_pickled(self, position: int, data: bytes) -> bool:
        """See `Lane`."""
        self.kinds[position] = PICKLED
        self.values[position] = data
        if self.lane is not None and len(data) <= SMALL_PICKLE:
            self.lane.put_pickled(position, data)
        return True

    def put_kept(self, position: int, key: Any) -> None:
        """The value stays in the cluster, where the driver finds it by this key."""
        self.kinds[position] = KEPT
        self.values[position] = key
        if self.lane is not None:
            self.lane.put_kept(position, dumps(key))
