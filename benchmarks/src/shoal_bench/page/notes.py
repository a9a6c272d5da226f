"""What a record was measured on and with, and what it does not say: in words. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from shoal_bench.record import Record

__all__ = ["circumstances", "doubts"]

#: So many noisy figures, if they are a quarter of all, are not listed: the whole record is in doubt.
MANY = 12


def circumstances(record: Record) -> list[tuple[str, str]]:
    """Machine, versions and options, as terms and what they are."""
    machine, options = record.machine, record.options
    found = [
        ("When", f"{record.started:%Y-%m-%d %H:%M} to {record.ended:%H:%M} UTC"),
        ("Machine", f"{machine.system}, {machine.usable_cpus} of {machine.cpus} processors usable"),
        ("Python", machine.python),
        ("Versions", _listed(machine.libraries)),
        ("Workers", f"{options.workers} for each contestant"),
        ("Rounds", f"{options.rounds} at most, in turn; values are medians"),
        ("Set", "all cases" if options.full else "the short set of cases"),
    ]
    if machine.load is not None:
        load = f"{machine.load:g} processes wanted a processor in the minute before"
        found.insert(2, ("Load", load))
    if options.scenarios:
        found.append(("Only these scenarios", ", ".join(options.scenarios)))
    if options.contestants:
        found.append(("Only these contestants", ", ".join(options.contestants)))
    return found


def doubts(record: Record) -> list[str]:
    """What was not measured, is void, or is too noisy to conclude from; each a sentence."""
    found = [] if record.complete else ["It was interrupted: this is what had been measured."]
    found += [
        f"{absent.contestant} did not take part: {absent.reason}."
        + (f" To install it: {absent.install}" if absent.install else "")
        for absent in record.absent
    ]
    found += [f"Void: {reason} ({', '.join(places)})." for reason, places in _voids(record).items()]
    return [*found, *_noise(record)]


def _voids(record: Record) -> dict[str, list[str]]:
    """Where there is no figure, by the reason."""
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for scenario, case, entry in record.entries():
        if entry.void is not None:
            reasons[entry.void].append(f"{entry.contestant} in {scenario.name}: {case.name}")
    return reasons


def _noise(record: Record) -> Iterator[str]:
    """How many figures are too noisy, and which."""
    entries = [place for place in record.entries() if place[2].figure is not None]
    noisy = [place for place in entries if place[2].noisy]
    if not noisy:
        yield f"None of the {len(entries)} figures is too noisy to conclude from."
        return
    words = f"{len(noisy)} of {len(entries)} figures are too noisy to conclude from, and marked ~"
    if len(noisy) > MANY and len(noisy) > len(entries) / 4:
        yield f"{words}: the machine was too busy. Measure again when it is quiet."
        return
    places: defaultdict[str, list[str]] = defaultdict(list)
    for scenario, case, entry in noisy:
        places[f"{scenario.name}: {case.name}"].append(entry.contestant)
    where = "; ".join(f"{place} ({', '.join(whom)})" for place, whom in places.items())
    yield f"{words}: {where}."


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
