"""How long the functions of tasks run, seen where all of them run in this process: on the sequential runner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from shoal.calls import Call
from shoal.engine.task_run import attempt_async, attempt_here
from shoal.task_runners import async_lane, workers

__all__ = ["task_lengths"]


@contextmanager
def task_lengths() -> Iterator[dict[str, tuple[int, float]]]:
    """Notes meanwhile how often each task was run, and how many seconds all its runs took, by the task's name.

    A run that waits in place for another has that one's time in its own.
    """
    found: dict[str, tuple[int, float]] = {}

    def note(call: Call, began: float) -> None:
        runs, seconds = found.get(call.task.name, (0, 0.0))
        found[call.task.name] = runs + 1, seconds + time.perf_counter() - began

    def timed(frames: Any, frame: Any, call: Call, *rest: Any) -> Any:
        began = time.perf_counter()
        try:
            return attempt_here(frames, frame, call, *rest)
        finally:
            note(call, began)

    async def timed_async(call: Call, *rest: Any) -> Any:
        began = time.perf_counter()
        try:
            return await attempt_async(call, *rest)
        finally:
            note(call, began)

    # The one place from which a run's attempts are made here.
    with (
        patch.object(workers, "attempt_here", timed),
        patch.object(async_lane, "attempt_async", timed_async),
    ):
        yield found
