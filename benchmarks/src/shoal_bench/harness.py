"""Takes samples of ours, of the bare engine and of what else there is in turn, and sums them up.

    warm-up          round 1          round 2
    ours  bare       ours  bare       ours  bare      …
    └─ dropped ─┘    └ a figure ┘     └ a figure ┘

What disturbs a machine lasts longer than a round, so it meets both sides alike: ratios are made within a round, and
the median of the rounds is judged. The warm-up takes what happens once: bytecode, lazy imports, caches.

A quick look has so many seconds for all measurements. It leaves the further engines out, takes no further round of one
that has had its share, and has one warm-up for all.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shoal_bench.measurement import Measurement, Sampler, Verdict

__all__ = ["Result", "Round", "Spread", "measure", "measure_all"]


@dataclass(frozen=True)
class Round:
    """One sample of each side, and of each further engine by its name."""

    ours: float
    bare: float
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """What several rounds gave."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of these values."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Result:
    """What a measurement gave."""

    measurement: Measurement
    size: int
    rounds: tuple[Round, ...]

    @property
    def ours(self) -> Spread:
        """Our samples."""
        return Spread.of(taken.ours for taken in self.rounds)

    @property
    def bare(self) -> Spread:
        """The bare engine's samples."""
        return Spread.of(taken.bare for taken in self.rounds)

    @property
    def also(self) -> dict[str, Spread]:
        """The samples of further engines."""
        return {
            name: Spread.of(taken.also[name] for taken in self.rounds)
            for name in self.measurement.also
        }

    @property
    def also_ratio(self) -> dict[str, Spread]:
        """How many times less ours cost than each further engine, in each round."""
        return {
            name: Spread.of(taken.also[name] / taken.ours for taken in self.rounds)
            for name in self.measurement.also
        }

    @property
    def ratio(self) -> Spread:
        """How many times less ours cost than the bare engine, in each round."""
        return Spread.of(taken.bare / taken.ours for taken in self.rounds)

    @property
    def figure(self) -> Spread:
        """What is judged, in each round."""
        return Spread.of(
            self.measurement.figure.of(taken.ours, taken.bare) for taken in self.rounds
        )

    @property
    def verdict(self) -> Verdict:
        """Whether the median figure meets aim or floor."""
        return self.measurement.verdict(self.figure.median)


def measure_all(
    measurements: Sequence[Measurement],
    rounds: int,
    *,
    quick: bool = False,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Result]:
    """Measures one after the other; gives each result as it is there.

    Args:
        measurements: what to measure.
        rounds: see `measure`.
        quick: see `measure`.
        seconds: for all: each may have an equal share of what is left.
        clock: tells the time, in seconds.
    """
    end = clock() + seconds
    for position, measurement in enumerate(measurements):
        now = clock()
        share = (end - now) / (len(measurements) - position)
        warm = not quick or position == 0
        yield measure(measurement, rounds, quick=quick, until=now + share, clock=clock, warm=warm)


def measure(
    measurement: Measurement,
    rounds: int,
    *,
    quick: bool = False,
    until: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    warm: bool = True,
) -> Result:
    """Takes one measurement.

    Args:
        measurement: what to measure.
        rounds: how many rounds count, times what the measurement itself asks for.
        quick: whether to do less work in each sample, and to leave further engines out.
        until: when no further round is begun, by the clock; one is taken in any case.
        clock: tells the time, in seconds.
        warm: whether a round is taken first that does not count, unless that takes long in a quick look.
    """
    size = measurement.size
    if quick:
        size = measurement.quick_size or size
        measurement = replace(measurement, also={})
    takes_long = measurement.repeats < 1  # and is alike from the first on
    if warm and not (quick and takes_long):
        _take_round(measurement, size)  # the warm-up
    taken = [_take_round(measurement, size)]
    while len(taken) < math.ceil(rounds * measurement.repeats) and clock() < until:
        taken.append(_take_round(measurement, size))
    return Result(measurement, size, tuple(taken))


def _take_round(measurement: Measurement, size: int) -> Round:
    try:
        ours, bare = _sample(measurement.ours, size), _sample(measurement.bare, size)
        also = {name: _sample(sampler, size) for name, sampler in measurement.also.items()}
        return Round(ours, bare, also)
    except Exception as error:
        error.add_note(f"while taking the measurement {measurement.name!r}")
        raise


def _sample(sampler: Sampler, size: int) -> float:
    gc.collect()  # nobody pays for the garbage of the sample before
    return sampler(size)
