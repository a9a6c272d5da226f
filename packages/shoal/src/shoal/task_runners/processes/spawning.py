"""The driver's side of starting and ending worker processes.

    start_worker ── START ──▶ fork server (server.py) ── fork ──▶ worker
    kill         ── KILL ───▶
    service thread ◀── STARTED, ENDED ──

One fork server and one service thread per driver, both from the first use to the driver's end; if the server is killed,
so are its workers, and the next start makes a new one. One that somebody has stopped (SIGSTOP) and that leaves a request
unanswered is continued. Where there is no forking, each worker is a process of its own ("spawn"), and a small thread
waits for it.

`_Server.lock` guards the order of requests, `processes`, what is unanswered, and `gone`. A process is marked dead once,
by the thread that took it out of `processes` (or waits for it). May import `logs`, `engine.services` and `server`.
"""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import queue
import signal as signals
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from shoal.engine.services import TIMERS
from shoal.logs import library_logger
from shoal.task_runners.processes.server import (
    ENDED,
    FAILED,
    HEADER,
    HELD,
    KILL,
    REPORT,
    START,
    STARTED,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ENTRY", "WorkerProcess", "default_method", "prepare", "start_worker"]

#: What a worker runs, unless told otherwise.
ENTRY = "shoal.task_runners.processes.worker:main"

#: The signal that no process survives.
DEADLY = getattr(signals, "SIGKILL", signals.SIGTERM)


class WorkerProcess:
    """A worker process, from the request to start it on.

    Attributes:
        pid: its id; `None` until it is known, see `wait_pid`.
        exit_code: what it exited with, once it is dead; `None` if a signal ended it, or if that cannot be known.
        signal: the number of the signal that ended it, if one did.
        error: why neither is known, or why it never came to be.
    """

    def __init__(self, on_exit: Callable[[WorkerProcess], None]) -> None:
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.error: str | None = None
        self._on_exit = on_exit
        self._kill: Callable[[int], None]
        self._known = threading.Event()
        self._dead = threading.Event()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid} {self.fate()}>"

    def fate(self) -> str:
        """What became of it, in words."""
        if not self._dead.is_set():
            return "is running"
        if self.exit_code is not None:
            return f"exited with code {self.exit_code}"
        return self.error or f"was ended by signal {self.signal}"

    @property
    def alive(self) -> bool:
        """Whether its end has not been reported yet."""
        return not self._dead.is_set()

    def wait_pid(self, timeout: float | None = None) -> int | None:
        """Waits until the process is started; returns its id, or `None` if it is not in time or never will be."""
        self._known.wait(timeout)
        return self.pid

    def kill(self, signal: int = DEADLY) -> None:
        """Sends it a signal, if it has not ended; never to another process that got its id."""
        if not self._dead.is_set():
            self._kill(signal)

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the process is dead (`on_exit` may still be about to be called); returns whether it is."""
        return self._dead.wait(timeout)

    def _started(self, pid: int) -> None:
        self.pid = pid
        self._known.set()

    def _ended(self, status: int | None, error: str | None = None) -> None:
        """Marks it dead; `status` is what `subprocess` calls a return code."""
        if status is not None and status < 0:
            self.signal = -status
        else:
            self.exit_code = status
        self.error = error
        self._known.set()
        self._dead.set()
        try:
            self._on_exit(self)
        except BaseException:
            library_logger().exception("What follows the end of a worker process failed")


def default_method() -> str:
    """How worker processes start here: "forkserver" or "spawn"."""
    can_fork = hasattr(os, "fork") and hasattr(os, "posix_spawn")
    return "forkserver" if can_fork and hasattr(socket, "SCM_RIGHTS") else "spawn"


def prepare(method: str) -> None:
    """Starts what the first worker would have to wait for, so that it comes up while the driver does other things."""
    if method == "forkserver":
        _SERVERS.running()


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
            _SERVERS.running().start(process, entry, fds, settings, env)
            return process
        except _ServerGone:
            continue


# ----------------------------------------------------------------- fork server


#: Seconds within which a server answers as a rule: it has one thing to do, and may still be importing.
ANSWERS_WITHIN = 1.0


class _ServerGone(Exception):
    """The server cannot be reached any more."""


class _Server:
    """A running fork server."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.processes: dict[int, WorkerProcess] = {}
        self.gone = False
        self._ids = itertools.count()
        self._unanswered: set[int] = set()  # processes that are to be started, or to be killed
        self._watched = False
        self._surroundings: tuple[Any, ...] = ()
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                for end in (self.socket, theirs):
                    end.setblocking(True)  # whatever socket.setdefaulttimeout() says
                self._pid = _launch(theirs.fileno())
            threading.Thread(target=self._serve, name="shoal-forkserver", daemon=True).start()
        except BaseException:
            self.socket.close()  # a server that was launched ends at this
            raise

    def start(
        self,
        process: WorkerProcess,
        entry: str,
        fds: Sequence[int],
        settings: bytes,
        env: Mapping[str, str],
    ) -> None:
        """Has a worker forked.

        Raises:
            _ServerGone: nothing happened.
        """
        standard = [fd for fd in (1, 2) if _is_handed_on(fd)]
        added = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        surroundings = (_environ(), *_interpreter())
        with self.lock:
            if self.gone:
                raise _ServerGone
            number = next(self._ids)
            request = (
                START,
                number,
                1 in standard,
                2 in standard,
                len(fds),
                None if surroundings == self._surroundings else surroundings,
                added,
                entry,
                settings,
            )
            process._kill = lambda signal: self._signal(number, signal)
            self.processes[number] = process
            try:
                self._send(request, [*standard, *fds])
            except ConnectionError:
                del self.processes[number]
                self.gone = True
                raise _ServerGone from None
            except BaseException:
                del self.processes[number]
                raise
            self._surroundings = surroundings
            self._expect_answer(number)

    def _signal(self, number: int, signal: int) -> None:
        with self.lock:
            if number in self.processes and not self.gone:
                try:
                    self._send((KILL, number, int(signal)), [])
                except OSError:
                    return  # the server is gone, and the process with it
                if signal == DEADLY:
                    self._expect_answer(number)

    def _expect_answer(self, number: int) -> None:
        """The server is to say something of a process; with the lock held."""
        self._unanswered.add(number)
        if not self._watched:
            self._watched = True
            TIMERS.after(ANSWERS_WITHIN, self._look)

    def _look(self) -> None:
        """A server that was stopped would leave runs waiting, and what was to be killed alive."""
        with self.lock:
            self._watched = bool(self._unanswered) and not self.gone
            if not self._watched:
                return
            TIMERS.after(ANSWERS_WITHIN, self._look)
            stopped = self._is_stopped()
        if stopped:
            library_logger().warning(
                "The server of worker processes (pid %d) was stopped, and is continued", self._pid
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signals.SIGCONT)

    def _is_stopped(self) -> bool:
        if not hasattr(os, "waitid"):  # macOS
            return False
        how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self._pid, how) is not None
        except ChildProcessError:
            return False

    def _send(self, request: tuple[Any, ...], fds: Sequence[int]) -> None:
        payload = marshal.dumps(request)
        message = HEADER.pack(len(payload)) + payload
        if fds:
            sent = socket.send_fds(self.socket, [message], fds)
            message = message[sent:]
        if message:
            self.socket.sendall(message)

    def _serve(self) -> None:
        """What the service thread does: hands on what the server reports, until its end."""
        unread = b""
        while True:
            try:
                chunk = self.socket.recv(65536)
            except OSError:
                chunk = b""
            if not chunk:
                break
            unread += chunk
            whole = len(unread) - len(unread) % REPORT.size
            for kind, number, value in REPORT.iter_unpack(unread[:whole]):
                self._reported(kind, number, value)
            unread = unread[whole:]
        self._end()

    def _reported(self, kind: int, number: int, value: int) -> None:
        with self.lock:
            process = self.processes.get(number)
            self._unanswered.discard(number)
            if kind in (ENDED, FAILED):
                self.processes.pop(number, None)
        if process is None:
            pass  # Ctrl-C came while it was asked for: nobody knows it, and its entry finds its socket closed
        elif kind == STARTED:
            process._started(value)
        elif kind == ENDED:
            process._ended(os.waitstatus_to_exitcode(value))
        else:
            process._ended(None, f"it could not be forked: {os.strerror(value)}")

    def _end(self) -> None:
        with self.lock:
            self.gone = True
            processes, self.processes = list(self.processes.values()), {}
            self.socket.close()
        how = "ended"
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            how = f"exited with {code}" if code >= 0 else f"was ended by signal {-code}"
        except ChildProcessError:
            pass  # user code waited for any child, and got it
        for process in processes:
            if process.pid is not None:
                # They ended with the server; what they had started ends with them.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, DEADLY)
            process._ended(None, f"the server of worker processes {how}")


class _Servers:
    """The fork server of this process, made on first use and again after it was killed."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._server: _Server | None = None

    def running(self) -> _Server:
        """The server; a new one if there is none."""
        with self._lock:
            if self._server is None or self._server.gone:
                self._server = _Server()
            return self._server

    def before_fork(self) -> None:
        """No fork comes between the making of a server's socket and `after_fork_in_child` knowing of it."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """The server and its workers are the parent's; a copy of the socket would hide its end from the server."""
        server = self._server
        self._reset()
        if server is not None:
            server.lock = threading.Lock()
            server.gone = True
            server.socket.close()


_SERVERS = _Servers()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_SERVERS.before_fork,
        after_in_parent=_SERVERS.after_fork_in_parent,
        after_in_child=_SERVERS.after_fork_in_child,
    )


def _launch(control_fd: int) -> int:
    """Starts a server process; returns its pid."""
    number = 3 if control_fd != 3 else 4
    actions: list[Any] = [
        (os.POSIX_SPAWN_DUP2, control_fd, number),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    if not _is_handed_on(2):
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    command = _command("serve", number)
    return os.posix_spawn(
        command[0], command, _environ(), file_actions=actions, setsigmask=list(HELD)
    )


# ----------------------------------------------------------------------- spawn


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
    preparation = marshal.dumps((_interpreter(), passed, entry, settings))
    begun: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def live() -> None:
        # Ctrl-C must not reach an interpreter that does not ignore it yet.
        signals.pthread_sigmask(signals.SIG_BLOCK, [signals.SIGINT])
        try:
            child = subprocess.Popen(
                _command("spawned"),
                stdin=subprocess.PIPE,
                stdout=None if _is_handed_on(1) else subprocess.DEVNULL,
                stderr=None if _is_handed_on(2) else subprocess.DEVNULL,
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

        process._kill = kill
        process._started(child.pid)
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
    process._ended(status, "its status was taken by other code" if status is None else None)


def _above_standard(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


# ----------------------------------------------------------------- the driver's


def _command(function: str, *args: int) -> list[str]:
    """The command line that runs a function of the server's module, found where this process would find it."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    if not sys.executable:
        raise RuntimeError("worker processes need sys.executable, which is not set here")
    code = (
        f"import sys; sys.path[:] = sys.argv[1:]; "
        f"from shoal.task_runners.processes.server import {function}; "
        f"{function}({', '.join(map(str, args))})"
    )
    return [sys.executable, *_args_from_interpreter_flags(), "-c", code, *_path()]


def _path() -> list[str]:
    return [str(entry) for entry in sys.path]


def _interpreter() -> tuple[str | None, list[str], list[str]]:
    """Working directory, path and arguments, for `server._set_interpreter`."""
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = None  # it was deleted
    return cwd, _path(), [str(arg) for arg in getattr(sys, "argv", [""])]


def _environ() -> dict[bytes, bytes]:
    environ = {}
    for name in list(os.environb):
        try:
            environ[name] = os.environb[name]
        except KeyError:
            pass  # another thread took it away meanwhile
    return environ


def _is_handed_on(fd: int) -> bool:
    """Whether `fd` is a standard stream, and not closed or (reusing a closed one's number) something private."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
