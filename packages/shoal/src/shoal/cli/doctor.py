"""`shoal doctor`: what this machine has to offer, what is wrong with it, and the way out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.cli.doctor_facts import Facts, Place
    from shoal.cli.doctor_findings import Finding

__all__ = ["doctor"]


def doctor(
    *,
    json_output: Annotated[
        bool, Parameter(name="--json", negative=(), help="Print facts and findings as JSON only")
    ] = False,
) -> int:
    """Check this machine: cores, memory, shared memory, files, ports, engines, settings.

    Nothing is started and nothing is changed. The exit code is 1 if something is wrong; warnings are none.
    """
    import json

    from shoal.cli.doctor_facts import Facts
    from shoal.cli.doctor_findings import Level, findings

    facts = Facts.here()
    found = findings(facts)
    wrong = sum(finding.level is Level.PROBLEM for finding in found)
    if json_output:
        told = {"fine": not wrong, "facts": asdict(facts), "findings": list(map(asdict, found))}
        print(json.dumps(told, indent=2))
    else:
        _show(facts, found, wrong)
    return int(wrong > 0)


def _show(facts: Facts, found: list[Finding], wrong: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    for about, text in _rows(facts):
        console.print(f"{about:<16} {text}", soft_wrap=True)
    console.print()
    for finding in found:
        style = "bold red" if finding.level == "problem" else "yellow"
        line = Text.assemble((f"{finding.level.capitalize()}: ", style), (finding.about, "bold"))
        console.print(line.append(f": {finding.says}."), soft_wrap=True)
        console.print(f"  {_sentence(finding.do)}", soft_wrap=True)
    if not found:
        console.print("All is well.")
    else:
        warnings = len(found) - wrong
        told = [_count(wrong, "problem")] if wrong else ["No problem"]
        console.print(
            ", ".join([*told, *([_count(warnings, "warning")] if warnings else [])]) + "."
        )


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    from shoal.recording.report.words import size

    yield "Python", f"{facts.python} ({facts.executable}), {facts.system}"
    told = "" if facts.python_cpus is None else f", and Python says {facts.python_cpus}"
    allowed = f"of {facts.allowed_cpus} processors, of {facts.cpus} in the machine"
    yield "cores", f"the time of {facts.cores} {allowed}{told}"
    if facts.memory is not None and facts.available_memory is not None:
        free = size(facts.available_memory)
        yield "memory", f"{free} available of {size(facts.memory)}"
    if facts.shared_memory is not None:
        yield "shared memory", _place(facts.shared_memory)
    yield "temporary files", _place(facts.temporary)
    yield "home", _place(facts.home)
    if facts.open_files is not None:
        soft, hard = ("no limit" if most < 0 else f"{most:,}" for most in facts.open_files)
        yield "open files", f"{soft} (may be raised to {hard})"
    yield "start methods", ", ".join(facts.start_methods)
    yield "runners", ", ".join(facts.runners)
    for package in facts.packages:
        wanted = f" ({package.wanted_by} works with {package.wanted})" if package.wanted else ""
        yield package.name, f"{package.version or 'not installed'}{wanted}"
    yield "ports", "127.0.0.1 can be listened on" if facts.loopback is None else facts.loopback
    settings = [f"{setting.name}={setting.value}" for setting in facts.settings]
    yield "settings", ", ".join(settings) or "none (the defaults hold)"
    threads = [f"{name}={value}" for name, value in facts.threads.items()]
    yield "threads", ", ".join(threads) or "not set, so worker processes share the cores out"


def _place(place: Place) -> str:
    from shoal.recording.report.words import size

    if place.problem is not None:
        return f"{place.path}: {place.problem}"
    if place.free is None or place.size is None:
        return place.path
    return f"{place.path}, {size(place.free)} free of {size(place.size)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    ended = text if text.endswith("?") else f"{text}."
    return ended[0].upper() + ended[1:]
