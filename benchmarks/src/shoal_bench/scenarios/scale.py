"""What a task costs by how many there are, and what more workers bring."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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

__all__ = ["Scale"]

COUNTS = (100, 1_000, 10_000, 100_000, 1_000_000)
SHORT_COUNTS = (100, 1_000, 10_000)
#: Tasks that the workers share, and seconds that each computes.
TASKS, LENGTH = 200, 2e-3


class Scale(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "scale"
    measures: ClassVar[str] = (
        "What a no-op costs in a map of 100 to 1,000,000; and time for 200 tasks of 2 ms with 1 worker, 2, 4 and so on."
    )
    source: ClassVar[str] = "Costs that grow with the number of tasks show up late otherwise."
    in_short_set: ClassVar[bool] = False

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        counts = [
            CaseSpec(f"{n:,} tasks", axes={"tasks": n}, least=n, most=n, limit=600.0)
            for n in (COUNTS if full else SHORT_COUNTS)
        ]
        workers = [
            CaseSpec(f"{n} workers", per="whole", axes={"workers": n}, workers=n)
            for n in _powers_of_two(os.cpu_count() or 1)
        ]
        return [*counts, *workers]

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        if case.workers is None:
            with clock:
                results = system.map(work.same, range(size))
            check(results, list(range(size)))
            return Sampled(clock.seconds / size, {"tasks": size})
        amount = self.amount(LENGTH)
        amounts = [amount + number % 64 for number in range(TASKS)]
        with clock:
            results = system.map(work.compute, amounts)
        check(results, amounts)
        ideal = TASKS * LENGTH / system.workers
        return Sampled(
            clock.seconds,
            {"tasks": TASKS, "ideal": ideal, "efficiency": share_of_ideal(ideal, clock.seconds)},
        )


def _powers_of_two(most: int) -> Iterator[int]:
    """1, 2, 4 and so on, and the most."""
    number = 1
    while number < most:
        yield number
        number *= 2
    yield most
