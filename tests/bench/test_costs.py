"""The commands that print what it costs to watch and to remember."""

from __future__ import annotations

import re
import subprocess
import sys


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
        assert re.search(rf"threads:2 +map of no-ops +{way} +\d\.\d+x", out), out
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
