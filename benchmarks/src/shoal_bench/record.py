"""What a comparison is written down as: everything that was sampled, and what is derived from it. The schema of `--json`.

    Record
      contestants     who took part                     Absent: who did not, and what installs it
      scenarios       what was measured, and its source
        cases         one setting of it: a pattern, a task length, a size
          entries     one contestant's samples, what they come to, and how they compare with others'

All values that are compared are costs: less is better. Base units: seconds, bytes. Imports `machine` only.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal_bench.machine import Machine

__all__ = [
    "QUANTITIES",
    "SCHEMA_VERSION",
    "Absent",
    "Case",
    "Contestant",
    "Entry",
    "Options",
    "Quartiles",
    "Ratio",
    "Record",
    "Sample",
    "Scenario",
    "Unit",
    "UnreadableRecord",
    "read",
]

#: Goes up when a field changes its meaning or goes; a record of another version is refused.
SCHEMA_VERSION: Literal[1] = 1

#: What a value counts.
Unit = Literal["seconds", "bytes"]

#: What a sample may say beside its value, by name; see `Sample.quantities`.
QUANTITIES = {
    "tasks": "how many tasks were run",
    "task_seconds": "how long one of them computes, in seconds",
    "ideal": "seconds that the work would take if spreading it cost nothing",
    "efficiency": "the ideal's share of the time taken, 0 to 1",
    "peak_memory": "bytes that all processes held at most, shared pages counted once; seen twice a second",
    "driver_bytes": "bytes that passed through the driver",
    "first_result": "seconds until the first result was there",
    "probes": "how many runs a search took",
    "executions": "how often the function was run, retries included",
}


class UnreadableRecord(Exception):
    """A file is no record of a comparison, or one of another version of the schema.

    Attributes:
        path: of the file.
        problem: what is wrong with it.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quartiles(_Part):
    """A median, and what half of the values lie between."""

    low: float
    median: float
    high: float


class Sample(_Part):
    """What one contestant took in one round."""

    round: int = Field(description="the first that counts is 1; ratios are made within a round")
    value: float = Field(description="what is compared, in the unit of the case")
    wall: float = Field(description="seconds that the clock ran, for the whole sample")
    cpu: float | None = Field(
        default=None,
        description="seconds of processors that all its processes used meanwhile, ended ones included; none "
        "where one ended whose time nobody has",
    )
    quantities: dict[str, float] = Field(
        default={}, description="what else it found, by names of QUANTITIES"
    )


class Ratio(_Part):
    """What a contestant took beside another one, in each round that both have: its value divided by the other's."""

    against: str = Field(description="the other one's name")
    pairs: int = Field(description="how many rounds both have")
    quartiles: Quartiles
    conclusive: bool = Field(
        description="whether at least six rounds agree on which of them took less (the sign test, p < 0.05), or half of "
        "them that both took the same, within 5 %; else the run was too noisy to tell"
    )


class Entry(_Part):
    """One contestant in one case."""

    contestant: str
    samples: tuple[Sample, ...] = ()
    void: str | None = Field(
        default=None,
        description="why there is no figure: it gave wrong results, failed, took too long, cannot do this",
    )
    figure: Quartiles | None = Field(default=None, description="of the samples' values")
    noisy: bool = Field(
        default=False, description="whether the samples are too few or too far apart for a figure"
    )
    ratios: tuple[Ratio, ...] = Field(
        default=(), description="beside its bare engine first, then beside others of its engine"
    )

    def ratio(self, against: str | None) -> Ratio | None:
        """The ratio against this one, if there is one."""
        return next((ratio for ratio in self.ratios if ratio.against == against), None)

    def quantity(self, name: str) -> float | None:
        """The median of a further quantity, if the samples have it."""
        values = [s.quantities[name] for s in self.samples if name in s.quantities]
        return statistics.median(values) if values else None


class Case(_Part):
    """One setting of a scenario, the same for every contestant."""

    name: str = Field(description="unique in the scenario")
    unit: Unit
    per: str = Field(description="what a value is for: a task, a link, the whole")
    axes: dict[str, str | int | float] = Field(
        default={},
        description="what sets it apart: pattern; task_seconds; tasks; size, in bytes; workers",
    )
    entries: tuple[Entry, ...] = ()

    def entry(self, contestant: str) -> Entry | None:
        """The entry of a contestant, if it took part."""
        return next((entry for entry in self.entries if entry.contestant == contestant), None)


class Scenario(_Part):
    """Something that is measured."""

    name: str
    measures: str = Field(description="what, in a sentence")
    source: str = Field(description="who has proposed to measure this, or why it is measured")
    cases: tuple[Case, ...] = ()

    def case(self, name: str) -> Case | None:
        """The case of this name, if it is there."""
        return next((case for case in self.cases if case.name == name), None)


class Contestant(_Part):
    """A way to run functions, with a name that is unique in the record."""

    name: str
    engine: str = Field(description="what it runs on; contestants of an engine take turns")
    ours: bool
    bare: str | None = Field(
        default=None, description="of ours: the name of its bare engine; of others: none"
    )
    workers: int
    python: str = Field(default="", description="the version of its interpreter")
    versions: dict[str, str] = Field(default={}, description="of its packages")


class Absent(_Part):
    """A contestant that was asked for and could not take part."""

    contestant: str
    reason: str
    install: str = Field(default="", description="the command that mends it")


class Options(_Part):
    """What was asked for on the command line; empty where it said nothing."""

    scenarios: tuple[str, ...] = ()
    contestants: tuple[str, ...] = ()
    rounds: int
    full: bool = False
    workers: int
    peers: dict[str, str] = Field(default={}, description="interpreters by contestant")


class Record(_Part):
    """A comparison."""

    schema_version: Literal[1] = SCHEMA_VERSION
    started: datetime
    ended: datetime
    complete: bool = Field(
        description="false if it was interrupted; what had been measured is here"
    )
    machine: Machine
    options: Options
    speed: float | None = Field(
        default=None,
        description="bytes that a processor hashes a second: what computing for a second means in the scenarios; the same "
        "work for all contestants",
    )
    contestants: tuple[Contestant, ...]
    absent: tuple[Absent, ...] = ()
    scenarios: tuple[Scenario, ...]

    def contestant(self, name: str) -> Contestant | None:
        """The contestant of this name, if it took part."""
        return next((one for one in self.contestants if one.name == name), None)

    def scenario(self, name: str) -> Scenario | None:
        """The scenario of this name, if it was measured."""
        return next((one for one in self.scenarios if one.name == name), None)

    def entries(self) -> Iterator[tuple[Scenario, Case, Entry]]:
        """All entries, with where they stand."""
        for scenario in self.scenarios:
            for case in scenario.cases:
                for entry in case.entries:
                    yield scenario, case, entry

    def to_json(self) -> str:
        """The record as a file's text; `read` is the way back."""
        return self.model_dump_json(indent=2) + "\n"


def read(path: Path) -> Record:
    """Reads a record.

    Raises:
        UnreadableRecord: the file cannot be read, is no record, or is one of another version.
    """
    try:
        data = json.loads(path.read_bytes(), parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableRecord(path, f"no record of `shoal bench` ({error})") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise UnreadableRecord(path, "no record of `shoal bench`: it has no schema_version")
    if version != SCHEMA_VERSION:
        raise UnreadableRecord(
            path,
            f"its schema_version is {version}, and {SCHEMA_VERSION} is what this version reads; "
            "measure anew, or read it with the version of Shoal that wrote it",
        )
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UnreadableRecord(path, f"{where}: {first['msg']}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that can be compared")
    return value
