"""What it takes to begin, and to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NoReturn

from shoal_bench.contestants.base import NotPossible, System
from shoal_bench.scenarios.base import CaseSpec, Clock, Scenario

__all__ = ["START", "STOP", "Start"]

#: Names of its cases.
START, STOP = "start", "shutdown"


class Start(Scenario):
    """See `measures`. Whoever opens and closes systems takes the samples."""

    name: ClassVar[str] = "start"
    measures: ClassVar[str] = (
        "From the start of an interpreter to the first result, imports included; and from the last result "
        "until all processes have ended."
    )
    source: ClassVar[str] = "It decides whether a short job is worth a runner at all."
    is_of_opening: ClassVar[bool] = True

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return CaseSpec(START, per="whole"), CaseSpec(STOP, per="whole")

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> NoReturn:
        """See `Scenario`."""
        raise NotPossible("a system cannot be asked for its own start")
