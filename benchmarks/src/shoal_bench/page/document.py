"""The page: a template filled with a record's sections, and all that it needs to draw them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shoal_bench.advice import advice
from shoal_bench.measurement import BYTES, SECONDS
from shoal_bench.page.charts import as_png, colours, spec_of
from shoal_bench.page.notes import circumstances, doubts
from shoal_bench.page.sections import PICTURE, Kind, sections
from shoal_bench.record import Case, Contestant, Entry, Record
from shoal_bench.table import cost, ratio

__all__ = ["NothingToDraw", "page", "picture"]


class NothingToDraw(Exception):
    """No scenario of a record has figures that a picture shows."""

    def __str__(self) -> str:
        return (
            f"the record has no figures to draw: it needs one of the scenarios {', '.join(PICTURE)}"
        )


@dataclass(frozen=True)
class Cell:
    """What an engine's contestants cost in a case: ours, and a line for each other one."""

    ours: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A case, with a cell for each engine."""

    case: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """A scenario's rows."""

    name: str
    per: str
    rows: tuple[Row, ...]


def page(record: Record) -> str:
    """A record as one page in HTML, which opens without a network and asks for nothing.

    Args:
        record: what was measured.

    Returns:
        The file's text, about 1 MB, most of it the scripts that draw.
    """
    found = sections(record)
    engines = engines_of(record)
    known = colours(engines)
    specs = {
        f"{section.name}-{number}": spec_of(section, panel, engines)
        for section in found
        for number, panel in enumerate(section.panels, start=1)
    }
    environment = Environment(
        loader=PackageLoader("shoal_bench.page", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["shown"] = _shown
    return environment.get_template("page.html.jinja").render(
        title="Which runner? Shoal beside the bare engines",
        beside=f"{', '.join(engines)}, measured {record.started:%Y-%m-%d} on {record.machine.system} with "
        f"{record.options.workers} workers each.",
        advice=advice(record),
        engines=engines,
        table=list(_table(record, engines)),
        contestants=[
            {"name": one.name, "colour": known[one.engine], "ours": one.ours}
            for one in record.contestants
        ],
        sections=found,
        charts=specs,
        doubts=doubts(record),
        circumstances=circumstances(record),
        scenarios=record.scenarios,
        css=_own("page.css"),
        script=_own("page.js"),
        bundle=_bundle() if specs else "",
    )


def picture(record: Record) -> bytes:
    """The main charts of a record as one picture in PNG.

    Raises:
        NothingToDraw: there are none.
    """
    chosen = [section for section in sections(record) if section.name in PICTURE]
    if not chosen:
        raise NothingToDraw
    return as_png(chosen, engines_of(record))


def engines_of(record: Record) -> list[str]:
    """The engines of a record, in order."""
    return list(dict.fromkeys(one.engine for one in record.contestants))


@cache
def _bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, which needs no escaping."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _own(name: str) -> Markup:
    """A file of this package, which needs no escaping."""
    return Markup(resources.files("shoal_bench.page").joinpath(name).read_text("utf-8"))


def _shown(value: float, kind: Kind) -> str:
    if kind == "share":
        return f"{value:.0%}"
    return (BYTES if kind == "bytes" else SECONDS).show(value)


def _table(record: Record, engines: Sequence[str]) -> Iterator[Group]:
    for scenario in record.scenarios:
        rows = tuple(
            Row(case.name, tuple(_cell(record, case, engine) for engine in engines))
            for case in scenario.cases
        )
        if rows:
            pers = dict.fromkeys(case.per for case in scenario.cases)
            yield Group(scenario.name, " or ".join(pers), rows)


def _cell(record: Record, case: Case, engine: str) -> Cell:
    there = [
        (one, entry)
        for one in record.contestants
        if one.engine == engine and (entry := case.entry(one.name)) is not None
    ]
    ours = next(((one, entry) for one, entry in there if one.ours), None)
    return Cell(
        _cost(case, ours[1]) if ours else "",
        tuple(
            f"{one.name} {_cost(case, entry)}{_times(ours[1] if ours and entry.figure else None, one)}"
            for one, entry in there
            if not one.ours
        ),
    )


def _cost(case: Case, entry: Entry) -> str:
    if entry.figure is None:
        return "void"
    return f"{'~' if entry.noisy else ''}{cost(entry.figure.median, case)}"


def _times(ours: Entry | None, other: Contestant) -> str:
    """How many times that of ours another contestant costs."""
    found = ours.ratio(other.name) if ours is not None else None
    if found is None:
        return ""
    return f" ({ratio(1 / found.quartiles.median)}{'' if found.conclusive else '?'})"
