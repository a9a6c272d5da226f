"""Runners by name: `"threads:4"`, `"dask"`, `"dask:tcp://host:8786"`, or by address alone: `"tcp://host:8786"`.

Other names than those of this package resolve through the entry-point group `shoal.task_runners`, so that an installed package
adds its runners.
May import `foreign` and what lies above it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from shoal import settings
from shoal.exceptions import InvalidOption, MissingExtraError, UnknownRunner
from shoal.task_runners.base import BaseTaskRunner, TaskRunner
from shoal.task_runners.foreign import ForeignRunner

__all__ = ["GROUP", "check_name", "installed", "load", "missing", "parts", "resolve"]

GROUP = "shoal.task_runners"

#: The runners of this package: known without a look at what is installed, which imports sixty modules to read files.
_OURS = {
    "processes": "ProcessPoolTaskRunner",
    "sequential": "SequentialTaskRunner",
    "threads": "ThreadPoolTaskRunner",
}

#: Runners of packages of ours: what their names need where they are not installed.
_PACKAGES = {"dask": "shoal-dask", "ray": "shoal-ray"}
#: Schemes of addresses, and the runner that each belongs to.
_SCHEMES = {
    "tcp": "dask",
    "tls": "dask",
    "ucx": "dask",
    "ucxx": "dask",
    "ws": "dask",
    "wss": "dask",
    "inproc": "dask",
    "ray": "ray",
}


def installed() -> dict[str, Any]:
    """The entry points of all runners, by name."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def missing() -> dict[str, str]:
    """Names of runners of ours whose package is not installed, and what to install for each."""
    found = installed()
    return {name: requirement for name, requirement in _PACKAGES.items() if name not in found}


def load(text: str) -> Any:
    """The runner that a string names.

    Args:
        text: a name, `name:argument`, or an address, which says itself whose it is.

    Raises:
        UnknownRunner: nothing has this name.
        MissingExtraError: it belongs to a package that is not installed.
        InvalidOption: the runner refuses the argument.
    """
    name, argument = parts(text)
    if name in _OURS:
        kind = getattr(import_module("shoal.task_runners"), _OURS[name])
    else:
        found = installed()
        if name not in found:
            if name in _PACKAGES:
                raise MissingExtraError(
                    feature=f"the task runner {text!r}", requirement=_PACKAGES[name]
                )
            raise _unknown(text, found)
        kind = found[name].load()
    return kind.from_argument(argument) if argument else kind()


def check_name(text: str, where: str | None = None) -> None:
    """Refuses a string that names no runner; loads none, and asks what is installed only where that matters.

    One of a package of ours passes although that may not be installed: the flow may be run on another.

    Args:
        text: as for `load`.
        where: who has given it, for an error.

    Raises:
        UnknownRunner: nothing has this name.
    """
    name, _ = parts(text)
    if name not in _OURS and name not in _PACKAGES:
        found = installed()
        if name not in found:
            raise _unknown(text, found, where)


def parts(text: str) -> tuple[str, str]:
    """The name in a string, and what the runner is to make of the rest."""
    name, _, argument = text.partition(":")
    if argument.startswith("//"):
        return _SCHEMES.get(name, name), text
    return name, argument


def _unknown(text: str, found: dict[str, Any], where: str | None = None) -> UnknownRunner:
    return UnknownRunner(where=where, runner=text, known=sorted({*found, *_PACKAGES}))


def resolve(option: Any) -> Any:
    """A runner, not entered, for what `task_runner=` was given.

    Args:
        option: an instance (duplicated), a class, a string, or `None` for the default.

    Raises:
        InvalidOption: it is none of these.
    """
    if option is None:
        option = settings.task_runner()
        check_name(option, "SHOAL_TASK_RUNNER")
    if isinstance(option, str):
        return load(option)
    if isinstance(option, type):
        return option()
    if isinstance(option, BaseTaskRunner):
        return option.duplicate()
    if isinstance(option, TaskRunner):
        return ForeignRunner(option.duplicate())
    raise InvalidOption(
        where="a flow",
        option="task_runner",
        value=option,
        problem="an instance, a class or a string is needed",
    )
