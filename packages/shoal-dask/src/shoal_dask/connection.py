"""`Connection`: a cluster and a client, opened on first use and shared by all who hold it.

    acquire ──┬─ the first: open ─▶ loop thread ─▶ cluster, if one has to be started ─▶ client
              └─ others: wait until it is open
    release ──┬─ the last: close what was opened here, in the opposite order
              └─ others: nothing

One lock is held while it opens and closes, so that nobody sees it half open; who acquires meanwhile waits. What was
given is neither closed nor changed. May import `settings` and `local`; `clusters` and distributed on use.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.exceptions import ClusterFailed, ClusterUnreachable
from shoal.logs import library_logger

from shoal_dask import local
from shoal_dask.settings import invalid, is_asynchronous

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    from shoal_dask.clusters import Starts
    from shoal_dask.settings import ClusterSettings

__all__ = ["Connection", "quiet"]

#: Seconds that workers of ours have to end at least, however little time their runner has.
_AT_LEAST = 0.5


class Connection:
    """One cluster and one client of it.

    Args:
        settings: which cluster; nothing is looked up before the first `acquire`.

    Attributes:
        client: a synchronous client that is not the default one; the user's own if one was given.
        cluster: the cluster object, `None` where there is only an address.
        is_local: whether the cluster was started here and runs on this machine: its worker processes have this
            process's `sys.path`, working directory and environment.
        dashboard_link: where the dashboard is, `None` if none is served.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        self.cluster: Any = None
        self.is_local = False
        self.dashboard_link: str | None = None
        self._client: Client | None = None
        self._starts: Starts | None = None
        self._users = 0
        self._lock = threading.Lock()
        self._undo: list[Callable[[float], object]] = []

    @property
    def client(self) -> Client:
        if self._client is None:
            raise RuntimeError("the connection to Dask is not open")
        return self._client

    @property
    def is_open(self) -> bool:
        """Whether somebody holds it."""
        return self._client is not None

    def shown(self) -> dict[str, str]:
        """The scheduler's address and the dashboard's link, as far as there are any; nobody is asked."""
        client = self._client
        scheduler = client.scheduler if client is not None else None
        found = {
            "scheduler": scheduler.address if scheduler is not None else None,
            "dashboard": self.dashboard_link,
        }
        return {name: str(value) for name, value in found.items() if value}

    def worker_gone(self) -> None:
        """A worker has gone: what starts workers here has to notice."""
        if self.is_local:
            local.wake()

    def starts_no_workers(self) -> bool:
        """Whether it is a cluster of ours that was to start workers, has none and is not about to start any."""
        return self._starts is not None and self._starts.are_over()

    def failure(self, problem: str) -> ClusterFailed:
        """The error of a cluster that has no workers.

        Args:
            problem: how that showed.
        """
        cause = self._starts.error if self._starts is not None else None
        if cause is not None:
            problem = f"{problem}; to start some failed with {_in_words(cause)}"
        if self.settings.is_new:
            error = ClusterFailed(
                cluster="Dask",
                problem=problem,
                cluster_class=_cluster_class(self.settings.cluster_class)[1],
                was_started=True,
            )
        else:
            address = str(self.client.scheduler.address) if self.client.scheduler else None
            error = ClusterFailed(
                cluster="Dask", problem=problem, address=address, was_started=True
            )
        error.__cause__ = cause
        return error

    def prepare(self) -> None:
        """Starts what can start while the caller goes on to import Dask; quick, and never needed."""
        if self.settings.is_new and self.settings.cluster_class is None:
            local.prepare(self.settings.cluster_kwargs or {})

    def acquire(self) -> None:
        """Opens it, or joins those who hold it. Each call needs a `release`.

        Raises:
            ClusterUnreachable: no scheduler answers.
            ClusterFailed: the cluster could not be started.
            InvalidOption: `cluster_class` names nothing that can be called.
        """
        with self._lock:
            if self._users == 0:
                try:
                    self._open()
                except BaseException:
                    self._close(_AT_LEAST)
                    raise
            self._users += 1

    def release(self, grace: float) -> None:
        """Gives it up. The last one closes what was opened here, in silence.

        Args:
            grace: seconds that workers have to end before they are killed.
        """
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._close(max(grace, _AT_LEAST))

    # ------------------------------------------------------------------ opening

    def _open(self) -> None:
        settings = self.settings
        if settings.client is not None:
            self._use(settings.client)
            return
        self.prepare()
        from distributed.utils import LoopRunner

        runner = LoopRunner()
        runner.start()
        self._undo.append(lambda grace: runner.stop())
        if settings.cluster is not None:
            self.cluster = settings.cluster
        elif settings.is_new:
            self._start_cluster(runner.loop)
        self._connect(runner.loop)
        self._find_dashboard()

    def _use(self, client: Any) -> None:
        if client.status != "running":
            raise _unreachable(str(client), f"the client that was given is {client.status}")
        self._client = client
        self.cluster = client.cluster

    def _start_cluster(self, loop: Any) -> None:
        settings = self.settings
        given = dict(settings.cluster_kwargs or {})
        make, name = _cluster_class(settings.cluster_class)
        if settings.cluster_class is None:
            folder = local.scratch()
            remove = weakref.finalize(self, local.remove, folder)  # also by who forgets to release
            self._undo.append(lambda grace: remove())
            given = {"loop": loop, **local.arguments(given, folder.path)}
            local.allow_children()
        from shoal_dask.clusters import start

        try:
            cluster, starts = start(make, given)
        except Exception as error:
            raise _failed(name, _in_words(error)) from error
        if inspect.iscoroutine(cluster):
            cluster.close()
        if not hasattr(cluster, "scheduler_address"):
            raise _failed(name, f"it made {cluster!r}, which is none")
        if is_asynchronous(cluster):
            raise _failed(name, "it made an asynchronous one, and a synchronous one is needed")
        self.cluster, self._starts = cluster, starts
        self.is_local = settings.cluster_class is None
        self._undo.append(self._close_cluster)
        if settings.adapt_kwargs:
            try:
                cluster.adapt(**settings.adapt_kwargs)
            except Exception as error:
                raise _failed(name, _in_words(error)) from error

    def _connect(self, loop: Any) -> None:
        from distributed import Client

        options = dict(self.settings.client_kwargs or {})
        options.pop("scheduler_file", None)
        options.setdefault("set_as_default", False)
        limit = _connect_timeout(options)
        deadline = time.monotonic() + limit
        if self.cluster is not None:
            address = str(self.cluster.scheduler_address)
            target: Any = self.cluster
        else:
            address = target = self._address(limit)
            options["security"] = _knock(loop, address, options.get("security"), limit)
        try:
            # An asynchronous part of the time is spent; a running scheduler needs milliseconds.
            options["timeout"] = max(deadline - time.monotonic(), 1.0)
            client = Client(
                target, **options, **({} if self.cluster is not None else {"loop": loop})
            )
        except Exception as error:
            raise _unreachable(address, _in_words(error)) from error
        self._client = client
        self._undo.append(lambda grace: client.close(timeout=max(grace, 1.0)))

    def _address(self, limit: float) -> str:
        """Where the scheduler is. A file with its address may be about to be written."""
        path = self.settings.scheduler_file
        if path is None:
            return str(self.settings.address)
        deadline = time.monotonic() + limit
        while True:
            try:
                with open(path, encoding="utf-8") as file:
                    return str(json.load(file)["address"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                if time.monotonic() > deadline:
                    raise _unreachable(
                        os.fspath(path), f"the scheduler file: {_in_words(error)}"
                    ) from error
            time.sleep(0.02)

    def _find_dashboard(self) -> None:
        """Schedulers tell an address of their dashboard also where none is served."""
        asked = (self.settings.cluster_kwargs or {}).get("dashboard_address")
        if self.is_local and asked is None:
            return

        def is_served(dask_scheduler: Any = None) -> bool:
            import sys

            return "distributed.dashboard.scheduler" in sys.modules

        try:
            if self.client.run_on_scheduler(is_served):
                link = getattr(self.cluster, "dashboard_link", None) or self.client.dashboard_link
                self.dashboard_link = str(link) if link else None
        except Exception:  # a scheduler that may not run functions, or has no such service
            self.dashboard_link = None
        if self.dashboard_link:
            library_logger().info("The Dask dashboard is at %s", self.dashboard_link)

    # ------------------------------------------------------------------ closing

    def _close(self, grace: float) -> None:
        with quiet():
            while self._undo:
                try:
                    self._undo.pop()(grace)
                except Exception as error:  # the rest must be closed in spite of it
                    library_logger().debug("while a Dask cluster was closed", exc_info=error)
        self._client = self.cluster = self.dashboard_link = self._starts = None
        self.is_local = False

    def _close_cluster(self, grace: float) -> None:
        cluster = self.cluster
        if self.is_local:
            for nanny in cluster.workers.values():
                nanny.grace = grace
        cluster.close(timeout=grace + 5.0)


def _cluster_class(given: Any) -> tuple[Any, str]:
    """What makes the cluster, and its name."""
    if given is None:
        from shoal_dask.clusters import LocalCluster

        return LocalCluster, "distributed.LocalCluster"
    if not isinstance(given, str):
        return given, f"{given.__module__}.{getattr(given, '__qualname__', given)}"
    from importlib import import_module

    module, _, name = given.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise invalid("cluster_class", given, f"it cannot be imported: {error}") from error
    if not callable(found):
        raise invalid("cluster_class", given, "it names nothing that can be called")
    return found, given


def _connect_timeout(options: dict[str, Any]) -> float:
    from dask import config
    from dask.utils import parse_timedelta

    given = options.get("timeout")
    if given is None:
        given = config.get("distributed.comm.timeouts.connect")
    return float(parse_timedelta(given, "s"))


def _knock(loop: Any, address: str, security: Any, limit: float) -> Any:
    """Finds out within `limit` seconds whether a scheduler answers at an address.

    A `Client` that cannot connect takes up to three times its timeout and hangs where nobody answers its greeting.

    Returns:
        The `Security` to connect with.
    """
    import asyncio

    from distributed.client import _maybe_call_security_loader
    from distributed.comm.core import connect
    from distributed.security import Security
    from distributed.utils import sync

    async def knock() -> None:
        comm = await connect(address, timeout=limit, **security.get_connection_args("client"))
        await comm.close()

    try:
        if not security:
            security = _maybe_call_security_loader(address)
        if isinstance(security, dict):
            security = Security(**security)
        security = security or Security()
        sync(loop, lambda: asyncio.wait_for(knock(), limit + 0.2))
    except Exception as error:
        raise _unreachable(address, _why(error, limit)) from error
    return security


def _why(error: BaseException, limit: float) -> str:
    """What kept a connection from being made, from the innermost cause."""
    import ssl

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = getattr(link, "real_error", None) or link.__cause__ or link.__context__
    tls = next((part for part in chain if isinstance(part, ssl.SSLError)), None)
    if tls is None and "ssl" not in (text := " ".join(map(str, chain))).lower():
        if isinstance(error, TimeoutError) or "Timed out" in text:
            last = chain[-1]  # what came of the last try
            why = "" if isinstance(last, TimeoutError) else f" ({_in_words(last)})"
            return f"no answer within {limit:g} s{why}"
        return _in_words(error)
    return f"TLS failed, see client_kwargs['security']: {_in_words(tls or chain[-1])}"


def _in_words(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if error.__cause__ is None else f"{text} ({_in_words(error.__cause__)})"


def _unreachable(address: str, problem: str) -> ClusterUnreachable:
    return ClusterUnreachable(cluster="Dask", address=address, problem=problem)


def _failed(cluster_class: str, problem: str) -> ClusterFailed:
    return ClusterFailed(cluster="Dask", problem=problem, cluster_class=cluster_class)


# ---------------------------------------------------------------------- silence while a cluster is shut down

_LOUD = ("distributed", "tornado.application", "tornado.general")
_SILENCE = logging.CRITICAL + 1

_quiet_lock = threading.Lock()
_quiet_depth = 0
_levels: dict[logging.Logger, int] = {}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Dask's loggers silent inside, where several threads may be at once: an orderly end is nothing to report."""
    global _quiet_depth
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            for logger in _loggers():
                _levels[logger] = logger.level
                logger.setLevel(_SILENCE)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                for logger, level in _levels.items():
                    logger.setLevel(level)
                _levels.clear()


def _loggers() -> list[logging.Logger]:
    # Each of them: a logger with a level of its own does not ask the one above it.
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    return [logging.getLogger(name) for name in (*_LOUD, *names)]
