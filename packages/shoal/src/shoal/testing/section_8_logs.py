"""Section 8 on any runner: logs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, get_run_logger, runtime, task
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, boom, inc

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner

__all__ = ["LogTests"]


class LogTests(SuiteBase):
    """Sections 8.3 and 8.4."""

    @covers("8.4", needs="sends_logs")
    def test_a_runs_records_arrive_before_its_result(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @task
        def talk(number: int) -> int:
            for line in range(5):
                get_run_logger().info("line %d of %d", line, number)
            return number

        @task
        async def talk_async(number: int) -> int:
            for line in range(5):
                get_run_logger().info("line %d of %d", line, number)
            return number

        @flow(task_runner=runner)
        def main() -> None:
            for a_task in (talk, talk_async):
                futures = [a_task.submit(7), *a_task.map([8, 9])]
                for future in futures:
                    number = future.result()
                    lines = [
                        record.getMessage()
                        for record in caplog.records
                        if getattr(record, "run_name", None) == future.name
                        and record.getMessage().startswith("line")
                    ]
                    assert lines == [f"line {line} of {number}" for line in range(5)]
                caplog.clear()

        main()

    @covers("8.4", needs="sends_logs")
    def test_what_a_record_tells(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @task
        def talk() -> None:
            logger = get_run_logger()
            logger.debug("too low to be seen")
            logger.warning("careful: %s", {"a": 1}, extra={"colour": "red"})
            try:
                raise BoomError("logged, not raised")
            except BoomError:
                logger.exception("oops")

        @flow(task_runner=runner)
        def main() -> None:
            future = talk.submit()
            future.result()
            warning = next(r for r in caplog.records if r.getMessage() == "careful: {'a': 1}")
            assert warning.levelno == logging.WARNING
            assert warning.colour == "red"  # type: ignore[attr-defined]
            assert warning.run_id == future.task_run_id  # type: ignore[attr-defined]
            assert warning.run_label == f"Task run {future.name!r}"  # type: ignore[attr-defined]
            assert warning.name.startswith("shoal")
            assert "BoomError: logged, not raised" in caplog.text
            assert "too low" not in caplog.text

        caplog.set_level(logging.INFO, "shoal")
        main()

    @covers("8.4", needs="sends_logs")
    def test_what_a_record_carries(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @task(log_prints=True)
        def talk() -> None:
            get_run_logger(batch=7).info("talked")
            print("printed")  # noqa: T201

        @flow(task_runner=runner)
        def main() -> tuple[Any, Any, Any]:
            get_run_logger().info("in the flow")
            future = talk.submit()
            future.wait()
            run = runtime.flow_run
            return future.name, future.task_run_id, (run.name, run.id, run.flow_name)

        name, task_run_id, around = main()
        records = {record.getMessage(): record for record in caplog.records}
        of_flow = "flow_run_name", "flow_run_id", "flow_name"
        own = [r for r in caplog.records if getattr(r, "task_run_id", None) == task_run_id]
        texts = {"talked", "printed", "Finished in state Completed()"}
        assert {record.getMessage() for record in own} == texts
        for record in own:
            facts: Any = vars(record)
            assert (facts["task_name"], facts["task_run_name"]) == ("talk", name)
            assert tuple(facts[key] for key in of_flow) == around
        assert vars(records["talked"])["batch"] == 7
        facts = vars(records["in the flow"])
        assert tuple(facts[key] for key in of_flow) == around
        assert "task_run_id" not in facts

    @covers("8.4", needs="sends_logs")
    def test_the_drivers_level_holds_on_workers(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @task
        def talk() -> None:
            get_run_logger().debug("in detail")

        caplog.set_level(logging.DEBUG, "shoal")
        in_flow(runner, lambda: talk.submit().result())
        assert "in detail" in caplog.text

    @covers("8.4", needs="sends_logs")
    def test_prints(
        self,
        runner: TaskRunner,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        @task(log_prints=True)
        def talk(number: int) -> str:
            print("number", number, sep=": ")  # noqa: T201
            return runtime.task_run.name or ""

        @task
        def inherits() -> None:
            print("inherited")  # noqa: T201

        @flow(task_runner=runner)
        def main() -> None:
            name = talk.submit(5).result()
            record = next(r for r in caplog.records if r.getMessage() == "number: 5")
            assert record.run_name == name  # type: ignore[attr-defined]
            assert record.levelno == logging.INFO

        @flow(task_runner=runner, log_prints=True)
        def printing() -> None:
            inherits.submit().result()
            inherits.with_options(log_prints=False).submit().result()

        main()
        printing()
        assert [r.getMessage() for r in caplog.records].count("inherited") == 1
        assert "number" not in capsys.readouterr().out

    @covers("8.4", needs="sends_logs")
    def test_prints_beneath_flows(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @task
        def beneath(text: str) -> None:
            print(text)  # noqa: T201

        @flow(task_runner=runner)
        def inner() -> None:
            print("in the inner flow")  # noqa: T201
            beneath.submit("in its task").wait()

        @flow(task_runner=runner, log_prints=False)
        def silent() -> None:
            beneath.submit("in silence").wait()

        @flow(task_runner=runner, log_prints=True)
        def outer() -> None:
            inner()
            silent()

        outer()
        records = {record.getMessage(): record for record in caplog.records}
        assert records["in the inner flow"].funcName == "inner"
        assert records["in its task"].funcName == "beneath"
        assert records["in its task"].lineno == beneath.fn.__code__.co_firstlineno + 2
        assert "in silence" not in records

    @covers("8.3")
    def test_the_librarys_own_lines(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        @flow(task_runner=runner)
        def main() -> Any:
            good, bad = inc.submit(1), boom.submit()
            good.wait()
            bad.wait()
            return good.name, bad.name

        caplog.set_level(logging.INFO, "shoal")
        good, bad = main()
        lines = {(getattr(r, "run_label", ""), r.levelname, r.getMessage()) for r in caplog.records}
        assert (f"Task run {good!r}", "INFO", "Finished in state Completed()") in lines
        assert any(label == f"Task run {bad!r}" and level == "ERROR" for label, level, _ in lines)
        assert any(text.startswith("Beginning flow run") for _, _, text in lines)

    @covers("8.3")
    def test_a_burst_is_summed_up(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "shoal")
        in_flow(runner, lambda: inc.map(range(500)).result())
        about_tasks = [r for r in caplog.records if r.name == "shoal.task_runs"]
        assert 2 <= len(about_tasks) <= 100
        assert any("more runs finished" in r.getMessage() for r in about_tasks)
