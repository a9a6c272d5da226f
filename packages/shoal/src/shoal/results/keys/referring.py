"""Which names a function refers to, read from its code object. May import the standard library only."""

from __future__ import annotations

import dis
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Names", "names_in"]

_USES = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_GOES_ON = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_SETS = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})


class Names(NamedTuple):
    """What a function, with the functions in it, refers to.

    Attributes:
        used: globals, each with the attributes that are asked of it, "helpers.clean"; sorted.
        set: globals that it sets.
        imported: modules that it imports, relative ones with their dots; sorted.
        words: all names of globals, attributes and imports.
    """

    used: list[str]
    set: frozenset[str]
    imported: list[str]
    words: frozenset[str]


@lru_cache(4096)
def names_in(code: CodeType) -> Names:
    """The names that a code object refers to."""
    used: set[str] = set()
    changed: set[str] = set()
    imported: set[str] = set()
    words: set[str] = set()
    for each in _with_inner(code):
        _read(each, used, changed, imported)
        words.update(each.co_names)
    return Names(sorted(used), frozenset(changed), sorted(imported), frozenset(words))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _read(code: CodeType, used: set[str], changed: set[str], imported: set[str]) -> None:
    path = ""
    before: list[Any] = [
        None,
        None,
    ]  # arguments of the last two instructions: an import's level and names
    for instruction in dis.get_instructions(code):
        kind, name = instruction.opname, instruction.argval
        if kind in _GOES_ON and path:
            path = f"{path}.{name}"
        else:
            if path:
                used.add(path)
            path = name if kind in _USES else ""
        if kind in _SETS:
            changed.add(name)
        elif kind == "IMPORT_NAME":
            imported.update(_modules(name, *before))
        before = [before[1], name]


def _modules(name: str, level: Any, names: Any) -> list[str]:
    """An imported module, and what may be submodules of it."""
    module = "." * (level if isinstance(level, int) else 0) + name
    dot = "." if name else ""
    return [module, *(f"{module}{dot}{each}" for each in names or ())]
