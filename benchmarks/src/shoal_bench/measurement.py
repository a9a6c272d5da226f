"""The words of the benchmarks: what a measurement is, and what is good enough. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

__all__ = ["BYTES", "SECONDS", "Figure", "Measurement", "Sampler", "Unit", "Verdict"]

#: Takes one sample: does the work at a size, and gives what it cost (see `Measurement.unit`).
Sampler = Callable[[int], float]


@dataclass(frozen=True)
class Unit:
    """What a sample counts.

    Attributes:
        name: of the base unit, in which samples, floors and aims are given.
        scales: the units to show it in, largest first: how many base units each is, and its name.
    """

    name: str
    scales: tuple[tuple[float, str], ...]

    def show(self, value: float) -> str:
        """A value to three significant digits, in the unit that suits it: `3.2 µs`."""
        fitting = (scale for scale in self.scales if abs(value) >= scale[0])
        factor, name = next(fitting, self.scales[-1])
        return f"{_three_digits(value / factor)} {name}"


SECONDS = Unit("seconds", ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))
BYTES = Unit("bytes", ((1e6, "MB"), (1e3, "kB"), (1.0, "B")))


class Figure(Enum):
    """The number that floor and aim apply to, made from our sample and the bare engine's of the same round."""

    TIMES_FASTER = "bare / ours"
    TIMES_THE_COST = "ours / bare"
    COST = "ours"
    EXTRA_COST = "ours - bare"

    def of(self, ours: float, bare: float) -> float:
        """The figure of one round."""
        match self:
            case Figure.TIMES_FASTER:
                return bare / ours
            case Figure.TIMES_THE_COST:
                return ours / bare
            case Figure.COST:
                return ours
            case Figure.EXTRA_COST:
                return ours - bare

    @property
    def higher_is_better(self) -> bool:
        """Whether floor and aim are met from above."""
        return self is Figure.TIMES_FASTER

    def show(self, value: float, unit: Unit) -> str:
        """A figure, floor or aim as text: `2.2x`, `650 µs`, `+31 ms`."""
        match self:
            case Figure.TIMES_FASTER | Figure.TIMES_THE_COST:
                return f"{_three_digits(value)}x"
            case Figure.COST:
                return unit.show(value)
            case Figure.EXTRA_COST:
                return ("+" if value >= 0 else "") + unit.show(value)

    @property
    def words(self) -> str:
        """What to say behind a figure: `2.2x faster`."""
        match self:
            case Figure.TIMES_FASTER:
                return " faster"
            case Figure.TIMES_THE_COST:
                return " the cost"
            case Figure.COST | Figure.EXTRA_COST:
                return ""


class Verdict(StrEnum):
    """How a figure compares with what was set for it."""

    AIM = "aim"
    FLOOR = "floor"
    MISSED = "missed"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One thing that is measured, of ours and of the bare engine.

    Attributes:
        name: what `--only` takes.
        compares: in one line, what is compared with what, and what a sample counts.
        ours: takes a sample of Shoal.
        bare: takes a sample of the engine without it: the same work, as its users would write it.
        unit: what samples count; less is better.
        figure: what is judged.
        floor: what the figure must reach.
        aim: what it should reach.
        size: how much work a sample is: tasks, links, interpreters.
        quick_size: the same for a quick look; `None` where the figure would mean something else at another size.
        repeats: rounds taken for each one asked for: more where samples are short and noisy, fewer where they take
            long and are alike.
        also: samplers of further engines by their names: shown beside the others, and not judged.
    """

    name: str
    compares: str
    ours: Sampler
    bare: Sampler
    unit: Unit
    figure: Figure
    floor: float
    aim: float
    size: int
    quick_size: int | None = None
    repeats: float = 1
    also: Mapping[str, Sampler] = field(default_factory=dict)

    def verdict(self, figure: float) -> Verdict:
        """What a figure of this measurement amounts to."""
        sign = 1 if self.figure.higher_is_better else -1
        if sign * figure >= sign * self.aim:
            return Verdict.AIM
        if sign * figure >= sign * self.floor:
            return Verdict.FLOOR
        return Verdict.MISSED


def _three_digits(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
