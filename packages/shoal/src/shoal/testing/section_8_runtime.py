"""Sections 1.5 and 8.5 on any runner: what a run knows of itself, tags, and context variables."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from shoal import flow, runtime, tags, task
from shoal.context import FlowRunContext, TaskRunContext, get_run_context
from shoal.states import Completed
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import boom, inc

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner

__all__ = ["RuntimeTests"]

COLOUR = contextvars.ContextVar("colour", default="none")


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
