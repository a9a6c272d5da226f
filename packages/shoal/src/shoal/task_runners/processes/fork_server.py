"""The driver's side of the fork server.

    start ── START ──▶ fork server (server.py) ── fork ──▶ worker
    kill  ── KILL ───▶
    service thread ◀── STARTED, ENDED ──

One server and one service thread per driver, both from the first use to the driver's end; if the server is killed, so are
its workers, and the next start makes a new one. One that somebody has stopped (SIGSTOP) and that leaves a request
unanswered is continued.

`_Server.lock` guards the order of requests, `processes`, what is unanswered, and `gone`. A process is marked dead once,
by the thread that took it out of `processes`. May import `logs`, `engine.services`, `server` and `worker_process`.
"""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import signal as signals
import socket
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
from shoal.task_runners.processes.worker_process import (
    DEADLY,
    command_of,
    environ,
    interpreter,
    is_handed_on,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shoal.task_runners.processes.worker_process import WorkerProcess

__all__ = ["SERVERS", "ServerGone"]

#: Seconds within which a server answers as a rule: it has one thing to do, and may still be importing.
ANSWERS_WITHIN = 1.0


class ServerGone(Exception):
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
            ServerGone: nothing happened.
        """
        standard = [fd for fd in (1, 2) if is_handed_on(fd)]
        added = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        surroundings = (environ(), *interpreter())
        with self.lock:
            if self.gone:
                raise ServerGone
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
            process.killer = lambda signal: self._signal(number, signal)
            self.processes[number] = process
            try:
                self._send(request, [*standard, *fds])
            except ConnectionError:
                del self.processes[number]
                self.gone = True
                raise ServerGone from None
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
            process.started(value)
        elif kind == ENDED:
            process.ended(os.waitstatus_to_exitcode(value))
        else:
            process.ended(None, f"it could not be forked: {os.strerror(value)}")

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
            process.ended(None, f"the server of worker processes {how}")


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


SERVERS = _Servers()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=SERVERS.before_fork,
        after_in_parent=SERVERS.after_fork_in_parent,
        after_in_child=SERVERS.after_fork_in_child,
    )


def _launch(control_fd: int) -> int:
    """Starts a server process; returns its pid."""
    number = 3 if control_fd != 3 else 4
    actions: list[Any] = [
        (os.POSIX_SPAWN_DUP2, control_fd, number),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    if not is_handed_on(2):
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    command = command_of("serve", number)
    return os.posix_spawn(
        command[0], command, environ(), file_actions=actions, setsigmask=list(HELD)
    )
