"""What commands list: in tables, or as JSON alone on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

__all__ = ["AsJson", "Output", "local", "print_facts", "print_json", "table_of"]

#: Columns of a table at most: on a narrower terminal its lines wrap, and nothing is cut off.
WIDEST = 10_000

AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON only")]
Output = Annotated[
    Literal["json"] | None, Parameter(name=["--output", "-o"], help="`json`: as `--json`")
]


def print_json(told: Any) -> None:
    """Prints JSON, and nothing else is printed."""
    import json

    print(json.dumps(told, indent=2))


def table_of(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table; numbers are aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(titles):
        is_number = bool(rows) and all(type(row[number]) in (int, float) for row in rows)
        table.add_column(title, no_wrap=True, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    Console(highlight=False, markup=False, width=WIDEST).print(table)


def _text(cell: object) -> Any:
    from rich.text import Text

    return Text(_shown(cell))


def _shown(value: object) -> str:
    """A value in one line, which moves no cursor: names may have any characters."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if text.isprintable() and text == text.strip() else repr(text)


def print_facts(facts: Mapping[str, object]) -> None:
    """Prints values by name, a line each."""
    width = max(map(len, facts)) + len(":  ")
    for name, fact in facts.items():
        print(f"{name + ':':{width}}{_shown(fact)}")


def local(when: datetime) -> str:
    """A time on this machine's clock."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"
