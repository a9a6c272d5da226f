"""Clocks of workers on other machines."""

from __future__ import annotations

import random
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.recording.clocks import offset


def messages(
    lead: float, count: int, quickest: float, seed: int = 1
) -> list[tuple[float, float, float, float]]:
    """Stamps of messages to a worker whose clock is ahead, none quicker than `quickest` one way."""
    chance = random.Random(seed)
    found = []
    now = 1e9
    for _ in range(count):
        sent = now
        begun = sent + quickest + chance.expovariate(20)
        ended = begun + chance.uniform(0.001, 2)
        told = ended + quickest + chance.expovariate(20)
        found.append((sent, begun + lead, ended + lead, told))
        now = told
    return found


@given(
    lead=st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 0.1),
    count=st.integers(1, 50),
    quickest=st.floats(0, 0.05),
    seed=st.integers(0, 100),
)
def test_after_the_correction_nothing_begins_before_it_was_sent(
    lead: float, count: int, quickest: float, seed: int
) -> None:
    told = messages(lead, count, quickest, seed)
    found = offset(told)
    for sent, begun, ended, heard in told:
        assert begun - found >= sent - 1e-6
        assert ended - found <= heard + 1e-6


def test_it_is_off_by_no_more_than_the_quickest_message_took() -> None:
    for lead in (-3600.0, -0.5, 0.5, 7.25):
        assert offset(messages(lead, 200, 0.002)) == pytest.approx(lead, abs=0.01)


def test_a_clock_that_agrees_is_left_alone() -> None:
    assert offset(messages(0.0, 50, 0.001)) == 0.0


def test_what_is_not_known_says_nothing() -> None:
    assert offset([]) == 0.0
    assert offset([(nan, nan, 5.0, 2.0)]) == 3.0
    assert offset([(2.0, 5.0, nan, nan)]) == 0.0
    assert offset([(5.0, 2.0, nan, nan)]) == -3.0


def test_a_clock_that_was_set_while_it_ran_is_corrected_by_the_middle() -> None:
    assert offset([(0.0, 1.0, 11.0, 10.0), (20.0, 20.5, 31.0, 30.0)]) == pytest.approx(0.75)
