"""`Scenario`: something to measure on any system, with a clock that can be watched from outside. Standard library only.

A sample does its work under the clock, and compares what came out with the sequential answer after the clock has stopped.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from shoal_bench.contestants.base import System

__all__ = [
    "TARGET",
    "CaseSpec",
    "Clock",
    "Sampled",
    "Scenario",
    "WrongResults",
    "check",
    "fitting",
    "share_of_ideal",
]

#: Seconds that a sample is to take, where its size can be chosen: long beside what a clock and a scheduler of an
#: operating system do to it, short enough for the contestants to take turns quickly.
TARGET = 0.15

#: An efficiency above is a mistake of measuring; up to it, processors may have run faster than when that was found out.
IMPOSSIBLE = 1.15


class WrongResults(Exception):
    """The work that was timed did not give the sequential answer."""


def check(result: object, expected: object) -> None:
    """Compares what came out with the sequential answer.

    Raises:
        WrongResults: they differ.
    """
    if result != expected:
        raise WrongResults(f"it gave {result!r:.60} instead of {expected!r:.60}")


def share_of_ideal(ideal: float, seconds: float) -> float:
    """The efficiency of work that takes `ideal` seconds if spreading it costs nothing, and took `seconds`.

    Raises:
        WrongResults: it took less than the work itself takes, so that one of both was measured wrongly.
    """
    share = ideal / seconds
    if share > IMPOSSIBLE:
        raise WrongResults(
            f"it took {seconds:.3g} s for work that takes {ideal:.3g} s at best: the work was not what it was taken for"
        )
    return share


@dataclass(frozen=True)
class CaseSpec:
    """One setting of a scenario.

    Attributes:
        name: unique in the scenario.
        per: what a value is for.
        unit: what it counts.
        axes: what sets the case apart; see `record.Case.axes`.
        least: how many tasks a sample has at least.
        most: how many at most. Between them, as many as take `Scenario.lasts` seconds: what a task costs an engine
            hardly depends on how many there are.
        workers: how many it wants; else as many as all cases have.
        is_fresh: whether a system is opened anew for each sample, as what it has done before would show.
        watches_memory: whether the memory of all processes is watched meanwhile, which takes time itself.
        limit: seconds that a sample may take.
    """

    name: str
    per: str = "task"
    unit: Literal["seconds", "bytes"] = "seconds"
    axes: dict[str, Any] = field(default_factory=dict)
    least: int = 1
    most: int = 1
    workers: int | None = None
    is_fresh: bool = False
    watches_memory: bool = False
    limit: float = 30.0


@dataclass(frozen=True)
class Sampled:
    """What one sample gave: the value that is compared, and further quantities by name."""

    value: float
    quantities: dict[str, float] = field(default_factory=dict)


class Clock:
    """Measures the seconds within `with clock:`, and tells when it starts and stops.

    Args:
        tell: called with `True` before it starts and `False` after it has stopped; not part of what is measured.

    Attributes:
        seconds: the last time it ran.
        total: all the times together.
    """

    def __init__(self, tell: Callable[[bool], None] = lambda running: None) -> None:
        self._tell = tell
        self._started = 0.0
        self.seconds = 0.0
        self.total = 0.0

    def __enter__(self) -> Self:
        gc.collect()  # nobody pays for the garbage of the sample before
        self._tell(True)
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.total += self.seconds
        self._tell(False)


class Scenario(ABC):
    """Something to measure. An object of it lives as long as the system that it is asked of.

    Args:
        speed: bytes that `work.compute` gets through in a second; the same for all contestants of a comparison.

    Attributes:
        name: what `--scenario` takes.
        measures: what, in a sentence.
        source: who has proposed to measure this, or why it is measured.
        is_of_opening: whether it is measured from outside, when systems are opened and closed, and not by `sample`.
        in_short_set: whether it is taken when nobody asks for it by name.
        lasts: seconds that a sample is to take, where its size can be chosen.
    """

    name: ClassVar[str]
    measures: ClassVar[str]
    source: ClassVar[str]
    is_of_opening: ClassVar[bool] = False
    in_short_set: ClassVar[bool] = True
    lasts: ClassVar[float] = TARGET

    def __init__(self, speed: float = 1e9) -> None:
        self._speed = speed

    def amount(self, seconds: float) -> int:
        """Bytes that `work.compute` takes so long for."""
        return round(seconds * self._speed)

    @abstractmethod
    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """Its cases; those of the short set, or all."""

    @abstractmethod
    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """Takes a sample.

        Args:
            system: of whom.
            case: of what.
            size: how many tasks it is to have.
            clock: what the work is done under.

        Raises:
            WrongResults: the results are not the sequential ones.
            NotPossible: the system cannot do this.
        """

    def warm(self, system: System, case: CaseSpec) -> int:
        """Takes what happens once, imports and caches, out of the samples; gives the size that these are to have."""

        def take(size: int) -> float:
            clock = Clock()
            self.sample(system, case, size, clock)
            return clock.total

        return fitting(take, case.least, case.most, target=self.lasts)


def fitting(take: Callable[[int], float], least: int, most: int, *, target: float = TARGET) -> int:
    """How many tasks take a number of seconds.

    Args:
        take: gives the seconds that so many take.
        least: the fewest there may be.
        most: and the most.
        target: seconds that they are to take.
    """
    size, seconds = least, take(least)
    while size < most and seconds < target / 4:
        size = min(most, size * 8)
        seconds = take(size)
    return max(least, min(most, round(size * target / max(seconds, 1e-6))))
