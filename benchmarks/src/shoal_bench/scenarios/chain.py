"""Tasks that need each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from shoal_bench.contestants.base import Layer, System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check

__all__ = ["Chain"]


class Chain(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "chain"
    measures: ClassVar[str] = (
        "What a link costs of a chain of no-ops, each of which takes the result of the one before."
    )
    source: ClassVar[str] = "It is the shortest time between a task's end and the next one's start."

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return (CaseSpec("chain", per="link", least=10, most=5_000),)

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        layers: list[Layer] = [[()], *([(0,)] for _ in range(size - 1))]
        with clock:
            results = system.graph(work.node, 0, layers)
        check(results, [size])
        return Sampled(clock.seconds / size, {"tasks": size})
