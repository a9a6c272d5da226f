"""The report's text: its sections in their order, and the advice above them."""

from __future__ import annotations

from shoal.recording.report import outcome, pieces, times
from shoal.recording.report.advice import Advice
from shoal.recording.report.figures import Figures
from shoal.recording.report.packing import Packed

__all__ = ["body", "colours"]


def colours(figures: Figures) -> dict[int, int]:
    """A number of a colour for each task by index, -1 for those that share one."""
    return {
        task.index: place if place < times.COLOURS else -1
        for place, task in enumerate(figures.tasks)
    }


def body(figures: Figures, advice: list[Advice], timeline: Packed) -> str:
    """All that stands on the page."""
    css = {
        index: f"var(--c{number})" if number >= 0 else "var(--rest)"
        for index, number in colours(figures).items()
    }
    sections = [
        ("what", "What ran", outcome.what(figures)),
        ("timeline-section", "Timeline", times.timeline(figures, timeline, css)),
        ("failures", "Failures", outcome.failures(figures)),
        ("graph", "Tasks and what they pass", times.graph(figures, css)),
        ("path", "Critical path", times.path(figures, css)),
        ("tasks", "How long runs took and waited", times.tasks(figures, css)),
        ("workers", "What workers did", times.workers(figures)),
        ("events", outcome.events_title(figures), outcome.events(figures)),
        ("bytes", "Bytes moved", times.bytes_(figures, css)),
        ("logs", "Log", outcome.logs(figures)),
    ]
    there = [(anchor, title, made) for anchor, title, made in sections if made]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in there)
    parts = [outcome.head(figures), f'<nav aria-label="Sections">{links}</nav>', _advice(advice)]
    parts += [
        f'<section id="{anchor}"><h2>{title}</h2>\n{made}</section>'
        for anchor, title, made in there
    ]
    parts.append(outcome.foot(figures))
    return "\n".join(parts)


def _advice(found: list[Advice]) -> str:
    if not found:
        return (
            '<section class="advice" id="advice"><h2>Advice</h2><p>None: nothing that took much of the time looks as if it '
            "could be spared.</p></section>"
        )
    items = "".join(f'<li data-rule="{one.rule}">{pieces.ticked(one.text)}</li>' for one in found)
    return f'<section class="advice" id="advice"><h2>Advice</h2><ul>{items}</ul></section>'
