"""executorlib's executor on this machine, with workers that stay."""

from __future__ import annotations

from concurrent.futures import Executor
from importlib import import_module
from typing import ClassVar

from shoal_bench.contestants.futures import Executors

__all__ = ["Executorlib"]

executorlib = import_module("executorlib")  # by name: type checkers need not have it


class Executorlib(Executors):
    """`SingleNodeExecutor` with `block_allocation`, else each call would start a process. See `System`."""

    takes_futures: ClassVar[bool] = (
        False  # with workers that stay, its users wait for what they need
    )

    def open_pool(self) -> Executor:
        """See `Executors`."""
        pool: Executor = executorlib.SingleNodeExecutor(
            max_workers=self.workers, block_allocation=True
        )
        return pool
