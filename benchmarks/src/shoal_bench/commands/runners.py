"""`shoal bench` without a command: compares the runners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shoal_bench.commands.files import Refused
    from shoal_bench.comparison import Comparison, Live
    from shoal_bench.contestants import ContestantSpec
    from shoal_bench.record import Options
    from shoal_bench.scenarios.base import Scenario

__all__ = ["compare_runners", "processors"]

#: Rounds that count, unless `--rounds` says otherwise: with fewer, no ratio can be concluded from (`derive.PAIRS`).
ROUNDS = 6
#: Seconds that the cases of the short set aim at; rounds are left out where they would take longer. Openings come on top, 50 s
#: on two cores, and the one round that each case has in any case.
SECONDS = 220.0

Names = Annotated[tuple[str, ...], Parameter(negative=())]
Count = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
Flag = Annotated[bool, Parameter(negative=())]


def compare_runners(
    *,
    runner: Names = (),
    contestant: Names = (),
    scenario: Names = (),
    rounds: Count = None,
    workers: Count = None,
    full: Flag = False,
    peer: Names = (),
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    report: Path | None = None,
    plot: Path | None = None,
    floors: Path | None = None,
) -> int:
    """Compare threads, processes, Dask and Ray, each beside its bare engine.

    All of an engine take turns at each scenario; the table has the medians, and how many times what ours costs the bare
    engine costs. Without options it takes less than five minutes.

    Args:
        runner: only this runner and its bare engine: threads, processes, dask, ray, or the address of a cluster that
            runs, tcp://HOST:PORT or ray://HOST:PORT; can be given several times.
        contestant: this contestant besides, or alone, if no runner is given; can be given several times.
        scenario: only this scenario; can be given several times.
        rounds: how many rounds count; by default 6, or fewer where time is short.
        workers: how many each has; by default as many as there are processors. Of a cluster that runs: how many it has.
        full: all cases of all scenarios, and all peers that are installed; takes hours.
        peer: NAME=/path/to/python: the interpreter that has this contestant, which then takes part.
        json_file: write everything that was measured to this file.
        report: write one page in HTML with charts to this file; it opens without a network.
        plot: write the main charts as one picture in PNG to this file.
        floors: end with 1 if a floor of this file was missed; unless somebody is named, whom it speaks of takes part too.
    """
    from rich.console import Console

    from shoal_bench.advice import advice
    from shoal_bench.commands.addresses import check_address
    from shoal_bench.commands.files import INTERRUPTED, REFUSED, Refused
    from shoal_bench.commands.interrupts import interrupted_once
    from shoal_bench.commands.page import check_picture, check_targets, write_looks
    from shoal_bench.commands.peers import interpreters
    from shoal_bench.contestants import UnknownName, choose
    from shoal_bench.floors import Floors, UnreadableFloors, read_floors
    from shoal_bench.machine import Machine
    from shoal_bench.record import Options
    from shoal_bench.scenarios import load
    from shoal_bench.table import WIDTH, as_table, remarks, words_below

    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        peers = interpreters(peer)
        held = Floors() if floors is None else read_floors(floors)
        needed = () if runner or contestant else held.contestants
        chosen = choose(runner, contestant, peers=full, asked=[*peers, *needed])
        for name in runner:
            check_address(name)
        scenarios = load(scenario, full=full)
        check_targets(json_file, report, plot)
        check_picture(plot)
    except (Refused, UnknownName, UnreadableFloors) as error:
        notes.print(f"Error: {error}")
        return REFUSED
    options = Options(
        scenarios=scenario,
        contestants=(*runner, *contestant),
        rounds=rounds or ROUNDS,
        full=full,
        workers=workers or processors(),
        peers={name: str(python) for name, python in peers.items()},
    )
    code = 0
    is_elsewhere = any("://" in name for name in runner)
    for doubt in Machine.here().doubts(0 if is_elsewhere else options.workers):
        notes.print(doubt)
    with interrupted_once():
        comparison, interrupted, problem = _compare(
            chosen, scenarios, options, peers, json_file, hurried=not rounds
        )
        record = comparison.record()
        is_nothing = all(entry.figure is None for _, _, entry in record.entries())
        if is_nothing:
            notes.print("Nothing was measured.")
            for line in remarks(record):
                notes.print(line)
        else:
            console = Console(width=WIDTH, highlight=False)
            console.print(as_table(record))
            for words in (*words_below(record), *advice(record)):
                console.print(words, soft_wrap=True)
            try:
                write_looks(record, report, plot)
            except Refused as error:
                notes.print(f"Error: {error}")
                code = 1
        if problem is not None:
            notes.print(f"Error: {problem}")
            code = 1
    if code:
        return code
    if interrupted:
        return INTERRUPTED
    if is_nothing:
        return 1
    lines = list(held.missed(record))
    for line in lines:
        notes.print(f"Floor missed: {line}")
    return 1 if lines else 0


def _compare(
    chosen: Sequence[ContestantSpec],
    scenarios: Sequence[Scenario],
    options: Options,
    peers: Mapping[str, Path],
    json_file: Path | None,
    *,
    hurried: bool,
) -> tuple[Comparison, bool, Refused | None]:
    """A comparison that has run, whether it was interrupted, and why its record could not be written, if so."""
    from rich.console import Console

    from shoal_bench.commands.files import Kept
    from shoal_bench.comparison import Comparison
    from shoal_bench.progress import shown_on
    from shoal_bench.scenarios.calibration import bytes_per_second

    speed = bytes_per_second(options.workers)
    installed = [spec for spec in chosen if spec.is_installed or spec.name in peers]
    with shown_on(Console(stderr=True, highlight=False)) as progress:
        comparison = Comparison(
            installed,
            scenarios,
            options,
            open_live=lambda spec, workers: _open(spec, workers, speed, peers.get(spec.name)),
            listener=progress,
            speed=speed,
            seconds=SECONDS if hurried and not options.full else float("inf"),
        )
        for spec in chosen:
            if spec not in installed:
                comparison.book.is_absent(spec, "is not installed")
        interrupted = False
        with Kept(json_file, lambda: comparison.record().to_json()) as kept:
            try:
                comparison.run()
            except KeyboardInterrupt:
                interrupted = True
    return comparison, interrupted, kept.problem


def _open(spec: ContestantSpec, workers: int, speed: float, python: Path | None) -> Live:
    from shoal_bench.live.process import LiveProcess

    return LiveProcess(spec, workers, speed, None if python is None else str(python))


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
