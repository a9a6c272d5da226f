"""`DaskTaskRunner`: the user's face of a Dask cluster.

May import `settings` and `connection`; `backend`, and with it distributed, on use; for the report, fsspec on use.
"""

from __future__ import annotations

import importlib.util
import os
import time
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shoal.exceptions import MissingExtraError, SerializationError
from shoal.futures import TaskFuture
from shoal.logs import library_logger
from shoal.task_runners.base import LEAVING
from shoal.task_runners.remote.cluster_runner import ClusterTaskRunner, copied

from shoal_dask.connection import Connection
from shoal_dask.settings import ClusterSettings, comparable, invalid, is_client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from distributed import Client
    from distributed.deploy.cluster import Cluster
    from shoal.scheduling.backend import Backend
    from shoal.scheduling.dispatcher import AnyDispatcher

__all__ = ["DaskTaskRunner"]

#: As Prefect calls the futures of this runner; here there is one kind.
PrefectDaskFuture = TaskFuture


class DaskTaskRunner(ClusterTaskRunner):
    """Runs tasks on a Dask cluster: a temporary one of this machine, a given one, or one that runs elsewhere.

    Short runs travel in batches, large values stay on the workers. Without arguments a local cluster is started when
    the runner is entered, one process with one thread for each processor; scripts need no
    `if __name__ == "__main__"`. What was not started here is never stopped. Duplicates of a runner share its cluster
    for as long as one of them is entered: enter a runner around several flows to keep its cluster warm for them.

    Args:
        cluster: a cluster object, used as it is. Given alone, a string, a path or a client is taken as `address`.
        address: a running scheduler: its address (`"tcp://host:8786"`, `"tls://…"`, `"ws://…"`, `"inproc://…"`), the
            path of a scheduler file (`….json`), or a `distributed.Client`, used as it is.
        cluster_class: what makes a new cluster: a class, a function or a dotted name like
            `"dask_jobqueue.SLURMCluster"`. By default `distributed.LocalCluster`.
        cluster_kwargs: its keyword arguments. The local cluster lets in its own workers and clients only; `"security": True`
            encrypts, too, and `"protocol": "tcp://"` lets in every user of the machine.
        adapt_kwargs: the new cluster scales by itself, with these arguments of its `adapt()`.
        client_kwargs: more arguments of `distributed.Client`, such as `security`, `timeout` (seconds to connect) or
            `scheduler_file`.
        performance_report_path: where Dask's performance report of each use goes, as HTML; needs bokeh here and on
            the scheduler.
        check_environment: compare the versions of Python and of packages on the driver, scheduler and workers, and
            refuse what cannot work.
        ship_modules: which modules travel by value, because workers elsewhere cannot import them: `"auto"` for those
            that live beside the script and are not installed, or their names; an empty list for none.
        worker_timeout: seconds without any worker after which open runs end with `ClusterFailed`; `None` to wait for ever.
            `"auto"` is 60 on a temporary cluster of this machine, and `None` on others, whose workers may have to queue
            for hours. A temporary cluster that is known to have no worker left and to start none is given up within
            seconds, whatever this says.

    Raises:
        InvalidOption: an option has a wrong value, or contradicts another.
        MissingExtraError: `performance_report_path` is given and bokeh is not installed.

    Examples:
        >>> @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 4}))
        ... def main(): ...

        >>> with DaskTaskRunner() as runner:
        ...     main.with_options(task_runner=runner)()
        ...     main.with_options(task_runner=runner)()  # on the same cluster
    """

    name = "dask"
    _plain: ClassVar[Mapping[str, Any]] = {**ClusterTaskRunner._plain, "worker_timeout": "auto"}

    def __init__(
        self,
        cluster: Cluster | Client | str | os.PathLike[str] | None = None,
        address: str | os.PathLike[str] | Client | None = None,
        cluster_class: str | Callable[..., Cluster] | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        performance_report_path: str | os.PathLike[str] | None = None,
        *,
        check_environment: bool = True,
        ship_modules: str | Sequence[str] = "auto",
        worker_timeout: float | str | None = "auto",
    ) -> None:
        given: Any = cluster
        if address is None and (isinstance(given, (str, os.PathLike)) or is_client(given)):
            cluster, address = None, given
        cluster_settings = ClusterSettings(
            cluster,
            address,
            cluster_class,
            copied(cluster_kwargs),
            copied(adapt_kwargs),
            copied(client_kwargs),
        )
        cluster_settings.check()
        if performance_report_path is not None:
            if not isinstance(performance_report_path, (str, os.PathLike)):
                raise invalid(
                    "performance_report_path", performance_report_path, "a path is needed"
                )
            check_bokeh()
        super().__init__(
            Connection(cluster_settings),
            check_environment=check_environment,
            ship_modules=ship_modules,
        )
        self.performance_report_path = performance_report_path
        self.worker_timeout = _checked_timeout(worker_timeout)
        self._cluster_settings = cluster_settings
        self._report: Report | None = None

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(comparable(self.settings()) == comparable(other.settings()))

    def __hash__(self) -> int:
        return hash((type(self), repr(comparable(self.settings()))))

    def settings(self) -> dict[str, Any]:
        """See `BaseTaskRunner`."""
        which = self._cluster_settings
        return {
            "cluster": which.cluster,
            "address": which.address,
            "cluster_class": which.cluster_class,
            "cluster_kwargs": which.cluster_kwargs,
            "adapt_kwargs": which.adapt_kwargs,
            "client_kwargs": which.client_kwargs,
            "performance_report_path": self.performance_report_path,
            "worker_timeout": self.worker_timeout,
            **super().settings(),
        }

    def __reduce__(self) -> Any:
        live = {
            "cluster": self._cluster_settings.cluster,
            "address": self._cluster_settings.client,
        }
        for option, value in live.items():
            if value is not None:
                raise SerializationError(
                    path=f"DaskTaskRunner.{option}",
                    type_name=type(value).__qualname__,
                    problem="it lives in this process; a runner that travels needs the scheduler's address",
                )
        return super().__reduce__()

    @classmethod
    def from_argument(cls, argument: str) -> DaskTaskRunner:
        """See `BaseTaskRunner`: `"dask:4"` for that many local workers, or where a scheduler is.

        Raises:
            InvalidOption: it is neither.
        """
        if argument.isdecimal():
            if int(argument) < 1:
                raise invalid("n_workers", argument, "a whole number from 1 up is needed")
            return cls(cluster_kwargs={"n_workers": int(argument)})
        if ":" in argument or argument.endswith(".json"):
            return cls(address=argument)
        raise invalid(
            "argument",
            argument,
            "a number of workers, a scheduler's address or the path of a scheduler file (….json) is needed",
        )

    def make_backend(self) -> tuple[Backend, int | None]:
        """See `BaseTaskRunner`."""
        self._connection.prepare()  # before the next line, which imports Dask
        from shoal_dask.backend import DaskBackend

        backend = DaskBackend(
            self._connection,
            check_environment=self.check_environment,
            ship_modules=self.ship_modules,
            worker_timeout=self.worker_timeout,
        )
        return backend, None

    # ------------------------------------------------------------------ what it was told, and what it has

    @property
    def address(self) -> Any:
        """Where the scheduler is, as it was given: an address, a path or a client; `None` for a new cluster."""
        return self._cluster_settings.address

    @property
    def cluster_class(self) -> Any:
        """What makes a new cluster, as it was given; `None` for a local one."""
        return self._cluster_settings.cluster_class

    @property
    def cluster_kwargs(self) -> dict[str, Any]:
        """The new cluster's arguments, a copy; empty if none were given."""
        return dict(self._cluster_settings.cluster_kwargs or {})

    @property
    def adapt_kwargs(self) -> dict[str, Any]:
        """The arguments with which it scales by itself, a copy; empty if none were given."""
        return dict(self._cluster_settings.adapt_kwargs or {})

    @property
    def client_kwargs(self) -> dict[str, Any]:
        """The client's further arguments, a copy; empty if none were given."""
        return dict(self._cluster_settings.client_kwargs or {})

    @property
    def client(self) -> Client | None:
        """The `distributed.Client` that it uses; `None` while it is not entered."""
        return self._connection.client if self._dispatcher is not None else None

    # ------------------------------------------------------------------ the report

    def __enter__(self) -> Self:
        if self.performance_report_path is None:
            return super().__enter__()
        self._connection.acquire()  # it is drawn when the backend has let go
        try:
            report = Report(self._connection.client, self.performance_report_path)
            super().__enter__()
        except BaseException:
            self._connection.release(LEAVING)
            raise
        self._report = report
        return self

    def _leave(self, dispatcher: AnyDispatcher, *, stopped: bool) -> None:
        report, self._report = self._report, None
        try:
            super()._leave(dispatcher, stopped=stopped)
        finally:
            if report is not None:
                try:
                    report.write()
                finally:
                    self._connection.release(LEAVING)


def _checked_timeout(given: Any) -> float | str | None:
    if given is None or given == "auto":
        return given  # type: ignore[no-any-return]
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not is_number or not given >= 0:
        raise invalid(
            "worker_timeout", given, "a number of seconds from 0 up, None or 'auto' is needed"
        )
    return given  # type: ignore[no-any-return]


def check_bokeh() -> None:
    """Makes sure that a report could be drawn.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise MissingExtraError(feature="performance_report_path", requirement="bokeh")


class Report:
    """Dask's performance report of what happens from now on.

    `distributed.performance_report` does the same for the ambient client, which may be another one, or none.

    Args:
        client: the `distributed.Client`.
        path: where the HTML goes; anything that fsspec can write to.
    """

    def __init__(self, client: Any, path: str | os.PathLike[str]) -> None:
        def beginning(dask_scheduler: Any = None) -> int:
            count: int = dask_scheduler.monitor.count
            return count

        self._client = client
        self._path = os.fspath(path)
        self._start = time.time()
        self._count = client.run_on_scheduler(beginning)
        client.get_task_stream(
            start=0, stop=0
        )  # from now on the scheduler keeps what it is drawn from

    def write(self) -> None:
        """Draws and writes it. That this fails must not hide how the flow ended: it is a warning."""
        import fsspec

        try:
            html = self._client.sync(self._draw)
            opened: Any = fsspec.open(self._path, mode="w", compression="infer")
            with opened as file:
                file.write(html)
        except Exception as error:
            library_logger().warning(
                "The performance report %s could not be written: %r", self._path, error
            )

    async def _draw(self) -> Any:
        return await self._client.scheduler.performance_report(
            start=self._start, last_count=self._count, code="", mode=None
        )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from shoal.elsewhere import missing

        raise missing(__name__, name)
