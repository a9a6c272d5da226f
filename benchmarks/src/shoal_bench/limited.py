"""What limits cost: caps, slots and rates, in one process and in several that share a store.

    python -m shoal_bench.limited --runner threads --runner processes --rounds 5
    python -m shoal_bench.limited --postgres postgresql://user@host/name

The store is a SQLite file of its own and, where its address is given, a PostgreSQL database, in which limits are made and deleted whose
names begin with `shoal-bench`. A figure is the median of its rounds, with the least and the greatest. What is compared takes turns.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shoal
from shoal.concurrency.sync import concurrency, rate_limit
from shoal.limits import ConcurrencyLimits, GlobalConcurrencyLimitCreate

__all__ = ["main"]

#: Of the limits that are made here, also in a database that others use.
NAME = "shoal-bench"

#: Seconds of the runs that are limited, and how many of them there may be at once.
NAP, LIMIT = 0.01, 4


@shoal.task
def _nothing(x: int) -> int:
    return x


@shoal.task
def _nap(_: int) -> None:
    time.sleep(NAP)


def _spread(figures: Iterable[float], unit: str) -> str:
    """Median, and the least and the greatest."""
    told = sorted(figures)
    return f"{statistics.median(told):.3g}{unit} ({told[0]:.3g} to {told[-1]:.3g})"


def _show(where: str, what: str, found: str) -> None:
    print(f"{where:11} {what}: {found}", flush=True)


# ---------------------------------------------------------------------- processes


def _together(number: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function gives in some processes, all of which begin at the same time.

    Args:
        number: how many.
        work: is given a barrier for all of them, which one it is in, and the rest.
        args: the rest.

    Raises:
        RuntimeError: it failed in one of them.
    """
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(number), context.SimpleQueue()
    processes = [
        context.Process(target=_tell, args=(told, work, barrier, place, *args))
        for place in range(number)
    ]
    for process in processes:
        process.start()
    found = dict(told.get() for _ in processes)
    for process in processes:
        process.join()
    for it in found.values():
        if isinstance(it, RuntimeError):
            raise it
    return [found[place] for place in range(number)]


def _tell(told: Any, work: Callable[..., Any], barrier: Any, place: int, *args: Any) -> None:
    try:
        barrier.wait()
        told.put((place, work(barrier, place, *args)))
    except BaseException as error:
        barrier.abort()  # nobody waits for this one
        told.put((place, RuntimeError(f"{type(error).__name__}: {error}")))


@contextmanager
def _store(url: str) -> Iterator[None]:
    """Limits are kept there, in the processes that are started meanwhile, and none are left."""
    os.environ["SHOAL_LIMITS_URL"] = url
    limits = ConcurrencyLimits()
    try:
        _forget(limits)  # of one that was killed
        limits.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(NAME, 1))
        yield
    finally:
        _forget(limits)


def _forget(limits: ConcurrencyLimits) -> None:
    for limit in limits.read_global_concurrency_limits():
        if limit.name.startswith(NAME):
            limits.delete_global_concurrency_limit_by_name(limit.name)


# ---------------------------------------------------------------------- runs


def _naps(barrier: Any, place: int, runner: str, runs: int, by: str) -> float:
    """How much longer than the ideal it takes to have runs of 10 ms under a limit of a tag, or under a cap."""
    if by == "tag":
        ConcurrencyLimits().create_concurrency_limit(NAME, LIMIT)
        limited = _nap.with_options(tags=[NAME])
    else:
        limited = _nap.with_options(max_concurrency=LIMIT)
    took = 0.0

    @shoal.flow(task_runner=runner)
    def body() -> None:
        nonlocal took
        _nap.map(range(64)).wait()  # the workers are there, and how long the task is
        limited.map(range(LIMIT)).wait()
        began = time.perf_counter()
        limited.map(range(runs)).wait()
        took = time.perf_counter() - began

    body()
    if by == "tag":
        ConcurrencyLimits().delete_concurrency_limit_by_tag(NAME)
    return took / (runs * NAP / LIMIT)


def _maps(barrier: Any, place: int, runner: str, runs: int, rounds: int) -> list[float]:
    """How much longer a map of no-ops takes under a cap of as many as there are workers than under none."""
    ways = (_nothing, _nothing.with_options(max_concurrency=2))
    ratios = []

    @shoal.flow(task_runner=runner)
    def body() -> None:
        for way in ways:
            way.map(range(2000)).wait()
        for _ in range(rounds):
            took = []
            for way in ways:
                began = time.perf_counter()
                way.map(range(runs)).wait()
                took.append(time.perf_counter() - began)
            ratios.append(took[1] / took[0])

    body()
    return ratios


# ---------------------------------------------------------------------- slots and rates


def _pairs(barrier: Any, place: int, number: int) -> float:
    """Milliseconds to take a slot that nobody else wants, and to give it back: the median of so many."""
    took = []
    for _ in range(number + 1):
        began = time.perf_counter()
        with concurrency(NAME):
            pass
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took[1:])  # the first opens the store


def _hands_on(barrier: Any, place: int, number: int) -> list[float]:
    """Moments: when the first process is about to give a slot back, and when the second has it."""
    limits = ConcurrencyLimits()
    moments = []
    for _ in range(number):
        if place:
            barrier.wait()
            with concurrency(NAME):
                moments.append(time.monotonic())
        else:
            with concurrency(NAME):
                barrier.wait()
                while not limits.read_global_concurrency_limit_by_name(NAME).waiters:
                    time.sleep(0.001)
                moments.append(time.monotonic())
        barrier.wait()
    return moments


def _fights(barrier: Any, place: int, turns: int) -> list[tuple[float, float, int]]:
    """When this process had the slot, from when all have had it once."""
    with concurrency(NAME):
        pass
    barrier.wait()
    had = []
    for _ in range(turns):
        with concurrency(NAME):
            had.append((time.monotonic(), time.monotonic(), place))
    return had


def _rated(barrier: Any, place: int, per_second: int, seconds: float) -> list[float]:
    """When calls began under a rate, from when all can reach the store."""
    with concurrency(NAME):
        pass
    barrier.wait()
    end = time.monotonic() + seconds
    calls = []
    while (left := end - time.monotonic()) > 0:
        try:
            rate_limit(f"{NAME}-rate", timeout_seconds=left, per_second=per_second)
        except TimeoutError:
            break
        calls.append(time.monotonic())
    return calls


# ---------------------------------------------------------------------- the figures


def of_runs(runner: str, rounds: int, naps: int, runs: int) -> None:
    """Prints what limits cost the runs of a flow."""
    for by, what in (("tag", f"a limit of {LIMIT}, SQLite"), ("cap", f"max_concurrency={LIMIT}")):
        ratios = [_together(1, _naps, f"{runner}:8", naps, by)[0] for _ in range(rounds)]
        _show(runner, f"{naps:,} runs of 10 ms under {what}", f"{_spread(ratios, 'x')} the ideal")
    (ratios,) = _together(1, _maps, f"{runner}:2", runs, rounds)
    _show(
        runner,
        f"map of {runs:,} no-ops under max_concurrency=2",
        f"{_spread(ratios, 'x')} of one without",
    )


def of_stores(where: str, rounds: int, slots: int, turns: int, seconds: float) -> None:
    """Prints what a store takes."""
    pairs = [_together(1, _pairs, slots)[0] for _ in range(rounds)]
    _show(where, "acquire and release, uncontended", _spread(pairs, " ms"))
    given, had = _together(2, _hands_on, max(slots // 10, 5))
    waits = _spread(((b - a) * 1e3 for a, b in zip(given, had, strict=True)), " ms")
    _show(where, "wake-up after a release by another process", waits)
    for _ in range(rounds):
        _show(where, f"8 processes, {8 * turns:,} acquisitions of one slot", _of_fight(turns))
    for _ in range(rounds):
        calls = sorted(itertools.chain(*_together(4, _rated, 100, seconds)))
        most = max(sum(a <= b < a + 1 for b in calls) for a in calls)
        _show(
            where,
            f"100 a second over {seconds:g} s from 4 processes",
            f"{len(calls):,} calls, {len(calls) / seconds:.1f} a second; at most {most} told within one",
        )


def _of_fight(turns: int) -> str:
    held = sorted(itertools.chain(*_together(8, _fights, turns)))
    doubled = sum(b[0] < a[1] for a, b in itertools.pairwise(held))
    had = Counter(dict.fromkeys(range(8), 0))
    for _, _, place in held:
        had[place] += 1
        if had[place] == turns:
            break
    took = held[-1][1] - held[0][0]
    return (
        f"{len(held):,} served in {took:.2f} s, {doubled} of them while another held it; when the first had all its turns,"
        f" the others had {min(had.values())} or more of {turns}"
    )


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="python -m shoal_bench.limited", description=__doc__)
    parser.add_argument("--runner", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--naps", type=int, default=1000, help="runs of 10 ms under a limit")
    parser.add_argument("--runs", type=int, default=100_000, help="of the map of no-ops")
    parser.add_argument("--slots", type=int, default=300, help="taken and given back")
    parser.add_argument("--turns", type=int, default=250, help="of each process in the fight")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the rate")
    parser.add_argument("--postgres", metavar="URL", help="limits are measured there, too")
    chosen = parser.parse_args()
    os.environ["SHOAL_LOGGING_LEVEL"] = "CRITICAL"
    stores = chosen.rounds, chosen.slots, chosen.turns, chosen.seconds
    with tempfile.TemporaryDirectory() as folder:
        with _store(str(Path(folder, "limits.db"))):
            for runner in chosen.runner:
                of_runs(runner, chosen.rounds, chosen.naps, chosen.runs)
            of_stores("SQLite", *stores)
        if chosen.postgres:
            with _store(chosen.postgres):
                of_stores("PostgreSQL", *stores)


if __name__ == "__main__":
    main()
