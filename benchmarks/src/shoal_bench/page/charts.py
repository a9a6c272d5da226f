"""Sections as charts of altair: one for each panel of a page, or all as one picture.

An engine has one colour everywhere. Ours is solid, its bare engine light with an outline, dashed as a line; others are dotted. Colours
are those of Okabe and Ito ("Color Universal Design", 2008), which the colour-blind tell apart, shifted until each has a
contrast of 3 or more on white and on the dark page. Everything else is drawn in one ink, so that a page can have the
reader's colours and a picture can be seen on both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import vl_convert

from shoal_bench.page.sections import BARE, OTHER, OURS, Kind, Mark, Panel, Section

__all__ = ["SHOWN", "as_png", "as_svg", "chart_of", "colours", "spec_of"]

#: Colours of the four engines; and of others, in turn.
ENGINES = {"threads": "#2a86c8", "processes": "#d9661f", "dask": "#12986e", "ray": "#b8629f"}
FURTHER = ("#8a7d1e", "#7a7f87", "#6a70c9", "#a8695a")

ROLES = [OURS, BARE, OTHER]
#: The parameter of a page's charts that says which contestants are shown.
SHOWN = "shown"

INK, PAPER = "#1f2933", "#ffffff"
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
#: Pixels: the row of a bar and of a dot, the height of lines; and of a picture, the width of a panel and of one alone.
BAR, DOT, LINES = 24, 34, 300
NARROW, WIDE = 330, 720

#: The least and the most figure of a row: how they are found, and where their text stands beside them.
OUTER: tuple[tuple[str, Literal["left", "right"], int], ...] = (
    ("ascending", "right", -10),
    ("descending", "left", 10),
)

#: Labels of an axis, from base units: `10 µs`.
LABELS: dict[Kind, str] = {
    "seconds": "replace(format(datum.value, '~s'), /([a-zµ]?)$/, ' $1') + 's'",
    "bytes": "replace(format(datum.value, '~s'), /([a-zA-Z]?)$/, ' $1') + 'B'",
    "share": "format(datum.value, '.0%')",
    "count": "format(datum.value, ',')",
}

Built = alt.LayerChart | alt.HConcatChart | alt.VConcatChart


def colours(engines: Sequence[str]) -> dict[str, str]:
    """The colour of each engine."""
    further = [engine for engine in engines if engine not in ENGINES]
    others = {engine: FURTHER[place % len(FURTHER)] for place, engine in enumerate(further)}
    return {engine: (ENGINES | others)[engine] for engine in engines}


def spec_of(section: Section, panel: Panel, engines: Sequence[str]) -> dict[str, Any]:
    """A panel for a page: as wide as what it is in, in the colour of its text, and with the parameter SHOWN."""
    names = list(dict.fromkeys(mark.contestant for mark in panel.marks))
    chart = (
        chart_of(section, panel, engines, "container")
        .add_params(alt.param(name=SHOWN, value=names))
        .transform_filter(f"indexof({SHOWN}, datum.contestant) >= 0")
    )
    spec: dict[str, Any] = _dressed(chart, "currentColor", "transparent").to_dict()
    return spec


def chart_of(section: Section, panel: Panel, engines: Sequence[str], width: Any) -> alt.LayerChart:
    """A panel.

    Args:
        section: that it is of.
        panel: what to draw.
        engines: all that are on the page, in order.
        width: in pixels, or "container".
    """
    draw = {"dots": _dots, "bars": _bars, "lines": _lines}[section.form]
    known = colours(engines)
    scale = alt.Scale(domain=list(known), range=list(known.values()))
    return draw(section, panel, scale).properties(
        width=width,
        data=alt.InlineData(values=[_row(mark) for mark in panel.marks]),
    )


def as_svg(section: Section, engines: Sequence[str]) -> str:
    """A section as a picture in SVG, whose text follows the reader's colour scheme."""
    # Room at the left, because a reader's letters may be wider than those of this machine.
    charts = _side_by_side(section, engines).properties(
        padding={"left": 24, "right": 24, "top": 8, "bottom": 8}
    )
    svg = vl_convert.vegalite_to_svg(_spec(_dressed(charts, "currentColor", "transparent")))
    style = (
        f"<style>:root{{color:{INK}}}@media (prefers-color-scheme:dark){{:root{{color:#e3e8ee}}}}</style>"
        f"<title>{section.title}</title>"
    )
    start = svg.index(">", svg.index("<svg")) + 1
    return svg[:start] + style + svg[start:] + "\n"


def as_png(chosen: Sequence[Section], engines: Sequence[str]) -> bytes:
    """Sections below each other as one picture in PNG, on white."""
    parts = [
        _side_by_side(section, engines).properties(
            title=alt.TitleParams(section.title, subtitle=section.answer, anchor="start")
        )
        for section in chosen
    ]
    return vl_convert.vegalite_to_png(
        _spec(_dressed(_apart(alt.vconcat(*parts, spacing=36)), INK, PAPER)), scale=2
    )


def _side_by_side(section: Section, engines: Sequence[str]) -> alt.VConcatChart:
    """The panels of a section in rows of two."""
    width = WIDE if len(section.panels) == 1 else NARROW
    charts = [
        chart_of(section, panel, engines, width).properties(
            title=alt.TitleParams(
                panel.heading, anchor="start", fontSize=13, fontWeight="normal", offset=6
            ),
        )
        for panel in section.panels
    ]
    rows = [alt.hconcat(*charts[first : first + 2]) for first in range(0, len(charts), 2)]
    return _apart(alt.vconcat(*rows))


def _apart(charts: alt.VConcatChart) -> alt.VConcatChart:
    """Has each chart keep its own legends."""
    apart: dict[str, Any] = dict.fromkeys(("fill", "stroke", "strokeDash", "shape"), "independent")
    resolved: alt.VConcatChart = charts.resolve_scale(**apart)
    return resolved


def _spec(chart: Built) -> str:
    return json.dumps(chart.to_dict())


def _row(mark: Mark) -> dict[str, Any]:
    """A mark as a row of data; `label` is what stands beside it, `told` what it says when it is pointed at."""
    return {
        "contestant": mark.contestant,
        "engine": mark.engine,
        "role": mark.role,
        "value": mark.figure.median,
        "low": mark.figure.low,
        "high": mark.figure.high,
        "at": mark.at,
        "label": f"~{mark.text}" if mark.noisy else mark.text,
        "told": f"{mark.text}, too noisy to conclude from" if mark.noisy else mark.text,
    }


# ------------------------------------------------------------------------------------------------------------- drawing


def _bars(section: Section, panel: Panel, colour: alt.Scale) -> alt.LayerChart:
    """A bar for each contestant, with its figure behind it."""
    axis = _figures(section, panel)
    order = list(dict.fromkeys(mark.contestant for mark in panel.marks))
    base = alt.Chart().encode(
        y=alt.Y("contestant:N", sort=order, title=None), tooltip=_tooltip(section)
    )
    bar = base.mark_bar(strokeWidth=1.5, height={"band": 0.72}).encode(
        x=axis,
        x2=alt.datum(_domain(section, panel)[0]),
        fill=_coloured(alt.Fill, colour),
        stroke=_coloured(alt.Stroke, colour),
        fillOpacity=_filled(),
    )
    text = base.mark_text(align="left", dx=5, fontSize=12).encode(x=axis, text="label:N")
    return alt.LayerChart(layer=[bar, text]).properties(height=BAR * len(order))


def _dots(section: Section, panel: Panel, colour: alt.Scale) -> alt.LayerChart:
    """A row for each engine, in which a line joins its contestants, with the outer figures beside it."""
    axis = _figures(section, panel)
    order = list(dict.fromkeys(mark.engine for mark in panel.marks))
    base = alt.Chart().encode(y=alt.Y("engine:N", sort=order, title=None))
    line = (
        base.transform_aggregate(least="min(value)", most="max(value)", groupby=["engine"])
        .mark_rule(strokeWidth=2, opacity=0.5)
        .encode(
            x=_figures(section, panel, field="least"),
            x2="most:Q",
            stroke=_coloured(alt.Stroke, colour),
        )
    )
    dot = base.mark_point(size=110, strokeWidth=2, opacity=1).encode(
        x=axis,
        fill=_coloured(alt.Fill, colour),
        stroke=_coloured(alt.Stroke, colour),
        shape=_shape(),
        fillOpacity=_filled(),
        tooltip=_tooltip(section),
    )
    outer = [
        base.transform_window(
            place="rank()",
            sort=[{"field": "value", "order": order_of}],
            groupby=["engine"],
        )
        .transform_filter("datum.place == 1")
        .mark_text(align=align, dx=shift, fontSize=12)
        .encode(x=axis, text="label:N")
        for order_of, align, shift in OUTER
    ]
    return alt.LayerChart(layer=[line, dot, *outer]).properties(height=DOT * len(order))


def _lines(section: Section, panel: Panel, colour: alt.Scale) -> alt.LayerChart:
    """A line for each contestant."""
    places = sorted({mark.at for mark in panel.marks})
    engines, roles = (
        alt.Legend(title=None, orient=side, columns=4, symbolType="stroke", symbolSize=250)
        for side in ("top", "bottom")
    )
    along = alt.X(
        "at:Q",
        title=section.along,
        scale=alt.Scale(type="log", domain=[places[0] / 1.15, places[-1] * 1.15], nice=False),
        axis=alt.Axis(values=places, labelExpr=LABELS[section.along_kind], grid=False),
    )
    base = alt.Chart().encode(
        x=along,
        y=_figures(section, panel, vertical=True),
        stroke=_coloured(alt.Stroke, colour, engines),
        detail="contestant:N",
    )
    line = base.mark_line(strokeWidth=2.2).encode(
        strokeDash=alt.StrokeDash(
            "role:N",
            scale=alt.Scale(domain=_roles(panel), range=_of_roles(panel, [[1, 0], [6, 4], [2, 3]])),
            legend=roles,
        )
    )
    dot = base.mark_point(size=60, strokeWidth=2, opacity=1).encode(
        fill=_coloured(alt.Fill, colour, engines),
        fillOpacity=_filled(),
        tooltip=_tooltip(section),
    )
    return alt.LayerChart(layer=[line, dot]).properties(height=LINES)


def _roles(panel: Panel) -> list[str]:
    there = {mark.role for mark in panel.marks}
    return [role for role in ROLES if role in there]


def _of_roles(panel: Panel, values: Sequence[Any]) -> list[Any]:
    return [values[ROLES.index(role)] for role in _roles(panel)]


def _coloured(channel: type[Any], scale: alt.Scale, legend: alt.Legend | None = None) -> Any:
    return channel("engine:N", scale=scale, legend=legend)


def _filled() -> Any:
    """Ours full, the bare engine light, others empty."""
    return (
        alt.when(f"datum.role === '{OURS}'")
        .then(alt.value(1))
        .when(f"datum.role === '{BARE}'")
        .then(alt.value(0.25))
        .otherwise(alt.value(0))
    )


def _shape() -> alt.Shape:
    shapes = alt.Scale(domain=ROLES, range=["circle", "circle", "triangle-up"])
    return alt.Shape("role:N", scale=shapes, legend=None)


def _tooltip(section: Section) -> list[alt.Tooltip]:
    shown = [
        alt.Tooltip("contestant:N"),
        alt.Tooltip("role:N", title="what it is"),
        alt.Tooltip("told:N", title="median"),
    ]
    return (
        shown
        if section.form != "lines"
        else [*shown, alt.Tooltip("at:Q", title=section.along, format="~s")]
    )


# ---------------------------------------------------------------------------------------------------------------- axes


def _figures(
    section: Section, panel: Panel, *, field: str = "value", vertical: bool = False
) -> Any:
    """The axis of the figures."""
    low, high = _domain(section, panel)
    values = _powers(low, high) if section.is_log else alt.Undefined
    return (alt.Y if vertical else alt.X)(
        f"{field}:Q",
        title=section.axis,
        scale=alt.Scale(
            type="log" if section.is_log else "linear", domain=[low, high], nice=False, clamp=True
        ),
        axis=alt.Axis(
            values=values,
            labelExpr=LABELS[section.kind],
            labelOverlap=True,
            labelSeparation=8,
            tickCount=4,
        ),
    )


def _domain(section: Section, panel: Panel) -> tuple[float, float]:
    """From where to where, with room for text beside the outermost marks."""
    panels = section.panels if section.is_shared else (panel,)
    values = [mark.figure.median for one in panels for mark in one.marks]
    low, high = min(values), max(values)
    if section.kind == "share":
        return 0.0, max(1.0, high)
    if not section.is_log:
        return 0.0, high * 1.4
    if section.form == "lines":
        return low / 1.5, high * 1.5
    room = max(10.0, (high / low) ** 0.45)
    if section.form == "bars":
        return 10.0 ** math.floor(math.log10(low * 0.8)), high * room
    return low / room, high * room


def _powers(low: float, high: float) -> list[float]:
    """The powers of ten between."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def _dressed(chart: Any, ink: str, paper: str) -> Any:
    """A chart with one ink, without boxes."""
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12}
    return (
        chart.configure(background=paper, font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            **text,
            titleFontWeight="normal",
            titlePadding=8,
            domain=False,
            tickColor=ink,
            tickOpacity=0.4,
            gridColor=ink,
            gridOpacity=0.14,
            labelLimit=170,
        )
        .configure_axisBand(grid=False, ticks=False, labelPadding=6)
        .configure_legend(
            **text,
            symbolStrokeWidth=2.2,
        )
        .configure_title(
            color=ink,
            subtitleColor=ink,
            fontSize=16,
            subtitleFontSize=12,
            subtitlePadding=6,
            offset=12,
        )
        .configure_text(color=ink)
    )
