"""`get_dask_client`: Dask's own API inside flows and tasks, on the cluster that runs them.

May import `exceptions`; distributed on use.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shoal_dask.exceptions import MissingDaskClient

if TYPE_CHECKING:
    from types import TracebackType

    from distributed import Client, Worker

__all__ = ["CURRENT", "get_dask_client"]

#: The client of the runner whose flow run is under way here.
CURRENT: ContextVar[Client | None] = ContextVar("shoal_dask_client", default=None)


class get_dask_client:
    """A Dask client of the cluster that runs the flow or task around the caller.

    In a flow it is the client of the flow's `DaskTaskRunner`, in a task one of the worker's, whose slot is lent to
    others meanwhile. With `async with` it is an asynchronous client of its own, closed at the end.

    Args:
        timeout: seconds for the connection; by default Dask's.

    Raises:
        MissingDaskClient: on entering: there is neither a flow nor a task on Dask around the caller.

    Examples:
        >>> @task
        ... def mean(path):
        ...     with get_dask_client() as client:
        ...         return client.compute(dd.read_parquet(path).x.mean()).result()

        >>> @flow(task_runner=DaskTaskRunner)
        ... async def main():
        ...     async with get_dask_client() as client:
        ...         return await client.submit(sum, [1, 2])
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._stack = ExitStack()
        self._own: Any = None

    # ------------------------------------------------------------------ sync

    def __enter__(self) -> Client:
        client = CURRENT.get()  # of a flow, which may be called by a task: the flow is nearer
        if client is None:
            _worker_around()
            from distributed import worker_client

            client = self._stack.enter_context(
                worker_client(timeout=self._timeout, separate_thread=True)
            )
        self._stack.enter_context(client.as_current())  # dask collections compute there
        return client

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # ------------------------------------------------------------------ async

    async def __aenter__(self) -> Client:
        from distributed import Client

        client: Any = CURRENT.get()
        around: Any = client if client is not None else _worker_around()
        address, security = around.scheduler.address, around.security
        timeout: dict[str, Any] = {} if self._timeout is None else {"timeout": self._timeout}
        self._own = await Client(
            address, security=security, asynchronous=True, set_as_default=False, **timeout
        )
        self._stack.enter_context(self._own.as_current())
        opened: Client = self._own
        return opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        await self._own.close()


def _worker_around() -> Worker:
    """The worker that the caller runs on.

    Raises:
        MissingDaskClient: it runs on none.
    """
    if "distributed.worker" not in sys.modules:
        raise MissingDaskClient
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        raise MissingDaskClient from None
