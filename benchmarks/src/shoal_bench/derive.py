"""What samples come to: medians with quartiles, ratios pair by pair, and whether they allow a conclusion. Pure.

A sample is compared with one of the same round only, since what disturbs a machine lasts longer than a round. A run is
called too noisy rather than believed:

* a figure, if half of its samples are further apart than `SPREAD` of the median, or there are fewer than `ENOUGH`;
* a ratio, if there are fewer than `PAIRS` rounds, or some of them lie on either side of 1, unless half of them all but say
  that there is no difference (`ALIKE`).

That all rounds lie on one side of 1 is the sign test: six or more do so by chance, where there is no difference, in at most
2 of 64 runs (p < 0.05, both sides counted).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from shoal_bench.record import Entry, Quartiles, Ratio, Sample

__all__ = ["ALIKE", "ENOUGH", "PAIRS", "SPREAD", "entry_of", "pairs", "quartiles"]

#: Rounds from which quartiles say anything.
ENOUGH = 3
#: Rounds from which a ratio can be concluded from: all of fewer lie on one side by chance too often.
PAIRS = 6
#: Of the median: how far apart the quartiles of a figure may be.
SPREAD = 0.3
#: Ratios so close to 1 are no difference.
ALIKE = 0.05


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of values, at least one."""
    if len(values) == 1:
        (value,) = values
        return Quartiles(low=value, median=value, high=value)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low=low, median=median, high=high)


def entry_of(
    contestant: str,
    samples: Sequence[Sample],
    others: Mapping[str, Sequence[Sample]],
    void: str | None = None,
) -> Entry:
    """A contestant's entry.

    Args:
        contestant: its name.
        samples: what it took.
        others: whom to compare it with, in order, and what they took.
        void: why its samples do not count, if so.
    """
    if void is not None or not samples:
        return Entry(contestant=contestant, samples=tuple(samples), void=void or "no sample")
    figure = quartiles([sample.value for sample in samples])
    ratios = [_ratio(name, samples, taken) for name, taken in others.items()]
    return Entry(
        contestant=contestant,
        samples=tuple(samples),
        figure=figure,
        noisy=len(samples) < ENOUGH or figure.high - figure.low > SPREAD * figure.median,
        ratios=tuple(ratio for ratio in ratios if ratio is not None),
    )


def pairs(samples: Iterable[Sample], others: Iterable[Sample]) -> list[float]:
    """How many times what the others cost, in each round that both have and in which theirs is more than nothing."""
    theirs = {sample.round: sample.value for sample in others}
    return [s.value / theirs[s.round] for s in samples if theirs.get(s.round, 0) > 0]


def _ratio(against: str, samples: Sequence[Sample], others: Sequence[Sample]) -> Ratio | None:
    """The ratio in the rounds that both have; none without such a round."""
    times = pairs(samples, others)
    if not times:
        return None
    spread = quartiles(times)
    one_sided = max(times) < 1 or min(times) > 1
    alike = spread.low >= 1 - ALIKE and spread.high <= 1 + ALIKE
    return Ratio(
        against=against,
        pairs=len(times),
        quartiles=spread,
        conclusive=len(times) >= PAIRS and (one_sided or alike),
    )
