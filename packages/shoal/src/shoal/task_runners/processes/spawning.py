"""The driver's side of starting worker processes.

    start_worker ── "forkserver" ──▶ fork_server.py ──▶ worker
                 ── "spawn" ───────▶ worker   a process of its own, where there is no forking; a small thread waits for it

May import `fork_server`, `worker_process` and what lies above them.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import queue
import signal as signals
import socket
import threading
from typing import TYPE_CHECKING

from shoal.task_runners.processes.fork_server import SERVERS, ServerGone
from shoal.task_runners.processes.worker_process import (
    DEADLY,
    WorkerProcess,
    command_of,
    interpreter,
    is_handed_on,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ENTRY", "default_method", "prepare", "start_worker"]

#: What a worker runs, unless told otherwise.
ENTRY = "shoal.task_runners.processes.worker:main"


def default_method() -> str:
    """How worker processes start here: "forkserver" or "spawn"."""
    can_fork = hasattr(os, "fork") and hasattr(os, "posix_spawn")
    return "forkserver" if can_fork and hasattr(socket, "SCM_RIGHTS") else "spawn"


def prepare(method: str) -> None:
    """Starts what the first worker would have to wait for, so that it comes up while the driver does other things."""
    if method == "forkserver":
        SERVERS.running()


def start_worker(
    method: str,
    entry: str,
    fds: Sequence[int],
    settings: bytes,
    *,
    env: Mapping[str, str],
    on_exit: Callable[[WorkerProcess], None],
) -> WorkerProcess:
    """Starts a worker process. It has the driver's environment, path, working directory and output, as they are now.

    Args:
        method: "forkserver" or "spawn"; see `default_method`.
        entry: "module:function" to be called in the worker as `function(fds, settings)`.
        fds: descriptors that the worker gets; the caller may close its own when this returns.
        settings: anything the entry wants.
        env: environment variables of the worker, on top of the driver's.
        on_exit: called once when the process is dead, on a service thread that it must not hold up.

    Returns:
        The process. With "forkserver" it may not have been forked yet.
    """
    process = WorkerProcess(on_exit)
    if method == "spawn":
        _spawn(process, entry, fds, settings, env)
        return process
    while True:
        try:
            SERVERS.running().start(process, entry, fds, settings, env)
            return process
        except ServerGone:
            continue


def _spawn(
    process: WorkerProcess,
    entry: str,
    fds: Sequence[int],
    settings: bytes,
    env: Mapping[str, str],
) -> None:
    import subprocess

    # Descriptors keep their numbers, and 0 to 2 are taken there. (A driver without stdin may get these for a socket.)
    moved = {fd: _above_standard(fd) for fd in fds if fd <= 2}
    passed = [moved.get(fd, fd) for fd in fds]
    preparation = marshal.dumps((interpreter(), passed, entry, settings))
    begun: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def live() -> None:
        # Ctrl-C must not reach an interpreter that does not ignore it yet.
        signals.pthread_sigmask(signals.SIG_BLOCK, [signals.SIGINT])
        try:
            child = subprocess.Popen(
                command_of("spawned"),
                stdin=subprocess.PIPE,
                stdout=None if is_handed_on(1) else subprocess.DEVNULL,
                stderr=None if is_handed_on(2) else subprocess.DEVNULL,
                pass_fds=passed,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except BaseException as error:
            begun.put(error)
            return
        lock = threading.Lock()

        def kill(signal: int) -> None:
            with lock:
                if signal == DEADLY and child.returncode is None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(child.pid, signal)  # and what it has started
                child.send_signal(signal)

        process.killer = kill
        process.started(child.pid)
        begun.put(None)
        _watch(process, child, preparation, lock)

    # `PR_SET_PDEATHSIG` kills a process with the thread that started it, so that has to be one that stays.
    threading.Thread(target=live, name="shoal-spawned", daemon=True).start()
    try:
        error = begun.get()
    finally:
        for fd in moved.values():
            os.close(fd)
    if error is not None:
        raise error


def _watch(
    process: WorkerProcess,
    child: subprocess.Popen[bytes],
    preparation: bytes,
    lock: threading.Lock,
) -> None:
    """Feeds a spawned process what it is to do, and waits for its end."""
    stdin = child.stdin
    if stdin is not None:
        try:
            with stdin:
                stdin.write(preparation)
        except OSError:
            pass  # it died
    status: int | None = None
    if hasattr(os, "waitid"):
        try:
            end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            end = None  # reaped by `kill`, which keeps the status, or by user code that waits for any child
        if end is not None:
            status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        with lock:  # once it is reaped its pid may be another's, and `kill` must know
            if status is None:
                status = child.returncode
            child.wait()
    else:
        status = child.wait()
    process.ended(status, "its status was taken by other code" if status is None else None)


def _above_standard(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
