"""What a report counts, finds and draws: figures, the critical path, the graph, the packed timeline."""

from __future__ import annotations

import zlib
from base64 import b64decode
from dataclasses import replace
from math import nan
from typing import TYPE_CHECKING, Any

import pytest
from shoal.recording.record import CapRow, Record
from shoal.recording.report import page
from shoal.recording.report.critical import critical_path
from shoal.recording.report.drawing import layers
from shoal.recording.report.figures import EDGES, Link, Spread, figures, idle_waits
from shoal.recording.report.packing import NUMBERS, packed

from tests.recording.made import START, Made, large, small

if TYPE_CHECKING:
    pass


def unpacked(record: Record, **options: Any) -> list[dict[str, int]]:
    """The entries of a timeline, as its columns hold them, row by row."""
    found = figures(record)
    timeline = packed(record, found.order, found.elapsed, **options)
    raw, at = zlib.decompress(b64decode(timeline.text)), 0
    entries: list[dict[str, int]] = [{} for _ in range(timeline.count)]
    for name, width in timeline.columns:
        for index, entry in enumerate(entries):
            planes = range(at + index, at + width * timeline.count, timeline.count)
            value = int.from_bytes(bytes(raw[place] for place in planes), "little")
            entry[name] = value - (1 << 32) if name == "gap" and value >> 31 else value
        at += width * timeline.count
    assert at == len(raw)
    return entries


class TestFigures:
    def test_times_of_a_task(self) -> None:
        made = Made(workers=1)
        made.map("step", [1.0, 2.0, 6.0])
        (task,) = figures(made.record).tasks
        assert (task.seconds.count, task.seconds.total) == (3, pytest.approx(9))
        assert task.seconds.median == pytest.approx(2)
        assert task.seconds.most == pytest.approx(6)
        assert task.mapped == task.runs == 3
        assert task.waits["workers"].total == pytest.approx(0 + 1 + 3)

    def test_waits_are_told_apart(self) -> None:
        made = Made()
        number = made.run("fetch", 2.0, 3.0, state="Retrying", ready=1.5)
        made.run("fetch", 4.0, 5.0, number=number, attempt=2, ready=3.9)
        made.event("retry", 3.0, "", until=3.9, number=number)
        made.event("limit", 1.0, "", until=1.25, number=number)
        made.event("slots", 2.1, "", until=2.2, number=number)
        made.event("wait", 2.5, "", until=2.75, number=number)
        (task,) = figures(made.record).tasks
        totals = {what: spread.total for what, spread in task.waits.items()}
        assert totals == pytest.approx(
            {
                "upstreams": 1.25,
                "limits": 0.35,
                "retries": 0.9,
                "workers": 0.6,
                "other runs": 0.25,
            }
        )
        assert task.lost == pytest.approx(1)
        assert task.counts == {"Completed": 1}

    def test_a_cap_that_was_full_is_a_limit_and_no_worker(self) -> None:
        made = Made()
        made.run("fetch", 0.0, 1.0)
        made.run("fetch", 3.0, 4.0, ready=0.5)
        made.record.caps = [CapRow(0, START, START + 1), CapRow(0, START + 1.5, START + 2.5)]
        (task,) = figures(made.record).tasks
        assert task.waits["limits"].total == pytest.approx(1.5)
        assert task.waits["workers"].total == pytest.approx(1)

    def test_a_worker_that_executes_what_its_run_waits_for_is_not_idle(self) -> None:
        made = Made(workers=1)
        number = made.run("outer", 0.0, 5.0)
        made.run("inner", 1.5, 3.5)
        made.event("wait", 1.0, "", until=4.0, number=number)
        found = figures(made.record)
        assert idle_waits(made.record, found.order) == pytest.approx({number: 1.0})

    def test_threads_that_call_tasks_are_no_workers(self) -> None:
        made = Made(workers=1)
        made.run("step", 0.0, 10.0)
        made.worker(runner=-1, thread="MainThread")
        made.run("called", 1.0, 2.0, worker=1)
        found = figures(made.record)
        assert found.workers.total == pytest.approx(10)
        assert found.workers.idle + found.workers.over == pytest.approx(0)

    def test_spread(self) -> None:
        spread = Spread.of([0.0, nan, -1.0, *[0.002] * 99, 5.0])
        assert (spread.count, spread.high, spread.most) == (100, 0.002, 5)
        filled = {place: count for place, count in enumerate(spread.bars) if count}
        assert list(filled.values()) == [99, 1]
        for place, value in zip(filled, (0.002, 5.0), strict=True):
            assert EDGES[place - 1] <= value < EDGES[place]
        assert sum(Spread.of([1e-9, 1e9]).bars) == 2
        assert Spread.of([]) == Spread()

    def test_what_workers_did_sums_up(self) -> None:
        made = Made(workers=2, seconds=10)
        record = made.record
        record.workers[1] = replace(record.workers[1], joined=START + 1, left=START + 9)
        made.run("a", 1.0, 3.0, ready=0.5)
        made.run("a", 4.0, 5.0, ready=3.5)
        made.run("a", 2.0, 4.0, ready=2.0, worker=1)
        time = figures(record).workers
        assert time.busy == pytest.approx([3, 2])
        assert time.runs == pytest.approx(5)
        # The first waits half a second for its first run and half a second after the first, though they were ready.
        assert time.messages == pytest.approx(0.5)
        assert time.idle == pytest.approx(0.5 + 0.5 + 1)
        assert time.over == pytest.approx(5 + 5)
        assert time.absent == pytest.approx(1 + 1 + 0.5)
        assert time.total == pytest.approx(20)

    def test_a_worker_is_idle_while_another_has_what_is_not_ready(self) -> None:
        made = Made(workers=2, seconds=10)
        first = made.run("step", 0.0, 4.0)
        made.run("step", 4.0, 9.0, ready=4.0, after=[first])
        made.run("other", 0.0, 1.0, worker=1)
        time = figures(made.record).workers
        assert time.idle == pytest.approx(3)
        assert time.over == pytest.approx(1 + 6), "when the last run is ready, nothing is left"

    def test_what_was_before_the_flow_does_not_count(self) -> None:
        made = Made(workers=1, seconds=10)
        record = made.record
        record.flow_runs[0] = record.flow_runs[0]._replace(began=START + 2)
        record.runners[0] = replace(record.runners[0], entered=START + 2.5)
        made.run("step", 4.0, 9.0, submitted=3.0)
        found = figures(record)
        assert (found.elapsed, found.path.steps[0].began) == pytest.approx((8, 2))
        record.flow_runs[0] = record.flow_runs[0]._replace(began=START - 3600)
        assert figures(record).elapsed == pytest.approx(10), "a clock that is wrong"

    def test_runs_at_once_on_a_worker_count_once(self) -> None:
        made = Made(workers=1, seconds=4)
        for _ in range(3):
            made.run("coroutine", 1.0, 3.0)
        found = figures(made.record)
        assert found.workers.runs == pytest.approx(2)
        assert max(found.curve) == pytest.approx(3)
        assert sum(found.curve) * 4 / len(found.curve) == pytest.approx(6)

    def test_moments_that_are_not_known_do_not_disturb_the_order(self) -> None:
        made = Made(workers=1)
        for begun in (3.0, nan, 1.0, 2.0, nan, 0.0):
            made.run("a", begun, begun + 1)
        found = figures(made.record)
        assert [made.record.columns.begun[i] - START for i in found.order[0]] == [0, 1, 2, 3]

    def test_links_count_what_was_passed(self) -> None:
        made = Made()
        first = made.map("load", [1.0] * 4)
        total = made.run("add", 4.0, 5.0)
        made.record.edges.append(total, first, first + 4)
        made.run("show", 5.0, 6.0, after=[total])
        assert figures(made.record).links == [Link(0, 1, 4), Link(1, 2, 1)]

    def test_a_task_that_is_about_to_be_retried(self) -> None:
        made = Made()
        made.run("fetch", 0, 1, state="Retrying")
        (task,) = figures(made.record).tasks
        assert (task.runs, task.seconds.count) == (0, 1)
        assert "fetch</text>" in page(made.record)

    def test_links_count_what_was_submitted(self) -> None:
        made = Made()
        outer = made.run("outer", 0, 2)
        made.run("inner", 1, 2, submitter=outer, state="Retrying")
        made.run("inner", 1, 2, submitter=outer, number=made.record.columns.number[-1], attempt=2)
        found = figures(made.record)
        assert found.links == [Link(0, 1, 1, nested=True)]
        assert "outer submitted inner: 1 run" in page(made.record)

    def test_workers_are_named_by_what_tells_them_apart(self) -> None:
        made = Made(workers=1)
        assert figures(made.record).names == ["shoal-worker-0", "on no worker"]
        made.worker(pid=12, thread="")
        made.worker(pid=12, thread="2", host="there")
        assert figures(made.record).names[1:3] == ["pid 12", "pid 12, thread 2, there"]


class TestCriticalPath:
    def walked(self, made: Made) -> list[tuple[str, str, float]]:
        """The steps: task, what it began after, how long the path is with it."""
        record = made.record
        path = critical_path(record, figures(record).order)
        names = [row.name for row in record.tasks]
        return [(names[s.task], s.after, round(s.seconds, 3)) for s in path.steps]

    def test_of_what_is_passed(self) -> None:
        made = Made()
        quick = made.run("quick", 0, 1, worker=1)
        slow = made.run("slow", 0, 3)
        made.run("join", 3, 4, ready=3, after=[quick, slow])
        assert self.walked(made) == [("slow", "start", 3), ("join", "passed", 1)]

    def test_of_a_worker_that_is_busy(self) -> None:
        made = Made(workers=1)
        made.map("step", [1.0, 2.0])
        assert self.walked(made) == [("step", "start", 1), ("step", "worker", 2)]

    def test_of_the_flows_code(self) -> None:
        made = Made()
        made.run("first", 0, 1)
        made.run("second", 2, 4, submitted=2, worker=1)
        assert self.walked(made) == [("first", "start", 1), ("second", "code", 2)]
        assert figures(made.record).path.gaps == pytest.approx({"code": 1})

    def test_of_retries(self) -> None:
        made = Made()
        number = made.run("fetch", 0, 1, state="Retrying")
        made.run("fetch", 3, 4, number=number, attempt=2, ready=3)
        assert self.walked(made) == [("fetch", "start", 1), ("fetch", "retry", 1)]
        assert figures(made.record).path.gaps == pytest.approx({"retry": 2})

    def test_of_nested_runs(self) -> None:
        made = Made()
        outer = made.run("outer", 1, 3)
        made.run("inner", 2.5, 6, submitted=2, submitter=outer, worker=1)
        assert self.walked(made) == [("outer", "start", 1), ("inner", "nested", 3.5)]

    def test_of_runs_that_a_run_waited_for_in_its_body(self) -> None:
        made = Made(workers=3)
        outer = made.run("outer", 0, 9)
        first = made.run("first", 1, 3, submitted=1, submitter=outer, worker=1)
        made.run("second", 3, 4, submitted=1, submitter=outer, after=[first], worker=2)
        made.run("later", 6, 8, submitted=5, submitter=outer, worker=1)
        made.run("aside", 5, 7, submitted=5, submitter=outer)
        made.event("wait", 1.5, "", until=4.5, number=outer)
        made.event("wait", 7.5, "", until=8.0, number=outer)
        assert self.walked(made) == [
            ("outer", "start", 1),
            ("first", "nested", 2),
            ("second", "passed", 1),
            ("outer", "waited", 0.5),
            ("later", "nested", 2),
            ("outer", "waited", 1),
        ]
        path = figures(made.record).path
        assert sum(path.runs.values()) == 4
        assert path.gaps == pytest.approx({"waited": 0.5, "nested": 1})

    def test_what_a_run_did_not_wait_for_is_not_on_it(self) -> None:
        made = Made()
        outer = made.run("outer", 0, 9)
        made.run("inner", 1, 3, submitted=1, submitter=outer, worker=1)
        assert self.walked(made) == [("outer", "start", 9)]

    def test_waits_by_clocks_that_disagree_do_not_make_it_endless(self) -> None:
        made = Made()
        outer = made.run("outer", 0, 3)
        made.run("inner", 2, 2, submitted=4, submitter=outer, worker=1)
        made.event("wait", 1.5, "", until=3, number=outer)
        assert len(self.walked(made)) == 3

    def test_clocks_that_disagree_do_not_make_it_endless(self) -> None:
        made = Made()
        first = made.run("a", 1.0, 2.0)
        second = made.run("b", 1.0, 2.0, after=[first], worker=1)
        made.record.edges.append(first, second, second + 1)
        assert len(self.walked(made)) == 1

    def test_pieces_by_their_reasons(self) -> None:
        path = figures(small()).path
        lengths = [len(piece) for piece in path.chains("passed")]
        assert lengths == [3]

    def test_of_nothing(self) -> None:
        assert self.walked(Made()) == []

    def test_of_moments_that_are_not_known(self) -> None:
        made = Made()
        outer = made.run("outer", 0, 3)
        made.run("inner", 1, 6, submitted=nan, submitter=outer, worker=1)
        assert self.walked(made) == [("outer", "start", 1), ("inner", "nested", 5)]


class TestGraph:
    def test_columns(self) -> None:
        links = [Link(0, 1, 1), Link(0, 2, 1), Link(1, 3, 1), Link(2, 3, 1), Link(0, 3, 1)]
        assert layers([3, 2, 1, 0], links) == [[0], [2, 1], [3]]

    def test_cycles(self) -> None:
        links = [Link(0, 0, 1), Link(0, 1, 1), Link(1, 0, 1), Link(1, 2, 1)]
        assert layers([0, 1, 2], links) == [[0], [1], [2]]

    def test_a_long_chain(self) -> None:
        links = [Link(i, i + 1, 1) for i in range(2_000)]
        assert len(layers(range(2_001), links)) == 2_001


class TestPacking:
    def test_entries_are_those_of_the_record(self) -> None:
        made = Made(workers=2)
        first = made.run("a", 1.0, 1.5, submitted=0.5, ready=0.75, size=1_000)
        second = made.run("b", 2.0, 2.25, state="Failed", attempt=300)
        made.run("a", 0.0, 4.0, worker=1)
        one, two, three = unpacked(made.record)
        assert (one["gap"], one["span"]) == (1_000_000, 500_000)
        assert (two["gap"], two["span"]) == (500_000, 250_000)
        assert (three["gap"], three["span"]) == (0, 4_000_000)
        assert one["number"] == first
        assert (one["number"] + two["number"]) & NUMBERS == second
        assert (one["attempt"], two["attempt"]) == (1, 255)
        assert [entry["task"] for entry in (one, two, three)] == [0, 1, 0]
        assert 10 ** ((one["upstreams"] - 1) / 21) == pytest.approx(250_000, rel=0.12)
        assert 10 ** ((one["size"] - 1) / 21) == pytest.approx(1_000, rel=0.12)
        assert three["size"] == 0

    def test_numbers_of_maps_and_of_single_runs(self) -> None:
        made = Made(workers=1)
        high = (1 << 47) + 5
        made.run("a", 0, 1, number=high)
        made.run("a", 1, 2, number=3)
        one, two = unpacked(made.record)
        assert one["number"] == high
        assert (high + two["number"]) & NUMBERS == 3

    def test_runs_that_overlap_have_lanes(self) -> None:
        made = Made(workers=1)
        for begun, ended in ((0, 3), (1, 2), (2, 4), (3, 5)):
            made.run("a", begun, ended)
        found = figures(made.record)
        timeline = packed(made.record, found.order, found.elapsed)
        assert timeline.rows == [(0, 0, 2), (0, 1, 2)]

    def test_there_are_not_endless_lanes(self) -> None:
        made = Made(workers=1)
        for _ in range(200):
            made.run("a", 0, 1)
        found = figures(made.record)
        timeline = packed(made.record, found.order, found.elapsed)
        assert len(timeline.rows) == 64
        assert timeline.count == 200

    def test_of_too_many_a_sample_is_shown(self) -> None:
        record = large(1_000)
        record.columns.state[77] = record.states.index("Failed")
        found = figures(record)
        timeline = packed(record, found.order, found.elapsed, most=100)
        assert timeline.count <= 110
        assert timeline.total == 1_000
        failed = [one for one in unpacked(record, most=100) if one["state"] == 3]
        assert len(failed) == 2  # with the one of `large`
        assert sum(task.runs for task in found.tasks) == 1_000

    def test_hours(self) -> None:
        made = Made(workers=1, seconds=400_000)
        made.run("a", 200_000, 400_000)
        found = figures(made.record)
        timeline = packed(made.record, found.order, found.elapsed)
        (entry,) = unpacked(made.record)
        assert entry["span"] * timeline.tick == pytest.approx(200_000)
