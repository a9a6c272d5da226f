"""Modules that workers cannot import travel by value: what lives beside the user's script and is not installed.

cloudpickle does it, for modules that are registered with it. Its registry is one for the whole process, so
registrations are counted here: of two runners that ship the same module, the first to leave does not take it from the
other, and what the user registered stays. May import what lies above task runners; cloudpickle on use.

Workers of a temporary local cluster have the driver's `sys.path` and working directory: there modules are found by
name, and had better be, for a module that travels by value is copied, with its globals, for each task function.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from shoal.exceptions import InvalidOption
from shoal.serialization import BY_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["Shipping", "beside_the_script", "checked_modules", "shipped_by_value"]

_OURS = frozenset({"shoal", "shoal_dask", "shoal_ray", "__main__", "__mp_main__"})

_lock = threading.Lock()
_registered: Counter[str] = Counter()


def checked_modules(given: Any, where: str) -> str | tuple[str, ...]:
    """The option `ship_modules` of a runner.

    Args:
        given: what the user gave.
        where: the runner's class.

    Raises:
        InvalidOption: it is neither `"auto"` nor a list of names.
    """
    if given == "auto":
        return "auto"
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        names = tuple(given)
        if all(isinstance(name, str) for name in names):
            return names
    problem = "'auto' or a list of names of modules is needed"
    raise InvalidOption(where=where, option="ship_modules", value=given, problem=problem)


def shipped_by_value(option: str | Sequence[str], where: str = "a task runner") -> Shipping:
    """A context within which modules travel by value.

    Args:
        option: `"auto"` for all that live beside the script, also those that are imported inside; or their names.
        where: the runner's class, for the error.

    Raises:
        InvalidOption: on entering: a name cannot be imported.

    Examples:
        >>> with shipped_by_value("auto") as shipping:
        ...     shipping.refresh()
        ...     cloudpickle.dumps(function)
    """
    return Shipping(option, where)


class Shipping:
    """See `shipped_by_value`. Its methods may be called from any thread, entering and leaving from one.

    Attributes:
        names: the modules that travel by value now. A pickle that names one of them was made without cloudpickle.
    """

    def __init__(self, option: str | Sequence[str], where: str) -> None:
        self.names: frozenset[str] = frozenset()
        self._option = option
        self._where = where
        self._seen: set[str] = set()
        self._count = 0

    def __enter__(self) -> Self:
        if isinstance(self._option, str):
            self.refresh()
        else:
            self._add([self._imported(name) for name in self._option])
        return self

    def __exit__(self, *_: object) -> None:
        from cloudpickle import unregister_pickle_by_value

        with _lock:
            names, self.names = self.names, frozenset()
            self._seen.clear()
            self._count = 0
            for name in names:
                _registered[name] -= 1
                if not _registered[name]:
                    del _registered[name]
                    BY_VALUE.discard(name.encode())
                    module = sys.modules.get(name)
                    if module is not None:
                        unregister_pickle_by_value(module)

    def refresh(self) -> None:
        """Takes in what was imported since; a microsecond where nothing was."""
        if not isinstance(self._option, str) or len(sys.modules) == self._count:
            return
        with _lock:
            self._count = len(sys.modules)
            new = {
                name: module
                for name, module in sys.modules.copy().items()
                if name not in self._seen
            }
            self._seen.update(new)
        self._add(list(beside_the_script(new)))

    def _add(self, modules: list[ModuleType]) -> None:
        from cloudpickle import list_registry_pickle_by_value, register_pickle_by_value

        with _lock:
            users = list_registry_pickle_by_value() - _registered.keys()
            for module in modules:
                name = module.__name__
                if name in self.names or name in users:
                    continue
                if not _registered[name]:
                    register_pickle_by_value(module)
                _registered[name] += 1
                BY_VALUE.add(name.encode())
                self.names |= {name}

    def _imported(self, name: str) -> ModuleType:
        try:
            return import_module(name)
        except ImportError as error:
            problem = f"it cannot be imported: {error}"
            raise InvalidOption(
                where=self._where, option="ship_modules", value=name, problem=problem
            ) from error


def beside_the_script(modules: dict[str, Any]) -> Iterator[ModuleType]:
    """Those of these modules that live in the directory of the script, and are not installed.

    Args:
        modules: by the name under which they are imported.
    """
    here = _directories()
    installed = _installed(here)
    for name, module in modules.items():
        if name.partition(".")[0] in _OURS or getattr(module, "__name__", None) != name:
            continue
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        path = os.path.realpath(file)
        if path.startswith(here) and not path.startswith(installed) and "-packages/" not in path:
            yield module


def _directories() -> tuple[str, ...]:
    """Where the script is; for a notebook, a console or an installed command, where it was started.

    Commands that load a script (`shoal run` does) put its directory first on `sys.path`, as Python itself does.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file:
        directory = os.path.dirname(os.path.realpath(file))
        commands = os.path.realpath(sysconfig.get_path("scripts"))
        if directory != commands and "-packages/" not in os.path.join(directory, ""):
            return (os.path.join(directory, ""),)
    first = next((path for path in sys.path if not _put_first(path)), "")
    starts = {os.getcwd(), first}
    return tuple(os.path.join(os.path.realpath(start), "") for start in starts)


def _put_first(path: str) -> bool:
    """Whether it is a directory that an execution system has put before the others: Dask its scratch space, Ray what it bundles."""
    return "dask-scratch-space" in path or "-packages/ray/" in path


def _installed(here: tuple[str, ...]) -> tuple[str, ...]:
    """Directories of what is installed, an environment inside the script's directory included."""
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    roots |= {root for root in (sys.prefix, sys.base_prefix) if _inside(root, here)}
    return tuple(os.path.join(os.path.realpath(root), "") for root in roots)


def _inside(root: str, here: tuple[str, ...]) -> bool:
    return os.path.join(os.path.realpath(root), "").startswith(here)
