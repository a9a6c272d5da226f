"""Runs a flow once on one runner: `python -m shoal_bench.trial.child TARGET RUNNER WORKERS FOLDER [NAME=VALUE …]`.

What the flow prints goes where the parent sends it; what is found goes into the folder: `found.json`, and in `value` the
pickle of what the flow returned.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterable, Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import cloudpickle
from shoal.cli.parameters import parse
from shoal.cli.targets import find_flow

from shoal_bench.contestants.ours import Shoal
from shoal_bench.trial.lengths import task_lengths

__all__ = ["SEQUENTIAL", "main"]

#: The runner on which everything runs one after the other: what the others are compared with.
SEQUENTIAL = "sequential"


def main(target: str, runner: str, workers: int, folder: Path, assignments: list[str]) -> None:
    """Runs the flow, and writes what was found.

    Args:
        target: see `shoal run`.
        runner: its name.
        workers: how many it may have.
        folder: where to write.
        assignments: the flow's parameters, `name=value` each.
    """
    name = runner if runner == SEQUENTIAL else f"{runner}:{workers}"
    flow = find_flow(target).with_options(task_runner=name)
    args, kwargs = parse(flow, assignments)
    found: dict[str, Any] = {"error": None, "value": False, "started": 0.0, "moved": 0}
    value: Any = None
    body = flow.fn
    runs = Shoal(workers, runner)

    def start() -> Callable[[], int]:
        """The flow's function is called: the runner has started."""
        found["started"] = time.perf_counter() - began
        return stack.enter_context(runs.traffic())

    # What passes through the driver while a runner is left, such as files that Ray reads then, is none of the flow's.
    @wraps(body)
    def timed(*given: Any, **named: Any) -> Any:
        moved = start()
        try:
            return body(*given, **named)
        finally:
            found["moved"] = moved()

    @wraps(body)
    async def timed_async(*given: Any, **named: Any) -> Any:
        moved = start()
        try:
            return await body(*given, **named)
        finally:
            found["moved"] = moved()

    if not flow.is_generator:
        flow.fn = timed_async if flow.is_async else timed
    began = time.perf_counter()
    with ExitStack() as stack:
        lengths = stack.enter_context(task_lengths()) if runner == SEQUENTIAL else {}
        try:
            value = flow(*args, **kwargs)
            if flow.is_async:
                value = asyncio.run(_collected(value) if flow.is_generator else value)
            elif flow.is_generator:
                value = list(value)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}".strip()
        found |= {"seconds": time.perf_counter() - began, "tasks": lengths}
    if found["error"] is None:
        try:
            (folder / "value").write_bytes(cloudpickle.dumps(value))
            found["value"] = True
        except Exception as error:  # what was returned stays here, and cannot be compared
            found["value_error"] = f"{type(error).__name__}: {error}"
    (folder / "found.json").write_text(json.dumps(found))


async def _collected(items: AsyncIterable[Any]) -> list[Any]:
    return [item async for item in items]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
