"""What a comparison shows while it runs: on a terminal a line that moves, elsewhere a line for each case."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shoal_bench.comparison import Listener

__all__ = ["Line", "Lines", "Shown", "shown_on"]


class Shown(Listener, Protocol):
    """A listener that shows something while it is entered."""

    def __enter__(self) -> Self:
        """Begins to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it."""
        ...


def shown_on(console: Console) -> Shown:
    """What suits a console."""
    return Line(console) if console.is_terminal else Lines(console)


class Line:
    """A line with what runs, a bar, and how long it will still take.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:44.44}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            speed_estimate_period=120.0,  # seconds; cases take differently long
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def planned(self, steps: int) -> None:
        """See `Listener`."""
        self._steps = max(steps, 1)

    def begins(self, engine: str, what: str) -> None:
        """See `Listener`."""
        self._console.print(f"{self._done / self._steps:4.0%} {engine}: {what}")

    def did(self, steps: int) -> None:
        """See `Listener`."""
        self._done += steps
