"""For authors of task runners: a test suite that says whether a runner does what users rely on.

    suite.py        `TaskRunnerSuite`, the pytest class to subclass: how to use it is written there
    base.py         its fixtures, and how a test says what it covers and what it needs of a backend
    section_*.py    the tests, by section of the specification
    tools.py        `Signals`: how tests and runs meet, wherever the runs are
    samples.py      tasks and values that several tests share

Needs pytest, which `shoal` does not install; `tools` and `samples` do without it, for they are imported on workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.scheduling.capabilities import Capabilities
    from shoal.testing.suite import TaskRunnerSuite
    from shoal.testing.tools import Signals

__path__.append(f"{__path__[0]}/../absent/testing")  # see `shoal.elsewhere`

__all__ = ["Capabilities", "Signals", "TaskRunnerSuite"]

_HOMES = {
    "Capabilities": "shoal.scheduling.capabilities",
    "Signals": "shoal.testing.tools",
    "TaskRunnerSuite": "shoal.testing.suite",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from shoal.elsewhere import missing

    home = _HOMES.get(name)
    if home is None:
        raise missing(__name__, name)
    try:
        module = import_module(home)
    except ModuleNotFoundError as error:
        if error.name != "pytest":
            raise
        from shoal.exceptions import MissingExtraError

        raise MissingExtraError(feature=f"shoal.testing.{name}", requirement="pytest") from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
