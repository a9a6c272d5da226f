"""Whether the driver, the scheduler and the workers have installed what works together.

    describe ──▶ compare ──▶ a mismatch that cannot work: EnvironmentMismatch
    (asks)       (pure)  └─▶ one that merely differs: a warning

Dask's own messages ask for the versions, never a function of ours: code from one Python may not even load on another.
May import Shoal's errors, logs and `remote` room.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.exceptions import EnvironmentMismatch
from shoal.logs import library_logger
from shoal.task_runners.remote.environment import MISSING, versions
from shoal.task_runners.remote.environment import compare as compare_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

__all__ = ["check_environment", "check_worker", "compare", "describe", "this_environment"]

#: What is compared, and how many parts of its version must agree; `None` where any will do.
_PACKAGES: dict[str, int | None] = {
    "python": 2,
    "shoal": 9,
    "shoal_dask": 9,
    "cloudpickle": None,
    "distributed": 2,
}

#: What this process has: versions by package.
this_environment = partial(versions, _PACKAGES)
#: How environments differ, given versions by package, by place, and whether they work together; the driver comes first.
compare = partial(compare_all, packages=_PACKAGES)

#: Seconds that a cluster has to say what it consists of.
_PATIENCE = 10.0


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
        raise EnvironmentMismatch(
            cluster="Dask", rows=found.rows, table=found.table, problem=found.problem
        )
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
    versions = {package: told.get(package) or MISSING for package in _PACKAGES}
    versions["python"] = ".".join(versions["python"].split(".")[:3])  # of 3.11.7.final.0
    return versions
