"""Records: written and read back, refused where they are of another kind; and what samples come to."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from shoal_bench.derive import entry_of, quartiles
from shoal_bench.record import QUANTITIES, Quartiles, Sample, UnreadableRecord, read
from shoal_bench.significance import chance_of

from tests.bench.records import example

#: What Python takes for numbers in JSON, and nothing can be compared with.
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")


def taken(*values: float, first: int = 1) -> list[Sample]:
    return [Sample(round=n, value=v, wall=v) for n, v in enumerate(values, start=first)]


class TestFiles:
    def test_there_and_back(self, tmp_path: Path) -> None:
        file = tmp_path / "record.json"
        file.write_text(example().to_json())
        assert read(file) == example()

    def test_every_quantity_is_documented(self) -> None:
        used = {name for _, _, e in example().entries() for s in e.samples for name in s.quantities}
        assert used
        assert used <= QUANTITIES.keys()

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("no JSON", "no record of `shoal bench`"),
            ("[]", "it has no schema_version"),
            ('{"machine": {}}', "it has no schema_version"),
            (
                '{"schema_version": 99}',
                "its schema_version is 99, and 1 is what this version reads",
            ),
            ('{"schema_version": 1}', "Field required"),
            ("[" * 100_000, "no record of `shoal bench`"),
            *((f'{{"speed": {text}}}', f"{text} is no number") for text in NUMBERS),
        ],
        ids=["text", "list", "other JSON", "other version", "incomplete", "deep", *NUMBERS],
    )
    def test_others_are_refused(self, tmp_path: Path, text: str, problem: str) -> None:
        file = tmp_path / "record.json"
        file.write_text(text)
        with pytest.raises(UnreadableRecord) as caught:
            read(file)
        assert problem in str(caught.value)
        assert str(file) in str(caught.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableRecord, match="No such file"):
            read(tmp_path / "nothing.json")

    def test_a_field_too_many_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "record.json"
        file.write_text(json.dumps(json.loads(example().to_json()) | {"surprise": 1}))
        with pytest.raises(UnreadableRecord, match="surprise"):
            read(file)


class TestDerived:
    def test_quartiles(self) -> None:
        assert quartiles([4, 1, 3, 2, 5]) == Quartiles(low=2, median=3, high=4)
        assert quartiles([7]) == Quartiles(low=7, median=7, high=7)

    def test_ratios_are_made_within_a_round(self) -> None:
        values = [10.0**n for n in range(6)]
        entry = entry_of("a", taken(*values), {"b": taken(*(2 * v for v in values))})
        assert entry.ratios[0].quartiles == Quartiles(low=0.5, median=0.5, high=0.5)
        assert entry.ratios[0].conclusive
        assert entry.noisy  # its own values are far apart

    def test_only_rounds_that_both_have(self) -> None:
        entry = entry_of("a", taken(1, 2), {"b": taken(4, 8, first=2)})
        assert (entry.ratios[0].pairs, entry.ratios[0].quartiles.median) == (1, 0.5)
        assert entry_of("a", taken(1), {"b": taken(1, first=2)}).ratios == ()

    @pytest.mark.parametrize(
        ("ours", "conclusive"),
        [
            ([0.5, 0.6, 0.9, 0.5, 0.5, 0.99], True),
            ([1.2, 1.5, 3, 1.01, 2, 2], True),
            ([0.97, 1, 1.03, 0.98, 1, 1.2], True),
            ([0.8, 1, 1.2, 0.7, 1.1, 0.8], False),
            ([0.5, 0.5, 0.5, 0.5, 0.5, 1.1], False),
            ([0.5, 0.5, 0.5, 0.5, 0.5], False),
        ],
        ids=["less", "more", "alike", "either", "all but one", "too few"],
    )
    def test_conclusive(self, ours: list[float], conclusive: bool) -> None:
        entry = entry_of("a", taken(*ours), {"b": taken(1, 1, 1, 1, 1, 1)})
        assert entry.ratios[0].conclusive is conclusive

    def test_noise_is_seldom_taken_for_a_difference(self) -> None:
        rng = random.Random(1)
        alarms = 0
        for _ in range(2000):
            ours, theirs = ([rng.lognormvariate(0, 0.1) for _ in range(6)] for _ in range(2))
            (found,) = entry_of("a", taken(*ours), {"b": taken(*theirs)}).ratios
            times = found.quartiles
            alarms += found.conclusive and not (0.95 <= times.low <= times.high <= 1.05)
        assert 0 < alarms / 2000 < 0.05

    @pytest.mark.parametrize(
        ("values", "noisy"),
        [([1, 1.1, 1.2], False), ([1, 2, 3], True), ([1, 1], True)],
        ids=["close", "far apart", "too few"],
    )
    def test_noisy(self, values: list[float], noisy: bool) -> None:
        assert entry_of("a", taken(*values), {}).noisy is noisy

    def test_a_void_result_has_no_figure(self) -> None:
        entry = entry_of("a", taken(1, 1, 1), {"b": taken(1, 1, 1)}, void="it gave 3 instead of 4")
        assert (entry.figure, entry.ratios, entry.void) == (None, (), "it gave 3 instead of 4")
        assert entry_of("a", [], {}).void == "no sample"


class TestSignificance:
    @pytest.mark.parametrize(
        ("one", "other", "chance"),
        [
            ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
            ([6, 7, 8, 9, 10], [1, 2, 3, 4, 5], 2 / 252),
            ([1, 2, 3, 4, 6], [5, 7, 8, 9, 10], 4 / 252),
            ([1, 3], [2, 4], 4 / 6),
            ([1, 1, 1], [1, 1, 1], 1),
            ([1], [2], 1),
        ],
    )
    def test_how_likely_chance_is(
        self, one: list[float], other: list[float], chance: float
    ) -> None:
        assert chance_of(one, other) == pytest.approx(chance)
