"""A comparison as it might have been measured, for what reads records: made up, but of realistic sizes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime

from shoal_bench.derive import entry_of
from shoal_bench.machine import Machine
from shoal_bench.record import (
    Absent,
    Case,
    Contestant,
    Entry,
    Options,
    Record,
    Sample,
    Scenario,
)

MACHINE = Machine(
    date="2026-11-22T12:47:35+00:00",
    cpus=2,
    usable_cpus=2,
    load=0.4,
    system="Linux x86_64",
    python="CPython 3.11.7",
    libraries={"shoal": "0.1.0", "distributed": "2026.8.0", "ray": "2.60.0"},
)

#: Ours by engine, with their bare engines and peers.
ENGINES: dict[str, tuple[str, ...]] = {
    "threads": ("futures-threads",),
    "processes": ("futures-processes", "joblib"),
    "dask": ("dask-client",),
    "ray": ("ray-remote",),
}

#: What a no-op costs, in seconds: in one map, submitted, waited for; and how long a start takes.
COSTS = {
    "threads": (1.8e-6, 4.7e-6, 61e-6, 0.002),
    "futures-threads": (19e-6, 18.7e-6, 57e-6, 0.001),
    "processes": (4.0e-6, 4.9e-6, 170e-6, 0.05),
    "futures-processes": (73e-6, 79e-6, 182e-6, 0.08),
    "joblib": (3.0e-6, 2.8e-6, 2.1e-3, 0.4),
    "dask": (11e-6, 13.5e-6, 10.7e-3, 0.5),
    "dask-client": (1.6e-3, 1.8e-3, 10.7e-3, 0.7),
    "ray": (5.3e-6, 8.9e-6, 3.3e-3, 3.1),
    "ray-remote": (541e-6, 544e-6, 3.2e-3, 2.9),
}
ROUNDS = 6
LENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)


def samples(
    value: float, rng: random.Random, tasks: int = 1_000, **quantities: float
) -> list[Sample]:
    """Six rounds around a value."""
    values = [value * rng.lognormvariate(0, 0.04) for _ in range(ROUNDS)]
    return [
        Sample(
            round=number,
            value=one,
            wall=one * tasks,
            cpu=one * tasks * 1.3,
            quantities={"tasks": tasks, **quantities},
        )
        for number, one in enumerate(values, start=1)
    ]


def entries(taken: Mapping[str, list[Sample]], void: Mapping[str, str]) -> tuple[Entry, ...]:
    """The entries of a case: each of ours beside the others of its engine, in order."""
    found = []
    for ours, others in ENGINES.items():
        for name in (ours, *others):
            beside = {other: taken[other] for other in others if name == ours}
            found.append(entry_of(name, taken[name], beside, void.get(name)))
    return tuple(found)


def case(
    name: str,
    column: int,
    rng: random.Random,
    per: str = "task",
    void: Mapping[str, str] | None = None,
) -> Case:
    """One whose values are a column of COSTS."""
    taken = {one: samples(costs[column], rng) for one, costs in COSTS.items()}
    return Case(name=name, unit="seconds", per=per, entries=entries(taken, void or {}))


def efficiency(length: float, rng: random.Random) -> Case:
    """Maps of tasks of this length: what a task occupies a worker for, work and overhead."""
    taken = {
        name: samples(
            length + costs[0] * 2,
            rng,
            task_seconds=length,
            efficiency=length / (length + costs[0] * 2),
        )
        for name, costs in COSTS.items()
    }
    return Case(
        name=f"{length:g} s",
        unit="seconds",
        per="task",
        axes={"task_seconds": length},
        entries=entries(taken, {}),
    )


def example(seed: int = 1, *, complete: bool = True) -> Record:
    """A comparison of the four runners with their bare engines and joblib."""
    rng = random.Random(seed)
    contestants = [
        Contestant(
            name=name,
            engine=engine,
            ours=name == engine,
            bare=ENGINES[engine][0] if name == engine else None,
            workers=2,
            python="3.11.7",
            versions={"shoal": "0.1.0"} if name == engine else {},
        )
        for engine, others in ENGINES.items()
        for name in (engine, *others)
    ]
    metg = [
        case(pattern, column, rng).model_copy(update={"axes": {"pattern": pattern}})
        for column, pattern in enumerate(("trivial", "stencil_1d"))
    ]
    scenarios = (
        Scenario(
            name="overhead",
            measures="What a no-op costs.",
            source="made up",
            cases=(
                case("map", 0, rng),
                case("submit", 1, rng),
                case("round-trip", 2, rng, void={"joblib": "cannot do this"}),
            ),
        ),
        Scenario(
            name="start",
            measures="From nothing to the first result.",
            source="made up",
            cases=(case("start", 3, rng, per="whole"),),
        ),
        Scenario(name="metg", measures="The smallest task.", source="made up", cases=tuple(metg)),
        Scenario(
            name="efficiency",
            measures="Maps of tasks of a length.",
            source="made up",
            cases=tuple(efficiency(length, rng) for length in LENGTHS),
        ),
    )
    return Record(
        started=datetime(2026, 11, 22, 12, 47, 35, tzinfo=UTC),
        ended=datetime(2026, 11, 22, 12, 51, 2, tzinfo=UTC),
        complete=complete,
        machine=MACHINE,
        options=Options(rounds=ROUNDS, workers=2),
        contestants=tuple(contestants),
        absent=(
            Absent(contestant="parsl", reason="is not installed", install="pip install parsl"),
        ),
        scenarios=scenarios,
    )
