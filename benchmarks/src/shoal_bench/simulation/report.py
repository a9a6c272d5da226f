"""What came out, as tables of 100 columns for the terminal, and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from shoal_bench.machine import Machine
from shoal_bench.measurement import BYTES, SECONDS
from shoal_bench.simulation.costs import DriverCosts
from shoal_bench.simulation.engines import Engine
from shoal_bench.simulation.model import Work
from shoal_bench.simulation.published import Published
from shoal_bench.simulation.run import Simulated
from shoal_bench.simulation.search import Shortest

__all__ = ["WIDTH", "Results", "as_json", "as_tables", "summary"]

#: Columns of the tables on a terminal, whatever that has: figures that are cut off tell nothing.
WIDTH = 100


@dataclass
class Results:
    """All that was simulated.

    Attributes:
        work: the tasks.
        engine: whose client the driver has, "none" for one that takes no time.
        machine: where the driver's time was measured.
        costs: of its messages.
        runs: by number of workers.
        shortest: by number of workers, where it was searched.
        published: what others have measured, and its repetition.
    """

    work: Work
    engine: Engine
    machine: Machine
    costs: DriverCosts
    runs: dict[int, Simulated] = field(default_factory=dict)
    shortest: dict[int, Shortest] = field(default_factory=dict)
    published: list[tuple[Published, Simulated]] = field(default_factory=list)


def summary(result: Simulated) -> str:
    """One line of one simulation, for those who wait."""
    return (
        f"{result.workers:,} workers: {result.tasks:,} tasks in {_seconds(result.makespan)} of virtual time, "
        f"simulated in {_seconds(result.took)}"
    )


def as_tables(results: Results) -> list[Table]:
    """What came out, for a terminal; no table for what was not simulated."""
    tables = []
    if results.runs:
        tables.append(_table_of_runs(results))
    if results.published:
        tables.append(_table_of_published(results.published))
    return tables


def _table_of_runs(results: Results) -> Table:
    work, costs = results.work, results.costs
    table = _table(
        f"Simulated: {work.tasks:,} tasks of {_length_of_tasks(results)}",
        caption=(
            "driver: tasks/s that it could get through, share of the makespan in which it works, peak memory of its "
            "process. "
            + (
                "90 % busy: the shortest equal tasks that keep so many workers busy, if each gets so many of them. "
                if results.shortest
                else ""
            )
            + f"The driver's time is measured: that of scheduler and ledger as they run, and for a batch "
            f"{_seconds(costs.batch.message)} to send it, {_seconds(costs.report.message)} to hear its report, and "
            f"{_client_of(results)}.\n"
            f"{results.machine}"
        ),
    )
    table.add_column("workers", justify="right")
    has_deaths = any(run.deaths for run in results.runs.values())
    headings = ["driver", "share", "memory", "makespan", "ideal", "busy"]
    headings += ["90 % busy"] if results.shortest else []
    headings += ["deaths", "crashed"] if has_deaths else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for workers, run in results.runs.items():
        cells = [
            f"{workers:,}",
            _rate(run.ceiling),
            _percent(run.share),
            BYTES.show(run.memory) if run.memory is not None else "",
            _seconds(run.makespan),
            _seconds(run.ideal),
            _percent(run.utilisation),
        ]
        if results.shortest:
            cells.append(_from_length(results.shortest.get(workers)))
        if has_deaths:
            cells += [f"{run.deaths:,}", f"{run.crashed:,}"]
        table.add_row(*cells)
    return table


def _table_of_published(published: Sequence[tuple[Published, Simulated]]) -> Table:
    sources = "; ".join(dict.fromkeys(f"{run.name}: {run.source}" for run, _ in published))
    table = _table(
        "What others have measured, and Shoal's driver on as many workers (simulated)",
        caption=f"≥: from the highest throughput told, as the time itself is not. {sources}.",
    )
    table.add_column("run", no_wrap=True)
    for heading in ("workers", "tasks", "published", "ideal", "simulated", "busy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run, simulated in published:
        table.add_row(
            run.name,
            f"{run.workers:,}",
            f"{run.work.tasks:,}",
            ("≥ " if run.is_bound else "") + _seconds(run.seconds),
            _seconds(simulated.ideal),
            _seconds(simulated.makespan),
            _percent(simulated.utilisation),
        )
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption=caption,
        caption_justify="left",
    )


def as_json(results: Results, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that is known of the results, in base units (seconds, bytes, tasks a second); `null` for infinite."""
    costs = asdict(results.costs)
    del costs["clock"]
    return {
        "simulated": True,
        "machine": asdict(results.machine),
        "options": options,
        "message_costs": costs,
        "runs": [_as_json(run) for run in results.runs.values()],
        "shortest": [
            {
                "workers": found.workers,
                "duration": _finite(found.duration),
                "tasks_a_worker": found.tasks_a_worker,
                "steps": [_as_json(step) for step in found.steps],
            }
            for found in results.shortest.values()
        ],
        "published": [
            {"published": asdict(run), "simulated": _as_json(simulated)}
            for run, simulated in results.published
        ],
    }


def _as_json(run: Simulated) -> dict[str, Any]:
    worked_out = {
        "ceiling": _finite(run.ceiling),
        "share": run.share,
        "utilisation": run.utilisation,
    }
    return asdict(run) | worked_out


def _client_of(results: Results) -> str:
    if results.engine == "none":
        return "nothing for what the cluster's own client does (--engine)"
    return f"{_seconds(results.costs.job)} for what {results.engine.capitalize()}'s own client does"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _length_of_tasks(results: Results) -> str:
    """What tasks take: where durations differ, in the mean of those that were drawn, which may be far from the one asked for."""
    work = results.work
    if not work.skew and not work.stragglers:
        return _seconds(work.duration)
    drawn = next(iter(results.runs.values()))  # the same in all of them
    return f"{_seconds(drawn.work / drawn.tasks)} in the mean as drawn ({_seconds(work.duration)} asked for)"


def _seconds(value: float) -> str:
    return SECONDS.show(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rate(tasks: float) -> str:
    return f"{tasks:,.0f}/s" if math.isfinite(tasks) else "∞"


def _from_length(shortest: Shortest | None) -> str:
    if shortest is None:  # it was interrupted
        return ""
    length = _seconds(shortest.duration) if math.isfinite(shortest.duration) else "never"
    each = shortest.tasks_a_worker
    return f"{length} ({f'{each:,.0f}' if each >= 10 else f'{each:.2g}'} each)"
