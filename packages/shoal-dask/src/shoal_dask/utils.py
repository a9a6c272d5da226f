"""Dask's clients, where Prefect has them."""

from shoal_dask.clients import get_async_dask_client, get_dask_client

__all__ = ["get_async_dask_client", "get_dask_client"]
