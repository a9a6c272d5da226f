"""Whether the driver and its workers have installed what works together: versions, compared.

The runner asks for the versions, in its own way; here nothing is sent anywhere. May import the standard library only.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MISSING", "Comparison", "compare", "versions"]

#: The version of what is not installed.
MISSING = "missing"

#: Places of which there is one; others are workers, by address.
_SINGLE = ("driver", "scheduler", "cluster", "worker")


class Comparison(NamedTuple):
    """How environments differ.

    Attributes:
        problem: what cannot work, `None` if nothing.
        rows: what differs, by package and place.
    """

    problem: str | None
    rows: dict[str, dict[str, str]]

    @property
    def table(self) -> str:
        """The rows as an aligned text."""
        if not self.rows:
            return ""
        places = list(next(iter(self.rows.values())))
        lines = [["", *places]]
        lines += [[package, *row.values()] for package, row in self.rows.items()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


@cache
def _versions(packages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = platform.python_version() if package == "python" else version(package)
        except PackageNotFoundError:
            found[package] = MISSING
    return tuple(found.items())


def versions(packages: Iterable[str]) -> dict[str, str]:
    """What this process has of these packages; `"python"` counts as one."""
    return dict(_versions(tuple(packages)))


def compare(
    described: Mapping[str, Mapping[str, str]], packages: Mapping[str, int | None]
) -> Comparison:
    """How environments differ, and whether they work together.

    Args:
        described: versions by package, by place; the driver comes first.
        packages: how many parts of a package's version must agree; `None` if any will do, or none at all.
    """
    columns = dict(_columns(described))
    driver = next(iter(columns.values()))
    rows: dict[str, dict[str, str]] = {}
    problems = []
    for package, parts in packages.items():
        row = {place: found.get(package, MISSING) for place, found in columns.items()}
        if len(set(row.values())) == 1 and MISSING not in row.values():
            continue
        rows[package] = row
        if parts is None:
            continue
        for place, version in row.items():
            if version == MISSING:
                problems.append(f"{package} is missing on {_the(place)}")
            elif (here := driver.get(package, MISSING)) != MISSING and (
                version.split(".")[:parts] != here.split(".")[:parts]
            ):
                problems.append(f"{package} is {version} on {_the(place)}, {here} here")
    return Comparison("; ".join(problems) or None, rows)


def _columns(
    described: Mapping[str, Mapping[str, str]],
) -> Iterable[tuple[str, Mapping[str, str]]]:
    """The places, with workers that have the same in one column."""
    workers: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for place, found in described.items():
        if place in _SINGLE:
            yield place, found
        else:
            workers.setdefault(tuple(found.items()), []).append(place)
    for found_there, places in workers.items():
        yield (places[0] if len(places) == 1 else f"{len(places)} workers"), dict(found_there)


def _the(place: str) -> str:
    return f"the {place}" if place in _SINGLE else place
