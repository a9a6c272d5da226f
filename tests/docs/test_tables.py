"""The tables of the page "Writing a runner": what they speak of is there, and nothing is missing."""

from __future__ import annotations

import re
from pathlib import Path

from shoal.scheduling.backend import BackendEvents, LedgerBackend
from shoal.scheduling.capabilities import Capabilities
from shoal.scheduling.ledger_events import LedgerEvents

PAGE = (Path(__file__).parents[2] / "docs" / "writing-a-runner.md").read_text()

#: What the dispatcher and the runner ask of the books, and nobody tells.
ASKED = {
    *(
        "all_in_flight",
        "close",
        "force",
        "go_on",
        "executing",
        "has_begun",
        "in_flight",
        "in_flight_at",
        "is_unbegun",
        "interrupt",
    ),
    *("is_waited_for", "perform", "recall", "run_at", "stuck", "wait_until_certain"),
    *("wait_until_idle", "worker_at", "workers"),
}


def first_columns(heading: str) -> str:
    """The first column of the tables under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, heading
    return "\n".join(re.findall(r"^\| (.*?) \|", section, flags=re.MULTILINE))


def methods_of(protocol: type) -> set[str]:
    kinds = [kind for kind in protocol.__mro__ if kind.__module__.startswith("shoal.")]
    return {
        name
        for kind in kinds
        for name in vars(kind)
        if name[0] != "_" and callable(getattr(kind, name))
    }


def test_what_a_backend_tells() -> None:
    told = first_columns("What a backend tells")
    assert set(re.findall(r"`events\.(\w+)\(", told)) == methods_of(BackendEvents)
    assert set(re.findall(r"`events\.ledger\.(\w+)\(", told)) == methods_of(LedgerEvents) - ASKED


def test_what_a_backend_is_asked() -> None:
    asked = first_columns("What it is asked")
    assert set(re.findall(r"`(\w+)\(", asked)) == methods_of(LedgerBackend)


def test_flags() -> None:
    flags = first_columns("Test it")
    assert set(re.findall(r"`(\w+)`", flags)) - {"Capabilities"} == set(Capabilities.__slots__)
