"""The standard library's executors: the bare engines of threads and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from shoal_bench.contestants.base import Results, System

__all__ = ["Chunks", "Executors", "Processes", "Threads"]


class Executors(System):
    """Any `concurrent.futures.Executor`; see `System`."""

    pool: Executor

    def open_pool(self) -> Executor:
        """A new executor."""
        raise NotImplementedError

    def run(self, body: Callable[[], None]) -> None:
        """See `System`."""
        self.pool = self.open_pool()
        try:
            body()
        finally:
            self.pool.shutdown()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`."""
        return self.pool.submit(function, *arguments)

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        return [future.result() for future in futures]


class Threads(Executors):
    """`ThreadPoolExecutor`."""

    def open_pool(self) -> Executor:
        """See `Executors`."""
        return ThreadPoolExecutor(self.workers)


class Processes(Executors):
    """`ProcessPoolExecutor`, one message for each call, which is what its `map` does unless told otherwise."""

    def open_pool(self) -> Executor:
        """See `Executors`."""
        return ProcessPoolExecutor(self.workers)

    def map_surviving(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """See `System`: the pool is broken by a death; what has no result goes to another one."""
        results: dict[int, Any] = {}
        while len(results) < len(items):
            try:
                futures = {
                    position: self.pool.submit(function, item)
                    for position, item in enumerate(items)
                    if position not in results
                }
            except BrokenProcessPool:
                self._renew()
                continue
            for position, future in futures.items():
                try:
                    results[position] = future.result()
                except BrokenProcessPool:
                    continue
        return [results[position] for position in range(len(items))]

    def _renew(self) -> None:
        self.pool.shutdown()
        self.pool = self.open_pool()


class Chunks(Processes):
    """`ProcessPoolExecutor` by one who knows `chunksize`, and cuts a map into four chunks for each worker."""

    def start_map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
        """See `System`."""
        items = list(items)
        size = max(1, len(items) // (4 * self.workers))
        return Results(self.pool.map(function, items, chunksize=size))

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        return futures.all() if isinstance(futures, Results) else super().gather(futures)

    def first(self, futures: Any) -> Any:
        """See `System`."""
        return futures.first()
