"""The thread pool: how it grows, what bounds it, and threads that will not stop (SPEC 7.3, 7.4, 9.1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal import flow, task
from shoal.exceptions import CancelledRun, InvalidOption, TaskRunTimeout
from shoal.task_runners import ThreadPoolTaskRunner
from shoal.testing.samples import inc
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


def pool_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("shoal-worker")]


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Inside, others want each processor three times."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(3 * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Crowd:
    """How many are inside at once, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._now -= 1


# ---------------------------------------------------------------------- growth


def test_it_starts_with_one_thread() -> None:
    with ThreadPoolTaskRunner() as runner:
        assert pool_threads() == []
        for number in range(20):
            assert runner.submit(inc, {"x": number}).result() == number + 1
        assert len(pool_threads()) == 1
    assert pool_threads() == []


def test_waiting_tasks_all_run_at_once() -> None:
    barrier = threading.Barrier(60)

    @task
    def wait() -> int:
        return barrier.wait(PATIENCE)

    @flow
    def main() -> None:
        futures = [wait.submit() for _ in range(60)]
        assert sorted(future.result() for future in futures) == list(range(60))

    main()


def test_waiting_elements_of_a_map_all_run_at_once() -> None:
    barrier = threading.Barrier(60)

    @task
    def wait(number: int) -> int:
        return barrier.wait(PATIENCE)

    @flow
    def main() -> None:
        assert sorted(wait.map(range(60)).result()) == list(range(60))

    main()


def test_a_pool_that_knows_the_task_as_quick_grows_when_it_is_slow() -> None:
    barrier = threading.Barrier(20)
    slow = threading.Event()

    @task
    def work(number: int) -> int:
        return barrier.wait(PATIENCE) if slow.is_set() else number

    @flow
    def main() -> None:
        work.map(range(3000)).wait()
        slow.set()
        assert sorted(work.map(range(20)).result()) == list(range(20))

    main()


def test_a_map_submitted_inside_a_run_grows_the_pool() -> None:
    barrier = threading.Barrier(8)

    @task
    def wait(number: int) -> int:
        return barrier.wait(PATIENCE)

    @task
    def parent() -> list[int]:
        return sorted(wait.map(range(8)).result())

    @flow
    def main() -> None:
        assert parent.submit().result() == list(range(8))

    main()


def test_short_tasks_stay_on_few_threads() -> None:
    with ThreadPoolTaskRunner() as runner:
        for _ in range(3):
            futures = [runner.submit(inc, {"x": number}) for number in range(2000)]
            assert [future.result() for future in futures] == list(range(1, 2001))
            runner.map(inc, {"x": range(20_000)}).wait()
        assert len(pool_threads()) <= 32, (
            "of the 256 that there could be; 1 to 4 where the machine is not busy"
        )


def test_a_busy_machine_is_no_reason_to_grow() -> None:
    with busy_machine(), ThreadPoolTaskRunner() as runner:
        for number in range(200):
            assert runner.submit(inc, {"x": number}).result() == number + 1
        runner.map(inc, {"x": range(20_000)}).wait()
        assert len(pool_threads()) <= 8


@pytest.mark.parametrize("others", ["coroutines", "elements"])
def test_a_run_that_waits_gets_a_thread_whatever_else_ends(others: str) -> None:
    """The only thread waits for what it would do, while coroutines end, or what a waiting run does itself (SPEC 7.4)."""
    event = threading.Event()

    @task
    def waits() -> bool:
        return event.wait(PATIENCE)

    @task
    def sets() -> None:
        event.set()

    @task
    async def beat(number: int) -> None:
        await asyncio.sleep(0.001)

    @task
    def tick(number: int) -> None:
        time.sleep(0.001)

    @task
    def polls() -> None:
        while not event.is_set():
            tick.map([0]).result()

    @flow(task_runner=ThreadPoolTaskRunner(4))
    def main() -> bool:
        waiting = waits.submit()
        if others == "elements":
            polls.submit()
        time.sleep(0.05)
        sets.submit()
        while others == "coroutines" and not waiting.done():
            beat.map(range(4)).wait()
        return waiting.result()

    began = time.monotonic()
    assert main()
    assert time.monotonic() - began < PATIENCE / 2


def test_a_run_that_waits_gets_a_thread_on_a_busy_machine() -> None:
    event = threading.Event()

    @task
    def waits() -> bool:
        return event.wait(PATIENCE)

    @task
    def sets() -> None:
        event.set()

    def spins() -> None:
        while not event.is_set():
            pass

    @flow(task_runner=ThreadPoolTaskRunner(4))
    def main() -> bool:
        waiting = waits.submit()
        time.sleep(0.05)
        sets.submit()
        return waiting.result()

    with busy_machine():
        spinning = threading.Thread(target=spins)
        spinning.start()
        try:
            assert main()
        finally:
            event.set()
            spinning.join()


def test_a_pool_that_has_grown_ends_its_threads() -> None:
    barrier = threading.Barrier(30)

    @task
    def wait(number: int) -> int:
        return barrier.wait(PATIENCE)

    with ThreadPoolTaskRunner() as runner:
        runner.map(wait, {"number": range(30)}).wait()
        assert len(pool_threads()) >= 30
    assert pool_threads() == []


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("most", [1, 3])
def test_max_workers_bounds_sync_and_async_together(most: int) -> None:
    crowd = Crowd()

    @task
    def sync_work(number: int) -> int:
        with crowd:
            time.sleep(0.001)
            return number

    @task
    async def async_work(number: int) -> int:
        with crowd:
            await asyncio.sleep(0.001)
            return number

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=most))
    def main() -> None:
        futures: list[Any] = []
        for number in range(60):
            futures += [sync_work.submit(number), async_work.submit(number)]
        futures += [*sync_work.map(range(60)), *async_work.map(range(60))]
        for future in futures:
            future.result()

    main()
    assert 1 <= crowd.most <= most


def test_sync_and_async_reach_the_bound() -> None:
    """All three places are taken at the same time, by threads and coroutines."""
    there: list[str] = []

    @task
    def sync_work() -> None:
        there.append("sync")
        eventually(lambda: len(there) >= 3, "three are there")

    @task
    async def async_work() -> None:
        there.append("async")
        while len(there) < 3:  # noqa: ASYNC110 - threads take part
            await asyncio.sleep(0.001)

    @flow(task_runner="threads:3")
    def main() -> None:
        for future in [sync_work.submit(), async_work.submit(), sync_work.submit()]:
            future.result(timeout=PATIENCE)

    main()


def test_async_tasks_are_unbounded_without_max_workers() -> None:
    there: list[int] = []

    @task
    async def work(number: int) -> int:
        there.append(number)
        while len(there) < 2000:  # noqa: ASYNC110 - an event would wake 2,000 at once
            await asyncio.sleep(0.01)
        return number

    @flow
    def main() -> None:
        assert work.map(range(2000)).result(timeout=PATIENCE) == list(range(2000))

    main()
    assert pool_threads() == []


def test_the_environment_bounds_a_pool_without_max_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MAX_THREADS", "4")
    crowd = Crowd()
    barrier = threading.Barrier(4)

    @task
    def work(number: int) -> int:
        with crowd:
            return barrier.wait(PATIENCE)

    @flow
    def main() -> None:
        work.map(range(16)).wait()
        assert len(pool_threads()) == 4

    main()
    assert crowd.most == 4


@pytest.mark.parametrize("timed", [False, True])
def test_nesting_stays_within_the_bound(timed: bool) -> None:
    """SPEC 9.1: what waits gives its place up, and takes it again before it goes on."""
    crowd = Crowd()

    @task
    def work(depth: int) -> int:
        with crowd:
            time.sleep(0.001)
        if depth == 0:
            return 1
        futures = [work.submit(depth - 1) for _ in range(2)]
        total = sum(future.result(timeout=PATIENCE if timed else None) for future in futures)
        with crowd:
            time.sleep(0.001)
        return total

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        assert work.submit(5).result() == 32

    main()
    assert crowd.most <= 2


def test_async_runs_that_wait_give_their_places_up() -> None:
    crowd = Crowd()

    @task
    async def work(depth: int) -> int:
        with crowd:
            await asyncio.sleep(0.001)
        if depth == 0:
            return 1
        below = await work.submit(depth - 1)
        with crowd:
            await asyncio.sleep(0.001)
        return below + sum(await work.map([0, 0]))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        assert work.submit(10).result(timeout=PATIENCE) == 21

    main()
    assert crowd.most == 1


def test_many_timed_waits_do_not_pile_up_threads() -> None:
    """Each wait with a limit lends its place to one spare thread, which is gone afterwards."""

    @task
    def parent(number: int) -> int:
        return inc.submit(number).result(timeout=PATIENCE)

    with ThreadPoolTaskRunner(max_workers=2) as runner:
        for _ in range(10):
            assert runner.map(parent, {"number": range(20)}).result() == list(range(1, 21))
        eventually(lambda: len(pool_threads()) <= 2, "spare threads have ended")


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_bad_max_workers(bad: Any) -> None:
    with pytest.raises(InvalidOption, match="max_workers") as caught:
        ThreadPoolTaskRunner(max_workers=bad)
    assert caught.value.option == "max_workers"


# ---------------------------------------------------------------------- threads that will not stop


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What a task waits for inside C code, out of reach of any interrupt; set at the test's end at the latest.

    The library loses its patience with such tasks sooner than it does elsewhere.
    """
    monkeypatch.setattr("shoal.scheduling.pulling_dispatcher.GRACE", 0.2)
    monkeypatch.setattr("shoal.task_runners.base.LEAVING", 0.5)
    event = threading.Event()
    yield event
    event.set()


def test_a_stuck_thread_is_given_up_and_replaced(
    lock: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:  # SPEC 7.3
    @task(timeout_seconds=0.2)
    def stuck() -> str:
        lock.wait()
        return "late"

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        future, following = stuck.submit(), inc.submit(1)
        with pytest.raises(TaskRunTimeout):
            future.result(timeout=PATIENCE)
        assert future.state.name == "TimedOut"
        assert following.result(timeout=PATIENCE) == 2
        assert not lock.is_set()
        assert len(pool_threads()) == 2
        assert inc.map(range(5)).result(timeout=PATIENCE) == [1, 2, 3, 4, 5]
        lock.set()
        eventually(lambda: len(pool_threads()) == 1, "the thread that was given up has ended")
        assert future.state.name == "TimedOut", "a late end changes nothing"

    main()
    assert "did not stop" in caplog.text


def test_a_stuck_run_is_not_retried_beside_itself(lock: threading.Event) -> None:  # SPEC 7.3
    began: list[int] = []

    @task(timeout_seconds=0.1, retries=3)
    def stuck() -> None:
        began.append(1)
        lock.wait()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        future = stuck.submit()
        future.wait(PATIENCE)
        assert future.state.is_failed()
        assert future.state.name == "TimedOut"
        assert inc.submit(1).result(timeout=PATIENCE) == 2
        assert began == [1]
        lock.set()

    main()
    assert began == [1]


def test_what_a_leaving_flow_leaves_behind_is_named(
    lock: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:  # SPEC 7.6
    monkeypatch.setattr(
        "shoal.scheduling.pulling_dispatcher.GRACE", PATIENCE
    )  # longer than leaving
    waiting = lock._cond._waiters  # type: ignore[attr-defined]  # who is inside C code now

    @task
    def stuck(number: int) -> None:
        lock.wait()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=5))
    def main() -> None:
        stuck.map(range(5))
        eventually(lambda: len(waiting) == 5, "all of them wait")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main()
    (told,) = [line for line in caplog.messages if "left behind" in line]
    assert len(re.findall(r"shoal-worker-\d in task run 'stuck-\w+'", told)) == 3
    assert told.endswith(", and 2 more")
    lock.set()


def test_cancelling_a_stuck_run(lock: threading.Event) -> None:  # SPEC 7.4
    began = threading.Event()

    @task
    def stuck() -> None:
        began.set()
        lock.wait()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        future = stuck.submit()
        assert began.wait(PATIENCE)
        assert future.cancel()
        with pytest.raises(CancelledRun):
            future.result(timeout=0)
        assert inc.submit(1).result(timeout=PATIENCE) == 2
        lock.set()

    main()


def test_a_stuck_element_frees_its_neighbours(lock: threading.Event) -> None:
    @task(timeout_seconds=0.2)
    def element(number: int) -> int:
        if number == 3:
            lock.wait()
        return number

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        futures = element.map(range(10))
        values = futures.result(timeout=PATIENCE, raise_on_failure=False)
        assert isinstance(values[3], TaskRunTimeout)
        assert values[:3] + values[4:] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        lock.set()

    main()


@pytest.mark.may_leave("threads", reason="its subject is a task that never stops")
def test_leaving_does_not_wait_for_ever_for_what_will_not_stop(
    lock: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:  # SPEC 7.6
    began = threading.Event()

    @task
    def stuck() -> None:
        began.set()
        lock.wait()

    @flow
    def main() -> None:
        stuck.submit()
        assert began.wait(PATIENCE)
        raise ValueError("on the way out")

    before = time.monotonic()
    with pytest.raises(ValueError, match="on the way out"):
        main()
    assert time.monotonic() - before < 15, "it takes 5 s at the most where the machine is not busy"
    assert not lock.is_set()
    assert "left behind" in caplog.text
