"""By what name the class of a kept value is found again.

A script is `__main__` when it is run, a module of its own name when it is imported (`shoal run` does so), and on workers there are copies of
what it defines. All of them go by one name, which is kept; and where there are several of one name, that of the running program
counts, so that `isinstance` and `==` hold for what is read. Nothing is imported to find a class. May import `keys`.
"""

from __future__ import annotations

import sys
from typing import Any

from shoal.results.keys.naming import main_name

__all__ = ["class_at", "is_of_the_script", "place_of"]

#: What the program's own file may be called as a module.
_MAINS = ("__main__", "__mp_main__", "__shoal_file__")


def place_of(kind: type) -> tuple[str, str]:
    """Under which module and name a class is kept."""
    module = kind.__module__
    return (main_name(module) if module in _MAINS else module), kind.__qualname__


def is_of_the_script(module: str) -> bool:
    """Whether it is a name of the program's own file."""
    return module in _MAINS or module == main_name()


def class_at(module: str, name: str) -> type | None:
    """The class of this name that the running program has; `None` if it has none."""
    modules = (*_MAINS, main_name()) if is_of_the_script(module) else (module,)
    for known in modules:
        found: Any = sys.modules.get(known)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and found.__module__ in modules:
            return found
    return _copy_at(modules, name)


def _copy_at(modules: tuple[str, ...], name: str) -> type | None:
    """The copy that came to this worker last, with a function that uses it."""
    cloudpickle: Any = sys.modules.get("cloudpickle.cloudpickle")
    if cloudpickle is None:
        return None
    copies: list[type] = list(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)
    fitting = (
        kind
        for kind in reversed(copies)
        if kind.__module__ in modules and kind.__qualname__ == name
    )
    return next(fitting, None)
