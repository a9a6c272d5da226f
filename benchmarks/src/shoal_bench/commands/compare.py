"""`shoal bench compare a.json b.json`: what changed beyond noise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.table import Table

    from shoal_bench.changes import Aside, Change

__all__ = ["compare"]


def compare(
    before: Path,
    after: Path,
    *,
    fail_over: Annotated[str | None, Parameter(name="--fail-over")] = None,
) -> int:
    """Print what changed between two records beyond noise.

    Runners are compared by what they cost beside their bare engine, all others by what they cost. A figure has changed if
    chance hardly explains how its rounds differ (rank-sum test, p < 0.01: one of a hundred that have not changed seems to).

    Args:
        before: a file that `shoal bench --json` has written.
        after: another one.
        fail_over: end with 1 if something of ours costs more than before by more than this, such as 10%; and if a figure
            of ours has gone, or none can be compared.
    """
    from rich.console import Console

    from shoal_bench.changes import changes, worse_than
    from shoal_bench.commands.files import REFUSED, Refused
    from shoal_bench.record import UnreadableRecord, read
    from shoal_bench.table import WIDTH

    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        share = None if fail_over is None else _share(fail_over)
        found = changes(read(before), read(after))
    except (Refused, UnreadableRecord) as error:
        notes.print(f"Error: {error}")
        return REFUSED
    beyond = [change for change in found.compared if change.beyond_noise]
    console = Console(width=WIDTH, highlight=False)
    if beyond:
        console.print(_table(beyond))
    console.print(f"{len(beyond)} of {len(found.compared)} figures changed beyond noise.")
    for what, asides in (
        ("Lost", found.lost),
        ("New", found.added),
        ("Not compared", found.skipped),
    ):
        for line in _lines(what, asides):
            console.print(line, markup=False, soft_wrap=True)
    if share is None:
        return 0
    worse = worse_than(found, share)
    lost = [aside for aside in found.lost if aside.ours]
    for change in worse:
        notes.print(f"{change.place}, {change.contestant}: {change.times - 1:+.0%}")
    for aside in lost:
        notes.print(f"{aside.place}, {aside.contestant}: lost, {aside.reason}")
    is_nothing = not any(change.ours for change in found.compared)
    if is_nothing:
        notes.print("Nothing of ours can be compared.")
    return 1 if worse or lost or is_nothing else 0


def _lines(what: str, asides: Iterable[Aside]) -> Iterator[str]:
    """A line for each place and reason, with all it is true of."""
    names: dict[tuple[str, str], list[str]] = {}
    for aside in asides:
        names.setdefault((aside.place, aside.reason), []).append(aside.contestant)
    for (place, reason), contestants in names.items():
        yield f"{what}: {place}, {', '.join(contestants)}: {reason}"


def _share(text: str) -> float:
    """A share such as `10%` or `0.1`.

    Raises:
        Refused: it is no share.
    """
    from shoal_bench.commands.files import Refused

    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    if found is None:
        raise Refused(f"--fail-over {text}: a share such as 10% is needed")
    return float(found[1]) / (100 if found[2] else 1)


def _table(found: list[Change]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "contestant", "compared"):
        table.add_column(heading)
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for change in found:
        before, after = change.medians
        table.add_row(
            change.place,
            change.contestant,
            "ratio" if change.is_ratio else "value",
            f"{before:.3g}",
            f"{after:.3g}",
            f"{change.times - 1:+.0%}",
        )
    return table
