"""Sections of a report about what took the time: timeline, graph, critical path, tasks, workers, bytes.

Every text from a record goes through `escape`, as in `outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from shoal.recording.report import drawing, pieces
from shoal.recording.report.drawing import histogram
from shoal.recording.report.figures import WAITS, Figures, TaskFigures, starts
from shoal.recording.report.packing import Packed
from shoal.recording.report.words import many, seconds, share, size

__all__ = ["COLOURS", "bytes_", "graph", "path", "tasks", "timeline", "workers"]

#: How many colours the page's style has for tasks; further tasks share one.
COLOURS = 8

#: How much of each is shown; what is left out is told.
TASKS, NODES, RUNNERS, STEPS = 200, 60, 50, 30

#: What the parts of workers' time are called, in which colour, and what they mean.
TIME = (
    ("runs", "Runs", "--c2", "functions of tasks"),
    ("messages", "Scheduling and messages", "--c1", "a run was ready, and had not begun"),
    (
        "idle",
        "Idle",
        "--c6",
        "nothing was ready: what was left waited for other runs, a limit or a retry, or was not submitted yet",
    ),
    ("over", "After the last run", "--c5", "nothing was left to run on this worker"),
    (
        "absent",
        "Not there",
        "--rest",
        "the runner or the worker started, or it had gone",
    ),
)

GAPS = {
    "passed": "between an upstream's end and the next run's beginning",
    "worker": "between two runs on a worker that was waited for",
    "retry": "delays of retries",
    "nested": "between a submission in a task and its run's beginning",
    "waited": "between the end of a run that a task waited for and its going on",
    "code": "in the flow's own code, between runs",
    "start": "before the first run",
}


# ------------------------------------------------------------ the timeline


def timeline(figures: Figures, timeline: Packed, css: Mapping[int, str]) -> str:
    if not timeline.count:
        return ""
    legend = "".join(
        f'<button type=button data-name="{escape(task.name)}" aria-pressed=false title="{escape(task.name)}">'
        f'<span class=swatch style="background:{css[task.index]}"></span>{escape(pieces.cut(task.name, 40))}</button>'
        for task in figures.tasks[:COLOURS]
    )
    others = len(figures.tasks) - COLOURS
    if others > 0:
        legend += f"<span><span class=swatch></span>{many(others, 'other task')}</span>"
    bad = sum(task.bad for task in figures.tasks)
    if bad:
        legend += (
            '<span><span class=swatch style="background:var(--bad)"></span>not completed</span>'
        )
    sampled = (
        f"<p class=faint>{timeline.count:,} of {timeline.total:,} attempts are drawn: all that did not complete, as far as "
        "possible, and the longest ones. Everything else on this page counts every one.</p>"
        if timeline.count < timeline.total
        else ""
    )
    return f"""<div class=legend>{legend}</div>
<div class=bar role=search><input id=search type=search placeholder="Find: task, task-number, state, worker" aria-label="Find runs" autocomplete=off spellcheck=false>
<button type=button id=earlier>Previous</button><button type=button id=later>Next</button><span id=found class=faint aria-live=polite></span>
<button type=button id=closer aria-label="Zoom in">+</button><button type=button id=wider aria-label="Zoom out">&minus;</button><button type=button id=whole>All</button><button type=button id=squeeze aria-pressed=false>All workers</button></div>
<canvas id=overview aria-hidden=true></canvas>
<div id=rows><canvas id=timeline tabindex=0 role=img aria-label="Timeline of runs by worker. Keys: arrows move, plus and minus zoom, 0 shows all, n and p go from run to run, / searches."></canvas><div id=spacer></div></div>
<div id=tooltip role=tooltip hidden></div>
<p class=faint><span id=said aria-live=polite></span> <span id=thin></span></p>
<p class=faint>Drag to move, Ctrl and the wheel or + and &minus; to zoom, drag over the curve above to choose a time; n and p go from run to run.</p>{sampled}
<p id=untold class=bad hidden>The timeline cannot be drawn: this browser is too old, or the file is not whole. All else on this page is complete.</p>
<noscript><p class=bad>The timeline needs JavaScript; all else on this page does not.</p></noscript>"""


# ------------------------------------------------------------ graph and path


def graph(figures: Figures, css: Mapping[int, str]) -> str:
    path = figures.path
    tasks = figures.tasks[:NODES]
    if not tasks:
        return ""
    drawn = drawing.graph(tasks, figures.links, path.by_task, path.seconds, css)
    more = len(figures.tasks) - len(tasks)
    names = {task.index: task.name for task in figures.tasks}
    rows = [
        f"<tr><th scope=row>{escape(names[link.tail])}</th><td class=left>{escape(names[link.head])}</td>"
        f"<td>{many(link.count, 'run') if link.nested else many(link.count, 'result')}</td></tr>"
        for link in sorted(figures.links, key=lambda link: -link.count)[:TASKS]
        if link.tail in names and link.head in names
    ]
    table = (
        f"<details><summary>As a table</summary>{pieces.table('What was passed, and what was submitted by tasks', ('from', 'to', ''), rows)}</details>"
        if rows
        else "<p class=faint>No task was given a result of another as a future.</p>"
    )
    red = "What is on the critical path has a red edge. " if path.steps else ""
    if any(link.nested for link in figures.links):
        red += "Dashed: runs that were submitted by runs."
    return f"<figure><div class=scrolls>{drawn}</div><figcaption>{red}</figcaption></figure>{pieces.more(more, 'task') if more > 0 else ''}{table}"


def path(figures: Figures, css: Mapping[int, str]) -> str:
    path, elapsed = figures.path, figures.elapsed
    if not path.steps or not elapsed:
        return ""
    names = {task.index: task.name for task in figures.tasks}
    by_task, gaps = path.by_task, path.gaps
    last = path.steps[-1]
    rest = max(elapsed - last.began - last.seconds, 0.0)
    parts = [(names[task], length, css[task]) for task, length in by_task.items()]
    parts += [(GAPS[kind], length, "var(--edge)") for kind, length in gaps.items()]
    parts.append(("after the last run", rest, "var(--soft)"))
    rows = [
        f"<tr><th scope=row>{pieces.swatch(css[task])}{escape(names[task])}</th><td>{path.runs[task]:,}</td><td>{seconds(length)}</td>"
        f"<td>{share(length, elapsed)}</td></tr>"
        for task, length in list(by_task.items())[:TASKS]
    ]
    rows += [
        f"<tr><th scope=row>{pieces.swatch('var(--edge)')}<span class=faint>{text}</span></th><td></td><td>{seconds(length)}</td>"
        f"<td>{share(length, elapsed)}</td></tr>"
        for text, length in [
            *((GAPS[kind], length) for kind, length in gaps.items()),
            ("after the last run", rest),
        ]
        if length
    ]
    longest = sorted(path.steps, key=lambda step: -step.seconds)[:STEPS]
    steps = [
        f"<tr><th scope=row>{pieces.swatch(css[step.task])}{escape(figures.record.run_name(step.number, step.task))}</th>"
        f"<td>{seconds(step.began)}</td><td>{seconds(step.seconds)}</td><td>{seconds(step.gap)}</td>"
        f"<td class=left>{GAPS[step.after]}</td></tr>"
        for step in sorted(longest, key=lambda step: step.began)
    ]
    which = "its runs" if len(steps) == len(path.steps) else f"its {len(steps)} longest parts"
    return f"""<p>What the end waited for: {many(sum(path.runs.values()), "run")}, {seconds(path.seconds)} of {seconds(elapsed)}. Other runs could have taken longer, and it would have ended no later.</p>
{pieces.stack(parts, elapsed)}
{pieces.table("Share of each task", ("task", "runs", "time", "share of all"), rows)}
<details{" open" if len(steps) <= 12 else ""}><summary>The path, {which}</summary>{pieces.table("Runs in their order", ("run", "began at", "on the path for", "gap before", "the gap is"), steps)}</details>"""


# ------------------------------------------------------------ tasks and workers


def tasks(figures: Figures, css: Mapping[int, str]) -> str:
    shown = figures.tasks[:TASKS]
    if not shown:
        return ""
    waits = [what for what in WAITS if any(task.waits[what].count for task in shown)]
    rows = [
        f"<tr><th scope=row>{pieces.swatch(css[task.index])}{escape(task.name)}</th><td>{_states_of(task)}</td>"
        + "".join(f"<td>{took}</td>" for took in _took(task))
        + "".join(f"<td>{_wait(task, what)}</td>" for what in waits)
        + "</tr>"
        for task in shown
    ]
    head = ("task", "runs", "all", "median", "95 %", "most", *(f"for {what}" for what in waits))
    table = pieces.table("Attempts, and the median of what they waited for", head, rows)
    more = len(figures.tasks) - len(shown)
    pictures = "".join(
        _pictures(task, css[task.index], place < 8) for place, task in enumerate(shown)
    )
    return table + (pieces.more(more, "task") if more > 0 else "") + pictures


def _pictures(task: TaskFigures, colour: str, unfolded: bool) -> str:
    drawn = [
        (
            f"took ({many(task.seconds.count, 'attempt')})",
            histogram(task.seconds, f"{task.name} took", colour),
        )
    ]
    drawn += [
        (
            f"waited for {what} ({task.waits[what].count:,})",
            histogram(task.waits[what], f"{task.name} waited for {what}", "var(--rest)"),
        )
        for what in WAITS
        if task.waits[what].count
    ]
    figures_ = "".join(
        f"<figure>{svg}<figcaption>{label}</figcaption></figure>" for label, svg in drawn if svg
    )
    if not figures_:
        return ""
    return f"<details{' open' if unfolded else ''}><summary>{escape(task.name)}</summary><div class=grid>{figures_}</div></details>"


def _states_of(task: TaskFigures) -> str:
    others = [
        f"{count:,} {escape(state)}"
        for state, count in task.counts.items()
        if state != "Completed" and count
    ]
    told = f"<small{' class=bad' if task.bad else ''}>{', '.join(others)}</small>" if others else ""
    return f"{task.runs:,}{told}"


def _took(task: TaskFigures) -> list[str]:
    """How long attempts took; nothing is told where none began."""
    spread = task.seconds
    if not spread.count:
        return [""] * 4
    return [seconds(value) for value in (spread.total, spread.median, spread.high, spread.most)]


def _wait(task: TaskFigures, what: str) -> str:
    spread = task.waits[what]
    return (
        f"{seconds(spread.median)}<small>{seconds(spread.most)} at most</small>"
        if spread.count
        else ""
    )


def workers(figures: Figures) -> str:
    time, record = figures.workers, figures.record
    if not time.total:
        return ""
    named = [(key, name, colour, note, getattr(time, key)) for key, name, colour, note in TIME]
    rows = [
        f'<tr><th scope=row>{pieces.swatch(f"var({colour})")}{name}</th><td>{seconds(length)}</td><td>{share(length, time.total)}</td><td class="left faint">{note}</td></tr>'
        for _, name, colour, note, length in named
    ]
    stack = pieces.stack(
        [(name, length, f"var({colour})") for _, name, colour, _, length in named], time.total
    )
    runners = [
        f"<tr><th scope=row>{escape(one.name)}</th><td>{seconds(took)}</td><td>{one.slots or '?'}</td></tr>"
        for one, took in zip(record.runners[:RUNNERS], starts(record), strict=False)
    ]
    busiest = sorted(range(len(time.busy)), key=lambda index: -time.busy[index])
    shown = busiest if len(busiest) <= 40 else busiest[:20] + busiest[-20:]
    each = [
        f"<tr><th scope=row>{escape(figures.names[index])}</th><td>{len(figures.order[index]):,}</td><td>{seconds(time.busy[index])}</td>"
        f"<td>{share(time.busy[index], figures.elapsed)}</td><td class=left>{escape(record.workers[index].ending)}</td></tr>"
        for index in shown
    ]
    title = (
        many(len(busiest), "worker")
        if len(shown) == len(busiest)
        else f"The 20 busiest and the 20 idlest of {len(busiest):,} workers"
    )
    return (
        stack
        + pieces.table("All workers' time", ("", "time", "share", ""), rows)
        + (
            pieces.table("Runners", ("runner", "took to start", "runs at once"), runners)
            if runners
            else ""
        )
        + f"<details><summary>{title}</summary>"
        + pieces.table(
            "Workers", ("worker", "attempts", "in runs", "share of the time", "how it went"), each
        )
        + "</details>"
    )


# ------------------------------------------------------------ bytes


def bytes_(figures: Figures, css: Mapping[int, str]) -> str:
    messages = figures.record.messages
    sent = sum(count for count in messages.bytes_sent if count > 0)
    back = sum(count for count in messages.bytes_back if count > 0)
    tasks = sorted((task for task in figures.tasks if task.size), key=lambda task: -task.size)
    if not (sent or back or tasks):
        return ""
    parts = []
    if len(messages):
        runs = sum(messages.runs)
        parts.append(
            f"<p>{many(len(messages), 'message')} to workers carried {many(runs, 'attempt')}"
            + (f" and {size(sent)}" if sent else "")
            + (f"; {size(back)} came back" if back else "")
            + ".</p>"
        )
    if tasks:
        rows = [
            f"<tr><th scope=row>{pieces.swatch(css[task.index])}{escape(task.name)}</th><td>{size(task.size)}</td><td>{size(task.largest)}</td></tr>"
            for task in tasks[:TASKS]
        ]
        parts.append(
            pieces.table(
                "Results, as they came back or stay on their workers",
                ("task", "all", "largest"),
                rows,
            )
        )
    return "".join(parts)
