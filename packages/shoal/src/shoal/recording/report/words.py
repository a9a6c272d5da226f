"""Quantities in words, as reports and commands write them."""

from __future__ import annotations

__all__ = ["many", "seconds", "share", "size"]

#: What is rounded up to the next unit is told in it.
NEARLY = 0.9995


def seconds(value: float) -> str:
    """A time with two or three digits: `40 µs`, `9.5 s`, `12 min`; `?` if it is not known."""
    if value != value:
        return "?"
    for unit, name in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if value >= unit * NEARLY:
            return f"{_short(value / unit)} {name}"
    return f"{_short(value * 1e6)} µs" if value > 0 else "0 s"


def size(value: float) -> str:
    """A number of bytes: `80 MB`."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit * NEARLY:
            return f"{_short(value / unit)} {name}"
    return f"{value:.0f} B"


def share(part: float, whole: float) -> str:
    """A part of something: `62 %`."""
    return f"{part / whole if whole else 0:.0%}".replace("%", " %")


def many(count: int, noun: str) -> str:
    """A number of things: `1 run`, `1,200 runs`."""
    plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 10 else f"{value:.2g}"
