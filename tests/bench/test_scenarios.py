"""The scenarios, on a system that calls functions at once: what they run is right, and wrong results are seen."""

from __future__ import annotations

import math

import pytest
from shoal_bench.contestants import UnknownName
from shoal_bench.contestants.base import NotPossible
from shoal_bench.live.watch import Used
from shoal_bench.scenarios import SCENARIOS, load
from shoal_bench.scenarios import base as scenario_base
from shoal_bench.scenarios.base import Clock, WrongResults, fitting, share_of_ideal
from shoal_bench.scenarios.overhead import Overhead
from shoal_bench.scenarios.patterns import PATTERNS, layers_of, sequential
from shoal_bench.scenarios.search import LONGEST, NotFound, crossing
from shoal_bench.scenarios.work import node

from tests.bench.fakes import Reversing, Sequential

#: Scenarios whose samples take no time on a system that calls functions at once, and need nothing but it.
QUICK = ("overhead", "chain", "data")


class TestScenarios:
    @pytest.mark.parametrize("name", QUICK)
    def test_is_sampled(self, name: str) -> None:
        (scenario,) = load([name])
        for case in scenario.cases(full=False):
            clock = Clock()
            taken = scenario.sample(Sequential(1), case, 3, clock)
            assert 0 < taken.value <= clock.total

    def test_retries(self) -> None:
        (scenario,) = load(["failures"])
        retries, death = scenario.cases(full=False)
        with pytest.raises(ConnectionError):  # a system that calls at once gives no future to fail
            scenario.sample(Sequential(1), retries, 1, Clock())
        with pytest.raises(NotPossible):
            scenario.sample(Sequential(1), death, 1, Clock())

    def test_workers_of_others_are_not_ended(self) -> None:
        (failures,) = load(["failures"])
        _, death = failures.cases(full=False)
        with pytest.raises(NotPossible, match="a cluster that others may use"):
            failures.sample(Sequential(2, "tcp://host:8786"), death, 1, Clock())

    def test_wrong_results_are_seen(self) -> None:
        scenario = Overhead()
        case, *_ = scenario.cases(full=False)
        with pytest.raises(WrongResults, match="instead of"):
            scenario.sample(Reversing(1), case, 3, Clock())

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_says_what_it_is(self, name: str) -> None:
        (scenario,) = load([name])
        assert scenario.name == name
        assert scenario.measures.endswith(".")
        assert scenario.source
        for full in (False, True):
            names = [case.name for case in scenario.cases(full=full)]
            assert names
            assert len(set(names)) == len(names)

    def test_an_unknown_one(self) -> None:
        with pytest.raises(UnknownName, match=r"'nothing', but: overhead, start, metg"):
            load(["nothing"])

    def test_the_short_set_leaves_some_out(self) -> None:
        short = {s.name for s in load()}
        assert "million" not in short
        assert {s.name for s in load(full=True)} == set(SCENARIOS)


class TestSizes:
    @pytest.mark.parametrize(
        ("cost", "size"), [(1e-3, 150), (1.0, 10), (1e-9, 5_000)], ids=["fits", "least", "most"]
    )
    def test_as_many_as_take_the_time(self, cost: float, size: int) -> None:
        assert fitting(lambda n: n * cost, 10, 5_000) == size

    def test_work_cannot_take_less_than_it_takes(self) -> None:
        assert share_of_ideal(1.0, 2.0) == 0.5
        assert share_of_ideal(1.0, 1 / 1.1) == pytest.approx(1.1)
        with pytest.raises(WrongResults, match="work that takes 1 s at best"):
            share_of_ideal(1.0, 0.1)

    def test_the_clock_tells_who_watches(self) -> None:
        told: list[bool] = []
        clock = Clock(told.append)
        with clock:
            assert told == [True]
        assert told == [True, False]
        assert 0 < clock.seconds == clock.total

    def test_impossible_is_close_to_one(self) -> None:
        assert 1 < scenario_base.IMPOSSIBLE < 1.25


class TestProcessors:
    def test_those_that_ended_count_if_they_were_waited_for(self) -> None:
        root, child = object(), object()
        before = Used({root: 1.0, child: 6.0}, 0.0)  # type: ignore[dict-item]
        assert Used({root: 1.5}, 6.25).since(before) == pytest.approx(0.75)  # type: ignore[dict-item]

    def test_nobody_knows_of_those_that_were_not(self) -> None:
        root, child = object(), object()
        before = Used({root: 1.0, child: 6.0}, 0.0)  # type: ignore[dict-item]
        assert Used({root: 9.0}, 0.0).since(before) is None  # type: ignore[dict-item]


class TestSearch:
    @pytest.mark.parametrize("overhead", [2e-6, 1e-4, 1e-3, 2e-2])
    @pytest.mark.parametrize("guess", [1e-6, 1e-3, 1.0])
    def test_finds_the_overhead(self, overhead: float, guess: float) -> None:
        found = crossing(lambda length: length / (length + overhead), guess)
        assert math.isclose(found, overhead, rel_tol=0.1)

    @pytest.mark.parametrize("efficiency", [0.3, 0.9], ids=["never reached", "always exceeded"])
    def test_what_was_not_seen_is_not_made_up(self, efficiency: float) -> None:
        tried: list[float] = []

        def measure(length: float) -> float:
            tried.append(length)
            return efficiency

        with pytest.raises(NotFound, match="both sides of one half"):
            crossing(measure, 1e-3)
        assert max(tried) <= LONGEST


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "needs"),
        [
            ("trivial", [(), (), (), ()]),
            ("no_comm", [(0,), (1,), (2,), (3,)]),
            ("stencil_1d", [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]),
            ("nearest", [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]),
            ("all_to_all", [(0, 1, 2, 3)] * 4),
            ("fft", [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]),
        ],
        ids=lambda item: item if isinstance(item, str) else "",
    )
    def test_second_step(self, pattern: str, needs: list[tuple[int, ...]]) -> None:
        assert list(layers_of(pattern, 4, 2))[1] == needs

    def test_the_reach_of_fft_doubles(self) -> None:
        assert list(layers_of("fft", 4, 3))[2] == [(0, 2), (1, 3), (0, 2), (1, 3)]

    def test_a_tree_doubles_until_it_is_wide(self) -> None:
        layers = list(layers_of("tree", 4, 4))
        assert [len(layer) for layer in layers] == [1, 2, 4, 4]
        assert layers[2] == [(0,), (0,), (1,), (1,)]

    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_is_the_same_each_time_and_runs(self, pattern: str) -> None:
        layers = list(layers_of(pattern, 4, 6))
        assert layers == list(layers_of(pattern, 4, 6))
        expected, nodes = sequential(node, 0, iter(layers))
        assert nodes == sum(map(len, layers))
        assert Sequential(2).graph(node, 0, layers) == expected
