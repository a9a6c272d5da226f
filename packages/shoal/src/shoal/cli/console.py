"""What is printed where: results on stdout, everything else on stderr; colours only on a terminal."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.exceptions import ShoalError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["UsageError", "print_error", "print_failure", "print_value"]


class UsageError(Exception):
    """The command line cannot be carried out as typed; the message says why and what to do."""


def print_error(error: Exception) -> None:
    """Says in one line what is wrong with the command line; the error's notes say what to do."""
    from rich.console import Console
    from rich.text import Text

    sentences = [
        part.strip() for part in (str(error), *getattr(error, "__notes__", ())) if part.strip()
    ]
    ended = [part if part.endswith((".", "?")) else f"{part}." for part in sentences[:-1]]
    line = " ".join(" ".join([*ended, *sentences[-1:]]).split())
    Console(stderr=True).print(Text.assemble(("Error: ", "bold red"), line), soft_wrap=True)


def print_value(value: object) -> None:
    """Prints what a flow returned: readably laid out on a terminal, as `print` does it elsewhere."""
    if sys.stdout.isatty() and not isinstance(value, str):
        from rich.pretty import pprint

        pprint(value)
    else:
        print(value)


# ---------------------------------------------------------------------- failed flows

#: Packages whose frames stand between the user's functions and say nothing about them.
_MACHINERY = ("anyio", "asyncio", "concurrent", "dask", "distributed", "importlib", "ray")


def print_failure(error: BaseException) -> None:
    """Prints the traceback of what a flow raised, with the frames of the user's code only.

    An error without any such frame is shown whole, because it is a bug of ours; except errors of our own tree, whose
    message says it all.
    """
    report = traceback.TracebackException.from_exception(error, compact=True)
    hidden = _library_folders()
    for part in _chain(report):
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if not frame.filename.startswith(hidden)]
        )
    if not report.stack and not isinstance(error, (ShoalError, SyntaxError)):
        report = traceback.TracebackException.from_exception(error, compact=True)
    for part in _chain(report):
        if not part.stack:
            del part.stack[:]
            part.stack = None  # type: ignore[assignment]  # so that no empty "Traceback" is announced
    sys.stdout.flush()
    sys.stderr.write("".join(report.format()))


def _library_folders() -> tuple[str, ...]:
    folders = ["<frozen importlib"]
    for name, module in list(sys.modules.items()):
        ours = name.partition("_")[0] == "shoal" and "." not in name
        file = getattr(module, "__file__", None)
        if (ours or name in _MACHINERY) and file and Path(file).name == "__init__.py":
            folders.append(f"{Path(file).parent}/")
    return tuple(folders)


def _chain(report: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """An exception's report, and those of what it was caused by and of what it groups."""
    waiting = [report]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += [other for other in (part.__cause__, part.__context__) if other is not None]
        waiting += part.exceptions or ()
