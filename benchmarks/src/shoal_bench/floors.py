"""Floors: what ours may cost at most beside others, as ratios, read from a file such as benchmarks/floors.toml.

[[floor]]
scenario = "metg"
case = "trivial"
contestant = "processes"
against = "futures-processes"
at_most = 0.033
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from shoal_bench.record import Ratio, Record

__all__ = ["Floor", "UnreadableFloors", "missed", "read_floors"]


class UnreadableFloors(Exception):
    """A file of floors cannot be read; the message says why."""


class Floor(BaseModel):
    """What the median of a ratio may be at most: the value of ours divided by the other's, within each round."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    case: str
    contestant: str
    against: str
    at_most: PositiveFloat


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    floor: tuple[Floor, ...]


def read_floors(path: Path) -> tuple[Floor, ...]:
    """The floors of a file.

    Raises:
        UnreadableFloors: it is not there, or not of this form.
    """
    try:
        return _File.model_validate(tomllib.loads(path.read_text())).floor
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise UnreadableFloors(f"{path}: no file of floors ({error})") from error


def missed(record: Record, floors: Iterable[Floor]) -> Iterator[str]:
    """A line for each floor that was not held. One whose ratio was not measured, or is void, was not held either."""
    for floor in floors:
        place = f"{floor.scenario}: {floor.case}, {floor.contestant} beside {floor.against}"
        found = _ratio(record, floor)
        if found is None:
            yield f"{place}: there is no figure"
        elif found.quartiles.median > floor.at_most:
            doubt = "" if found.conclusive else ", but the run was too noisy to tell"
            yield f"{place}: {found.quartiles.median:.3g}, at most {floor.at_most:g}{doubt}"


def _ratio(record: Record, floor: Floor) -> Ratio | None:
    scenario = record.scenario(floor.scenario)
    case = scenario.case(floor.case) if scenario is not None else None
    entry = case.entry(floor.contestant) if case is not None else None
    return entry.ratio(floor.against) if entry is not None else None
