"""Ray by its own tasks, on an instance of this machine or on a cluster that runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

# Under `uv run` Ray would make an environment anew for its workers, which takes much longer than all else.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray  # after the variable, which it reads when it is imported
from ray._private.worker import Worker

from shoal_bench.contestants.base import System
from shoal_bench.contestants.traffic import counted

__all__ = ["RayRemote", "taken_from_store"]


class RayRemote(System):
    """`.remote()` and one `ray.get` for all; see `System`."""

    takes_futures: ClassVar[bool] = True

    def run(self, body: Callable[[], None]) -> None:
        """See `System`."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.argument:
            ray.init(address=self.argument, **quiet)
        else:
            ray.init(address="local", num_cpus=self.workers, include_dashboard=False, **quiet)
        try:
            body()
        finally:
            ray.shutdown()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`."""
        return _remote(function).remote(*arguments)

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        results: list[Any] = ray.get(futures)
        return results

    @contextmanager
    def traffic(self) -> Iterator[Callable[[], int]]:
        """See `System`."""
        with super().traffic() as passed, taken_from_store() as taken:
            yield lambda: passed() + taken()

    def map_retrying(
        self, function: Callable[[Any], Any], items: Sequence[Any], retries: int
    ) -> list[Any]:
        """See `System`: Ray's own retries."""
        call = _remote(function).options(max_retries=retries, retry_exceptions=True).remote
        return self.gather([call(item) for item in items])

    def map_surviving(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """See `System`: Ray runs again what a dead worker had, three times."""
        return self.map(function, items)


@contextmanager
def taken_from_store() -> Iterator[Callable[[], int]]:
    """Counts meanwhile the bytes of values that this process takes from the object store.

    A process of the machine whose store it is gets values as shared memory, which no socket carries.
    """

    def take(original: Any, worker: Any, found: Any, *args: Any, **kwargs: Any) -> Any:
        size = sum(len(item[0]) for item in found if item[0] is not None)
        return original(worker, found, *args, **kwargs), size

    with counted(Worker, "deserialize_objects", take) as taken:
        yield taken


@cache
def _remote(function: Callable[..., Any]) -> Any:
    """A remote function, made once, as by a decorator."""
    return ray.remote(function)
