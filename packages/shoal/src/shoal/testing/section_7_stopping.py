"""Section 7.3 and 7.4 on any runner: time limits and cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from shoal import flow, runtime, task
from shoal.exceptions import (
    CancelledRun,
    RunnerStateError,
    TaskRunTimeout,
    UpstreamTaskError,
    WaitTimeout,
)
from shoal.futures import wait
from shoal.testing.base import LOOPS, SuiteBase, covers, in_flow
from shoal.testing.samples import Slow, hold, identity, inc, note
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["CancellationTests", "TimeoutTests"]

#: A limit that a test which does nothing stays below even on a machine that is very busy.
LIMIT = 0.5


class TimeoutTests(SuiteBase):
    """Section 7.3."""

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("7.3", needs="stops")
    def test_a_run_past_its_limit(
        self, single_runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        @task(timeout_seconds=LIMIT)
        def slow() -> None:
            signals.append("began", "x")
            signals.wait("never", timeout=2 * PATIENCE)

        @task(timeout_seconds=LIMIT)
        async def slow_async() -> None:
            signals.append("began", "x")
            await anyio.sleep(2 * PATIENCE)

        @flow(task_runner=single_runner)
        def main() -> None:
            late = (slow if kind == "sync" else slow_async).submit()
            following = inc.submit(1)
            with pytest.raises(TaskRunTimeout, match=r"0\.5 s") as caught:
                late.result(timeout=PATIENCE)
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.timeout == LIMIT
            assert caught.value.run_name == late.name
            assert (late.state.type, late.state.name) == ("FAILED", "TimedOut")
            assert following.result(timeout=PATIENCE) == 2, "the slot is free again"
            with pytest.raises(UpstreamTaskError):
                identity.submit(late).result(timeout=PATIENCE)

        main()
        assert signals.lines("began") == ["x"]

    @covers("7.3", needs="stops")
    def test_a_limit_begins_with_its_coroutine(self, runner: TaskRunner) -> None:
        @task(timeout_seconds=4 * LIMIT)
        async def busy(x: int) -> int:
            time.sleep(LIMIT)  # noqa: ASYNC251 - the others of the loop cannot begin
            return x

        @flow(task_runner=runner)
        def main() -> None:
            futures = busy.map(range(5))
            assert futures.result(timeout=PATIENCE) == [*range(5)]

        main()

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("7.3", needs="stops")
    def test_a_limit_ends_with_its_function(self, runner: TaskRunner, kind: str) -> None:
        @task(timeout_seconds=LIMIT)
        def make() -> Slow:
            return Slow(3 * LIMIT)

        @task(timeout_seconds=LIMIT)
        async def make_async() -> Slow:
            return Slow(3 * LIMIT)

        @flow(task_runner=runner)
        def main() -> None:
            made = (make if kind == "sync" else make_async).submit().result(timeout=PATIENCE)
            assert isinstance(made, Slow)

        main()

    @covers("7.3", needs="stops_hard")
    def test_code_that_never_returns_to_python(self, single_runner: TaskRunner) -> None:
        @task(timeout_seconds=LIMIT)
        def slow() -> None:
            time.sleep(3 * PATIENCE)  # one call into C

        @flow(task_runner=single_runner)
        def main() -> None:
            late = slow.submit()
            with pytest.raises(TaskRunTimeout):
                late.result(timeout=PATIENCE)
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @covers("7.3")
    def test_quick_runs_know_nothing_of_their_limit(self, runner: TaskRunner) -> None:
        @task(timeout_seconds=2 * PATIENCE)
        def quick(x: int) -> int:
            return x

        @task(timeout_seconds=2 * PATIENCE)
        async def quick_async(x: int) -> int:
            await anyio.lowlevel.checkpoint()
            return x

        @flow(task_runner=runner)
        def main() -> None:
            assert quick.map(range(200)).result() == list(range(200))
            assert quick_async.map(range(200)).result() == list(range(200))

        main()

    @covers("7.3", needs="concurrent")
    def test_time_in_the_queue_does_not_count(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task(timeout_seconds=LIMIT)
        def quick(x: Any) -> str:
            return "in time"

        @flow(task_runner=single_runner)
        def main() -> None:
            first = hold.submit(signals, "go")
            queued, dependant = quick.submit(1), quick.submit(first)
            signals.wait("go began")
            time.sleep(1.2 * LIMIT)
            signals.set("go")
            assert queued.result() == "in time"
            assert dependant.result() == "in time"

        main()

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("7.3", "7.1", needs="stops")
    def test_timeouts_are_retried_and_attempts_never_overlap(
        self, runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        fcntl = pytest.importorskip("fcntl", reason="locks that end with their process are POSIX's")
        path = f"{signals.directory}/attempt.lock"

        def lock(file: Any) -> None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                signals.append("attempts", "overlaps")
            else:
                signals.append("attempts", "alone")

        @task(timeout_seconds=LIMIT, retries=1)
        def slow() -> None:
            with open(path, "w") as file:
                lock(file)
                signals.wait("never", timeout=2 * PATIENCE)

        @task(timeout_seconds=LIMIT, retries=1)
        async def slow_async() -> None:
            with open(path, "w") as file:  # noqa: ASYNC230
                lock(file)
                await anyio.sleep(2 * PATIENCE)

        @flow(task_runner=runner)
        def main() -> None:
            late = (slow if kind == "sync" else slow_async).submit()
            with pytest.raises(TaskRunTimeout):
                late.result(timeout=2 * PATIENCE)
            assert late.state.name == "TimedOut"

        main()
        assert signals.lines("attempts") == ["alone"] * 2

    @covers("7.3", "7.1", needs="stops")
    def test_a_retry_after_a_timeout_may_succeed(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(timeout_seconds=LIMIT, retries=1)
        def slow_once() -> str:
            if runtime.task_run.run_count == 1:
                signals.wait("never", timeout=2 * PATIENCE)
            return "done"

        assert in_flow(runner, lambda: slow_once.submit().result(timeout=PATIENCE)) == "done"

    @covers("7.3", "2.2")
    def test_direct_calls_past_their_limit(self, runner: TaskRunner, signals: Signals) -> None:
        tries = []

        @task(timeout_seconds=LIMIT / 8, retries=1)
        def slow() -> None:
            tries.append(runtime.task_run.run_count)
            signals.wait("never", timeout=PATIENCE)

        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(TaskRunTimeout):
                slow()
            assert slow(return_state=True).name == "TimedOut"

        main()
        assert tries == [1, 2, 1, 2]

    @pytest.mark.parametrize("loop", LOOPS)
    @covers("7.3", "2.2")
    def test_direct_calls_of_async_tasks_past_their_limit(
        self, runner: TaskRunner, loop: str
    ) -> None:
        pytest.importorskip(loop)

        @task(timeout_seconds=LIMIT / 8)
        async def slow() -> None:
            await anyio.sleep(PATIENCE)

        @flow(task_runner=runner)
        async def main() -> None:
            with pytest.raises(TaskRunTimeout):
                await slow()

        anyio.run(main, backend=loop)

    @covers("7.3", "4.1", needs="concurrent")
    def test_an_expired_wait_is_no_end(self, runner: TaskRunner, signals: Signals) -> None:
        @flow(task_runner=runner)
        def main() -> None:
            future = hold.submit(signals, "go", "value")
            with pytest.raises(WaitTimeout) as caught:
                future.result(timeout=0.01)
            assert isinstance(caught.value, TimeoutError)
            assert not isinstance(caught.value, TaskRunTimeout)
            signals.set("go")
            assert future.result() == "value"

        main()

    @covers("7.3", "9.1", needs=("stops", "nests", "concurrent"))
    def test_a_run_past_its_limit_while_it_waits(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task(timeout_seconds=LIMIT)
        def parent() -> None:
            hold.submit(signals, "go").result()

        @flow(task_runner=single_runner)
        def main() -> None:
            future = parent.submit()
            with pytest.raises(TaskRunTimeout):
                future.result(timeout=PATIENCE)
            signals.set("go")

        main()


class CancellationTests(SuiteBase):
    """Section 7.4."""

    @covers("7.4")
    def test_a_run_that_cancels_all_that_it_finds(self, runner: TaskRunner) -> None:
        """Its neighbours, and those that have not begun, end: as cancelled, or as if nothing had been."""

        @task
        async def clears(number: int) -> int:
            if number == 0:
                for other in asyncio.all_tasks():
                    other.cancel()
            await anyio.sleep(0.01)
            return number

        @flow(task_runner=runner)
        def main() -> None:
            runs = clears.map(range(4))
            runs.wait(PATIENCE)
            assert {run.state.name for run in runs} <= {"Cancelled", "Completed"}
            assert clears.submit(1).result(timeout=PATIENCE) == 1

        main()

    @covers("7.4", needs="concurrent")
    def test_what_is_queued_or_waits_never_starts(
        self, single_runner: TaskRunner, signals: Signals, flags: dict[str, bool]
    ) -> None:
        @flow(task_runner=single_runner)
        def main() -> None:
            first = hold.submit(signals, "go", "value")
            if not flags["stops"]:
                _ = [inc.submit(number) for number in range(5)]  # these may have been handed over
            queued = note.submit(signals, "log", "queued")
            waiting = note.submit(signals, "log", first)
            after = note.submit(signals, "log", [waiting])
            signals.wait("go began")
            for future in (queued, waiting):
                assert future.cancel() is True
                assert future.state.is_cancelled()
                assert future.done()
                assert future.cancel() is False
                with pytest.raises(CancelledRun, match=future.name):
                    future.result()
            assert after.state.name == "NotReady"
            signals.set("go")
            assert first.result() == "value"
            assert first.cancel() is False
            assert first.state.is_completed()

        main()
        assert signals.lines("log") == []

    @pytest.mark.parametrize("kind", ["sync", "async"])
    @covers("7.4", needs=("concurrent", "stops"))
    def test_what_runs_is_stopped(
        self, single_runner: TaskRunner, signals: Signals, kind: str
    ) -> None:
        @task
        def slow() -> None:
            signals.set("began")
            signals.wait("never", timeout=2 * PATIENCE)
            signals.append("log", "went on")

        @task
        async def slow_async() -> None:
            signals.set("began")
            await anyio.sleep(2 * PATIENCE)
            signals.append("log", "went on")

        @flow(task_runner=single_runner)
        def main() -> None:
            future = (slow if kind == "sync" else slow_async).submit()
            signals.wait("began")
            assert future.cancel() is True
            assert future.done(), "it is settled at once"
            assert future.state.is_cancelled()
            with pytest.raises(CancelledRun):
                future.result(timeout=0)
            assert inc.submit(1).result(timeout=PATIENCE) == 2, "its slot is free again"
            assert future.state.is_cancelled()

        main()
        assert signals.lines("log") == []

    @covers("7.4", needs=("concurrent", "stops_hard"))
    def test_code_that_never_returns_to_python_is_stopped(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task
        def slow() -> None:
            signals.set("began")
            time.sleep(3 * PATIENCE)  # one call into C

        @flow(task_runner=single_runner)
        def main() -> None:
            future = slow.submit()
            signals.wait("began")
            assert future.cancel() is True
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()

    @covers("7.4", needs="concurrent")
    def test_a_late_end_changes_nothing(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def stubborn() -> str:
            signals.set("began")
            while not signals.is_set("go"):
                with contextlib.suppress(BaseException):  # the worst of tasks: it will not stop
                    signals.wait("go")
            return "late"

        @flow(task_runner=runner)
        def main() -> None:
            future = stubborn.submit()
            signals.wait("began")
            assert future.cancel()
            signals.set("go")
            with pytest.raises(CancelledRun):
                future.result()

        main()

    @covers("7.4", needs=("concurrent", "stops"))
    def test_cancel_all(self, runner: TaskRunner, signals: Signals) -> None:
        @task(retries=1, retry_delay_seconds=600)
        def fails_for_long() -> None:
            raise ValueError("again, later")

        with runner as entered:
            running = entered.submit(hold, {"signals": signals, "name": "never"})
            waiting = entered.submit(note, {"signals": signals, "log": "log", "text": running})
            signals.wait("never began")
            mapped = entered.map(note, {"signals": signals, "log": "log", "text": [running] * 20})
            delayed = entered.submit(fails_for_long, {})
            eventually(lambda: delayed.state.name == "AwaitingRetry", "it awaits its retry")
            entered.cancel_all()
            futures = [running, waiting, delayed, *mapped]
            assert all(future.state.is_cancelled() for future in [running, delayed])
            assert wait(futures, timeout=PATIENCE).not_done == set()
            assert not any(future.state.is_completed() for future in futures)
            after = entered.submit(inc, {"x": 1})
            assert after.result(timeout=PATIENCE) == 2, "it goes on taking work"
        assert signals.lines("log") == []

    @covers("7.4", needs="concurrent")
    def test_cancel_all_of_what_is_queued(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        with single_runner as entered:
            running = entered.submit(hold, {"signals": signals, "name": "go"})
            signals.wait("go began")
            _ = [entered.submit(inc, {"x": number}) for number in range(5)]  # may be handed over
            queued = [
                entered.submit(note, {"signals": signals, "log": "log", "text": number})
                for number in range(20)
            ]
            mapped = entered.map(note, {"signals": signals, "log": "log", "text": list(range(200))})
            entered.cancel_all()
            assert all(future.state.is_cancelled() for future in [*queued, *mapped])
            signals.set("go")
            running.wait()
        assert signals.lines("log") == []

    @covers("7.4", "11.1")
    def test_cancel_all_of_a_runner_that_is_not_entered(self, runner: TaskRunner) -> None:
        with pytest.raises(RunnerStateError):
            runner.cancel_all()

    @covers("7.4", "9.1", needs=("concurrent", "stops", "nests"))
    def test_cancelling_a_run_that_waits(self, single_runner: TaskRunner, signals: Signals) -> None:
        @task
        def child() -> None:
            signals.set("began")
            signals.wait("go")
            signals.append("log", "the child ended")

        @task
        def parent() -> None:
            child.submit().result()
            signals.append("log", "the parent went on")

        @flow(task_runner=single_runner)
        def main() -> None:
            future = parent.submit()
            signals.wait("began")
            assert future.cancel()
            assert future.state.is_cancelled()
            signals.set("go")
            assert inc.submit(1).result(timeout=PATIENCE) == 2

        main()
        assert signals.lines("log") == ["the child ended"], "what it waited for is a run of its own"

    @covers("7.4", "4.1", needs="concurrent")
    def test_callbacks_and_waits_learn_of_a_cancel(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        called: list[Any] = []

        @flow(task_runner=single_runner)
        def main() -> None:
            hold.submit(signals, "go")
            future = inc.submit(1)
            future.add_done_callback(called.append)
            future.cancel()
            future.wait()
            eventually(lambda: called == [future], "the callback is called")
            signals.set("go")

        main()
