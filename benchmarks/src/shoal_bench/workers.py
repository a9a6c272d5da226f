"""Runners whose workers are there before anything is measured, for commands that time the body of a flow alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["workers"]


@contextmanager
def workers(name: str) -> Iterator[Callable[[], Any]]:
    """Runners of a kind whose workers are there already, as far as that can be."""
    if name not in ("dask", "ray"):
        yield lambda: name
        return
    if name == "dask":
        from shoal_dask import DaskTaskRunner

        with DaskTaskRunner(cluster_kwargs={"n_workers": 2, "protocol": "tcp://"}) as dask:
            address = dask._connection.cluster.scheduler_address
            yield lambda: DaskTaskRunner(address=address)
        return
    from shoal_ray import RayTaskRunner

    with RayTaskRunner(init_kwargs={"num_cpus": 2}):
        yield RayTaskRunner
