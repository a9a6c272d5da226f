"""Finds where an efficiency passes one half. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["LONGEST", "NotFound", "crossing"]

#: Two lengths on both sides of the crossing are close enough if the longer is at most so many times the shorter.
CLOSE = 2.0
#: Around the guess: how far from it the first two lengths are.
NEAR = 1.3
#: At most so many times longer, or shorter, is the next length that is tried.
STRIDE = 16.0
#: How many lengths are tried; and seconds of the longest, as a run of longer ones would take too long.
TRIES, LONGEST = 8, 0.03


class NotFound(Exception):
    """The efficiency was not seen on both sides of one half, so nothing is known of where it passes that."""


def crossing(efficiency: Callable[[float], float], guess: float) -> float:
    """The length at which the efficiency is one half, which it is below at shorter lengths, and above at longer ones.

    Lengths are tried until two that are close lie on both sides of it; between them, it is interpolated. An efficiency of
    E at a length L says that the overhead is L (1 / E - 1), which is where the crossing should be.

    Args:
        efficiency: of a length; noisy.
        guess: where it may be; positive.

    Raises:
        NotFound: no two such lengths were found.
    """
    below: tuple[float, float] | None = None  # a length, and the efficiency there
    above: tuple[float, float] | None = None
    length = min(guess, LONGEST)
    for _ in range(TRIES):
        found = efficiency(length)
        if found < 0.5:
            below = (length, found)
        else:
            above = (length, found)
        if below is not None and above is not None:
            if above[0] <= below[0] * CLOSE:
                return _interpolate(below, above)
            length = math.sqrt(below[0] * above[0])
        elif below is not None and below[0] >= LONGEST:
            break
        else:
            overhead = length * (1 / max(found, 1e-6) - 1)
            aimed = overhead * (NEAR if found < 0.5 else 1 / NEAR)
            length = min(max(aimed, length / STRIDE), length * STRIDE, LONGEST)
    raise NotFound(
        f"its efficiency was not seen on both sides of one half, up to tasks of {length:.2g} s; "
        "if the machine is busy, no tasks are long enough"
    )


def _interpolate(below: tuple[float, float], above: tuple[float, float]) -> float:
    """Where it is one half between two lengths, on a logarithmic scale."""
    share = (0.5 - below[1]) / (above[1] - below[1])
    return math.exp(math.log(below[0]) + share * math.log(above[0] / below[0]))
