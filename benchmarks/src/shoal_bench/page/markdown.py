"""What the documentation has of a record: blocks of Markdown, put between their markers.

    <!-- measured: runners -->
    ...
    <!-- end of what was measured -->

Pure. No figure stands in the documentation otherwise, so that a new record makes it true again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from shoal_bench.advice import advice
from shoal_bench.measurement import SECONDS
from shoal_bench.page.notes import circumstances, doubts
from shoal_bench.page.sections import PICTURE, sections
from shoal_bench.record import Entry, Record
from shoal_bench.table import ratio

__all__ = ["BLOCKS", "UnknownBlock", "filled"]

BLOCK = re.compile(
    r"(<!-- measured: (?P<name>\w+) -->\n).*?(<!-- end of what was measured -->)", re.DOTALL
)

#: The columns of the table of runners: a heading, and the scenario and case of its figures.
COLUMNS = (
    ("a task of a map", "overhead", "map"),
    ("submit and wait, one by one", "overhead", "round-trip"),
    ("smallest task worth spreading", "metg", "trivial"),
    ("until the first result", "start", "start"),
)


class UnknownBlock(Exception):
    """A marker names a block that there is not.

    Attributes:
        name: what it says.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no block {self.name!r} to put between markers, but: {', '.join(BLOCKS)}"


def filled(text: str, record: Record) -> str:
    """A page of the documentation with its blocks made anew.

    Raises:
        UnknownBlock: a marker names a block that there is not.
    """

    def block(found: re.Match[str]) -> str:
        if found["name"] not in BLOCKS:
            raise UnknownBlock(found["name"])
        return f"{found[1]}\n{BLOCKS[found['name']](record)}\n\n{found[3]}"

    return BLOCK.sub(block, text)


def _advice(record: Record) -> str:
    return "\n".join(f"* {sentence}" for sentence in advice(record))


def _runners(record: Record) -> str:
    """A row for each of ours: what it costs, and in brackets how many times that its bare engine costs."""
    columns = [c for c in COLUMNS if any(_entries(record, *c[1:]))]
    lines = ["| | " + " | ".join(heading for heading, *_ in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for contestant in record.contestants:
        if contestant.ours:
            cells = (
                _cell(_entry(record, scenario, case, contestant.name), contestant.bare)
                for _, scenario, case in columns
            )
            lines.append(f"| {contestant.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _charts(record: Record) -> str:
    """A chart for each question that the record answers."""
    return "\n\n".join(
        f"### {section.title}\n\n"
        + (f"{section.answer}\n\n" if section.answer else "")
        + f"![{section.title}](pictures/bench/{section.name}.svg)\n\n{section.reads}"
        for section in sections(record)
        if section.name in PICTURE
    )


def _circumstances(record: Record) -> str:
    lines = [f"| {term} | {said} |" for term, said in circumstances(record)]
    return "\n".join(["| | |", "|---|---|", *lines])


def _doubts(record: Record) -> str:
    return "\n".join(f"* {sentence}" for sentence in doubts(record))


def _entries(record: Record, scenario: str, case: str) -> Iterator[Entry]:
    for contestant in record.contestants:
        entry = _entry(record, scenario, case, contestant.name)
        if entry is not None and contestant.ours:
            yield entry


def _entry(record: Record, scenario: str, case: str, contestant: str) -> Entry | None:
    place = record.scenario(scenario)
    found = place.case(case) if place is not None else None
    return found.entry(contestant) if found is not None else None


def _cell(entry: Entry | None, bare: str | None) -> str:
    if entry is None:
        return ""
    if entry.figure is None:
        return "void"
    beside = entry.ratio(bare)
    times = ""
    if beside is not None:
        times = f" ({ratio(1 / beside.quartiles.median)}{'' if beside.conclusive else '?'})"
    return f"{'~' if entry.noisy else ''}{SECONDS.show(entry.figure.median)}{times}"


#: What makes each block.
BLOCKS: dict[str, Callable[[Record], str]] = {
    "advice": _advice,
    "runners": _runners,
    "charts": _charts,
    "circumstances": _circumstances,
    "doubts": _doubts,
}
