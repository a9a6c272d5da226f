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
        spares: slots that stand in for those of workers that wait, for what these wait for.
        lent: slots that stand in for those of workers that wait, for whatever comes.
        awaited: whether there is no worker behind the slots yet.
        has_room: False from when the roomiest slot was found full until whoever may have made room says so: what
            becomes ready meanwhile need not look.
    """

    __slots__ = (
        "_having",
        "_having_on_loops",
        "_left_behind",
        "_on_loops",
        "_policy",
        "_under_way",
        "awaited",
        "has_room",
        "in_flight",
        "lent",
        "loops",
        "seconds",
        "spares",
    )

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._on_loops: dict[int, bool] = {}  # batches, and whether they hold a place
        self._under_way: set[int] = set()  # batches of coroutines that no worker has yet
        self._having = _Having()
        self._having_on_loops = _Having()
        self._left_behind: dict[int, int] = {}  # what is in flight at slots that have gone
        self.in_flight: dict[int, int] = {}
        self.seconds: dict[int, float] = {}
        self.loops: dict[int, int] = {}
        self.spares: set[int] = set()
        self.lent: set[int] = set()
        self.awaited = False
        self.has_room = True

    # ------------------------------------------------------------------ which slots there are

    def replace(self, numbers: Iterable[int], *, awaited: bool) -> None:
        """These slots exist now, and those that are lent; what is in flight at others is remembered until they come again."""
        exist = {*numbers, *((self.spares | self.lent) & self.in_flight.keys())}
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
        spare = self._open()
        self.spares.add(spare)
        return spare

    def lend_to_all(self, leaving: Collection[int] = ()) -> int | None:
        """A spare slot for whatever comes: no run is waited for. `None` if as many are lent as there are others, since
        what comes may wait for the same.

        Args:
            leaving: spare slots that are not needed any more, and still have something in flight: better one of these
                than a new one, whose worker has to be started.
        """
        if 2 * len(self.lent) + len(self.spares) >= len(self.in_flight):
            return None
        if leaving:
            spare = min(leaving)
            self.spares.discard(spare)
            self.has_room = True
        else:
            spare = self._open()
        self.lent.add(spare)
        return spare

    def _open(self) -> int:
        spare = max(self.in_flight, default=-1) + 1
        self._come(spare)
        self.has_room = True
        return spare

    def leave(self, spare: int) -> None:
        """A spare slot gets nothing more, and ends when nothing is in flight there."""
        if spare in self.lent:
            self.lent.discard(spare)
            self.spares.add(spare)

    def end(self, spare: int) -> None:
        """A spare slot is not needed any more."""
        self.spares.discard(spare)
        self.lent.discard(spare)
        if spare in self.in_flight:
            self._leave(spare)

    # ------------------------------------------------------------------ where there is room

    def roomiest(self, blocked: Collection[int], others: int = 0) -> tuple[int | None, int]:
        """The slot with the least in flight, and how many have nothing.

        Args:
            blocked: slots whose workers wait.
            others: slots that are not asked for either, as bits.
        """
        if blocked or self.spares:
            others |= _bits((*self.spares, *blocked))
        found, in_flight = self._having.fewest(~others)
        if not found:
            return None, 0
        return _lowest(found), 0 if in_flight else found.bit_count()

    def roomiest_loop(self) -> int | None:
        """The slot with the fewest batches of coroutines; `None` if none takes another."""
        spares = self.spares | self.lent
        found, on_loop = self._having_on_loops.fewest(~_bits(spares) if spares else -1)
        if not found or on_loop >= LOOP_WINDOW:
            return None
        if len(self._under_way) >= len(self.in_flight):
            return None  # what comes meanwhile travels together
        return _lowest(found)

    def has_idle(self, blocked: Collection[int]) -> bool:
        """Whether a slot has nothing, or nothing that its worker is at.

        Args:
            blocked: slots whose workers wait.
        """
        idle = self._having.with_none() | _bits(slot for slot in blocked if slot in self.in_flight)
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
        self._now_has_on_loop(batch.slot, self.loops.get(batch.slot, 0) + 1)
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
            self._now_has_on_loop(batch.slot, self.loops[batch.slot] - 1)

    def closed(self, batch: Batch) -> None:
        """A batch that was counted is in flight no more."""
        slot = batch.slot
        self._under_way.discard(batch.number)
        if batch.number in self._on_loops:
            if self._on_loops.pop(batch.number):
                self._now_has_on_loop(slot, self.loops[slot] - 1)
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
        self._having.put(slot, batches)
        self._having_on_loops.put(slot, self.loops.get(slot, 0))

    def _leave(self, slot: int) -> None:
        """A slot exists no more; what is in flight there is."""
        batches = self.in_flight.pop(slot)
        self._having.drop(slot, batches)
        self._having_on_loops.drop(slot, self.loops.get(slot, 0))
        if batches:
            self._left_behind[slot] = batches

    def _now_has(self, slot: int, batches: int) -> None:
        """A slot has so many batches. Hot."""
        self._having.move(slot, self.in_flight[slot], batches)
        self.in_flight[slot] = batches

    def _now_has_on_loop(self, slot: int, batches: int) -> None:
        """The loop at a slot has so many batches; the slot may have gone."""
        if slot in self.in_flight:
            self._having_on_loops.move(slot, self.loops.get(slot, 0), batches)
        self.loops[slot] = batches


class _Having:
    """Slots by how many batches they have: for each number a set, as the bits of an integer."""

    __slots__ = ("_least", "_sets")

    def __init__(self) -> None:
        self._sets = [0]
        self._least = 0  # no slot has fewer

    def put(self, slot: int, batches: int) -> None:
        """A slot comes, and has so many."""
        self._sets.extend([0] * (batches + 1 - len(self._sets)))
        self._sets[batches] |= 1 << slot
        self._least = min(self._least, batches)

    def drop(self, slot: int, batches: int) -> None:
        """A slot goes that had so many."""
        self._sets[batches] ^= 1 << slot

    def move(self, slot: int, before: int, after: int) -> None:
        """A slot has one more, or one less. Hot."""
        sets, bit = self._sets, 1 << slot
        sets[before] ^= bit
        if after == len(sets):
            sets.append(0)
        sets[after] |= bit
        if after < self._least:
            self._least = after

    def with_none(self) -> int:
        """The slots that have none, as bits."""
        return self._sets[0]

    def fewest(self, among: int) -> tuple[int, int]:
        """Those that have the fewest of some slots, as bits, and how many that is; 0 if there are none of these. Hot.

        Args:
            among: these slots, as bits.
        """
        sets = self._sets
        while self._least < len(sets) - 1 and not sets[self._least]:
            self._least += 1
        for batches in range(self._least, len(sets)):
            found = sets[batches] & among
            if found:
                return found, batches
        return 0, 0


def _bits(slots: Iterable[int]) -> int:
    """A set of slots as the bits of an integer."""
    bits = 0
    for slot in slots:
        bits |= 1 << slot
    return bits


def _lowest(slots: int) -> int:
    """The lowest of some slots that are given as bits."""
    return (slots & -slots).bit_length() - 1


def _seconds_of(batch: Batch) -> float:
    """How much work a batch counts for."""
    return GUESS * len(batch) if batch.seconds is None else batch.seconds
