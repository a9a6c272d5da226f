"""Clocks of workers on other machines."""

from __future__ import annotations

import random
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shoal
from hypothesis import given
from hypothesis import strategies as st
from shoal.calls import Batch
from shoal.futures.maps import Span
from shoal.recording import events, recorder, runner_recorder
from shoal.recording.clocks import offset
from shoal.recording.file import Writer
from shoal.recording.reading import read
from shoal.scheduling.in_flight import WorkerState


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


class Clock:
    """Stands for `time` in the recorder."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("lead", [0.0, 3600.0, -42.5])
def test_a_schedule_on_a_worker_with_another_clock_is_recorded_by_the_drivers(
    lead: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of four runs of a second, in two batches, to a machine that is 5 ms away."""
    clock = Clock(1e9)
    for module in (recorder, runner_recorder, events):
        monkeypatch.setattr(module, "time", clock)
    told = recorder.Recorder()
    writer = Writer(str(tmp_path / "run.shoal"), told)
    runner = told.runner_entered(SimpleNamespace())
    runner.started(SimpleNamespace(ledger=None, scheduler=SimpleNamespace(limit=None)))
    record: Any = SimpleNamespace(
        base=1 << 47,
        size=4,
        task=shoal.task(lambda x: x, name="step"),
        scope=None,
        submitted=clock.now,
    )
    runner.mapped(record)
    worker = WorkerState("far")
    worker.host, worker.pid = "far", 7
    for number in (1, 2):
        batch = Batch(number, 0, Span(record, 2 * number - 2, 2 * number), None)
        runner.sent(batch)
        runner.at(number, worker)
        begun = clock.now + 0.005
        clock.now = begun + 2.005
        runner.reported(batch, range(2), [begun + 1 + lead, begun + 2 + lead], 2.0)
        runner.closed(number, 0)
    runner.left()
    writer.close()
    found = read(str(tmp_path / "run.shoal"))
    assert [row.host for row in found.runs()] == ["far"] * 4
    expected = [1e9 + 0.005, 1e9 + 1.005, 1e9 + 2.015, 1e9 + 3.015]
    assert list(found.columns.begun) == pytest.approx(expected, abs=0.0051, rel=0)
    assert list(found.columns.ended) == pytest.approx([t + 1 for t in expected], abs=0.0051, rel=0)
    assert list(found.columns.sent) == pytest.approx([1e9, 1e9, 1e9 + 2.01, 1e9 + 2.01], rel=0)
    assert list(found.messages.runs) == [2, 2]
