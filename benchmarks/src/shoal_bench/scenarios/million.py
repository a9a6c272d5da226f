"""A million items in ten lines of a script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from shoal_bench.contestants.base import System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import (
    CaseSpec,
    Clock,
    Sampled,
    Scenario,
    check,
    share_of_ideal,
)

__all__ = ["Million"]

MILLION = 1_000_000
#: Seconds that an item computes.
LENGTHS = {"0 ms": 0.0, "0.1 ms": 1e-4, "1 ms": 1e-3}
SHORT = ("0 ms",)
#: Seconds that a sample may take; a contestant that would take longer for a million gets fewer items.
PATIENCE = {"0 ms": 10.0, "0.1 ms": 120.0, "1 ms": 700.0}
#: Items of the run that tells how many there can be.
TRIAL = 1_000


class Million(Scenario):
    """See `measures`. Whoever would take too long gets fewer items, and `tasks` says how many."""

    name: ClassVar[str] = "million"
    measures: ClassVar[str] = (
        "A map over a million items that compute 0, 0.1 and 1 ms: what an item takes of the time for all, with the ideal, "
        "the peak memory of all processes, and the time to the first result."
    )
    source: ClassVar[str] = "It is what people try first, and where much falls over."
    in_short_set: ClassVar[bool] = False

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return [
            CaseSpec(
                name,
                axes={"task_seconds": seconds},
                least=TRIAL,
                most=MILLION,
                watches_memory=True,
                limit=3 * PATIENCE[name],
            )
            for name, seconds in LENGTHS.items()
            if full or name in SHORT
        ]

    def warm(self, system: System, case: CaseSpec) -> int:
        """See `Scenario`."""
        clock = Clock()
        self.sample(system, case, TRIAL, clock)
        fits = round(PATIENCE[case.name] * TRIAL / clock.seconds)
        return max(TRIAL, min(MILLION, fits))

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        length: float = case.axes["task_seconds"]
        amount = self.amount(length)
        amounts = [amount + number % 64 for number in range(size)]
        with clock:
            began = time.perf_counter()
            pending = system.start_map(work.compute, amounts)
            system.first(pending)
            first = time.perf_counter() - began
            results = system.gather(pending)
        check(results, amounts)
        ideal = size * length / system.workers
        quantities = {"tasks": size, "ideal": ideal, "first_result": first}
        if length > 0:  # of no work there is no share
            quantities["efficiency"] = share_of_ideal(ideal, clock.seconds)
        return Sampled(clock.seconds / size, quantities)
