"""`shoal bench advise`: a user's own flow on every runner, and which to take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from shoal_bench.contestants import ContestantSpec
    from shoal_bench.trial.trial import Trial

__all__ = ["advise_on"]

#: Seconds that a flow may take on one runner, unless `--limit` says otherwise.
LIMIT = 600.0


def advise_on(
    target: Annotated[
        str | Path, Parameter(help="`path/to/file.py:flow` or `package.module:flow`")
    ],
    /,
    *,
    param: Annotated[tuple[str, ...], Parameter(name=["--param", "-p"], negative=())] = (),
    runner: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    workers: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    limit: Annotated[float, Parameter(validator=validators.Number(gt=0))] = LIMIT,
) -> int:
    """Run a flow of yours on every installed runner, and say which to take and why.

    The flow runs once on each, first with one task after the other. It runs as often as there are runners, so give it
    parameters with which it does no harm.

    Args:
        param: a parameter, `name=value`, as text or JSON; can be given several times.
        runner: only on this runner: threads, processes, dask or ray; can be given several times.
        workers: how many each has; by default as many as there are processors.
        limit: seconds that the flow may take on one runner.
    """
    from rich.console import Console
    from shoal.cli.console import UsageError, print_error, print_failure
    from shoal.cli.parameters import parse
    from shoal.cli.targets import find_flow
    from shoal.exceptions import ShoalError

    from shoal_bench.commands.files import INTERRUPTED, REFUSED
    from shoal_bench.commands.interrupts import interrupted_once
    from shoal_bench.commands.runners import processors
    from shoal_bench.contestants import RUNNERS, UnknownName, known
    from shoal_bench.machine import Machine

    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        if unknown := [name for name in runner if name not in RUNNERS]:
            raise UnknownName("contestant", unknown[0], RUNNERS)
        parse(find_flow(str(target)), list(param))
    except (UsageError, ShoalError, UnknownName) as error:
        print_error(error)
        return REFUSED
    except Exception as error:  # the user's module cannot be loaded
        print_failure(error)
        return 1
    specs = [known()[name] for name in runner or RUNNERS]
    count = workers or processors()
    for doubt in Machine.here().doubts(count):
        notes.print(doubt)
    seen = Seen()
    interrupted = False
    with interrupted_once():
        try:
            _try_out(seen, specs, str(target), param, count, limit, notes)
        except KeyboardInterrupt:
            interrupted = True
        _show(seen)
    if interrupted:
        return INTERRUPTED
    return 0 if any(trial.failed is None for trial in seen.trials) else 1


@dataclass
class Seen:
    """What is known so far.

    Attributes:
        trials: the flow's.
        metg: for each runner the length of the shortest tasks that are worth spreading, in seconds.
    """

    trials: list[Trial] = field(default_factory=list)
    metg: dict[str, float] = field(default_factory=dict)


def _try_out(
    seen: Seen,
    specs: Sequence[ContestantSpec],
    target: str,
    assignments: Sequence[str],
    workers: int,
    limit: float,
    notes: Console,
) -> None:
    from shoal_bench.scenarios.calibration import bytes_per_second
    from shoal_bench.trial.child import SEQUENTIAL
    from shoal_bench.trial.trial import tried

    speed = bytes_per_second(workers)
    notes.print("the flow, one task after the other …")
    seen.trials.append(tried(target, SEQUENTIAL, workers, assignments, limit=limit))
    for spec in specs:
        if not spec.is_installed:
            notes.print(f"{spec.name} is not installed: {spec.install}")
            continue
        notes.print(f"the flow on {spec.name} …")
        seen.trials.append(tried(target, spec.name, workers, assignments, limit=limit))
        notes.print(f"what a task costs on {spec.name} …")
        _measure(seen, spec, workers, speed, notes)


def _measure(seen: Seen, spec: ContestantSpec, workers: int, speed: float, notes: Console) -> None:
    """Finds the minimum effective task granularity, METG(50 %), from what a mapped no-op costs.

    At an overhead of O for each task and worker, tasks of the length O are half of the time work (`scenarios.metg`
    searches for it instead, which takes longer, and an idle machine).
    """
    from shoal_bench.live.process import LiveProcess, Lost, Void
    from shoal_bench.scenarios.overhead import Overhead

    case = next(case for case in Overhead().cases(full=False) if case.name == "map")
    try:
        live = LiveProcess(spec, workers, speed)
        try:
            size = live.warm(Overhead.name, case)
            cost = live.sample(Overhead.name, case, size, 1).value
            seen.metg[spec.name] = workers * cost
            live.close()
        finally:
            live.kill()
    except (Lost, Void) as error:
        notes.print(f"  not known: {error}")


def _show(seen: Seen) -> None:
    from rich.console import Console

    from shoal_bench.table import WIDTH
    from shoal_bench.trial.words import advise

    console = Console(width=WIDTH, highlight=False)
    console.print(_table(seen))
    for sentence in advise(seen.trials, seen.metg):
        console.print(sentence, soft_wrap=True)


def _table(seen: Seen) -> Table:
    from rich import box
    from rich.table import Table

    from shoal_bench.measurement import BYTES, SECONDS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("runner")
    headings = ("time", "of it start", "processors", "through the driver", "shortest tasks")
    for heading in headings:
        table.add_column(heading, justify="right")
    for trial in seen.trials:
        shortest = seen.metg.get(trial.runner)
        failed = trial.failed is not None
        table.add_row(
            trial.runner,
            "failed" if failed else SECONDS.show(trial.seconds),
            "" if failed else SECONDS.show(trial.started),
            "" if failed or trial.cpu is None else SECONDS.show(trial.cpu),
            "" if failed else BYTES.show(trial.moved),
            "" if shortest is None else SECONDS.show(shortest),
        )
    return table
