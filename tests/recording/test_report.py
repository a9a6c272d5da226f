"""The report page of a record: its text, its figures, and the page in a browser."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shoal.recording.record import Record
from shoal.recording.report import page
from shoal.recording.report.critical import critical_path
from shoal.recording.report.drawing import layers
from shoal.recording.report.figures import EDGES, Link, Spread, figures
from shoal.recording.report.packing import NUMBERS, packed
from shoal.recording.report.words import many, seconds, share, size

from tests.recording.made import START, Made, large, small

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MEGABYTE = 1_000_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: A flow with an upstream, a retry, a failure and nested runs.
STUDY = """
import sys
import shoal
from shoal.runtime import task_run

@shoal.task
def load(n):
    return n

@shoal.task(retries=1, retry_condition_fn=lambda task, run, state: "once" in state.message)
def check(n):
    if n == 3:
        raise ValueError("three")
    if n == 4 and task_run.run_count == 1:
        raise ValueError("once")
    return n

@shoal.task
def inner(n):
    return n

@shoal.task
def outer():
    return sum(inner.map(range(4)).result())

@shoal.flow
def study():
    checked = check.map(load.map(range(6)))
    checked.wait()
    return outer.submit().result()

if __name__ == "__main__":
    with shoal.record() as recording:
        study.with_options(task_runner=sys.argv[1])()
    recording.report(sys.argv[2])
"""

NASTY = "</script><!--<b title='\">&amp; `$body`"


class Elements(HTMLParser):
    """The elements of a page, their attributes, and the text between them outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.said += data


def meta_of(text: str) -> dict[str, Any]:
    """What the page tells its script."""
    found = re.search(r'<script type="application/json" id="meta">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    meta: dict[str, Any] = json.loads(found[1])
    return meta


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


@pytest.fixture(scope="module")
def text() -> str:
    """The page of a small record."""
    return page(small())


class TestPage:
    def test_what_ran_and_how_it_ended(self, text: str) -> None:
        said = Elements(text).said
        assert "study hilarious-collie" in said
        assert "Completed after 10 s, from 2026-01-01 12:00:00 UTC on here" in said
        assert "12Completed1Failed1NotReady" in said
        assert "shoal run study.py" in said

    def test_failures_have_traceback_and_log(self) -> None:
        made = Made()
        made.run(
            "read", 0, 1, state="Failed", error="no <such> file", logs=("looked <here>", "gave up")
        )
        said = Elements(page(made.record)).said
        assert "1 run of read: ValueError: no <such> file" in said
        assert "raise ValueError\nValueError: no <such> file" in said
        assert "looked <here>\ngave up" in said
        assert "Failed at 1 s, study.py:12" in said

    def test_like_failures_are_told_once(self) -> None:
        made = Made()
        for _ in range(500):
            made.run("read", 0, 1, state="Failed", error="no disk")
        text = page(made.record)
        assert "500 runs of read" in Elements(text).said
        assert text.count("raise ValueError") == 3
        assert "And 497 runs more." in text

    def test_failures_of_one_place_are_told_together(self) -> None:
        made = Made()
        for place in range(2):
            made.run("read", 0, 1, state="Failed", error=f"no {place}")
        said = Elements(page(made.record)).said
        assert "2 runs of read: ValueError" in said
        assert "study.py:12: no 0" in said
        assert "study.py:12: no 1" in said

    def test_what_never_began_comes_behind_the_reason(self) -> None:
        made = Made()
        for _ in range(3):
            made.run("sum", nan, 1, state="NotReady", worker=-1, error="upstream failed")
        made.run("read", 0, 1, state="Failed", error="no disk")
        said = Elements(page(made.record)).said
        assert said.index("1 run of read: ValueError") < said.index("3 runs of sum")

    def test_a_retry_that_helped_is_no_failure(self, text: str) -> None:
        assert "try again" not in text
        assert "the next attempt begins in 1 s" in text

    def test_nothing_is_asked_for_elsewhere(self, text: str) -> None:
        for tag, attributes in Elements(text).found:
            assert not {"src", "srcset", "action"} & attributes.keys(), tag
            assert (attributes.get("href") or "#").startswith(("#", "data:")), tag
        assert "default-src 'none'" in text
        style = text.partition("<style>")[2].partition("</style>")[0]
        assert not re.search(r"url\(|@import", style)

    def test_it_is_small(self, text: str) -> None:
        assert len(text.encode()) < 0.1 * MEGABYTE

    def test_anchors_lead_somewhere(self, text: str) -> None:
        found = Elements(text).found
        places = {attributes.get("id") for _, attributes in found}
        links = {attributes["href"] for tag, attributes in found if tag == "a"}
        assert len(links) > 5
        assert links <= {f"#{place}" for place in places}
        ids = [a["id"] for _, a in found if "id" in a]
        assert len(ids) == len(set(ids))

    def test_texts_are_escaped(self) -> None:
        made = Made()
        first = made.run(NASTY, 0, 1, state="Failed", error=NASTY, logs=(NASTY,))
        made.run(f"{NASTY}2", 1, 2, after=[first])
        made.event("death", 1.0, NASTY, number=first, worker=0)
        made.log(1.0, NASTY)
        made.worker(thread=NASTY, ending=NASTY)
        record = made.record
        record.command = record.host = NASTY
        record.names[first] = NASTY
        record.flow_runs[0] = record.flow_runs[0]._replace(
            flow=NASTY, name=NASTY, runner=NASTY, message=NASTY, parameters={NASTY: NASTY}
        )
        text = page(record)
        assert NASTY not in text
        assert text.count("<b title") == 0
        assert text.count("</script>") == 3
        assert text.count("<main>") == 1
        assert Elements(text).said.count(NASTY) > 8
        assert meta_of(text)["tasks"] == [NASTY, f"{NASTY}2"]
        assert meta_of(text)["names"] == {str(first): NASTY}

    def test_a_record_of_nothing_is_a_page_too(self) -> None:
        text = page(Record(started=START))
        assert "Timeline</h2>" not in text
        assert "its process was killed, or was still running" in text
        assert 'id="rows"' not in text

    def test_a_flow_without_runs(self) -> None:
        assert "study" in Elements(page(Made().record)).said

    def test_runs_that_never_began_are_counted(self) -> None:
        made = Made()
        made.run("late", nan, nan, state="Pending", worker=-1)
        text = page(made.record)
        assert "1Pending" in Elements(text).said
        assert meta_of(text)["count"] == 0

    def test_nested_flows_stand_below_theirs(self) -> None:
        made = Made()
        inner = made.flow("inner", parent=1, began=1, ended=2, state="Failed", message="oh")
        made.flow("innermost", parent=inner, began=1, ended=2)
        text = page(made.record)
        indents = [float(one) for one in re.findall(r"padding-left:([\d.]+)rem", text)]
        assert indents == sorted(indents)
        assert len(set(indents)) == 3

    def test_what_was_left_out_is_told(self) -> None:
        record = small()
        record.events_left_out, record.errors_left_out, record.logs_left_out = 7, 8, 9
        text = page(record)
        for told in ("And 7 events more", "And 8 failures more", "And 9 lines more"):
            assert told in text

    def test_bytes(self) -> None:
        made = Made()
        made.run("load", 0, 1, size=80_000_000)
        made.message("load", 1, 0, 0, 1, 1, bytes_sent=2_000, bytes_back=80_000_100)
        said = Elements(page(made.record)).said
        assert "1 message to workers carried 1 run and 2 kB; 80 MB came back" in said

    @pytest.mark.parametrize("seed", range(40))
    def test_what_is_not_known_breaks_nothing(self, seed: int) -> None:
        chance = random.Random(seed)

        def moment() -> float:
            return chance.choice([nan, chance.uniform(-1, 10), chance.uniform(0, 10)])

        made = Made(workers=chance.randint(1, 4), seconds=chance.choice([0, 5, 10]))
        numbers = [made.run("a", moment(), moment())]
        for _ in range(chance.randint(0, 30)):
            number = made.run(
                chance.choice("abc"),
                moment(),
                moment(),
                worker=chance.randint(-1, len(made.record.workers) - 1),
                state=chance.choice(["Completed", "Failed", "Retrying", "Pending", "Mine"]),
                attempt=chance.randint(1, 3),
                number=chance.choice([None, *numbers[-2:]]),
                submitted=moment(),
                ready=moment(),
                after=chance.sample(numbers, min(len(numbers), chance.randint(0, 2))),
                submitter=chance.choice([0, 999, numbers[-1]]),
                size=chance.choice([-1, 10**10]),
                error=chance.choice([None, "x"]),
            )
            numbers.append(number)
            kind = chance.choice(["death", "retry", "limit", "wait"])
            made.event(kind, moment(), "", until=moment(), number=chance.choice([0, 777, number]))
        record = made.record
        record.ended = chance.choice([None, record.ended])
        record.workers[0] = replace(record.workers[0], joined=nan)
        record.runners[0] = replace(
            record.runners[0], started=chance.choice([nan, START]), left=None
        )
        text = page(record).partition("<script>")[0]
        assert not re.search(r"\bnan\b|NaN", text)

    @pytest.mark.slow
    def test_many_workers(self) -> None:
        made = Made(workers=10_000)
        for worker in range(10_000):
            made.run("step", 0, 1, worker=worker)
        text = page(made.record)
        assert len(meta_of(text)["rows"]) == 10_000
        assert len(text.encode()) < 1 * MEGABYTE
        assert "The 20 busiest and the 20 idlest of 10,000 workers" in text


class TestWords:
    @pytest.mark.parametrize(
        ("value", "told"),
        [
            *(
                (0, "0 s"),
                (40e-6, "40 µs"),
                (0.9999e-3, "1 ms"),
                (0.0123, "12.3 ms"),
                (9.54, "9.5 s"),
            ),
            *((nan, "?"), (61, "1 min"), (725, "12.1 min"), (3599.9, "1 h"), (450_000, "125 h")),
        ],
    )
    def test_seconds(self, value: float, told: str) -> None:
        assert seconds(value) == told

    def test_others(self) -> None:
        assert size(80e6) == "80 MB"
        assert size(999) == "999 B"
        assert share(0.62, 1) == "62 %"
        assert share(1, 0) == "0 %"
        assert many(1, "retry") == "1 retry"
        assert many(1200, "retry") == "1,200 retries"


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
        (task,) = figures(made.record).tasks
        totals = {what: spread.total for what, spread in task.waits.items()}
        assert totals == pytest.approx(
            {"upstreams": 1.5, "limits": 0.25, "retries": 0.9, "workers": 0.6}
        )
        assert task.lost == pytest.approx(1)
        assert task.counts == {"Completed": 1}

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
        assert time.messages == pytest.approx(0.5 + 0.5)
        assert time.idle == pytest.approx(0.5 + 0.5 + 1)
        assert time.over == pytest.approx(5 + 5)
        assert time.absent == pytest.approx(1 + 1)
        assert time.total == pytest.approx(20)

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
        assert "fetch" in Elements(page(made.record)).said

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, without a network."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: `apt-get install chromium`")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page in a browser, of a record or one that is there; `close()` fails if it said or asked for anything."""

    def __init__(
        self, browser: Browser, record: Record | None, folder: Path, **options: Any
    ) -> None:
        file = folder / "report.html"
        if record is not None:
            file.write_text(page(record), encoding="utf-8")
        options.setdefault("viewport", {"width": 1200, "height": 800})
        self._context = browser.new_context(offline=True, **options)
        self.page: Page = self._context.new_page()
        self._said: list[str] = []
        self._asked: list[str] = []
        self._uri = file.as_uri()
        self.page.on("console", lambda message: self._said.append(message.text))
        self.page.on("pageerror", lambda error: self._said.append(str(error)))
        self.page.on("request", lambda request: self._asked.append(request.url))
        self.page.goto(self._uri)
        self.page.locator("html[data-drawn]").wait_for(state="attached", timeout=30_000)

    def view(self) -> tuple[float, float]:
        """From when to when the timeline shows."""
        view: dict[str, float] = self.page.evaluate("window.shoalTimeline.view")
        return view["from"], view["to"]

    def ink(self) -> int:
        """How many pixels of the timeline are drawn."""
        count: int = self.page.evaluate(
            """() => { const c = document.getElementById("timeline");
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
        )
        return count

    def close(self) -> None:
        assert self._said == []
        assert self._asked == [self._uri]
        self._context.close()


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1200, 400])
    def test_it_draws_and_asks_for_nothing(
        self, browser: Browser, tmp_path: Path, scheme: Any, width: int
    ) -> None:
        viewport = {"width": width, "height": 800}
        opened = Opened(browser, small(), tmp_path, color_scheme=scheme, viewport=viewport)
        assert opened.ink() > 1_000
        ink = opened.page.evaluate("getComputedStyle(document.querySelector('h2')).color")
        assert (sum(map(int, re.findall(r"\d+", ink))) > 380) == (scheme == "dark")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.close()

    def test_zoom_by_keys_wheel_and_buttons(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path)
        keys = opened.page.keyboard
        assert opened.view() == (0, 10)
        opened.page.locator("#timeline").focus()
        keys.press("+")
        assert opened.view() == (2.5, 7.5)
        keys.press("ArrowRight")
        assert opened.view() == (3.5, 8.5)
        keys.press("0")
        assert opened.view() == (0, 10)
        opened.page.locator("#timeline").hover(position={"x": 700, "y": 30})
        keys.down("Control")
        opened.page.mouse.wheel(0, -100)
        keys.up("Control")
        opened.page.wait_for_function("window.shoalTimeline.view.to < 10")
        opened.page.locator("#whole").click()
        assert opened.view() == (0, 10)
        opened.page.locator("#closer").click()
        assert opened.view() == (2.5, 7.5)
        opened.close()

    def test_it_is_dragged(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path)
        opened.page.locator("#closer").click()
        opened.page.locator("#timeline").scroll_into_view_if_needed()
        mouse, box = opened.page.mouse, opened.page.locator("#timeline").bounding_box()
        assert box is not None
        mouse.move(box["x"] + 800, box["y"] + 30)
        mouse.down()
        mouse.move(box["x"] + 600, box["y"] + 30, steps=3)
        mouse.up()
        start, end = opened.view()
        assert start > 2.5
        assert end - start == pytest.approx(5)
        opened.close()

    def test_search_finds_tasks_states_runs_and_workers(
        self, browser: Browser, tmp_path: Path
    ) -> None:
        record = small()
        record.names[10] = "the one"
        opened = Opened(browser, record, tmp_path)
        search, found = opened.page.locator("#search"), opened.page.locator("#found")
        name = record.run_name(3, record.columns.task[1])
        for text, count in (
            *(("load", 8), ("FAILED", 1), ("worker-1", 7), ("#3", 1), ("the one", 1)),
            *((name, 1), ("nothing of it", 0)),
        ):
            search.fill(text)
            assert found.inner_text() == f"{count} found", text
        search.fill("retrying")
        search.press("Enter")
        said = opened.page.locator("#said")
        assert "fetch-" in said.inner_text()
        assert "Retrying" in said.inner_text()
        search.press("Escape")
        assert found.inner_text() == ""
        opened.page.locator(".legend button", has_text="fit").click()
        assert found.inner_text() == "3 found"
        opened.close()

    def test_a_run_tells_of_itself(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path)
        tooltip = opened.page.locator("#tooltip")
        assert tooltip.is_hidden()
        opened.page.locator("#timeline").hover(position={"x": 700, "y": 30})
        told = tooltip.inner_text()
        assert re.match(r"fit-[0-9a-f]{3}: Completed\nbegan at 4\.50 s, took 2\.50 s", told)
        assert "shoal-worker-0" in told
        # Without a mouse: from run to run.
        opened.page.locator("#timeline").focus()
        opened.page.keyboard.press("n")
        assert "load-" in opened.page.locator("#said").inner_text()
        opened.close()

    @pytest.mark.parametrize("workers", [40, 10_000])
    def test_many_workers(self, browser: Browser, tmp_path: Path, workers: int) -> None:
        made = Made(workers=workers, seconds=2)
        for worker in range(workers):
            made.run("step", 0, 1, worker=worker)
        opened = Opened(browser, made.record, tmp_path)
        height = opened.page.evaluate("document.getElementById('rows').scrollHeight")
        assert height == pytest.approx(22 + 18 * workers, abs=4)
        opened.page.evaluate("document.getElementById('rows').scrollTop = 1e9")
        opened.page.locator("#timeline").focus()
        for _ in range(workers if workers < 100 else 3):
            opened.page.keyboard.press("n")
        assert "step-" in opened.page.locator("#said").inner_text()
        opened.page.locator("#squeeze").click()
        assert opened.ink() > 100_000
        thin = opened.page.locator("#thin")
        if workers > 1_000:
            opened.page.wait_for_function("document.getElementById('thin').textContent !== ''")
            assert thin.inner_text().startswith("One row in ")
        opened.close()

    def test_it_prints(self, browser: Browser, tmp_path: Path) -> None:
        opened = Opened(browser, small(), tmp_path, color_scheme="dark")
        opened.page.emulate_media(media="print")
        assert opened.page.locator("#search").is_hidden()
        assert opened.page.locator("#timeline").is_visible()
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        opened.close()

    @pytest.mark.timeout(150)
    @pytest.mark.parametrize("runner", ["threads:2", "processes:2", "dask:2", "ray:2"])
    def test_of_a_real_run(self, browser: Browser, tmp_path: Path, runner: str) -> None:
        name = runner.partition(":")[0]
        if name in ("dask", "ray"):
            pytest.importorskip(f"shoal_{name}")
        (tmp_path / "study.py").write_text(STUDY)
        command = [sys.executable, "study.py", runner, "report.html"]
        environment = os.environ | {"SHOAL_LOGGING_LEVEL": "CRITICAL"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        opened = Opened(browser, None, tmp_path)
        assert opened.ink() > 1_000
        said = opened.page.locator("main").inner_text()
        assert "1 run of 6 of check did not complete; the reason was ValueError." in said
        assert 'raise ValueError("three")' in said
        found = opened.page.locator("#found")
        for text, count in (
            ("load", 6),
            ("check", 7),
            ("failed", 1),
            ("retrying", 1),
            ("inner", 4),
        ):
            opened.page.locator("#search").fill(text)
            assert found.inner_text() == f"{count} found", text
        opened.close()

    def test_names_that_are_markup(self, browser: Browser, tmp_path: Path) -> None:
        made = Made()
        made.run(NASTY, 0, 5, state="Failed", error=NASTY)
        opened = Opened(browser, made.record, tmp_path)
        assert opened.page.locator(".legend button").first.inner_text() == NASTY[:40]
        assert opened.page.locator("b[title]").count() == 0
        opened.close()

    def test_a_file_that_was_cut_off_says_so(self, browser: Browser, tmp_path: Path) -> None:
        text = page(small())
        broken = re.sub(r'(id="columns">\n.{20})[^<]*', r"\1\n", text)
        file = tmp_path / "broken.html"
        file.write_text(broken, encoding="utf-8")
        opened = browser.new_page()
        opened.goto(file.as_uri())
        opened.locator("#untold").wait_for(state="visible", timeout=10_000)
        opened.close()
