"""What a comparison has taken so far, and the record that this makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from shoal_bench.contestants import ContestantSpec
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
)
from shoal_bench.record import (
    Scenario as ScenarioRecord,
)
from shoal_bench.scenarios.base import CaseSpec, Scenario

__all__ = ["Book"]

#: Scenario, case, contestant, by name.
_Place = tuple[str, str, str]


class Book:
    """Keeps what was taken.

    Args:
        contestants: who takes part, or was to.
        scenarios: what is measured.
        options: as they go into the record.
        speed: see `record.Record`.
    """

    def __init__(
        self,
        contestants: Sequence[ContestantSpec],
        scenarios: Sequence[Scenario],
        options: Options,
        speed: float | None = None,
    ) -> None:
        self._speed = speed
        self._contestants = contestants
        self._scenarios = scenarios
        self._options = options
        self._samples: defaultdict[_Place, list[Sample]] = defaultdict(list)
        self._voids: dict[_Place, str] = {}
        self._took_part: dict[str, Contestant] = {}
        self._absent: list[Absent] = []
        self._machine = Machine.here()  # now, because a comparison is a load itself
        self._started = datetime.now(UTC)

    def takes_part(self, spec: ContestantSpec, python: str, versions: dict[str, str]) -> None:
        """A contestant was opened."""
        self._took_part[spec.name] = Contestant(
            name=spec.name,
            engine=spec.engine,
            ours=spec.ours,
            bare=spec.bare,
            workers=self._options.workers,
            python=python,
            versions=versions,
        )

    def is_absent(self, spec: ContestantSpec, reason: str) -> None:
        """A contestant could not take part, or not to the end."""
        install = spec.install if not spec.is_installed else ""
        self._absent.append(Absent(contestant=spec.name, reason=reason, install=install))

    def add(self, scenario: str, case: str, contestant: str, sample: Sample) -> None:
        """A sample was taken."""
        self._samples[scenario, case, contestant].append(sample)

    def void(self, scenario: str, case: str, contestant: str, reason: str) -> None:
        """A contestant's samples of a case do not count."""
        self._voids[scenario, case, contestant] = reason

    def record(self, *, complete: bool) -> Record:
        """All of it, with what it comes to.

        Args:
            complete: whether there is no more to come.
        """
        scenarios = [self._scenario(scenario) for scenario in self._scenarios]
        return Record(
            started=self._started,
            ended=datetime.now(UTC),
            complete=complete,
            machine=self._machine,
            options=self._options,
            speed=self._speed,
            contestants=tuple(self._took_part.values()),
            absent=tuple(self._absent),
            scenarios=tuple(scenario for scenario in scenarios if scenario.cases),
        )

    def _scenario(self, scenario: Scenario) -> ScenarioRecord:
        cases = [
            self._case(scenario.name, case) for case in scenario.cases(full=self._options.full)
        ]
        return ScenarioRecord(
            name=scenario.name,
            measures=scenario.measures,
            source=scenario.source,
            cases=tuple(case for case in cases if case.entries),
        )

    def _case(self, scenario: str, case: CaseSpec) -> Case:
        entries = [
            self._entry(scenario, case.name, spec)
            for spec in self._contestants
            if self._samples.get((scenario, case.name, spec.name))
            or (scenario, case.name, spec.name) in self._voids
        ]
        return Case(
            name=case.name, unit=case.unit, per=case.per, axes=case.axes, entries=tuple(entries)
        )

    def _entry(self, scenario: str, case: str, spec: ContestantSpec) -> Entry:
        beside = [other for other in self._contestants if other.engine == spec.engine]
        beside.sort(key=lambda other: other.name != spec.bare)
        others = {
            other.name: self._samples[scenario, case, other.name]
            for other in beside
            if spec.ours and not other.ours and (scenario, case, other.name) not in self._voids
        }
        return entry_of(
            spec.name,
            self._samples[scenario, case, spec.name],
            others,
            self._voids.get((scenario, case, spec.name)),
        )
