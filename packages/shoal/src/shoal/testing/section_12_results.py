"""Section 12 on any runner: results that are kept, and found again.

12.1  a kept result takes the place of a run, which ends in the state `Cached`
12.2  what the key is made of, and for how long a result counts
12.3  what is kept: values of runs that have completed
12.4  one computation of a key at a time: whoever comes second has its result
12.5  what is wrong with keeping fails no run
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, get_run_logger, task
from shoal.cache_policies import INPUTS, NO_CACHE
from shoal.results.storage import open_storage
from shoal.states import Completed, Failed
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, boom, inc

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["ResultTests"]


class ResultTests(SuiteBase):
    """Section 12."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        """Where the results of a test are kept."""
        return os.fspath(tmp_path / "results")

    @covers("12.1")
    def test_a_kept_result_takes_the_place_of_a_run(
        self, runner: TaskRunner, signals: Signals, folder: str
    ) -> None:
        def ends(a_task: Any, run: Any, state: Any) -> None:
            signals.append("hooks", state.name)

        @task(
            cache_policy=INPUTS,
            result_storage=folder,
            on_running=[lambda *_: signals.append("hooks", "begins")],
            on_completion=[ends],
        )
        def double(x: Any, y: int = 0) -> Any:
            signals.append("calls", (x, y))
            return {"value": x * 2}

        def body() -> None:
            first = double.submit(1)
            assert first.result() == {"value": 2}
            assert first.state.name == "Completed"
            for run in (double.submit(x=1, y=0), double.submit(inc.submit(0)), *double.map([1, 1])):
                assert run.result() == {"value": 2}
                assert (run.state.name, run.state.type) == ("Cached", "COMPLETED")
            direct = double(1, return_state=True)
            assert (direct.name, direct.result()) == ("Cached", {"value": 2})
            assert [run.result() for run in double.map([1, 2], y=3)] == [{"value": 2}, {"value": 4}]

        in_flow(runner, body)
        assert sorted(signals.lines("calls")) == ["(1, 0)", "(1, 3)", "(2, 3)"]
        hooks = signals.lines("hooks")
        assert [hooks.count(name) for name in ("begins", "Completed", "Cached")] == [3, 3, 5]

    @covers("12.1")
    def test_kinds_of_tasks(self, runner: TaskRunner, signals: Signals, folder: str) -> None:
        options: Any = {"cache_policy": INPUTS, "result_storage": folder, "timeout_seconds": 30}

        @task(**options)
        async def coroutine(x: int) -> int:
            signals.append("calls", "coroutine")
            return x

        @task(**options)
        def generator(x: int) -> Any:
            signals.append("calls", "generator")
            yield from range(x)

        @task(**options)
        async def async_generator(x: int) -> Any:
            signals.append("calls", "async generator")
            for item in range(x):
                yield item

        @task(**options)
        def of_runs(x: int) -> Any:
            signals.append("calls", "of runs")
            return {"runs": inc.map([x, x])}

        def body() -> None:
            for kind, value in (
                (coroutine, 3),
                (generator, [0, 1, 2]),
                (async_generator, [0, 1, 2]),
                (of_runs, {"runs": [4, 4]}),
            ):
                for name in ("Completed", "Cached"):
                    run = kind.submit(3)
                    assert run.result() == value
                    assert run.state.name == name

        in_flow(runner, body)
        assert signals.lines("calls") == ["coroutine", "generator", "async generator", "of runs"]

    @covers("12.2")
    def test_what_makes_the_key(self, runner: TaskRunner, signals: Signals, folder: str) -> None:
        def work(x: int, y: int = 0) -> int:
            signals.append("calls", x)
            return x

        def by_x(context: Any, parameters: dict[str, Any]) -> str:
            return f"{context.task.name} {parameters['x']}"

        def names(*calls: Any, **options: Any) -> list[str]:
            kept = task(work, name="work", result_storage=folder, **options)
            return [kept.submit(*call, return_state=True).name for call in calls]

        def body() -> None:
            new, found = "Completed", "Cached"
            assert names((1, 1), (1, 2), cache_policy=INPUTS - "y") == [new, found]
            assert names((1, 1), (1, 2), cache_key_fn=by_x) == [new, found]
            template = "{parameters[x]}/{flow_run.flow_name}.json"
            assert names((1, 1), (1, 2), (2, 2), result_storage_key=template) == [new, found, new]
            assert names((7,), (7,), persist_result=True) == [new, found]
            assert names((7,), (7,), cache_policy=NO_CACHE) == [new, new]
            assert names((7,), (7,), persist_result=False, cache_key_fn=by_x) == [new, new]
            assert names((7,), (7,), cache_key_fn=by_x, refresh_cache=True) == [new, new]
            assert names((7,), cache_key_fn=by_x) == [found]
            assert names((8,), (8,), cache_key_fn=by_x, cache_expiration=0) == [new, new]
            hour = timedelta(hours=1)
            assert names((8,), (8,), cache_key_fn=by_x, cache_expiration=hour) == [new, found]

        in_flow(runner, body)

    @covers("12.2")
    def test_what_flows_say_holds_for_all_beneath(
        self, runner: TaskRunner, signals: Signals, folder: str
    ) -> None:
        @task
        def leaf(x: int) -> int:
            signals.append("calls", x)
            return x

        @task(cache_policy=INPUTS)
        def other(x: int) -> int:
            return x

        @task(persist_result=False)
        def parent(x: int) -> Any:
            other.submit(x).wait()
            leaf.submit(x).wait()
            return leaf.submit(x, return_state=True).name, leaf(x, return_state=True).name

        @flow
        def inner(x: int) -> str:
            return leaf(x, return_state=True).name

        @flow(
            task_runner=runner, persist_result=True, result_storage=folder, result_serializer="json"
        )
        def main() -> None:
            leaf.submit(1).wait()
            assert leaf.submit(1, return_state=True).name == "Cached"
            assert [state.name for state in leaf.map([1, 1], return_state=True)] == ["Cached"] * 2
            assert leaf(1, return_state=True).name == "Cached"
            ran = parent.submit(2)
            assert ran.result() == ("Cached", "Cached")
            assert ran.state.name == "Completed"
            assert inner(3) == "Completed"

        main()
        assert signals.lines("calls") == ["1", "2", "3"]
        kept = [entry.record.task_name for entry in open_storage(folder).list()]
        assert sorted(kept) == ["leaf", "leaf", "leaf", "other"]

    @covers("12.1")
    def test_workers_keep_results_where_the_driver_does(
        self, runner: TaskRunner, signals: Signals, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHOAL_RESULTS_STORAGE", folder)

        @task
        def outer(x: int) -> str:
            @task(cache_policy=INPUTS)
            def kept(x: int) -> int:
                signals.append("calls", x)
                return x

            @flow
            def inner() -> str:
                return kept.submit(x, return_state=True).name

            return f"{kept(x, return_state=True).name} {inner()}"

        def body() -> list[str]:
            return [outer.submit(1).result(), outer(1)]

        assert in_flow(runner, body) == ["Completed Cached", "Cached Cached"]
        assert signals.lines("calls") == ["1"]
        assert len(open_storage(folder).list()) == 1

    @covers("12.3")
    def test_what_is_kept(self, runner: TaskRunner, signals: Signals, folder: str) -> None:
        @task(cache_policy=INPUTS, result_storage=folder)
        def work(what: str) -> Any:
            signals.append("calls", what)
            if what == "raises":
                raise BoomError("no")
            if what == "fails":
                return Failed("no")
            if what == "returns a run that fails":
                return boom.submit()
            return Completed(message="told", data=5)

        def body() -> None:
            for what in ("raises", "fails", "returns a run that fails"):
                for _ in range(2):
                    assert work.submit(what, return_state=True).is_failed()
            states = [work.submit("completes", return_state=True) for _ in range(2)]
            assert [(state.name, state.result()) for state in states] == [
                ("Completed", 5),
                ("Cached", 5),
            ]

        in_flow(runner, body)
        assert len(signals.lines("calls")) == 7

    @covers("12.3", "7.1")
    def test_retries(self, runner: TaskRunner, signals: Signals, folder: str) -> None:
        @task(cache_policy=INPUTS, result_storage=folder, retries=2)
        def work(x: int) -> int:
            signals.append("calls", x)
            if len(signals.lines("calls")) < 2:
                raise BoomError("no")
            return x

        def body() -> None:
            states = [work.submit(1, return_state=True) for _ in range(2)]
            assert [state.name for state in states] == ["Completed", "Cached"]

        in_flow(runner, body)
        assert len(signals.lines("calls")) == 2

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("12.4", needs="concurrent")
    def test_a_key_is_computed_once_at_a_time(
        self, runner: TaskRunner, signals: Signals, folder: str, kind: str
    ) -> None:
        options: Any = {"cache_policy": INPUTS, "result_storage": folder, "batch": False}

        @task(**options)
        def work(x: int) -> int:
            signals.append("calls", x)
            signals.set("began")
            signals.wait("go")
            return x

        @task(**options)
        async def work_async(x: int) -> int:
            import anyio.to_thread

            signals.append("calls", x)
            signals.set("began")
            await anyio.to_thread.run_sync(signals.wait, "go")
            return x

        def body() -> None:
            asked = work if kind == "sync" else work_async
            runs = [asked.submit(1)]
            signals.wait("began")
            runs += [asked.submit(1) for _ in range(4)]
            signals.set("go")
            assert [run.result() for run in runs] == [1] * 5
            assert [run.state.name for run in runs] == ["Completed", *["Cached"] * 4]

        in_flow(runner, body)
        assert signals.lines("calls") == ["1"]

    @covers("12.4", "7.4", needs=("concurrent", "stops"))
    def test_who_waits_can_be_stopped_and_takes_over(
        self, runner: TaskRunner, signals: Signals, folder: str
    ) -> None:
        @task(cache_policy=INPUTS, result_storage=folder, batch=False)
        def work(x: int) -> int:
            signals.append("calls", x)
            signals.set("began")
            if len(signals.lines("calls")) == 1:
                signals.wait("never")
            return x

        @task(
            cache_policy=INPUTS,
            result_storage=folder,
            batch=False,
            name="work",
            timeout_seconds=0.2,
        )
        def impatient(x: int) -> int:
            signals.append("calls", "impatient")
            return x

        def body() -> None:
            first = work.submit(1)
            signals.wait("began")
            late = impatient.submit(1)
            late.wait()
            assert late.state.name == "TimedOut"
            second = work.submit(1)
            first.cancel()
            assert second.result() == 1
            assert first.state.is_cancelled()

        in_flow(runner, body)
        assert signals.lines("calls") == ["1", "1"]

    @covers("12.4", "9.1")
    def test_a_run_that_needs_its_own_key(
        self, runner: TaskRunner, signals: Signals, folder: str
    ) -> None:
        @task(cache_key_fn=lambda *_: "one for all", result_storage=folder)
        def work(depth: int) -> int:
            signals.append("calls", depth)
            return depth if depth == 0 else work(depth - 1) + 1

        def body() -> int:
            return work.submit(2).result()

        assert in_flow(runner, body) == 2
        assert signals.lines("calls") == ["2", "1", "0"]

    @covers("12.5")
    def test_storage_that_cannot_be_used(
        self, runner: TaskRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")

        @task(cache_policy=INPUTS, result_storage=tmp_path / "file" / "results")
        def work(x: int) -> int:
            return x

        def body() -> None:
            runs = [work.submit(1), work.submit(1), *work.map([1, 2])]
            assert [run.result() for run in runs] == [1, 1, 1, 2]
            assert {run.state.name for run in runs} == {"Completed"}

        in_flow(runner, body)

    @covers("12.5")
    def test_values_that_cannot_be_written(
        self,
        runner: TaskRunner,
        folder: str,
        flags: dict[str, bool],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        @task(cache_policy=INPUTS, result_storage=folder, result_serializer="json")
        def work(x: int) -> Any:
            get_run_logger().info("works")
            return [x, BoomError("not JSON")]

        def body() -> None:
            for _ in range(2):
                run = work.submit(1)
                assert run.result()[0] == 1
                assert run.state.name == "Completed"

        in_flow(runner, body)
        if flags["sends_logs"]:
            assert [record.getMessage() for record in caplog.records].count("works") == 2
            assert "the result cannot be written" in caplog.text

    @covers("12.5")
    def test_keys_that_cannot_be_made(self, runner: TaskRunner, folder: str) -> None:
        def fails(context: Any, parameters: dict[str, Any]) -> str:
            raise BoomError("no key")

        @task(cache_key_fn=fails, result_storage=folder)
        def work() -> int:
            return 1

        @task(result_storage_key="{parameters[x].name}", result_storage=folder)
        def other(x: int) -> int:
            return x

        def body() -> None:
            assert isinstance(work.submit().exception(), BoomError)
            assert "result_storage_key" in str(other.submit(1).exception())

        in_flow(runner, body)
