"""One simulation, and what came out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from shoal_bench.simulation.clock import VirtualTime
from shoal_bench.simulation.cluster import PlayedCluster
from shoal_bench.simulation.costs import DriverCosts
from shoal_bench.simulation.driver import Driver
from shoal_bench.simulation.model import Cluster, Work

__all__ = ["Simulated", "simulate"]

#: A batch is sent, has arrived, and is reported.
MESSAGES_OF_A_BATCH = 3


@dataclass(frozen=True)
class Simulated:
    """What came out of a simulation. Times are virtual unless they say otherwise.

    Attributes:
        workers: how many there were.
        tasks: how many.
        makespan: seconds from the map to when the driver knows its last end.
        ideal: seconds below which no schedule gets.
        work: seconds of tasks.
        driver: seconds that the driver worked.
        decided: of these, what scheduler and ledger took, as measured; the rest went into messages.
        messages: that the driver has sent and heard.
        crashed: runs that ended with their worker.
        deaths: workers that died.
        took: real seconds.
        memory: bytes that the process has had at most, with the interpreter and all that is played; `None` where other
            simulations ran in it too.
    """

    workers: int
    tasks: int
    makespan: float
    ideal: float
    work: float
    driver: float
    decided: float
    messages: int
    crashed: int
    deaths: int
    took: float
    memory: int | None = None

    @property
    def ceiling(self) -> float:
        """Tasks a second that the driver gets through if it does nothing else; infinite if it takes no time."""
        return self.tasks / self.driver if self.driver else math.inf

    @property
    def share(self) -> float:
        """Share of the makespan in which the driver worked."""
        return self.driver / self.makespan

    def safe_duration(self) -> float:
        """Seconds of tasks that keep the workers busy, each in a message of its own: four times what the driver can do."""
        batches = self.messages / MESSAGES_OF_A_BATCH
        return max(4 * self.workers * self.driver / batches, 0.001)

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that went into tasks, counting each task once."""
        return self.work / (self.workers * self.makespan)


def simulate(work: Work, cluster: Cluster, costs: DriverCosts) -> Simulated:
    """Runs tasks on a cluster in virtual time.

    Args:
        work: the tasks.
        cluster: the workers.
        costs: what the driver's time is made of.

    Raises:
        BadSimulation: workers die so often that it would come to no end.
        RuntimeError: nothing is left that could happen, and not all tasks have ended.
    """
    started = time.perf_counter()
    durations = work.durations()
    clock = VirtualTime()
    played = PlayedCluster(cluster, durations, clock)
    driver = played.driver = Driver(clock, costs, played, cluster.latency)
    played.begin()
    driver.map(work.tasks, work.crash_retries)
    clock.run()
    if not driver.record.ended:
        raise RuntimeError(f"the simulation of {work} on {cluster} stands still")
    return Simulated(
        workers=cluster.workers,
        tasks=work.tasks,
        makespan=driver.ended,
        ideal=work.ideal(cluster.workers, durations),
        work=math.fsum(durations),
        driver=driver.busy,
        decided=driver.decided,
        messages=driver.messages,
        crashed=driver.crashed,
        deaths=played.deaths,
        took=time.perf_counter() - started,
    )
