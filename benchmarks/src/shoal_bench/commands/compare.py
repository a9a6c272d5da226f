"""`shoal bench compare a.json b.json`: what changed beyond noise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from shoal_bench.changes import Change

__all__ = ["compare"]


def compare(
    before: Path,
    after: Path,
    *,
    fail_over: Annotated[str | None, Parameter(name="--fail-over")] = None,
) -> int:
    """Print what changed between two records beyond noise.

    Runners are compared by what they cost beside their bare engine, all others by what they cost.

    Args:
        before: a file that `shoal bench --json` has written.
        after: another one.
        fail_over: end with 1 if something of ours costs more than before by more than this, such as 10%.
    """
    from rich.console import Console

    from shoal_bench.changes import changes, worse_than
    from shoal_bench.commands.files import REFUSED, Refused
    from shoal_bench.record import UnreadableRecord, read
    from shoal_bench.table import WIDTH

    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        share = None if fail_over is None else _share(fail_over)
        found = list(changes(read(before), read(after)))
    except (Refused, UnreadableRecord) as error:
        notes.print(f"Error: {error}")
        return REFUSED
    beyond = [change for change in found if change.beyond_noise]
    console = Console(width=WIDTH, highlight=False)
    if beyond:
        console.print(_table(beyond))
    console.print(f"{len(beyond)} of {len(found)} figures changed beyond noise.")
    worse = [] if share is None else worse_than(found, share)
    for change in worse:
        notes.print(f"{change.place}, {change.contestant}: {change.times - 1:+.0%}")
    return 1 if worse else 0


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
        table.add_row(
            change.place,
            change.contestant,
            "ratio" if change.is_ratio else "value",
            f"{change.before.median:.3g}",
            f"{change.after.median:.3g}",
            f"{change.times - 1:+.0%}",
        )
    return table
