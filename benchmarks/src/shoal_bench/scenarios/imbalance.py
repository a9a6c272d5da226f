"""Tasks of unlike length."""

from __future__ import annotations

import random
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

__all__ = ["Imbalance"]

#: Seconds that all tasks compute together, for each worker.
WORK = 0.2
#: How many tasks for each worker.
TASKS = 100
#: Of the logarithm of their lengths: with 1, the longest tenth is more than a third of the work.
SIGMA = 1.0


class Imbalance(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "imbalance"
    measures: ClassVar[str] = (
        "A map of tasks of very unlike lengths (log-normal), of which nobody knows which are the long ones: time for all."
    )
    source: ClassVar[str] = (
        "Task Bench, Slaughter et al., SC 2020, section on load imbalance. Whoever sends many tasks at once may keep a "
        "long one behind another."
    )

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return (CaseSpec("log-normal", per="whole"),)

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        rng = random.Random(1)
        shares = [rng.lognormvariate(0, SIGMA) for _ in range(TASKS * system.workers)]
        scale = self.amount(WORK * system.workers) / sum(shares)
        amounts = [round(share * scale) for share in shares]
        with clock:
            results = system.map(work.compute, amounts)
        check(results, amounts)
        return Sampled(
            clock.seconds,
            {
                "tasks": len(amounts),
                "ideal": WORK,
                "efficiency": share_of_ideal(WORK, clock.seconds),
            },
        )
