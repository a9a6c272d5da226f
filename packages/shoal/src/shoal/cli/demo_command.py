"""`shoal demo`: runs the flow of `demo.py` and shows how it gets on."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from shoal.cli.console import print_failure
from shoal.cli.report import check_paths
from shoal.cli.run import Named, with_runner
from shoal.cli.signals import Signals

__all__ = ["demo"]


def demo(
    *,
    runner: Annotated[
        Named | None,
        Parameter(
            name=["--runner", "-r"],
            help="Task runner, say `threads:4`; `shoal runners` lists them",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        Parameter(
            name=["--limit", "-n"],
            validator=validators.Number(gte=1),
            help="Measure so many files at the most",
        ),
    ] = None,
    report: Annotated[
        str | Path, Parameter(help="Where to write the page of what ran when")
    ] = "shoal-demo.html",
) -> int:
    """Survey Python's standard library: a flow of nearly a thousand task runs.

    It parses every file, ranks modules and functions, and works out which module imports which. The flow is an example
    to learn from: `shoal/cli/demo.py`. What ran when, and what took the time, is on the page that it leaves.
    """
    # A file that does not parse makes a failed run and a log line; the summary tells of it in any case.
    os.environ.setdefault("SHOAL_LOGGING_LEVEL", "CRITICAL")
    os.environ["SHOAL_PROGRESS"] = "0"  # it shows its own
    from shoal import record
    from shoal.cli.demo import survey
    from shoal.cli.demo_screen import Progress, show

    check_paths(report)
    flow = with_runner(survey, runner)
    recording = record()
    with Signals() as signals, tempfile.TemporaryDirectory(prefix="shoal-demo-") as folder:
        started = time.perf_counter()
        try:
            with recording, Progress(flow.make_runner().name) as progress:
                found = flow(Path(folder, "report.md"), limit, progress.watch)
        except Exception as error:
            signals.raise_again()
            print_failure(error)
            return 1
        seconds = time.perf_counter() - started
    show(found, seconds, repr(flow.make_runner()), recording.report(report))
    return 0
