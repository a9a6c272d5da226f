"""What a task costs that does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from shoal_bench.contestants.base import System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check

__all__ = ["Overhead"]


class Overhead(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "overhead"
    measures: ClassVar[str] = (
        "What a no-op costs: all in one map, each submitted by itself, and one after the other."
    )
    source: ClassVar[str] = "Every task pays it, whatever it does."

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return (
            CaseSpec("map", least=100, most=50_000),
            CaseSpec("submit", least=100, most=20_000),
            CaseSpec("round-trip", least=10, most=5_000),
        )

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        numbers = range(size)
        with clock:
            if case.name == "map":
                results = system.map(work.same, numbers)
            elif case.name == "submit":
                results = system.call_each(work.same, [(number,) for number in numbers])
            else:
                results = [system.call_each(work.same, [(number,)])[0] for number in numbers]
        check(results, list(numbers))
        return Sampled(clock.seconds / size, {"tasks": size})
