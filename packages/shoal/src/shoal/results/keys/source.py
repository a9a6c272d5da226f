"""Source as a tree: what a function or class is, without its comments and its layout, the same for all Python versions.

A file is believed only where it compiles to the very code that runs: it may have been edited since, or be another one on
this machine. Where there is no such file (a prompt, a notebook, `exec`), the code object stands for the function; it is
the same in all processes, but each Python version has another. May import `walk`.
"""

from __future__ import annotations

import ast
import os
import warnings
from functools import lru_cache
from hashlib import sha256
from pathlib import PurePath
from types import CodeType
from typing import Any

from shoal.results.keys.walk import LEAVES, Walk, text

__all__ = [
    "SourceFile",
    "class_tree",
    "code_digest",
    "file_of",
    "function_tree",
    "name_digest",
    "tree_digest",
]

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
#: Fields of syntax nodes that say nothing of what the code does.
_SILENT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


# ---------------------------------------------------------------------- trees and code


def tree_digest(node: ast.AST) -> bytes:
    """32 bytes for a syntax tree. Of a function at its top, not its decorators: what they made of it is looked at itself."""
    parts: list[bytes] = []
    undecorated = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    _dump(node, parts, "decorator_list" if undecorated else "")
    return sha256(b"".join(parts)).digest()


def _dump(node: Any, parts: list[bytes], without: str = "") -> None:
    """Writes a tree; nothing for fields that are empty, as each version of Python adds some."""
    if isinstance(node, ast.AST):
        parts.append(b"<" + type(node).__name__.encode())
        for name in node._fields:
            value: Any = getattr(node, name, None)
            if name == "values" and isinstance(node, ast.JoinedStr):
                value = [each for each in value if not _is_empty(each)]
            if name not in _SILENT and name != without and value is not None and value != []:
                parts.append(b" " + name.encode() + b"=")
                _dump(value, parts)
        parts.append(b">")
    elif isinstance(node, list):
        parts.append(b"[")
        for item in node:
            _dump(item, parts)
        parts.append(b"]")
    else:
        parts.append(LEAVES[type(node)](node))


def _is_empty(node: ast.AST) -> bool:
    """Whether it is an empty text, as Python 3.12.0 and 3.12.1 put into f-strings."""
    return isinstance(node, ast.Constant) and node.value == ""


@lru_cache(4096)
def code_digest(code: CodeType) -> bytes:
    """32 bytes for a code object: what it does, not where it stood."""
    facts = (
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        code.co_code,  # as it was compiled: what the interpreter has made faster is left out
        tuple(_constant(constant) for constant in code.co_consts),
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        getattr(code, "co_exceptiontable", b""),
    )
    return sha256(Walk().encode(facts)).digest()


def _constant(constant: Any) -> Any:
    return (code_digest(constant),) if isinstance(constant, CodeType) else constant


# ---------------------------------------------------------------------- files


class SourceFile:
    """A file, read and compiled.

    Attributes:
        path: where it is.
        lines: what it says.
        tree: its syntax tree.
        code: what it compiles to.
        variables: names that some function of it declares `global`: they change.
        imports: the modules that it imports, relative ones with their dots, and what may be submodules of them.
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            data = file.read()
        self.path = path
        self.tree = ast.parse(data, path)
        self.lines = data.decode("utf-8", "replace").splitlines()
        self.imports: dict[str, None] = {}
        self.functions: dict[tuple[str, int], list[_Function]] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.variables: set[str] = set()
        self._find(self.tree, "")
        self.codes: dict[tuple[str, int], list[CodeType]] = {}
        self.code = compile(self.tree, path, "exec", dont_inherit=True)
        self._collect(self.code)

    def _find(self, node: ast.AST, within: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = within
            if isinstance(child, ast.Global):
                self.variables.update(child.names)
            elif isinstance(child, ast.Import):
                self.imports.update((each.name, None) for each in child.names)
            elif isinstance(child, ast.ImportFrom):
                self.imports.update(dict.fromkeys(_imported_by(child)))
            elif isinstance(child, ast.Lambda):
                self.functions.setdefault(("<lambda>", child.lineno), []).append(child)
                inner = f"{within}<lambda>.<locals>."
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                self.functions.setdefault((child.name, first), []).append(child)
                inner = f"{within}{child.name}.<locals>."
            elif isinstance(child, ast.ClassDef):
                self.classes[within + child.name] = child
                inner = f"{within}{child.name}."
            self._find(child, inner)

    def _collect(self, code: CodeType) -> None:
        self.codes.setdefault((code.co_qualname, code.co_firstlineno), []).append(code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._collect(constant)

    def text_of(self, node: Any) -> str:
        """The source of a function or class, after a line that says where it stands, "etl.py:12"."""
        place = f"{PurePath(self.path).name}:{node.lineno}"
        return "\n".join([place, *self.lines[node.lineno - 1 : node.end_lineno]])

    def has(self, code: CodeType) -> bool:
        """Whether the file, compiled, gives this code at this place."""
        there = self.codes.get((code.co_qualname, code.co_firstlineno), ())
        return any(code_digest(each) == code_digest(code) for each in there)

    def function(self, code: CodeType) -> _Function | None:
        """The function that a code object was made from; `None` where it is not known."""
        if not self.has(code):
            return None
        found = self.functions.get((code.co_name, code.co_firstlineno), [])
        if (
            len(found) > 1
        ):  # lambdas of one line: of those whose body has the first instruction, the innermost
            places = [
                (line, column) for line, _, column, end in code.co_positions() if column != end
            ]
            found = [each for each in found if places and _has(each, places[0])]
            found = sorted(found, key=_start)[-1:]
        return found[0] if found else None


def _start(node: _Function) -> tuple[int, int]:
    body = node.body if isinstance(node, ast.Lambda) else node.body[0]
    return body.lineno, body.col_offset


def _has(node: _Function, place: tuple[int | None, int | None]) -> bool:
    body = node.body if isinstance(node, ast.Lambda) else node.body[-1]
    end = (body.end_lineno or 0, body.end_col_offset or 0)
    return None not in place and _start(node) <= place <= end


def _imported_by(node: ast.ImportFrom) -> list[str]:
    module = "." * node.level + (node.module or "")
    dot = "." if node.module else ""
    return [module, *(f"{module}{dot}{each.name}" for each in node.names)]


def file_of(path: str) -> SourceFile | None:
    """A source file by its path, `None` if there is none that Python can read."""
    try:
        status = os.stat(path)
        return _read(path, status.st_mtime_ns, status.st_size)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


@lru_cache(64)
def _read(path: str, modified: int, size: int) -> SourceFile:
    with warnings.catch_warnings():  # said when the file was imported
        warnings.simplefilter("ignore")
        return SourceFile(path)


def function_tree(code: CodeType) -> tuple[ast.AST, SourceFile] | None:
    """The syntax tree of a function, and its file; `None` if only the code object is there."""
    file = file_of(code.co_filename)
    node = file.function(code) if file is not None else None
    return None if node is None or file is None else (node, file)


def class_tree(name: str, codes: list[CodeType]) -> tuple[ast.AST, SourceFile] | None:
    """The syntax tree of a class, and its file; `None` where it is not known.

    Args:
        name: its qualified name.
        codes: those of its methods; one without methods is known by its attributes.
    """
    for code in codes:
        file = file_of(code.co_filename)
        if file is not None and all(map(file.has, codes)):
            node = file.classes.get(name)
            return None if node is None else (node, file)
        if file is not None:
            return None
    return None


def name_digest(name: str) -> bytes:
    """32 bytes for what counts by its name."""
    return sha256(text(name)).digest()
