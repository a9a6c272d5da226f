"""Many runs with traces, while workers are ended beneath them: what must hold on every cluster."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal import flow, task, unmapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Ended", "pid_of_newest", "run_disturbed"]


@task
def effect(folder: str, number: int) -> int:
    """Leaves a trace that tells how often it ran, and where."""
    with open(os.path.join(folder, str(number)), "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.002)
    return number


class Ended(NamedTuple):
    """How the runs ended.

    Attributes:
        completed: runs that ended well.
        crashed: runs that ended with a worker.
        untraced: crashed runs that have left no trace: what was at its first line when its worker died.
    """

    completed: int
    crashed: int
    untraced: int


def run_disturbed(
    runner: Any, folder: Path, disturb: Callable[[], None], count: int = 2000, *, singly: bool
) -> Ended:
    """Runs `count` tasks of some 2 ms while `disturb` does its worst; checks the rules of SPEC 7.5.

    Args:
        runner: of the flow.
        folder: for traces, empty.
        disturb: called within the flow once the runs are submitted.
        count: of runs.
        singly: submitted one by one, else mapped.
    """

    @flow(task_runner=runner)
    def main() -> Ended:
        if singly:
            futures: Any = [effect.submit(str(folder), number) for number in range(count)]
        else:
            futures = effect.map(unmapped(str(folder)), range(count))
        disturb()
        for future in futures:
            future.wait(60)
        states = [future.state for future in futures]
        times = Counter({int(p.name): len(p.read_text().splitlines()) for p in folder.iterdir()})
        assert [number for number in times if times[number] > 1] == [], "no effect twice"
        ended = Counter(state.name for state in states)
        assert set(ended) <= {"Completed", "Crashed"}, ended
        for number, future in enumerate(futures):
            if states[number].is_completed():
                assert times[number] == 1
                assert future.result() == number
        untraced = sum(s.is_crashed() and not times[number] for number, s in enumerate(states))
        return Ended(ended["Completed"], ended["Crashed"], untraced)

    return main()


def pid_of_newest(folder: Path) -> int | None:
    """The process of the run that was the last to begin; `None` if that cannot be told just now."""
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, default=None)
    text = newest.read_text() if newest is not None else ""
    return int(text) if text else None
