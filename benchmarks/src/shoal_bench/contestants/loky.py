"""loky's executor, whose pool outlives the death of a worker no more than the standard library's."""

from __future__ import annotations

from concurrent.futures import Executor

import loky

from shoal_bench.contestants.futures import Executors

__all__ = ["Loky"]


class Loky(Executors):
    """`loky.ProcessPoolExecutor`; see `System`."""

    def open_pool(self) -> Executor:
        """See `Executors`."""
        pool: Executor = loky.ProcessPoolExecutor(self.workers)
        return pool
