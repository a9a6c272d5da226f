"""`ProcessPoolTaskRunner`: the user's face of the process pool.

May import `backend` and what lies above it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.exceptions import InvalidOption
from shoal.serialization import dumps_function, find_culprit
from shoal.task_runners.base import BaseTaskRunner
from shoal.task_runners.processes.spawning import default_method, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners.processes.backend import ProcessBackend

__all__ = ["ProcessPoolTaskRunner"]


class ProcessPoolTaskRunner(BaseTaskRunner):
    """Runs tasks on worker processes of this machine, in parallel whatever they do.

    Good for tasks that compute in Python, that must be stopped for certain, or that may crash. Short runs travel in
    batches; large values stay in shared memory. Scripts need no `if __name__ == "__main__"`: workers never import the
    user's `__main__`, and functions and classes defined there travel by value.

    Args:
        max_workers: the most worker processes; by default as many as this process may use processors. They start
            when there is work for them.
        initializer: a function that each worker calls when it starts.
        initargs: its arguments.
        max_tasks_per_worker: task runs after which a worker is replaced by a new one; `None` for never.
        start_method: "forkserver" or "spawn"; by default the first where it exists.
        env: environment variables of the workers, on top of this process's.

    Raises:
        InvalidOption: an option has a wrong value.

    Examples:
        >>> @flow(task_runner=ProcessPoolTaskRunner(max_workers=4))
        ... def main(): ...
    """

    name = "processes"

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_worker: int | None = None,
        start_method: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.check_count("max_workers", max_workers)
        self.check_count("max_tasks_per_worker", max_tasks_per_worker)
        if initializer is not None and not callable(initializer):
            raise self._invalid("initializer", initializer, "a function is needed")
        if not isinstance(initargs, tuple):
            raise self._invalid("initargs", initargs, "a tuple is needed")
        if start_method not in (None, "forkserver", "spawn"):
            raise self._invalid(
                "start_method",
                start_method,
                "'forkserver' or 'spawn' is needed (a plain fork would copy locks that other threads hold)",
            )
        if start_method == "forkserver" and default_method() != "forkserver":
            raise self._invalid("start_method", start_method, "this system cannot fork")
        if env is not None and not _is_environment(env):
            raise self._invalid("env", env, "a mapping of strings to strings is needed")
        self.max_workers = max_workers
        self.initializer = initializer
        self.initargs = initargs
        self.max_tasks_per_worker = max_tasks_per_worker
        self.start_method = start_method
        self.env = dict(env) if env is not None else None

    @staticmethod
    def _invalid(option: str, value: object, problem: str) -> InvalidOption:
        return InvalidOption(
            where="ProcessPoolTaskRunner", option=option, value=value, problem=problem
        )

    def settings(self) -> dict[str, Any]:
        """See `BaseTaskRunner`."""
        return {
            "max_workers": self.max_workers,
            "initializer": self.initializer,
            "initargs": self.initargs,
            "max_tasks_per_worker": self.max_tasks_per_worker,
            "start_method": self.start_method,
            "env": self.env,
        }

    @classmethod
    def from_argument(cls, argument: str) -> ProcessPoolTaskRunner:
        """See `BaseTaskRunner`: `"processes:4"`."""
        return cls(max_workers=cls.whole_number(argument))

    def make_backend(self) -> tuple[ProcessBackend, int | None]:
        """See `BaseTaskRunner`.

        Raises:
            SerializationError: the initializer or its arguments cannot be pickled.
        """
        initializer = None
        if self.initializer is not None:
            try:
                initializer = dumps_function((self.initializer, self.initargs))
            except Exception:
                raise find_culprit((self.initializer, self.initargs), "initializer") from None
        method = self.start_method or default_method()
        prepare(method)  # before the next line, which takes as long
        from shoal.task_runners.processes.backend import ProcessBackend

        backend = ProcessBackend(
            self.max_workers or _processors(),
            method,
            self.env or {},
            self.max_tasks_per_worker,
            initializer,
        )
        return backend, None


def _is_environment(env: Any) -> bool:
    return isinstance(env, Mapping) and all(
        isinstance(item, str) for pair in env.items() for item in pair
    )


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
