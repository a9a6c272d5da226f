"""Sections of a report about what happened: what ran and how it ended, failures, events, the log.

Every text from a record goes through `escape`: names of tasks, errors and parameters may hold anything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape

from shoal.recording.record import ErrorRow, EventRow, FlowRunRow
from shoal.recording.report import pieces
from shoal.recording.report.figures import BAD, FOLLOWED, Figures
from shoal.recording.report.words import many, seconds, share

__all__ = ["events", "events_title", "failures", "foot", "head", "logs", "what"]

#: How much of each is shown; what is left out is told.
FLOW_RUNS, GROUPS, IN_GROUP, EVENTS, LOGS = 50, 50, 3, 200, 500

#: Events that are told of.
KINDS = {"death": "deaths", "retry": "retries", "recall": "recalls"}

#: Characters of an error's text.
MOST_TEXT = 500

# ------------------------------------------------------------ what ran


def head(figures: Figures) -> str:
    record = figures.record
    first = record.flow_runs[0] if record.flow_runs else None
    title = (
        f"{escape(first.flow)} <span class=faint>{escape(first.name)}</span>" if first else "Runs"
    )
    began = datetime.fromtimestamp(record.started, UTC)
    state = f"{pieces.state(first.state)} after" if first else "Took"
    counts = figures.counts
    runs = sum(counts.values())
    cells = [("elapsed", seconds(figures.elapsed)), ("runs of tasks", f"{runs:,}")]
    cells += [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda c: -c[1])]
    cells.append(("workers", f"{len(record.workers):,}"))
    if figures.workers.total:
        cells.append(("of their time in runs", share(figures.workers.runs, figures.workers.total)))
    listed = "".join(
        f"<li><b{' class=bad' if name in BAD else ''}>{value}</b><span>{escape(name)}</span></li>"
        for name, value in cells
    )
    unfinished = (
        '<p class="bad">The record has no end: its process was killed, or was still running.</p>'
        if record.ended is None
        else ""
    )
    return (
        f"<header><h1>{title}</h1>\n<p>{state} {seconds(figures.elapsed)}, from {began:%Y-%m-%d %H:%M:%S} UTC on "
        f"{escape(record.host)}.</p>{unfinished}\n<ul class=counts>{listed}</ul></header>"
    )


def what(figures: Figures) -> str:
    runs = figures.record.flow_runs
    children: dict[int | None, list[FlowRunRow]] = defaultdict(list)
    numbers = {run.number for run in runs}
    for run in runs:
        children[run.parent if run.parent in numbers else None].append(run)
    columns, retrying = figures.record.columns, figures.record.states.index("Retrying")
    inside = Counter(
        flow
        for flow, state in zip(columns.flow_run, columns.state, strict=True)
        if state != retrying
    )
    rows: list[str] = []
    way = [(run, 0) for run in reversed(children[None])]
    while way and len(rows) < FLOW_RUNS:
        run, depth = way.pop()
        rows.append(_flow_row(run, depth, inside[run.number], figures.record.started))
        way += [(child, depth + 1) for child in reversed(children[run.number])]
    more = len(runs) - len(rows)
    table = pieces.table(
        "Runs of flows",
        ("flow run", "state", "began at", "took", "task runs", "runner", "parameters"),
        rows,
    )
    return (table if rows else "") + (pieces.more(more, "flow run") if more > 0 else "")


def _flow_row(run: FlowRunRow, depth: int, inside: int, started: float) -> str:
    took = seconds(run.ended - run.began) if run.ended is not None else "no end"
    given = ", ".join(f"{name}={value}" for name, value in run.parameters.items())
    message = (
        f"<small class=wrap>{escape(pieces.cut(run.message, 300))}</small>" if run.message else ""
    )
    return (
        f'<tr><th scope=row style="padding-left:{0.6 + depth * 1.2:.1f}rem">{escape(run.flow)} '
        f"<span class=faint>{escape(run.name)}</span></th><td class=left>{pieces.state(run.state)}{message}</td>"
        f"<td>{seconds(run.began - started)}</td><td>{took}</td><td>{inside:,}</td>"
        f'<td class="left wrap">{escape(pieces.cut(run.runner, 200))}</td><td class="left wrap">{escape(pieces.cut(given, 300))}</td></tr>'
    )


# ------------------------------------------------------------ failures


def failures(figures: Figures) -> str:
    record = figures.record
    task_of = {
        number: task
        for number, task in zip(record.columns.number, record.columns.task, strict=True)
        if number in record.errors
    }
    # What was raised at one place is one kind of failure, though each run may have words of its own for it.
    groups: dict[tuple[str, ...], list[tuple[int, ErrorRow]]] = defaultdict(list)
    for number, rows in record.errors.items():
        last = rows[-1]
        if last.state in ("Retrying", "Completed"):
            continue
        task = record.tasks[task_of[number]].name if number in task_of else ""
        place = f"{last.file}:{last.line}" if last.file else pieces.cut(last.text, MOST_TEXT)
        # What followed from another failure tells less than that one, and each time the same in other words.
        followed = last.state in FOLLOWED
        groups[task, last.kind, "" if followed else place].append((number, last))
    ordered = sorted(
        groups.items(), key=lambda item: (item[1][0][1].state in FOLLOWED, -len(item[1]))
    )
    parts: list[str] = []
    for (task, kind, _), members in ordered[:GROUPS]:
        texts = {row.text for _, row in members}
        in_common = len(texts) == 1 and members[0][1].state not in FOLLOWED
        text = pieces.cut(members[0][1].text, MOST_TEXT) if in_common else ""
        head = escape(": ".join(filter(None, (kind or members[0][1].state, text))))
        runs = "".join(
            _failure(
                figures, number, task_of, row, said=in_common, unfolded=not parts and not place
            )
            for place, (number, row) in enumerate(members[:IN_GROUP])
        )
        more = len(members) - IN_GROUP
        parts.append(
            f"<h3>{many(len(members), 'run')} of {escape(task or 'flows')}: <span class=bad>{head}</span></h3>{runs}"
            + (pieces.more(more, "run") if more > 0 else "")
        )
    left = sum(len(members) for _, members in ordered[GROUPS:]) + record.errors_left_out
    if left:
        parts.append(pieces.more(left, "failure"))
    if parts and record.command:
        parts.append(f"<p>To run all of it again: <code>{escape(record.command)}</code></p>")
    return "\n".join(parts)


def _failure(
    figures: Figures,
    number: int,
    task_of: Mapping[int, int],
    row: ErrorRow,
    *,
    said: bool,
    unfolded: bool,
) -> str:
    """One of a group; `said`: its text stands above."""
    record = figures.record
    flow = next((run for run in record.flow_runs if run.number == number), None)
    name = (
        record.run_name(number, task_of[number])
        if number in task_of
        else flow.name
        if flow
        else f"run {number}"
    )
    where = f", {escape(row.file)}:{row.line}" if row.file else ""
    trace = f"<pre>{escape(row.traceback.rstrip())}</pre>" if row.traceback else ""
    logs = (
        f"<p>Its last log lines:</p><pre>{escape(chr(10).join(row.logs))}</pre>" if row.logs else ""
    )
    attempt = f", attempt {row.attempt}" if row.attempt > 1 else ""
    text = "" if said or not row.text else f": {escape(pieces.cut(row.text, MOST_TEXT))}"
    what = f"{escape(name)}: {pieces.state(row.state)} at {seconds(row.at - record.started)}{attempt}{where}{text}"
    if not trace and not logs:
        return f"<p>{what}</p>"
    return f"<details{' open' if unfolded else ''}><summary>{what}</summary>{trace}{logs}</details>"


# ------------------------------------------------------------ events and log


def events_title(figures: Figures) -> str:
    there = {event.kind for event in figures.record.events}
    *before, last = [name for kind, name in KINDS.items() if kind in there] or [""]
    return f"{', '.join(before)}{' and ' if before else ''}{last}".capitalize()


def events(figures: Figures) -> str:
    record = figures.record
    told = [event for event in record.events if event.kind in KINDS]
    if not told:
        return ""
    counts = Counter(event.kind for event in told)
    workers = _workers_of(figures, told)
    task_of = dict(zip(record.columns.number, record.columns.task, strict=True))
    told.sort(key=lambda event: (event.kind != "death", event.at))
    rows = []
    for event in told[:EVENTS]:
        run = (
            record.run_name(event.number, task_of[event.number]) if event.number in task_of else ""
        )
        known = workers.get(event, event.worker)
        worker = figures.names[known] if known >= 0 else ""
        kind = "<span class=bad>death</span>" if event.kind == "death" else event.kind
        rows.append(
            f"<tr><th scope=row>{kind}</th><td>{seconds(event.at - record.started)}</td><td class=left>{escape(run)}</td>"
            f'<td class=left>{escape(worker)}</td><td class="left wrap">{escape(pieces.cut(event.text, 300))}</td></tr>'
        )
    summary = ", ".join(many(count, kind) for kind, count in counts.items())
    left = len(told) - len(rows) + record.events_left_out
    return (
        f"<p>{summary}.</p>"
        + pieces.table("", ("what", "at", "run", "worker", ""), rows)
        + (pieces.more(left, "event") if left > 0 else "")
    )


def _workers_of(figures: Figures, events: list[EventRow]) -> dict[EventRow, int]:
    """Where the attempts were that were retried: the first retry of a run is after its first attempt."""
    columns = figures.record.columns
    retries = [event for event in events if event.kind == "retry"]
    wanted = {event.number for event in retries}
    worker_of = {
        (number, attempt): worker
        for number, attempt, worker in zip(
            columns.number, columns.attempt, columns.worker, strict=True
        )
        if number in wanted
    }
    found, attempts = {}, Counter[int]()
    for event in sorted(retries, key=lambda event: event.at):
        attempts[event.number] += 1
        found[event] = worker_of.get((event.number, attempts[event.number]), -1)
    return found


def logs(figures: Figures) -> str:
    record = figures.record
    if not record.logs:
        return ""
    shown = record.logs[-LOGS:]
    left = len(record.logs) - len(shown) + record.logs_left_out
    lines = "\n".join(
        f"{row.at - record.started:10.3f}  {pieces.cut(row.text, 500)}" for row in shown
    )
    note = pieces.more(left, "line") if left > 0 else ""
    return f"<details><summary>{many(len(shown), 'log line')}</summary>{note}<pre>{escape(lines)}</pre></details>"


def foot(figures: Figures) -> str:
    record = figures.record
    command = (
        f" by <code>{escape(pieces.cut(record.command, 300))}</code>" if record.command else ""
    )
    return (
        f"<footer><p class=faint>Recorded{command} with Shoal {escape(record.shoal)} on Python {escape(record.python)}, "
        f"process {record.pid} on {escape(record.host)}.</p></footer>"
    )
