"""Tracebacks as users want to see them, and as they cross to another process.

    folded    without the frames of this library, and of what stands between it and the user's functions
    told      as plain data, for a pickle
    rebuilt   as a traceback again, whose frames name the user's files, so that lines are found where there are any

May import `exceptions` and `safely`.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from types import CodeType, FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.exceptions import ShoalError
from shoal.safely import traceback_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

__all__ = ["Line", "fold", "folded", "rebuilt", "told"]

_OURS = frozenset({"shoal", "shoal_dask", "shoal_ray"})
#: Packages whose frames stand between ours and the user's and say nothing about either.
_MACHINERY = frozenset(
    {
        *("_frozen_importlib", "anyio", "asyncio", "cloudpickle", "concurrent", "contextlib"),
        *("dask", "distributed", "importlib", "pickle", "ray", "threading", "trio"),
    }
)
#: Frames that are told of a traceback; of a longer one, half of them from either end.
_MOST = 200
#: A column beyond the end of any line: the whole line is meant, and nothing in it is underlined.
_FAR = 10_000

#: The interpreter's own accessor: what a class overrides is not asked.
_trace = BaseException.__dict__["__traceback__"]


# ---------------------------------------------------------------------- folding


def fold(error: BaseException) -> None:
    """Takes our frames out of what is about to be raised to the user, the caller's own included.

    Examples:
        >>> try:
        ...     return self._result()
        ... except BaseException as error:
        ...     fold(error)
        ...     raise  # which adds no frame again
    """
    _trace.__set__(error, folded(error))


def folded(error: BaseException) -> TracebackType | None:
    """An exception's traceback without our frames.

    Those at the end stay, unless the error is one of our own that says it all: it may be a fault of ours.
    """
    trace = traceback_of(error)
    entries = list(_entries(trace))
    marks = [_mark(entry.tb_frame) for entry in entries]
    if "ours" not in marks:
        return trace
    kept: list[TracebackType] = []
    whole_end = not issubclass(type(error), (ShoalError, KeyboardInterrupt))
    start = 0
    for is_users, group in itertools.groupby(marks, key=lambda mark: mark == "user's"):
        end = start + len(list(group))
        last = end == len(entries) and whole_end
        if is_users or last or "ours" not in marks[start:end]:
            kept += entries[start:end]
        start = end
    return _chained([(entry.tb_frame, entry.tb_lasti, entry.tb_lineno) for entry in kept])


def _entries(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _mark(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    if not isinstance(name, str):
        return "user's"
    package = name.partition(".")[0]
    if package in _OURS:
        return "user's" if name.startswith("shoal.testing") else "ours"
    return "machinery" if package in _MACHINERY else "user's"


def _chained(entries: Sequence[tuple[FrameType, int, int]]) -> TracebackType | None:
    trace: TracebackType | None = None
    for frame, lasti, lineno in reversed(entries):
        trace = TracebackType(trace, frame, lasti, lineno)
    return trace


# ---------------------------------------------------------------------- crossing


class Line(NamedTuple):
    """One frame of a traceback.

    Attributes:
        filename: as its code names it.
        function: the function's name.
        module: the module's name.
        first_line: where the function begins; IPython looks for its source from there.
        line: the line, 1 for the first.
        end_line: where what was executed ends.
        column: where it begins in its line, in bytes; `None` where that is not known.
        end_column: where it ends.
    """

    filename: str
    function: str
    module: str
    first_line: int
    line: int
    end_line: int
    column: int | None
    end_column: int | None


def told(error: BaseException) -> list[Line]:
    """An exception's folded traceback as plain data."""
    lines = [_line(entry) for entry in _entries(folded(error))]
    return lines if len(lines) <= _MOST else lines[: _MOST // 2] + lines[-_MOST // 2 :]


def _line(entry: TracebackType) -> Line:
    code = entry.tb_frame.f_code
    line, end_line, column, end_column = next(
        itertools.islice(code.co_positions(), entry.tb_lasti // 2, None), (None, None, None, None)
    )
    line = line or entry.tb_lineno or code.co_firstlineno
    module = entry.tb_frame.f_globals.get("__name__")
    return Line(
        code.co_filename,
        code.co_name,
        module if isinstance(module, str) else "",
        code.co_firstlineno,
        line,
        end_line or line,
        column,
        end_column,
    )


def rebuilt(lines: Sequence[Line]) -> TracebackType | None:
    """A traceback that shows these lines; its frames hold no variables."""
    return _chained([_frame(line) for line in lines])


class _Reached(Exception):
    """Raised in a frame that is made for a traceback."""


def _frame(line: Line) -> tuple[FrameType, int, int]:
    known: dict[str, Any] = {
        "__name__": line.module,
        "__file__": line.filename,
        "reached": _Reached,
    }
    reached: TracebackType | None = None
    try:
        FunctionType(_code(line), known)()
    except _Reached as error:
        reached = error.__traceback__
    *_, entry = _entries(reached)  # of this function, and of that code
    return entry.tb_frame, entry.tb_lasti, line.line


@lru_cache(maxsize=512)
def _code(line: Line) -> CodeType:
    """Code that raises at this place: compiled from a tree, which can say where it stands."""
    import ast  # here, as workers seldom need it

    first = max(line.line, 1)
    last = max(line.end_line, first)
    column, end_column = line.column, line.end_column
    if column is None or end_column is None:
        column, end_column = 0, _FAR
    place: dict[str, Any] = {
        "lineno": first,
        "end_lineno": last,
        "col_offset": column,
        "end_col_offset": end_column,
    }
    raising = ast.Raise(exc=ast.Name(id="reached", ctx=ast.Load(), **place), **place)
    tree = ast.parse("def function(): pass")
    ast.increment_lineno(tree, max(line.first_line, 1) - 1)
    tree.body[0].body = [raising]  # type: ignore[attr-defined]
    module = compile(tree, line.filename, "exec")
    code = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
    return code.replace(co_name=line.function, co_qualname=line.function)
