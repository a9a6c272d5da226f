"""`shoal report`: makes pages of the record of a run."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_paths", "recorded", "report"]


def report(
    record: Annotated[
        str | Path,
        Parameter(help="A file that `recording.save` or `shoal.record(path)` has written"),
    ],
    /,
    *,
    output: Annotated[
        str | Path | None,
        Parameter(name=["--output", "-o"], help="The page; by default beside the record, `.html`"),
    ] = None,
    trace: Annotated[
        str | Path | None, Parameter(help="Write a timeline for ui.perfetto.dev, too")
    ] = None,
) -> int:
    """Make a page of the record of a run: what ran when, what failed, and what took the time.

    For example: `shoal report nightly.shoal`
    """
    from shoal import Recording

    recording = Recording.open(record)
    if trace is not None:
        print(recording.trace(trace))
    print(recording.report(Path(record).with_suffix(".html") if output is None else output))
    return 0


def check_paths(*paths: str | Path | None) -> None:
    """Sees that files can be written.

    Raises:
        RecordError: one cannot.
    """
    for path in paths:
        if path is not None:
            from shoal.recording.recording import check_writable

            check_writable(str(path))


@contextmanager
def recorded(report: str | Path | None, trace: str | Path | None) -> Iterator[None]:
    """Records what runs inside, and then writes what was asked for, however that ended."""
    if report is None and trace is None:
        yield
        return
    from shoal import record

    recording = record()
    try:
        with recording:
            yield
    finally:
        for path, write in ((report, recording.report), (trace, recording.trace)):
            if path is not None:
                print(f"Written: {write(path)}", file=sys.stderr)
