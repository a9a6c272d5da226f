"""What others have measured on machines that nobody has at hand, to be repeated in virtual time.

Sources:
    R. Nishihara, "Performance issue with many large tasks on 10 node cluster", issue 8950 of ray-project/ray, June 2020:
        "Creating 10,000 1-second tasks on a 10-node cluster with 704 CPU cores should take 15 seconds. Instead, it
        takes about 71 seconds."
    Y. Babuji et al., "Parsl: Pervasive Parallel Programming in Python", HPDC 2019, doi 10.1145/3307681.3325400, and the
        page "Performance and Scalability" of Parsl's documentation: ten tasks for each worker, up to 3,125 nodes with 32
        workers each and 1M tasks, of 1 s among others, on Blue Waters. How long that took is in a figure only; but Parsl
        got through 1,181 tasks/s at most (50,000 no-ops on Midway), and no run of it can be faster than that.

A repetition is no comparison on equal terms: it has today's machine for the driver, and no cost of the cluster's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal_bench.simulation.model import Cluster, Work

__all__ = ["PUBLISHED", "Published"]

#: The highest throughput of Parsl's HighThroughputExecutor, in tasks a second; see the module.
PARSL_THROUGHPUT = 1181.0


@dataclass(frozen=True)
class Published:
    """A run that somebody has measured.

    Attributes:
        name: whose it is, and of what.
        source: where it is told.
        workers: that it had.
        work: its tasks.
        seconds: that it took, or took at least.
        is_bound: whether it took at least so long: the time itself is not told in numbers.
    """

    name: str
    source: str
    workers: int
    work: Work
    seconds: float
    is_bound: bool = False

    def cluster(self, latency: float) -> Cluster:
        """Its workers, with messages of this latency in seconds."""
        return Cluster(self.workers, latency=latency)


def _parsl(workers: int) -> Published:
    tasks = 10 * workers
    return Published(
        name="Parsl, ten tasks a worker",
        source="HPDC 2019, 10.1145/3307681.3325400",
        workers=workers,
        work=Work(tasks, 1.0),
        seconds=tasks / PARSL_THROUGHPUT,
        is_bound=True,
    )


PUBLISHED = (
    Published(
        name="Ray, one-second tasks",
        source="github.com/ray-project/ray/issues/8950",
        workers=704,
        work=Work(10_000, 1.0),
        seconds=71.0,
    ),
    _parsl(8_192),
    _parsl(100_000),
)
