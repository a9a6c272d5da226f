"""How much of the workers' time is work, by the length of tasks."""

from __future__ import annotations

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

__all__ = ["Efficiency"]

#: Seconds that a task computes.
LENGTHS = {"10 µs": 10e-6, "100 µs": 100e-6, "1 ms": 1e-3, "10 ms": 10e-3, "100 ms": 0.1}
SHORT = ("100 µs", "1 ms")
#: More tasks than any system gets through in a sample.
MOST = 1_000_000


class Efficiency(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "efficiency"
    measures: ClassVar[str] = (
        "How long a task occupies a worker, of a map of tasks that compute for a given time; the rest is overhead. A map "
        "takes about a second, its start and end included."
    )
    source: ClassVar[str] = "It answers how long tasks must be."
    #: In maps of 0.15 s, what begins and ends them was 4 points of a hundred on processes, 9 on Dask, and 12 on joblib, which finds
    #: out how much to send at once; longer ones than these show no more work.
    lasts: ClassVar[float] = 1.0

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return [
            CaseSpec(name, axes={"task_seconds": seconds}, least=2, most=MOST)
            for name, seconds in LENGTHS.items()
            if full or name in SHORT
        ]

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        size += -size % system.workers  # else some of them would have nothing to do at the end
        length: float = case.axes["task_seconds"]
        amount = self.amount(length)
        amounts = [amount + number % 64 for number in range(size)]
        with clock:
            results = system.map(work.compute, amounts)
        check(results, amounts)
        occupied = clock.seconds * system.workers / size
        return Sampled(
            occupied,
            {"tasks": size, "task_seconds": length, "efficiency": share_of_ideal(length, occupied)},
        )
