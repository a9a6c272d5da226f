"""The driver's end of the workers' sockets: one thread, in order.

    any thread ──do──▶ what is to be done ──┐
    worker ──messages──▶ its socket ────────┴─▶ I/O thread ─▶ `Listener.take`

The I/O thread reads what workers say, sends what the sockets would not take, buries the dead, and does whatever else it
is given. It ends with the runner. It waits for nothing but the sockets, and holds no lock while it does.

May import `members`, `remote.members` and what lies above task runners.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from shoal.logs import log_failure
from shoal.task_runners.remote.members import futures_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners.processes.backend import ProcessBackend
    from shoal.task_runners.processes.members import ProcessMember

__all__ = ["Link"]


class Link:
    """See the module.

    Args:
        backend: of the runner.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        self._selector: selectors.BaseSelector
        self._wake_in, self._wake_out = socket.socketpair()
        self._todo: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ starting and stopping

    def start(self) -> None:
        """Starts the I/O thread."""
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="shoal-processes", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Has the I/O thread end, once it has done what it was given before."""
        self.do(_End.end)

    def join(self, timeout: float) -> None:
        """Waits for its end, for so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def close(self) -> None:
        """Closes what the thread has waited for."""
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def leave_to_parent(self) -> None:
        """In a child that the driver has forked: the thread is the parent's, and must not hear of what is done here."""
        self._thread = None
        self.close()  # the sockets are not unregistered: that would be so for the parent too

    def is_here(self) -> bool:
        """Whether this is the I/O thread."""
        return threading.current_thread() is self._thread

    def do(self, action: Callable[[], None]) -> None:
        """Has the I/O thread do something. Safe in finalizers."""
        self._todo.append(action)
        try:
            self._wake_in.send(b"x")
        except (BlockingIOError, OSError):
            pass  # it is awake already, or has ended

    # ------------------------------------------------------------------ which sockets; on the I/O thread

    def register(self, member: ProcessMember) -> None:
        """Listens to a worker."""
        if not member.buried:
            events = selectors.EVENT_READ
            if member.channel.is_blocked():
                events |= selectors.EVENT_WRITE
            self._selector.register(member.channel.connection, events, member)

    def unregister(self, member: ProcessMember) -> None:
        """Does not listen to it any more."""
        if member.channel.connection.fileno() in self._selector.get_map():
            self._selector.unregister(member.channel.connection)

    def watch_writes(self, member: ProcessMember) -> None:
        """Sends what its socket would not take, once it does."""
        if not member.buried and member.channel.connection.fileno() in self._selector.get_map():
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(member.channel.connection, both, member)

    # ------------------------------------------------------------------ the I/O thread

    def _serve(self) -> None:
        try:
            while True:
                for key, mask in self._selector.select():
                    member: ProcessMember | None = key.data
                    if member is None:
                        if not self._do_all():
                            return
                        continue
                    if (
                        mask & selectors.EVENT_WRITE
                        and member.channel.flush()
                        and not member.buried
                    ):
                        self._selector.modify(
                            member.channel.connection, selectors.EVENT_READ, member
                        )
                    if mask & selectors.EVENT_READ:
                        self.read(member)
        except BaseException as error:
            self._backend.events.failed(error)

    def _do_all(self) -> bool:
        try:
            while self._wake_out.recv(4096):
                pass
        except BlockingIOError:
            pass
        while self._todo:
            try:
                self._todo.popleft()()
            except _End:
                return False
        self._backend.store.tell_freed()
        return True

    def read(self, member: ProcessMember) -> bool:
        """Takes what a worker has said; whether there may be more. Hot."""
        if member.buried:
            return False
        try:
            more = member.channel.inbox.receive()
        except BlockingIOError:
            return False
        take = self._backend.listener.take
        with futures_of(member):
            for message in member.channel.inbox.messages():
                try:
                    take(member, message)
                except BaseException as error:
                    pid = member.process.pid
                    log_failure(
                        error, "Worker process %s is killed: it failed, or said nonsense", pid
                    )
                    member.process.kill()
        if not more:
            self.unregister(member)
            if member.process.alive and not member.leaving:
                member.process.kill()  # it has closed its socket, so it is of no use
        return more


class _End(Exception):
    """Ends the I/O thread."""

    @classmethod
    def end(cls) -> None:
        """Raises it there."""
        raise cls
