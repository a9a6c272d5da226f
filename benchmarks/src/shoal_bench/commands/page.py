"""`--report` and `--plot`, and `shoal bench report record.json`: the same from a record that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from shoal_bench.record import Record

__all__ = ["check_picture", "check_targets", "report", "write_looks"]


def report(
    record: Path,
    *,
    report_file: Annotated[Path | None, Parameter(name="--report")] = None,
    plot: Annotated[Path | None, Parameter(name="--plot")] = None,
) -> int:
    """Make a page or a picture from a record that was saved.

    Args:
        record: a file that `shoal bench --json` has written.
        report_file: write one page in HTML to this file; it opens without a network.
        plot: write the main charts as one picture in PNG to this file.
    """
    from rich.console import Console

    from shoal_bench.commands.files import REFUSED, Refused
    from shoal_bench.record import UnreadableRecord, read

    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        if report_file is None and plot is None:
            raise Refused("say what to write: --report FILE, --plot FILE, or both")
        check_targets(report_file, plot, source=record)
        check_picture(plot)
        loaded = read(record)
    except (Refused, UnreadableRecord) as error:
        notes.print(f"Error: {error}", markup=False)
        return REFUSED
    try:
        write_looks(loaded, report_file, plot)
    except Refused as error:
        notes.print(f"Error: {error}", markup=False)
        return 1
    return 0


def check_targets(*targets: Path | None, source: Path | None = None) -> None:
    """Makes sure that files can be written, as far as can be known before.

    Args:
        targets: what is to be written.
        source: what it is made of, which must stay.

    Raises:
        Refused: one cannot be written, or two are the same.
    """
    from shoal_bench.commands.files import Refused, check_target

    taken = set() if source is None else {source.resolve()}
    for path in targets:
        if path is None:
            continue
        check_target(path)
        if path.resolve() in taken:
            raise Refused(f"{path} cannot be two files")
        taken.add(path.resolve())


def check_picture(plot: Path | None) -> None:
    """Makes sure that a picture is not named as if it were of another kind.

    Raises:
        Refused: it is.
    """
    from shoal_bench.commands.files import Refused

    if plot is not None and plot.suffix.lower() not in ("", ".png"):
        raise Refused(f"{plot}: the picture is a PNG, and should be named so")


def write_looks(record: Record, report_file: Path | None, plot: Path | None) -> None:
    """Writes what people look at.

    Args:
        record: what was measured.
        report_file: where the page goes; none, if nowhere.
        plot: where the picture goes; none, if nowhere.

    Raises:
        Refused: a file could not be written, or there is nothing to draw.
    """
    if report_file is None and plot is None:
        return
    from shoal_bench.commands.files import Refused, write
    from shoal_bench.page.document import NothingToDraw, page, picture

    if report_file is not None:
        write(report_file, page(record))
    if plot is not None:
        try:
            drawn = picture(record)
        except NothingToDraw as error:
            raise Refused(f"{plot} was not written: {error}") from error
        write(plot, drawn)
