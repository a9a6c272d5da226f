"""What `shoal doctor` makes of the facts: what is wrong, what may turn out badly, and the way out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shoal.cli.doctor_facts import SETTINGS
from shoal.exceptions import MissingExtraError
from shoal.recording.report.words import size
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.cli.doctor_facts import Facts, Package

__all__ = ["Finding", "Level", "findings", "is_in"]

MB = 1_000_000

#: Below these, something is likely to fail that is usual: bytes, and files.
LITTLE_MEMORY = 256 * MB
LITTLE_SHARED_MEMORY = 128 * MB
LITTLE_ROOM = 100 * MB
FEW_FILES = 1024


class Level(StrEnum):
    """How bad it is."""

    PROBLEM = "problem"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        level: how bad it is.
        about: which fact.
        says: what is so, and what comes of it.
        do: the way out.
    """

    level: Level
    about: str
    says: str
    do: str


def findings(facts: Facts) -> list[Finding]:
    """What is wrong, problems first."""
    kinds = (_machine, _places, _packages, _ports, _settings, _threads)
    found = [finding for kind in kinds for finding in kind(facts)]
    return sorted(found, key=lambda finding: finding.level is not Level.PROBLEM)


def _machine(facts: Facts) -> Iterator[Finding]:
    if facts.cores < facts.allowed_cpus:
        yield _warning(
            "cores",
            f"{facts.allowed_cpus} processors can be used, but only the time of {facts.cores} is granted: "
            "more worker processes than that get in each other's way",
            f'say how many: "processes:{facts.cores}"',
        )
    if facts.available_memory is not None and facts.available_memory < LITTLE_MEMORY:
        yield _warning(
            "memory",
            f"only {size(facts.available_memory)} are left: the system may kill workers",
            "end other programs, use fewer workers, or raise the memory limit of the container",
        )
    if facts.open_files is not None:
        soft, hard = facts.open_files
        if 0 <= soft < FEW_FILES:
            more = "`ulimit -n " + ("4096`" if hard < 0 or hard >= 4096 else f"{hard}`")
            yield _warning(
                "open files",
                f"this process may have only {soft} files open, and every worker process takes some",
                f"run {more} before the program",
            )


def _places(facts: Facts) -> Iterator[Finding]:
    shared, temporary = facts.shared_memory, facts.temporary
    if shared is not None and shared.problem is not None:
        yield _problem(
            "shared memory",
            f"{shared.path} cannot be written to ({shared.problem}): executors, Dask and Ray need it",
            "mount it: `mount -t tmpfs tmpfs /dev/shm`; in a container, give it one (`--shm-size=1g`)",
        )
    elif shared is not None and shared.free is not None and shared.free < LITTLE_SHARED_MEMORY:
        yield _warning(
            "shared memory",
            f"{shared.path} has room for {size(shared.free)}; Ray keeps its objects there",
            "give the container more, say `--shm-size=1g`",
        )
    if temporary.problem is not None:
        yield _problem(
            "temporary files",
            f"{temporary.path} cannot be written to ({temporary.problem})",
            "set TMPDIR to a folder that can",
        )
    elif temporary.free is not None and temporary.free < LITTLE_ROOM:
        yield _warning(
            "temporary files",
            f"{temporary.path} has room for {size(temporary.free)}",
            "make room there, or set TMPDIR to another folder",
        )
    if facts.home.problem is not None:
        by_ray = "ray" in facts.runners
        missed = [
            *(["limits are kept there"] if facts.keeps_limits else []),
            *(["Ray keeps its token there and does not start without"] if by_ray else []),
        ]
        if missed:
            yield Finding(
                Level.PROBLEM if by_ray else Level.WARNING,
                "home",
                f"{facts.home.path} cannot be written to ({facts.home.problem}): {', and '.join(missed)}",
                "set HOME to a folder that can",
            )


def _packages(facts: Facts) -> Iterator[Finding]:
    core = next((package.version for package in facts.packages if package.name == "shoal"), None)
    for package in facts.packages:
        if package.name.startswith("shoal-") and package.version not in (None, core):
            yield _problem(
                package.name,
                f"its version is {package.version}, that of shoal {core}: each works with its own only",
                f"install it again: {MissingExtraError(feature='', requirement=package.name).command}",
            )
        elif package.wanted_by:
            yield from _engine(package)


def _engine(package: Package) -> Iterator[Finding]:
    requirement = f"{package.name}{package.wanted}"
    install = MissingExtraError(feature="", requirement=requirement).command
    if package.version is None:
        yield _problem(
            package.name, f"{package.wanted_by} needs it, and it is not installed", install
        )
    elif not is_in(package.version, package.wanted):
        yield _problem(
            package.name,
            f"version {package.version} is installed, {package.wanted_by} works with {package.wanted}",
            install,
        )


def _ports(facts: Facts) -> Iterator[Finding]:
    if facts.loopback is not None:
        yield _problem(
            "ports",
            f"nothing can listen on 127.0.0.1 ({facts.loopback}): clusters of this machine cannot start",
            "bring the loopback interface up (`ip link set lo up`), or let the sandbox listen",
        )
        return
    for engine, port in facts.busy_ports.items():
        yield _warning(
            "ports",
            f"port {port}, which is that of {engine.capitalize()}'s dashboard, is taken: "
            "perhaps a cluster runs already; a new one takes another port",
            "end what is there, if it was forgotten",
        )


def _settings(facts: Facts) -> Iterator[Finding]:
    for setting in facts.settings:
        if not setting.known:
            question = did_you_mean(setting.name, list(SETTINGS))
            yield _warning(setting.name, "nothing reads this variable", question or "unset it")
        elif setting.problem is not None:
            yield _problem(
                setting.name,
                f"{setting.value!r} will not do: {setting.problem}",
                "set another value, or unset it",
            )


def _threads(facts: Facts) -> Iterator[Finding]:
    numbers = {name: int(text) for name, text in facts.threads.items() if text.isdigit()}
    most = max(numbers.values(), default=0)
    if facts.cores > 1 and most > 1:
        name = next(name for name, number in numbers.items() if number == most)
        yield _warning(
            name,
            f"every worker process computes on {most} threads, which have {facts.cores} cores together",
            "unset it: worker processes then share the cores out; or use fewer of them",
        )
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{name}={number}" for name, number in numbers.items())
        yield _warning(
            "threads", f"numerical libraries are told different things: {told}", "unset them"
        )


def is_in(version: str, wanted: str) -> bool:
    """Whether a version is among those wanted, say `>=2.49,<3`; numbers only, as far as they go."""
    for part in filter(None, wanted.split(",")):
        sign, number = re.fullmatch(r"([<>=!~]*)(.*)", part).groups()  # type: ignore[union-attr]
        here, there = _numbers(version), _numbers(number)
        below, above = here < there, here > there
        if (sign == ">=" and below) or (sign == "<" and not below) or (sign == "<=" and above):
            return False
        if (sign == ">" and not above) or (sign == "==" and (below or above)):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in (found[0] if found else "").split(".") if part]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _problem(about: str, says: str, do: str) -> Finding:
    return Finding(Level.PROBLEM, about, says, do)


def _warning(about: str, says: str, do: str) -> Finding:
    return Finding(Level.WARNING, about, says, do)
