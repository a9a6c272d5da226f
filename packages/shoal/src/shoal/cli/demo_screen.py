"""What `shoal demo` shows: how many files are measured while it runs, then the rankings and what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich import progress
from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from shoal.futures import as_completed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shoal.cli.demo import Module, Ranking, Survey
    from shoal.futures import TaskFuture

__all__ = ["Progress", "show"]

#: Rows of each table.
SHOWN = 7


#: Runners that take their time to start, and what is started.
STARTS = {"processes": "worker processes", "dask": "Dask", "ray": "Ray"}


class Progress:
    """What is shown meanwhile, on stderr: moving on a terminal, elsewhere a line for each thing worth one.

    Args:
        runner: the name of the runner.
    """

    def __init__(self, runner: str) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._starts = f"starting {STARTS[runner]} ..." if runner in STARTS else ""
        self._status = self._console.status(self._starts)

    def __enter__(self) -> Self:
        if self._starts and self._console.is_terminal:
            self._status.start()
        elif self._starts:
            self._console.print(self._starts, soft_wrap=True)
        return self

    def __exit__(self, *raised: object) -> None:
        self._status.stop()

    def watch(self, files: Sequence[TaskFuture[Module]]) -> None:
        """Waits for the files, and shows how many have ended; their runner has started."""
        self._status.stop()
        if not self._console.is_terminal:
            for done, _ in enumerate(as_completed(files), start=1):
                if done * 4 // len(files) > (done - 1) * 4 // len(files):
                    line = f"measured {done} of {len(files)} files"
                    self._console.print(line, soft_wrap=True)
            return
        columns = (
            TextColumn("measuring files"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with progress.Progress(*columns, console=self._console) as bar:
            for _ in bar.track(as_completed(files), total=len(files)):
                pass


def show(found: Survey, seconds: float, runner: str, report: Path) -> None:
    """Prints the rankings, side by side as far as they fit, what it took, and where the page of that is."""
    console = Console(highlight=False, markup=False)
    console.print(Columns([_table(ranking) for ranking in found.rankings], padding=(1, 3)))
    files = len(found.modules) + len(found.failures)
    lines = sum(module.lines for module in found.modules)
    functions = sum(module.functions for module in found.modules)
    edges = sum(map(len, found.imports.values()))
    work = sum(module.seconds for module in found.modules)
    summary = [
        f"{files} files, {lines:,} lines, {functions:,} functions; {len(found.imports)} modules, {edges:,} imports",
        f"{seconds:.2f} s on {runner}: {found.task_runs:,} task runs, {found.task_runs / seconds:,.0f} a second",
        f"a report of {len(found.attempts)} sections, which took {sum(found.attempts)} attempts to write",
    ]
    if found.failures:
        summary.append(
            f"{len(found.failures)} files do not parse: {', '.join(sorted(found.failures))}"
        )
    summary.append(_gain(work, found.seconds, seconds - found.seconds))
    summary.append(f"what ran when, and what took the time: {report}")
    for line in summary:
        console.print(line, soft_wrap=True)


def _gain(work: float, flow: float, start: float) -> str:
    """What the runner was worth: a single worker would have taken the processor time of all files.

    Args:
        work: seconds of processors that the files took, together.
        flow: seconds that the flow took, once its runner had started.
        start: seconds until then, and to stop it.
    """
    return (
        f"{work:.2f} s of a processor's work in {flow:.2f} s: {work / flow:.1f}x one worker"
        f" ({start:.2f} s to start and stop the runner)"
    )


def _table(ranking: Ranking) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(ranking.unit, justify="right")
    table.add_column(ranking.title, no_wrap=True)
    for name, number in ranking.rows[:SHOWN]:
        table.add_row(f"{number:,}", name)
    return table
