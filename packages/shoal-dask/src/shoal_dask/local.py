"""The temporary local cluster: what it is made with where the user did not say.

May import `scratch` of the core; `forking`, `nanny` and `secret` (and with them distributed) on use.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from shoal.task_runners.remote.scratch import Scratch

__all__ = ["allow_children", "arguments", "prepare", "remove", "scratch", "wake"]


def prepare(given: dict[str, Any]) -> None:
    """Starts the server that workers are forked from, while the caller goes on to import Dask.

    Args:
        given: the user's `cluster_kwargs`.
    """
    if can_fork() and _has_processes(given):
        from shoal_dask.forking import SERVER

        SERVER.start()


def wake() -> None:
    """Has that server go on if somebody has stopped it."""
    if can_fork():
        from shoal_dask.forking import SERVER

        SERVER.wake()


def arguments(given: dict[str, Any], directory: str) -> dict[str, Any]:
    """The arguments of `distributed.LocalCluster`.

    Worker processes have one thread each and are as many as this process may use processors; threads of this process
    (`processes=False`) are one worker. No dashboard is started. Processes connect to each other by a `Secret`.

    Args:
        given: the user's `cluster_kwargs`, which prevail.
        directory: where workers keep their files.
    """
    from dask import config

    processors = _processors()
    threads, workers = given.get("threads_per_worker"), given.get("n_workers")
    if _has_processes(given):
        threads = threads or 1
        workers = max(processors // threads, 1) if workers is None else workers
    else:
        workers = 1 if workers is None else workers
        threads = threads or max(processors // max(workers, 1), 1)
    given = dict(given)
    scheduler = {"local_directory": directory, **(given.pop("scheduler_kwargs", None) or {})}
    made: dict[str, Any] = {"local_directory": directory, "scheduler_kwargs": scheduler}
    if given.get("dashboard_address") is None:
        # Without an address Dask's HTTP server would be open to the network, at a port that is often taken.
        made["dashboard_address"] = "127.0.0.1:0"
        given.pop("dashboard_address", None)
        scheduler.setdefault("dashboard", False)
    made |= {
        **given,
        "n_workers": workers,
        "threads_per_worker": threads,
    }
    # Who asked Dask for plain forks gets them: that script is safe, for it is not imported.
    method = config.get("distributed.worker.multiprocessing-method")
    if _has_processes(given) and "worker_class" not in given and method != "fork" and can_fork():
        from shoal_dask.nanny import LocalNanny

        made["worker_class"] = LocalNanny
    if _has_processes(given) and not _says_who_connects(given):
        from shoal_dask.secret import PROTOCOL, Secret

        made |= {"protocol": PROTOCOL, "security": Secret()}
    return made


def allow_children() -> None:
    """Has this process start others though it may be a worker itself, which multiprocessing takes for a daemon.

    A daemon may have no children, because it is ended without a chance to end them. Dask's workers end by themselves when
    the process that started them has gone.
    """
    import multiprocessing

    current: Any = multiprocessing.current_process()
    current._config.pop("daemon", None)


def scratch() -> Scratch:
    """A new folder for the files of a cluster, where Dask is to have its own."""
    from dask import config

    return Scratch("dask", config.get("temporary-directory", None))


def remove(folder: Scratch) -> None:
    """Removes what `scratch` made, and what is in it."""
    # Dask puts the directories of scheduler and nannies there, and does not always take them away.
    sys.path[:] = [path for path in sys.path if not path.startswith(folder.path)]
    folder.remove()


def can_fork() -> bool:
    """Whether workers can be forked from a server. Elsewhere Dask spawns them, and scripts need a `__main__` guard."""
    import multiprocessing

    return "forkserver" in multiprocessing.get_all_start_methods()


def _has_processes(given: dict[str, Any]) -> bool:
    processes = given.get("processes")
    if (
        processes is None
    ):  # what LocalCluster does too: a class that is no nanny is a worker in this process
        kind = given.get("worker_class")
        return kind is None or any(base.__name__ == "Nanny" for base in kind.__mro__)
    return bool(processes)


def _says_who_connects(given: dict[str, Any]) -> bool:
    """Whether the user, or Dask's configuration, says how processes connect, and so who else can."""
    from dask import config

    return (
        given.get("protocol") is not None
        or given.get("security") is not None
        or "://" in str(given.get("host"))
        or bool(config.get("distributed.comm.require-encryption"))
    )


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
