"""Section 8 on any runner: hooks and names."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, get_run_logger, runtime, task
from shoal.exceptions import RunNameError
from shoal.futures import wait
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, Box, boom, identity, inc
from shoal.testing.tools import eventually

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["HookTests"]


class HookTests(SuiteBase):
    """Sections 8.1 and 8.2."""

    @covers("8.1")
    def test_hooks_in_order(self, runner: TaskRunner, signals: Signals) -> None:
        def hook(name: str) -> Any:
            def call(a_task: Any, run: Any, state: Any) -> None:
                signals.append("hooks", f"{name} {a_task.name} {run.task_name} {state.name}")

            return call

        def async_hook(name: str) -> Any:
            async def call(a_task: Any, run: Any, state: Any) -> None:
                signals.append("hooks", f"{name} {a_task.name} {run.task_name} {state.name}")

            return call

        @task(
            on_running=[hook("r1"), async_hook("r2")],
            on_completion=[async_hook("c1"), hook("c2")],
            on_failure=[hook("f1"), async_hook("f2")],
        )
        def work(fails: bool) -> str:
            signals.append("hooks", "work")
            if fails:
                raise BoomError("no")
            return "value"

        @flow(task_runner=runner)
        def main() -> None:
            assert work.submit(False).result() == "value"
            signals.append("hooks", "-")
            work.submit(True).wait()

        main()
        assert signals.lines("hooks") == [
            "r1 work work Running",
            "r2 work work Running",
            "work",
            "c1 work work Completed",
            "c2 work work Completed",
            "-",
            "r1 work work Running",
            "r2 work work Running",
            "work",
            "f1 work work Failed",
            "f2 work work Failed",
        ]

    @covers("8.1")
    def test_what_hooks_are_given(self, runner: TaskRunner, signals: Signals) -> None:
        def look(a_task: Any, run: Any, state: Any) -> None:
            facts = [run.id, run.name, run.run_count, run.parameters, state.result()]
            signals.append("hooks", facts)

        @task(on_completion=[look])
        def work(x: Any, y: int = 5) -> Any:
            return x + y

        @flow(task_runner=runner)
        def main() -> None:
            future = work.submit(inc.submit(0))
            assert future.result() == 6
            facts = [future.task_run_id, future.name, 1, {"x": 1, "y": 5}, 6]
            assert signals.lines("hooks") == [str(facts)]

        main()

    @covers("8.1", "7.1")
    def test_what_hooks_are_told_of_the_times(self, runner: TaskRunner, signals: Signals) -> None:
        def look(a_task: Any, run: Any, state: Any) -> None:
            details = state.state_details
            assert (details.task_run_id, details.flow_run_id) == (run.id, run.flow_run_id)
            assert run.end_time == (state.timestamp if state.is_final() else None)
            ran = run.total_run_time.total_seconds()
            facts = run.state_name, run.state_type.value, run.start_time.timestamp(), ran
            signals.append("hooks", json.dumps([*facts, run.flow_run_id]))

        def may_retry(a_task: Any, run: Any, state: Any) -> bool:
            look(a_task, run, state)
            return True

        hooks: Any = {"on_running": [look], "on_completion": [look]}

        @task(retries=1, retry_delay_seconds=0.3, retry_condition_fn=may_retry, **hooks)
        def work() -> None:
            time.sleep(0.1)
            if runtime.task_run.run_count == 1:
                raise BoomError("no")

        @flow(task_runner=runner)
        def main() -> Any:
            work.submit().wait()
            return runtime.flow_run.id

        before = time.time()
        flow_run_id = main()
        seconds = time.time() - before
        told = [json.loads(line) for line in signals.lines("hooks")]
        assert [(name, kind) for name, kind, *_ in told] == [
            ("Running", "RUNNING"),
            ("Failed", "FAILED"),
            ("Retrying", "RUNNING"),
            ("Completed", "COMPLETED"),
        ]
        assert {around for *_, around in told} == {flow_run_id}
        starts = [start for _, _, start, _, _ in told]
        assert before - 1 < min(starts)
        assert max(starts) - min(starts) < 0.25, "it is when the first attempt began"
        first, failed, again, last = (ran for _, _, _, ran, _ in told)
        assert first < failed <= again < last
        assert failed >= 0.1
        assert 0.2 <= last < seconds - 0.25, "both attempts, and not the delay between them"

    @covers("8.1", "7.3")
    def test_late_ends_know_when_the_run_began(self, runner: TaskRunner, signals: Signals) -> None:
        def look(a_task: Any, run: Any, state: Any) -> None:
            assert run.start_time is not None
            signals.append("hooks", f"{state.name} {run.total_run_time.total_seconds()}")

        @task(on_completion=[look])
        def returns_a_run() -> Any:
            return inc.submit(1)

        @task(on_failure=[look], timeout_seconds=0.2)
        def takes_long() -> None:
            for _ in range(1000):
                time.sleep(0.01)

        @flow(task_runner=runner)
        def main() -> None:
            assert returns_a_run.submit().result() == 2
            takes_long.submit().wait()
            eventually(lambda: len(signals.lines("hooks")) == 2, "both hooks")

        main()
        told = dict(line.split() for line in signals.lines("hooks"))
        assert told.keys() == {"Completed", "TimedOut"}
        assert 0 < float(told["Completed"]) < 10
        assert 0.15 < float(told["TimedOut"]) < 10

    @covers("8.1", "7.3")
    def test_a_time_limit_is_for_the_function_not_its_hooks(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        limit = 0.7

        def takes_long(a_task: Any, run: Any, state: Any) -> None:
            signals.append("hooks", f"{a_task.name} {state.name}")
            time.sleep(1.2 * limit)
            signals.append("hooks", f"{a_task.name} ends")

        options: Any = {"timeout_seconds": limit, "on_completion": [takes_long]}

        @task(**options)
        def work() -> int:
            return 1

        @task(**options)
        async def coroutine() -> int:
            return 1

        @task(timeout_seconds=limit, on_failure=[takes_long])
        def fails() -> None:
            raise BoomError("no")

        def takes_its_time(a_task: Any, run: Any, state: Any) -> bool:
            time.sleep(1.2 * limit)
            return False

        doubtful = fails.with_options(
            name="doubtful", retries=1, retry_condition_fn=takes_its_time, on_failure=[]
        )

        @flow(task_runner=runner)
        def main() -> list[str]:
            futures = [work.submit(), coroutine.submit(), fails.submit(), doubtful.submit()]
            wait(futures)
            return [future.state.name for future in futures]

        assert main() == ["Completed", "Completed", "Failed", "Failed"]
        told = sorted(signals.lines("hooks"))
        names = [("coroutine", "Completed"), ("fails", "Failed"), ("work", "Completed")]
        assert told == [f"{name} {end}" for name, state in names for end in (state, "ends")]

    @covers("8.1", "7.1")
    def test_hooks_and_retries(self, runner: TaskRunner, signals: Signals) -> None:
        def note_failure(a_task: Any, run: Any, state: Any) -> None:
            signals.append("failed", run.run_count)

        @task(retries=2)
        def work() -> None:
            raise BoomError("no")

        work.on_failure(note_failure)

        @work.on_running
        def note_begin(a_task: Any, run: Any, state: Any) -> None:
            signals.append("began", f"{run.run_count} {state.name}")

        in_flow(runner, lambda: work.submit().wait())
        assert signals.lines("failed") == ["3"]
        assert signals.lines("began") == ["1 Running", "2 Retrying", "3 Retrying"]

    @covers("8.1")
    def test_failing_hooks(
        self, runner: TaskRunner, signals: Signals, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(a_task: Any, run: Any, state: Any) -> None:
            raise ValueError("a broken hook")

        def works(a_task: Any, run: Any, state: Any) -> None:
            signals.append("hooks", state.name)

        both = [fails, works]

        @task(on_running=both, on_completion=both, on_failure=both)
        def work(broken: bool) -> str:
            if broken:
                raise BoomError("no")
            return "value"

        @flow(task_runner=runner)
        def main() -> None:
            assert work.submit(False).result() == "value"
            with pytest.raises(BoomError):
                work.submit(True).result()

        main()
        assert signals.lines("hooks") == ["Running", "Completed", "Running", "Failed"]

    @covers("8.1", "8.4", needs="sends_logs")
    def test_failing_hooks_are_logged(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(a_task: Any, run: Any, state: Any) -> None:
            raise ValueError("a broken hook")

        in_flow(runner, lambda: inc.with_options(on_completion=[fails]).submit(1).result())
        assert "a broken hook" in caplog.text

    @covers("8.1", "8.4", needs="sends_logs")
    def test_hooks_know_their_run(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        def hook(a_task: Any, run: Any, state: Any) -> None:
            get_run_logger().info("%s hook of %s", state.name, runtime.task_run.name == run.name)

        @task
        def returns_a_run() -> Any:
            return hold_on.submit()

        @task
        def hold_on() -> None:
            time.sleep(0.01)

        hooks: Any = {"on_running": [hook], "on_completion": [hook], "on_failure": [hook]}

        @flow(task_runner=runner)
        def main() -> None:
            hooked = inc.with_options(**hooks)
            hooked.submit(1).wait()
            hooked(1)
            returns_a_run.with_options(**hooks).submit().wait()
            boom.with_options(**hooks).submit().wait()

        main()
        eventually(lambda: caplog.text.count("Completed hook") == 3, "the hook of the late end")
        text = [record.getMessage() for record in caplog.records]
        assert "Failed hook of True" in text
        assert not any("hook of False" in line or "Hook" in line for line in text)

    # ------------------------------------------------------------------ names

    @covers("8.2")
    def test_run_names(self, runner: TaskRunner) -> None:
        def make_name() -> str:
            return "made"

        def make_name_of(parameters: dict[str, Any]) -> str:
            return f"of {parameters['x']}"

        @task(task_run_name="{x.label} {y[0]:>3} {z!r}")
        def name_it(x: Any, y: Any, z: str = "zet") -> Any:
            return runtime.task_run.name

        @flow(task_runner=runner)
        def main() -> None:
            future = name_it.submit(Box(1, "lab"), [inc.submit(1)])
            assert future.result() == "lab   2 'zet'"
            assert future.name == "lab   2 'zet'"
            for template, name in ((make_name, "made"), (make_name_of, "of 5")):
                named = identity.with_options(task_run_name=template).submit(5)
                assert named.result() == 5
                assert named.name == name

        main()

    @covers("8.2")
    def test_a_bad_name_fails_that_run(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            for template in ("{nothing}", "{x.missing}", "{x", "{x[7]}"):
                future = identity.with_options(task_run_name=template).submit([1])
                with pytest.raises(RunNameError) as caught:
                    future.result()
                assert caught.value.template == template
                assert template in str(future.state)
                assert future.state.is_failed()
            assert inc.submit(1).result() == 2

        main()

    @covers("8.2")
    def test_a_name_function_that_fails(self, runner: TaskRunner) -> None:
        def make_name() -> str:
            raise ValueError("no name comes to mind")

        @flow(task_runner=runner)
        def main() -> None:
            future = identity.with_options(task_run_name=make_name).submit(1)
            with pytest.raises(RunNameError, match="no name comes to mind"):
                future.result()

        main()
