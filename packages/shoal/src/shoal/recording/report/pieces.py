"""What sections of a report are built of: tables, bars, and texts made safe."""

from __future__ import annotations

import re
from html import escape

from shoal.recording.report.figures import BAD
from shoal.recording.report.words import many, share

__all__ = ["cut", "more", "stack", "state", "swatch", "table", "ticked"]


def table(caption: str, head: tuple[str, ...], rows: list[str]) -> str:
    # A head stands where its column's text does, which the last row tells.
    last = re.findall(r"<(?:td|th)([^>]*)>", rows[-1]) if rows else []
    left = ["left" in one for one in last] + [False] * len(head)
    cells = "".join(
        f"<th scope=col{' class=left' if at_left else ''}>{one}</th>"
        for one, at_left in zip(head, left, strict=False)
    )
    named = f"<caption>{caption}</caption>" if caption else ""
    return f"<div class=scrolls><table>{named}<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"


def stack(parts: list[tuple[str, float, str]], whole: float) -> str:
    spans = "".join(
        f'<span style="width:{length / whole:.3%};background:{colour}" title="{escape(name)}: {share(length, whole)}"></span>'
        for name, length, colour in parts
        if length > 0.001 * whole
    )
    return f"<div class=stack aria-hidden=true>{spans}</div>"


def state(name: str) -> str:
    kind = "bad" if name in BAD else "good" if name == "Completed" else "faint"
    return f"<span class={kind}>{escape(name)}</span>"


def swatch(colour: str) -> str:
    return f'<span class=swatch style="background:{colour}"></span>'


def more(count: int, noun: str) -> str:
    return f"<p class=faint>And {many(count, noun)} more.</p>"


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def ticked(text: str) -> str:
    """What stands between backticks as code; a name may hold one itself, which then is nothing but a character. No line ends
    between a number and its unit.
    """
    found = r"`([^`]*)`|(?<=\d) (?=%|(?:µs|ms|s|min|h|B|kB|MB|GB|TB)\b)"
    return re.sub(
        found,
        lambda match: "&nbsp;" if match[1] is None else f"<code>{match[1]}</code>",
        escape(text),
    )
