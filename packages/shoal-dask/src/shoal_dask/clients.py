"""`get_dask_client`: Dask's own API inside flows and tasks, on the cluster that runs them.

May import `connection`; distributed on use.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shoal.context import CALL, SCOPE
from shoal.exceptions import InvalidOption
from shoal.task_runners.base import LEAVING

from shoal_dask.connection import Connection
from shoal_dask.exceptions import MissingDaskClient
from shoal_dask.settings import ClusterSettings

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from distributed import Client, Worker

__all__ = ["CURRENT", "get_async_dask_client", "get_dask_client"]

#: The client of the runner whose flow run is under way here.
CURRENT: ContextVar[Client | None] = ContextVar("shoal_dask_client", default=None)


class get_dask_client:
    """A Dask client of the cluster that runs the flow or task around the caller.

    In a flow it is the client of the flow's `DaskTaskRunner`, in a task one of the worker's, whose slot is lent to
    others meanwhile. With `async with` it is an asynchronous client of its own, closed at the end. Outside of any run,
    say in a test or a notebook, it is that of a temporary cluster of this machine, which ends with it.

    Args:
        timeout: seconds for the connection, also as `"30s"`; by default Dask's.
        **client_kwargs: more arguments of `distributed.Client`; if there are any, it is a client of its own, closed at
            the end. With `address`, of the cluster there.

    Raises:
        MissingDaskClient: on entering: the flow or task around the caller does not run on Dask.
        InvalidOption: `asynchronous` is not for the user to say: `with` gives a client that is not, `async with` one
            that is.

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

    def __init__(
        self, timeout: float | str | timedelta | None = None, **client_kwargs: Any
    ) -> None:
        if "asynchronous" in client_kwargs:
            raise InvalidOption(
                where="get_dask_client",
                option="asynchronous",
                value=client_kwargs["asynchronous"],
                problem="`with` gives a client that is not, `async with` one that is",
            )
        self._timeout = timeout
        self._options = client_kwargs
        self._stack = ExitStack()
        self._own: Any = None
        self._temporary: Connection | None = None

    # ------------------------------------------------------------------ sync

    def __enter__(self) -> Client:
        try:
            client = self._opened()
            self._stack.enter_context(client.as_current())  # dask collections compute there
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return client

    def _opened(self) -> Client:
        around = self._client_around()
        if around is None and "address" not in self._options:
            _worker_around()
            from distributed import worker_client

            around = self._stack.enter_context(
                worker_client(timeout=self._timeout, separate_thread=True)
            )
        if not self._options:
            assert around is not None  # without options there is no address to go to
            return around
        from distributed import Client

        own: Client = self._stack.enter_context(Client(**self._arguments(around)))
        return own

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            self._release()

    # ------------------------------------------------------------------ async

    async def __aenter__(self) -> Client:
        import asyncio

        from distributed import Client

        try:
            # What starts a cluster takes a while.
            around: Any = await asyncio.to_thread(self._client_around)
            if around is None and "address" not in self._options:
                around = _worker_around()
            self._own = await Client(asynchronous=True, **self._arguments(around))
            self._stack.enter_context(self._own.as_current())
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        opened: Client = self._own
        return opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio

        try:
            self._stack.__exit__(kind, error, trace)
            if self._own is not None:
                await self._own.close()
        finally:
            await asyncio.to_thread(self._release)

    # ------------------------------------------------------------------ both

    def _client_around(self) -> Client | None:
        """The client of the flow around, or of a cluster made here; `None` on a worker, and with an address."""
        if "address" in self._options:
            return None
        client = CURRENT.get()  # of a flow, which may be called by a task: the flow is nearer
        if client is not None and client.status == "closed":
            client = None  # runners are not always left in the reverse of the order in which they were entered
        if client is not None or _in_a_run() or _is_on_a_worker():
            return client
        connection = Connection(ClusterSettings())
        connection.acquire()
        self._temporary = connection
        return connection.client

    def _release(self) -> None:
        """Ends the temporary cluster, if there is one."""
        connection, self._temporary = self._temporary, None
        if connection is not None:
            connection.release(LEAVING)

    def _arguments(self, around: Any) -> dict[str, Any]:
        """What a client of its own is made with, given a client or a worker of the cluster."""
        given = {"set_as_default": False, **self._options}
        if self._timeout is not None:
            given.setdefault("timeout", self._timeout)
        if around is not None:
            given = {"address": around.scheduler.address, "security": around.security, **given}
        return given


#: As Prefect calls it in async code.
get_async_dask_client = get_dask_client


def _in_a_run() -> bool:
    return CALL.get() is not None or SCOPE.get() is not None


def _is_on_a_worker() -> bool:
    try:
        _worker_around()
    except MissingDaskClient:
        return False
    return True


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
