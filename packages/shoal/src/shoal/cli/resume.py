"""`shoal resume`: goes on with a flow run that failed or was killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from shoal.cli.console import UsageError, print_failure
from shoal.cli.report import check_paths
from shoal.cli.run import Named, Progress, Report, Trace, carried_out
from shoal.cli.signals import Signals
from shoal.exceptions import JournalError, ShoalError

if TYPE_CHECKING:
    from shoal import Flow
    from shoal.results.journal import Found

__all__ = ["resume"]


def _names(context: object) -> list[str]:
    from shoal.results.journal import journals

    return ["last", *(found.name for found in journals())]


def resume(
    name: Annotated[
        str,
        Parameter(
            help="The name of the flow run, or `last` for the one begun last", completer=_names
        ),
    ],
    /,
    *,
    runner: Annotated[
        Named | None,
        Parameter(name=["--runner", "-r"], help="Task runner in place of the one it began on"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="A task whose results are reused although its code has changed; repeat it for several",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        Parameter(
            name=["--param", "-p"],
            negative=(),
            help="A parameter in place of the one it began with, `name=value`, as text or JSON; repeat it for several",
        ),
    ] = None,
    report: Report = None,
    trace: Trace = None,
    progress: Progress = True,
) -> int:
    """Go on with a flow run that has a journal, and print what the flow returns.

    The flow's body runs again; task runs that completed are not executed again, unless their code or their inputs have changed. A
    run has a journal if it was begun with `shoal run --journal`, `@flow(journal=True)` or `SHOAL_JOURNAL=1`. The exit code is
    that of `shoal run`.

    For example: `shoal resume polite-magpie`
    """
    from shoal.cli.parameters import parse
    from shoal.results.journal import find, resumed

    with Signals() as signals:
        try:
            check_paths(report, trace)
            flow = _flow_of(find(name))
            _, given = parse(flow, param or [], some=True)
            flow, args, kwargs = resumed(flow, name, given, keep=keep or (), runner=runner or "")
        except (UsageError, ShoalError):
            raise
        except Exception as error:  # the user's module cannot be loaded
            signals.raise_again()
            print_failure(error)
            return 1
        return carried_out(flow, args, kwargs, signals, report, trace, progress)


def _flow_of(found: Found) -> Flow[..., Any]:
    """The flow as the code has it today.

    Raises:
        JournalError: the journal cannot be read, or the code is not in a file.
        ScriptError: there is no such file or module any more.
        FlowNotFound: the flow is not in it any more.
    """
    from shoal.cli.targets import find_flow

    if found.facts is None:
        raise JournalError(path=str(found.folder), problem=found.problem)
    header = found.facts.header
    if not header.path:
        raise JournalError(
            path=str(found.folder),
            problem=f"the code of its flow is in no file: go on in Python, by {header.call}",
        )
    if not header.qualname.isidentifier():
        raise JournalError(
            path=str(found.folder),
            problem=f"its flow is not at the top of a module: go on in Python, by {header.call}",
        )
    _, _, package = header.module.rpartition(".")
    if package == header.module or header.module == "__main__":
        place = header.path
    else:
        place = header.module
        root = Path(header.path).parents[header.module.count(".")]
        sys.path.insert(0, str(root))
    flow = find_flow(f"{place}:{header.qualname}")
    if flow.name == header.flow:
        return flow
    return find_flow(f"{place}:{header.flow}")  # another one of its function, by `with_options`
