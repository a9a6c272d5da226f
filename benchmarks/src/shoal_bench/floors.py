"""Floors: what ours may cost at most beside others, and how much of the ideal it must reach at least, as ratios; read from a
file such as benchmarks/floors.toml.

[[floor]]
scenario = "metg"
case = "trivial"
contestant = "processes"
against = "futures-processes"
at_most = 0.033

[[efficiency]]
scenario = "efficiency"
case = "1 ms"
contestant = "processes"
at_least = 0.95
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from shoal_bench.record import Entry, Record

__all__ = ["Efficiency", "Floor", "Floors", "UnreadableFloors", "read_floors"]

#: What is said of one that is missed by a figure that says little.
DOUBT = ", but the run was too noisy to tell"


class UnreadableFloors(Exception):
    """A file of floors cannot be read; the message says why."""


class _Place(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    case: str
    contestant: str

    def entry(self, record: Record) -> Entry | None:
        """What stands there, if it was measured."""
        scenario = record.scenario(self.scenario)
        case = scenario.case(self.case) if scenario is not None else None
        return case.entry(self.contestant) if case is not None else None

    def __str__(self) -> str:
        return f"{self.scenario}: {self.case}, {self.contestant}"


class Floor(_Place):
    """What the median of a ratio may be at most: the value of ours divided by the other's, within each round."""

    against: str
    at_most: PositiveFloat

    def missed(self, record: Record) -> str | None:
        """Why it was not held; none if it was."""
        place = f"{self} beside {self.against}"
        entry = self.entry(record)
        found = entry.ratio(self.against) if entry is not None else None
        if found is None:
            return f"{place}: there is no figure"
        if found.quartiles.median <= self.at_most:
            return None
        doubt = "" if found.conclusive else DOUBT
        return f"{place}: {found.quartiles.median:.3g}, at most {self.at_most:g}{doubt}"


class Efficiency(_Place):
    """What the median of the efficiency must be at least."""

    at_least: PositiveFloat

    def missed(self, record: Record) -> str | None:
        """Why it was not held; none if it was."""
        entry = self.entry(record)
        found = entry.quantity("efficiency") if entry is not None and entry.figure else None
        if entry is None or found is None:
            return f"{self}: there is no efficiency"
        if found >= self.at_least:
            return None
        return f"{self}: an efficiency of {found:.3g}, at least {self.at_least:g}{DOUBT if entry.noisy else ''}"


class Floors(BaseModel):
    """What a file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    floor: tuple[Floor, ...] = ()
    efficiency: tuple[Efficiency, ...] = ()

    @property
    def all(self) -> tuple[Floor | Efficiency, ...]:
        """All of them."""
        return (*self.floor, *self.efficiency)

    @property
    def contestants(self) -> list[str]:
        """Whom they are about, and beside whom."""
        return [*(one.contestant for one in self.all), *(floor.against for floor in self.floor)]

    def missed(self, record: Record) -> Iterator[str]:
        """A line for each that was not held. One whose figure was not measured, or is void, was not held either."""
        return (line for one in self.all if (line := one.missed(record)))


def read_floors(path: Path) -> Floors:
    """The floors of a file.

    Raises:
        UnreadableFloors: it is not there, or not of this form.
    """
    try:
        return Floors.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise UnreadableFloors(f"{path}: no file of floors ({error})") from error
