"""Who is asked for what in which order, and what becomes of contestants that cannot, will not, or are lost. No processes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from shoal_bench.comparison import Comparison
from shoal_bench.contestants import ContestantSpec
from shoal_bench.live.process import Lost, Void
from shoal_bench.record import Options
from shoal_bench.scenarios.base import CaseSpec, Scenario
from shoal_bench.scenarios.start import Start

from tests.bench.fakes import A, B, C, Counting, FakeLive, Silent


class Fresh(Counting):
    """One case, whose samples want fresh processes."""

    def cases(self, *, full: bool) -> Sequence[CaseSpec]:
        return [CaseSpec("one", is_fresh=True)]


class Arena:
    """A comparison of fakes, with what they were asked for."""

    def __init__(
        self,
        contestants: Sequence[ContestantSpec] = (A, B),
        scenarios: Sequence[Scenario] = (Counting(),),
        rounds: int = 2,
        errors: dict[str, dict[str, BaseException]] | None = None,
        seconds: float = 1e9,
        opens_in: float = 0.0,
    ) -> None:
        self.opens_in = opens_in
        self.log: list[str] = []
        self.errors = errors or {}
        self.now = 0.0
        self.listener = Silent()
        self.comparison = Comparison(
            contestants,
            scenarios,
            Options(rounds=rounds, workers=2),
            open_live=self.open,
            listener=self.listener,
            seconds=seconds,
            clock=self.clock,
        )

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def open(self, spec: ContestantSpec, workers: int) -> FakeLive:
        self.log.append(f"{spec.name} open")
        self.now += self.opens_in
        errors = self.errors.get(spec.name, {})
        if "open" in errors:
            raise errors["open"]
        return FakeLive(spec.name, self.log, {"a": 1.0, "b": 4.0}.get(spec.name, 2.0), errors)


class TestOrder:
    def test_those_of_an_engine_take_turns(self) -> None:
        arena = Arena()
        arena.comparison.run()
        assert arena.log == [
            *("a open", "b open"),
            *("a warm one", "b warm one", "a one 1", "b one 1", "a one 2", "b one 2"),
            *("a warm two", "b warm two", "a two 1", "b two 1", "a two 2", "b two 2"),
            *("a close", "b close"),
        ]

    def test_samples_that_want_a_fresh_process_get_one_each(self) -> None:
        arena = Arena((A, B), (Fresh(),))
        arena.comparison.run()
        assert arena.log == [
            *("a open", "b open", "a warm one", "b warm one"),
            *("a close", "a open", "a one 1", "b close", "b open", "b one 1"),
            *("a close", "a open", "a one 2", "b close", "b open", "b one 2"),
            *("a close", "b close"),
        ]

    def test_one_engine_is_open_at_a_time(self) -> None:
        arena = Arena((A, C))
        arena.comparison.run()
        assert arena.log.index("a close") < arena.log.index("c open")

    def test_every_step_is_told(self) -> None:
        for errors in ({}, {"a": {"one 1": Void("no")}}, {"b": {"open": Lost("no")}}):
            arena = Arena((A, B, C), (Start(), Counting()), rounds=4, errors=errors)
            arena.comparison.run()
            assert arena.listener.done == arena.listener.steps

    def test_without_time_one_round_is_taken_and_called_noisy(self) -> None:
        arena = Arena(rounds=9, seconds=0)
        arena.comparison.run()
        assert "a one 1" in arena.log
        assert "a one 2" not in arena.log
        entry = arena.comparison.record().scenarios[0].cases[0].entry("a")
        assert entry is not None
        assert entry.noisy

    def test_with_little_time_three_rounds_are_taken(self) -> None:
        arena = Arena(rounds=9, seconds=12)  # of which each look at the clock takes one
        arena.comparison.run()
        counts = [
            sum(f"a {case} {n}" in arena.log for n in range(1, 10)) for case in ("one", "two")
        ]
        assert min(counts) >= 3
        assert max(counts) < 9

    def test_openings_take_nothing_from_the_time_of_cases(self) -> None:
        arena = Arena((A, B, C), rounds=9, seconds=1e4, opens_in=1e6)
        arena.comparison.run()
        assert {"a two 9", "b two 9", "c two 9"} <= set(arena.log)

    def test_starts_are_sampled_but_for_the_first(self) -> None:
        arena = Arena((A, B), (Start(),))
        arena.comparison.run()
        assert arena.log.count("a open") == arena.log.count("a close") == 4
        record = arena.comparison.record()
        start, stop = record.scenarios[0].cases
        assert [s.value for s in start.entries[0].samples] == [0.5] * 3
        assert [s.value for s in stop.entries[0].samples] == [0.125] * 3

    @pytest.mark.parametrize(("seconds", "count"), [(1e9, 6), (0, 3)], ids=["with time", "without"])
    def test_starts_have_as_many_rounds_as_the_rest_where_there_is_time(
        self, seconds: float, count: int
    ) -> None:
        arena = Arena((A, B), (Start(),), rounds=6, seconds=seconds)
        arena.comparison.run()
        assert arena.listener.done == arena.listener.steps
        (scenario,) = arena.comparison.record().scenarios
        rounds = [[s.round for s in case.entries[0].samples] for case in scenario.cases]
        assert rounds == [list(range(1, count + 1))] * 2


class TestFailures:
    def test_a_void_result_ends_the_case_and_nothing_else(self) -> None:
        arena = Arena(errors={"a": {"one 1": Void("it gave 3 instead of 4")}})
        arena.comparison.run()
        assert "a one 2" not in arena.log
        assert {"b one 2", "a two 2"} <= set(arena.log)
        entry = arena.comparison.record().scenarios[0].cases[0].entry("a")
        assert entry is not None
        assert (entry.void, entry.figure) == ("it gave 3 instead of 4", None)

    def test_who_cannot_is_not_asked_for_samples(self) -> None:
        arena = Arena(errors={"b": {"warm one": Void("cannot")}})
        arena.comparison.run()
        assert "b one 1" not in arena.log
        entry = arena.comparison.record().scenarios[0].cases[0].entry("a")
        assert entry is not None
        assert entry.ratios == ()  # there is nobody to compare with

    def test_who_is_lost_is_opened_again(self) -> None:
        arena = Arena(errors={"a": {"one 1": Lost("its process ended")}})
        arena.comparison.run()
        assert arena.log.count("a open") == 2
        assert "a two 2" in arena.log

    def test_who_cannot_be_opened_is_absent_and_the_others_go_on(self) -> None:
        arena = Arena(errors={"b": {"open": Lost("no such engine")}})
        arena.comparison.run()
        record = arena.comparison.record()
        assert [(x.contestant, x.reason) for x in record.absent] == [("b", "no such engine")]
        assert "a two 2" in arena.log

    def test_an_interruption_keeps_what_was_taken_and_leaves_nothing_open(self) -> None:
        arena = Arena(errors={"b": {"two 1": KeyboardInterrupt()}})
        with pytest.raises(KeyboardInterrupt):
            arena.comparison.run()
        assert arena.log[-2:] == ["a kill", "b kill"]
        record = arena.comparison.record()
        assert not record.complete
        assert len(record.scenarios[0].cases[0].entries[0].samples) == 2

    def test_ratios_are_ours_by_the_bare_engines(self) -> None:
        arena = Arena(rounds=6)
        arena.comparison.run()
        record = arena.comparison.record()
        assert record.complete
        entry = record.scenarios[0].cases[0].entry("a")
        assert entry is not None
        found = entry.ratio("b")
        assert found is not None
        assert (found.quartiles.median, found.conclusive, found.pairs) == (0.25, True, 6)
