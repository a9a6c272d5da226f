"""`shoal bench`: a command of `shoal` through the entry-point group `shoal.commands`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators
from rich.console import Console

from shoal_bench import report
from shoal_bench.commands.advise import advise_on
from shoal_bench.commands.compare import compare
from shoal_bench.commands.files import INTERRUPTED, REFUSED, Kept, Refused, check_target
from shoal_bench.commands.interrupts import interrupted_once
from shoal_bench.commands.page import report as report_of
from shoal_bench.commands.runners import compare_runners
from shoal_bench.contestants import UnknownName
from shoal_bench.harness import Result, measure_all
from shoal_bench.machine import Machine
from shoal_bench.measurement import Verdict
from shoal_bench.simulation.command import simulate
from shoal_bench.suites import Runner, measurements_of

__all__ = ["app"]

app = App(name="bench", help="Compare task runners with each other and with the bare engines.")
app.default(compare_runners)
app.command(compare)
app.command(advise_on, name="advise")
app.command(report_of, name="report")

#: Rounds that count, unless `--rounds` says otherwise; in a quick look.
ROUNDS = 7
QUICK_ROUNDS = 3

#: Seconds for all measurements of a quick look; the first takes a warm-up and each a round all the same, and starting
#: engines takes its time.
QUICK_SECONDS = 30.0


@app.command
def overhead(
    *,
    runner: Runner = "threads",
    only: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    rounds: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Annotated[bool, Parameter(negative=())] = False,
    check: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Measure the overhead of a runner against its bare engine, in rounds of one sample each.

    Ours and the bare engine do the same work in turn; the table has the medians, and what floor and aim were set.

    Args:
        runner: whose measurements to take: threads, processes, dask or ray.
        only: take this measurement and no other; can be given several times.
        rounds: how many rounds count; 7, or with --quick up to 3, as long as the time lasts.
        quick: do less work in fewer rounds, beside the bare engine only: a first look in under a minute.
        json_file: write everything that was measured to this file, with the machine it was measured on.
        markdown: print the table in Markdown.
        check: end with 1 if a floor was missed.
    """
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    measurements = measurements_of(runner)
    names = [measurement.name for measurement in measurements]
    try:
        if unknown := [name for name in only if name not in names]:
            raise UnknownName("measurement", unknown[0], names)
        if json_file is not None:
            check_target(json_file)
    except (Refused, UnknownName) as error:
        progress.print(f"Error: {error}")
        return REFUSED
    chosen = [m for m in measurements if not only or m.name in only]
    seconds = QUICK_SECONDS if quick and rounds is None else math.inf
    if rounds is None:
        rounds = QUICK_ROUNDS if quick else ROUNDS

    machine = Machine.here()  # now, because the measurements are a load themselves
    for doubt in machine.doubts():
        progress.print(doubt)
    results: list[Result] = []

    def found() -> str:
        options = {"runner": runner, "rounds": rounds, "quick": quick}
        return json.dumps(report.as_json(results, machine, options), indent=2) + "\n"

    interrupted = False
    with interrupted_once():
        with Kept(json_file, found) as kept:
            try:
                for result in measure_all(chosen, rounds, quick=quick, seconds=seconds):
                    results.append(result)
                    progress.print(report.summary(result))
            except KeyboardInterrupt:
                interrupted = True
        _show(results, machine, markdown=markdown)
    if interrupted:
        progress.print("Interrupted: what had been measured until then.")
    if kept.problem is not None:
        progress.print(f"Error: {kept.problem}")
        return 1
    if interrupted:
        return INTERRUPTED
    return int(check and any(result.verdict is Verdict.MISSED for result in results))


def _show(results: Sequence[Result], machine: Machine, *, markdown: bool) -> None:
    if markdown:
        plain = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
        plain.print(report.as_markdown(results, machine), end="")
    else:
        Console(width=report.WIDTH).print(report.as_table(results, machine))


app.command(simulate)
