"""The rules of a report's advice: what each says, and when it keeps silent."""

from __future__ import annotations

import re
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from shoal.recording.record import MapRow, RunnerRow
from shoal.recording.report.advice import RULES, advice
from shoal.recording.report.figures import figures

from tests.recording.made import START, Made, large, small


def told(made: Made) -> dict[str, str]:
    """The advice for a record, by the names of the rules."""
    return {given.rule: given.text for given in advice(figures(made.record))}


def started(made: Made, seconds: float) -> None:
    """Has the runner take so long to start."""
    runner = RunnerRow(0, "DaskTaskRunner", 1, START, START + seconds, START + made.seconds, 2)
    made.record.runners[:] = [runner]


class TestFailures:
    def test_told_with_their_reason(self) -> None:
        made = Made()
        for place in range(4):
            failed = place < 3
            made.run(
                "read",
                place,
                place + 1,
                state="Failed" if failed else "Completed",
                error="no disk" if failed else None,
            )
        made.run("sum", 4, 4, state="NotReady", worker=-1)
        assert told(made)["failures"] == (
            "3 of 4 runs of `read` did not complete; the reason was ValueError. "
            "1 run never began, because an upstream had failed: what can do without it takes `allow_failure`."
        )

    def test_what_followed_is_told_apart(self) -> None:
        made = Made()
        made.run("read", 0, 1, state="Failed", error="no disk")
        made.run("sum", nan, 1, state="NotReady", worker=-1, error="upstream failed")
        for _ in range(9):
            made.run("load", nan, 1, state="Cancelled", worker=-1, error="")
        assert told(made)["failures"] == (
            "`read` did not complete; the reason was ValueError. 1 run never began, because an upstream had failed: what "
            "can do without it takes `allow_failure`. 9 runs were cancelled."
        )

    def test_all_that_was_cancelled(self) -> None:
        made = Made()
        made.run("load", nan, 1, state="Cancelled", worker=-1)
        assert told(made)["failures"] == "1 run was cancelled."

    def test_several_reasons(self) -> None:
        made = Made()
        for task, count in (("read", 2), ("write", 1)):
            for _ in range(count):
                number = made.run(task, 0, 1, state="Failed", error="no disk")
        (row,) = made.record.errors[number]
        made.record.errors[number] = [row._replace(kind="KeyError")]
        made.run("read", 0, 1)
        assert told(made)["failures"] == (
            "2 of 3 runs of `read` did not complete, and 1 run of other tasks; most often (2 times) the reason was ValueError."
        )

    def test_they_come_first(self) -> None:
        assert [given.rule for given in advice(figures(small()))][:2] == ["failures", "chain"]

    def test_deaths(self) -> None:
        made = Made()
        number = made.run("train", 0, 5, state="Crashed")
        made.event("death", 5.0, "killed by SIGKILL", number=number, worker=0)
        assert told(made)["deaths"].startswith(
            "1 death of workers, most often in runs of `train`. A worker that is killed"
        )

    def test_attempts_that_were_lost(self) -> None:
        made = Made(workers=1, seconds=10)
        number = made.run("fetch", 0, 4, state="Retrying")
        made.run("fetch", 4, 6, number=number, attempt=2)
        made.run("other", 6, 10)
        assert (
            "40 % of what workers did were attempts of `fetch` that failed" in told(made)["retries"]
        )


class TestWhatTheEndWaitedFor:
    def test_one_chain(self) -> None:
        made = Made(workers=4, seconds=10)
        before = [made.run("load", 0, 1.9, worker=1)]
        at = 1.9
        for _ in range(12):
            before = [made.run("fit", at, at + 0.675, ready=at, after=before)]
            at += 0.675
        text = told(made)["chain"]
        assert text.startswith("100 % of the time is one chain of 13 runs, 12 of them of `fit`")
        assert "More workers do not help" in text

    def test_one_chain_of_one_task(self) -> None:
        assert (
            "79 % of the time is one chain of 3 runs of `fit`"
            in {given.rule: given.text for given in advice(figures(small()))}["chain"]
        )

    def test_a_chain_behind_a_long_start(self) -> None:
        made = Made(seconds=10)
        started(made, 6.0)
        first = made.run("fit", 7, 8.5, submitted=6.0)
        made.run("fit", 8.5, 10, submitted=6.0, ready=8.5, after=[first])
        said = told(made)
        assert said["chain"].startswith("30 % of the time is one chain of 2 runs of `fit`")
        assert "start" in said

    def test_short_chains_are_none(self) -> None:
        made = Made(seconds=10)
        first = made.run("a", 0, 1)
        made.run("b", 1, 2, ready=1, after=[first])
        made.run("c", 0, 9.9, worker=1)
        assert "chain" not in told(made)

    def test_one_after_another_without_need(self) -> None:
        made = Made(workers=4, seconds=10)
        for place in range(10):
            made.run("get", place, place + 0.99, submitted=place, worker=place % 4)
        assert told(made)["one_by_one"].startswith(
            "10 runs (`get`) went one after another for 99 % of the time"
        )

    def test_the_flows_own_code(self) -> None:
        made = Made(seconds=10)
        made.run("a", 0, 1)
        made.run("b", 7, 10, submitted=7)
        assert told(made)["code"].startswith(
            "For 60 % of the time (6 s), the end waited for the flow's own code"
        )

    def test_code_before_the_first_run_is_the_flows_too(self) -> None:
        made = Made(seconds=10)
        made.run("a", 5, 10, submitted=5)
        assert told(made)["code"].startswith("For 50 % of the time (5 s)")

    def test_long_runs_at_the_end(self) -> None:
        made = Made(workers=8, seconds=12)
        made.map("fit", [0.5] * 48)  # three seconds on each of eight workers
        for worker in range(3):
            made.run("fit", 3.0, 12.0, worker=worker)
        text = told(made)["straggler"]
        assert text.startswith(
            "Workers were idle 47 % of their time: at the end 3 runs of `fit` took up to 9 s each (the usual one takes 500 ms)"
        )
        assert text.endswith("put them first.")

    def test_long_runs_that_were_ready_late(self) -> None:
        made = Made(workers=8, seconds=12)
        made.map("load", [0.5] * 48)
        made.run("fit", 3.0, 12.0, submitted=3.0)
        assert told(made)["straggler"].endswith("or cut them into smaller ones.")

    def test_the_length_of_one_task_is_not_told_of_another(self) -> None:
        made = Made(workers=8, seconds=12)
        made.map("load", [0.5] * 48)
        made.run("fit", 4, 12, worker=0)
        for worker in (1, 2):
            made.run("check", 6, 11, worker=worker)
        assert "one run of `fit` took 8 s, and little else" in told(made)["straggler"]

    def test_short_runs_beside_a_long_one_were_left_to_do(self) -> None:
        made = Made(workers=8, seconds=12)
        made.map("load", [0.5] * 48)
        made.run("fit", 4, 12, worker=0)
        for start in (4, 6, 8):
            made.run("check", start, start + 1, worker=1)
        assert "one run of `fit` took 8 s, and little else" in told(made)["straggler"]

    def test_an_even_end_is_none(self) -> None:
        made = Made(workers=4, seconds=4)
        made.map("fit", [1.0] * 16)
        assert "straggler" not in told(made)

    def test_more_workers_than_runs(self) -> None:
        made = Made(workers=10, seconds=10)
        for worker in range(3):
            made.run("fit", 0, 10, worker=worker)
        assert told(made)["too_many_workers"].startswith(
            "Of 10 workers no more than 3 were busy at once for long"
        )

    def test_everything_waits_for_workers(self) -> None:
        made = Made(workers=2, seconds=10)
        made.map("fit", [1.0] * 20)
        text = told(made)["more_workers"]
        assert text.startswith("2 workers were busy 100 % of the time, and 90 % of it")

    def test_one_worker_did_most(self) -> None:
        made = Made(workers=4, seconds=10)
        made.map("fit", [1.0] * 10, workers=[0])
        made.map("fit", [1.0] * 6, workers=[1, 2, 3])
        assert told(made)["uneven"].startswith(
            "8 runs, most of them of `fit`, waited behind others on a busy worker for 80 %"
        )

    def test_a_worker_that_had_the_chain_is_none(self) -> None:
        made = Made(workers=4, seconds=10)
        made.map("load", [0.5] * 8)
        before: list[int] = []
        for place in range(1, 10):
            before = [made.run("fit", place, place + 1, ready=place, after=before)]
        assert "uneven" not in told(made)


class TestWhatIsNotTheUsers:
    def short(self, *, mapped: bool) -> Made:
        made = Made(workers=1, seconds=0.34)
        made.task("tick")
        if mapped:
            made.record.maps.append(MapRow(2, 1_000, 0, 1, 0, START))
        for place in range(1_000):
            at = place * 0.00034 + 0.0003
            made.run("tick", at, at + 0.00004)
        return made

    def test_short_runs(self) -> None:
        text = told(self.short(mapped=False))["short_runs"]
        assert re.match(
            r"Runs of `tick` take 40(\.\d)? µs, and what is around each takes 300 µs\. ", text
        )
        assert text.endswith(
            "Use `map` in place of many times `submit`: runs of a map share messages."
        )

    def test_short_runs_of_a_map(self) -> None:
        text = told(self.short(mapped=True))["short_runs"]
        assert text.endswith("Have each run do more, such as a list of elements and not one.")

    def test_long_runs_are_none(self) -> None:
        assert "short_runs" not in [given.rule for given in advice(figures(large(2_000)))]

    def test_the_start(self) -> None:
        made = Made(seconds=10)
        started(made, 6.0)
        made.run("fit", 6, 10)
        assert told(made)["start"].startswith("DaskTaskRunner took 6 s to start, 60 % of the time.")

    def test_the_start_begins_with_loading_the_runner(self) -> None:
        made = Made(seconds=10)
        started(made, 6.0)
        (runner,) = made.record.runners
        made.record.runners[0] = replace(runner, entered=START + 5.5)
        made.run("fit", 6, 10)
        assert told(made)["start"].startswith("DaskTaskRunner took 6 s to start, 60 % of the time.")

    def test_workers_that_came_late(self) -> None:
        made = Made(workers=0, seconds=10)
        for _ in range(3):
            made.worker(joined=5.0, pid=4712)
        made.run("fit", 5, 10)
        assert told(made)["absent"].startswith(
            "The usual worker came 5 s after the runner had started."
        )

    def test_threads_come_when_they_are_needed(self) -> None:
        made = Made(workers=0, seconds=10)
        made.worker(joined=5.0)
        made.run("fit", 5, 10)
        assert "absent" not in told(made)


class TestWhatMovesAndWaits:
    def test_a_large_result_for_many(self) -> None:
        made = Made(workers=2, seconds=30)
        table = made.run("load", 0, 1, size=80_000_000)
        for place in range(200):
            made.run("fit", 1 + place * 0.1, 1.1 + place * 0.1, after=[table])
        assert told(made)["shipped"].startswith(
            "`load` ships 80 MB to each of 200 runs, 16 GB in all: pass it once"
        )

    def test_a_small_result_for_many_is_none(self) -> None:
        made = Made(workers=2, seconds=30)
        table = made.run("load", 0, 1, size=80_000)
        for _ in range(200):
            made.run("fit", 1, 2, after=[table])
        assert "shipped" not in told(made)

    def test_large_results(self) -> None:
        made = Made(seconds=4)
        for _ in range(3):
            made.run("render", 0, 1, size=900_000_000)
        assert told(made)["results"].startswith(
            "Results of `render` were 2.7 GB, up to 900 MB each."
        )

    def test_limits(self) -> None:
        made = Made(seconds=10)
        number = made.run("query", 5, 6, ready=5)
        made.event("limit", 0.0, "", until=5.0, number=number)
        assert told(made)["limits"].startswith(
            "1 run of `query` waited for a limit, 5 s usually and 5 s at most"
        )

    def test_delays_of_retries(self) -> None:
        made = Made(seconds=10)
        number = made.run("fetch", 0, 1, state="Retrying")
        made.run("fetch", 9, 10, number=number, attempt=2, ready=9)
        assert told(made)["delays"].startswith(
            "For 80 % of the time the end waited for retries of `fetch` to begin."
        )

    def test_runs_that_wait_inside(self) -> None:
        made = Made(workers=1, seconds=10)
        number = made.run("outer", 0, 10)
        made.event("wait", 1.0, "for 2 runs", until=5.0, number=number)
        made.event("wait", 5.0, "for 1 run", until=9.0, number=number)
        assert told(made)["blocked"].startswith(
            "1 run waited in the middle for other runs, 8 s in all."
        )


class TestAll:
    def test_a_good_run_has_no_advice(self) -> None:
        made = Made(workers=4, seconds=1.0)
        made.map("fit", [1.0] * 4)
        assert told(made) == {}

    def test_nothing_is_no_reason_for_advice(self) -> None:
        assert told(Made(workers=0, seconds=0.0)) == {}

    def test_each_rule_has_a_test_and_a_name(self) -> None:
        names = [rule.__name__ for rule in RULES]
        assert len(names) == len(set(names))
        source = Path(__file__).read_text(encoding="utf-8")
        for name in names:
            assert f'"{name}"' in source, name

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
    def test_each_bears_a_record_of_nothing(self, rule: object) -> None:
        assert callable(rule)
        assert rule(figures(Made(workers=0, seconds=0.0).record)) is None
