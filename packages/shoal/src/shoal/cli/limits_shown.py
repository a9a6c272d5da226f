"""Limits as the commands show them: in tables, or as JSON alone on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shoal.limits import ConcurrencyLimit, Lease, Limit, Waiter

__all__ = [
    "AsJson",
    "Output",
    "as_json_of_both",
    "local",
    "names_for_shell",
    "print_json",
    "print_limit",
    "table_of",
    "whole_number",
]

#: Columns of a table at most: on a narrower terminal its lines wrap, and nothing is cut off.
WIDEST = 10_000

AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON only")]
Output = Annotated[
    Literal["json"] | None, Parameter(name=["--output", "-o"], help="`json`: as `--json`")
]


def whole_number(kind: object, tokens: Any) -> int:
    """Reads a number; cyclopts would round it.

    Raises:
        ValueError: it is none, or no whole one.
    """
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'unable to convert "{text}" into int') from None


def names_for_shell(*, tags: bool) -> Any:
    """Gives a shell the names that it completes.

    Args:
        tags: whether those of tags; else of global limits.
    """

    def complete(context: object) -> list[str]:
        from shoal.limits import ConcurrencyLimits

        limits = ConcurrencyLimits()
        if tags:
            return [limit.tag for limit in limits.read_concurrency_limits()]
        return [limit.name for limit in limits.read_global_concurrency_limits()]

    return complete


def as_json_of_both(limit: ConcurrencyLimit | Limit) -> dict[str, Any]:
    """What limits of tags and global ones have alike, for JSON."""
    return {
        "holders": [_held(lease) for lease in limit.holders],
        "waiters": [{**_held(waiter), "behind": waiter.behind} for waiter in limit.waiters],
        "created": limit.created.isoformat(),
        "updated": limit.updated.isoformat(),
    }


def _held(entry: Lease | Waiter) -> dict[str, Any]:
    holder = entry.holder
    return {
        "id": holder.id,
        "run": holder.run,
        "host": holder.host,
        "pid": holder.pid,
        "label": holder.label,
        "occupy": entry.occupy,
        "since": entry.since.isoformat(),
    }


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


def print_limit(limit: ConcurrencyLimit | Limit, facts: Mapping[str, object]) -> None:
    """Prints some facts about a limit, who holds its slots, and who waits for them.

    Args:
        limit: the limit.
        facts: values by name.
    """
    width = max(map(len, facts)) + len(":  ")
    for name, fact in facts.items():
        print(f"{name + ':':{width}}{_shown(fact)}")
    if limit.holders:
        print("\nHeld by")
        table_of(
            ("RUN", "SLOTS", "HOST", "PID", "SINCE", "ID"),
            [(*_cells(lease), lease.holder.id) for lease in limit.holders],
        )
    if limit.waiters:
        print("\nWaiting, the first is served first")
        table_of(
            ("RUN", "SLOTS", "HOST", "PID", "SINCE", "BEHIND IT"),
            [(*_cells(waiter), waiter.behind) for waiter in limit.waiters],
        )


def _cells(entry: Lease | Waiter) -> tuple[object, ...]:
    holder = entry.holder
    names = [name for name in (holder.run, holder.label) if name]
    return ", ".join(names) or "-", entry.occupy, holder.host, holder.pid, local(entry.since)


def local(when: datetime) -> str:
    """A time on this machine's clock."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"
