"""The report page of a record: its text."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from typing import TYPE_CHECKING, Any

import pytest
from shoal.recording.record import Record
from shoal.recording.report import page, pieces
from shoal.recording.report.words import many, seconds, share, size

from tests.recording.made import START, Made, small

if TYPE_CHECKING:
    pass

MEGABYTE = 1_000_000
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

    def test_what_followed_is_told_once_and_whole(self) -> None:
        made = Made()
        why = f"Run 'read-1' of task 'read', which this run needs, {'x' * 200}, pass it on."
        number = made.run("sum", nan, 1, state="NotReady", worker=-1, error=why)
        (row,) = made.record.errors[number]
        made.record.errors[number] = [row._replace(traceback="")]
        made.run("load", nan, 1, state="Cancelled", worker=-1)
        number = made.run("load", nan, 1, state="Cancelled", worker=-1, error="")
        (row,) = made.record.errors[number]
        made.record.errors[number] = [row._replace(kind="", file="", line=0, traceback="")]
        text = page(made.record)
        said = Elements(text).said
        assert said.count(why) == 1
        assert "1 run of load: Cancelled" in said
        assert "To run all of it again: shoal run study.py" in said
        # Of what never began it is not said how long it took.
        assert re.search(
            r"sum</th><td>1<small class=bad>1 NotReady</small></td>(<td></td>){4}", text
        )

    def test_a_retry_says_where_the_attempt_was(self) -> None:
        made = Made()
        number = made.run("fetch", 0, 1, state="Retrying", worker=1)
        made.run("fetch", 2, 3, number=number, attempt=2, worker=0)
        made.event("retry", 1.0, "attempt 1 did not complete", until=2.0, number=number)
        text = page(made.record)
        assert "<td class=left>shoal-worker-1</td>" in text
        assert '<section id="events"><h2>Retries</h2>' in text

    def test_a_number_and_its_unit_stay_together(self) -> None:
        assert pieces.ticked("62 % of 5 s, `a 5 s`, 4 sheep") == (
            "62&nbsp;% of 5&nbsp;s, <code>a 5 s</code>, 4 sheep"
        )

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
        assert "1 message to workers carried 1 attempt and 2 kB; 80 MB came back" in said

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
        assert size(999_700) == "1 MB"
        assert size(2e12) == "2 TB"
        assert share(0.62, 1) == "62 %"
        assert share(1, 0) == "0 %"
        assert many(1, "retry") == "1 retry"
        assert many(1200, "retry") == "1,200 retries"
