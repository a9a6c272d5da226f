"""`shoal runners`: what there is to run tasks on."""

from __future__ import annotations

from typing import Any

from shoal import settings
from shoal.exceptions import MissingExtraError, UnknownRunner

__all__ = ["runners"]


def runners() -> None:
    """List the task runners that are installed, how to select one, and how to install the others."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shoal.task_runners import registry

    found = registry.installed()
    default = settings.task_runner().partition(":")[0]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("RUNNER", "PACKAGE", "VERSION", "SELECT WITH"):
        table.add_column(title, no_wrap=True)
    for name, entry in sorted(found.items()):
        select = f"--runner {name}" + ("  (the default)" if name == default else "")
        table.add_row(name, *_package(entry), select)
    for name, command in _missing(found).items():
        table.add_row(name, Text("not installed"), "", command, style="dim")
    console = Console(highlight=False, markup=False)
    console.print(table, soft_wrap=True)
    console.print(
        '\nIn code: @flow(task_runner="threads:4"). For all flows that name none: SHOAL_TASK_RUNNER=threads:4.',
        soft_wrap=True,
    )


def _package(entry: Any) -> tuple[str, str]:
    """The name and version of the package that brings a runner."""
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("?", "?")


def _missing(found: dict[str, Any]) -> dict[str, str]:
    """The runners of ours that are not installed, and the command that installs each."""
    from shoal.task_runners import registry

    commands: dict[str, str] = {}
    for name in _known():
        if name not in found:
            try:
                registry.load(name)
            except MissingExtraError as error:
                commands[name] = error.command
    return commands


def _known() -> list[str]:
    """All runners that the registry has heard of: it tells who asks for one that cannot be."""
    from shoal.task_runners import registry

    try:
        registry.load("?")
    except UnknownRunner as error:
        return list(error.known)
    return []
