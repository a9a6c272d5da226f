"""What is measured: a small file for each scenario, and the list of them, here. Standard library only, like `contestants`.

base.py     `Scenario`, its cases, its clock            work.py    the functions that travel to workers
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from shoal_bench.contestants import UnknownName
from shoal_bench.scenarios.base import Scenario

__all__ = ["SCENARIOS", "load"]

#: By name, in the order in which they are taken and shown: where each is, as `module:class` of this package.
SCENARIOS = {
    "overhead": "overhead:Overhead",
    "start": "start:Start",
    "metg": "metg:Metg",
    "efficiency": "efficiency:Efficiency",
    "chain": "chain:Chain",
    "data": "data:Data",
    "memory": "memory:Memory",
    "scale": "scale:Scale",
    "million": "million:Million",
    "imbalance": "imbalance:Imbalance",
    "failures": "failures:Failures",
    "real": "real:Real",
}


def load(
    names: Sequence[str] = (), *, full: bool = False, speed: float = 1e9
) -> tuple[Scenario, ...]:
    """The scenarios of these names, in their own order; without names, the short set or all.

    Args:
        names: which.
        full: whether all, if no names are given.
        speed: see `Scenario`; it matters only where samples are taken.

    Raises:
        UnknownName: there is none of a name.
    """
    for name in names:
        if name not in SCENARIOS:
            raise UnknownName("scenario", name, SCENARIOS)
    loaded = []
    for name, place in SCENARIOS.items():
        if not names or name in names:
            module, _, kind = place.partition(":")
            scenario: Scenario = getattr(import_module(f"{__name__}.{module}"), kind)(speed)
            if names or full or scenario.in_short_set:
                loaded.append(scenario)
    return tuple(loaded)
