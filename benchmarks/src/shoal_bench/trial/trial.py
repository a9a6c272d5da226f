"""The parent's side of a trial: a process for the flow on one runner, what its tree of processes used, and its end."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal_bench.fresh_process import how_it_ended
from shoal_bench.live.watch import Tree

__all__ = ["Trial", "differs", "tried"]

#: Seconds between two looks at what processes have used.
LOOK = 0.1


@dataclass(frozen=True)
class Trial:
    """What a flow took on a runner, once.

    Attributes:
        runner: its name.
        seconds: from the call of the flow to its end, the start of the runner included.
        started: how many of these the start of the runner took, before the flow's function was called.
        cpu: seconds of processors that all processes used, imports included; `None` if that is not known.
        moved: bytes that passed through the driver while the flow's function ran.
        tasks: how often each task ran and how many seconds that took, by name; of the sequential runner only.
        failed: why there is no result, or `None`.
        value: the pickle of what the flow returned; `None` if there is none.
    """

    runner: str
    seconds: float = 0.0
    started: float = 0.0
    cpu: float | None = None
    moved: int = 0
    tasks: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    failed: str | None = None
    value: bytes | None = None


def tried(
    target: str, runner: str, workers: int, assignments: Sequence[str], *, limit: float
) -> Trial:
    """Runs a flow on a runner in a process of its own. What it prints is not shown.

    Args:
        target: see `shoal run`.
        runner: its name.
        workers: how many it may have.
        assignments: the flow's parameters, `name=value` each.
        limit: seconds after which it is ended, with all that it has started.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        # -P: what lies in the current folder hides no module, until the flow's own folder is put first as in `shoal run`.
        command = [sys.executable, "-P", "-m", "shoal_bench.trial.child", target, runner]
        with (Path(folder) / "errors").open("wb+") as errors:
            process = subprocess.Popen(
                [*command, str(workers), folder, *assignments],
                env=os.environ | {"SHOAL_LOGGING_LEVEL": "WARNING"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            tree = Tree(process.pid)
            try:
                cpu, in_time = _watch(process, tree, limit)
            finally:
                tree.kill()
                process.wait()
            if not in_time:
                return Trial(runner, failed=f"it took longer than {limit:.0f} s, and was ended")
            return _found(runner, Path(folder), errors.name, process.returncode, cpu)


def _watch(process: subprocess.Popen[bytes], tree: Tree, limit: float) -> tuple[float | None, bool]:
    """Waits for the end of a process; gives what its tree used of processors, and whether it ended in time."""
    end = time.monotonic() + limit
    start = last = tree.used()
    cpu: float | None = 0.0
    while process.poll() is None:
        if time.monotonic() > end:
            return None, False
        now = tree.used()
        since = now.since(last)
        cpu = None if cpu is None or since is None else cpu + since
        last = now
        time.sleep(LOOK)
    return None if cpu is None else cpu + start.total, True


def _found(runner: str, folder: Path, errors: str, code: int, cpu: float | None) -> Trial:
    try:
        found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    except FileNotFoundError:
        said = Path(errors).read_text(errors="replace")
        return Trial(runner, failed=how_it_ended(code, said))
    value = (folder / "value").read_bytes() if found["value"] else None
    tasks = {name: (runs, seconds) for name, (runs, seconds) in found["tasks"].items()}
    return Trial(
        runner,
        seconds=found["seconds"],
        started=found["started"],
        cpu=cpu,
        moved=found["moved"],
        tasks=tasks,
        failed=found["error"],
        value=value,
    )


def differs(one: Trial, other: Trial) -> bool | None:
    """Whether two runners gave different results; `None` if that cannot be known."""
    if one.value is None or other.value is None:
        return None
    if one.value == other.value:
        return False
    try:
        return not bool(pickle.loads(one.value) == pickle.loads(other.value))
    except Exception:  # classes of the user's that cannot be loaded or compared, arrays
        return True
