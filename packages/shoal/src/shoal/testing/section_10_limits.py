"""Section 10 on any runner: limits of tags, as far as runs meet them on workers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from shoal import flow, task
from shoal.futures import wait
from shoal.limits import ConcurrencyLimits
from shoal.testing.base import SuiteBase, covers
from shoal.testing.tools import PATIENCE, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.task_runners import TaskRunner
    from shoal.testing.tools import Signals

__all__ = ["LimitTests", "limits_of_a_test"]

#: Seconds that a run takes to stop: less than after which it is stopped by force.
LAST_WORDS = 0.15


def limits_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    """Limits in a store of the test's own."""
    eventually(
        lambda: all(thread.name != "shoal-limits" for thread in threading.enumerate()),
        "the store of the test before is closed",
    )
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(tmp_path / "limits.db"))
    return ConcurrencyLimits()


class LimitTests(SuiteBase):
    """Section 10.2."""

    @pytest.fixture
    def limits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
        """Limits in a store of the test's own."""
        return limits_of_a_test(tmp_path, monkeypatch)

    @pytest.mark.parametrize(
        ("kind", "how"),
        [("sync", "cancelled"), ("sync", "timed out and retried"), ("async", "timed out")],
    )
    @covers("10.2", "7.3", "7.4", needs=("concurrent", "stops"))
    def test_a_slot_is_free_when_its_holders_code_has_stopped(
        self,
        runner: TaskRunner,
        signals: Signals,
        limits: ConcurrencyLimits,
        kind: str,
        how: str,
    ) -> None:
        limits.create_concurrency_limit(tag="suite-one", concurrency_limit=1)

        @task(tags=["suite-one"], batch=False)
        def hold() -> None:
            with signals.inside("the room") as crowd:
                signals.append("crowd", crowd)
                signals.set("began")
                try:
                    if not signals.is_set("go"):
                        signals.wait("never", timeout=2 * PATIENCE)
                finally:
                    time.sleep(LAST_WORDS)

        @task(tags=["suite-one"], batch=False)
        async def hold_async() -> None:
            with signals.inside("the room") as crowd:
                signals.append("crowd", crowd)
                signals.set("began")
                try:
                    if not signals.is_set("go"):
                        await anyio.sleep(2 * PATIENCE)
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(LAST_WORDS)

        limit = None if how == "cancelled" else 0.2
        retries = 1 if how == "timed out and retried" else 0
        holder = (hold if kind == "sync" else hold_async).with_options(
            timeout_seconds=limit, retries=retries
        )

        @flow(task_runner=runner)
        def main() -> None:
            first = holder.submit()
            signals.wait("began")
            second = holder.with_options(timeout_seconds=None).submit()
            # On a busy machine one with a limit may be past it by now, and the slot free.
            eventually(
                lambda: (
                    second.state.name == "Queued" or (limit is not None and first.state.is_final())
                ),
                "it waits for the slot",
            )
            signals.set("go")
            if how == "cancelled":
                assert first.cancel()
            assert wait([first, second], timeout=PATIENCE).not_done == set()
            assert second.state.is_completed()
            ends = {"cancelled": "Cancelled", "timed out": "TimedOut"}
            assert first.state.name == ends.get(how, "Completed")

        main()
        crowds = signals.lines("crowd")
        assert set(crowds) == {"1"}, "never two at once"
        # On a busy machine an attempt may be past its limit before it has said so.
        assert 2 <= len(crowds) <= 2 + retries

    @covers("10.2", "7.4", needs=("concurrent", "stops"))
    def test_a_run_that_was_cancelled_before_it_began_holds_no_slot(
        self, single_runner: TaskRunner, signals: Signals, limits: ConcurrencyLimits
    ) -> None:
        limits.create_concurrency_limit(tag="suite-one", concurrency_limit=1)

        @task
        def busy() -> None:
            signals.set("began")
            signals.wait("go")

        @task(tags=["suite-one"])
        def limited() -> int:
            return 1

        @flow(task_runner=single_runner)
        def main() -> int:
            busy.submit()
            signals.wait("began")
            handed_over = limited.submit()
            eventually(lambda: handed_over.state.name != "Queued", "it has its slot")
            following = limited.submit()
            assert handed_over.cancel()
            eventually(lambda: following.state.name != "Queued", "the slot is free")
            signals.set("go")
            return following.result(timeout=PATIENCE)

        assert main() == 1

    @pytest.mark.parametrize("how", ["submitted", "called"])
    @covers("10.2", "9.1", needs=("nests", "concurrent"))
    def test_what_has_a_slot_begins_though_all_workers_wait_for_one(
        self, runner: TaskRunner, limits: ConcurrencyLimits, how: str
    ) -> None:
        limits.create_concurrency_limit(tag="suite-one", concurrency_limit=1)

        @task(tags=["suite-one"])
        def limited(number: int) -> int:
            return number

        @task
        def parent(number: int) -> int:
            if how == "called":
                return limited(number)
            return limited.submit(number).result(timeout=PATIENCE)

        @flow(task_runner=runner)
        def main() -> list[int]:
            futures = [one.submit(n) for n in range(4) for one in (limited, parent)]
            return [future.result(timeout=PATIENCE) for future in futures]

        assert main() == [n for n in range(4) for _ in range(2)]
