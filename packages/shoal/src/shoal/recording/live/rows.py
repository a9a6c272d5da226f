"""Counts as lines of text, cut to the width of the terminal.

May import `counting` and, of rich, what knows how wide characters are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from shoal.recording.live.counting import FlowCounts, TaskCounts

__all__ = ["Style", "clean", "cut", "rows_of", "seconds_in_words"]

_BAR = 12


class Style(NamedTuple):
    """What a terminal can show.

    Attributes:
        colour: whether it has colours.
        full, empty: a piece of a bar.
        dots: for what is left out.
        good, bad: marks.
    """

    colour: bool
    full: str
    empty: str
    dots: str
    good: str
    bad: str

    @classmethod
    def of(cls, colour: bool, encoding: str) -> Style:
        """By colour and encoding."""
        for signs in (("━", "─", "…", "✓", "✗"), ("=", "-", "…", "+", "x")):
            try:
                "".join(signs).encode(encoding)
            except UnicodeError:
                continue
            return cls(colour, *signs)
        return cls(colour, "=", "-", "...", "+", "x")

    def paint(self, text: str, code: str) -> str:
        """Text in a colour or weight, by the number that terminals have for it."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code else text


BOLD, FAINT, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"


def clean(text: str) -> str:
    """Text without what would move the cursor: names are the user's."""
    return "".join(char if char.isprintable() else "?" for char in text)


def cut(text: str, width: int, style: Style) -> str:
    """Text without colours, cut to a number of cells."""
    if cell_len(text) <= width:
        return text
    if width <= len(style.dots):
        return set_cell_size(text, max(width, 0))
    return set_cell_size(text, width - len(style.dots)).rstrip() + style.dots


def seconds_in_words(seconds: float) -> str:
    """A duration: `0.3 s`, `42 s`, `3:05`, `1:03:05`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rows_of(
    flows: list[FlowCounts], now: float, width: int, height: int, style: Style
) -> list[str]:
    """A row a task, and one for each flow run below its tasks.

    Args:
        flows: flow runs that are under way.
        now: seconds of the clock of `FlowCounts.began`.
        width: of the terminal; rows are a cell shorter.
        height: the most rows; the first ones are left out beyond it.
        style: what the terminal can show.
    """
    rows: list[str] = []
    for flow in flows:
        _add_flow(rows, flow, now, width - 1, 0, style)
    height = max(height, 1)
    if len(rows) > height:
        left_out = len(rows) - height + 1
        rows = [
            style.paint(cut(f"{style.dots} {left_out} more rows", width - 1, style), FAINT),
            *rows[left_out:],
        ][-height:]
    return rows


def _add_flow(
    rows: list[str], flow: FlowCounts, now: float, width: int, depth: int, style: Style
) -> None:
    tasks = [counts for counts in list(flow.tasks.values()) if counts.all]
    indent = "  " * depth
    longest = max([cell_len(clean(counts.name)) for counts in tasks], default=0)
    name_width = min(longest, max(width // 3 - len(indent), 6))
    rows += [_task_row(counts, indent, name_width, width, style) for counts in tasks]
    for name, (ended, failed) in list(flow.children_ended.items()):
        text = f"{indent}flow {clean(name)}  {ended:,} ended" + (
            f", {failed:,} did not complete" if failed else ""
        )
        rows.append(style.paint(cut(text, width, style), RED if failed else FAINT))
    for child in list(flow.children):
        _add_flow(rows, child, now, width, depth + 1, style)
    rows.append(_flow_row(flow, indent, now, width, style))


def _task_row(counts: TaskCounts, indent: str, name_width: int, width: int, style: Style) -> str:
    every, done = counts.all, min(counts.done, counts.all)
    running = min(counts.running, every - done)
    delayed = min(counts.delayed, every - done - running)
    waiting = every - done - running - delayed
    name = set_cell_size(cut(clean(counts.name), name_width, style), name_width)
    rate = counts.rate()
    parts = [(f"{done:,}/{every:,}", "")]
    if counts.failed:
        parts.append((f"{counts.failed:,} failed", RED))
    if delayed:
        parts.append((f"{delayed:,} retrying", YELLOW))
    if running:
        parts.append((f"{running:,} running", CYAN))
    if counts.cancelled:
        parts.append((f"{counts.cancelled:,} cancelled", YELLOW))
    if counts.not_ready:
        parts.append((f"{counts.not_ready:,} not ready", YELLOW))
    if waiting:
        parts.append((f"{waiting:,} waiting", FAINT))
    if rate and done < every:
        parts.append((_rate(rate), FAINT))
        parts.append((f"{seconds_in_words((every - done) / rate)} left", FAINT))
    row = f"{indent}{name} "
    room = width - cell_len(row)
    needed = sum(len(text) + 2 for text, _ in parts)
    if room >= needed + _BAR + 1:
        full = _BAR * done // every
        bar = style.paint(
            style.full * full,
            RED if counts.failed else YELLOW if counts.cancelled or counts.not_ready else GREEN,
        )
        row += bar + style.paint(style.empty * (_BAR - full), FAINT) + " "
        room -= _BAR + 1
    for place, (text, code) in enumerate(parts):
        gap = 2 if place else 0
        if gap + len(text) > room:
            break
        row += " " * gap + style.paint(text, code)
        room -= gap + len(text)
    return row


def _rate(rate: float) -> str:
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


def _flow_row(flow: FlowCounts, indent: str, now: float, width: int, style: Style) -> str:
    text = f"{indent}{clean(flow.flow)}"
    facts = [seconds_in_words(now - flow.began)]
    if flow.places:
        facts.append(f"{flow.busy:,} of {flow.places:,} busy")
    waits = _waits(flow, now)
    if waits:
        facts.append(waits)
    name = cut(text, max(width // 3, 8), style)
    rest = cut("  " + "  ".join(facts), width - cell_len(name), style)
    return style.paint(name, BOLD) + rest


def _waits(flow: FlowCounts, now: float) -> str:
    """What a flow run waits for at the moment, in words."""
    if flow.starting:
        return "waits for a worker to start"
    problems = list(flow.problems.values())
    limited = [problem for problem in problems if problem.due is None]
    if flow.oldest is not None:
        run, since = flow.oldest
        parts = [f"waits for {clean(run.name)} for {seconds_in_words(now - since)}"]
        if limited:
            parts.append(f"{len(limited):,} for limits")
        if flow.capped:
            parts.append(f"the cap of {clean(flow.capped)}")
        return ", ".join(parts)
    if limited:
        limits = sorted({problem.limits for problem in limited})
        return f"waits for limit {clean(limits[0])}"
    if problems:
        first = min(problems, key=lambda problem: problem.due or 0.0)
        left = max((first.due or 0.0) - time.time(), 0.0)
        return f"retries {clean(first.name)} in {seconds_in_words(left)}"
    return ""
