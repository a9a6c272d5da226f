"""Limits as the commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.cli.tables import local, print_facts, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.limits import ConcurrencyLimit, Lease, Limit, Waiter

__all__ = [
    "as_json_of_both",
    "names_for_shell",
    "print_limit",
    "whole_number",
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


def print_limit(limit: ConcurrencyLimit | Limit, facts: Mapping[str, object]) -> None:
    """Prints some facts about a limit, who holds its slots, and who waits for them.

    Args:
        limit: the limit.
        facts: values by name.
    """
    print_facts(facts)
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
