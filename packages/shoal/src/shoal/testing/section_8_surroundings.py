"""Section 8 on any runner: hooks, names, tags, and what a run knows of itself."""

from __future__ import annotations

import contextvars
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, get_run_logger, runtime, tags, task
from shoal.context import FlowRunContext, TaskRunContext, get_run_context
from shoal.exceptions import RunNameError
from shoal.states import Completed
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, Box, boom, identity, inc
from shoal.testing.tools import eventually

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["HookTests", "RuntimeTests"]

COLOUR = contextvars.ContextVar("colour", default="none")


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


class RuntimeTests(SuiteBase):
    """Sections 1.5 and 8.5, and context variables."""

    @covers("1.5")
    def test_what_a_run_knows_of_itself(self, runner: TaskRunner) -> None:
        @task(tags=["own"])
        def whoami(x: Any, y: int = 2) -> Any:
            run, around = runtime.task_run, runtime.flow_run
            return (
                (run.id, run.name, run.task_name, run.parameters, run.run_count, run.tags),
                (around.id, around.name, around.flow_name, around.parameters),
            )

        @task
        async def whoami_async() -> Any:
            return runtime.task_run.id, runtime.flow_run.id

        @flow(task_runner=runner)
        def main(greeting: str = "hello") -> None:
            future = whoami.submit(inc.submit(0))
            mine, around = future.result()
            assert mine == (
                future.task_run_id,
                future.name,
                "whoami",
                {"x": 1, "y": 2},
                1,
                ["own"],
            )
            run = runtime.flow_run
            assert around == (run.id, run.name, "main", {"greeting": "hello"})
            other = whoami_async.submit()
            assert other.result() == (other.task_run_id, run.id)
            assert runtime.task_run.id is None

        main()

    @covers("1.5")
    def test_the_context_of_a_run(self, runner: TaskRunner) -> None:
        @task
        def look(x: Any, y: int = 2) -> Any:
            context, around = get_run_context(), FlowRunContext.get()
            assert isinstance(context, TaskRunContext)
            assert around is not None
            run, flow_run = context.task_run, around.flow_run
            assert flow_run.state_name == "Running"
            assert flow_run.start_time is not None
            assert run.end_time is flow_run.end_time is None
            return (
                (context.task.name, context.parameters, context.log_prints),
                (run.id, run.name, run.state_name, run.flow_run_id),
                (around.flow.name, around.parameters, flow_run.id),
            )

        @task
        async def look_async() -> Any:
            context = get_run_context()
            assert isinstance(context, TaskRunContext)
            assert context.start_time is not None
            return context.task_run.id

        @flow(task_runner=runner)
        def main(greeting: str = "hello") -> None:
            context = get_run_context()
            assert isinstance(context, FlowRunContext)
            assert TaskRunContext.get() is None
            future = look.submit(inc.submit(0))
            of_task, of_run, around = future.result()
            assert of_task == ("look", {"x": 1, "y": 2}, False)
            flow_run_id = context.flow_run.id
            assert of_run == (future.task_run_id, future.name, "Running", flow_run_id)
            assert (
                around
                == ("main", {"greeting": "hello"}, flow_run_id)
                == (
                    context.flow.name,
                    context.parameters,
                    runtime.flow_run.id,
                )
            )
            other = look_async.submit()
            assert other.result() == other.task_run_id

        main()

    @covers("1.3", "4.1")
    def test_states_tell_whose_they_are(self, runner: TaskRunner) -> None:
        shared = Completed("fine")

        @task
        def returns(it: Any) -> Any:
            return it

        @flow(task_runner=runner)
        def main() -> Any:
            futures = [
                returns.submit(1),
                returns.submit(shared),
                returns.submit(shared),
                *returns.map([1, 2]),
                boom.submit(),
            ]
            for future in futures:
                future.state  # noqa: B018  # which may be open
                future.wait()
            flow_run_id = runtime.flow_run.id
            for future in futures:
                details = future.state.state_details
                assert details.task_run_id == future.task_run_id
                assert details.flow_run_id == flow_run_id
            direct = returns(1, return_state=True).state_details
            assert direct.flow_run_id == flow_run_id
            assert direct.task_run_id is not None
            return Completed(flow_run_id)

        state = main(return_state=True)
        assert state.state_details.flow_run_id == state.message
        assert state.state_details.task_run_id is None
        assert shared.state_details == Completed().state_details, "it is the user's own"

    @covers("1.5", "3.3")
    def test_nested_flows_know_their_parents(self, runner: TaskRunner) -> None:
        @task
        def around() -> Any:
            run = runtime.flow_run
            return run.id, run.parent_flow_run_id, run.root_flow_run_id

        @flow(task_runner=runner)
        def inner() -> Any:
            return around.submit().result()

        @flow(task_runner=runner)
        def middle() -> Any:
            return runtime.flow_run.id, inner()

        @flow(task_runner=runner)
        def outer() -> Any:
            return runtime.flow_run.id, *middle()

        outer_id, middle_id, (inner_id, parent, root) = outer()
        assert (parent, root) == (middle_id, outer_id)
        assert len({outer_id, middle_id, inner_id}) == 3

    @covers("8.5")
    def test_tags(self, runner: TaskRunner) -> None:
        @task(tags=["own"])
        def look() -> Any:
            return sorted(runtime.task_run.tags)

        @flow(task_runner=runner)
        def main() -> None:
            with tags("a"):
                with tags("b", "a"):
                    inside = look.submit()
                    mapped = look.with_options(tags=["more"]).submit()
                after = look.submit()
                assert look() == ["a", "own"]
            assert inside.result() == ["a", "b", "own"]
            assert mapped.result() == ["a", "b", "more"]
            assert after.result() == ["a", "own"]
            assert look.submit().result() == ["own"]

        main()
        with tags("outside"):

            @flow(task_runner=runner)
            def tagged() -> Any:
                return look.submit().result(), runtime.flow_run.tags

            assert tagged() == (["outside", "own"], ["outside"])

    @covers("8.5", "9.1")
    def test_tags_apply_to_what_is_started_inside(self, runner: TaskRunner) -> None:
        @task
        def look() -> Any:
            return runtime.task_run.tags

        @task
        def parent() -> Any:
            with tags("inner"):
                return look.submit().result()

        def body() -> Any:
            with tags("outer"):
                return parent.submit().result()

        assert in_flow(runner, body) == ["inner", "outer"]

    @covers("2.3", needs="shares_context")
    def test_context_variables(self, runner: TaskRunner) -> None:
        @task
        def look() -> str:
            seen = COLOUR.get()
            COLOUR.set("changed")
            return seen

        @task
        async def look_async() -> str:
            seen = COLOUR.get()
            COLOUR.set("changed")
            return seen

        @flow(task_runner=runner)
        def main() -> None:
            COLOUR.set("red")
            red = [look.submit(), look_async.submit(), look.submit()]
            COLOUR.set("blue")
            assert look.submit().result() == "blue"
            assert look() == "blue"
            assert [future.result() for future in red] == ["red"] * 3
            assert COLOUR.get() == "blue"

        contextvars.copy_context().run(main)
