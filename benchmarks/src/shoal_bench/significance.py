"""Whether two samples differ by more than chance explains: the rank-sum test. Pure.

Source: H. B. Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than the
other", Annals of Mathematical Statistics 18 (1947). The distribution is exact, as rounds are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["chance_of"]


def chance_of(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely samples of one distribution are to differ as much as these do, in either direction: 0 to 1.

    It assumes that values are drawn independently of each other. Equal values count half, which makes the answer larger
    than it need be, never smaller.

    Args:
        one: values, at least one.
        other: values, at least one.
    """
    larger = sum((a > b) + (a == b) / 2 for a in one for b in other)
    pairs = len(one) * len(other)
    extreme = math.ceil(min(larger, pairs - larger))
    tail = sum(_arrangements(len(one), len(other))[: extreme + 1])
    return min(1.0, 2 * tail / math.comb(len(one) + len(other), len(one)))


def _arrangements(one: int, other: int) -> list[int]:
    """In how many orders of so many values, the first are larger in 0, 1, 2, … pairs: Gauss's binomial coefficient."""
    counts = [1] + [0] * (one * other)
    for step in range(1, one + 1):
        for larger in range(one * other, other + step - 1, -1):
            counts[larger] -= counts[larger - other - step]
        for larger in range(step, one * other + 1):
            counts[larger] += counts[larger - step]
    return counts
