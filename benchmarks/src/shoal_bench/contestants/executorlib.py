"""executorlib's executor on this machine, with workers that stay."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import ClassVar

from executorlib import SingleNodeExecutor

from shoal_bench.contestants.futures import Executors

__all__ = ["Executorlib"]


class Executorlib(Executors):
    """`SingleNodeExecutor` with `block_allocation`, else each call would start a process. See `System`."""

    takes_futures: ClassVar[bool] = False  # with workers that stay, its users wait for what they need

    def open_pool(self) -> Executor:
        """See `Executors`."""
        pool: Executor = SingleNodeExecutor(max_workers=self.workers, block_allocation=True)
        return pool
