"""Runs that go on after a wait, under a cap (SPEC 10.3)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from shoal import flow, task
from shoal.futures import as_completed, wait
from shoal.testing.tools import PATIENCE, Signals


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("runner", ["threads:2", "processes:2"])
def test_whatever_ends_a_wait_who_goes_on_has_its_place(
    tmp_path: Path, runner: str, kind: str
) -> None:
    signals = Signals(tmp_path)

    def goes_on() -> None:
        with signals.inside("a room") as crowd:
            signals.append("room", crowd)
            time.sleep(0.002)

    @task
    def child(x: int) -> int:
        time.sleep(0.001 * x)
        return x

    @task(max_concurrency=1)
    def parent(x: int) -> int:
        for _ in as_completed([child.submit(n) for n in range(3)]):
            goes_on()
        wait([child.submit(5 * x)], timeout=0.01)
        goes_on()
        return x

    @task(max_concurrency=1)
    async def parent_async(x: int) -> int:
        async for _ in as_completed([child.submit(n) for n in range(3)]):
            goes_on()
        with suppress(TimeoutError):
            await asyncio.wait_for(child.submit(5 * x), 0.01)
        goes_on()
        return x

    @flow(task_runner=runner)
    def main() -> list[int]:
        capped: Any = parent if kind == "sync" else parent_async
        return list(capped.map(range(5)).result(timeout=PATIENCE))

    assert main() == list(range(5))
    assert [int(line) for line in signals.lines("room")] == [1] * 20
