"""Work as people have it."""

from __future__ import annotations

import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from shoal_bench.contestants.base import NotPossible, System
from shoal_bench.scenarios import work
from shoal_bench.scenarios.base import CaseSpec, Clock, Sampled, Scenario, check, share_of_ideal

__all__ = ["Real"]


class Job(NamedTuple):
    """A function that is mapped over items, and what sums up the results; the module that it needs, its package, and which
    module rules its threads."""

    function: Callable[[Any], Any]
    items: Callable[[], list[Any]]
    sum_up: Callable[[list[Any]], Any]
    needs: str = "sys"
    package: str = ""
    threads: str | None = None


def _modules() -> list[str]:
    """Some of the standard library's files."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [str(path) for path in sorted(folder.glob("*.py"))[::3]]


def _texts() -> list[str]:
    """The documentation that `help` shows, 700 kB of English, eight times, in pieces."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    text = "\n".join(topics[name] for name in sorted(topics)) * 8
    size = 20_000
    return [text[start : start + size] for start in range(0, len(text), size)]


def _add_up(counts: list[Counter[str]]) -> list[tuple[str, int]]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return sorted(total.items())


JOBS = {
    "standard library": Job(work.count_definitions, _modules, sorted),
    "word count": Job(work.count_words, _texts, _add_up),
    "Monte Carlo": Job(
        work.count_in_circle,
        lambda: [(seed, 200_000) for seed in range(60)],
        sum,
        "numpy",
        "numpy",
    ),
    "cross-validation": Job(
        work.score,
        lambda: [(10.0**power, fold) for power in range(-3, 5) for fold in range(5)],
        list,
        "sklearn",
        "scikit-learn",
        "threadpoolctl",
    ),
}
SHORT = ("standard library", "word count", "Monte Carlo")


class Real(Scenario):
    """See `measures`."""

    name: ClassVar[str] = "real"
    measures: ClassVar[str] = (
        "Time for a whole job: parsing Python, counting words (both hold the interpreter lock), NumPy, scikit-learn."
    )
    source: ClassVar[str] = "It is what a runner is taken for."

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        """See `Scenario`."""
        return [CaseSpec(name, per="whole") for name in JOBS if full or name in SHORT]

    def __init__(self, speed: float = 1e9) -> None:
        super().__init__(speed)
        self._known: dict[str, tuple[Any, float]] = {}

    def sample(self, system: System, case: CaseSpec, size: int, clock: Clock) -> Sampled:
        """See `Scenario`."""
        job = JOBS[case.name]
        if find_spec(job.needs) is None:
            raise NotPossible(f"it needs {job.package}; `pip install {job.package}` installs it")
        items = job.items()
        if case.name not in self._known:
            job.function(items[0])  # imports
            self._learn(case.name)
            self._learn(case.name)
        with clock:
            result = job.sum_up(system.map(job.function, items))
        if self._known[case.name][1] / system.workers > clock.seconds:
            self._learn(case.name)  # other programs have slowed it down
        expected, seconds = self._known[case.name]
        check(result, expected)
        ideal = seconds / system.workers
        return Sampled(
            clock.seconds,
            {
                "tasks": len(items),
                "ideal": ideal,
                "efficiency": share_of_ideal(ideal, clock.seconds),
            },
        )

    def _learn(self, name: str) -> None:
        """Does a job without any system: what it gives, and seconds of a processor that it takes, the least so far."""
        job = JOBS[name]
        items = job.items()
        with _without_threads(job):
            began = time.process_time()
            result = job.sum_up([job.function(item) for item in items])
            seconds = time.process_time() - began
        _, least = self._known.get(name, (None, seconds))
        self._known[name] = result, min(seconds, least)


def _without_threads(job: Job) -> AbstractContextManager[Any]:
    """Keeps a library from using threads of its own meanwhile, which wait for each other at the cost of a processor."""
    if job.threads is None:
        return nullcontext()
    limits: AbstractContextManager[Any] = import_module(job.threads).threadpool_limits(1)
    return limits
