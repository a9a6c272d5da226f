"""Results as a table for the terminal, as a Markdown table for the documentation, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from shoal_bench.harness import Result
from shoal_bench.machine import Machine
from shoal_bench.measurement import Verdict

__all__ = ["as_json", "as_markdown", "as_table", "summary"]

#: Columns of the table on a terminal, whatever that has: figures that are cut off tell nothing.
WIDTH = 100

RATIO = "bare / ours"

#: Headings of the columns, and whether they hold numbers.
COLUMNS = (
    ("measurement", False),
    ("ours", True),
    ("bare", True),
    (RATIO, True),
    ("judged", True),
    ("min - max", True),
    ("floor", True),
    ("aim", True),
    ("verdict", False),
)

STYLES = {Verdict.AIM: "green", Verdict.FLOOR: "yellow", Verdict.MISSED: "bold red"}


def as_table(results: Iterable[Result], machine: Machine) -> Table:
    """The results for a terminal."""
    table = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption=str(machine),
        caption_justify="left",
    )
    for heading, is_number in COLUMNS:
        if heading != RATIO:
            table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for result in results:
        *cells, verdict = _without_ratio(list(_cells(result)))
        table.add_row(*cells, Text(verdict, style=STYLES[result.verdict]))
        for row in _rows_of_others(result):
            table.add_row(*_without_ratio(row), style="dim")
    return table


def _without_ratio(row: Sequence[str]) -> list[str]:
    """A row without what it says twice, or can be worked out: a terminal is narrow."""
    ratio = [heading for heading, _ in COLUMNS].index(RATIO)
    return [cell for position, cell in enumerate(row) if position != ratio]


def as_markdown(results: Iterable[Result], machine: Machine) -> str:
    """The results as a table in Markdown, and where they were measured."""
    rows: list[Sequence[str]] = [[heading for heading, _ in COLUMNS]]
    rows.append(["---:" if is_number else "---" for _, is_number in COLUMNS])
    for result in results:
        rows.append(list(_cells(result)))
        rows += _rows_of_others(result)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nMeasured {machine}.\n"


def as_json(results: Iterable[Result], machine: Machine, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that is known of the results, in base units (seconds, bytes)."""
    return {
        "machine": asdict(machine),
        "options": options,
        "measurements": [_result_as_json(result) for result in results],
    }


def summary(result: Result) -> str:
    """One line: `submit: 2.2x faster (floor)`."""
    return f"{result.measurement.name}: {_judged(result)} ({result.verdict})"


def _cells(result: Result) -> Iterator[str]:
    measurement, judged = result.measurement, result.figure
    figure, unit = measurement.figure, measurement.unit
    yield measurement.name
    yield unit.show(result.ours.median)
    yield unit.show(result.bare.median)
    yield f"{result.ratio.median:.2f}"
    yield _judged(result)
    least, most = figure.show(judged.min, unit), figure.show(judged.max, unit)
    same = least.partition(" ")[2] == most.partition(" ")[2] or "x" in least
    yield f"{least.rstrip('x').partition(' ')[0] if same else least} - {most}"
    yield figure.show(measurement.floor, unit)
    yield figure.show(measurement.aim, unit)
    yield result.verdict


def _rows_of_others(result: Result) -> Iterator[Sequence[str]]:
    """A row for each further engine, in the place of the bare one."""
    for name, taken in result.also.items():
        cost = result.measurement.unit.show(taken.median)
        ratio = f"{result.also_ratio[name].median:.2f}"
        yield [f"beside {name}", "", cost, ratio, *[""] * (len(COLUMNS) - 4)]


def _judged(result: Result) -> str:
    measurement = result.measurement
    shown = measurement.figure.show(result.figure.median, measurement.unit)
    return shown + measurement.figure.words


def _result_as_json(result: Result) -> dict[str, Any]:
    measurement = result.measurement
    return {
        "name": measurement.name,
        "compares": measurement.compares,
        "size": result.size,
        "unit": measurement.unit.name,
        "ours": asdict(result.ours),
        "bare": asdict(result.bare),
        "ratio": {"is": "bare / ours"} | asdict(result.ratio),
        "also": {name: asdict(taken) for name, taken in result.also.items()},
        "judged": {
            "is": measurement.figure.value,
            "better": "higher" if measurement.figure.higher_is_better else "lower",
            **asdict(result.figure),
        },
        "floor": measurement.floor,
        "aim": measurement.aim,
        "verdict": result.verdict,
        "rounds": [asdict(taken) for taken in result.rounds],
    }
