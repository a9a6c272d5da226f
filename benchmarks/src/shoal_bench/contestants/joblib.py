"""joblib's `Parallel`, with its pool kept: on threads, or on the processes of loky, in batches of its own making."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from shoal_bench.contestants.base import NotPossible, Results, System

__all__ = ["Joblib"]


class Joblib(System):
    """`Parallel(n_jobs=…)` around everything; the argument is its backend. See `System`."""

    _parallel: Any

    def run(self, body: Callable[[], None]) -> None:
        """See `System`."""
        try:
            with Parallel(n_jobs=self.workers, backend=self.argument) as parallel:
                self._parallel = parallel
                body()
        finally:
            if self.argument == "loky":
                get_reusable_executor().shutdown()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`."""
        raise NotPossible("joblib has no futures")

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        results: list[Any] = futures.all()
        return results

    def start_map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
        """See `System`: results as they come need a `Parallel` of their own, which uses the same pool."""
        parallel = Parallel(n_jobs=self.workers, backend=self.argument, return_as="generator")
        return Results(parallel(delayed(function)(item) for item in items))

    def first(self, futures: Any) -> Any:
        """See `System`."""
        return futures.first()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """See `System`."""
        results: list[Any] = self._parallel(delayed(function)(item) for item in items)
        return results

    def call_each(self, function: Callable[..., Any], rows: Iterable[Iterable[Any]]) -> list[Any]:
        """See `System`: there is no other way than that of a map."""
        results: list[Any] = self._parallel(delayed(function)(*row) for row in rows)
        return results
