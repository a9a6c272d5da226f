"""What a record comes to for somebody who has to choose: sentences, each with the figures it is derived from. Pure.

Only figures that are there and not too noisy are spoken of; without them there is no advice.
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal_bench.measurement import SECONDS
from shoal_bench.record import Entry, Record

__all__ = ["advice"]

#: The engines of one machine, which are what a job on one machine can choose from.
LOCAL = ("threads", "processes")
#: The scenarios of which advice is derived.
SPOKEN_OF = frozenset({"real", "metg", "start"})
#: One runner is recommended before another if the other takes so many times as long at least.
CLEARLY = 1.15


def advice(record: Record) -> list[str]:
    """The recommendation.

    Args:
        record: what was measured.

    Returns:
        Sentences; that nothing can be recommended is one too, unless nobody has asked for that.
    """
    found = [*_by_work(record), *_by_length(record), *_by_start(record)]
    if not found and _is_asked_for(record):
        return ["These figures are too few or too noisy to recommend a runner."]
    return found


def _is_asked_for(record: Record) -> bool:
    """Whether there are runners to choose from, and scenarios of which advice can be derived."""
    runners = [one for one in record.contestants if one.ours]
    asked = record.options.scenarios
    return len(runners) > 1 and (not asked or not SPOKEN_OF.isdisjoint(asked))


def _usable(record: Record, scenario: str, case: str) -> dict[str, Entry]:
    """The entries of ours that say something, by runner."""
    place = record.scenario(scenario)
    found = place.case(case) if place is not None else None
    if found is None:
        return {}
    ours = {one.name for one in record.contestants if one.ours}
    return {e.contestant: e for e in found.entries if e.contestant in ours and _is_usable(e)}


def _is_usable(entry: Entry) -> bool:
    return entry.figure is not None and not entry.noisy


def _median(entry: Entry) -> float:
    assert entry.figure is not None
    return entry.figure.median


def _by_work(record: Record) -> Iterator[str]:
    """Which runner is quickest for code that holds the interpreter lock, and for code that lets go of it."""
    for case, kind in (
        ("standard library", "Python code that computes"),
        ("Monte Carlo", "NumPy and the like"),
    ):
        entries = _usable(record, "real", case)
        if len(entries) < 2:
            continue
        first, second, *_ = sorted(entries.values(), key=_median)
        beside = f"{SECONDS.show(_median(first))} against {SECONDS.show(_median(second))} on {second.contestant}"
        if _median(second) >= CLEARLY * _median(first):
            yield f"For {kind}, take {first.contestant}: the job took {beside}."
        else:
            yield f"For {kind}, {first.contestant} and {second.contestant} do alike: {beside}."


def _by_length(record: Record) -> Iterator[str]:
    """How long tasks must be."""
    entries = _usable(record, "metg", "trivial")
    if entries:
        shown = ", ".join(f"{SECONDS.show(_median(e))} on {n}" for n, e in entries.items())
        yield f"Mapped tasks are worth spreading (half of the time is work) from {shown}."


def _by_start(record: Record) -> Iterator[str]:
    """What clusters cost beside this machine's own workers."""
    entries = _usable(record, "start", "start")
    local = [entry for name, entry in entries.items() if name in LOCAL]
    if not local:
        return
    quickest = min(local, key=_median)
    for name, entry in entries.items():
        if name not in LOCAL and _median(entry) >= CLEARLY * _median(quickest):
            yield (
                f"Take {name} for more than one machine: it starts in {SECONDS.show(_median(entry))}, "
                f"{quickest.contestant} in {SECONDS.show(_median(quickest))}."
            )
