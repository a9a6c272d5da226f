"""Tasks that fail, and workers that die."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import ClassVar

from shoal_bench.contestants.base import NotPossible, System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check

__all__ = ["Failures"]

RETRIES, DEATH = "retries", "a worker dies"
#: How many tasks are mapped. Always as many: some systems wait once for all of them before they try again.
TASKS = 100


class Failures(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "failures"
    measures: ClassVar[str] = (
        "Time for a map of 100 tasks: when the first attempt of each fails, and when the first task ends its worker at its "
        "first attempt."
    )
    source: ClassVar[str] = "Long jobs fail in parts; what has ended must not be lost with them."

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return CaseSpec(RETRIES, per="whole"), CaseSpec(DEATH, per="whole")

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        if case.name == DEATH and system.is_elsewhere:
            raise NotPossible("it would end workers of a cluster that others may use")
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            places = [(folder, number) for number in range(TASKS)]
            with clock:
                if case.name == RETRIES:
                    results = system.map_retrying(work.fail_once, places, retries=2)
                else:
                    results = system.map_surviving(work.die_once, places)
        check(results, list(range(TASKS)))
        return Sampled(clock.seconds, {"tasks": TASKS})
