"""Small pictures in SVG: histograms, and the graph of tasks. They take their colours from the page's style."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape

from shoal.recording.report.figures import EDGES, Link, Spread, TaskFigures
from shoal.recording.report.words import many, seconds, share

__all__ = ["graph", "histogram", "layers"]

#: Sizes of a node of the graph and of what is between nodes, in pixels.
WIDE, HIGH, ACROSS, DOWN = 164, 50, 40, 18


def histogram(spread: Spread, label: str, colour: str = "var(--link)") -> str:
    """Bars of how many runs took how long, over a scale of factors of ten.

    Args:
        spread: what to draw.
        label: read aloud in place of the picture.
        colour: of the bars, in CSS.
    """
    if not spread.count:
        return ""
    filled = [place for place, count in enumerate(spread.bars) if count]
    first, last = filled[0], filled[-1]
    bars = spread.bars[first : last + 1]
    wide, high, most = 150, 40, max(bars)
    step = min(wide / len(bars), 24)
    shape = "".join(
        # No bar is so low that it cannot be seen: one slow run among thousands is what one looks for.
        f"M{place * step:.1f} {high}v{-max(count / most * high, 1.5):.1f}h{max(step - 1, 1):.1f}V{high}z"
        for place, count in enumerate(bars)
        if count
    )
    low = EDGES[first - 1] if first else 0.0
    top = EDGES[last] if last < len(EDGES) else spread.most
    told = f"{label}: {many(spread.count, 'run')}, half of them up to {seconds(spread.median)}, at most {seconds(spread.most)}"
    return (
        f'<svg role="img" aria-label="{escape(told)}" width="{wide}" height="{high + 14}" viewBox="0 0 {wide} {high + 14}">'
        f"<title>{escape(told)}</title>"
        f'<path d="{shape}" fill="{colour}"/><path d="M0 {high + 0.5}h{wide}" stroke="var(--edge)"/>'
        f'<text class="small" x="0" y="{high + 12}">{seconds(low)}</text>'
        f'<text class="small" x="{wide}" y="{high + 12}" text-anchor="end">{seconds(top)}</text></svg>'
    )


def graph(
    tasks: Sequence[TaskFigures],
    links: Sequence[Link],
    path: Mapping[int, float],
    length: float,
    colours: Mapping[int, str],
) -> str:
    """The graph of tasks, from left to right: a node for each, with its runs and its share of the critical path.

    Args:
        tasks: which to draw, each by its index.
        links: what was passed between them.
        path: seconds of the critical path by task.
        length: of the path, in seconds.
        colours: of tasks, in CSS.
    """
    known = {task.index: task for task in tasks}
    links = [link for link in links if link.tail in known and link.head in known]
    columns = layers(list(known), links)
    place = {
        index: (column * (WIDE + ACROSS) + 2, row * (HIGH + DOWN) + 2)
        for column, indices in enumerate(columns)
        for row, index in enumerate(indices)
    }
    wide = len(columns) * (WIDE + ACROSS) - ACROSS + 34
    high = max(map(len, columns), default=0) * (HIGH + DOWN) + 4
    parts = [
        f'<svg role="img" aria-label="Graph of tasks" '
        # It shrinks to what fits as long as it can be read, and scrolls beyond.
        f'style="width:100%;min-width:{wide * 0.7:.0f}px;max-width:{wide}px" viewBox="0 0 {wide} {high}">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" markerWidth="9" markerHeight="9" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="var(--faint)"/></marker></defs>',
    ]
    for link in links:
        (x, y), (to_x, to_y) = place[link.tail], place[link.head]
        told = (
            f"{known[link.tail].name} submitted {known[link.head].name}: {many(link.count, 'run')}"
            if link.nested
            else f"{known[link.tail].name} to {known[link.head].name}: {many(link.count, 'result')}"
        )
        both = link.tail in path and link.head in path
        style = 'stroke="var(--bad)" stroke-width="2"' if both else 'stroke="var(--faint)"'
        if link.nested:
            style += ' stroke-dasharray="5 4"'
        parts.append(
            f'<path d="{_curve(x, y, to_x, to_y)}" fill="none" {style} marker-end="url(#head)">'
            f"<title>{escape(told)}</title></path>"
        )
    for index, (x, y) in place.items():
        task = known[index]
        on = index in path
        edge = "var(--bad)" if on else "var(--edge)"
        note = many(task.runs, "run")
        if task.bad:
            note = f"{task.bad:,} of {task.runs:,} not completed"
        elif on:
            note += f", {share(path[index], length)} of path"
        told = f"{task.name}: {note}; {seconds(task.seconds.total)} in all"
        parts.append(
            f'<g><title>{escape(told)}</title><rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="6" '
            f'fill="var(--soft)" stroke="{edge}" stroke-width="{2 if on else 1}"/>'
            f'<rect x="{x + 8}" y="{y + 11}" width="9" height="9" rx="2" fill="{colours[index]}"/>'
            f'<text x="{x + 23}" y="{y + 20}" font-weight="600">{escape(_fitting(task.name, 20))}</text>'
            f'<text class="small" x="{x + 8}" y="{y + 39}">{escape(_fitting(note, 27))}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def layers(tasks: Sequence[int], links: Sequence[Link]) -> list[list[int]]:
    """Puts tasks into columns, so that what is passed goes to the right; in a column, beside what they take from.

    A task may pass to itself, and two to each other; what would go back is not counted then.
    """
    after: dict[int, list[int]] = defaultdict(list)
    for link in links:
        if link.tail != link.head:
            after[link.tail].append(link.head)
    ahead = _without_cycles(tasks, after)
    depth = dict.fromkeys(tasks, 0)
    before: dict[int, list[int]] = defaultdict(list)
    for tail in ahead:  # in such an order that what a task takes from is placed before it
        for head in ahead[tail]:
            depth[head] = max(depth[head], depth[tail] + 1)
            before[head].append(tail)
    columns: list[list[int]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for task in tasks:
        columns[depth[task]].append(task)
    row: dict[int, float] = {}
    for column in columns:
        middle = {
            task: sum(row[tail] for tail in before[task]) / len(before[task])
            if before[task]
            else float(place)
            for place, task in enumerate(column)
        }
        column.sort(key=middle.__getitem__)
        row.update({task: float(place) for place, task in enumerate(column)})
    return columns


def _without_cycles(
    tasks: Sequence[int], after: Mapping[int, Sequence[int]]
) -> dict[int, list[int]]:
    """What comes after each task, but for what leads back; tasks in the order of the graph."""
    kept: dict[int, list[int]] = {task: [] for task in tasks}
    done: list[int] = []
    state: dict[int, bool] = {}  # True: on the way, False: done
    for root in tasks:
        if root in state:
            continue
        state[root] = True
        way = [(root, iter(after.get(root, ())))]
        while way:
            task, heads = way[-1]
            for head in heads:
                if state.get(head) is True:
                    continue
                kept[task].append(head)
                if head not in state:
                    state[head] = True
                    way.append((head, iter(after.get(head, ()))))
                    break
            else:
                state[task] = False
                done.append(task)
                way.pop()
    return {task: kept[task] for task in reversed(done)}


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    if (x, y) == (to_x, to_y):  # to itself: a loop at its right side
        right = x + WIDE
        return f"M{right} {y + 12}C{right + 24} {y + 4} {right + 24} {y + HIGH - 4} {right} {y + HIGH - 12}"
    start, end = (x + WIDE, y + HIGH / 2), (to_x, to_y + HIGH / 2)
    if to_x <= x:  # back, or within a column: from below to above
        start, end = (x + WIDE / 2, y + HIGH), (to_x + WIDE / 2, to_y + HIGH)
        return f"M{start[0]} {start[1]}C{start[0]} {start[1] + 40} {end[0]} {end[1] + 40} {end[0]} {end[1]}"
    bend = (end[0] - start[0]) / 2
    return f"M{start[0]} {start[1]}C{start[0] + bend} {start[1]} {end[0] - bend} {end[1]} {end[0]} {end[1]}"


def _fitting(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
