"""What a store of limits does, and the data it speaks of.

A store keeps two things: limits (a tag, and how many runs with it may run at once) and leases (this run has a slot of
this tag, until then). A lease that is over does not count, so the death of whoever held it needs no witness.

May import the standard library only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

__all__ = ["Acquired", "Answer", "Busy", "ConcurrencyLimit", "LimitStore", "ZeroLimit"]


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
    """

    id: str
    tag: str
    concurrency_limit: int
    active_slots: list[str]
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class Acquired:
    """The run may start.

    Attributes:
        tags: those of which it holds a slot; empty if none of its tags is limited.
    """

    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Busy:
    """The run has to wait, and holds nothing.

    Attributes:
        tags: those without a free slot; at least one.
    """

    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class ZeroLimit:
    """The run must not start.

    Attributes:
        tag: one whose limit is 0.
    """

    tag: str


Answer = Acquired | Busy | ZeroLimit


class LimitStore(Protocol):
    """Limits and leases, shared by processes and safe for threads.

    Every method is one transaction, and raises `ConcurrencyLimitError` if the store cannot be used.
    """

    def create(self, tag: str, concurrency_limit: int) -> ConcurrencyLimit:
        """Sets the limit of a tag, which may have one; leases stay."""

    def read(self, tag: str) -> ConcurrencyLimit | None:
        """The limit of a tag, `None` if it has none."""

    def read_all(self, limit: int | None, offset: int) -> list[ConcurrencyLimit]:
        """At most `limit` limits from the `offset`-th on, in the order of their tags."""

    def delete(self, tag: str) -> bool:
        """Removes the limit of a tag and its leases. Returns whether it had a limit."""

    def reset(self, tag: str) -> bool:
        """Removes the leases of a tag. Returns whether it has a limit."""

    def try_acquire(self, tags: Collection[str], run_id: str, lease_seconds: float) -> Answer:
        """Takes a slot of every tag that has a limit, or none; those that the run holds already it keeps."""

    def renew(self, run_ids: Collection[str], lease_seconds: float) -> set[str]:
        """Makes the leases of runs last `lease_seconds` from now. Returns the runs that still have one."""

    def release(self, run_ids: Collection[str]) -> None:
        """Removes the leases of runs."""

    def close(self) -> None:
        """Lets go of what is open; the next use opens it again."""
