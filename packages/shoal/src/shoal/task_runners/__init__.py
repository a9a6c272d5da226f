"""Task runners: the faces of execution systems.

    base.py         what all have in common, and the `TaskRunner` protocol
    foreign.py      runners that only keep the protocol
    registry.py     runners by name, through entry points
    workers.py      workers of this process; async_lane.py runs their async tasks, worker_backend.py is their backend
    pools.py        what these belong to
    side_waits.py   what threads wait for that runs on these have started
    sequential.py   everything in the submitting thread
    threads.py      the thread pool
    processes/      the process pool
    remote/         what runners across a process border share
    executor.py     any `concurrent.futures.Executor`
    packing.py      what comes between a batch and its calls

Loaded on access, so that naming one runner does not load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.task_runners.base import BaseTaskRunner, TaskRunner
    from shoal.task_runners.executor import ExecutorTaskRunner
    from shoal.task_runners.processes import ProcessPoolTaskRunner
    from shoal.task_runners.sequential import SequentialTaskRunner
    from shoal.task_runners.threads import ThreadPoolTaskRunner

    ConcurrentTaskRunner = ThreadPoolTaskRunner

__all__ = [
    "BaseTaskRunner",
    "ConcurrentTaskRunner",
    "ExecutorTaskRunner",
    "ProcessPoolTaskRunner",
    "SequentialTaskRunner",
    "TaskRunner",
    "ThreadPoolTaskRunner",
]

_HOMES = {
    "BaseTaskRunner": ("base", "BaseTaskRunner"),
    "ConcurrentTaskRunner": ("threads", "ThreadPoolTaskRunner"),
    "ExecutorTaskRunner": ("executor", "ExecutorTaskRunner"),
    "ProcessPoolTaskRunner": ("processes", "ProcessPoolTaskRunner"),
    "SequentialTaskRunner": ("sequential", "SequentialTaskRunner"),
    "TaskRunner": ("base", "TaskRunner"),
    "ThreadPoolTaskRunner": ("threads", "ThreadPoolTaskRunner"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
    from importlib import import_module

    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
