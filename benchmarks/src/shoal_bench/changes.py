"""What changed between two records. Pure.

A contestant that has a bare engine is compared by its ratio to that, which another load or another machine changes less
than times; all others, and whoever has no such ratio in both records, by the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shoal_bench.record import Entry, Quartiles, Record

__all__ = ["Change", "changes", "worse_than"]


@dataclass(frozen=True)
class Change:
    """A contestant's figure in a case, before and after.

    Attributes:
        place: scenario and case.
        contestant: its name.
        ours: whether it is a runner of Shoal.
        is_ratio: whether what is compared is the ratio to its bare engine; else it is the value.
        before: the figure in the first record.
        after: the figure in the second.
    """

    place: str
    contestant: str
    ours: bool
    is_ratio: bool
    before: Quartiles
    after: Quartiles

    @property
    def times(self) -> float:
        """How many times what it was; above 1 it costs more."""
        return self.after.median / self.before.median

    @property
    def beyond_noise(self) -> bool:
        """Whether the middle halves of both do not touch."""
        return self.after.low > self.before.high or self.after.high < self.before.low


def changes(before: Record, after: Record) -> Iterator[Change]:
    """All figures that both records have."""
    for scenario, case, new in after.entries():
        place = before.scenario(scenario.name)
        old_case = place.case(case.name) if place is not None else None
        old = old_case.entry(new.contestant) if old_case is not None else None
        contestant = after.contestant(new.contestant)
        if old is None or contestant is None:
            continue
        bare = contestant.bare
        figures = _ratios(old, new, bare) or _values(old, new)
        if figures is not None:
            yield Change(
                f"{scenario.name}: {case.name}",
                new.contestant,
                contestant.ours,
                _ratios(old, new, bare) is not None,
                *figures,
            )


def worse_than(found: list[Change], share: float) -> list[Change]:
    """Those of ours that cost more than before by more than this share (0.1 is 10 %), beyond noise."""
    return [c for c in found if c.ours and c.beyond_noise and c.times > 1 + share]


def _ratios(old: Entry, new: Entry, bare: str | None) -> tuple[Quartiles, Quartiles] | None:
    first, second = old.ratio(bare), new.ratio(bare)
    return (first.quartiles, second.quartiles) if first is not None and second is not None else None


def _values(old: Entry, new: Entry) -> tuple[Quartiles, Quartiles] | None:
    return (old.figure, new.figure) if old.figure is not None and new.figure is not None else None
