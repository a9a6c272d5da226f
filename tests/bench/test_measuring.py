"""The harness: what it runs in which order, and what it makes of the samples. No real clock."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from shoal_bench.fresh_process import SampleFailed, in_fresh_process, run_python
from shoal_bench.harness import Result, Round, Spread, measure, measure_all
from shoal_bench.measurement import BYTES, SECONDS, Figure, Measurement, Sampler, Unit, Verdict
from shoal_bench.workloads import WrongResults, seconds


def measurement(
    ours: Sampler = float,
    bare: Sampler = float,
    figure: Figure = Figure.TIMES_FASTER,
    floor: float = 2,
    aim: float = 5,
    quick_size: int | None = None,
    repeats: float = 1,
) -> Measurement:
    return Measurement(
        name="made-up",
        compares="one number and another",
        ours=ours,
        bare=bare,
        unit=SECONDS,
        figure=figure,
        floor=floor,
        aim=aim,
        size=100,
        quick_size=quick_size,
        repeats=repeats,
    )


@pytest.mark.slow
class TestRounds:
    def test_sides_take_turns_and_the_warm_up_is_dropped(self) -> None:
        taken: list[str] = []

        def sampler(side: str) -> Sampler:
            def sample(size: int) -> float:
                taken.append(side)
                return len(taken)

            return sample

        result = measure(measurement(sampler("ours"), sampler("bare")), rounds=2)
        assert taken == ["ours", "bare"] * 3
        assert result.rounds == (Round(3, 4), Round(5, 6))

    def test_further_engines_come_after_them(self) -> None:
        taken: list[str] = []

        def sampler(side: str) -> Sampler:
            def sample(size: int) -> float:
                taken.append(side)
                return len(taken)

            return sample

        also = {"b": sampler("b"), "a": sampler("a")}
        result = measure(replace(measurement(sampler("ours")), also=also), rounds=1)
        assert taken == ["ours", "b", "a"] * 2
        assert result.rounds[0].also == {"b": 5, "a": 6}
        assert result.also["a"] == Spread(6, 6, 6)
        assert result.also_ratio["a"] == Spread(1.5, 1.5, 1.5)

    @pytest.mark.parametrize(
        ("repeats", "count"), [(1, 4), (2, 8), (1 / 3, 2)], ids=["as asked", "more", "fewer"]
    )
    def test_a_measurement_may_want_more_rounds_or_fewer(self, repeats: float, count: int) -> None:
        assert len(measure(measurement(repeats=repeats), rounds=4).rounds) == count

    def test_quick_sizes(self) -> None:
        assert measure(measurement(), rounds=1).size == 100
        assert measure(measurement(quick_size=10), rounds=1).size == 100
        assert measure(measurement(quick_size=10), rounds=1, quick=True).size == 10
        assert measure(measurement(), rounds=1, quick=True).size == 100

    def test_a_failure_names_the_measurement(self) -> None:
        def fail(size: int) -> float:
            raise ValueError("no clock")

        with pytest.raises(ValueError, match="no clock") as caught:
            measure(measurement(ours=fail), rounds=1)
        assert caught.value.__notes__ == ["while taking the measurement 'made-up'"]


class TestQuickLooks:
    """Each has a share of the time, by a clock of the test's own, on which a sample takes a second."""

    def look(self, measurements: list[Measurement], seconds: float) -> list[Result]:
        now = 0.0

        def sample(size: int) -> float:
            nonlocal now
            now += 1.0
            return 1.0

        timed = [replace(each, ours=sample, bare=sample) for each in measurements]
        return list(measure_all(timed, rounds=5, quick=True, seconds=seconds, clock=lambda: now))

    @pytest.mark.parametrize(
        ("seconds", "rounds"),
        [(1000, [5, 5]), (12, [2, 3]), (0, [1, 1])],
        ids=["plenty", "some", "none"],
    )
    def test_rounds_are_taken_while_there_is_time(self, seconds: float, rounds: list[int]) -> None:
        results = self.look([measurement(), measurement()], seconds)
        assert [len(result.rounds) for result in results] == rounds

    def test_what_one_leaves_the_others_have(self) -> None:
        first, second = self.look([measurement(repeats=1 / 5), measurement()], 14)
        assert (len(first.rounds), len(second.rounds)) == (1, 5)

    def test_what_takes_long_is_not_warmed_up(self) -> None:
        sizes: list[int] = []

        def sample(size: int) -> float:
            sizes.append(size)
            return 1.0

        measure(measurement(sample, repeats=1 / 3), rounds=3, quick=True)
        assert len(sizes) == 1

    def test_further_engines_are_left_out(self) -> None:
        (result,) = self.look([replace(measurement(), also={"other": float})], 10)
        assert result.also == {}


class TestFigures:
    def test_medians_are_of_what_each_round_gave(self) -> None:
        result = Result(measurement(), 100, (Round(1, 2), Round(1, 4), Round(2, 6)))
        assert result.ours == Spread(median=1, min=1, max=2)
        assert result.bare == Spread(median=4, min=2, max=6)
        assert result.ratio == Spread(median=3, min=2, max=4)
        assert result.figure == result.ratio
        assert result.verdict is Verdict.FLOOR

    @pytest.mark.parametrize(
        ("figure", "value"),
        [
            (Figure.TIMES_FASTER, 4),
            (Figure.TIMES_THE_COST, 0.25),
            (Figure.COST, 2),
            (Figure.EXTRA_COST, -6),
        ],
        ids=lambda item: item.name if isinstance(item, Figure) else "",
    )
    def test_of_one_round(self, figure: Figure, value: float) -> None:
        assert figure.of(ours=2, bare=8) == value

    @pytest.mark.parametrize(
        ("figure", "floor", "aim", "values"),
        [(Figure.TIMES_FASTER, 2, 5, [5, 2, 1.9]), (Figure.COST, 5, 2, [2, 5, 5.1])],
        ids=["higher is better", "lower is better"],
    )
    def test_verdicts(self, figure: Figure, floor: float, aim: float, values: list[float]) -> None:
        judge = measurement(figure=figure, floor=floor, aim=aim).verdict
        assert [judge(value) for value in values] == [
            Verdict.AIM,
            Verdict.FLOOR,
            Verdict.MISSED,
        ]

    @pytest.mark.parametrize(
        ("unit", "value", "text"),
        [
            (SECONDS, 1.5, "1.5 s"),
            (SECONDS, 0.0351, "35.1 ms"),
            (SECONDS, 2.345e-6, "2.35 µs"),
            (SECONDS, 4e-9, "0.004 µs"),
            (SECONDS, -0.002, "-2 ms"),
            (BYTES, 24.16, "24.2 B"),
            (BYTES, 1922.4, "1.92 kB"),
            (BYTES, 50_002_107, "50 MB"),
        ],
    )
    def test_units(self, unit: Unit, value: float, text: str) -> None:
        assert unit.show(value) == text


class TestSamples:
    def test_work_that_went_wrong_is_not_timed(self) -> None:
        assert seconds(lambda: [1, 2], [1, 2]) >= 0
        with pytest.raises(WrongResults, match=r"\[1\] instead of \[1, 2\]"):
            seconds(lambda: [1], [1, 2])

    def test_fresh_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The current folder is not searched for modules.
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        assert process_number(1) != os.getpid()

    def test_a_process_that_fails_shows_its_error(self) -> None:
        with pytest.raises(SampleFailed, match="no such animal"):
            run_python("-c", "raise SystemExit('no such animal')")


@in_fresh_process
def process_number(size: int) -> float:
    return os.getpid()
