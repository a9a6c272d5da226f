"""What changed between two records. Pure.

A contestant that has a bare engine is compared by its ratio to that, which another load or another machine changes less
than times; all others by the value. A figure has changed beyond noise if the rounds of both records differ by more than
chance explains (`significance`): of a hundred figures that have not changed, `FALSE_ALARMS` times a hundred seem to.

Left out are values that are too noisy, ratios of which the rounds of neither record agree on a side, and figures of
fewer than `ROUNDS` rounds, which that test can say nothing about.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from shoal_bench.derive import pairs
from shoal_bench.record import Case, Entry, Record
from shoal_bench.significance import chance_of

__all__ = ["FALSE_ALARMS", "ROUNDS", "Aside", "Change", "Changes", "changes", "worse_than"]

#: Share of unchanged figures that are said to have changed.
FALSE_ALARMS = 0.01
#: Rounds of each record from which any difference can be that unlikely: 2 in 252 orders of five and five.
ROUNDS = 5


@dataclass(frozen=True)
class Change:
    """A contestant's figure in a case, before and after.

    Attributes:
        place: scenario and case.
        contestant: its name.
        ours: whether it is a runner of Shoal.
        is_ratio: whether what is compared is the ratio to its bare engine; else it is the value.
        before: the rounds of the first record.
        after: the rounds of the second.
    """

    place: str
    contestant: str
    ours: bool
    is_ratio: bool
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        """Before and after."""
        return statistics.median(self.before), statistics.median(self.after)

    @property
    def times(self) -> float:
        """How many times what it was, in the median; above 1 it costs more; infinite if it cost nothing and does now."""
        before, after = self.medians
        if before == 0:
            return math.inf if after else 1.0
        return after / before

    @property
    def beyond_noise(self) -> bool:
        """Whether chance hardly explains the difference; see the module."""
        return chance_of(self.before, self.after) < FALSE_ALARMS


@dataclass(frozen=True)
class Aside:
    """A figure that is not compared.

    Attributes:
        place: scenario and case.
        contestant: its name.
        ours: whether it is a runner of Shoal.
        reason: why not.
    """

    place: str
    contestant: str
    ours: bool
    reason: str


@dataclass(frozen=True)
class Changes:
    """Two records beside each other.

    Attributes:
        compared: all figures that can be compared.
        lost: what had a figure in the first record only.
        added: what has a figure in the second record only.
        skipped: what has one in both that says too little.
    """

    compared: list[Change] = field(default_factory=list)
    lost: list[Aside] = field(default_factory=list)
    added: list[Aside] = field(default_factory=list)
    skipped: list[Aside] = field(default_factory=list)


def changes(before: Record, after: Record) -> Changes:
    """All figures of both records."""
    found = Changes()
    old, new = _figures(before), _figures(after)
    for place, name in old | new:
        contestant = after.contestant(name) or before.contestant(name)
        ours = contestant is not None and contestant.ours
        bare = contestant.bare if contestant is not None else None
        first, second = old.get((place, name)), new.get((place, name))
        if second is None:
            found.lost.append(Aside(place, name, ours, _why_lost(after, place, name)))
        elif first is None:
            found.added.append(Aside(place, name, ours, "it has no figure before"))
        elif reason := _says_too_little(first, second, bare):
            found.skipped.append(Aside(place, name, ours, reason))
        else:
            is_ratio = _have_ratios(first, second, bare)
            rounds = [figure.rounds(bare if is_ratio else None) for figure in (first, second)]
            found.compared.append(Change(place, name, ours, is_ratio, *rounds))
    return found


def worse_than(found: Changes, share: float) -> list[Change]:
    """Those of ours that cost more than before by more than this share (0.1 is 10 %), beyond noise."""
    return [c for c in found.compared if c.ours and c.times > 1 + share and c.beyond_noise]


@dataclass(frozen=True)
class _Figure:
    """An entry that has a figure, and the case that it stands in."""

    case: Case
    entry: Entry

    def rounds(self, bare: str | None) -> tuple[float, ...]:
        """The ratio to a bare engine in each round, or without one the value."""
        other = self.case.entry(bare) if bare is not None else None
        if other is None:
            return tuple(sample.value for sample in self.entry.samples)
        return tuple(pairs(self.entry.samples, other.samples))


def _figures(record: Record) -> dict[tuple[str, str], _Figure]:
    """All there are, by place and contestant."""
    return {
        (f"{scenario.name}: {case.name}", entry.contestant): _Figure(case, entry)
        for scenario, case, entry in record.entries()
        if entry.figure is not None
    }


def _have_ratios(first: _Figure, second: _Figure, bare: str | None) -> bool:
    return all(figure.entry.ratio(bare) is not None for figure in (first, second))


def _says_too_little(first: _Figure, second: _Figure, bare: str | None) -> str | None:
    """Why two figures cannot be compared, if so."""
    both = (first, second)
    is_ratio = _have_ratios(first, second, bare)
    if min(len(figure.rounds(bare if is_ratio else None)) for figure in both) < ROUNDS:
        return f"fewer than {ROUNDS} rounds"
    if is_ratio:
        ratios = [figure.entry.ratio(bare) for figure in both]
        agree = any(ratio is not None and ratio.conclusive for ratio in ratios)
        return None if agree else "too noisy"
    return "too noisy" if any(figure.entry.noisy for figure in both) else None


def _why_lost(after: Record, place: str, contestant: str) -> str:
    for scenario, case, entry in after.entries():
        if (f"{scenario.name}: {case.name}", entry.contestant) == (place, contestant):
            return f"void: {entry.void}"
    return "not measured any more"
