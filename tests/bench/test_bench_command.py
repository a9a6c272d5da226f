"""`shoal bench` and `shoal bench compare`: what they print, what they refuse, how they end."""

from __future__ import annotations

import io
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from shoal.cli.app import invoke
from shoal_bench.advice import advice
from shoal_bench.commands import interrupts, runners
from shoal_bench.commands.files import Refused, write
from shoal_bench.commands.interrupts import DUPLICATES, interrupted_once
from shoal_bench.contestants import RUNNERS, choose
from shoal_bench.floors import Efficiency, Floor, Floors, UnreadableFloors, read_floors
from shoal_bench.live.process import Lost, Void
from shoal_bench.record import Record, read
from shoal_bench.table import WIDTH, as_table, words_below

from tests.bench.command import bench
from tests.bench.fakes import FakeLive
from tests.bench.records import MACHINE, example

FLOORS = Path(__file__).parents[2] / "benchmarks" / "floors.toml"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Contestants are faked; gives what they are asked for."""
    log: list[str] = []

    def open_fake(spec: Any, workers: int, speed: float, python: Path | None) -> FakeLive:
        log.append(f"{spec.name} open")
        return FakeLive(spec.name, log)

    monkeypatch.setattr(runners, "_open", open_fake)
    return log


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
        assert bench("--runner", "dask", "--scenario", "chain") == 1
        shown = capsys.readouterr()
        assert "Nothing was measured.\ndask: [Errno 1] no such cluster\n" in shown.err
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
            (["--plot", "a.jpg"], "a.jpg: the picture is a PNG"),
            (["--runner", "tcp://host"], "tcp://host: a host and a port are needed"),
            (["--runner", "ray://host:many"], "ray://host:many: Port could not be cast"),
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

    def test_a_misspelt_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert invoke(["bench", "ovrehead"]) == 2
        assert "'ovrehead'" in (told := capsys.readouterr().err)
        assert "Did you mean 'overhead'?" in told

    @pytest.mark.parametrize("scheme", ["tcp", "ray"])
    def test_a_cluster_that_is_not_there(
        self, opened: list[str], capsys: pytest.CaptureFixture[str], scheme: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
            assert bench("--runner", address, "--scenario", "chain", "--rounds", "1") == 0
        opened.clear()
        assert bench("--runner", address) == 2
        assert f"nothing answers at {address}: Connection refused" in capsys.readouterr().err
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
            for words in words_below(record):
                console.print(words, soft_wrap=True)
        return captured.get()

    def test_fits_a_terminal(self) -> None:
        console = Console(width=WIDTH, highlight=False)
        with console.capture() as captured:
            console.print(as_table(example()))
        text = captured.get()
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


class TestFloors:
    def missed(self, *floors: Floor, efficiency: tuple[Efficiency, ...] = ()) -> list[str]:
        return list(Floors(floor=floors, efficiency=efficiency).missed(example()))

    def floor(self, at_most: float, case: str = "map") -> Floor:
        return Floor(
            scenario="overhead",
            case=case,
            contestant="processes",
            against="futures-processes",
            at_most=at_most,
        )

    def efficiency(self, at_least: float, case: str = "0.001 s") -> Efficiency:
        return Efficiency(
            scenario="efficiency", case=case, contestant="processes", at_least=at_least
        )

    def test_held_and_missed(self) -> None:
        assert self.missed(self.floor(0.5)) == []
        (line,) = self.missed(self.floor(0.01))
        assert line.startswith("overhead: map, processes beside futures-processes: 0.05")

    def test_an_efficiency_held_and_missed(self) -> None:
        assert self.missed(efficiency=(self.efficiency(0.9),)) == []
        (line,) = self.missed(efficiency=(self.efficiency(0.999),))
        assert line == "efficiency: 0.001 s, processes: an efficiency of 0.992, at least 0.999"

    def test_one_without_a_figure_is_missed(self) -> None:
        lines = self.missed(self.floor(1, "nothing"), efficiency=(self.efficiency(0.1, "nothing"),))
        assert [line.rpartition(": ")[2] for line in lines] == [
            *("there is no figure", "there is no efficiency"),
        ]

    def test_those_of_the_project_name_what_exists(self) -> None:
        from shoal_bench.contestants import known
        from shoal_bench.scenarios import load

        floors = read_floors(FLOORS)
        for one in floors.all:
            (scenario,) = load([one.scenario])
            assert one.case in [case.name for case in scenario.cases(full=False)]
        for floor in floors.floor:  # ratios are made within an engine
            assert known()[floor.contestant].engine == known()[floor.against].engine

    def test_whom_they_are_about_takes_part_unless_somebody_is_named(
        self, opened: list[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "floors.toml"
        file.write_text(
            '[[floor]]\nscenario = "chain"\ncase = "chain"\ncontestant = "processes"\n'
            'against = "futures-chunks"\nat_most = 1\n'
        )
        arguments = ("--scenario", "chain", "--rounds", "1", "--floors", str(file))
        assert bench(*arguments) == 0
        assert {"futures-chunks open", "threads open"} <= set(opened)
        opened.clear()
        assert bench(*arguments, "--runner", "processes") == 1
        assert "futures-chunks open" not in opened

    def test_of_a_contestant_that_there_is_not(self, opened: list[str], tmp_path: Path) -> None:
        file = tmp_path / "floors.toml"
        file.write_text(
            '[[efficiency]]\nscenario = "efficiency"\ncase = "1 ms"\ncontestant = "fast"\nat_least = 1\n'
        )
        assert bench("--floors", str(file)) == 2
        assert opened == []

    def test_another_file(self, tmp_path: Path) -> None:
        file = tmp_path / "floors.toml"
        file.write_text("[[floor]]\nscenario = 1\n")
        with pytest.raises(UnreadableFloors, match="no file of floors"):
            read_floors(file)
