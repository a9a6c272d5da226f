"""Limits whose slots decay, and the rates that are made of them (SPEC 10.3)."""

from __future__ import annotations

import heapq
import tempfile
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal.limits.deciding import AHEAD
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Acquired, Busy, Rate, Refused

from tests.limits.tools import FakeTime, ask, full, got, slots, taken, wants

if TYPE_CHECKING:
    from shoal.limits.store import LimitStore
    from shoal.limits.tables import SqlStore


def test_slots_decay(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("api", 2, decay=0.5)
    for run in "ab":
        assert got(ask(store, ["api"], run, None)) == {"api"}
    answer = ask(store, ["api"], "c", None)
    assert isinstance(answer, Busy)
    assert answer.retry_after == pytest.approx(2 - AHEAD, abs=1e-4)
    clock.now += 1
    assert taken(store, "api") == pytest.approx(1.5)
    clock.now += 1
    assert got(ask(store, ["api"], "c", None)) == {"api"}
    clock.now += 100
    assert taken(store, "api") == 0


def test_slots_that_are_lent_decay_and_are_given_back(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("api", 2, decay=0.25)
    ask(store, ["api"], "a", 60, occupy=2)
    assert (taken(store, "api"), slots(store, "api")) == (2, ["a"])
    assert full(ask(store, ["api"], "b", 60)) == {"api"}
    clock.now += 4
    assert got(ask(store, ["api"], "b", 60)) == {"api"}
    store.release(["a"])
    assert (taken(store, "api"), slots(store, "api")) == (0, ["b"])


def test_a_lease_that_is_over_gives_back_what_has_not_decayed(
    store: LimitStore, clock: FakeTime
) -> None:
    store.upsert("api", 4, decay=0.1)
    ask(store, ["api"], "a", 10, occupy=4)
    clock.now += 10
    assert got(ask(store, ["api"], "b", 60, occupy=4)) == {"api"}
    assert taken(store, "api") == 4


def test_decay_is_set_and_taken_away(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 2)
    ask(store, ["db"], "a", occupy=2)
    store.update("db", decay=1.0)
    assert taken(store, "db") == 2
    clock.now += 1
    assert taken(store, "db") == 1
    store.update("db", decay=0.0)
    assert (taken(store, "db"), slots(store, "db")) == (2, ["a"])
    store.release(["a"])
    assert taken(store, "db") == 0


def test_a_limit_without_decay_gives_no_rate(store: LimitStore) -> None:
    store.upsert("db", 1)
    answer = ask(store, ["db"], "a", None)
    assert isinstance(answer, Refused)
    assert "slot decay" in answer.problem


def test_a_rate_makes_its_limit(store: LimitStore) -> None:
    rate = Rate(600, 60.0)
    answer = ask(store, ["api"], "a", None, rate=rate)
    assert answer == Acquired(frozenset({"api"}))
    limit = store.read("api")
    assert limit is not None
    assert (limit.limit, limit.rate) == (2, rate)
    assert limit.slot_decay_per_second == pytest.approx(10)


def test_a_limit_at_another_rate_stands(store: LimitStore, clock: FakeTime) -> None:
    ask(store, ["api"], "a", None, rate=Rate(600, 60.0))
    answer = ask(store, ["api"], "b", None, rate=Rate(10, 1.0))
    assert isinstance(answer, Acquired)
    assert answer.other_rates == {"api": pytest.approx(10)}
    store.update("api", decay=3.0)
    clock.now += 1
    answer = ask(store, ["api"], "c", None, rate=Rate(600, 60.0))
    assert isinstance(answer, Acquired)
    assert answer.other_rates == {"api": 3.0}


def test_more_than_a_rates_count_is_refused(store: LimitStore) -> None:
    answer = ask(store, ["api"], "a", None, occupy=11, rate=Rate(10, 1.0))
    assert isinstance(answer, Refused)
    assert got(ask(store, ["api"], "a", None, occupy=10, rate=Rate(10, 1.0))) == {"api"}


def test_slots_of_a_rate_are_given_out_a_little_ahead(store: LimitStore, clock: FakeTime) -> None:
    """So that none is lost while who asked for it is told."""
    rate = Rate(100, 1.0)
    afters = []
    while isinstance(answer := ask(store, ["api"], "a", None, rate=rate), Acquired):
        afters.append(answer.after)
    assert afters == pytest.approx([0.0, *(number / 110 for number in range(17))], abs=1e-3)
    assert isinstance(answer, Busy)
    clock.now += answer.retry_after or 0
    assert got(ask(store, ["api"], "a", None, rate=rate)) == {"api"}


def test_nothing_is_promised_for_later_than_one_waits(store: LimitStore) -> None:
    ask(store, ["api"], "a", None, occupy=2, rate=Rate(100, 1.0))
    request = wants(["api"], "b", None, rate=Rate(100, 1.0))
    assert isinstance(store.try_acquire(request, patience=0.005, stand=False), Busy)
    answer = store.try_acquire(request, patience=0.02, stand=False)
    assert isinstance(answer, Acquired)
    assert answer.after == pytest.approx(1 / 110, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from((1, 3, 10, 250, 2500)),
    steps=st.lists(st.tuples(st.floats(0, 0.7), st.integers(1, 2500)), min_size=1, max_size=60),
    eager=st.booleans(),
)
def test_no_window_has_more_than_the_count(
    count: int, steps: list[tuple[float, int]], eager: bool
) -> None:
    """Whoever asks when, and for how many; `eager` ones ask again as soon as it may be."""
    clock, rate = FakeTime(), Rate(count, 1.0)
    used: list[tuple[float, int]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(SqliteStore(f"{folder}/limits.db", clock.time)) as store,
    ):
        for pause, wanted in steps:
            occupy = min(wanted, count)
            clock.now += pause
            answer = ask(store, ["api"], "a", None, occupy=occupy, rate=rate)
            if eager and isinstance(answer, Busy):
                clock.now += answer.retry_after or 0
                answer = ask(store, ["api"], "a", None, occupy=occupy, rate=rate)
                assert isinstance(answer, Acquired)
            if isinstance(answer, Acquired):
                used.append((clock.now + answer.after, occupy))
    for begin, _ in used:
        assert sum(occupy for when, occupy in used if begin <= when < begin + 1.0) <= count


@pytest.mark.parametrize("late", [0.0, 0.06])
def test_a_rate_is_used_up(clock: FakeTime, store: LimitStore, late: float) -> None:
    """100 a second, for ten seconds, by four of whom each asks again a while after it had a slot. That once a second nobody
    comes for a while takes no slots from those who come after.
    """
    begin, number = clock.now, 0
    asks = [(begin, who) for who in "abcd"]
    while asks:
        clock.now, who = heapq.heappop(asks)
        if late and 0.5 <= (clock.now - begin) % 1 < 0.5 + late - 1e-6:
            heapq.heappush(asks, (begin + (clock.now - begin) // 1 + 0.5 + late, who))
            continue
        answer = ask(store, ["api"], who, None, rate=Rate(100, 1.0))
        if isinstance(answer, Busy):
            heapq.heappush(asks, (clock.now + (answer.retry_after or 0), who))
        elif isinstance(answer, Acquired) and clock.now + answer.after < begin + 10:
            number += 1
            heapq.heappush(asks, (clock.now + answer.after + 0.02, who))
    assert 995 <= number <= 1000


def test_what_is_kept_of_a_rate_does_not_grow(clock: FakeTime, store: SqlStore) -> None:
    for _ in range(60):
        clock.now += 0.05
        ask(store, ["api"], "a", None, rate=Rate(10, 1.0))
    with store._transaction("*") as t:
        ((rows,),) = t.run("SELECT COUNT(*) FROM given_out")
    assert 10 <= rows <= 20


def used_up(store: LimitStore) -> None:
    """A rate of ten, all of which are given out."""
    assert got(ask(store, ["api"], "a", None, occupy=10, rate=Rate(10, 1.0))) == {"api"}
    assert full(ask(store, ["api"], "b", None, rate=Rate(10, 1.0))) == {"api"}
    store.withdraw(["b"])


@pytest.mark.parametrize("by", ["reset", "delete", "update"])
def test_what_a_rate_has_given_out_is_forgotten(store: LimitStore, by: str) -> None:
    used_up(store)
    if by == "update":
        store.update("api", limit=2, active_slots=0)
        assert got(ask(store, ["api"], "a", None, occupy=2)) == {"api"}
    else:
        assert getattr(store, by)("api")
        used_up(store)


def test_what_a_rate_has_given_out_keeps_to_its_new_name(store: LimitStore) -> None:
    used_up(store)
    store.update("api", new_name="web")
    assert full(ask(store, ["web"], "b", None)) == {"web"}
    used_up(store)


def test_a_clock_that_is_set_back_holds_up_no_rate(store: LimitStore, clock: FakeTime) -> None:
    assert got(ask(store, ["api"], "a", None, occupy=10, rate=Rate(1000, 1.0))) == {"api"}
    clock.now -= 3600
    assert ask(store, ["api"], "a", None, rate=Rate(1000, 1.0)) == Acquired(frozenset({"api"}))
