"""The process that worker processes are forked from, and what a worker does before its entry point is called.

    driver ── requests, descriptors ──▶ fork server ── fork ──▶ worker: prepare, call the entry point, leave
           ◀─ reports: started, ended ─            ◀─ SIGCHLD ─

One server per driver. It is small: of the user's code it imports nothing, of ours only the worker's module. It has one
thread, so forking is safe. It guarantees:

- Nobody outlives the driver: the server sees the end of its socket (or the driver's pidfd), kills its workers, leaves.
  Workers die with the server by `PR_SET_PDEATHSIG`, which follows its main thread, the only one.
- A pid means one process: only the server reaps its workers, and it signals them itself.
- It never waits for the driver to read, so the driver may block in sending.

- What a killed worker had started goes with it: each worker leads a session, and its process group is killed with it.

The server stays in the driver's process group, and job control is for all of them: it passes Ctrl-Z on, and workers go
with it if the group is killed. It was started with `HELD` signals blocked and so lives as long as the driver, whatever the driver makes of its
Ctrl-C, hang-up or SIGTERM. They are blocked and not ignored, because a worker that is sent SIGTERM right after its fork
must not lose it.

A worker has no terminal, so nothing that it runs is stopped for want of one. Of Ctrl-C only the driver hears.

This module is imported before anything else in the server, and each import is a part of the first worker's delay: it
imports the standard library only. POSIX only, but for `spawned`.
"""

from __future__ import annotations

import errno
import gc
import marshal
import os
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENDED", "FAILED", "HEADER", "HELD", "KILL", "REPORT", "START", "serve", "spawned"]

#: A request is its length and a marshalled tuple that begins with one of these kinds.
#:
#: START, id, has stdout, has stderr, number of descriptors, surroundings or None for the last ones, env, entry, settings
#: KILL, id, signal
START, KILL = 1, 2
HEADER = struct.Struct("=I")

#: A report is a kind, the id that the driver gave, and a value: a pid, a wait status, an errno.
STARTED, ENDED, FAILED = 1, 2, 3
REPORT = struct.Struct("=BIq")

#: Signals that the server does not take; the driver blocks them when it starts the server.
HELD = (
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    if hasattr(signal, "SIGHUP")
    else {signal.SIGINT, signal.SIGTERM}
)

#: Imported before the first worker is forked.
PRELOAD = ["shoal.task_runners.processes.worker"]
#: Imported once there is a worker and nothing has been asked for `IDLE` milliseconds.
PRELOAD_LATER = ["cloudpickle"]
IDLE = 100

#: The most descriptors that one message can carry (the kernel's SCM_MAX_FD).
MOST_FDS = 253


def serve(control_fd: int) -> NoReturn:
    """What the server process runs: forks workers as told by the driver, and ends with it."""
    gc.disable()  # nothing here is worth collecting, and collecting would write to pages shared with workers
    _close_all_but(control_fd)
    server = _Server(socket.socket(fileno=control_fd))
    _preload(PRELOAD)
    try:
        server.run()
    finally:
        server.end_workers()
    os._exit(0)


class _Server:
    """The state of the server: its socket, its workers by id and by pid, reports that the socket did not take yet."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._unsent = bytearray()
        self._surroundings: Any = None
        self._prctl = _load_prctl()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._driver_fd = -1
        if hasattr(os, "pidfd_open"):
            try:
                # Tells of the driver's end even if a child that its C code forked holds the other end of the socket.
                self._driver_fd = os.pidfd_open(os.getppid())
            except OSError:
                pass

    def run(self) -> None:
        """Serves until the driver has ended."""
        import select

        poll = select.poll()
        control, wake = self._control.fileno(), self._wake_read
        poll.register(control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        if self._driver_fd >= 0:
            poll.register(self._driver_fd, select.POLLIN)
        later = PRELOAD_LATER
        while True:
            ready = dict(poll.poll(IDLE if later and self._ids else None))
            if not ready:
                _preload(later)
                later = []
            if wake in ready:
                os.read(wake, 4096)
                self._reap()
            if self._driver_fd in ready:
                break
            if ready.get(control, 0) & ~select.POLLOUT and not self._receive():
                break
            if self._unsent and not self._send():
                break
            poll.modify(control, select.POLLIN | (select.POLLOUT if self._unsent else 0))

    def end_workers(self) -> None:
        """Kills and reaps what still runs."""
        for pid in self._pids:
            _kill(pid, signal.SIGKILL)
        for pid in self._pids:
            os.waitpid(pid, 0)
            _kill_group(pid, signal.SIGKILL)  # what it may have started while it was being killed

    def _suspend(self, *_: object) -> None:
        """Ctrl-Z: the terminal does not know the workers. It stops nobody where nobody could let them go on."""
        for pid in self._pids:
            _kill_group(pid, signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when this process goes on
        signal.signal(signal.SIGTSTP, self._suspend)
        for pid in self._pids:
            _kill_group(pid, signal.SIGCONT)

    def _receive(self) -> bool:
        """Serves one request; returns whether there was one, and not the end."""
        try:
            header, fds, _, _ = socket.recv_fds(self._control, HEADER.size, MOST_FDS)
            header += _read(self._control, HEADER.size - len(header))
            payload = _read(self._control, *HEADER.unpack(header))
        except (EOFError, ConnectionError):
            return False
        kind, process, *details = marshal.loads(payload)
        if kind == START:
            self._start(process, fds, *details)
        elif process in self._ids:
            _kill(self._ids[process], details[0])
        return True

    def _start(
        self,
        process: int,
        fds: list[int],
        has_stdout: bool,
        has_stderr: bool,
        number: int,
        surroundings: Any,
        env: dict[bytes, bytes],
        entry: str,
        settings: bytes,
    ) -> None:
        if surroundings is not None:
            self._surroundings = surroundings
        server = os.getpid()
        gc.freeze()
        try:
            if len(fds) != has_stdout + has_stderr + number:
                raise OSError(errno.EMFILE, "descriptors did not arrive")
            pid = os.fork()
        except OSError as error:
            self._report(FAILED, process, error.errno or 0)
            pid = -1
        if pid == 0:
            try:
                self._become_worker(server)
                stdout = fds.pop(0) if has_stdout else None
                stderr = fds.pop(0) if has_stderr else None
                _redirect(stdout, stderr)
                environ, *rest = self._surroundings
                _set_environ(environ | env)
                _set_interpreter(*rest)
                for fd in fds:
                    os.set_inheritable(fd, False)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            _run(entry, fds, settings)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._ids[process] = pid
            self._pids[pid] = process
            self._report(STARTED, process, pid)

    def _become_worker(self, server: int) -> None:
        """Leaves the server's things behind, in a child that was just forked."""
        if self._prctl is not None:
            self._prctl(1, signal.SIGKILL)
            if os.getppid() != server:
                os._exit(1)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        _set_signals()
        self._control.close()
        for fd in (self._wake_read, self._wake_write, self._driver_fd):
            if fd >= 0:
                os.close(fd)
        gc.enable()

    def _reap(self) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            process = self._pids.pop(pid, None)
            if process is not None:
                if os.WIFSIGNALED(status):
                    # Not the group of another by now: its number is not given away while it has members.
                    _kill_group(pid, signal.SIGKILL)
                del self._ids[process]
                self._report(ENDED, process, status)

    def _report(self, kind: int, process: int, value: int) -> None:
        self._unsent += REPORT.pack(kind, process, value)

    def _send(self) -> bool:
        """Sends what the socket takes; returns whether anybody reads it."""
        try:
            sent = self._control.send(self._unsent, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self._unsent[:sent]
        return True


def spawned() -> NoReturn:
    """What a worker process that was not forked from a server runs; how to go on is on its standard input."""
    prctl = _load_prctl()
    if prctl is not None:
        prctl(
            1, signal.SIGKILL
        )  # with the driver; Python code that sees its socket close may not get to run
    with os.fdopen(os.dup(0), "rb") as stdin:
        rest, fds, entry, settings = marshal.load(stdin)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    _set_signals()
    _set_interpreter(*rest)
    for fd in fds:
        os.set_inheritable(fd, False)
    _run(entry, fds, settings)


# ------------------------------------------------------------------ preparing


def _set_signals() -> None:
    """Ctrl-C is the driver's business; SIGTERM ends a worker; none is blocked."""
    # A handler, not SIG_IGN, which the programs that runs start would inherit, and could not be stopped by SIGINT.
    signal.signal(signal.SIGINT, _take_no_notice)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_notice_again)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _take_no_notice(*_: object) -> None:
    """What a worker does about SIGINT."""


def _notice_again() -> None:
    """In a child that a run has forked, which is a program like any other."""
    if signal.getsignal(signal.SIGINT) is _take_no_notice:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _redirect(stdout: int | None, stderr: int | None) -> None:
    """Lets what is written to descriptors 1 and 2 go where the driver's does; nowhere if the driver has none."""
    null = os.open(os.devnull, os.O_RDWR)
    for received, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(null if received is None else received, standard)
        if received is not None:
            os.close(received)
    os.close(null)


def _set_environ(environ: dict[bytes, bytes]) -> None:
    mine = os.environb
    zone = mine.get(b"TZ")
    for name in mine.keys() - environ.keys():
        del mine[name]
    for name, value in environ.items():
        if mine.get(name) != value:
            mine[name] = value
    if mine.get(b"TZ") != zone:
        import time

        time.tzset()


def _set_interpreter(cwd: str | None, path: list[str], argv: list[str]) -> None:
    if cwd is not None:
        try:
            os.chdir(cwd)
        except OSError:
            pass  # gone since, or not ours to enter: the driver could not go there either
    sys.path[:] = path
    sys.argv[:] = argv
    # `python -c` left names of ours in it; the user's own is never imported here.
    sys.modules["__main__"] = type(sys)("__main__")
    for stream in (sys.stdout, sys.stderr):
        # Lines of several workers do not mix, and a worker that is killed has written what it printed.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, write_through=False)


# -------------------------------------------------------------------- running


def _run(entry: str, fds: list[int], settings: bytes) -> NoReturn:
    """Calls the entry point and ends the process as an interpreter would, without taking it to pieces."""
    code = _guarded(lambda: _find(entry)(fds, settings))
    if "threading" in sys.modules:
        _guarded(sys.modules["threading"]._shutdown)
    import atexit

    _guarded(atexit._run_exitfuncs)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _guarded(stream.flush)
    os._exit(code)


def _find(entry: str) -> Callable[[list[int], bytes], object]:
    module, _, name = entry.partition(":")
    __import__(module)
    function: Callable[[list[int], bytes], object] = getattr(sys.modules[module], name)
    return function


def _guarded(function: Callable[[], object]) -> int:
    """Calls `function`; returns the exit code that its end stands for."""
    try:
        function()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


# --------------------------------------------------------------------- helpers


def _kill(pid: int, number: int) -> None:
    """Sends a worker that has not been reaped a signal; a deadly one to all that it has started."""
    if number == signal.SIGKILL:
        _kill_group(pid, number)
    os.kill(pid, number)  # it may lead no group yet


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # none of it is left, or (macOS) none but dead ones; another user's program is theirs


def _preload(modules: list[str]) -> None:
    """Imports what workers will need. One that fails will fail in the worker as well, and be seen there."""
    for module in modules:
        try:
            __import__(module)
        except Exception:
            pass


def _load_prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None


def _read(connection: socket.socket, length: int) -> bytes:
    """Reads so many bytes.

    Raises:
        EOFError: there are no more.
    """
    read = bytearray()
    while len(read) < length:
        chunk = connection.recv(length - len(read))
        if not chunk:
            raise EOFError
        read += chunk
    return bytes(read)


def _close_all_but(control_fd: int) -> None:
    """Closes what the driver's C code opened for all its children."""
    names = os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else []
    for fd in map(int, names):
        if fd > 2 and fd != control_fd:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor that listed the directory
