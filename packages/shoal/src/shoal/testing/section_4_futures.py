"""Section 4 on any runner: what a future tells, exceptions, callbacks, lists of futures."""

from __future__ import annotations

import threading
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, task
from shoal.exceptions import BlockingWaitInLoop
from shoal.futures import (
    TaskFuture,
    TaskFutureList,
    resolve_futures_to_results,
    resolve_futures_to_states,
)
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import BoomError, boom, hold, inc
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["FutureTests"]


class FutureTests(SuiteBase):
    """Section 4, but for memory and waiting."""

    # ------------------------------------------------------------------ identity and state

    @covers("4.1")
    def test_identity(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = [inc.submit(1), inc.submit(1), *inc.map([1, 2])]
            assert len({future.task_run_id for future in futures}) == 4
            for future in futures:
                assert str(uuid.UUID(future.task_run_id)) == future.task_run_id
            assert len(set(futures)) == 4
            assert futures[0] != futures[1]
            mapped = inc.map([1, 2])
            assert mapped[0] == mapped[0]
            assert hash(mapped[1]) == hash(list(mapped)[1])
            assert mapped[1] != mapped[0]

        main()

    @covers("4.1", "8.2")
    def test_default_names(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = inc.submit(1)
            prefix, _, suffix = future.name.rpartition("-")
            assert prefix == "inc"
            assert len(suffix) == 3
            int(suffix, 16)

        main()

    @covers("4.1")
    def test_a_state_after_the_end(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            good, bad = inc.submit(1), boom.submit("no good")
            assert good.result() == 2
            bad.wait()
            assert good.done()
            assert good.state.is_completed()
            assert str(good.state) == "Completed()"
            assert good.exception() is None
            assert bad.done()
            assert bad.state.is_failed()
            assert "no good" in str(bad.state)
            assert isinstance(bad.exception(), BoomError)

        main()

    @covers("4.1", "5.2", needs=("concurrent", "stops"))
    def test_a_state_is_true_at_every_moment(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @flow(task_runner=single_runner)
        def main() -> None:
            first = hold.submit(signals, "go", 1)
            queued, dependant = inc.submit(1), inc.submit(first)
            signals.wait("go began")
            eventually(
                lambda: first.state.is_running(),  # noqa: PLW0108 - another state each time
                "the run is RUNNING",
            )
            assert queued.state.is_pending()
            assert dependant.state.is_pending()
            assert not any(future.done() for future in (first, queued, dependant))
            signals.set("go")
            assert (first.result(), queued.result(), dependant.result()) == (1, 2, 2)
            assert all(future.state.is_completed() for future in (first, queued, dependant))

        main()

    @covers("4.1")
    def test_the_native_future_can_be_asked_for(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = inc.submit(1)
            native = future.native
            assert future.result() == 2
            assert native is None or native is not future

        main()

    @covers("4.1", needs="concurrent")
    def test_waits_that_expire(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = hold.submit(signals, "go", "value")
            future.wait(timeout=0.01)
            future.wait(0)
            assert not future.done()
            for timeout in (0, 0.01):
                with pytest.raises(TimeoutError, match=future.name):
                    future.result(timeout=timeout)
                with pytest.raises(TimeoutError, match=future.name):
                    future.exception(timeout=timeout)
            signals.set("go")
            assert future.result(timeout=PATIENCE) == "value"
            assert future.result(timeout=0) == "value"

        main()

    @covers("4.1", needs="concurrent")
    def test_many_threads_wait_for_one_run(self, runner: TaskRunner, signals: Signals) -> None:
        results: list[Any] = []

        @flow(task_runner=runner)
        def main() -> None:
            future = hold.submit(signals, "go", 5)
            threads = [
                threading.Thread(target=lambda: results.append(future.result())) for _ in range(10)
            ]
            for thread in threads:
                thread.start()
            signals.set("go")
            for thread in threads:
                thread.join(PATIENCE)

        main()
        assert results == [5] * 10

    # ------------------------------------------------------------------ exceptions

    @covers("4.2")
    def test_the_tasks_own_exception(self, runner: TaskRunner) -> None:
        @task
        def fails() -> None:
            def deep_inside_the_task() -> None:
                raise BoomError("deep", code=42)

            deep_inside_the_task()

        @flow(task_runner=runner)
        def main() -> None:
            future = fails.submit()
            with pytest.raises(BoomError) as caught:
                future.result()
            assert caught.value.code == 42
            text = "".join(traceback.format_exception(caught.value))
            assert "deep_inside_the_task" in text
            again = future.result(raise_on_failure=False)
            assert isinstance(again, BoomError)
            assert again.code == 42
            inner = future.state.result(raise_on_failure=False)
            assert isinstance(inner, BoomError)

        main()

    @covers("4.2")
    def test_causes_and_groups_survive(self, runner: TaskRunner) -> None:
        @task
        def chained() -> None:
            try:
                raise KeyError("cause")
            except KeyError as error:
                raise BoomError("effect") from error

        @task
        def grouped() -> None:
            raise ExceptionGroup("several", [ValueError("one"), BoomError("two")])

        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(BoomError, match="effect") as caught:
                chained.submit().result()
            assert "KeyError: 'cause'" in "".join(traceback.format_exception(caught.value))
            with pytest.raises(ExceptionGroup) as group:
                grouped.submit().result()
            assert [type(error) for error in group.value.exceptions] == [ValueError, BoomError]

        main()

    @covers("4.2")
    def test_an_exception_can_be_raised_many_times(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = boom.submit()
            lengths = []
            for _ in range(20):
                with pytest.raises(BoomError) as caught:
                    future.result()
                lengths.append(len(traceback.format_exception(caught.value)))
            assert lengths[-1] <= lengths[0] + 2, "the traceback grows with every raise"

        main()

    @covers("4.2", "7.7")
    def test_an_exception_that_is_hard_to_pickle(self, runner: TaskRunner) -> None:
        @task
        def fails() -> None:
            class LocalError(Exception):
                def __init__(self, one: int, two: int) -> None:
                    super().__init__(f"local error {one}{two}")

            raise LocalError(1, 2)

        @flow(task_runner=runner)
        def main() -> None:
            future = fails.submit()
            with pytest.raises(Exception, match="local error 12"):
                future.result(timeout=PATIENCE)
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    # ------------------------------------------------------------------ callbacks

    @covers("4.1")
    def test_callbacks(self, runner: TaskRunner) -> None:
        calls: list[Any] = []
        done = threading.Event()

        def record(future: TaskFuture[Any]) -> None:
            calls.append((future, future.done(), future.state.name))

        def fails(future: TaskFuture[Any]) -> None:
            raise BoomError("in a callback")

        @flow(task_runner=runner)
        def main() -> None:
            good, bad, mapped = inc.submit(1), boom.submit(), inc.map([1, 2])
            for future in (good, bad, mapped[1]):
                future.add_done_callback(fails)
                future.add_done_callback(record)
            good.wait()
            good.add_done_callback(record)  # it has ended: called at once
            good.add_done_callback(lambda future: done.set())
            mapped.wait()
            bad.wait()
            eventually(lambda: len(calls) == 4 and done.is_set(), "all callbacks are called")
            assert sorted(name for _, _, name in calls) == ["Completed"] * 3 + ["Failed"]
            assert all(ended for _, ended, _ in calls)
            assert {future for future, _, _ in calls} == {good, bad, mapped[1]}

        main()

    @covers("4.1")
    def test_a_callback_may_use_the_library(self, runner: TaskRunner) -> None:
        got: list[Any] = []

        @flow(task_runner=runner)
        def main() -> None:
            future = inc.submit(1)
            future.add_done_callback(lambda done: got.append(inc.submit(done.result())))
            eventually(lambda: got, "the callback has submitted")
            assert got[0].result() == 3

        main()

    # ------------------------------------------------------------------ lists

    @covers("4.3")
    def test_a_list_of_futures_is_a_sequence(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            futures = inc.map(range(5))
            extra = inc.submit(10)
            assert isinstance(futures, TaskFutureList)
            assert len(futures) == 5
            assert futures[-1].result() == 5
            assert [future.result() for future in futures] == [1, 2, 3, 4, 5]
            assert [future.result() for future in futures[1:4:2]] == [2, 4]
            assert futures[2] in futures
            assert extra not in futures
            assert futures.index(futures[3]) == 3
            assert next(reversed(futures)) == futures[4]
            assert (futures + [extra])[-1] == extra  # noqa: RUF005
            assert ([extra] + futures)[0] == extra  # noqa: RUF005
            assert len(futures + inc.map([1])) == 6
            assert bool(futures)
            assert not inc.map([])
            with pytest.raises(IndexError):
                futures[5]
            futures.wait()
            assert futures.result() == [1, 2, 3, 4, 5]
            assert resolve_futures_to_results(futures) == [1, 2, 3, 4, 5]

        main()

    @covers("4.3")
    def test_failures_in_a_list(self, runner: TaskRunner) -> None:
        @task
        def odd_fails(x: int) -> int:
            if x % 2:
                raise BoomError(f"odd {x}")
            return x

        @flow(task_runner=runner)
        def main() -> None:
            futures = odd_fails.map(range(4))
            with pytest.raises(BoomError, match="odd"):
                futures.result()
            values = futures.result(raise_on_failure=False)
            assert [values[0], values[2]] == [0, 2]
            assert [str(values[1]), str(values[3])] == ["odd 1", "odd 3"]

        main()

    @covers("4.3", needs="concurrent")
    def test_a_list_fails_with_the_first_failure_and_expires(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def wait_or_fail(name: str) -> str:
            if name == "fail":
                raise BoomError("first")
            signals.wait(name)
            return name

        @flow(task_runner=runner)
        def main() -> None:
            futures = wait_or_fail.map(["go", "fail"])
            with pytest.raises(BoomError, match="first"):
                futures.result(timeout=PATIENCE)
            assert not futures[0].done(), "the failure was to be known before the other had ended"
            with pytest.raises(TimeoutError, match=r"1 \(of 2\)"):
                futures.result(timeout=0.01, raise_on_failure=False)
            futures.wait(timeout=0.01)
            assert not futures[0].done()
            signals.set("go")
            assert futures.result(raise_on_failure=False)[0] == "go"

        main()

    @covers("1.2", "4.3")
    def test_resolving_futures_in_values(self, runner: TaskRunner) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            good, bad = inc.submit(1), boom.submit()
            value = {"a": [good, 5], "b": (good,)}
            assert resolve_futures_to_results(value) == {"a": [2, 5], "b": (2,)}
            states = resolve_futures_to_states({"good": good, "bad": [bad]})
            assert states["good"].is_completed()
            assert states["bad"][0].is_failed()
            with pytest.raises(BoomError):
                resolve_futures_to_results([bad])

        main()

    @covers("4.7", "9.1", needs=("nests", "concurrent"))
    def test_blocking_the_loop_of_async_tasks_is_refused(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        async def blocks() -> Any:
            child = hold.submit(signals, "go", 1)
            try:
                child.result()
            except BlockingWaitInLoop as error:
                return str(error)
            finally:
                signals.set("go")

        assert "await" in in_flow(runner, lambda: blocks.submit().result(timeout=PATIENCE))
