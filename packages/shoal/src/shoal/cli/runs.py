"""`shoal runs`: lists, shows and removes the journals of flow runs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from shoal.cli.console import UsageError
from shoal.cli.tables import AsJson, Output, local, print_json, table_of
from shoal.recording.report.words import many, size

if TYPE_CHECKING:
    from shoal.results.journal import Found

__all__ = ["runs"]

runs = App(
    help="The flow runs of this machine that have a journal; `shoal resume NAME` goes on with one.",
)


def _names(context: object) -> list[str]:
    from shoal.results.journal import journals

    return [found.name for found in journals()]


Name = Annotated[str, Parameter(help="The name of the flow run, or `last`", completer=_names)]


@runs.command
def ls(*, json: AsJson = False, output: Output = None) -> None:
    """List all, the one begun last first."""
    from shoal.results.journal import journals

    found = journals()
    if json or output:
        print_json([_as_json(one) for one in found])
    elif not found:
        print("No flow run is remembered. Begin one with `shoal run FLOW --journal`.")
    else:
        table_of(
            ("NAME", "FLOW", "STATE", "BEGUN", "COMPLETED", "SIZE"),
            [
                (
                    one.name,
                    one.facts.header.flow if one.facts is not None else "",
                    _state(one),
                    local(_time(one.created)),
                    _completed(one),
                    size(one.size),
                )
                for one in found
            ],
        )


@runs.command
def show(name: Name, /, *, json: AsJson = False, output: Output = None) -> None:
    """Show one: what it ran, and how much of that is remembered."""
    from shoal.results.journal import find

    found = find(name)
    if json or output:
        print_json(_as_json(found))
        return
    facts = found.facts
    told: list[tuple[str, object]] = [("name", found.name), ("state", _state(found))]
    if facts is not None:
        header = facts.header
        told += [
            ("flow", header.flow),
            ("code", f"{header.path or header.module}:{header.qualname}"),
            ("id", header.run),
            ("begun", local(_time(header.created))),
            *[("gone on with", local(_time(said["time"]))) for said in facts.begun[1:]],
            ("Shoal, Python", f"{header.shoal}, {header.python}"),
            *[
                (f"`{task}`", f"{completed:,} of {submitted:,}")
                for task, (completed, submitted) in facts.progress().items()
            ],
        ]
    told += [("size", size(found.size)), ("folder", found.folder)]
    width = max(len(label) for label, _ in told)
    for label, value in told:
        print(f"{label:<{width}}  {value}")


@runs.command
def rm(
    *names: Annotated[str, Parameter(help="The name of the flow run, or `last`", completer=_names)],
    all_of_them: Annotated[
        bool,
        Parameter(name="--all", negative=(), help="All, but for those that are under way"),
    ] = False,
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask before all are removed")] = False,
) -> None:
    """Remove journals: these flow runs cannot be resumed any more."""
    from shoal.results.journal import find, journals, remove_all

    if bool(names) == all_of_them:
        raise UsageError("say which journals are to go: one name or more, or --all")
    if all_of_them:
        if not yes and not _is_sure(len(journals())):
            raise UsageError("nothing was removed: --yes removes all without a question")
        count, freed = remove_all()
        print(f"Removed: {many(count, 'journal')}, {size(freed)}.")
        return
    for found in [find(name) for name in names]:
        found.remove()
        print(f"Removed: {found.name}, {size(found.size)}.")


def _is_sure(count: int) -> bool:
    """Asks, where somebody is there to answer."""
    if not sys.stdin.isatty():
        return False
    question = (
        f"Remove the journals of {many(count, 'flow run')}, which cannot be resumed then? [y/N] "
    )
    return input(question).strip().lower() in ("y", "yes")


def _state(found: Found) -> str:
    facts = found.facts
    if facts is None:
        return f"cannot be read: {found.problem}"
    if facts.ended is not None:
        return str(facts.ended["state"])
    return "Running" if found.is_busy() else "Killed"


def _completed(found: Found) -> str:
    if found.facts is None:
        return ""
    progress = found.facts.progress().values()
    return f"{sum(done for done, _ in progress):,} of {sum(all_ for _, all_ in progress):,}"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _as_json(found: Found) -> dict[str, Any]:
    facts = found.facts
    told: dict[str, Any] = {
        "name": found.name,
        "state": _state(found),
        "created": _time(found.created).isoformat(),
        "size": found.size,
        "folder": str(found.folder),
    }
    if facts is not None:
        told |= {
            "id": facts.header.run,
            "flow": facts.header.flow,
            "path": facts.header.path,
            "tasks": [
                {"name": task, "completed": completed, "submitted": submitted}
                for task, (completed, submitted) in facts.progress().items()
            ],
        }
    return told
