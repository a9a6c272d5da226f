"""What a comparison shows while it runs: on a terminal a line that moves, elsewhere a line for each case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shoal_bench.comparison import Listener

__all__ = ["Line", "Lines", "shown_on"]


@contextmanager
def shown_on(console: Console) -> Iterator[Listener]:
    """What suits a console, which shows it meanwhile."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Progress(
        TextColumn("{task.description:44.44}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        transient=True,
        speed_estimate_period=120.0,  # seconds; cases take differently long
    ) as progress:
        yield Line(progress)


class Line:
    """A line with what runs, a bar, and how long it will still take.

    Args:
        progress: what shows it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def planned(self, steps: int) -> None:
        """See `Listener`."""
        self._progress.update(self._task, total=steps)

    def begins(self, engine: str, what: str) -> None:
        """See `Listener`."""
        self._progress.update(self._task, description=f"{engine}: {what}")

    def did(self, steps: int) -> None:
        """See `Listener`."""
        self._progress.advance(self._task, steps)


class Lines:
    """A line for each case that begins, with how much is done.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = 0
        self._steps = 1

    def planned(self, steps: int) -> None:
        """See `Listener`."""
        self._steps = max(steps, 1)

    def begins(self, engine: str, what: str) -> None:
        """See `Listener`."""
        self._console.print(f"{self._done / self._steps:4.0%} {engine}: {what}")

    def did(self, steps: int) -> None:
        """See `Listener`."""
        self._done += steps
