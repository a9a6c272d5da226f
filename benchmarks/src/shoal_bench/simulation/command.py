"""`shoal bench simulate`. What simulates is imported when it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from shoal_bench.simulation.engines import Engine

if TYPE_CHECKING:
    from shoal_bench.simulation.model import Cluster
    from shoal_bench.simulation.report import Results

__all__ = ["simulate"]


def simulate(
    *,
    workers: str = "10..10000",
    tasks: int = 1_000_000,
    duration: float = 1.0,
    skew: float = 0.0,
    stragglers: float = 0.0,
    deaths_per_hour: float = 0.0,
    crash_retries: int = 0,
    ramp: float = 0.0,
    latency: float = 0.0005,
    seed: int = 0,
    engine: Engine = "none",
    search: bool = True,
    published: bool = True,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Simulate the driver of a large cluster: how many workers it keeps busy.

    The real scheduler and ledger, whose time is measured, in front of workers that are played in virtual time.

    Args:
        workers: how many: 64,704, or 10..10000 for 10, 100, 1,000 and 10,000.
        tasks: how many, in one map.
        duration: seconds that a task takes in the mean.
        skew: sigma of the lognormal distribution of durations, up to 5; 0 for all alike.
        stragglers: share of tasks that take ten times as long, from 0 to 1.
        deaths_per_hour: how often each worker dies in an hour; another comes 10 s later.
        crash_retries: how often a task is repeated whose worker has died.
        ramp: seconds over which the workers come, as an autoscaler starts them; 0 if they are there.
        latency: seconds that a message takes.
        seed: of durations and deaths.
        engine: whose own client the driver pays for each batch, as measured before: none, dask (with its scheduler) or ray.
        search: also find the shortest tasks that keep so many workers busy.
        published: also repeat what others have measured.
        json_file: write everything that came out to this file.
    """
    from shoal.exceptions import MissingExtraError

    from shoal_bench.commands.files import INTERRUPTED, REFUSED, Kept, Refused, check_target
    from shoal_bench.commands.interrupts import interrupted_once
    from shoal_bench.fresh_process import SampleFailed, how_it_ended
    from shoal_bench.machine import Machine
    from shoal_bench.simulation import report
    from shoal_bench.simulation.costs import measure_costs
    from shoal_bench.simulation.engines import cost_of_job
    from shoal_bench.simulation.model import BadSimulation, Cluster, Work, worker_counts

    machine = Machine.here()  # now, because what follows is a load itself
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    options = {
        "workers": workers,
        "tasks": tasks,
        "duration": duration,
        "skew": skew,
        "stragglers": stragglers,
        "deaths_per_hour": deaths_per_hour,
        "crash_retries": crash_retries,
        "ramp": ramp,
        "latency": latency,
        "seed": seed,
        "engine": engine,
    }
    try:
        work = Work(tasks, duration, skew, stragglers, crash_retries, seed)
        clusters = [
            Cluster(count, latency, deaths_per_hour, ramp, seed) for count in worker_counts(workers)
        ]
        if json_file is not None:
            check_target(json_file)
        with progress.status(f"What a job costs {engine}'s own client"):
            costs = measure_costs(cost_of_job(engine))
    except (BadSimulation, MissingExtraError, Refused) as error:
        progress.print(f"Error: {error}")
        return REFUSED

    for doubt in machine.doubts():
        progress.print(doubt)
    results = report.Results(work, engine, machine, costs)

    def found() -> str:
        return json.dumps(report.as_json(results, options), indent=2, allow_nan=False) + "\n"

    code, problem = 0, ""
    with interrupted_once():
        with Kept(json_file, found) as kept:
            try:
                for cluster in clusters:
                    _run(results, cluster, progress, search=search)
                if published:
                    _repeat_published(results, latency, progress)
            except KeyboardInterrupt:
                code, problem = INTERRUPTED, "Interrupted"
            except BadSimulation as error:
                code, problem = REFUSED, f"Error: {error}"
            except SampleFailed as error:
                code, problem = 1, f"Error: {how_it_ended(error.code, error.output)}"
        if problem:
            progress.print(f"{problem}; this is what there is:" if results.runs else problem)
        console = Console(width=report.WIDTH)
        for table in report.as_tables(results):
            console.print(table)
        if kept.problem is not None:
            progress.print(f"Error: {kept.problem}")
            return 1
    return code


def _run(results: Results, cluster: Cluster, progress: Console, *, search: bool) -> None:
    """Simulates so many workers, and searches the shortest tasks that keep them busy."""
    from shoal_bench.simulation.model import Cluster
    from shoal_bench.simulation.process import simulate_apart
    from shoal_bench.simulation.report import summary
    from shoal_bench.simulation.search import shortest_tasks

    with progress.status(f"{cluster.workers:,} workers: {results.work.tasks:,} tasks"):
        result = results.runs[cluster.workers] = simulate_apart(
            results.work, cluster, results.costs.job
        )
    progress.print(summary(result))
    if search:
        with progress.status(
            f"{cluster.workers:,} workers: the shortest tasks that keep them busy"
        ):
            plain = Cluster(cluster.workers, cluster.latency)
            results.shortest[cluster.workers] = shortest_tasks(
                plain, results.costs, most=results.work.tasks, around=result.safe_duration()
            )


def _repeat_published(results: Results, latency: float, progress: Console) -> None:
    """Simulates what others have measured."""
    from shoal_bench.simulation.published import PUBLISHED
    from shoal_bench.simulation.report import summary
    from shoal_bench.simulation.run import simulate as simulate_here

    for run in PUBLISHED:
        with progress.status(f"{run.name}: {run.workers:,} workers"):
            result = simulate_here(run.work, run.cluster(latency), results.costs)
        results.published.append((run, result))
        progress.print(f"{run.name}: {summary(result)}")
