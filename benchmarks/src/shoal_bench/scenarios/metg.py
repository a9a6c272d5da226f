"""The smallest task that is worth spreading."""

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
    WrongResults,
    check,
    share_of_ideal,
)
from shoal_bench.scenarios.patterns import PATTERNS, layers_of, sequential
from shoal_bench.scenarios.search import NotFound, crossing

__all__ = ["Metg"]

#: Seconds that one run of a graph is to take.
RUN = 0.12
#: Nodes beside each other for each worker.
WIDTH = 2
#: Steps of a graph: enough for its beginning and end not to count; and tasks at most.
LEAST_STEPS, MOST_TASKS = 8, 50_000
#: Seconds: the task length from which the first search sets out.
GUESS = 1e-3
#: The short set's patterns: no dependences, those of neighbours, those of distant ones.
SHORT = ("trivial", "stencil_1d", "fft")
#: The trivial pattern with each task submitted by itself, where `trivial` is one map.
SUBMITTED = "trivial, submitted"


class Metg(Scenario):
    """See `measures`.

    A task's length is the time in which it computes. Task Bench's granularity is the time that a task occupies a worker,
    which at half of the efficiency is twice as long.
    """

    name: ClassVar[str] = "metg"
    measures: ClassVar[str] = (
        "Minimum effective task granularity, METG(50 %): the length of the smallest tasks at which half of the ideal "
        "efficiency remains, on graphs of several patterns."
    )
    source: ClassVar[str] = (
        "Task Bench, Slaughter et al., SC 2020. `trivial` is one map, all other patterns are submitted node by node."
    )

    def __init__(self, speed: float = 1e9) -> None:
        super().__init__(speed)
        self._found: dict[str, float] = {}  # by case: where the next search sets out

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        names = (*PATTERNS, SUBMITTED) if full else SHORT
        return [CaseSpec(name, axes={"pattern": name}) for name in names]

    def warm(self, system: System, case: CaseSpec) -> int:
        """See `Scenario`. The first search is the longest."""
        self.sample(system, case, 1, Clock())
        return 1

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        probes = 0

        def efficiency(length: float) -> float:
            nonlocal probes
            probes += 1
            wanted = RUN * system.workers / (2 * length)
            # Whoever learns how long tasks take has learned another length; that is not what is measured.
            _run(system, case.name, self.amount(length), wanted / 4, Clock())
            tasks = _run(system, case.name, self.amount(length), wanted, clock)
            return share_of_ideal(tasks * length / system.workers, clock.seconds)

        try:
            found = crossing(efficiency, self._found.get(case.name, GUESS))
        except NotFound as error:
            raise WrongResults(str(error)) from error
        self._found[case.name] = found
        return Sampled(found, {"probes": probes})


def _run(system: System, pattern: str, amount: int, wanted: float, clock: Clock) -> int:
    """Runs a graph of about so many tasks once; gives how many it has."""
    width = WIDTH * system.workers
    steps = max(LEAST_STEPS, min(round(wanted / width), MOST_TASKS // width))
    if pattern in ("trivial", SUBMITTED):
        # Amounts differ by less than what can be seen, so that results can be told apart.
        amounts = [amount + number % 64 for number in range(width * steps)]
        with clock:
            if pattern == "trivial":
                results = system.map(work.compute, amounts)
            else:
                results = system.call_each(work.compute, [(amount,) for amount in amounts])
        check(results, amounts)
        return len(amounts)
    expected, nodes = sequential(work.node, 0, layers_of(pattern, width, steps))
    layers = list(layers_of(pattern, width, steps))
    with clock:
        results = system.graph(work.node, amount, layers)
    check(results, expected)
    return nodes
