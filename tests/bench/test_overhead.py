"""`shoal bench overhead`: its measurements run, and its reports have the form that their readers expect."""

from __future__ import annotations

import io
import json
import re
import signal
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console
from shoal_bench import cli, report
from shoal_bench.harness import Result, Round
from shoal_bench.machine import Machine
from shoal_bench.measurement import BYTES, SECONDS, Figure, Measurement
from shoal_bench.suites import Runner, measurements_of

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

HEADINGS = [
    "measurement",
    "ours",
    "bare",
    "bare / ours",
    "judged",
    "min - max",
    "floor",
    "aim",
    "verdict",
]


def overhead(*arguments: str) -> int:
    """Runs the command in this process; gives its exit code."""
    code = cli.app(
        ["overhead", *arguments],
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    assert isinstance(code, int)
    return code


def made_up(name: str, ours: float) -> Measurement:
    return Measurement(
        name=name,
        compares="",
        ours=lambda size: ours,
        bare=lambda size: 3.0,
        also={"other": lambda size: 2.0} if name == "good" else {},
        unit=SECONDS,
        figure=Figure.TIMES_FASTER,
        floor=2,
        aim=5,
        size=1,
    )


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that take no time: one that meets its floor and one that misses it."""
    measurements = [made_up("good", ours=1), made_up("bad", ours=2)]
    monkeypatch.setattr(cli, "measurements_of", lambda runner: measurements)
    monkeypatch.setattr(cli, "ROUNDS", 1)


@pytest.mark.slow
class TestMeasurements:
    @pytest.mark.parametrize(
        "name", ["submit", "map", "round-trip", "chain", "import", "import-names", "async"]
    )
    def test_runs(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert overhead("--quick", "--rounds", "1", "--only", name) == 0
        assert f"{name} " in capsys.readouterr().out

    @pytest.mark.parametrize(
        "name",
        [
            *("submit", "map", "round-trip", "chain", "first-result", "first-result-again"),
            *("array", "crashes"),
        ],
    )
    def test_processes_are_sampled(self, name: str) -> None:
        """One small sample of each engine; the rounds around it would start their pools twice."""
        (measurement,) = (m for m in measurements_of("processes") if m.name == name)
        size = min(measurement.quick_size or measurement.size, 200)
        # Further engines take a second to start: once is enough to see that they work.
        others = measurement.also.values() if name == "submit" else ()
        for sampler in (measurement.ours, measurement.bare, *others):
            assert sampler(size) > 0

    @pytest.mark.parametrize(
        "name",
        [
            *("submit", "map", "round-trip", "chain", "chain-of-work", "long"),
            *("array", "first-result"),
        ],
    )
    def test_dask_is_sampled(self, name: str) -> None:
        """One small sample of each side."""
        (measurement,) = (m for m in measurements_of("dask") if m.name == name)
        size = min(measurement.quick_size or measurement.size, 100)
        for sampler in (measurement.ours, measurement.bare, *measurement.also.values()):
            assert sampler(size) > 0

    def test_only_a_name_of_an_array_passes_through_the_driver_of_dask(self) -> None:
        (measurement,) = (m for m in measurements_of("dask") if m.name == "array-bytes")
        for sampler in (measurement.ours, measurement.bare):
            assert 500 < sampler(4) < measurement.floor

    def test_memory_on_dask_is_sampled(self) -> None:
        (measurement,) = (m for m in measurements_of("dask") if m.name == "memory-map")
        assert 0 <= measurement.ours(20_000) < measurement.bare(20_000)

    def test_another_runner_is_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("--quick", "--rounds", "1", "--only", "first-result-again")
        assert overhead("--runner", "processes", *arguments) == 0
        assert "first-result-again " in capsys.readouterr().out

    def test_tasks_of_unlike_length(self) -> None:
        """One sample of ours: those of the others take seconds, whatever their size."""
        (measurement,) = (m for m in measurements_of("processes") if m.name == "fast-then-slow")
        assert measurement.ours(1) > measurement.bare(1) > 0.5
        assert measurement.also.keys() == {"executor", "loky", "joblib"}

    def test_only_a_handle_of_an_array_passes_through_the_driver(self) -> None:
        (measurement,) = (m for m in measurements_of("processes") if m.name == "array-bytes")
        assert 500 < measurement.ours(4) < measurement.floor
        assert measurement.bare(4) > 5 * 4_000_000

    @pytest.mark.parametrize("name", ["memory-submit", "memory-map"])
    def test_memory_is_sampled(self, name: str) -> None:
        """One sample of a size that takes no time, which says little but that it works."""
        (measurement,) = (m for m in measurements_of("threads") if m.name == name)
        assert 0 <= measurement.ours(20_000) < measurement.bare(20_000)

    @pytest.mark.parametrize("runner", get_args(Runner))
    def test_the_documentation_says_what_the_suite_does(self, runner: Runner) -> None:
        rows = {}
        _, _, section = PAGE.read_text().partition(f"\n### On {runner}\n")
        for line in section.partition("\n#")[0].splitlines():
            if row := re.match(r"\| `([\w-]+)` \|.*\| (.+?) \| (.+?) \| (.+?) \|$", line):
                rows[row[1]] = (row[2], row[3], row[4])
        for measurement in measurements_of(runner):
            figure, unit = measurement.figure, measurement.unit
            assert rows[measurement.name] == (
                figure.value,
                figure.show(measurement.floor, unit),
                figure.show(measurement.aim, unit),
            )
        assert rows.keys() == {measurement.name for measurement in measurements_of(runner)}


@pytest.mark.usefixtures("suite")
class TestReports:
    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert overhead() == 0
        shown = capsys.readouterr()
        rows = [re.split(r"\s{2,}", line.strip()) for line in shown.out.splitlines()]
        assert [heading for heading in HEADINGS if heading != "bare / ours"] in rows
        good = rows.index(["good", "1 s", "3 s", "3x faster", "3 - 3x", "2x", "5x", "floor"])
        assert rows[good + 1] == ["beside other", "2 s"]
        assert shown.err.splitlines() == ["good: 3x faster (floor)", "bad: 1.5x faster (missed)"]

    def test_a_table_of_wide_figures_fits_a_terminal(self) -> None:
        """100 columns, with the longest names there are."""
        longest = max(
            (m.name for runner in ("threads", "processes") for m in measurements_of(runner)),
            key=len,
        )
        wide = replace(made_up(longest, ours=1), figure=Figure.TIMES_THE_COST, floor=1.25, aim=0.75)
        also = {"joblib": 123e-6}
        rounds = (Round(123.4e-6, 1.23e-9, also), Round(234.5e-3, 123e-6, also))
        results = [
            Result(replace(wide, also={"joblib": float}), 1, rounds),
            Result(replace(wide, figure=Figure.EXTRA_COST, floor=70e-3, aim=35e-3), 1, rounds),
            Result(replace(wide, unit=BYTES, figure=Figure.COST), 1, (Round(50_002_107, 999_999),)),
        ]
        console = Console(width=report.WIDTH, file=io.StringIO())
        console.print(report.as_table(results, Machine.here()))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= 100

    def test_markdown(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert overhead("--markdown") == 0
        heading, rule, *rows, _, machine = capsys.readouterr().out.splitlines()
        assert heading == f"| {' | '.join(HEADINGS)} |"
        assert rule.count("|") == len(HEADINGS) + 1
        assert rows[0] == "| good | 1 s | 3 s | 3.00 | 3x faster | 3 - 3x | 2x | 5x | floor |"
        assert rows[1] == "| beside other |  | 2 s | 2.00 |  |  |  |  |  |"
        assert machine.startswith("Measured 20")

    def test_json(self, tmp_path: Path) -> None:
        file = tmp_path / "overhead.json"
        assert overhead("--rounds", "2", "--only", "good", "--json", str(file)) == 0
        written: dict[str, Any] = json.loads(file.read_text())
        assert written["options"] == {"runner": "threads", "rounds": 2, "quick": False}
        machine = written["machine"]
        assert machine["cpus"] >= machine["usable_cpus"] >= 1
        assert "shoal" in machine["libraries"]
        assert machine.keys() == {
            *("date", "cpus", "usable_cpus", "load", "system", "python", "libraries")
        }
        one = {"median": 1.0, "min": 1.0, "max": 1.0}
        two = {"median": 2.0, "min": 2.0, "max": 2.0}
        three = {"median": 3.0, "min": 3.0, "max": 3.0}
        assert written["measurements"] == [
            {
                "name": "good",
                "compares": "",
                "size": 1,
                "unit": "seconds",
                "ours": one,
                "bare": three,
                "ratio": {"is": "bare / ours", **three},
                "also": {"other": two},
                "judged": {"is": "bare / ours", "better": "higher", **three},
                "floor": 2,
                "aim": 5,
                "verdict": "floor",
                "rounds": [{"ours": 1.0, "bare": 3.0, "also": {"other": 2.0}}] * 2,
            }
        ]


@pytest.mark.usefixtures("suite")
class TestCommand:
    @pytest.mark.slow
    def test_check_fails_for_a_missed_floor(self) -> None:
        assert overhead("--check") == 1
        assert overhead("--check", "--only", "good") == 0
        assert overhead() == 0

    def test_an_unknown_measurement(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert overhead("--only", "nothing") == 2
        expected = "Error: there is no measurement 'nothing', but: good, bad"
        assert capsys.readouterr().err.strip() == expected

    def test_a_folder_is_refused_before_anything_is_measured(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert overhead("--json", str(tmp_path)) == 2
        shown = capsys.readouterr()
        assert "is a folder; name a file in it" in shown.err
        assert not shown.out

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
    def test_a_full_disk_still_shows_the_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert overhead("--json", "/dev/full") == 1
        shown = capsys.readouterr()
        assert "good" in shown.out
        assert "No space left on device" in shown.err

    def test_ctrl_c_writes_and_shows_what_was_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt(size: int) -> float:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # the same Ctrl-C, as `uv run` passes it on
            return 1.0

        suite = [made_up("good", ours=1), replace(made_up("bad", ours=2), ours=interrupt)]
        monkeypatch.setattr(cli, "measurements_of", lambda runner: suite)
        file = tmp_path / "overhead.json"
        assert overhead("--json", str(file)) == 130
        (written,) = json.loads(file.read_text())["measurements"]
        assert written["name"] == "good"
        shown = capsys.readouterr()
        assert "good" in shown.out
        assert "Interrupted" in shown.err

    def test_is_a_command_of_shoal(self) -> None:
        (entry,) = entry_points(group="shoal.commands", name="bench")
        assert entry.load() is cli.app
