"""What notebooks show of an object: a heading and a table of facts, as HTML.

Every text is escaped, and asked for in a way that cannot fail. May import `safely`.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from shoal.safely import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["card"]

#: Characters of a fact that are shown.
_MOST = 500
_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0"


def card(kind: str, name: object, facts: Iterable[tuple[str, object]]) -> str:
    """The HTML of an object.

    Args:
        kind: what it is, such as `Flow`.
        name: which one.
        facts: names and values; those that are `None` or empty are left out. A value that is an address of the web
            is a link.
    """
    rows = "".join(
        f'<tr><th style="{_CELL}">{escape(label)}</th><td style="{_CELL}">{_shown(value)}</td></tr>'
        for label, value in facts
        if value is not None and text_of(value)
    )
    table = f"<table>{rows}</table>" if rows else ""
    return f"<div><strong>{escape(kind)}</strong> <code>{_cut(name)}</code>{table}</div>"


def _shown(value: object) -> str:
    text = text_of(value)
    if text.startswith(("http://", "https://")):
        address = escape(text)
        return f'<a href="{address}" target="_blank" rel="noopener">{address}</a>'
    return _cut(text)


def _cut(value: object) -> str:
    text = text_of(value)
    return escape(text if len(text) <= _MOST else f"{text[: _MOST - 1]}…")
