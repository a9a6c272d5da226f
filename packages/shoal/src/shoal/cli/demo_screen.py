"""What `shoal demo` shows: how many files are measured while it runs, then the rankings and what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from shoal.futures import as_completed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.cli.demo import Module, Ranking, Survey
    from shoal.futures import TaskFuture

__all__ = ["show", "watch"]

#: Rows of each table.
SHOWN = 7


def watch(files: Sequence[TaskFuture[Module]]) -> None:
    """Waits for the files: with a bar on a terminal, elsewhere with a line for each quarter of them."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        for done, _ in enumerate(as_completed(files), start=1):
            if done * 4 // len(files) > (done - 1) * 4 // len(files):
                console.print(f"measured {done} of {len(files)} files", soft_wrap=True)
        return
    columns = (
        TextColumn("measuring files"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for _ in progress.track(as_completed(files), total=len(files)):
            pass


def show(found: Survey, seconds: float, runner: str) -> None:
    """Prints the rankings, side by side as far as they fit, and what it took."""
    console = Console(highlight=False, markup=False)
    console.print(Columns([_table(ranking) for ranking in found.rankings], padding=(1, 3)))
    files = len(found.modules) + len(found.failures)
    lines = sum(module.lines for module in found.modules)
    functions = sum(module.functions for module in found.modules)
    edges = sum(map(len, found.imports.values()))
    summary = [
        f"{files} files, {lines:,} lines, {functions:,} functions; {len(found.imports)} modules, {edges:,} imports",
        f"{seconds:.2f} s on {runner}: {found.task_runs:,} task runs, {found.task_runs / seconds:,.0f} a second",
        f"a report of {len(found.attempts)} sections, which took {sum(found.attempts)} attempts to write",
    ]
    if found.failures:
        summary.append(
            f"{len(found.failures)} files do not parse: {', '.join(sorted(found.failures))}"
        )
    for line in summary:
        console.print(line, soft_wrap=True)


def _table(ranking: Ranking) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(ranking.unit, justify="right")
    table.add_column(ranking.title, no_wrap=True)
    for name, number in ranking.rows[:SHOWN]:
        table.add_row(f"{number:,}", name)
    return table
