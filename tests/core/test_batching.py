"""Learned durations, and how many runs travel together."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from shoal.scheduling.batching import BatchPolicy, Durations

# ---------------------------------------------------------------------- batches

#: Seconds that a run may take; a coarse clock may see none.
seconds = st.just(0.0) | st.floats(1e-9, 1e6)
counts = st.integers(0, 10_000)
policies = st.builds(
    BatchPolicy,
    target=st.floats(1e-4, 10),
    alone=st.floats(1e-4, 10),
    cap=st.integers(1, 5000),
    growth=st.integers(1, 64),
    longest=st.just(0.0) | st.floats(1e-4, 10),
    cost=st.just(0.0) | st.floats(1e-6, 0.1),
)
limits = st.none() | st.integers(1, 5000)


def size(policy: BatchPolicy | None = None, **given: Any) -> int:
    """The size for a well-known task of 100 µs of which there is plenty, except for what is given."""
    arguments = {"seconds": 1e-4, "observed": 10_000, "ready": 10_000, "slots": 1, "limit": None}
    return (policy or BatchPolicy()).size(**{**arguments, **given})


@given(policies, st.none() | seconds, counts, counts, st.integers(0, 100), limits)
def test_a_batch_keeps_every_bound(
    policy: BatchPolicy,
    seconds: float | None,
    observed: int,
    ready: int,
    slots: int,
    limit: int | None,
) -> None:
    size = policy.size(seconds, observed, ready, slots, limit)
    assert size >= 1
    if size == 1:
        return  # always possible, whatever the bounds
    assert seconds is not None, "an unknown task travels alone"
    assert seconds < policy.alone, "so does a long one"
    assert size * seconds <= policy.worth(seconds, ready, slots) * (1 + 1e-9)
    assert size <= policy.cap
    assert limit is None or size <= limit
    assert size <= observed * policy.growth
    if not policy.cost:
        assert (size - 1) * max(slots, 1) < ready, "some slot would be left without work"


@given(policies, seconds, counts, counts, st.integers(1, 100), limits)
def test_a_batch_is_as_large_as_its_bounds_allow(
    policy: BatchPolicy, seconds: float, observed: int, ready: int, slots: int, limit: int | None
) -> None:
    more = policy.size(seconds, observed, ready, slots, limit) + 1
    assert (
        seconds >= policy.alone
        or more * seconds > policy.worth(seconds, ready, slots) * (1 - 1e-9)
        or more > policy.cap
        or (limit is not None and more > limit)
        or more > observed * policy.growth
        or more > math.ceil(ready / slots)
    ), "nothing forbids another run"


@given(policies, st.lists(seconds, min_size=2), counts, counts, st.integers(1, 100), limits)
def test_longer_runs_never_make_larger_batches(
    policy: BatchPolicy,
    durations: list[float],
    observed: int,
    ready: int,
    slots: int,
    limit: int | None,
) -> None:
    sizes = [policy.size(s, observed, ready, slots, limit) for s in sorted(durations)]
    assert all(larger >= smaller for larger, smaller in pairwise(sizes))


@given(policies, seconds, st.lists(counts, min_size=2), counts, st.integers(1, 100), limits)
def test_better_knowledge_never_makes_smaller_batches(
    policy: BatchPolicy, seconds: float, known: list[int], ready: int, slots: int, limit: int | None
) -> None:
    sizes = [policy.size(seconds, observed, ready, slots, limit) for observed in sorted(known)]
    assert all(smaller <= larger for smaller, larger in pairwise(sizes))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"seconds": None}, 1, id="unknown"),
        pytest.param({"seconds": 0.03}, 1, id="long"),
        pytest.param({"seconds": 0.029}, 1, id="just-under-long"),
        pytest.param({}, 50, id="5ms-of-100us"),
        pytest.param({"seconds": 1e-6}, 2000, id="cap"),
        pytest.param({"seconds": 0.0}, 2000, id="no-time-at-all"),
        pytest.param({"limit": 7}, 7, id="the-tasks-own-cap"),
        pytest.param({"limit": 1}, 1, id="batch-false"),
        pytest.param({"observed": 1}, 8, id="one-early-measurement"),
        pytest.param({"observed": 0}, 1, id="no-measurement"),
        pytest.param({"ready": 20, "slots": 4}, 5, id="spread-evenly"),
        pytest.param({"ready": 21, "slots": 4}, 6, id="spread-with-a-rest"),
        pytest.param({"ready": 3, "slots": 4}, 1, id="fewer-than-slots"),
        pytest.param({"ready": 20, "slots": 0}, 20, id="no-slots"),
    ],
)
def test_sizes(given: dict[str, Any], expected: int) -> None:
    assert size(**given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"ready": 100_000}, 1000, id="much-is-left"),
        pytest.param({"ready": 100_000, "slots": 100}, 250, id="a-quarter-of-what-each-slot-gets"),
        pytest.param({"ready": 4000, "slots": 10}, 100, id="less-is-left"),
        pytest.param({"ready": 400, "slots": 10}, 40, id="little-is-left"),
        pytest.param({"ready": 100_000, "seconds": 0.02}, 5, id="slow-runs"),
        pytest.param({"ready": 100_000, "limit": 7}, 7, id="the-tasks-own-cap"),
    ],
)
def test_the_more_is_left_the_more_a_message_carries(given: dict[str, Any], expected: int) -> None:
    assert size(BatchPolicy(longest=0.1), **given) == expected


@given(st.floats(1e-6, 1.0), st.floats(1e-5, 0.1), st.integers(2, 10_000), st.integers(1, 1000))
def test_as_many_messages_are_made_as_are_worth_what_they_cost(
    seconds: float, cost: float, ready: int, slots: int
) -> None:
    """The driver sends messages one after the other, and what the last of them carries is done last."""
    policy = BatchPolicy(target=1e9, alone=1e9, cap=ready, cost=cost)
    together = policy.size(seconds, ready, ready, slots, None)

    def ends_after(size: int) -> float:
        return math.ceil(ready / size) * cost + size * seconds

    best = min(ends_after(math.ceil(ready / messages)) for messages in range(1, slots + 1))
    assert ends_after(together) <= 2 * best


@pytest.mark.parametrize(
    ("seconds", "ready", "slots", "expected"),
    [
        pytest.param(1e-5, 4, 2, 4, id="not-worth-a-second-message"),
        pytest.param(4e-4, 4, 2, 2, id="worth-one-each"),
        pytest.param(1e-3, 200, 100, 5, id="to-fewer-than-there-are"),
        pytest.param(1e-3, 100_000, 100, 1000, id="plenty"),
        pytest.param(0.0, 10, 2, 10, id="no-time-at-all"),
        pytest.param(2e-7, 660, 2, 660, id="nor-is-what-is-left-over"),
    ],
)
def test_what_a_message_costs(seconds: float, ready: int, slots: int, expected: int) -> None:
    policy = BatchPolicy(target=10.0, cost=1e-4)
    assert size(policy, seconds=seconds, ready=ready, slots=slots) == expected


@given(st.floats(1e-6, 1.0), st.floats(1e-5, 0.1), st.integers(2, 10_000), st.integers(1, 1000))
def test_no_message_is_made_for_what_is_left_over(
    seconds: float, cost: float, ready: int, slots: int
) -> None:
    policy = BatchPolicy(target=1e9, alone=1e9, cap=ready, cost=cost)
    sizes: list[int] = []
    while (left := ready - sum(sizes)) > 0:
        sizes.append(policy.size(seconds, ready, left, slots, None))
    assert sum(sizes) == ready
    assert all(later >= earlier // 3 for earlier, later in pairwise(sizes))


def test_the_smallest_duration_a_float_can_hold() -> None:
    """What the mean shrinks to, and no further, if a coarse clock sees thousands of runs take no time."""
    assert size(seconds=5e-324) == BatchPolicy().cap


# ---------------------------------------------------------------------- durations


def mean(*observations: tuple[float, int], weight: float = 0.2) -> float:
    """What is learned of one task from some observations `(seconds of all, count)`."""
    durations = Durations(weight)
    for seconds, count in observations:
        durations.observe("task", seconds, count)
    learned, _ = durations.of("task")
    assert learned is not None
    return learned


weights = st.floats(0.01, 1)
observations = st.lists(st.tuples(st.floats(0, 1e3), st.integers(1, 1000)), min_size=1, max_size=20)


def test_nothing_is_known_of_a_task_at_first() -> None:
    assert Durations().of("task") == (None, 0)


def test_an_observation_of_no_run_teaches_nothing() -> None:
    durations = Durations()
    durations.observe("task", 3.0, 0)
    assert durations.of("task") == (None, 0)


@given(observations, observations)
def test_tasks_are_learned_apart(
    one: list[tuple[float, int]], other: list[tuple[float, int]]
) -> None:
    durations = Durations()
    for seconds, count in one:
        durations.observe("one", seconds, count)
    for seconds, count in other:
        durations.observe("other", seconds, count)
    assert durations.of("one") == (mean(*one), sum(count for _, count in one))
    assert durations.of("other") == (mean(*other), sum(count for _, count in other))


@given(weights, observations)
def test_the_mean_lies_within_what_was_observed(
    weight: float, seen: list[tuple[float, int]]
) -> None:
    each = [seconds / count for seconds, count in seen]
    error = 1e-9 * max(each)
    assert min(each) - error <= mean(*seen, weight=weight) <= max(each) + error


@given(weights, st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.integers(1, 50))
def test_runs_reported_together_count_like_runs_reported_one_by_one(
    weight: float, first: float, then: float, count: int
) -> None:
    assume(then <= 4 * first)  # else the first of them counts in full
    together = mean((first, 1), (then * count, count), weight=weight)
    one_by_one = mean((first, 1), *[(then, 1)] * count, weight=weight)
    assert together == pytest.approx(one_by_one, rel=1e-6)


@given(weights, st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_each_observation_draws_the_mean_towards_itself(
    weight: float, first: float, then: float
) -> None:
    learned = mean((first, 1), (then, 1), weight=weight)
    assert abs(learned - then) <= abs(first - then) * (1 + 1e-9)


@given(weights, observations, st.floats(1e-3, 1e3))
def test_what_stays_the_same_is_learned_in_the_end(
    weight: float, seen: list[tuple[float, int]], seconds: float
) -> None:
    assert mean(*seen, (seconds * 5000, 5000), weight=weight) == pytest.approx(
        seconds, rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize(
    ("observations", "expected"),
    [
        pytest.param([(2.0, 1)], 2.0, id="the-first-counts-in-full"),
        pytest.param([(2.0, 4)], 0.5, id="several-at-once"),
        pytest.param([(1.0, 1), (2.0, 1)], 1.2, id="a-fifth-of-the-way"),
        pytest.param([(1.0, 1), (0.0, 1)], 0.8, id="down-too"),
        pytest.param([(1.0, 1), (4.0, 2)], 1.36, id="two-at-once"),
        pytest.param([(1.0, 1), (4.0, 1)], 1.6, id="four-times-slower"),
        pytest.param([(1.0, 1), (5.0, 1)], 5.0, id="more-than-four-times-slower-counts-in-full"),
        pytest.param([(1.0, 1), (0.1, 1)], 0.82, id="faster-never-does"),
    ],
)
def test_means(observations: list[tuple[float, int]], expected: float) -> None:
    assert mean(*observations) == pytest.approx(expected)
