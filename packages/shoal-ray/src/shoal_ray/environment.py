"""Whether the driver and the workers have installed what works together.

    driver and cluster   Ray compares its own version and Python's as it connects; see `joining`
    each worker          says what it has with the first thing that it says: `this_environment`, `check_worker`
    no shoal_ray     a worker cannot even say that: `explain_import`

May import Shoal's errors and the core's `remote` room.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from shoal.exceptions import EnvironmentMismatch
from shoal.task_runners.remote.environment import MISSING, versions
from shoal.task_runners.remote.environment import compare as compare_all

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_worker", "compare", "explain_import", "this_environment"]

#: What is compared, and how many parts of its version must agree; `None` where any will do.
_PACKAGES: dict[str, int | None] = {
    "python": 2,
    "shoal": 9,
    "shoal_ray": 9,
    "cloudpickle": None,
    "ray": 9,
}

#: What this process has: versions by package.
this_environment = partial(versions, _PACKAGES)
#: How environments differ, given versions by package, by place, and whether they work together; the driver comes first.
compare = partial(compare_all, packages=_PACKAGES)

_NO_MODULE = re.compile(r"No module named '(shoal(?:_ray)?)\b")


def check_worker(
    described: Mapping[str, str], *, can_be_tried: bool = True
) -> EnvironmentMismatch | None:
    """What keeps a worker from working with this driver.

    Args:
        described: the worker's `this_environment()`.
        can_be_tried: whether it could work nonetheless.

    Returns:
        The error to raise, or `None`.
    """
    found = compare({"driver": this_environment(), "worker": dict(described)})
    if found.problem is None:
        return None
    return EnvironmentMismatch(
        cluster="Ray",
        rows=found.rows,
        table=found.table,
        problem=found.problem,
        can_be_tried=can_be_tried,
    )


def explain_import(error: BaseException) -> EnvironmentMismatch | None:
    """Our error where a worker could not import this package; `None` if that is not what happened.

    Args:
        error: what became of a Ray task.
    """
    found = _NO_MODULE.search(str(error))
    if found is None:
        return None
    worker = {**this_environment(), found[1]: MISSING}
    if found[1] == "shoal":
        worker["shoal_ray"] = MISSING
    return check_worker(worker, can_be_tried=False)
