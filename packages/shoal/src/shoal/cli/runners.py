"""`shoal runners`: what there is to run tasks on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from shoal import settings
from shoal.exceptions import MissingExtraError

__all__ = ["runners"]


@dataclass(frozen=True)
class _Runner:
    """A runner that is installed, or could be.

    Attributes:
        name: what selects it.
        package: the package that brings it.
        version: of the package; `None` if it is not installed.
        engines: versions of the execution systems that the package brings.
        is_default: whether flows that name none have it.
        install: what installs it; `None` if it is.
    """

    name: str
    package: str
    version: str | None
    engines: dict[str, str | None] = field(default_factory=dict)
    is_default: bool = False
    install: str | None = None


def runners(
    *,
    json_output: Annotated[
        bool, Parameter(name="--json", negative=(), help="Print the list as JSON only")
    ] = False,
) -> None:
    """List the task runners that are installed, how to select one, and how to install the others."""
    import json

    found = _runners()
    if json_output:
        print(json.dumps([asdict(runner) for runner in found], indent=2))
    else:
        _show(found)


def _runners() -> list[_Runner]:
    from shoal.task_runners import registry

    default, _ = registry.parts(settings.task_runner())
    found = [
        _Runner(name, *_package(entry), is_default=name == default)
        for name, entry in sorted(registry.installed().items())
    ]
    for name, package in registry.missing().items():
        command = MissingExtraError(
            feature=f"the task runner {name!r}", requirement=package
        ).command
        found.append(_Runner(name, package, None, install=command))
    return found


def _package(entry: Any) -> tuple[str, str, dict[str, str | None]]:
    """Name and version of the package that brings a runner, and of the engines that it brings."""
    from shoal.cli.doctor_facts import PACKAGES, version_of

    if entry.dist is None:
        return "?", "?", {}
    engines = {engine: version_of(engine) for engine in PACKAGES.get(entry.dist.name, ())}
    return entry.dist.name, entry.dist.version, engines


def _show(found: list[_Runner]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("RUNNER", "PACKAGE", "VERSION", "SELECT WITH", "ENGINE"):
        table.add_column(title, no_wrap=True)
    for runner in found:
        if runner.install is None:
            select = f"-r {runner.name}" + (" (the default)" if runner.is_default else "")
            engines = [f"{name} {version or '?'}" for name, version in runner.engines.items()]
            table.add_row(runner.name, runner.package, runner.version, select, "\n".join(engines))
        else:
            table.add_row(runner.name, Text("not installed"), style="dim")
    console = Console(highlight=False, markup=False)
    console.print(table, soft_wrap=True)
    for runner in found:
        if runner.install is not None:
            line = f"\n{runner.name} comes with {runner.package}; in a clone: {runner.install}"
            console.print(line, soft_wrap=True)
    console.print(
        '\nIn code: @flow(task_runner="threads:4"). For all flows that name none: SHOAL_TASK_RUNNER=threads:4.',
        soft_wrap=True,
    )
