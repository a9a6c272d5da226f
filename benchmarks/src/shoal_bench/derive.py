"""What samples come to: medians with quartiles, ratios pair by pair, and whether they allow a conclusion. Pure.

A sample is compared with one of the same round only, since what disturbs a machine lasts longer than a round. A run is
called too noisy rather than believed:

* a figure, if half of its samples are further apart than `SPREAD` of the median, or there are fewer than `ENOUGH`;
* a ratio, if half of the rounds lie on both sides of 1, unless they all but say that there is no difference (`ALIKE`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from shoal_bench.record import Entry, Quartiles, Ratio, Sample

__all__ = ["ALIKE", "ENOUGH", "SPREAD", "entry_of", "quartiles"]

#: Rounds from which quartiles say anything.
ENOUGH = 3
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


def _ratio(against: str, samples: Sequence[Sample], others: Sequence[Sample]) -> Ratio | None:
    """The ratio in the rounds that both have; none without such a round."""
    theirs = {sample.round: sample.value for sample in others}
    pairs = [s.value / theirs[s.round] for s in samples if theirs.get(s.round, 0) > 0]
    if not pairs:
        return None
    spread = quartiles(pairs)
    one_sided = spread.high < 1 or spread.low > 1
    alike = spread.low >= 1 - ALIKE and spread.high <= 1 + ALIKE
    return Ratio(
        against=against,
        pairs=len(pairs),
        quartiles=spread,
        conclusive=len(pairs) >= ENOUGH and (one_sided or alike),
    )
