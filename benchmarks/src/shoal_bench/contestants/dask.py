"""Dask by its own client, on a local cluster of processes with a thread each, or on a cluster that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from distributed import Client, LocalCluster

from shoal_bench.contestants.base import System

__all__ = ["DaskClient"]


class DaskClient(System):
    """`client.submit`, `client.map` and `client.gather`; see `System`."""

    takes_futures: ClassVar[bool] = True
    _client: Any

    def run(self, body: Callable[[], None]) -> None:
        """See `System`. The dashboard takes any port, as a second one on a machine has to."""
        if self.argument:
            self._within(Client(self.argument), body)
            return
        with LocalCluster(
            n_workers=self.workers, threads_per_worker=1, dashboard_address=":0"
        ) as cluster:
            self._within(Client(cluster), body)

    def _within(self, client: Any, body: Callable[[], None]) -> None:
        with client:
            self._client = client
            body()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `System`. Not pure: equal calls are calls of their own."""
        return self._client.submit(function, *arguments, pure=False)

    def gather(self, futures: Any) -> list[Any]:
        """See `System`."""
        results: list[Any] = self._client.gather(futures)
        return results

    def start_map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
        """See `System`."""
        return self._client.map(function, list(items), pure=False)

    def map_retrying(
        self, function: Callable[[Any], Any], items: Sequence[Any], retries: int
    ) -> list[Any]:
        """See `System`: Dask's own retries."""
        return self.gather(self._client.map(function, items, pure=False, retries=retries))

    def map_surviving(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """See `System`: Dask runs again what a dead worker had, up to `allowed-failures`."""
        return self.map(function, items)
