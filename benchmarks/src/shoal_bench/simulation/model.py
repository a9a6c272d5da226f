"""What is simulated: so many tasks on so many workers. Plain data that checks itself; imports nothing of ours."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass

__all__ = ["BadSimulation", "Cluster", "Work", "worker_counts"]

#: How many times its time a straggler takes.
STRAGGLER = 10.0
#: The largest sigma of durations: beyond it, hardly anything but the longest task counts, and numbers overflow.
MOST_SKEW = 5.0
#: The most tasks and workers that fit into the memory of a usual machine.
MOST_TASKS = 100_000_000
MOST_WORKERS = 1_000_000
#: Seconds, thirty years: beyond it, the numbers of a simulation lose the seconds that matter.
MOST_SECONDS = 1e9
#: Of each worker in an hour: one a second.
MOST_DEATHS = 3600.0


class BadSimulation(ValueError):
    """What is to be simulated makes no sense.

    Attributes:
        option: what was wrong.
        value: what it was.
        problem: what is needed.
    """

    def __init__(self, option: str, value: object, problem: str) -> None:
        super().__init__(option, value, problem)
        self.option = option
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.option} is {self.value!r}: {self.problem}"


@dataclass(frozen=True)
class Work:
    """Independent tasks, given to the driver as one map.

    Attributes:
        tasks: how many.
        duration: seconds that one takes in the mean, without stragglers. Of a skewed distribution it is the expectation,
            and what is drawn may have another mean: at a sigma of 2 it is that of 1,000,000 tasks to a percent.
        skew: sigma of the lognormal distribution of durations, up to `MOST_SKEW`; 0 for all alike.
        stragglers: share of tasks that take `STRAGGLER` times their time.
        crash_retries: how often a task may be repeated whose worker has died.
        seed: durations are the same for the same seed.

    Raises:
        BadSimulation: one of these is out of range.
    """

    tasks: int
    duration: float
    skew: float = 0.0
    stragglers: float = 0.0
    crash_retries: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("tasks", self.tasks, least=1, most=MOST_TASKS)
        _check("duration", self.duration, above=0.0, most=MOST_SECONDS)
        _check("skew", self.skew, least=0.0, most=MOST_SKEW)
        _check("stragglers", self.stragglers, least=0.0, most=1.0)
        _check("crash_retries", self.crash_retries, least=0)

    def durations(self) -> array[float]:
        """Seconds that each task takes."""
        drawn = random.Random(self.seed)
        if self.skew:
            middle = math.log(self.duration) - self.skew**2 / 2  # so that the mean is `duration`
            draw = drawn.lognormvariate
            taken = array("d", [draw(middle, self.skew) for _ in range(self.tasks)])
        else:
            taken = array("d", [self.duration]) * self.tasks
        if self.stragglers:
            for index in range(self.tasks):
                if drawn.random() < self.stragglers:
                    taken[index] *= STRAGGLER
        return taken

    def ideal(self, workers: int, durations: array[float]) -> float:
        """Seconds below which no schedule gets: exact for tasks that are alike, else a bound.

        Args:
            workers: how many there are.
            durations: of the tasks.
        """
        if not self.skew and not self.stragglers:
            return -(-self.tasks // workers) * self.duration
        longest = max(durations)
        return max(math.fsum(durations) / workers, longest)


@dataclass(frozen=True)
class Cluster:
    """Workers behind a queue, each of which does one thing at a time.

    Attributes:
        workers: how many.
        latency: seconds that a message takes, whatever its size.
        deaths_per_hour: of each worker; another takes its place after a while.
        ramp: seconds over which workers come, evenly; 0 if all are there from the start.
        seed: deaths are at the same times for the same seed.

    Raises:
        BadSimulation: one of these is out of range.
    """

    workers: int
    latency: float = 0.0
    deaths_per_hour: float = 0.0
    ramp: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("workers", self.workers, least=1, most=MOST_WORKERS)
        _check("latency", self.latency, least=0.0, most=MOST_SECONDS)
        _check("deaths_per_hour", self.deaths_per_hour, least=0.0, most=MOST_DEATHS)
        _check("ramp", self.ramp, least=0.0, most=MOST_SECONDS)


def worker_counts(text: str) -> list[int]:
    """The numbers of workers that somebody asks for: `64,704`, or `10..10000` for 10, 100, 1,000 and 10,000.

    Raises:
        BadSimulation: it is neither.
    """
    counts: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        start = _count(first, text)
        stop = _count(last, text) if dots else start
        if stop < start:
            raise BadSimulation("workers", text, f"{start}..{stop} is backwards")
        while start < stop:
            counts.append(start)
            start *= 10
        counts.append(stop)
    return sorted(set(counts))


def _count(text: str, whole: str) -> int:
    stripped = text.strip().replace("_", "")
    if len(stripped) > len(str(MOST_WORKERS)):
        raise BadSimulation("workers", whole, f"at most {MOST_WORKERS:,} are possible")
    if not (stripped.isascii() and stripped.isdecimal()) or int(stripped) == 0:
        raise BadSimulation(
            "workers", whole, "numbers from 1 are needed, as in 64,704 or 10..10000"
        )
    return int(stripped)


def _check(
    option: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> None:
    if not -math.inf < value < math.inf:
        raise BadSimulation(option, value, "a finite number is needed")
    if least is not None and value < least:
        raise BadSimulation(option, value, f"at least {least:g} is needed")
    if above is not None and value <= above:
        raise BadSimulation(option, value, f"more than {above:g} is needed")
    if most is not None and value > most:
        raise BadSimulation(option, value, f"at most {most:,.10g} is possible")
