"""Runs a flow once on one runner: `python -m shoal_bench.trial.child TARGET RUNNER WORKERS FOLDER [NAME=VALUE …]`.

What the flow prints goes where the parent sends it; what is found goes into the folder: `found.json`, and in `value` the
pickle of what the flow returned.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
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
    moved: Callable[[], int] | None = None
    body = flow.fn

    @wraps(body)
    def begun(*given: Any, **named: Any) -> Any:
        """The flow's own function, which is called once the runner has started."""
        nonlocal moved
        if moved is None:  # else it is another attempt
            found["started"] = time.perf_counter() - began
            moved = stack.enter_context(Shoal(workers, runner).traffic())
        return body(*given, **named)

    flow.fn = begun
    began = time.perf_counter()
    with ExitStack() as stack:
        lengths = stack.enter_context(task_lengths()) if runner == SEQUENTIAL else {}
        try:
            value = flow(*args, **kwargs)
            if flow.is_async:
                value = asyncio.run(value)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}".strip()
        found |= {"seconds": time.perf_counter() - began, "tasks": lengths}
        if moved is not None:
            found["moved"] = moved()
    if found["error"] is None:
        try:
            (folder / "value").write_bytes(cloudpickle.dumps(value))
            found["value"] = True
        except Exception as error:  # what was returned stays here, and cannot be compared
            found["value_error"] = f"{type(error).__name__}: {error}"
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
