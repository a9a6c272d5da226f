"""A record as a table for the terminal: runners as columns, cases as rows, and below each of ours its bare engine.

                      threads            processes          dask               ray
    overhead
      map               1.8 µs    9.8x     4.0 µs     19x      11 µs    144x     5.3 µs    100x
        bare engine      19 µs              73 µs              1.6 ms             541 µs

A ratio says how many times what ours costs the other costs, pair by pair; `~` that a figure is too noisy, `?` that a ratio is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal_bench.measurement import BYTES, SECONDS
from shoal_bench.record import Case, Contestant, Entry, Record, Scenario

__all__ = ["WIDTH", "as_table", "cost", "ratio", "remarks", "words_below"]

#: Columns of a terminal that a table may take, whatever that has: figures that are cut off tell nothing.
WIDTH = 100

#: How many engines stand beside each other; further ones are in a table below.
ENGINES_WIDE = 4

#: The name of a row of bare engines.
BARE = "bare engine"


def cost(value: float, case: Case) -> str:
    """A value of a case as text: `3.2 µs`."""
    return (SECONDS if case.unit == "seconds" else BYTES).show(value)


def ratio(times: float) -> str:
    """How many times, to two digits: `9.8x`, `140x`, `0.93x`."""
    return f"{times:.0f}x" if times >= 10 else f"{times:.2g}x"


def as_table(record: Record) -> RenderableType:
    """The record for a terminal of `WIDTH` columns."""
    engines = list(dict.fromkeys(one.engine for one in record.contestants))
    parts: list[RenderableType] = [
        _table(record, engines[first : first + ENGINES_WIDE])
        for first in range(0, len(engines), ENGINES_WIDE)
    ]
    return Group(*parts)


def words_below(record: Record) -> Iterator[Text]:
    """What stands below the table: remarks, and what it was measured on. For the terminal to fold, whose width nobody knows."""
    for line in remarks(record):
        yield Text(line, style="yellow")
    yield Text(str(record.machine), style="dim")


def _table(record: Record, engines: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, max_width=22)
    for engine in engines:
        table.add_column(engine, justify="right", overflow="fold")
    for scenario in record.scenarios:
        table.add_row(Text(scenario.name, style="bold"))
        for case in scenario.cases:
            for row in _rows(record, case, engines):
                table.add_row(*row)
    return table


def _rows(record: Record, case: Case, engines: Sequence[str]) -> Iterator[list[Text]]:
    """A row of ours, and one for each kind of other contestant."""
    yield [
        Text(f"  {case.name}"),
        *(_cell_of_ours(case, _of(record, engine, ours=True)) for engine in engines),
    ]
    others = [[(_kind(c, record), c) for c in _of(record, e, ours=False)] for e in engines]
    for kind in dict.fromkeys(kind for column in others for kind, _ in column):
        cells = [_cell(case, [c for k, c in column if k == kind]) for column in others]
        if any(cells):
            yield [Text(f"    {kind}", style="dim"), *cells]


def _of(record: Record, engine: str, *, ours: bool) -> list[Contestant]:
    return [one for one in record.contestants if one.engine == engine and one.ours is ours]


def _kind(contestant: Contestant, record: Record) -> str:
    bare = any(one.bare == contestant.name for one in record.contestants)
    return BARE if bare else contestant.name.removesuffix(f"-{contestant.engine}")


def _cell_of_ours(case: Case, contestants: Iterable[Contestant]) -> Text:
    for contestant in contestants:
        if (entry := case.entry(contestant.name)) is not None:
            return Text(f"{_figure(case, entry)} {_beside(entry, contestant.bare):>6}")
    return Text("")


def _cell(case: Case, contestants: Iterable[Contestant]) -> Text:
    for contestant in contestants:
        if (entry := case.entry(contestant.name)) is not None:
            return Text(f"{_figure(case, entry)} {'':6}", style="dim")
    return Text("")


def _figure(case: Case, entry: Entry) -> str:
    if entry.figure is None:
        return "void"
    return f"{'~' if entry.noisy else ''}{cost(entry.figure.median, case)}"


def _beside(entry: Entry, bare: str | None) -> str:
    found = entry.ratio(bare)
    if found is None:
        return ""
    return ratio(1 / found.quartiles.median) + ("" if found.conclusive else "?")


def remarks(record: Record) -> Iterator[str]:
    """What the table cannot say: who is absent, and why results are void; a line each."""
    if not record.complete:
        yield "Interrupted: what had been measured until then."
    for absent in record.absent:
        install = f"; `{absent.install}` installs it" if absent.install else ""
        yield f"{absent.contestant}: {absent.reason}{install}"
    for scenario, reasons in _voids(record):
        for reason, whom in reasons.items():
            yield f"void: {scenario.name}, {', '.join(whom)}: {reason}"


def _voids(record: Record) -> Iterator[tuple[Scenario, dict[str, list[str]]]]:
    for scenario in record.scenarios:
        reasons: dict[str, list[str]] = {}
        for case in scenario.cases:
            for entry in case.entries:
                if entry.void is not None:
                    reasons.setdefault(entry.void, []).append(f"{entry.contestant} {case.name}")
        if reasons:
            yield scenario, reasons
