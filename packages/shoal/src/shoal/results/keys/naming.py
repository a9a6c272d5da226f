"""What classes and functions are called in keys, and whose they are: the user's own, or some library's.

What is the user's own counts by its source; what belongs to a library counts by its name. May import the standard library only.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType

__all__ = [
    "file_of_module",
    "is_own",
    "main_name",
    "module_of_code",
    "name_of",
    "qualified",
    "short_module",
    "tell_main_name",
]

#: A program's own file: as it is run, in children of `multiprocessing`, and as `shoal run` loads one that has no name.
_MAINS = ("__main__", "__mp_main__", "__shoal_file__")
_COMPREHENSION = re.compile(r"<(?:list|set|dict)comp>\.")
_LIBRARIES = frozenset({"site-packages", "dist-packages"})


def is_own(module: str) -> bool:
    """Whether a module is the user's: neither Python's nor ours, and not installed. One that is nowhere was sent by value.

    Args:
        module: its full name.
    """
    root = module.partition(".")[0]
    if module in _MAINS:
        return True
    if root in sys.stdlib_module_names or root == "shoal" or root.startswith("shoal_"):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return not isinstance(file, str) or not _is_installed(file)


def _is_installed(file: str) -> bool:
    return not _LIBRARIES.isdisjoint(PurePath(file).parts)


def file_of_module(module: str) -> str | None:
    """The source file of a module of the user's, which is not imported for it; `None` if there is none.

    Args:
        module: its full name.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(file, str):
        file, places = None, None
        steps = module.split(".")
        for i in range(len(steps)):
            spec = PathFinder.find_spec(".".join(steps[: i + 1]), places)
            if spec is None:
                return None
            file, places = spec.origin, spec.submodule_search_locations
    return file if file is not None and file.endswith(".py") and not _is_installed(file) else None


def short_module(module: str, code: CodeType | None) -> str:
    """The last part of a module's name: a script is called the same whether it is run or imported, and by what name.

    Args:
        module: its full name.
        code: some code of it, which tells where `__main__` was read.
    """
    if module in _MAINS and code is not None and not code.co_filename.startswith("<"):
        return PurePath(code.co_filename).stem
    return (main_name(module) if module in _MAINS else module).rpartition(".")[2]


def module_of_code(function: Any) -> str:
    """The module whose names a function uses. A decorator's wrapper calls itself after what it wraps; this is not fooled."""
    return str(function.__globals__.get("__name__", ""))


def qualified(name: str) -> str:
    """A qualified name without the comprehensions in it, which Python 3.11 makes functions of."""
    return _COMPREHENSION.sub("", name) if "comp>." in name else name


def name_of(value: Any) -> str:
    """Module and qualified name of a class or function."""
    module = getattr(value, "__module__", None) or ""
    name = str(getattr(value, "__qualname__", None) or getattr(value, "__name__", ""))
    return f"{main_name(module) if module in _MAINS else module}.{qualified(name)}"


def main_name(module: str = "__main__") -> str:
    """By what name the program's own file would be imported; "__main__" for a prompt or a notebook.

    Args:
        module: as what it was loaded.
    """
    if _told is not None:
        return _told
    main = sys.modules.get(module)
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name not in _MAINS:
        return str(spec.name)
    return PurePath(file).stem if isinstance(file, str) else "__main__"


_told: str | None = None


def tell_main_name(name: str) -> None:
    """Says in a worker what `main_name` is in the driver, whose classes of `__main__` it has as copies."""
    global _told
    _told = name
