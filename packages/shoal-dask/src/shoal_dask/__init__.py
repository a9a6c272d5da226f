"""Runs Shoal flows on Dask.

    exceptions, settings        what was asked for, and what may go wrong
    forking, nanny, preloaded   worker processes of a local cluster
    secret                      who may connect to it
    local, clusters             what a cluster is made with, and what became of its workers
    connection                  the cluster and the client
    environment                 what the workers need to have
    options                     Dask's own annotations
    clients, utils              its API in flows and tasks
    handles, values, natives    values that stay, or come from elsewhere; Dask's own objects
    pace                        how often Dask's streams send
    bus, session                messages beside Dask's own; what runs batches on a worker
    members, link, listening    the driver's books; its end of the bus; what it hears
    relays, jobs, watch         futures for Dask; what it says of tasks and workers; a scheduler that has gone
    backend                     batches become Dask tasks
    task_runners                what users configure; Dask's performance report

The public names below load on first access: importing this package does not import Dask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal_dask.clients import get_async_dask_client, get_dask_client
    from shoal_dask.task_runners import DaskTaskRunner

    __version__: str

__all__ = ["DaskTaskRunner", "get_async_dask_client", "get_dask_client"]

_HOMES = {
    "DaskTaskRunner": "task_runners",
    "get_async_dask_client": "clients",
    "get_dask_client": "clients",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("shoal-dask")
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
