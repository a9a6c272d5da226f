"""The lines at the end of a flow run: what failed, and how many runs there were.

May import `counting` and `rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.recording.command import command_line
from shoal.recording.live.rows import BOLD, GREEN, RED, YELLOW, clean, cut, seconds_in_words

if TYPE_CHECKING:
    from shoal.recording.live.counting import FlowCounts
    from shoal.recording.live.rows import Style

__all__ = ["summary_of"]


def summary_of(flow: FlowCounts, style: Style, width: int) -> list[str]:
    """The failures first: run, error, file and line, and the command that runs all of it again.

    Args:
        flow: a flow run that has ended.
        style: what the terminal can show.
        width: of the terminal.
    """
    failed = flow.total("failed")
    lines: list[str] = []
    for failure in flow.failures:
        name = clean(failure.name)
        lines.append(
            f"{style.paint(style.bad, RED)} {style.paint(name, BOLD)}  {clean(failure.error)}"
            + (f"  {clean(failure.place)}" if failure.place else "")
        )
    if failed > len(flow.failures):
        lines.append(f"  {style.dots} and {failed - len(flow.failures):,} more failed")
    command = command_line()
    completed = flow.state is not None and flow.state.is_completed()
    if command and (failed or not completed):
        lines.append(f"  run it again: {command}")
    lines.append(_last_line(flow, failed, completed, style, width))
    return lines


def _last_line(flow: FlowCounts, failed: int, completed: bool, style: Style, width: int) -> str:
    runs = flow.total("all")
    took = seconds_in_words((flow.ended or flow.began) - flow.began)
    how = flow.state.name.lower() if flow.state is not None else "ended"
    facts = [f"{how} in {took}", "1 task run" if runs == 1 else f"{runs:,} task runs"]
    for what, count in (
        ("failed", failed),
        ("cancelled", flow.total("cancelled")),
        ("not ready", flow.total("not_ready")),
        ("retried", flow.total("again")),
    ):
        if count:
            facts.append(f"{count:,} {what}")
    colour = GREEN if completed and not failed else YELLOW if completed else RED
    mark = style.good if completed else style.bad
    told = ", ".join(facts)
    # It may take two lines where the terminal is narrow: what failed stands at its end.
    text = f"{cut(clean(flow.flow), max(width - len(told) - 5, 20), style)}  {told}"
    return f"{style.paint(mark, colour)} {style.paint(text, BOLD)}"
