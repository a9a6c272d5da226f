"""Whether the driver, the scheduler and the workers have installed what works together.

    describe ──▶ compare ──▶ a mismatch that cannot work: EnvironmentMismatch
    (asks)       (pure)  └─▶ one that merely differs: a warning

Dask's own messages ask for the versions, never a function of ours: code from one Python may not even load on another.
May import manyhands' errors and logs.
"""

from __future__ import annotations

import asyncio
import platform
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands.logs import library_logger

from manyhands_dask.exceptions import EnvironmentMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from distributed import Client

__all__ = ["check_environment", "check_worker", "compare", "describe", "this_environment"]

#: What is compared, and how many parts of its version must agree; 0 for none.
_PACKAGES = {"python": 2, "manyhands": 9, "manyhands_dask": 9, "cloudpickle": 0, "distributed": 2}
_MISSING = "missing"

#: Seconds that a cluster has to say what it consists of.
_PATIENCE = 10.0


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


def check_environment(client: Client) -> None:
    """Compares what is installed here, on the scheduler and on the workers.

    Where patch versions or cloudpickle differ, one warning says so.

    Args:
        client: of the cluster.

    Raises:
        EnvironmentMismatch: it cannot work.
    """
    try:
        described = describe(client)
    except TimeoutError:
        library_logger().warning(
            "The Dask cluster did not say within %g s which versions it has: they were not compared",
            _PATIENCE,
        )
        return
    found = compare(described)
    if found.problem is not None:
        raise EnvironmentMismatch(rows=found.rows, table=found.table, problem=found.problem)
    if found.rows:
        library_logger().warning(
            "The environments of the Dask cluster differ, which may or may not matter:\n%s",
            found.table,
        )


def check_worker(described: Mapping[str, str]) -> str | None:
    """What keeps a worker that joined later from working with this driver.

    Args:
        described: the worker's `this_environment()`.

    Returns:
        The problem and its table as text, or `None`.
    """
    found = compare({"driver": this_environment(), "worker": dict(described)})
    return None if found.problem is None else f"{found.problem}\n{found.table}"


@cache
def _this_environment() -> tuple[tuple[str, str], ...]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in list(_PACKAGES)[1:]:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = _MISSING
    return tuple(versions.items())


def this_environment() -> dict[str, str]:
    """What this process has: versions by package."""
    return dict(_this_environment())


def describe(client: Client) -> dict[str, dict[str, str]]:
    """What every place has, `"driver"` and `"scheduler"` first, then the workers by address.

    Args:
        client: of the cluster.

    Raises:
        TimeoutError: the cluster does not say.
    """
    packages = list(_PACKAGES)[1:]

    async def ask() -> Any:
        answer: Any = client.get_versions(check=False, packages=packages)
        return await asyncio.wait_for(answer, _PATIENCE)

    told: Any = client.sync(ask)
    places = {"scheduler": told["scheduler"], **told["workers"]}
    return {
        "driver": this_environment(),
        **{place: _tidy(answer["packages"]) for place, answer in places.items()},
    }


def _tidy(told: Mapping[str, str | None]) -> dict[str, str]:
    versions = {package: told.get(package) or _MISSING for package in _PACKAGES}
    versions["python"] = ".".join(versions["python"].split(".")[:3])  # of 3.11.7.final.0
    return versions


def compare(described: Mapping[str, Mapping[str, str]]) -> Comparison:
    """How environments differ, and whether they work together.

    Args:
        described: versions by package, by place; the driver comes first.
    """
    columns = dict(_columns(described))
    driver = next(iter(columns.values()))
    rows: dict[str, dict[str, str]] = {}
    problems = []
    for package, parts in _PACKAGES.items():
        row = {place: versions.get(package, _MISSING) for place, versions in columns.items()}
        if len(set(row.values())) == 1 and _MISSING not in row.values():
            continue
        rows[package] = row
        for place, version in row.items():
            if version == _MISSING and package != "cloudpickle":
                problems.append(f"{package} is missing on {_the(place)}")
            elif (here := driver.get(package, _MISSING)) != _MISSING and (
                _significant(version, parts) != _significant(here, parts)
            ):
                problems.append(f"{package} is {version} on {_the(place)}, {here} here")
    return Comparison("; ".join(problems) or None, rows)


def _columns(
    described: Mapping[str, Mapping[str, str]],
) -> Iterable[tuple[str, Mapping[str, str]]]:
    """The places, with workers that have the same in one column."""
    workers: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for place, versions in described.items():
        if place in ("driver", "scheduler"):
            yield place, versions
        else:
            workers.setdefault(tuple(versions.items()), []).append(place)
    for versions_of, places in workers.items():
        yield (places[0] if len(places) == 1 else f"{len(places)} workers"), dict(versions_of)


def _significant(version: str, parts: int) -> list[str]:
    return version.split(".")[:parts]


def _the(place: str) -> str:
    return f"the {place}" if place in ("driver", "scheduler", "worker") else place
