"""What failed, in words: of which task, for what reason, and what only followed from that."""

from __future__ import annotations

from collections import Counter

from shoal.recording.report.figures import FOLLOWED, Figures
from shoal.recording.report.words import many

__all__ = ["failures_in_words"]


def failures_in_words(figures: Figures) -> str:
    """A sentence for what failed, for what never began because of that, and for what was cancelled; empty if all completed."""
    failed = {task.index: task.bad - task.followed for task in figures.tasks}
    sentences = []
    if any(failed.values()):
        worst = max(figures.tasks, key=lambda task: failed[task.index])
        count = failed[worst.index]
        text = (
            f"`{worst.name}` did not complete"
            if worst.runs == 1
            else f"{count:,} of {worst.runs:,} runs of `{worst.name}` did not complete"
        )
        others = sum(failed.values()) - count
        if others:
            text += f", and {many(others, 'run')} of other tasks"
        sentences.append(f"{text}{_reason(figures)}.")
    counts = figures.counts
    if skipped := counts.get("NotReady", 0):
        sentences.append(
            f"{many(skipped, 'run')} never began, because an upstream had failed: what can do without it takes "
            "`allow_failure`."
        )
    if cancelled := counts.get("Cancelled", 0):
        sentences.append(
            f"{many(cancelled, 'run')} {'was' if cancelled == 1 else 'were'} cancelled."
        )
    return " ".join(sentences)


def _reason(figures: Figures) -> str:
    kinds = Counter(
        rows[-1].kind
        for rows in figures.record.errors.values()
        if rows[-1].kind and rows[-1].state not in ("Retrying", "Completed", *FOLLOWED)
    )
    if not kinds:
        return ""
    kind, times = kinds.most_common(1)[0]
    if len(kinds) == 1:
        return f"; the reason was {kind}"
    often = f"most often ({times:,} times) the reason" if times > 1 else "one of the reasons"
    return f"; {often} was {kind}"
