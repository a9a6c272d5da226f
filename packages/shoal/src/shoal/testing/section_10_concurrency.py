"""Section 10.3 on any runner: slots and rates that code in runs takes, wherever it runs."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from shoal import concurrency as limiting
from shoal import flow, task
from shoal.concurrency.asyncio import concurrency as concurrency_async
from shoal.concurrency.asyncio import rate_limit as rate_limit_async
from shoal.concurrency.sync import concurrency, rate_limit
from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencySlotAcquisitionError,
    CrashedRun,
)
from shoal.futures import wait
from shoal.limits import ConcurrencyLimits
from shoal.testing.base import SuiteBase, covers
from shoal.testing.section_10_limits import limits_of_a_test
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shoal.task_runners import TaskRunner
    from shoal.tasks import Task
    from shoal.testing.tools import Signals

__all__ = ["ConcurrencyTests"]

KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


class ConcurrencyTests(SuiteBase):
    """Section 10.3."""

    @pytest.fixture
    def one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The name of a limit of one slot, in a store of the test's own."""
        limits = limits_of_a_test(tmp_path, monkeypatch)
        limits.upsert_global_concurrency_limit_by_name("suite-one", 1)
        return "suite-one"

    @KINDS
    @covers("10.3", needs="nests")
    def test_code_in_runs_holds_slots(
        self, runner: TaskRunner, signals: Signals, one: str, kind: str
    ) -> None:
        @task
        def work(number: int) -> int:
            with concurrency(one), signals.inside("the room") as crowd:
                signals.append("crowd", crowd)
                return number

        @task
        async def work_async(number: int) -> int:
            async with concurrency_async(one):
                with signals.inside("the room") as crowd:
                    signals.append("crowd", crowd)
                    await anyio.sleep(0.001)
                return number

        @flow(task_runner=runner)
        def main() -> list[int]:
            return (work if kind == "sync" else work_async).map(range(12)).result(timeout=PATIENCE)

        assert main() == list(range(12))
        assert signals.lines("crowd") == ["1"] * 12
        eventually(lambda: not holders(one), "all is given back")

    @KINDS
    @covers("10.3", needs="nests")
    def test_a_function_that_is_decorated_and_flows_in_runs(
        self, runner: TaskRunner, signals: Signals, one: str, kind: str
    ) -> None:
        @limiting.concurrency(one)
        def enter() -> int:
            with signals.inside("the room") as crowd:
                return crowd

        @limiting.concurrency(one)
        async def enter_async() -> int:
            with signals.inside("the room") as crowd:
                await anyio.sleep(0.001)
                return crowd

        @task
        async def inner_async() -> int:
            return await enter_async()

        @task
        def inner() -> int:
            return enter()

        @flow(task_runner="threads:2")
        def beneath() -> list[int]:
            submit = inner.submit if kind == "sync" else inner_async.submit
            return [future.result(timeout=PATIENCE) for future in [submit() for _ in range(3)]]

        @task
        def outer() -> list[int]:
            return beneath()

        @flow(task_runner=runner)
        def main() -> list[list[int]]:
            return [f.result(timeout=PATIENCE) for f in [outer.submit() for _ in range(2)]]

        assert main() == [[1, 1, 1], [1, 1, 1]]

    @pytest.mark.parametrize("how", ["called", "called, async", "in a flow"])
    @covers("10.2", needs="nests")
    def test_tags_of_what_runs_beneath_a_run(
        self, runner: TaskRunner, signals: Signals, one: str, how: str
    ) -> None:
        """Also where a worker knows of no limits itself."""
        ConcurrencyLimits().create_concurrency_limit("suite-tag", 1)

        @task(tags=["suite-tag"])
        def inner() -> int:
            with signals.inside("the room") as crowd:
                return crowd

        @task(tags=["suite-tag"])
        async def inner_async() -> int:
            with signals.inside("the room") as crowd:
                await anyio.sleep(0.001)
                return crowd

        @flow(task_runner="threads:2")
        def beneath() -> list[int]:
            return [future.result(timeout=PATIENCE) for future in [inner.submit() for _ in "ab"]]

        @task(batch=False)
        def outer() -> list[int]:
            return beneath() if how == "in a flow" else [inner() for _ in "ab"]

        @task
        async def outer_async() -> list[int]:
            return [await inner_async() for _ in "ab"]

        @flow(task_runner=runner)
        def main() -> list[list[int]]:
            submit = outer_async.submit if how == "called, async" else outer.submit
            return [f.result(timeout=PATIENCE) for f in [submit() for _ in range(4)]]

        assert main() == [[1, 1]] * 4
        eventually(
            lambda: not ConcurrencyLimits().read_concurrency_limit_by_tag("suite-tag").active_slots,
            "all is given back",
        )

    @covers("10.3", needs=("nests", "concurrent"))
    def test_the_holder_is_the_run(self, runner: TaskRunner, signals: Signals, one: str) -> None:
        @task(task_run_name="number {number}")
        def work(number: int) -> None:
            with concurrency(one, holder="the press"):
                signals.set("holds")
                signals.wait("go")

        @flow(task_runner=runner)
        def main() -> None:
            first = work.submit(1)
            signals.wait("holds")
            limit = ConcurrencyLimits().read_global_concurrency_limit_by_name(one)
            (lease,) = limit.holders
            assert (lease.holder.run, lease.holder.label, lease.occupy) == (
                "number 1",
                "the press",
                1,
            )
            assert lease.holder.host
            assert lease.holder.pid
            second = work.submit(2)
            eventually(lambda: waiters(one) == ["number 2"], "it stands in line")
            signals.set("go")
            assert wait([first, second], timeout=PATIENCE).not_done == set()

        main()

    @KINDS
    @covers("10.3", needs=("nests", "concurrent"))
    def test_who_waits_for_a_slot_lends_its_worker(
        self, single_runner: TaskRunner, signals: Signals, one: str, kind: str
    ) -> None:
        @task(batch=False)
        def limited() -> str:
            signals.set("began")
            with concurrency(one):
                return "held"

        @task(batch=False)
        async def limited_async() -> str:
            signals.set("began")
            async with concurrency_async(one):
                return "held"

        @task(batch=False)
        def other() -> str:
            return "other"

        @flow(task_runner=single_runner)
        def main() -> None:
            with concurrency(one):
                waits = (limited if kind == "sync" else limited_async).submit()
                signals.wait("began")
                assert other.submit().result(timeout=PATIENCE) == "other"
                assert not waits.done()
            assert waits.result(timeout=PATIENCE) == "held"

        main()

    @pytest.mark.parametrize("what", ["run", "map"])
    @covers("10.3", needs=("nests", "concurrent"))
    def test_what_a_holder_waits_for_finds_a_worker(
        self, single_runner: TaskRunner, signals: Signals, one: str, what: str
    ) -> None:
        @task(batch=False)
        def limited() -> str:
            signals.set("began")
            with concurrency(one):
                return "held"

        @task(batch=False)
        def other(number: int) -> int:
            return number

        @flow(task_runner=single_runner)
        def main() -> None:
            with concurrency(one):
                waits = [limited.submit() for _ in range(3)]
                signals.wait("began")
                # With no time limit, behind all that wait for what is held here.
                found = (
                    other.submit(3).result() if what == "run" else sum(other.map(range(3)).result())
                )
            assert found == 3
            assert [run.result(timeout=PATIENCE) for run in waits] == 3 * ["held"]

        main()

    @covers("10.3", needs=("nests", "concurrent"))
    def test_who_waits_in_a_circle_is_told(self, single_runner: TaskRunner, one: str) -> None:
        @task
        def inner() -> str:
            with concurrency(one):
                return "held"

        @task
        def outer() -> str:
            with concurrency(one):
                return inner.submit().result()

        @flow(task_runner=single_runner)
        def main() -> None:
            error = outer.submit().result(PATIENCE, False)
            assert isinstance(error, ConcurrencySlotAcquisitionError)
            assert one in error.names

        main()

    @pytest.mark.parametrize("how", ["killed", "exits"])
    @covers("10.3", "7.5", needs=("nests", "isolated", "survives_crashes"))
    def test_the_slots_of_a_worker_that_dies_are_free_at_once(
        self, runner: TaskRunner, signals: Signals, one: str, how: str
    ) -> None:
        @task(batch=False)
        def dies(driver: int) -> None:
            with concurrency(one, lease_duration=100 * PATIENCE):
                signals.set("holds")
                signals.wait("go")
                if os.getpid() != driver:
                    os.kill(os.getpid(), signal.SIGKILL) if how == "killed" else os._exit(3)

        @task(batch=False)
        def follows() -> str:
            with concurrency(one):
                return "held"

        @flow(task_runner=runner)
        def main() -> None:
            first = dies.submit(os.getpid())
            signals.wait("holds")
            second = follows.submit()
            signals.set("go")
            assert second.result(timeout=PATIENCE) == "held"
            with pytest.raises(CrashedRun):
                first.result(timeout=PATIENCE)

        main()

    @KINDS
    @covers("10.3", "7.4", needs=("nests", "concurrent", "stops"))
    def test_a_run_that_is_cancelled_holds_nothing_and_waits_for_nothing(
        self, runner: TaskRunner, signals: Signals, one: str, kind: str
    ) -> None:
        @task(batch=False)
        def holds(name: str) -> None:
            signals.set(f"{name} began")
            with concurrency(one):
                signals.set(f"{name} holds")
                signals.wait("never", timeout=2 * PATIENCE)

        @task(batch=False)
        async def holds_async(name: str) -> None:
            signals.set(f"{name} began")
            async with concurrency_async(one):
                signals.set(f"{name} holds")
                await anyio.sleep(2 * PATIENCE)

        @flow(task_runner=runner)
        def main() -> None:
            hold = holds if kind == "sync" else holds_async
            first = hold.submit("first")
            signals.wait("first holds")
            second = hold.submit("second")
            signals.wait("second began")
            eventually(lambda: len(waiters(one)) == 1, "it stands in line")
            assert second.cancel()
            eventually(lambda: not waiters(one), "it waits no more")
            assert first.cancel()
            eventually(lambda: not holders(one), "it holds nothing")

        main()
        assert not signals.is_set("second holds")

    @KINDS
    @covers("10.3", "7.3", needs=("nests", "concurrent", "stops"))
    def test_a_time_limit_ends_the_wait_for_a_slot(
        self, runner: TaskRunner, one: str, kind: str
    ) -> None:
        @task(timeout_seconds=0.2)
        def waits() -> None:
            with concurrency(one):
                raise AssertionError("the slot was held")

        @task(timeout_seconds=0.2)
        async def waits_async() -> None:
            async with concurrency_async(one):
                raise AssertionError("the slot was held")

        @flow(task_runner=runner)
        def main() -> None:
            with concurrency(one):
                future = (waits if kind == "sync" else waits_async).submit()
                future.wait(timeout=PATIENCE)
                assert future.state.name == "TimedOut"
                eventually(lambda: not waiters(one), "it waits no more")

        main()

    @KINDS
    @covers("10.3", needs="nests")
    def test_errors_are_typed(self, runner: TaskRunner, one: str, kind: str) -> None:
        tasks = (
            taking(kind, one, timeout_seconds=0.02),
            taking(kind, one, occupy=2),
            taking(kind, "no such limit", strict=True),
        )

        @flow(task_runner=runner)
        def main() -> None:
            with held_elsewhere(one):
                ends = [one_of.submit().result(PATIENCE, False) for one_of in tasks]
            assert isinstance(ends[0], AcquireConcurrencySlotTimeoutError)
            assert ends[0].names == (one,)
            assert ends[0].timeout_seconds == 0.02
            assert isinstance(ends[1], ConcurrencySlotAcquisitionError)
            assert isinstance(ends[2], ConcurrencySlotAcquisitionError)
            assert "no such limit" in str(ends[2])

        main()

    @KINDS
    @covers("10.3", needs="nests")
    def test_who_would_wait_for_itself_is_told(
        self, runner: TaskRunner, one: str, kind: str
    ) -> None:
        ConcurrencyLimits().upsert_global_concurrency_limit_by_name("suite-two", 2)

        @task
        def inner(name: str) -> str:
            with concurrency(name):
                return "nested"

        @task
        async def inner_async(name: str) -> str:
            async with concurrency_async(name):
                return "nested"

        @task
        def outer(name: str) -> str:
            with concurrency(name):
                return inner(name)

        @task
        async def outer_async(name: str) -> str:
            async with concurrency_async(name):
                return await inner_async(name)

        @flow(task_runner=runner)
        def main() -> None:
            nest = outer if kind == "sync" else outer_async
            assert nest.submit("suite-two").result(timeout=PATIENCE) == "nested"
            error = nest.submit(one).result(PATIENCE, False)
            assert isinstance(error, ConcurrencySlotAcquisitionError)
            assert one in error.names

        main()

    @KINDS
    @covers("10.3", needs="nests")
    def test_a_rate_is_made_on_first_use(self, runner: TaskRunner, one: str, kind: str) -> None:
        @task
        def call(number: int) -> int:
            rate_limit("suite-rate", per_second=1000)
            return number

        @task
        async def call_async(number: int) -> int:
            await rate_limit_async("suite-rate", per_second=1000)
            return number

        @task
        def misuse() -> None:
            rate_limit(one)

        @flow(task_runner=runner)
        def main() -> list[int]:
            assert isinstance(
                misuse.submit().result(PATIENCE, False), ConcurrencySlotAcquisitionError
            )
            return (call if kind == "sync" else call_async).map(range(5)).result(timeout=PATIENCE)

        assert main() == list(range(5))
        limit = ConcurrencyLimits().read_global_concurrency_limit_by_name("suite-rate")
        assert limit.rate is not None
        assert (limit.rate.count, limit.rate.seconds) == (1000, 1.0)
        assert limit.holders == ()


def taking(kind: str, name: str, **options: Any) -> Task[[], Any]:
    """A task, sync or async, that takes slots of a limit and gives them back."""

    @task
    def take() -> None:
        with concurrency(name, **options):
            pass

    @task
    async def take_async() -> None:
        async with concurrency_async(name, **options):
            pass

    return take if kind == "sync" else take_async


def holders(name: str) -> list[str]:
    """The names of the runs that hold slots of a limit."""
    limit = ConcurrencyLimits().read_global_concurrency_limit_by_name(name)
    return [lease.holder.run for lease in limit.holders]


def waiters(name: str) -> list[str]:
    """The names of the runs that wait for slots of a limit."""
    limit = ConcurrencyLimits().read_global_concurrency_limit_by_name(name)
    return [waiter.holder.run for waiter in limit.waiters]


@contextmanager
def held_elsewhere(name: str) -> Iterator[None]:
    """Inside, another thread holds a slot."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with concurrency(name):
            held.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(PATIENCE)
        yield
    finally:
        over.set()
        thread.join(PATIENCE)
