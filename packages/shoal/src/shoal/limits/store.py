"""What a store of limits does, and the data it speaks of.

A store keeps three things: limits (a name, and how many slots it has), leases (who has slots of it, until then) and
waiters (who stands in line for it). Leases and waiters that are over do not count, so the death of whoever was behind
them needs no witness.

May import the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shoal.exceptions import ConcurrencyLimitError

__all__ = [
    "TAG",
    "Acquired",
    "Answer",
    "Busy",
    "ConcurrencyLimit",
    "Holder",
    "Lease",
    "Limit",
    "LimitStore",
    "Rate",
    "Refused",
    "Request",
    "Waiter",
]

#: What the name of a tag's limit begins with.
TAG = "tag:"

# ---------------------------------------------------------------------- who asks for what


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` slots in any time of `seconds`.

    It is kept as a limit whose slots decay, which spreads them over the time. That no window has more than `count` is
    seen to beside it, by what was given out.

    Attributes:
        count: slots, at least 1.
        seconds: the length of the window, above 0.
    """

    count: int
    seconds: float

    @property
    def burst(self) -> int:
        """Slots that may be taken at the same moment: what comes in a hundredth of a second, and one."""
        return min(self.count, 1 + math.ceil(self.count / self.seconds / 100))

    @property
    def decay(self) -> float:
        """Slots that are free again each second."""
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asks for slots.

    Attributes:
        id: the UUID by which they are given back; for the slots of a run's tags, the run's.
        run: the name of the run that asks; empty in plain code.
        host: the name of the machine where it runs.
        pid: of its process there. On a worker, the driver keeps the lease.
        label: what the caller calls itself.
    """

    id: str
    run: str = ""
    host: str = ""
    pid: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for slots of every one of some limits, or of none.

    Attributes:
        names: of the limits; that of a tag is `TAG` and the tag. Names without a limit are free.
        holder: who asks.
        occupy: how many slots of each, at least 1.
        lease_seconds: how long the slots outlive the process that keeps them; `None` for slots that are not given back
            but decay. On its way from a worker to its driver 0, for as long as the driver says.
        rate: the limits that do not exist are made with this one.
        strict: whether a name without a limit is refused.
        max_retries: how often it is tried again where slots are not free; `None` for as often as it takes.
        within: ids of what the asker holds already, and gives back only when it has been answered.
    """

    names: frozenset[str]
    holder: Holder
    occupy: int = 1
    lease_seconds: float | None = None
    rate: Rate | None = None
    strict: bool = False
    max_retries: int | None = None
    within: frozenset[str] = frozenset()


# ---------------------------------------------------------------------- what the store answers


@dataclass(frozen=True, slots=True)
class Acquired:
    """The slots are taken.

    Attributes:
        names: the limits of which slots were taken; empty if none of the names is limited.
        missing: the names without a limit.
        after: seconds from now at which they may be used; above 0 for slots of a rate only.
        other_rates: limits that stand at another rate than the request's: slots that are free again each second, by name.
    """

    names: frozenset[str]
    missing: frozenset[str] = frozenset()
    after: float = 0.0
    other_rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Busy:
    """One has to wait, and holds nothing.

    Attributes:
        names: the limits without enough free slots, or where others stand in line before; at least one.
        retry_after: seconds until that can change by itself; `None` if it is not known.
    """

    names: frozenset[str]
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """It is no use to wait.

    Attributes:
        name: the limit because of which.
        problem: what is wrong, and what to do.
    """

    name: str
    problem: str


Answer = Acquired | Busy | Refused


# ---------------------------------------------------------------------- what the store shows


@dataclass(frozen=True, slots=True)
class Lease:
    """Slots that somebody holds.

    Attributes:
        holder: who.
        occupy: how many.
        since: when they were taken.
    """

    holder: Holder
    occupy: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who stands in line.

    Attributes:
        holder: who.
        occupy: how many slots it wants.
        since: when it asked first.
        behind: how many more of the same process stand behind it.
    """

    holder: Holder
    occupy: int
    since: datetime
    behind: int


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, as it was when it was read.

    Attributes:
        id: its UUID; it stays when the limit is changed.
        name: its name; that of a tag is `TAG` and the tag.
        limit: how many slots it has.
        active: whether it limits anything.
        slot_decay_per_second: slots that are free again each second without being given back; 0 for none.
        active_slots: how many slots are taken.
        rate: the rate it was made for, if any.
        holders: whose slots they are, the oldest first; slots that decay only are nobody's.
        waiters: who stands in line, in that order: of each process the first.
        created: when the limit was first set.
        updated: when it was last set.
    """

    id: str
    name: str
    limit: int
    active: bool
    slot_decay_per_second: float
    active_slots: float
    rate: Rate | None
    holders: tuple[Lease, ...]
    waiters: tuple[Waiter, ...]
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """The limit of a tag, as it was when it was read.

    Attributes:
        id: the limit's UUID; it stays when the limit is changed.
        tag: the tag.
        concurrency_limit: the most runs with the tag at once; 0 aborts them.
        active_slots: the ids of the runs that hold a slot, the oldest slot first.
        created: when the limit was first set, in UTC.
        updated: when it was last set, in UTC.
        holders: which runs hold a slot, where and since when, in the same order.
        waiters: which runs stand in line, in that order: of each process the first.
    """

    id: str
    tag: str
    concurrency_limit: int
    active_slots: list[str]
    created: datetime
    updated: datetime
    holders: tuple[Lease, ...] = ()
    waiters: tuple[Waiter, ...] = ()


# ---------------------------------------------------------------------- what it does


class LimitStore(Protocol):
    """Limits, leases and lines, shared by processes and safe for threads.

    Every method up to `withdraw` is one transaction, and raises `ConcurrencyLimitError` if the store cannot be used.

    Attributes:
        linger: seconds that it is worth being kept open by who does not need it.
        poll: whether releases by others can go unheard, so that one has to ask `changed`.
    """

    linger: float
    poll: bool

    def upsert(
        self,
        name: str,
        limit: int,
        *,
        decay: float | None = None,
        active: bool | None = None,
        active_slots: int | None = None,
    ) -> Limit:
        """Makes a limit, or changes it; `None` leaves a thing as it is. Leases stay."""

    def create(
        self,
        name: str,
        limit: int,
        *,
        decay: float | None = None,
        active: bool | None = None,
        active_slots: int | None = None,
    ) -> Limit | None:
        """As `upsert`, but `None` if there is a limit of this name."""

    def update(
        self,
        name: str,
        *,
        new_name: str | None = None,
        limit: int | None = None,
        decay: float | None = None,
        active: bool | None = None,
        active_slots: int | None = None,
    ) -> Limit | None:
        """Changes a limit; `None` if there is none. `active_slots` counts what is taken anew: leases beyond it are dropped.

        Raises:
            ConcurrencyLimitError: there is a limit of the new name.
        """

    def read(self, name: str) -> Limit | None:
        """The limit of this name, `None` if there is none."""

    def read_all(self, limit: int | None, offset: int, *, tags: bool | None = None) -> list[Limit]:
        """At most `limit` limits from the `offset`-th on, in the order of their names; `tags`: only those, or only others."""

    def delete(self, name: str) -> bool:
        """Removes a limit and its leases. Returns whether there was one."""

    def reset(self, name: str) -> bool:
        """Frees all slots of a limit. Returns whether there is one."""

    def try_acquire(
        self,
        request: Request,
        waited_seconds: float | None = None,
        *,
        patience: float | None = None,
        behind: int = 0,
        passes: Collection[str] = (),
        stand: bool = True,
    ) -> Answer:
        """Takes the slots, or has the request stand in line at those names at which it has to wait.

        It keeps its places until it has its slots, is withdrawn, or does not ask again for `STANDING` seconds. Slots
        that its holder's id has already it keeps.

        Args:
            request: what is asked for.
            waited_seconds: how long its owner has waited, `None` if it asks for the first time: who has waited longest
                is served first.
            patience: how long it will wait at most; nothing is promised for later than that.
            behind: how many others wait behind it in this process, to be shown.
            passes: ids of those in line, of this process, before whom it comes. The store cannot tell: by how long they
                have waited, some may have come at the same moment, or in another order by what it took to reach the
                store.
            stand: whether it stands in line; else it also passes who does.
        """

    def renew(self, ids: Collection[str], lease_seconds: float) -> dict[str, set[str]]:
        """Makes leases last `lease_seconds` from now. Returns the names of the limits that ids still have slots of."""

    def release(self, ids: Collection[str]) -> None:
        """Removes the leases of ids."""

    def withdraw(self, ids: Collection[str]) -> None:
        """Removes ids from all lines."""

    def fileno(self) -> int | None:
        """What becomes readable when others give slots back; `None` before anybody stood in line."""

    def rung(self) -> bool:
        """Whether others have given slots back since it was last asked, as far as it was heard."""

    def changed(self) -> bool:
        """Whether others have changed anything since it was last asked, or it cannot be told."""

    def may_pass(self, error: ConcurrencyLimitError) -> bool:
        """Whether an error that a method raised may be gone when it is tried again."""

    def close(self) -> None:
        """Lets go of what is open; the next use opens it again."""
