"""The report: one page in HTML of what ran, which opens without a network and asks for nothing.

    words      quantities in words
    critical   the critical path
    workers_time   what became of the time of workers
    figures    what is counted: times, waits, workers
    failing    what failed, in words
    advice     rules that say in words what would help
    packing    the timeline's columns, as few bytes
    drawing    histograms and the graph of tasks, as SVG
    pieces     tables, bars, and texts made safe
    outcome    sections about what happened
    times      sections about what took the time
    sections   all of them, in their order
    page.html, page.css, page.js     what these are put into, and what draws the timeline

Made from a record alone, and pure but for the last step. May import the record and the standard library.
"""

from __future__ import annotations

import json
from importlib import resources
from itertools import islice
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.recording.record import Record

__all__ = ["page"]

#: How many names that users gave to runs the timeline knows; it calls others by their task and number.
NAMES = 5_000


def page(record: Record) -> str:
    """A record as one page.

    Args:
        record: what ran.

    Returns:
        The file's text, to be written as UTF-8. It grows with the number of attempts, by a few bytes for each, up to a
        million of them.
    """
    from html import escape

    from shoal.recording.report import sections
    from shoal.recording.report.advice import advice
    from shoal.recording.report.figures import BAD, figures
    from shoal.recording.report.packing import packed

    found = figures(record)
    record = found.record
    timeline = packed(record, found.order, found.elapsed)
    number = sections.colours(found)
    meta = {
        "count": timeline.count,
        "columns": timeline.columns,
        # -1 is the last name, that of no worker, for Python; a script counts from the front.
        "rows": [(worker % len(found.names), lane, count) for worker, lane, count in timeline.rows],
        "tick": timeline.tick,
        "span": max(found.elapsed, timeline.tick),
        "tasks": [row.name for row in record.tasks],
        "colours": [number.get(row.index, -1) for row in record.tasks],
        "states": record.states,
        "bad": [state in BAD for state in record.states],
        "workers": found.names,
        "names": dict(islice(record.names.items(), NAMES)),
        "busy": [round(value, 3) for value in found.curve],
    }
    first = record.flow_runs[0] if record.flow_runs else None
    title = f"{first.flow} {first.name}" if first else "Runs"
    return Template(_own("page.html")).substitute(
        title=escape(title),
        css=_own("page.css"),
        body=sections.body(found, advice(found), timeline),
        # Within a script, only `</script` and `<!--` would be read as anything but text.
        meta=json.dumps(meta).replace("<", "\\u003c"),
        columns=timeline.text,
        script=_own("page.js"),
    )


def _own(name: str) -> str:
    """A file of this package."""
    return resources.files(__name__).joinpath(name).read_text("utf-8")
