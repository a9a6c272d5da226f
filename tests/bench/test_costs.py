"""The commands that print what it costs to watch, to remember and to limit."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


def printed(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_what_it_costs_to_be_watched() -> None:
    out = printed(
        "shoal_bench.watched",
        "--runner",
        "threads:2",
        "--rounds",
        "1",
        "--runs",
        "400",
        "--page",
        "500",
    )

    for way in ("recorded", "shown"):
        assert re.search(rf"threads:2 +map of no-ops +{way} +[\d.]+x", out), out
    assert "page of 500 runs" in out


def test_what_it_costs_to_remember() -> None:
    out = printed(
        "shoal_bench.remembered",
        "--runner",
        "threads:2",
        "--rounds",
        "1",
        "--runs",
        "500",
        "--cached",
    )

    assert "journal of 500 no-ops" in out
    assert "goes on with 500 completed runs" in out
    for kind in ("asks for nothing", "miss", "hit"):
        assert re.search(rf"call of a task, {kind}: [\d.]+ \(", out), out


@pytest.mark.slow
def test_what_limits_cost() -> None:
    small = [
        "--rounds",
        "1",
        "--naps",
        "20",
        "--runs",
        "300",
        "--slots",
        "10",
        "--turns",
        "3",
        "--seconds",
        "0.3",
    ]

    out = printed("shoal_bench.limited", "--runner", "threads", *small)

    for what in ("20 runs of 10 ms under a limit of 4, SQLite", "20 runs of 10 ms under max_conc"):
        assert re.search(rf"threads +{what}.*: [\d.]+x .* the ideal", out), out
    assert re.search(r"map of 300 no-ops under max_concurrency=2: [\d.]+x", out), out
    for what in ("acquire and release, uncontended", "wake-up after a release by another process"):
        assert re.search(rf"SQLite +{what}: [\d.]+ ms", out), out
    assert "24 served" in out
    assert ", 0 of them while another held it" in out
    assert "100 a second over 0.3 s from 4 processes" in out
