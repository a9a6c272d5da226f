"""Concurrency limits as runs meet them (SPEC 10.2)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, tags, task
from shoal.exceptions import ConcurrencyLimitError
from shoal.futures import wait
from shoal.limits import ConcurrencyLimits
from shoal.scheduling import dispatcher
from shoal.task_runners import (
    ExecutorTaskRunner,
    ProcessPoolTaskRunner,
    SequentialTaskRunner,
    ThreadPoolTaskRunner,
)
from shoal.testing.tools import eventually

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 20.0


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    eventually(
        lambda: all(thread.name != "shoal-limits" for thread in threading.enumerate()),
        "the store of the test before is closed",
    )
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(tmp_path / "limits.db"))
    limits = ConcurrencyLimits()
    limits.create_concurrency_limit(tag="two", concurrency_limit=2)
    limits.create_concurrency_limit(tag="one", concurrency_limit=1)
    limits.create_concurrency_limit(tag="none", concurrency_limit=0)
    return limits


class Gauge:
    """How many runs are inside at once, now and at the most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


def released(limits: ConcurrencyLimits, tag: str) -> bool:
    """Whether all slots of a tag are free, now or very soon: they are given back behind the run's back."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if not limits.read_concurrency_limit_by_tag(tag=tag).active_slots:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("mapped", [False, True])
def test_no_more_run_than_the_limit(limits: ConcurrencyLimits, mapped: bool) -> None:
    gauge, two = Gauge(), threading.Barrier(2)

    @task(tags=["two"])
    def work(number: int) -> int:
        with gauge:
            two.wait(PATIENCE)
        return number

    @flow(task_runner=ThreadPoolTaskRunner(8))
    def main() -> list[int]:
        futures: Any = work.map(range(12)) if mapped else [work.submit(i) for i in range(12)]
        return [future.result(timeout=PATIENCE) for future in futures]

    assert main() == list(range(12))
    assert gauge.most == 2
    assert released(limits, "two")


def test_a_queued_run_holds_no_worker(limits: ConcurrencyLimits) -> None:
    go = threading.Event()

    @task(tags=["one"])
    def hold() -> None:
        assert go.wait(PATIENCE)

    @task
    def free() -> str:
        return "free"

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        futures = [hold.submit() for _ in range(4)]
        # With the second worker blocked by a queued run, this would not end.
        assert free.submit().result(timeout=PATIENCE) == "free"
        assert sum(future.state.name == "Queued" for future in futures) >= 3
        go.set()
        wait(futures, timeout=PATIENCE)
        assert all(future.state.is_completed() for future in futures)

    main()


def test_all_tags_or_none(limits: ConcurrencyLimits) -> None:
    gauge = Gauge()

    @task(tags=["two"])
    def work() -> None:
        with gauge:
            time.sleep(0.01)

    @flow(task_runner=ThreadPoolTaskRunner(8))
    def main() -> None:
        with tags("one", "unlimited"):
            futures = [work.submit() for _ in range(5)]
        assert not wait(futures, timeout=PATIENCE).not_done

    main()
    assert gauge.most == 1


def test_the_slot_is_kept_through_retries(limits: ConcurrencyLimits) -> None:
    order: list[str] = []

    @task(tags=["one"], retries=1, retry_delay_seconds=0.1)
    def first() -> None:
        order.append("first")
        if len(order) == 1:
            raise ValueError("once")

    @task(tags=["one"])
    def second() -> None:
        order.append("second")

    @flow(task_runner=ThreadPoolTaskRunner(4))
    def main() -> None:
        one = first.submit()
        while not order:
            time.sleep(0.001)
        wait([one, second.submit()], timeout=PATIENCE)

    main()
    assert order == ["first", "first", "second"]
    assert released(limits, "one")


def test_a_limit_of_zero_aborts_the_run(limits: ConcurrencyLimits) -> None:
    ran: list[int] = []

    @task(tags=["none"])
    def never() -> None:
        ran.append(1)

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        future = never.submit()
        with pytest.raises(ConcurrencyLimitError, match="none"):
            future.result(timeout=PATIENCE)
        assert future.state.is_failed()

    main()
    with pytest.raises(ConcurrencyLimitError):
        never()
    assert ran == []


def test_cancelling_a_queued_run_gives_up_its_turn(limits: ConcurrencyLimits) -> None:
    go = threading.Event()

    @task(tags=["one"])
    def hold(wanted: bool) -> None:
        assert wanted
        assert go.wait(PATIENCE)

    @flow(task_runner=ThreadPoolTaskRunner(4))
    def main() -> None:
        first = hold.submit(True)
        while not first.state.is_running():
            time.sleep(0.001)
        queued, last = hold.submit(False), hold.submit(True)
        assert queued.cancel()
        go.set()
        wait([first, last], timeout=PATIENCE)
        assert queued.state.is_cancelled()
        assert first.state.is_completed()
        assert last.state.is_completed()

    main()
    assert released(limits, "one")


@pytest.mark.may_leave("threads", reason="a thread that was given up ends when the test lets it")
def test_a_thread_that_is_given_up_holds_no_slot(
    limits: ConcurrencyLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC 10.2."""
    monkeypatch.setattr(dispatcher, "GRACE", 0.2)
    begun, go = threading.Event(), threading.Event()

    @task(tags=["one"])
    def stubborn() -> None:
        begun.set()
        while not go.is_set():
            with contextlib.suppress(BaseException):
                go.wait(0.01)

    @task(tags=["one"])
    def following() -> bool:
        return go.is_set()

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        first = stubborn.submit()
        assert begun.wait(PATIENCE)
        first.cancel()
        assert following.submit().result(timeout=PATIENCE) is False
        go.set()

    main()
    assert released(limits, "one")


@pytest.mark.parametrize("loops", [False, True])
def test_a_worker_that_is_killed_holds_no_slot(limits: ConcurrencyLimits, loops: bool) -> None:
    """SPEC 10.2."""

    @task(tags=["one"], timeout_seconds=0.2)
    def stubborn() -> None:
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(60)

    @task(tags=["one"], timeout_seconds=0.2)
    async def stubborn_async() -> None:
        time.sleep(60)  # noqa: ASYNC251 - the worst of tasks

    @task(tags=["one"])
    def following() -> int:
        return 1

    @flow(task_runner=ProcessPoolTaskRunner(2))
    def main() -> int:
        first = (stubborn_async if loops else stubborn).submit()
        second = following.submit()
        assert first.exception(timeout=PATIENCE) is not None
        assert second.state.name == "Queued"
        return second.result(timeout=PATIENCE)

    assert main() == 1
    assert released(limits, "one")


def test_a_flow_that_fails_holds_the_slots_of_what_it_stops(limits: ConcurrencyLimits) -> None:
    """SPEC 3.5, 10.2."""
    gauge = Gauge()
    begun = threading.Event()

    @task(tags=["one"])
    def slow() -> None:
        with gauge:
            begun.set()
            try:
                while True:
                    time.sleep(0.01)
            finally:
                time.sleep(0.1)

    @task(tags=["one"])
    def following() -> None:
        with gauge:
            pass

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def fails() -> None:
        slow.submit()
        assert begun.wait(PATIENCE)
        raise ValueError("no more")

    other = threading.Thread(target=lambda: (begun.wait(PATIENCE), following()))
    other.start()
    with pytest.raises(ValueError, match="no more"):
        fails()
    other.join(PATIENCE)
    assert gauge.most == 1
    assert released(limits, "one")


def test_what_an_executor_goes_on_with_keeps_its_slot(limits: ConcurrencyLimits) -> None:
    """SPEC 10.2, 11.2. It cannot be stopped, and the executor is the user's, so it outlives the runner."""
    begun, go = threading.Event(), threading.Event()

    @task(tags=["one"])
    def slow() -> None:
        begun.set()
        assert go.wait(PATIENCE)

    with ThreadPoolExecutor(2) as executor:

        @flow(task_runner=ExecutorTaskRunner(executor))
        def fails() -> None:
            slow.submit()
            assert begun.wait(PATIENCE)
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            fails()
        assert limits.read_concurrency_limit_by_tag(tag="one").active_slots
        go.set()
        assert released(limits, "one")


def test_direct_calls_take_slots(limits: ConcurrencyLimits) -> None:
    gauge = Gauge()

    @task(tags=["one"])
    def work() -> None:
        with gauge:
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert gauge.most == 1
    assert released(limits, "one")


def test_direct_async_calls_take_slots(limits: ConcurrencyLimits) -> None:
    gauge = Gauge()

    @task(tags=["one"])
    async def work(number: int) -> int:
        with gauge:
            await asyncio.sleep(0.01)
        return number

    async def main() -> list[int]:
        calls = [work(number) for number in range(4)]
        assert {call.__name__ for call in calls} == {"work"}
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [0, 1, 2, 3]
    assert gauge.most == 1
    assert released(limits, "one")


def test_limits_hold_on_the_sequential_runner(limits: ConcurrencyLimits) -> None:
    @task(tags=["one"])
    def work(number: int) -> int:
        return number

    @flow(task_runner=SequentialTaskRunner())
    def main() -> list[int]:
        return work.map(range(3)).result()

    assert main() == [0, 1, 2]
