"""Section 4.5 and 4.6 on any runner: what moves, what is kept, and until when."""

from __future__ import annotations

import gc
import os
import weakref
from typing import TYPE_CHECKING, Any

from shoal import flow, task
from shoal.testing.base import SuiteBase, covers, in_flow
from shoal.testing.samples import Traced, Weighed, number_of
from shoal.testing.tools import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["MemoryTests"]


def gone(condition: Callable[[], bool], what: str) -> None:
    """Waits until something is released by reference counting; cycles would keep large values for a long time."""
    gc.disable()
    try:
        eventually(condition, what, timeout=10)
    finally:
        gc.enable()


class MemoryTests(SuiteBase):
    """Sections 4.5 and 4.6."""

    @covers("4.5", needs=("isolated", "keeps_values"))
    def test_waiting_moves_no_value(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def large() -> Any:
            return Traced(signals, size=1_000_000)

        def moved() -> bool:
            return f"unpickled {pid}" in signals.lines("traced")

        @flow(task_runner=runner)
        def main() -> None:
            future = large.submit()
            future.wait()
            assert future.state.is_completed()
            assert not moved()
            assert len(future.result().payload) == 1_000_000
            assert moved()

        pid = os.getpid()
        main()

    @covers("4.6")
    def test_arguments_are_released(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("ERROR", "shoal")  # pytest keeps what log records hold

        @flow(task_runner=runner)
        def main() -> None:
            things = [Weighed(number) for number in range(30)]
            references = [weakref.ref(thing) for thing in things]
            kept = [number_of.submit(thing) for thing in things[:10]]
            mapped = number_of.map(things[10:20])
            for index in range(20, 30):
                number_of.submit([things[index]])
            assert [future.result() for future in kept] == list(range(10))
            assert mapped.result() == list(range(10, 20))
            things.clear()
            gone(
                lambda: not any(ref() for ref in references),
                "all arguments are released, their runs having ended",
            )

        main()

    @covers("4.6")
    def test_results_are_released(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("ERROR", "shoal")  # pytest keeps what log records hold

        @task
        def make(number: int) -> Weighed:
            return Weighed(number)

        @flow(task_runner=runner)
        def main() -> None:
            references = []
            for number in range(5):
                future = make.submit(number)
                references.append(weakref.ref(future.result()))
                del future
            futures = make.map(range(5))
            references += [weakref.ref(value) for value in futures.result()]
            upstream = make.map(range(5))
            numbers = number_of.map(upstream)
            assert numbers.result() == [*range(5)]
            references += [weakref.ref(future.result()) for future in upstream]
            del futures, upstream, numbers
            gone(
                lambda: not any(ref() for ref in references),
                "results are released with their futures",
            )

        main()

    @covers("4.6", needs="shares_memory")
    def test_values_between_runs_are_released(
        self, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("ERROR", "shoal")  # pytest keeps what log records hold

        references: list[Any] = []

        @task
        def make(after: Any) -> Weighed:
            made = Weighed()
            references.append(weakref.ref(made))
            return made

        @flow(task_runner=runner)
        def main() -> None:
            link = make.submit(None)
            for _ in range(20):
                link = make.submit(link)
            link.result()
            gone(
                lambda: sum(bool(ref()) for ref in references) <= 1,
                "only the last link's value is kept",
            )

        main()

    @covers("4.6", "3.5")
    def test_dropped_futures_do_their_work(self, runner: TaskRunner, signals: Signals) -> None:
        @task
        def work(number: int) -> int:
            signals.append("done", number)
            return number

        def body() -> None:
            for number in range(20):
                work.submit(number)
                if number % 7 == 0:
                    gc.collect()
            work.map(range(20, 40))
            gc.collect()

        in_flow(runner, body)
        assert sorted(map(int, signals.lines("done"))) == list(range(40))
