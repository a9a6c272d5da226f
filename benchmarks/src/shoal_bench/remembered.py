"""What it costs to remember: journals, going on with a run, keys, and results found or kept.

    python -m shoal_bench.remembered --runner threads:2 --runner processes:2 --rounds 5
    python -m shoal_bench.remembered --keys --cached

With and without a journal take turns in each round, and a figure is the median of all rounds. Such a round is timed from the map
to the end of the flow, when all stands in the journal: the runner has started before, and the workers of Dask and Ray are there for
all rounds. Going on with a run is timed whole, with the start and the end of its runner.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from typing import Any

import shoal
from shoal.cache_policies import INPUTS
from shoal.results.keys import digest_arguments

from shoal_bench.workers import workers

__all__ = ["main"]


@shoal.task
def _nothing(x: int) -> int:
    return x


def _took(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _spread(times: Iterable[float], scale: float = 1.0) -> str:
    """Median, and the least and the greatest."""
    told = sorted(one * scale for one in times)
    return f"{statistics.median(told):.2f} ({told[0]:.2f} to {told[-1]:.2f})"


# ---------------------------------------------------------------------- journals


def _body(runner: Any, runs: int, journal: bool) -> float:
    """Seconds from a map of no-ops to the end of its flow."""
    began = 0.0

    @shoal.flow(task_runner=runner, journal=journal)
    def body() -> None:
        nonlocal began
        _nothing.map(range(-2000, 0)).wait()  # the workers are there, and how quick the task is
        began = time.perf_counter()
        _nothing.map(range(runs)).wait()

    body()
    return time.perf_counter() - began


def journals(name: str, rounds: int, runs: int) -> None:
    """Prints what a journal costs a run of a map of no-ops, its key included."""
    with workers(name) as runner:
        _body(runner(), runs // 10, journal=True)  # what is loaded on use
        pairs = [
            (_body(runner(), runs, journal=False), _body(runner(), runs, journal=True))
            for _ in range(rounds)
        ]
    more = _spread((b - a for a, b in pairs), 1e6 / runs)
    print(
        f"{name:11} journal of {runs:,} no-ops: {more} us more a run; without {_spread((a for a, _ in pairs), 1e6 / runs)} us",
        flush=True,
    )


def resumes(name: str, rounds: int, runs: int) -> None:
    """Prints how long it takes to go on with a run of which all task runs have completed."""

    @shoal.flow(task_runner=name, journal=True, flow_run_name="went-on")
    def gone_on() -> int:
        return len(_nothing.map(range(runs)).result())

    gone_on()
    times = [_took(lambda: gone_on.resume("went-on")) for _ in range(rounds)]
    print(f"{name:11} goes on with {runs:,} completed runs: {_spread(times)} s", flush=True)


# ---------------------------------------------------------------------- keys, found, kept


def keys(rounds: int) -> None:
    """Prints how long keys of arguments take."""
    import numpy as np

    few = {
        "a": 1, "b": "text", "c": 2.5, "d": None, "e": (1, 2, 3), "f": [1.0, 2.0], "g": {"k": "v"}, "h": b"bytes", "i": True,
        "j": "more",
    }  # fmt: skip
    large = {"x": np.random.default_rng(0).random(12_500_000)}
    for title, arguments, times in (
        ("an int", {"x": 12345}, 20_000),
        ("10 small arguments", few, 5_000),
        ("an array of 100 MB", large, 3),
    ):

        def many(arguments: dict[str, Any] = arguments, times: int = times) -> None:
            for _ in range(times):
                digest_arguments(arguments)

        many()
        taken = _spread((_took(many) for _ in range(rounds)), 1e6 / times)
        print(f"key of {title}: {taken} us", flush=True)


@shoal.task(cache_policy=INPUTS)
def _kept(x: int) -> int:
    return x


def cached(rounds: int, runs: int) -> None:
    """Prints what a run costs whose result is kept in a folder: called for the first time, and again; beside one that keeps none."""
    taken: dict[str, list[float]] = {"asks for nothing": [], "miss": [], "hit": []}

    @shoal.flow(task_runner="threads:2")
    def body(first: int) -> None:
        def calls(task: Any) -> float:
            return _took(lambda: [task(x) for x in range(first, first + runs)])

        for title, task in zip(taken, (_nothing, _kept, _kept), strict=True):
            taken[title].append(calls(task))

    body(-runs)  # what is loaded on use
    for times in taken.values():
        times.clear()
    for number in range(rounds):
        body(number * runs)
    for title, times in taken.items():
        print(f"call of a task, {title}: {_spread(times, 1e6 / runs)} us", flush=True)


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="python -m shoal_bench.remembered", description=__doc__)
    parser.add_argument("--runner", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=100_000, help="of the map of no-ops")
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--cached", action="store_true")
    chosen = parser.parse_args()
    os.environ["SHOAL_LOGGING_LEVEL"] = "CRITICAL"
    with tempfile.TemporaryDirectory() as home:
        os.environ["SHOAL_HOME"] = home
        for name in chosen.runner:
            journals(name, chosen.rounds, chosen.runs)
            resumes(name, chosen.rounds, chosen.runs)
        if chosen.keys:
            keys(chosen.rounds)
        if chosen.cached:
            cached(chosen.rounds, chosen.runs // 50)


if __name__ == "__main__":
    main()
