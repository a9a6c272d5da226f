"""The shortest tasks that keep so many workers busy: a search, each step of which is a simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shoal.task_runners.remote.cluster_backend import ALONE, TARGET

from shoal_bench.simulation.costs import DriverCosts
from shoal_bench.simulation.model import Cluster, Work
from shoal_bench.simulation.run import Simulated, simulate

__all__ = ["BUSY", "Shortest", "shortest_tasks"]

#: Share of their time that workers are to spend on tasks.
BUSY = 0.9
#: Messages for each worker in a step: with fewer, the first and the last weigh more than they do in a long run.
ROUNDS = 20
#: Seconds of the longest and the shortest tasks looked at, and how exactly the answer is known, as a ratio.
LONGEST = 100.0
SHORTEST = 1e-6
EXACTLY = 1.1


@dataclass(frozen=True)
class Shortest:
    """What the search has found.

    Attributes:
        workers: how many there are.
        duration: seconds of the shortest tasks that keep them busy; infinite if none of up to `LONGEST` do.
        steps: what was simulated, in order.
    """

    workers: int
    duration: float
    steps: tuple[Simulated, ...]

    @property
    def tasks_a_worker(self) -> float:
        """How many tasks of that length each worker had; of the longest, if none do. With fewer, begin and end weigh more."""
        step = self.steps[-1]
        if math.isfinite(self.duration):
            step = min(self.steps, key=lambda one: abs(one.work / one.tasks - self.duration))
        return step.tasks / step.workers


def shortest_tasks(
    cluster: Cluster, costs: DriverCosts, *, most: int, around: float = 0.1
) -> Shortest:
    """Searches the length of tasks, all alike, from which workers are busy for 90 % of their time.

    Downwards, each length half of the one before, to the first that does not do; then between the last two. Tasks a
    little shorter may do again, where several of them begin to share a message: from the answer on, all do. So the length
    from which they travel alone is looked at in any case.

    Args:
        cluster: the workers.
        costs: what the driver's time is made of.
        most: tasks in a step.
        around: seconds to begin at.
    """
    steps: list[Simulated] = []

    def keeps_busy(duration: float) -> bool:
        each = ROUNDS * max(1, round(TARGET / duration))
        work = Work(min(most, each * cluster.workers), duration)
        steps.append(simulate(work, cluster, costs))
        return steps[-1].utilisation >= BUSY

    enough = around
    while not keeps_busy(enough):
        enough *= 2
        if enough > LONGEST:
            return Shortest(cluster.workers, math.inf, tuple(steps))
    too_short = _next_below(enough)
    while keeps_busy(too_short):
        enough, too_short = too_short, _next_below(too_short)
        if too_short < SHORTEST:
            return Shortest(cluster.workers, enough, tuple(steps))
    while enough / too_short > EXACTLY:
        middle = math.sqrt(enough * too_short)
        if keeps_busy(middle):
            enough = middle
        else:
            too_short = middle
    return Shortest(cluster.workers, enough, tuple(steps))


def _next_below(duration: float) -> float:
    return max(duration / 2, ALONE) if duration > ALONE else duration / 2
