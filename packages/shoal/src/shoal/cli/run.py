"""`shoal run`: runs a flow of a file or module."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shoal import settings
from shoal.cli.console import UsageError, print_failure, print_value
from shoal.cli.report import check_paths, recorded
from shoal.cli.signals import Signals
from shoal.exceptions import ShoalError
from shoal.names import next_number

if TYPE_CHECKING:
    from shoal import Flow

__all__ = ["Named", "Progress", "Report", "Trace", "carried_out", "run", "with_runner"]

#: A string that names a runner. Those of ours are what a shell completes, and what help lists; any other will do.
Named = Literal["threads", "processes", "sequential", "dask", "ray"] | str  # noqa: PYI051

Report = Annotated[
    str | Path | None,
    Parameter(help="Write a page of what ran, `out.html`; it opens without a network"),
]
Trace = Annotated[
    str | Path | None, Parameter(help="Write a timeline for ui.perfetto.dev, `out.pftrace`")
]
Progress = Annotated[
    bool, Parameter(help="Show on a terminal what runs; `SHOAL_PROGRESS=0` says no, too")
]


def run(
    target: Annotated[
        str | Path,  # text; that it may be a path is for shells, which complete it
        Parameter(help="`path/to/file.py:flow` or `package.module:flow`"),
    ],
    /,
    *,
    runner: Annotated[
        Named | None,
        Parameter(
            name=["--runner", "-r"],
            help="Task runner in place of the flow's own, say `threads:4`; `shoal runners` lists them",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        Parameter(
            name=["--param", "-p"],
            negative=(),
            help="A parameter, `name=value`, as text or JSON; repeat it for several",
        ),
    ] = None,
    report: Report = None,
    trace: Trace = None,
    journal: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Remember what completes, so that `shoal resume` can go on if the flow fails or is killed",
        ),
    ] = False,
    progress: Progress = True,
) -> int:
    """Run a flow and print what it returns.

    `:flow` may be left out where there is only one. Log lines and errors go to stderr. The exit code is 0 if the flow
    completed, 1 if it failed, 2 if the command line is wrong.

    For example: `shoal run etl.py:nightly --runner threads:4 -p day=2024-05-01 -p 'shops=[1, 2]'`
    """
    from shoal.cli.parameters import parse
    from shoal.cli.targets import find_flow

    with Signals() as signals:
        try:
            check_paths(report, trace)
            flow = with_runner(find_flow(str(target)), runner)
            if journal:
                flow = flow.with_options(journal=True)
            args, kwargs = parse(flow, param or [])
        except (UsageError, ShoalError):
            raise
        except Exception as error:  # the user's module cannot be loaded
            signals.raise_again()
            print_failure(error)
            return 1
        return carried_out(flow, args, kwargs, signals, report, trace, progress)


def carried_out(
    flow: Flow[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    signals: Signals,
    report: str | Path | None,
    trace: str | Path | None,
    progress: bool,
) -> int:
    """Runs a flow, prints what it returns or how it failed, and gives the exit code."""
    if not progress:
        os.environ["SHOAL_PROGRESS"] = "0"
    from shoal.task_runners.base import STOPPED

    first, taken = next_number(), STOPPED.taken
    try:
        with recorded(report, trace):
            value = flow(*args, **kwargs)
            if flow.is_async:
                value = signals.run(value)
    except Exception as error:
        signals.raise_again()
        print_failure(error)
        others = next_number() - first - 2  # but for the flow run's; elements of maps have none
        if max(others, STOPPED.taken - taken) > 1 and not _may_go_on(flow):
            print(
                "To have the next run go on where it stops, begin it with --journal.",
                file=sys.stderr,
            )
        return 1
    if value is not None:
        print_value(value)
    return 0


def _may_go_on(flow: Flow[..., Any]) -> bool:
    """Whether the runs of a flow have a journal, or it was said that they are to have none."""
    return flow.resumes is not None or flow.journal is not None or settings.journal()


def with_runner(flow: Flow[..., Any], runner: str | None) -> Flow[..., Any]:
    """The flow with another runner, if one was asked for; in any case with one that there is.

    Raises:
        UnknownRunner: the text names none.
        MissingExtraError: it names one of a package that is not installed.
        InvalidOption: the runner refuses its argument.
    """
    if runner is not None:
        flow = flow.with_options(task_runner=runner)
    flow.make_runner()
    return flow
