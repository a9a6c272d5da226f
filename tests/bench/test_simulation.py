"""`shoal bench simulate`: schedules that are known by hand, and what the command makes of what it is given.

A driver that is `FREE` takes no time, so nothing here depends on the machine, but for what is measured.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from shoal.exceptions import MissingExtraError
from shoal.task_runners.remote.cluster_backend import ALONE
from shoal_bench.cli import app
from shoal_bench.fresh_process import SampleFailed
from shoal_bench.measurement import SECONDS
from shoal_bench.simulation import cluster as cluster_module
from shoal_bench.simulation import command, engines, process
from shoal_bench.simulation.cluster import REPLACED_WITHIN
from shoal_bench.simulation.costs import FREE, MANY, DriverCosts, Line, measure_costs
from shoal_bench.simulation.engines import Engine, cost_of_job
from shoal_bench.simulation.model import (
    STRAGGLER,
    BadSimulation,
    Cluster,
    Work,
    worker_counts,
)
from shoal_bench.simulation.published import PUBLISHED
from shoal_bench.simulation.run import Simulated, simulate
from shoal_bench.simulation.search import Shortest, shortest_tasks


def almost(seconds: float) -> object:
    return pytest.approx(seconds, rel=1e-9)


class TestSchedules:
    @pytest.mark.parametrize(
        ("tasks", "workers", "duration", "makespan"),
        [
            (1, 1, 2.0, 2.0),
            (1, 5, 2.0, 2.0),
            (7, 2, 1.0, 4.0),
            (12, 4, 0.5, 1.5),
            (999, 10, 1.0, 100.0),
        ],
    )
    def test_without_cost_tasks_take_as_many_rounds_as_they_must(
        self, tasks: int, workers: int, duration: float, makespan: float
    ) -> None:
        result = simulate(Work(tasks, duration), Cluster(workers), FREE)
        assert result.makespan == almost(makespan)
        assert result.ideal == almost(makespan)
        assert result.utilisation == almost(tasks * duration / (workers * makespan))
        assert result.driver == 0

    def test_a_message_takes_its_latency_to_the_queue_to_the_worker_and_back(self) -> None:
        result = simulate(Work(1, 1.0), Cluster(1, latency=0.25), FREE)
        assert result.makespan == almost(1.0 + 3 * 0.25)

    def test_between_two_tasks_the_queue_is_asked(self) -> None:
        result = simulate(Work(2, 1.0), Cluster(1, latency=0.25), FREE)
        assert result.makespan == almost(2 * 1.0 + 5 * 0.25)

    def test_messages_leave_the_driver_one_after_the_other(self) -> None:
        costs = replace(FREE, batch=Line(0.5))
        result = simulate(Work(2, 3.0), Cluster(2), costs)
        assert result.makespan == almost(2 * 0.5 + 3.0)
        assert result.driver == almost(2 * 0.5)
        assert result.decided == 0

    def test_reports_wait_while_the_driver_is_busy(self) -> None:
        costs = replace(FREE, report=Line(0.5))
        result = simulate(Work(3, 1.0), Cluster(3), costs)
        assert result.makespan == almost(1.0 + 3 * 0.5)
        assert result.share == almost(1.5 / 2.5)
        assert result.ceiling == almost(3 / 1.5)

    def test_steps_take_the_time_that_the_clock_tells(self) -> None:
        ticks = iter(range(1_000_000))
        costs = DriverCosts(clock=lambda: float(next(ticks)))
        result = simulate(Work(1, 5.0), Cluster(1), costs)
        # A tick each: it is mapped, has arrived, is looked at as its task may be slow, and is reported.
        assert result.decided == almost(4.0)
        assert result.makespan == almost(1.0 + 5.0 + 1.0)

    def test_short_tasks_travel_together(self) -> None:
        result = simulate(Work(1000, 0.01), Cluster(2), FREE)
        assert result.messages < 1000
        assert result.makespan == pytest.approx(result.ideal, rel=0.05)

    @pytest.mark.parametrize("seed", range(5))
    def test_no_worker_does_two_things_at_once(self, seed: int) -> None:
        work = Work(1000, 1.0, skew=5.0, seed=seed)
        result = simulate(work, Cluster(4, latency=0.0005), FREE)
        assert result.makespan >= result.ideal
        assert result.utilisation <= 1

    def test_workers_that_come_later_share_what_is_left(self) -> None:
        result = simulate(Work(3, 1.0), Cluster(2, ramp=2.0), FREE)  # they come at 1 and at 2
        assert result.makespan == almost(3.0)


class TestDeaths:
    @pytest.fixture
    def dies_at(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Seconds that workers live, in the order in which they come; those that are not in it live on."""
        lives: list[float] = []
        drawn = SimpleNamespace(expovariate=lambda rate: lives.pop(0) if lives else 1e9)
        monkeypatch.setattr(cluster_module, "random", SimpleNamespace(Random=lambda seed: drawn))
        return lives

    def test_a_death_costs_what_was_being_run(self, dies_at: list[float]) -> None:
        dies_at += [1.5]
        result = simulate(Work(4, 1.0), Cluster(2, deaths_per_hour=1.0), FREE)
        assert (result.deaths, result.crashed) == (1, 1)
        assert result.makespan == almost(2.0)

    def test_it_is_repeated_if_it_may_be(self, dies_at: list[float]) -> None:
        dies_at += [1.5]
        work = Work(4, 1.0, crash_retries=1)
        result = simulate(work, Cluster(2, deaths_per_hour=1.0), FREE)
        assert (result.deaths, result.crashed) == (1, 0)
        assert result.makespan == almost(3.0)

    def test_another_worker_comes_in_its_place(self, dies_at: list[float]) -> None:
        dies_at += [0.5]
        work = Work(2, 1.0, crash_retries=1)
        result = simulate(work, Cluster(1, deaths_per_hour=1.0), FREE)
        assert result.makespan == almost(0.5 + REPLACED_WITHIN + 2.0)

    def test_what_had_ended_or_not_begun_in_its_batch_is_not_lost(
        self, dies_at: list[float]
    ) -> None:
        dies_at += [1.005]
        result = simulate(Work(1000, 0.01), Cluster(4, deaths_per_hour=1.0), FREE)
        assert (result.deaths, result.crashed) == (1, 1)

    def test_a_job_on_its_way_to_a_dead_worker_goes_to_another(self, dies_at: list[float]) -> None:
        dies_at += [0.15]  # sent at 0, at the queue at 0.1, at the worker at 0.2
        result = simulate(Work(2, 1.0), Cluster(2, latency=0.1, deaths_per_hour=1.0), FREE)
        assert (result.deaths, result.crashed) == (1, 0)

    def test_idle_workers_may_die_as_they_like(self, dies_at: list[float]) -> None:
        dies_at += [1e9] + [0.01] * 2000
        work = Work(1, 2000 * REPLACED_WITHIN)
        result = simulate(work, Cluster(2, deaths_per_hour=1.0), FREE)
        assert (result.deaths, result.crashed) == (1999, 0)

    def test_workers_that_die_before_they_end_a_task(self) -> None:
        work = Work(10, 100.0, crash_retries=10**6)
        cluster = Cluster(4, latency=0.0005, deaths_per_hour=3600.0)
        with pytest.raises(BadSimulation, match="workers die before they end a task"):
            simulate(work, cluster, FREE)
        with pytest.raises(BadSimulation, match=r"deaths_per_hour is 3600\.0"):
            process.simulate_apart(work, cluster)


class TestChance:
    WORK = Work(400, 0.2, skew=1.0, stragglers=0.05, crash_retries=2, seed=7)
    CLUSTER = Cluster(8, latency=0.001, deaths_per_hour=300.0, ramp=1.0, seed=7)

    def test_the_same_seed_gives_the_same(self) -> None:
        first, second = (simulate(self.WORK, self.CLUSTER, FREE) for _ in range(2))
        assert first.deaths > 0
        assert replace(first, took=0) == replace(second, took=0)

    def test_another_does_not(self) -> None:
        first = simulate(self.WORK, self.CLUSTER, FREE)
        other = simulate(replace(self.WORK, seed=8), self.CLUSTER, FREE)
        deaths = simulate(self.WORK, replace(self.CLUSTER, seed=8), FREE)
        assert len({first.makespan, other.makespan, deaths.makespan}) == 3

    def test_skewed_durations_keep_their_mean(self) -> None:
        durations = Work(20_000, 2.0, skew=0.5).durations()
        assert sum(durations) / len(durations) == pytest.approx(2.0, rel=0.03)
        assert min(durations) < 1.0 < 4.0 < max(durations)

    def test_stragglers_take_ten_times_as_long(self) -> None:
        durations = Work(10_000, 2.0, stragglers=0.1).durations()
        assert set(durations) == {2.0, 2.0 * STRAGGLER}
        assert durations.count(2.0 * STRAGGLER) == pytest.approx(1000, rel=0.15)

    def test_ideal_is_a_bound_where_durations_differ(self) -> None:
        work = Work(50, 1.0, skew=1.0)
        durations = work.durations()
        assert work.ideal(1, durations) == almost(sum(durations))
        assert work.ideal(50, durations) == max(durations)


class TestBadInput:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("tasks", 0),
            ("tasks", 10**20),
            ("tasks", 10**400),
            ("duration", 1e308),
            ("duration", 0.0),
            ("duration", -1.0),
            ("duration", float("nan")),
            ("skew", -0.1),
            ("skew", 5.1),
            ("skew", float("inf")),
            ("stragglers", 1.5),
            ("stragglers", -0.5),
            ("crash_retries", -1),
        ],
    )
    def test_of_tasks(self, option: str, value: float) -> None:
        with pytest.raises(BadSimulation, match=option) as caught:
            replace(Work(1, 1.0), **{option: value})
        assert caught.value.option == option

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("workers", 0),
            ("workers", -3),
            ("workers", 10**7),
            ("latency", 1e300),
            ("ramp", 1e308),
            ("latency", -0.1),
            ("deaths_per_hour", -1.0),
            ("deaths_per_hour", 1e9),
            ("ramp", -1.0),
            ("ramp", float("nan")),
        ],
    )
    def test_of_a_cluster(self, option: str, value: float) -> None:
        with pytest.raises(BadSimulation, match=option):
            replace(Cluster(1), **{option: value})

    @pytest.mark.parametrize(
        "text",
        [
            "0",
            "",
            "ten",
            "10..",
            "..10",
            "100..10",
            "4,0",
            "-5",
            "1.5",
            "10..20..30",
            "0..10",
            "9" * 5000,
            "10..99999999",
        ],
    )
    def test_of_numbers_of_workers(self, text: str) -> None:
        with pytest.raises(BadSimulation, match="workers"):
            worker_counts(text)

    def test_numbers_of_workers(self) -> None:
        assert worker_counts("64,704") == [64, 704]
        assert worker_counts("10..10000") == [10, 100, 1000, 10_000]
        assert worker_counts("10..500") == [10, 100, 500]
        assert worker_counts("7..7, 3") == [3, 7]


class TestCosts:
    def test_a_line_goes_through_both_points(self) -> None:
        line = Line.through(3.0, 3.0 + 2.0 * (MANY - 1))
        assert (line.of(1), line.of(MANY)) == (3.0, 3.0 + 2.0 * (MANY - 1))

    def test_messages_cost_something(self) -> None:
        costs = measure_costs()
        assert 0 < costs.batch.of(1) < 0.01
        assert 0 < costs.report.of(1) < 0.01
        assert 0 < costs.word < 0.01

    def test_a_client_is_paid_for_each_batch(self) -> None:
        result = simulate(Work(3, 1.0), Cluster(3), replace(FREE, job=0.5))
        assert result.makespan == almost(3 * 0.5 + 1.0)

    def test_no_client_costs_nothing(self) -> None:
        assert cost_of_job("none") == 0

    def test_a_client_that_is_not_installed_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda module: None)
        with pytest.raises(MissingExtraError, match=r"--engine dask needs .*shoal-dask"):
            cost_of_job("dask")

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["dask", "ray"])
    def test_clients_cost_something(self, engine: Engine) -> None:
        assert 1e-5 < cost_of_job(engine) < 0.1


@pytest.mark.slow
def test_a_task_costs_the_driver_no_more_with_many_workers() -> None:
    costs = DriverCosts()
    few, many = (simulate(Work(20_000, 1.0), Cluster(count), costs) for count in (50, 5000))
    assert many.decided < 4 * few.decided  # where each slot was looked at, it was ten times as much


class TestSearch:
    def test_it_finds_where_the_driver_is_the_limit(self) -> None:
        costs = replace(FREE, batch=Line(0.04))
        found = shortest_tasks(Cluster(10), costs, most=10_000, around=1.0)
        # Ten workers want a message each 0.4 s: nine of ten do where tasks take 0.36 s, and what begins and ends goes on top.
        assert 0.36 < found.duration < 0.55
        assert all(
            (step.utilisation >= 0.9) == (_length(step) >= found.duration) for step in found.steps
        )

    def test_it_looks_where_tasks_begin_to_share_messages(self) -> None:
        found = shortest_tasks(Cluster(2), FREE, most=1000, around=0.09)
        assert ALONE in [pytest.approx(_length(step)) for step in found.steps]

    def test_there_may_be_none(self) -> None:
        found = shortest_tasks(Cluster(2), replace(FREE, batch=Line(1000.0)), most=10)
        assert found.duration == float("inf")


def _length(step: Simulated) -> float:
    return step.work / step.tasks


def test_published_runs_are_what_their_sources_say() -> None:
    ray, *parsl = PUBLISHED
    assert (ray.workers, ray.work.tasks, ray.seconds) == (704, 10_000, 71)
    assert ray.work.ideal(ray.workers, ray.work.durations()) == 15
    assert max(run.work.tasks for run in parsl) == 1_000_000
    assert all(run.work.tasks == 10 * run.workers for run in parsl)


class TestCommand:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No process is started."""
        monkeypatch.setattr(
            process,
            "simulate_apart",
            lambda work, cluster, job: replace(simulate(work, cluster, FREE), memory=123_000_000),
        )

    @pytest.mark.usefixtures("quick")
    @pytest.mark.slow
    def test_tables_fit_a_hundred_columns(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shoal_bench.simulation.published.PUBLISHED", PUBLISHED[:1])
        options = "--workers 3,10000 --tasks 20000 --duration 12.5 --deaths-per-hour 9 --no-search"
        code = app(f"simulate {options}", result_action="return_value")
        assert code == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100
        text = " ".join(" ".join(lines).split())
        assert "Simulated: 20,000 tasks of 12.5 s" in text
        assert "workers driver share memory makespan ideal busy deaths crashed" in text
        assert "123 MB" in text
        assert "issues/8950" in text
        assert "Ray, one-second tasks 704 10,000 71 s 15 s" in text

    def test_everything_is_in_the_json(self, tmp_path: Path) -> None:
        path = tmp_path / "simulated.json"
        code = command.simulate(
            workers="2", tasks=40, duration=0.1, published=False, json_file=path
        )
        assert code == 0
        found = json.loads(path.read_text())
        assert found["simulated"] is True
        assert found["options"]["tasks"] == 40
        (run,) = found["runs"]
        assert (run["workers"], run["tasks"]) == (2, 40)
        assert 2.0 < run["makespan"] < 3.0
        assert run["memory"] > 10_000_000
        assert run["ceiling"] > 0
        assert found["shortest"][0]["duration"] > 0
        assert found["message_costs"]["batch"]["message"] > 0

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"workers": "0"}, "workers"),
            ({"workers": "100..10"}, "backwards"),
            ({"duration": -1.0}, "duration"),
            ({"json_file": Path("/nowhere/simulated.json")}, "no folder /nowhere"),
        ],
    )
    def test_what_makes_no_sense_is_told_before_anything_runs(
        self, options: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.simulate(**options) == 2  # type: ignore[arg-type]
        captured = capsys.readouterr()
        assert told in captured.err
        assert not captured.out

    @pytest.mark.usefixtures("quick")
    def test_the_shortest_tasks_are_told_with_how_many_each_worker_has(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def found(cluster: Cluster, *_: object, **__: object) -> Shortest:
            steps = [simulate(Work(250, length), cluster, FREE) for length in (0.5, 0.25)]
            return Shortest(cluster.workers, 0.25, tuple(steps))

        monkeypatch.setattr("shoal_bench.simulation.search.shortest_tasks", found)
        path = tmp_path / "simulated.json"
        options = f"--workers 10,100 --tasks 20 --no-published --json {path}"
        assert app(f"simulate {options}", result_action="return_value") == 0
        shown = capsys.readouterr().out
        assert "250 ms (25 each)" in shown
        assert "250 ms (2.5 each)" in shown
        assert max(map(len, shown.splitlines())) <= 100
        assert json.loads(path.read_text())["shortest"][0]["tasks_a_worker"] == 25

    @pytest.mark.parametrize(
        ("error", "code", "told"),
        [
            (BadSimulation("deaths_per_hour", 1.0, "too often"), 2, "too often; this is what"),
            (SampleFailed(["python"], -9, ""), 1, "was killed by SIGKILL; this is what there is:"),
        ],
        ids=["comes to no end", "killed"],
    )
    @pytest.mark.usefixtures("quick")
    def test_what_fails_is_told_in_a_line(
        self,
        error: Exception,
        code: int,
        told: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("shoal_bench.simulation.search.shortest_tasks", fail)
        assert command.simulate(workers="2", tasks=10, published=False) == code
        captured = capsys.readouterr()
        assert told in captured.err
        assert "10 tasks of 1 s" in captured.out

    @pytest.mark.usefixtures("quick")
    def test_the_mean_that_was_drawn_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        options = "--workers 4 --tasks 10 --skew 3 --no-search --no-published"
        assert app(f"simulate {options}", result_action="return_value") == 0
        drawn = sum(Work(10, 1.0, skew=3.0).durations()) / 10
        told = f"10 tasks of {SECONDS.show(drawn)} in the mean as drawn (1 s asked for)"
        assert told in " ".join(capsys.readouterr().out.split())

    @pytest.mark.usefixtures("quick")
    def test_a_full_disk_costs_the_file_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("there is no /dev/full")
        options = {"search": False, "published": False}
        assert command.simulate(workers="2", tasks=10, json_file=full, **options) == 1
        captured = capsys.readouterr()
        assert "10 tasks of 1 s" in captured.out
        assert "No space left" in captured.err

    @pytest.mark.usefixtures("quick")
    def test_what_was_simulated_is_written_before_it_is_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(results: object) -> None:
            raise RuntimeError("no table")

        monkeypatch.setattr("shoal_bench.simulation.report.as_tables", fail)
        path = tmp_path / "simulated.json"
        with pytest.raises(RuntimeError, match="no table"):
            command.simulate(workers="2", tasks=10, search=False, published=False, json_file=path)
        assert json.loads(path.read_text())["runs"]

    @pytest.mark.usefixtures("quick")
    def test_what_was_simulated_is_written_if_the_next_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("unforeseen")

        monkeypatch.setattr("shoal_bench.simulation.search.shortest_tasks", fail)
        path = tmp_path / "simulated.json"
        with pytest.raises(RuntimeError, match="unforeseen"):
            command.simulate(workers="2", tasks=10, json_file=path)
        assert json.loads(path.read_text())["runs"]

    @pytest.mark.usefixtures("quick")
    def test_what_was_simulated_is_shown_if_it_is_interrupted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("shoal_bench.simulation.search.shortest_tasks", interrupted)
        path = tmp_path / "simulated.json"
        code = command.simulate(workers="2,4", tasks=10, duration=1.0, json_file=path)
        assert code == 130
        assert [run["workers"] for run in json.loads(path.read_text())["runs"]] == [2]
        assert "10 tasks of 1 s" in capsys.readouterr().out
