"""Shoal on each of its runners: a flow around everything, tasks that are submitted and mapped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

from shoal import Task, flow, task

from shoal_bench.contestants.base import NotPossible, System

__all__ = ["Shoal"]


class Shoal(System):
    """A runner, by its name or the address of a cluster; see `System`."""

    takes_futures: ClassVar[bool] = True

    def run(self, body: Callable[[], None]) -> None:
        """See `System`. Logs at WARNING, as a program would that counts microseconds."""
        runner = self.argument if self.is_elsewhere else f"{self.argument}:{self.workers}"
        logging.getLogger("shoal").setLevel(logging.WARNING)

        @flow(task_runner=runner)
        def everything() -> None:
            body()

        everything()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`."""
        return _task_of(function).submit(*arguments)

    def gather(self, futures: Any) -> list[Any]:
        """See `System`. A map gives its results at once."""
        if isinstance(futures, list):
            return [future.result() for future in futures]
        results: list[Any] = futures.result()
        return results

    def start_map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
        """See `System`."""
        return _task_of(function).map(items)

    def first(self, futures: Any) -> Any:
        """See `System`."""
        return futures[0].result()

    @contextmanager
    def traffic(self) -> Iterator[Callable[[], int]]:
        """See `System`. What a runner moves in its own way is counted there."""
        if self.argument == "processes":
            from shoal_bench.suites.process_arrays import driver_traffic as moved
        elif self.argument.startswith("ray"):
            from shoal_bench.contestants.ray import taken_from_store as moved
        else:
            moved = _nothing
        with super().traffic() as passed, moved() as more:
            yield lambda: passed() + more()

    def map_retrying(
        self, function: Callable[[Any], Any], items: Sequence[Any], retries: int
    ) -> list[Any]:
        """See `System`: an option of the task."""
        results: list[Any] = _task_of(function).with_options(retries=retries).map(items).result()
        return results

    def map_surviving(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """See `System`: an option of the task."""
        if self.argument == "threads":
            raise NotPossible("a thread cannot die without its process")
        results: list[Any] = _task_of(function).with_options(crash_retries=3).map(items).result()
        return results


@contextmanager
def _nothing() -> Iterator[Callable[[], int]]:
    yield lambda: 0


@cache
def _task_of(function: Callable[..., Any]) -> Task[..., Any]:
    return task(function)
