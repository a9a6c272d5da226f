"""Section 7.1 and 7.2 on any runner: retries."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from shoal import flow, runtime, task
from shoal.exceptions import CancelledRun
from shoal.futures import wait
from shoal.states import Failed
from shoal.testing.base import SuiteBase, covers
from shoal.testing.samples import BoomError, inc
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["RetryTests"]

#: How much earlier than asked for a retry may begin: clocks of several processes are compared.
EARLY = 0.01

#: Delays, jitter, and how far apart attempts are then at least.
DELAYS: dict[str, tuple[Any, float | None, list[float]]] = {
    "number": (0.06, None, [0.06, 0.06, 0.06]),
    "list": ([0.03, 0.07], None, [0.03, 0.07, 0.07]),
    "callable": (lambda count: count * 0.03, None, [0.03, 0.06, 0.09]),
    "none": ([], None, [0, 0, 0]),
    "jitter": (0.08, 0.5, [0.04, 0.04, 0.04]),
}


class RetryTests(SuiteBase):
    """Section 7.1 and 7.2."""

    @covers("7.1")
    def test_attempts(self, runner: TaskRunner, signals: Signals) -> None:
        @task(retries=3)
        def fails(name: str, times: int) -> int:
            signals.append(name, runtime.task_run.run_count)
            if len(signals.lines(name)) <= times:
                raise BoomError(f"attempt {len(signals.lines(name))}")
            return len(signals.lines(name))

        @flow(task_runner=runner)
        def main() -> None:
            good, bad = fails.submit("good", 3), fails.submit("bad", 99)
            assert good.result() == 4
            assert good.state.is_completed()
            with pytest.raises(BoomError, match="attempt 4"):
                bad.result()
            assert bad.state.is_failed()

        main()
        assert signals.lines("good") == ["1", "2", "3", "4"]
        assert signals.lines("bad") == ["1", "2", "3", "4"]

    @covers("7.1", "2.2")
    def test_attempts_of_direct_calls(self, runner: TaskRunner, signals: Signals) -> None:
        @task(retries=2, retry_delay_seconds=0.01)
        def fails() -> int:
            signals.append("tries", runtime.task_run.run_count)
            if len(signals.lines("tries")) < 3:
                raise BoomError("again")
            return len(signals.lines("tries"))

        @flow(task_runner=runner)
        def main() -> Any:
            return fails()

        assert main() == 3
        assert signals.lines("tries") == ["1", "2", "3"]

    @covers("7.1")
    def test_attempts_of_async_tasks(self, runner: TaskRunner, signals: Signals) -> None:
        @task(retries=2, retry_delay_seconds=0.01)
        async def fails() -> int:
            signals.append("tries", runtime.task_run.run_count)
            if len(signals.lines("tries")) < 3:
                raise BoomError("again")
            return len(signals.lines("tries"))

        @flow(task_runner=runner)
        def main() -> None:
            assert fails.submit().result() == 3

        main()

    @covers("7.1")
    def test_delays(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def fails(log: str) -> None:
            signals.append(log, time.time())
            raise BoomError("again")

        @flow(task_runner=runner)
        def main() -> None:
            wait(
                [
                    fails.with_options(
                        retries=3, retry_delay_seconds=delays, retry_jitter_factor=jitter
                    ).submit(kind)
                    for kind, (delays, jitter, _) in DELAYS.items()
                ]
            )

        main()
        for kind, (_, _, least) in DELAYS.items():
            times = list(map(float, signals.lines(kind)))
            gaps = [after - before for before, after in itertools.pairwise(times)]
            assert len(gaps) == 3, kind
            assert all(gap >= delay - EARLY for gap, delay in zip(gaps, least, strict=True)), kind

    @covers("7.1", "4.1", needs=("concurrent", "stops"))
    def test_states_between_attempts(self, runner: TaskRunner, signals: Signals) -> None:
        @task(retries=1, retry_delay_seconds=1)
        def fails_once() -> str:
            if runtime.task_run.run_count == 1:
                raise BoomError("again")
            signals.wait("go")
            return "done"

        @flow(task_runner=runner)
        def main() -> None:
            future = fails_once.submit()
            names = []

            def seen(name: str) -> bool:
                names.append(future.state.name)
                return names[-1] == name

            eventually(lambda: seen("AwaitingRetry"), "the run is AwaitingRetry")
            assert not future.done()
            eventually(lambda: seen("Retrying"), "the run is Retrying")
            assert future.state.is_running()
            signals.set("go")
            assert future.result() == "done"

        main()

    @covers("7.1", "2.8")
    def test_a_returned_failure_is_retried(self, runner: TaskRunner, signals: Signals) -> None:
        @task(retries=2)
        def fails() -> Any:
            signals.append("tries", "x")
            return Failed("no good") if len(signals.lines("tries")) < 3 else "fine"

        @flow(task_runner=runner)
        def main() -> None:
            assert fails.submit().result() == "fine"

        main()

    @covers("7.1")
    def test_a_condition(self, runner: TaskRunner, signals: Signals) -> None:
        def if_again(a_task: Any, run: Any, state: Any) -> bool:
            signals.append("asked", f"{a_task.name} {run.run_count} {state.name}")
            return "again" in str(state)

        def breaks(a_task: Any, run: Any, state: Any) -> bool:
            raise ValueError("a broken condition")

        class Never:
            def __call__(self, a_task: Any, run: Any, state: Any) -> bool:
                return False

        @task(retries=5, retry_condition_fn=if_again)
        def fails() -> None:
            signals.append("tries", "x")
            raise BoomError("again" if len(signals.lines("tries")) < 3 else "enough")

        @task
        def counted(log: str) -> None:
            signals.append(log, "x")
            raise BoomError("again")

        @flow(task_runner=runner)
        def main() -> None:
            with pytest.raises(BoomError, match="enough"):
                fails.submit().result()
            for log, condition in (("broken", breaks), ("never", Never())):
                limited = counted.with_options(retries=5, retry_condition_fn=condition)
                with pytest.raises(BoomError):
                    limited.submit(log).result()
                assert len(signals.lines(log)) == 1

        main()
        assert len(signals.lines("tries")) == 3
        assert signals.lines("asked") == ["fails 1 Failed", "fails 2 Failed", "fails 3 Failed"]

    @covers("7.2", needs="concurrent")
    def test_waiting_for_a_retry_holds_no_slot(
        self, single_runner: TaskRunner, signals: Signals
    ) -> None:
        @task(retries=1, retry_delay_seconds=600)
        def fails() -> None:
            signals.append("tries", "x")
            raise BoomError("again")

        @flow(task_runner=single_runner)
        def main() -> None:
            futures = [fails.submit() for _ in range(5)]
            assert inc.submit(1).result(timeout=PATIENCE) == 2
            for future in futures:
                eventually(lambda: future.state.name == "AwaitingRetry", "it awaits its retry")  # noqa: B023
            # 7.4: what waits for its retry can be cancelled, and never begins again.
            assert all(future.cancel() for future in futures)
            for future in futures:
                with pytest.raises(CancelledRun):
                    future.result()

        main()
        assert len(signals.lines("tries")) == 5

    @covers("7.1", "5.2")
    def test_upstream_values_are_there_in_every_attempt(
        self, runner: TaskRunner, signals: Signals
    ) -> None:
        @task(retries=2)
        def fails(numbers: list[Any]) -> Any:
            signals.append("got", numbers)
            numbers.append("changed")
            if len(signals.lines("got")) < 3:
                raise BoomError("again")
            return numbers[0]

        @flow(task_runner=runner)
        def main() -> None:
            assert fails.submit([inc.submit(1)]).result() == 2  # type: ignore[list-item, unused-ignore]

        main()
        assert len(signals.lines("got")) == 3
        assert all(line.startswith("[2") for line in signals.lines("got"))
