"""Large values between tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from shoal_bench.contestants.base import Layer, System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check

__all__ = ["Data"]

KB, MB = 1_000, 1_000_000
SIZES = {"1 kB": KB, "100 kB": 100 * KB, "1 MB": MB, "16 MB": 16 * MB, "256 MB": 256 * MB}
SHORT = ("1 kB", "16 MB")


class Data(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "data"
    measures: ClassVar[str] = (
        "What it takes a task to make bytes of a size and another one to get them; and how many bytes pass through the "
        "driver for it."
    )
    source: ClassVar[str] = (
        "A driver that everything passes through is the first thing to be too small."
    )

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return [
            CaseSpec(
                name, per="value", axes={"size": size}, most=max(1, min(1_000, 100 * MB // size))
            )
            for name, size in SIZES.items()
            if full or name in SHORT
        ]

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        layers: list[Layer] = [[()] * size, [(number,) for number in range(size)]]
        with system.traffic() as passed, clock:
            results = system.graph(work.pass_bytes, case.axes["size"], layers)
            moved = passed()
        check(results, [case.axes["size"]] * size)
        return Sampled(clock.seconds / size, {"tasks": 2 * size, "driver_bytes": moved / size})
