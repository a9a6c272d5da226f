"""`shoal bench` and `shoal bench compare`: what they print, what they refuse, how they end."""

from __future__ import annotations

import io
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from shoal_bench import cli
from shoal_bench.advice import advice
from shoal_bench.changes import changes
from shoal_bench.commands import interrupts, runners
from shoal_bench.commands.files import Refused, write
from shoal_bench.commands.interrupts import DUPLICATES, interrupted_once
from shoal_bench.contestants import RUNNERS, choose
from shoal_bench.derive import entry_of
from shoal_bench.floors import Floor, UnreadableFloors, missed, read_floors
from shoal_bench.live.process import Lost, Void
from shoal_bench.record import Case, Contestant, Entry, Record, Sample, Scenario, read
from shoal_bench.table import WIDTH, as_table

from tests.bench.fakes import FakeLive
from tests.bench.records import MACHINE, example

FLOORS = Path(__file__).parents[2] / "benchmarks" / "floors.toml"


def bench(*arguments: str) -> int:
    """Runs the command in this process; gives its exit code."""
    code = cli.app(
        list(arguments), result_action="return_value", exit_on_error=False, print_error=False
    )
    assert isinstance(code, int)
    return code


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Contestants are faked; gives what they are asked for."""
    log: list[str] = []

    def open_fake(spec: Any, workers: int, speed: float, python: Path | None) -> FakeLive:
        log.append(f"{spec.name} open")
        return FakeLive(spec.name, log)

    monkeypatch.setattr(runners, "_open", open_fake)
    return log


def changed(record: Record, change: Callable[[Entry], Entry]) -> Record:
    """The same record with another entry of processes in a map of no-ops, and all that is derived from it."""
    scenario, *scenarios = record.scenarios
    case, *cases = scenario.cases
    found = []
    for entry in case.entries:
        if entry.contestant == "processes":
            new = change(entry)
            others = {r.against: entry_in(case, r.against).samples for r in entry.ratios}
            found.append(entry_of("processes", new.samples, others, new.void))
        else:
            found.append(entry)
    case = case.model_copy(update={"entries": tuple(found)})
    scenario = scenario.model_copy(update={"cases": (case, *cases)})
    return record.model_copy(update={"scenarios": (scenario, *scenarios)})


def entry_in(case: Case, name: str) -> Entry:
    """The entry of who took part."""
    entry = case.entry(name)
    assert entry is not None
    return entry


def slower(record: Record, factor: float) -> Record:
    """The same record, in which processes take so many times as long in a map of no-ops."""
    return changed(
        record,
        lambda entry: entry.model_copy(
            update={
                "samples": tuple(
                    sample.model_copy(update={"value": sample.value * factor})
                    for sample in entry.samples
                )
            }
        ),
    )


def samples_around(value: float, noise: float, rng: random.Random) -> list[float]:
    """Six rounds, each with noise of this share."""
    return [value * rng.lognormvariate(0, noise) for _ in range(6)]


def record_of(values: Sequence[float], *, ours: bool = False) -> Record:
    """A record with one figure and no bare engine."""
    samples = [Sample(round=n, value=v, wall=v) for n, v in enumerate(values, start=1)]
    entry = entry_of("threads", samples, {})
    case = Case(name="map", unit="seconds", per="task", entries=(entry,))
    scenario = Scenario(name="overhead", measures="", source="", cases=(case,))
    contestant = Contestant(name="threads", engine="threads", ours=ours, workers=2)
    return example().model_copy(update={"contestants": (contestant,), "scenarios": (scenario,)})


class TestComparing:
    def test_all_four_beside_their_bare_engines(
        self, opened: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "record.json"
        assert bench("--scenario", "chain", "--rounds", "3", "--json", str(file)) == 0
        record = read(file)
        assert [one.name for one in record.contestants if one.ours] == list(RUNNERS)
        assert len(record.contestants) == 8
        assert record.complete
        assert record.speed
        shown = capsys.readouterr()
        assert "bare engine" in shown.out
        assert "threads: chain: chain" in shown.err

    def test_ctrl_c_writes_and_shows_what_was_measured(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def interrupt(self: FakeLive, *arguments: object) -> int:
            if self.name == "dask":
                raise KeyboardInterrupt
            return 1

        monkeypatch.setattr(FakeLive, "warm", interrupt)
        file = tmp_path / "record.json"
        assert bench("--scenario", "chain", "--rounds", "3", "--json", str(file)) == 130
        record = read(file)
        assert not record.complete
        assert record.scenarios[0].cases[0].entry("processes") is not None
        assert "Interrupted" in capsys.readouterr().out
        assert "dask kill" in opened

    def test_a_runner_comes_with_its_bare_engine(self) -> None:
        assert [s.name for s in choose(["dask"])] == ["dask", "dask-client"]
        assert [s.name for s in choose((), ["joblib"])] == ["joblib"]
        assert [s.name for s in choose(["processes"], ["joblib"])] == [
            *("processes", "futures-processes", "joblib"),
        ]

    def test_a_cluster_that_runs(self) -> None:
        ours, bare = choose(["tcp://host:8786"])
        assert (ours.ours, ours.bare, bare.argument) == (True, bare.name, "tcp://host:8786")
        assert ours.engine == bare.engine == "tcp://host:8786"

    def test_what_is_not_installed_says_what_installs_it(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("shoal_bench.contestants.find_spec", lambda name: None)
        assert bench("--scenario", "chain", "--runner", "threads", "--contestant", "loky") == 0
        assert "loky: is not installed; `pip install loky` installs it" in capsys.readouterr().out


class TestDoubts:
    """Lines before it begins, about what will make figures say little."""

    def at_a_load_of(self, monkeypatch: pytest.MonkeyPatch, load: float) -> None:
        machine = replace(MACHINE, load=load)
        monkeypatch.setattr("shoal_bench.machine.Machine.here", lambda: machine)

    @pytest.mark.parametrize(
        ("load", "workers", "told"),
        [
            (0.5, "2", []),
            (0.5, "100", ["100 workers share 2 processors"]),
            (4.5, "2", ["this machine is busy (a load of 4.5 on 2 processors)"]),
        ],
        ids=["none", "many workers", "a busy machine"],
    )
    def test_are_told(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        load: float,
        workers: str,
        told: list[str],
    ) -> None:
        self.at_a_load_of(monkeypatch, load)
        monkeypatch.setattr("shoal_bench.scenarios.calibration.bytes_per_second", lambda _: 1e9)
        assert bench("--scenario", "chain", "--rounds", "1", "--workers", workers) == 0
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Warning: ")]
        assert len(lines) == len(told)
        assert all(part in line for part, line in zip(told, lines, strict=True))

    def test_of_a_simulation(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.at_a_load_of(monkeypatch, 4.5)
        options = ("--tasks", "2", "--workers", "2", "--no-search", "--no-published")
        assert bench("simulate", *options) == 0
        assert "Warning: this machine is busy" in capsys.readouterr().err


class TestNothingWasMeasured:
    def test_as_it_cannot_be_opened(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*_: object) -> FakeLive:
            raise Lost("[Errno 1] no such cluster")

        monkeypatch.setattr(runners, "_open", fail)
        assert bench("--runner", "tcp://nowhere:1", "--scenario", "chain") == 1
        shown = capsys.readouterr()
        assert "Nothing was measured.\ntcp://nowhere:1: [Errno 1] no such cluster\n" in shown.err
        assert not shown.out

    def test_as_it_is_not_installed(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("shoal_bench.contestants.find_spec", lambda name: None)
        assert bench("--contestant", "loky", "--scenario", "chain") == 1
        shown = capsys.readouterr().err
        assert "Nothing was measured.\nloky: is not installed; `pip install loky`" in shown

    def test_as_nobody_can_do_it(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(self: FakeLive, *arguments: object) -> int:
            raise Void("it cannot")

        monkeypatch.setattr(FakeLive, "warm", fail)
        assert bench("--runner", "threads", "--scenario", "chain") == 1
        assert "threads chain, futures-threads chain: it cannot" in capsys.readouterr().err


class TestWhatWasMeasuredIsWritten:
    """Also where it cannot be shown, or measuring fails."""

    ARGUMENTS = ("--scenario", "chain", "--rounds", "3", "--json")

    def test_before_it_is_shown(
        self, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(record: Record) -> str:
            raise RuntimeError("no table")

        monkeypatch.setattr("shoal_bench.table.as_table", fail)
        file = tmp_path / "record.json"
        with pytest.raises(RuntimeError, match="no table"):
            bench(*self.ARGUMENTS, str(file))
        assert read(file).complete

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_nobody_reads_what_is_shown(
        self, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
    ) -> None:
        def end(console: Console) -> None:
            raise SystemExit(1)  # as rich does, which also has standard output go nowhere

        monkeypatch.setattr(Console, "on_broken_pipe", end)
        monkeypatch.setattr(sys, stream, Unread())
        file = tmp_path / "record.json"
        with pytest.raises(SystemExit) as ended:
            bench(*self.ARGUMENTS, str(file))
        assert ended.value.code == 1
        assert read(file).complete is (stream == "stdout")

    def test_measuring_fails(
        self, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: FakeLive, *arguments: object) -> int:
            if self.name == "dask":
                raise RuntimeError("unforeseen")
            return 1

        monkeypatch.setattr(FakeLive, "warm", fail)
        file = tmp_path / "record.json"
        with pytest.raises(RuntimeError, match="unforeseen"):
            bench(*self.ARGUMENTS, str(file))
        assert read(file).scenarios[0].cases[0].entry("processes") is not None

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
    def test_measuring_fails_and_so_does_writing(
        self, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: FakeLive, *arguments: object) -> int:
            raise RuntimeError("unforeseen")

        monkeypatch.setattr(FakeLive, "warm", fail)
        with pytest.raises(RuntimeError, match="unforeseen") as caught:
            bench(*self.ARGUMENTS, "/dev/full")
        assert "No space left on device" in caught.value.__notes__[0]


class Unread(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class TestInterrupts:
    def test_a_second_ctrl_c_does_not_disturb_the_end_of_the_first(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with interrupted_once():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_later_one_is_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first may have been swallowed, in a finalizer for example."""
        now = [10.0]
        monkeypatch.setattr(interrupts, "time", SimpleNamespace(monotonic=lambda: now[0]))
        with interrupted_once():
            for later in (0.0, DUPLICATES, DUPLICATES):
                now[0] += later
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
                now[0] += DUPLICATES / 2
                signal.raise_signal(signal.SIGINT)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["--scenario", "nothing"], "no scenario 'nothing', but: overhead"),
            (["--contestant", "nobody"], "no contestant 'nobody', but: threads"),
            (["--runner", "nobody"], "no contestant 'nobody', but: threads, processes, dask, ray"),
            (["--peer", "prefect"], "NAME=/path/to/python is needed"),
            (["--peer", "prefect=/no/such/python"], "is no interpreter of Python"),
            (
                ["--peer", "prefect=/bin/false"],
                "/bin/false is no interpreter of Python: it ended with 1\n",
            ),
            (["--peer", "nobody=/no/such/python"], "no contestant 'nobody', but: threads"),
            (["--peer", f"nobody={sys.executable}"], "no contestant 'nobody'"),
            (["--json", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
            (["--json", "/"], "is a folder"),
            (["--json", "/no/such/[red]/a.json"], "there is no folder /no/such/[red]"),
            (["--floors", "/no/such/floors.toml"], "no file of floors"),
        ],
        ids=lambda item: " ".join(item[:2]) if isinstance(item, list) else "",
    )
    def test_is_refused_before_anything_is_measured(
        self,
        opened: list[str],
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        problem: str,
    ) -> None:
        assert bench(*arguments) == 2
        assert problem in capsys.readouterr().err
        assert opened == []

    def test_a_peer_that_the_interpreter_does_not_have(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert bench("--peer", f"prefect={sys.executable}") == 2
        assert "has no prefect; " in capsys.readouterr().err

    def test_an_interpreter_without_shoal(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
        bare.chmod(0o755)
        assert bench("--peer", f"threads={bare}", "--scenario", "chain") == 2
        assert f"{bare} has no shoal; " in capsys.readouterr().err

    def test_an_interpreter_that_greets(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        greeting = tmp_path / "python"
        greeting.write_text("#!/bin/sh\necho Welcome here\n")
        greeting.chmod(0o755)
        assert bench("--peer", f"loky={greeting}") == 2
        expected = f"{greeting} is no interpreter of Python: it ended with 0: Welcome here\n"
        assert expected in capsys.readouterr().err

    def test_a_file_where_the_folder_should_be(
        self, opened: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        assert bench("--json", str(tmp_path / "file" / "a.json")) == 2
        assert "is a file, where the folder of a.json should be" in capsys.readouterr().err

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
    def test_a_full_disk_still_shows_the_table(
        self, opened: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--scenario", "chain", "--runner", "threads", "--json", "/dev/full")
        assert bench(*arguments) == 1
        shown = capsys.readouterr()
        assert "chain" in shown.out
        assert "/dev/full could not be written: No space left on device" in shown.err

    def test_a_file_is_written_whole_or_not_at_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "a.json"
        file.write_text("before")

        def fail(self: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(Refused, match="No space left"):
            write(file, "after")
        assert file.read_text() == "before"
        assert list(tmp_path.iterdir()) == [file]


class TestTable:
    def shown(self, record: Record) -> str:
        console = Console(width=WIDTH, highlight=False)
        with console.capture() as captured:
            console.print(as_table(record))
        return captured.get()

    def test_fits_a_terminal(self) -> None:
        text = self.shown(example())
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= WIDTH

    def test_ours_stand_above_the_others(self) -> None:
        lines = [line.strip() for line in self.shown(example()).splitlines()]
        start = next(n for n, line in enumerate(lines) if line.startswith("map"))
        assert lines[start + 1].startswith("bare engine")
        assert lines[start + 2].startswith("joblib")

    def test_voids_and_who_is_absent_are_said(self) -> None:
        text = self.shown(example(complete=False))
        assert "void: overhead, joblib round-trip: cannot do this" in text
        assert "parsl: is not installed; `pip install parsl` installs it" in text
        assert "Interrupted" in text


class TestAdvice:
    def test_is_derived_from_figures(self) -> None:
        sentences = advice(example())
        assert any("worth spreading" in s and "on threads" in s for s in sentences)
        assert any(s.startswith("Take ray for more than one machine") for s in sentences)

    def test_nothing_is_advised_from_noise(self) -> None:
        data = example().model_dump()
        for scenario in data["scenarios"]:
            for case in scenario["cases"]:
                for entry in case["entries"]:
                    entry["noisy"] = True
        assert advice(Record.model_validate(data)) == [
            "These figures are too few or too noisy to recommend a runner."
        ]

    @pytest.mark.parametrize(
        ("scenarios", "runners", "count"),
        [((), 4, 1), (("metg",), 4, 1), (("overhead", "chain"), 4, 0), ((), 1, 0)],
        ids=["all", "one of which advice is derived", "others", "one runner"],
    )
    def test_only_who_has_asked_is_told_that_there_is_none(
        self, scenarios: tuple[str, ...], runners: int, count: int
    ) -> None:
        record = example()
        ours = [one for one in record.contestants if one.ours][:runners]
        narrow = {
            "options": record.options.model_copy(update={"scenarios": scenarios}),
            "contestants": tuple(ours),
            "scenarios": (),
        }
        assert len(advice(record.model_copy(update=narrow))) == count


class TestChanges:
    def files(self, folder: Path, records: Sequence[Record]) -> list[str]:
        paths = []
        for number, record in enumerate(records):
            path = folder / f"{number}.json"
            path.write_text(record.to_json())
            paths.append(str(path))
        return paths

    def test_the_same_twice(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        paths = self.files(tmp_path, [example(), example()])
        assert bench("compare", *paths, "--fail-over", "10%") == 0
        assert "0 of " in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("factor", "code"), [(2.0, 1), (0.5, 0)], ids=["costs more", "costs less"]
    )
    def test_what_costs_more_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, code: int
    ) -> None:
        paths = self.files(tmp_path, [example(), slower(example(), factor)])
        assert bench("compare", *paths, "--fail-over", "10%") == code
        shown = capsys.readouterr()
        assert "1 of " in shown.out
        assert ("overhead: map, processes: +100%" in shown.err) is (code == 1)

    def test_noise_is_no_change(self) -> None:
        found = changes(example(), slower(example(), 1.01))
        assert found.compared
        assert not any(change.beyond_noise for change in found.compared)

    def test_few_of_what_has_not_changed_seems_to_have(self) -> None:
        rng = random.Random(1)
        alarms = figures = 0
        for _ in range(300):
            first, second = (record_of(samples_around(1.0, 0.1, rng)) for _ in range(2))
            for change in changes(first, second).compared:
                figures += 1
                alarms += change.beyond_noise
        assert figures > 250
        assert alarms / figures < 0.03

    def test_noisy_figures_and_few_rounds_are_left_out(self) -> None:
        rng = random.Random(1)
        few = record_of(samples_around(1.0, 0.01, rng)[:4])
        found = changes(few, record_of(samples_around(9.0, 0.01, rng)))
        assert [aside.reason for aside in found.skipped] == ["fewer than 5 rounds"]
        noisy = record_of(samples_around(1.0, 2.0, rng))
        found = changes(noisy, record_of(samples_around(9.0, 0.01, rng)))
        assert [aside.reason for aside in found.skipped] == ["too noisy"]
        assert not found.compared

    @pytest.mark.parametrize("void", [True, False], ids=["void", "not measured"])
    def test_what_has_gone_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], void: bool
    ) -> None:
        if void:
            after = changed(example(), lambda entry: entry.model_copy(update={"void": "it gave 3"}))
        else:
            after = example().model_copy(update={"scenarios": example().scenarios[1:]})
        paths = self.files(tmp_path, [example(), after])
        assert bench("compare", *paths) == 0
        assert "Lost: overhead: map, " in capsys.readouterr().out
        assert bench("compare", *paths, "--fail-over", "10%") == 1
        reason = "void: it gave 3" if void else "not measured any more"
        assert f"overhead: map, processes: lost, {reason}" in capsys.readouterr().err
        assert bench("compare", *reversed(paths), "--fail-over", "10%") == 0
        assert "New: overhead: map, " in capsys.readouterr().out

    def test_nothing_to_compare_fails(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        nothing = example().model_copy(update={"scenarios": ()})
        paths = self.files(tmp_path, [nothing, example()])
        assert bench("compare", *paths, "--fail-over", "10%") == 1
        assert "Nothing of ours can be compared" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("after", "told"), [(0.0, "+0%"), (2.0, "+inf%")], ids=["nothing", "something"]
    )
    def test_what_cost_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], after: float, told: str
    ) -> None:
        (free, new) = (record_of([value] * 6, ours=True) for value in (0.0, after))
        paths = self.files(tmp_path, [free, new])
        assert bench("compare", *paths, "--fail-over", "10%") == (1 if after else 0)
        assert (told in capsys.readouterr().err) is bool(after)

    def test_another_version_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (one,) = self.files(tmp_path, [example()])
        other = tmp_path / "other.json"
        other.write_text('{"schema_version": 2}')
        assert bench("compare", one, str(other)) == 2
        assert "its schema_version is 2" in capsys.readouterr().err

    def test_no_share(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        paths = self.files(tmp_path, [example(), example()])
        assert bench("compare", *paths, "--fail-over", "much") == 2
        assert "a share such as 10% is needed" in capsys.readouterr().err


class TestFloors:
    def floor(self, at_most: float, case: str = "map") -> Floor:
        return Floor(
            scenario="overhead",
            case=case,
            contestant="processes",
            against="futures-processes",
            at_most=at_most,
        )

    def test_held_and_missed(self) -> None:
        assert list(missed(example(), [self.floor(0.5)])) == []
        (line,) = missed(example(), [self.floor(0.01)])
        assert line.startswith("overhead: map, processes beside futures-processes: 0.05")

    def test_one_without_a_figure_is_missed(self) -> None:
        (line,) = missed(example(), [self.floor(1, "nothing")])
        assert line.endswith("there is no figure")

    def test_those_of_the_project_name_what_exists(self) -> None:
        from shoal_bench.contestants import known
        from shoal_bench.scenarios import load

        for floor in read_floors(FLOORS):
            (scenario,) = load([floor.scenario])
            assert floor.case in [case.name for case in scenario.cases(full=False)]
            assert known()[floor.contestant].bare == floor.against

    def test_another_file(self, tmp_path: Path) -> None:
        file = tmp_path / "floors.toml"
        file.write_text("[[floor]]\nscenario = 1\n")
        with pytest.raises(UnreadableFloors, match="no file of floors"):
            read_floors(file)
