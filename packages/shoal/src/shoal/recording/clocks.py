"""Workers' clocks against the driver's. Pure.

A message that leaves the driver at `sent` makes its first run begin at `begun`, by the worker's clock; what is told of a run
that `ended` there comes back at `told`. Neither is faster than nothing, so a worker's clock is ahead of the driver's by at
most `begun - sent` and by at least `ended - told`, whichever message: the quickest ones tell most.

Imports nothing of ours.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["offset"]


def offset(stamps: Iterable[tuple[float, float, float, float]]) -> float:
    """How far a worker's clock is ahead of the driver's.

    The least correction that makes no run begin before it was sent, or end after that was told. With it, times are off by
    no more than the quickest message took, and not at all if the clocks agree.

    Args:
        stamps: for each message `(sent, begun, ended, told)`, seconds since the epoch: the first and last by the driver's
            clock, the others by the worker's. What is not known is `nan`.

    Returns:
        Seconds to be taken off the worker's times.
    """
    most, least = inf, -inf
    for sent, begun, ended, told in stamps:
        if begun - sent < most:  # False for `nan`
            most = begun - sent
        if ended - told > least:
            least = ended - told
    if least > most:  # it was set while it ran
        return (least + most) / 2
    return min(max(0.0, least), most)
