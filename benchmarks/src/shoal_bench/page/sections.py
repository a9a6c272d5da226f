"""What there is to see in a record: for each chart a title, a sentence, and what is drawn. Pure.

A section answers one question and has a panel for each case, or one panel along an axis. What was not measured has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from shoal_bench.derive import quartiles
from shoal_bench.measurement import BYTES, SECONDS
from shoal_bench.record import Case, Contestant, Entry, Quartiles, Record, Scenario
from shoal_bench.table import ratio

__all__ = [
    "BARE",
    "OTHER",
    "OURS",
    "PICTURE",
    "Form",
    "Kind",
    "Mark",
    "Panel",
    "Section",
    "role",
    "sections",
]

#: What a contestant is: a runner of ours, what that is compared with, anything else.
OURS, BARE, OTHER = "Shoal", "bare engine", "other"

#: The sections that a picture shows: the main ones.
PICTURE = ("efficiency", "overhead", "metg", "real", "start")

#: How a section is drawn: dots beside each other on a log scale, bars, or lines along an axis.
Form = Literal["dots", "bars", "lines"]
#: What an axis counts.
Kind = Literal["seconds", "bytes", "share", "count"]

_Value = Callable[[Entry], Quartiles | None]


@dataclass(frozen=True)
class Mark:
    """A contestant's figure in a panel.

    Attributes:
        contestant: its name.
        engine: what it runs on.
        role: OURS, BARE or OTHER.
        figure: median and quartiles, in base units.
        text: the median as text.
        noisy: whether it is too noisy to conclude from.
        at: where it stands along the axis of a panel with lines.
    """

    contestant: str
    engine: str
    role: str
    figure: Quartiles
    text: str
    noisy: bool
    at: float = 0.0


@dataclass(frozen=True)
class Panel:
    """What is drawn in one frame.

    Attributes:
        title: of the frame.
        marks: what is drawn.
        void: contestants whose results do not count, and are not drawn.
    """

    title: str
    marks: tuple[Mark, ...]
    void: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Its title, with a warning if half of what it shows is too noisy to conclude from."""
        noisy = sum(mark.noisy for mark in self.marks)
        return f"{self.title} (too noisy)" if 2 * noisy > len(self.marks) else self.title


@dataclass(frozen=True, kw_only=True)
class Section:
    """A question, its answer in a sentence, and the panels that show it.

    Attributes:
        name: unique; of letters.
        title: the question.
        reads: how the charts are read.
        form: how it is drawn.
        axis: title of the axis with the figures.
        kind: what that counts.
        is_log: whether that is logarithmic.
        along: title of the other axis, of lines.
        along_kind: what that counts.
        panels: one for each frame.
        is_shared: whether the panels share their axis, as their figures compare.
        answer: what is seen; empty where the figures do not say.
    """

    name: str
    title: str
    reads: str
    form: Form
    axis: str
    kind: Kind = "seconds"
    is_log: bool = False
    along: str = ""
    along_kind: Kind = "count"
    panels: tuple[Panel, ...]
    is_shared: bool = True
    answer: str = ""


def sections(record: Record) -> list[Section]:
    """What there is to see, in the order in which it is shown."""
    found = (
        _efficiency(record),
        _overhead(record),
        _metg(record),
        _real(record),
        _start(record),
        _counts(record),
        _workers(record),
        _memory(record),
        _million(record),
    )
    return [section for section in found if section.panels]


def role(contestant: Contestant, record: Record) -> str:
    """What a contestant is: OURS, BARE or OTHER."""
    if contestant.ours:
        return OURS
    return BARE if any(one.bare == contestant.name for one in record.contestants) else OTHER


def _efficiency(record: Record) -> Section:
    panels = _along(record, "efficiency", "task_seconds", "A map of tasks that compute", _share)
    return Section(
        name="efficiency",
        title="How long must my tasks be?",
        reads="The longer a task computes, the less its overhead counts. At 100 % the workers do nothing but work. Solid lines are Shoal, "
        "dashed ones the bare engines.",
        form="lines",
        axis="work in the workers' time (%)",
        kind="share",
        along="length of a task (log scale)",
        along_kind="seconds",
        panels=panels,
        answer=_at_a_length(panels),
    )


def _overhead(record: Record) -> Section:
    titles = {
        "map": "All in one map",
        "submit": "Each submitted by itself",
        "round-trip": "One after the other, each waited for",
    }
    return Section(
        name="overhead",
        title="What does a task cost beside its work?",
        reads="The time for a task that does nothing. Full dots are Shoal, light ones the bare engine, triangles others on it; the outer "
        "figures are written. Further left is cheaper: each step of the scale is ten times as much.",
        form="dots",
        axis="time for a task (log scale)",
        is_log=True,
        panels=_by_case(record, "overhead", titles),
        answer=_beside_bare(
            record, "overhead", "map", "In one map, a task that does nothing costs"
        ),
    )


def _metg(record: Record) -> Section:
    return Section(
        name="metg",
        title="What is the smallest task worth spreading?",
        reads="The length of task at which half of the workers' time is work, METG(50 %), by the pattern in which tasks need each "
        "other. Shorter is better. The scale is logarithmic, so bars compare by where they end.",
        form="bars",
        axis="length of a task (log scale)",
        is_log=True,
        panels=_by_case(record, "metg", {"trivial": "trivial: one map"}),
        answer=_beside_bare(record, "metg", "trivial", "Mapped, half of the time is work from"),
    )


def _real(record: Record) -> Section:
    titles = {
        "standard library": "Parsing Python code",
        "word count": "Counting words",
        "Monte Carlo": "Monte Carlo with NumPy",
        "cross-validation": "Cross-validation with scikit-learn",
    }
    return Section(
        name="real",
        title="How long does a whole job take?",
        reads="Shorter is better. Parsing and counting hold Python's interpreter lock, so that threads cannot share the work.",
        is_shared=False,
        form="bars",
        axis="time for the job",
        panels=_by_case(record, "real", titles),
    )


def _start(record: Record) -> Section:
    titles = {"start": "Until the first result", "shutdown": "After the last result"}
    return Section(
        name="start",
        title="How long does it take to begin and to end?",
        reads="Paid once by a program, whatever it computes: the interpreter, imports, workers; and until all processes have ended.",
        form="bars",
        axis="time",
        panels=_by_case(record, "start", titles),
    )


def _counts(record: Record) -> Section:
    return Section(
        name="counts",
        title="Does a task cost more when there are many?",
        reads="A flat line is good: the cost of a task does not depend on how many there are.",
        form="lines",
        axis="time for a task (log scale)",
        is_log=True,
        along="tasks in one map (log scale)",
        panels=_along(record, "scale", "tasks", "Tasks that do nothing", _figure),
    )


def _workers(record: Record) -> Section:
    return Section(
        name="workers",
        title="What do more workers bring?",
        reads="At 100 %, n workers are n times as fast as one that loses nothing.",
        form="lines",
        axis="work in the workers' time (%)",
        kind="share",
        along="workers (log scale)",
        panels=_along(record, "scale", "workers", "200 tasks of 2 ms", _share),
    )


def _memory(record: Record) -> Section:
    return Section(
        name="memory",
        title="How much memory does a waiting task take?",
        reads="Growth of the driver's process for each run of a map that has not begun. Shorter is better; the scale is logarithmic.",
        form="bars",
        axis="memory for a run (log scale)",
        kind="bytes",
        is_log=True,
        panels=_by_case(record, "memory", {}),
    )


def _million(record: Record) -> Section:
    return Section(
        name="peak",
        title="How much memory does a map of a million take?",
        reads="What all processes held at most. Who would take too long had fewer items: the record says how many.",
        form="bars",
        axis="memory of all processes",
        kind="bytes",
        panels=_by_case(record, "million", {}, _peak_memory, BYTES.show),
    )


def _by_case(
    record: Record,
    scenario: str,
    titles: dict[str, str],
    value: _Value | None = None,
    show: Callable[[float], str] | None = None,
) -> tuple[Panel, ...]:
    """A panel for each case of a scenario that has figures."""
    panels = []
    for case in _cases(record.scenario(scenario)):
        shown = show or (SECONDS if case.unit == "seconds" else BYTES).show
        marks = tuple(_marks(record, case, value or _figure, shown))
        if marks:
            void = tuple(entry.contestant for entry in case.entries if entry.void is not None)
            panels.append(Panel(titles.get(case.name, case.name), marks, void))
    return tuple(panels)


def _along(
    record: Record, scenario: str, axis: str, title: str, value: _Value
) -> tuple[Panel, ...]:
    """One panel for all cases of a scenario that have this axis, if there are two of them at least."""
    show = "{:.0%}".format if value is _share else SECONDS.show
    marks = [
        mark
        for case in _cases(record.scenario(scenario))
        if axis in case.axes
        for mark in _marks(record, case, value, show, float(case.axes[axis]))
    ]
    return (Panel(title, tuple(marks)),) if len({mark.at for mark in marks}) > 1 else ()


def _cases(scenario: Scenario | None) -> tuple[Case, ...]:
    return scenario.cases if scenario is not None else ()


def _marks(
    record: Record, case: Case, value: _Value, show: Callable[[float], str], at: float = 0.0
) -> Iterator[Mark]:
    for contestant in record.contestants:
        entry = case.entry(contestant.name)
        figure = value(entry) if entry is not None and entry.figure is not None else None
        if entry is not None and figure is not None:
            yield Mark(
                contestant=contestant.name,
                engine=contestant.engine,
                role=role(contestant, record),
                figure=figure,
                text=show(figure.median),
                noisy=entry.noisy,
                at=at,
            )


def _figure(entry: Entry) -> Quartiles | None:
    return entry.figure


def _share(entry: Entry) -> Quartiles | None:
    return _quantity(entry, "efficiency")


def _peak_memory(entry: Entry) -> Quartiles | None:
    return _quantity(entry, "peak_memory")


def _quantity(entry: Entry, name: str) -> Quartiles | None:
    values = [s.quantities[name] for s in entry.samples if name in s.quantities]
    return quartiles(values) if values else None


def _at_a_length(panels: tuple[Panel, ...]) -> str:
    """The shares at the length nearest to a millisecond."""
    marks = [mark for panel in panels for mark in panel.marks]
    if not marks:
        return ""
    length = min({mark.at for mark in marks}, key=lambda at: max(at / 1e-3, 1e-3 / at))
    there = [mark for mark in marks if mark.at == length and not mark.noisy]
    ours = [f"{mark.text} on {mark.engine}" for mark in there if mark.role == OURS]
    bare = [f"{mark.text} on {mark.engine}" for mark in there if mark.role == BARE]
    if not ours:
        return ""
    beside = f" (bare engines: {', '.join(bare)})" if bare else ""
    return f"With tasks of {SECONDS.show(length)}, {', '.join(ours)} of the workers' time is work{beside}."


def _beside_bare(record: Record, scenario: str, case: str, words: str) -> str:
    """What ours cost in a case, and how many times that their bare engines cost; of what is not too noisy."""
    place = record.scenario(scenario)
    found = place.case(case) if place is not None else None
    parts = []
    for contestant in record.contestants:
        entry = found.entry(contestant.name) if found is not None and contestant.ours else None
        if entry is None or entry.figure is None or entry.noisy:
            continue
        beside = entry.ratio(contestant.bare)
        times = (
            f" (the bare engine {ratio(1 / beside.quartiles.median)})"
            if beside is not None and beside.conclusive
            else ""
        )
        parts.append(f"{SECONDS.show(entry.figure.median)} on {contestant.engine}{times}")
    return f"{words} {', '.join(parts)}." if parts else ""
