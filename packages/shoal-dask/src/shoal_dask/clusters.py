"""Clusters that are started here, and what became of the workers that they were to start.

    SpecCluster ──starts──▶ workers that it knows: nannies, jobs of a queue, …
                 └─ fails: `Starts` remembers with what

A cluster that is told to scale starts its workers in the background; what goes wrong there is logged and forgotten, and
nobody tries again. May import distributed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import distributed
from distributed import Nanny, SpecCluster
from distributed.core import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LocalCluster", "Starts", "start"]

#: What a worker is that a cluster has started, and that does not exist: its start has failed, or it has ended.
_GONE = (Status.created, Status.closing, Status.closed, Status.failed)


class LocalCluster(distributed.LocalCluster):
    """A cluster of this machine whose nannies are left alone."""

    def _update_worker_status(self, op: str, msg: Any) -> None:
        if op == "remove":
            worker = self.workers.get(self.scheduler_info["workers"][msg]["name"])
            if isinstance(worker, Nanny) and worker.status == Status.running:
                # It starts its worker again by itself. Dask would close it 15 s after this death if its worker happened
                # to be dead at that moment too (distributed.deploy.lost-worker-timeout), and never make another.
                super(SpecCluster, self)._update_worker_status(op, msg)  # type: ignore[no-untyped-call]
                return
        super()._update_worker_status(op, msg)  # type: ignore[no-untyped-call]


class Starts:
    """What became of a cluster's workers.

    Args:
        cluster: the cluster, which need not be made yet.

    Attributes:
        error: with what a start failed last, if any did.
    """

    def __init__(self, cluster: Any) -> None:
        self.error: BaseException | None = None
        self._cluster = cluster
        self._under_way = 0
        start_workers = getattr(cluster, "_correct_state_internal", None)
        if start_workers is not None:
            # By this one object: nothing else is told of what goes wrong there.
            cluster._correct_state_internal = lambda: self._watched(start_workers)

    async def _watched(self, start_workers: Callable[[], Any]) -> None:
        self._under_way += 1
        try:
            await start_workers()
        except (Exception, asyncio.CancelledError) as error:
            self.error = error
            raise
        finally:
            self._under_way -= 1

    def are_over(self) -> bool:
        """Whether the cluster was to start workers, and none of them is there or is being started."""
        wanted = getattr(self._cluster, "worker_spec", None)
        if not wanted or self._under_way:
            return False
        workers = list(self._cluster.workers.values())
        return all(getattr(worker, "status", None) in _GONE for worker in workers)


def start(make: Any, arguments: Mapping[str, Any]) -> tuple[Any, Starts]:
    """Makes a cluster.

    Args:
        make: a class or a function.
        arguments: for it.
    """
    if isinstance(make, type) and issubclass(make, SpecCluster):
        cluster: Any = make.__new__(make, **arguments)
        starts = Starts(cluster)  # before it starts anything
        cluster.__init__(**arguments)
        return cluster, starts
    cluster = make(**arguments)
    return cluster, Starts(cluster)
