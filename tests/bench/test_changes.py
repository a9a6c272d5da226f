"""`shoal bench compare`: what changed between two records, what is left out, and when it fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from shoal_bench.changes import changes
from shoal_bench.derive import entry_of
from shoal_bench.record import Case, Contestant, Entry, Record, Sample, Scenario

from tests.bench.command import bench
from tests.bench.records import example


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

    @pytest.mark.slow
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
