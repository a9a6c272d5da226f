"""How many runs travel together: learned durations, and batches bounded by time.

Pure arithmetic; imports nothing of ours.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["BatchPolicy", "Durations"]


#: Messages that what is ready for a slot is sent in at least, while it is more than these carry.
GUIDED = 4


class BatchPolicy:
    """What one message may carry on a certain backend.

    Attributes:
        target: seconds of work that one message should carry.
        alone: runs that take at least this many seconds travel alone.
        cap: the most runs in one message.
        window: messages in flight per slot.
        seconds: of work in flight per slot, beyond `window` messages, for a system with a queue of its own: it learns
            from what it holds how many workers are wanted.
        most: messages in flight per slot in any case.
        patience: seconds that a slot is idle before others are asked for what they have not begun; and, with `seconds`,
            after which a task counts as slow whose first runs have not ended.
        cost: seconds that the driver spends on a message, which it could send one after the other only; see `size`.
        longest: seconds of work that a message carries at most, while much is ready for each slot; see `worth`.
        growth: how much larger a batch may be than what has been observed of its task, so that one early, lucky
            measurement does not send a thousand slow runs to one worker.
    """

    __slots__ = (
        "alone",
        "cap",
        "cost",
        "growth",
        "longest",
        "most",
        "patience",
        "seconds",
        "target",
        "window",
    )

    def __init__(
        self,
        target: float = 0.005,
        alone: float = 0.03,
        cap: int = 2000,
        window: int = 2,
        growth: int = 8,
        seconds: float = 0.0,
        most: int = 64,
        cost: float = 0.0,
        patience: float = 0.005,
        longest: float = 0.0,
    ) -> None:
        self.target = target
        self.alone = alone
        self.cap = cap
        self.window = window
        self.growth = growth
        self.seconds = seconds
        self.most = most
        self.cost = cost
        self.patience = patience
        self.longest = longest

    def worth(self, seconds: float, ready: int, slots: int) -> float:
        """Seconds of work for one message: a share of what is left, so that few messages carry much work and what each
        slot does last is little (guided self-scheduling, Polychronopoulos & Kuck 1987).

        Args:
            seconds: a run's.
            ready: how many are ready.
            slots: over how many slots they could be spread.
        """
        if not self.longest:
            return self.target
        return max(self.target, min(self.longest, ready * seconds / (GUIDED * max(slots, 1))))

    def quarter(self, seconds: float, observed: int) -> float:
        """How many runs fill a quarter of a message."""
        full = self.target / max(seconds, 1e-9)
        return min(self.cap, full, observed * self.growth) // 4

    def has_room(self, messages: int, seconds: float, *, known: bool) -> bool:
        """Whether a slot takes another message.

        Args:
            messages: in flight there.
            seconds: of work in them.
            known: whether enough is known of the task for messages of full size: else it is worth waiting for.
        """
        if messages < self.window:
            return True
        return known and seconds < self.seconds and messages < self.most

    def is_known(self, seconds: float | None, observed: int) -> bool:
        """Whether messages of a task have their full size, or its runs travel alone in any case."""
        if seconds is None or seconds >= self.alone:
            return True
        return observed * self.growth >= min(self.cap, self.target / max(seconds, 1e-9))

    def size(
        self, seconds: float | None, observed: int, ready: int, slots: int, limit: int | None
    ) -> int:
        """How many runs of one task to send in one message.

        Args:
            seconds: the task's learned duration, `None` if unknown.
            observed: how many of its runs that rests on.
            ready: how many are ready.
            slots: over how many slots they could be spread.
            limit: the task's own cap (`batch=`), if any.

        Returns:
            At least 1.
        """
        if ready == 1 or seconds is None or seconds >= self.alone:
            return 1
        worth = self.worth(seconds, ready, slots)
        most = self.cap if seconds * self.cap <= worth else int(worth / seconds)
        messages = max(slots, 1)
        if self.cost:
            # k of them take k * cost to send, and a k-th of the work is done last: least in all at k = sqrt(work / cost).
            messages = max(min(messages, round(math.sqrt(ready * seconds / self.cost))), 1)
        share = -(-ready // messages)
        most = min(most, observed * self.growth, share)
        if limit is not None:
            most = min(most, limit)
        return max(most, 1)


class Durations:
    """An exponentially weighted mean of how long each task's runs take.

    Args:
        weight: of the newest observation; several at once weigh accordingly.
    """

    __slots__ = ("_known", "weight")

    def __init__(self, weight: float = 0.2) -> None:
        self.weight = weight
        self._known: dict[Any, tuple[float, int]] = {}

    def of(self, task: Any) -> tuple[float | None, int]:
        """The learned seconds of a task (`None` if unknown) and the number of observations."""
        return self._known.get(task, (None, 0))

    def observe(self, task: Any, seconds: float, count: int = 1) -> None:
        """Learns that `count` runs of a task took `seconds` together."""
        if count <= 0:
            return
        mean = seconds / count
        known = self._known.get(task)
        if known is None:
            self._known[task] = (mean, count)
            return
        old, observed = known
        # A slower observation counts in full: sending too few costs a message, too many holds up the neighbours.
        weight = 1.0 if mean > 4 * old else 1.0 - (1.0 - self.weight) ** count
        self._known[task] = (old + weight * (mean - old), observed + count)
