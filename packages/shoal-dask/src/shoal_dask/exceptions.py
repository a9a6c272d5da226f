"""The error that only the Dask runner has; those of every cluster are in `shoal.exceptions`.

May import `shoal.exceptions` only.

    MissingContextError
    └── MissingDaskClient         get_dask_client() where nothing runs on Dask
"""

from __future__ import annotations

from shoal.exceptions import MissingContextError

__all__ = ["MissingDaskClient"]


class MissingDaskClient(MissingContextError):
    """A Dask client was asked for where there is no cluster that it could belong to."""

    def _text(self) -> str:
        return (
            "get_dask_client() works in a flow run on a DaskTaskRunner, in a task run that it sent to a Dask worker, "
            "and outside of any run; not in a run on another task runner, unless it is given an address."
        )
