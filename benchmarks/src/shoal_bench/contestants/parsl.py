"""Parsl's `HighThroughputExecutor` on this machine: apps that are called, and give futures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from shoal_bench.contestants.base import System

__all__ = ["Parsl"]

parsl = import_module("parsl")  # by name: type checkers need not have it
executors = import_module("parsl.executors")
providers = import_module("parsl.providers")


class Parsl(System):
    """`python_app` and `.result()`; see `System`."""

    takes_futures: ClassVar[bool] = True

    def run(self, body: Callable[[], None]) -> None:
        """See `System`. One block of workers, from the beginning to the end; no monitoring."""
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            executor = executors.HighThroughputExecutor(
                address="127.0.0.1",
                max_workers_per_node=self.workers,
                cores_per_worker=1e-6,
                encrypted=False,
                provider=providers.LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
            )
            config = parsl.Config(
                executors=[executor],
                run_dir=folder,
                strategy="none",
                usage_tracking=0,
                initialize_logging=False,
            )
            with parsl.load(config):
                body()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`."""
        return _app(function)(*arguments)

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        return [future.result() for future in futures]


@cache
def _app(function: Callable[..., Any]) -> Any:
    """An app, made once, as by a decorator."""
    return parsl.python_app(function)
