"""What is in flight at each slot. Pure bookkeeping: it counts, and `sending` decides.

A cluster has thousands of slots, and the roomiest is asked for with every batch. So there is, for each number of batches,
the set of slots that have so many, as the bits of an integer: for 10,000 slots a step looks at about 1 KB, in a microsecond;
to go through them took 600.

Imports nothing of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from shoal.calls import Batch
    from shoal.scheduling.batching import BatchPolicy

__all__ = ["Slots"]


#: Batches of coroutines in flight per slot.
LOOP_WINDOW = 64
#: Seconds that a run counts for in a slot's window as long as nothing is known of its task; Dask's guess too.
GUESS = 0.5


class Slots:
    """The slots of a backend, and how much is in flight at each.

    What a waiting worker was given counts nowhere, unless it is at a spare slot.

    Args:
        policy: of the backend.

    Attributes:
        in_flight: how many batches are in flight at each slot, but for those of coroutines.
        seconds: of work in them, where the policy has a window in seconds.
        loops: how many batches of coroutines are in flight at each slot; they leave the slot free for others.
        spares: slots that stand in for those of workers that wait.
        awaited: whether there is no worker behind the slots yet.
        has_room: False from when the roomiest slot was found full until whoever may have made room says so: what
            becomes ready meanwhile need not look.
    """

    __slots__ = (
        "_having",
        "_least",
        "_left_behind",
        "_on_loops",
        "_policy",
        "_under_way",
        "awaited",
        "has_room",
        "in_flight",
        "loops",
        "seconds",
        "spares",
    )

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._on_loops: dict[int, bool] = {}  # batches, and whether they hold a place
        self._under_way: set[int] = set()  # batches of coroutines that no worker has yet
        self._having: list[int] = [0]  # by number of batches, the slots that have so many, as bits
        self._least = 0  # no slot has fewer
        self._left_behind: dict[int, int] = {}  # what is in flight at slots that have gone
        self.in_flight: dict[int, int] = {}
        self.seconds: dict[int, float] = {}
        self.loops: dict[int, int] = {}
        self.spares: set[int] = set()
        self.awaited = False
        self.has_room = True

    # ------------------------------------------------------------------ which slots there are

    def replace(self, numbers: Iterable[int], *, awaited: bool) -> None:
        """These slots exist now, and those that are lent; what is in flight at others is remembered until they come again."""
        exist = {*numbers, *(self.spares & self.in_flight.keys())}
        for slot in self.in_flight.keys() - exist:
            self._leave(slot)
        for slot in exist.difference(self.in_flight):
            self._come(slot)
        self.awaited = awaited
        self.has_room = True

    def lend(self) -> int:
        """A spare slot. It gets only what its blocked run waits for: given anything, its worker might wait in turn for
        others that lend theirs, and there would be as many workers as runs.
        """
        spare = max(self.in_flight, default=-1) + 1
        self._come(spare)
        self.spares.add(spare)
        self.has_room = True
        return spare

    def end(self, spare: int) -> None:
        """A spare slot is not needed any more."""
        self.spares.discard(spare)
        if spare in self.in_flight:
            self._leave(spare)

    # ------------------------------------------------------------------ where there is room

    def roomiest(self, blocked: Collection[int]) -> tuple[int | None, int]:
        """The slot with the least in flight, and how many have nothing.

        Args:
            blocked: slots whose workers wait.
        """
        others = ~_bits((*self.spares, *blocked)) if blocked or self.spares else -1
        if not self.in_flight:
            return None, 0
        having = self._having
        while not having[self._least]:
            self._least += 1
        for in_flight in range(self._least, len(having)):
            found = having[in_flight] & others
            if found:
                lowest = (found & -found).bit_length() - 1
                return lowest, 0 if in_flight else found.bit_count()
        return None, 0

    def roomiest_loop(self) -> int | None:
        """The slot with the fewest batches of coroutines; `None` if none takes another."""
        slot = min(
            self.in_flight.keys() - self.spares,
            key=lambda number: (self.loops.get(number, 0), number),
            default=None,
        )
        if slot is None or self.loops.get(slot, 0) >= LOOP_WINDOW:
            return None
        if len(self._under_way) >= len(self.in_flight):
            return None  # what comes meanwhile travels together
        return slot

    def has_idle(self, blocked: Collection[int]) -> bool:
        """Whether a slot has nothing, or nothing that its worker is at.

        Args:
            blocked: slots whose workers wait.
        """
        idle = self._having[0] | _bits(slot for slot in blocked if slot in self.in_flight)
        return bool(idle & ~_bits(self.spares))

    # ------------------------------------------------------------------ batches come and go

    def count(self, batch: Batch) -> None:
        """A batch is in flight at its slot."""
        slot = batch.slot
        if slot in self.in_flight:
            self._now_has(slot, self.in_flight[slot] + 1)
            if self._policy.seconds:
                self.seconds[slot] = self.seconds.get(slot, 0.0) + _seconds_of(batch)

    def count_on_loop(self, batch: Batch, *, under_way: bool) -> None:
        """A batch of coroutines is in flight at its slot; `under_way` until its worker has it."""
        self.loops[batch.slot] = self.loops.get(batch.slot, 0) + 1
        self._on_loops[batch.number] = True
        if under_way:
            self._under_way.add(batch.number)

    def arrived(self, number: int) -> bool:
        """A worker has a batch; whether that was waited for."""
        if number not in self._under_way:
            return False
        self._under_way.discard(number)
        return True

    def leave_loop(self, batch: Batch) -> None:
        """A coroutine waits: its batch holds no place, as what it waits for may need one."""
        if self._on_loops.get(batch.number):
            self._on_loops[batch.number] = False
            self.loops[batch.slot] -= 1

    def closed(self, batch: Batch) -> None:
        """A batch that was counted is in flight no more."""
        slot = batch.slot
        self._under_way.discard(batch.number)
        if batch.number in self._on_loops:
            if self._on_loops.pop(batch.number):
                self.loops[slot] -= 1
            return
        if slot in self.in_flight:
            batches = self.in_flight[slot] - 1
            self._now_has(slot, batches)
        elif slot in self._left_behind:
            batches = self._left_behind[slot] - 1
            if batches:
                self._left_behind[slot] = batches
            else:
                del self._left_behind[slot]
        else:
            return
        if slot in self.seconds:
            self.seconds[slot] = self.seconds[slot] - _seconds_of(batch) if batches else 0.0

    # ------------------------------------------------------------------ how many each slot has

    def _come(self, slot: int) -> None:
        """A slot exists now; one that comes again may have left something behind."""
        self.in_flight[slot] = batches = self._left_behind.pop(slot, 0)
        self._having.extend([0] * (batches + 1 - len(self._having)))
        self._having[batches] |= 1 << slot
        self._least = min(self._least, batches)

    def _leave(self, slot: int) -> None:
        """A slot exists no more; what is in flight there is."""
        batches = self.in_flight.pop(slot)
        self._having[batches] ^= 1 << slot
        if batches:
            self._left_behind[slot] = batches

    def _now_has(self, slot: int, batches: int) -> None:
        """A slot has one batch more, or less. Hot."""
        having, bit = self._having, 1 << slot
        having[self.in_flight[slot]] ^= bit
        if batches == len(having):
            having.append(0)
        having[batches] |= bit
        self.in_flight[slot] = batches
        if batches < self._least:
            self._least = batches


def _bits(slots: Iterable[int]) -> int:
    """A set of slots as the bits of an integer."""
    bits = 0
    for slot in slots:
        bits |= 1 << slot
    return bits


def _seconds_of(batch: Batch) -> float:
    """How much work a batch counts for."""
    return GUESS * len(batch) if batch.seconds is None else batch.seconds
