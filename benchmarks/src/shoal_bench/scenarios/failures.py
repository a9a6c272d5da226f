"""Tasks that fail, and workers that die."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import ClassVar

from shoal_bench.contestants.base import System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check

__all__ = ["Failures"]

RETRIES, DEATH = "retries", "a worker dies"
#: How many tasks are mapped when a worker dies.
TASKS = 100


class Failures(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "failures"
    measures: ClassVar[str] = (
        "What a task costs whose first attempt fails; and time for a map of 100 tasks, of which the first ends its worker "
        "at its first attempt."
    )
    source: ClassVar[str] = "Long jobs fail in parts; what has ended must not be lost with them."

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return CaseSpec(RETRIES, least=20, most=2_000), CaseSpec(DEATH, per="whole")

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        tasks = size if case.name == RETRIES else TASKS
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            places = [(folder, number) for number in range(tasks)]
            with clock:
                if case.name == RETRIES:
                    results = system.map_retrying(work.fail_once, places, retries=2)
                else:
                    results = system.map_surviving(work.die_once, places)
        check(results, list(range(tasks)))
        seconds = clock.seconds / tasks if case.name == RETRIES else clock.seconds
        return Sampled(seconds, {"tasks": tasks})
