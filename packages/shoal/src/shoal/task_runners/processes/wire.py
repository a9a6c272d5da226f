"""How messages between driver and worker cross a socket.

A message is a header, a body of bytes, and file descriptors that go along (shared memory; see `segments`).

    header   length of the body | kind | number of descriptors

Neither side may block on sending while the other does: the driver never blocks (`DriverChannel` keeps what the socket
would not take and sends it when it does), so a worker may (`WorkerChannel`). May import `messages`.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.task_runners.remote.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["DriverChannel", "Inbox", "WorkerChannel"]

_HEADER = struct.Struct("<IHH")
_CHUNK = 256 * 1024
#: Descriptors that one message may carry; the system allows some more (253 on Linux).
MOST_FDS = 128
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Inbox:
    """Puts messages together from what a socket gives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = bytearray()
        self._buffer = bytearray(
            _CHUNK
        )  # made once: so much memory anew for each message costs more than the rest
        # What came along with each message that has any, in one piece as it was sent.
        self._fds: deque[list[int]] = deque()
        self._space = (
            socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)
            if hasattr(socket, "CMSG_SPACE")
            else 0
        )

    def receive(self) -> bool:
        """Takes what is there, waiting for it on a blocking socket; False at the end of the stream.

        Raises:
            BlockingIOError: nothing is there, on a socket that does not block.
        """
        try:
            if not self._space:
                size = self._connection.recv_into(self._buffer)
            else:
                size, ancillary, flags, _ = self._connection.recvmsg_into(
                    [self._buffer], self._space, _CLOEXEC
                )
                if ancillary or flags & socket.MSG_CTRUNC:
                    self._fds.append(_fds_in(ancillary))
        except (ConnectionError, TimeoutError):
            return False
        if not size:
            return False
        self._data += memoryview(self._buffer)[:size]
        return True

    def messages(self) -> Iterator[Message]:
        """The messages that are complete."""
        data = self._data
        start = 0
        while len(data) - start >= _HEADER.size:
            length, kind, count = _HEADER.unpack_from(data, start)
            end = start + _HEADER.size + length
            if len(data) < end:
                break
            body = bytes(memoryview(data)[start + _HEADER.size : end])
            start = end
            fds = self._fds.popleft() if count else []
            if len(fds) < count:
                _close_all(fds)
                yield Message(kind, body, [], is_cut=True)
            else:
                yield Message(kind, body, fds)
        if start:
            del data[:start]

    def close(self) -> None:
        """Closes descriptors that came without their message."""
        while self._fds:
            _close_all(self._fds.popleft())


def _fds_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return list(fds)


def _ancillary(fds: Sequence[int]) -> list[tuple[int, int, Any]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _send(connection: socket.socket, data: Any, fds: Sequence[int]) -> int:
    if fds:
        return connection.sendmsg([data], _ancillary(fds))
    return connection.send(data)


class DriverChannel:
    """The driver's end: sending never blocks.

    Args:
        connection: the socket.
        on_blocked: called when something is left to be sent; `flush` is to be called once the socket takes more.
    """

    def __init__(self, connection: socket.socket, on_blocked: Callable[[], None]) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.inbox = Inbox(connection)
        self._on_blocked = on_blocked
        self._lock = threading.Lock()
        self._left: deque[tuple[memoryview, list[int]]] = deque()
        self._closed = False

    def send(self, kind: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a message, or keeps it for `flush`; one to a worker that has gone is dropped."""
        message = memoryview(_HEADER.pack(len(body), kind, len(fds)) + body)
        with self._lock:
            if self._closed:
                return
            if self._left:
                self._left.append((message, [os.dup(fd) for fd in fds]))
                return
            try:
                sent = _send(self.connection, message, fds)
            except BlockingIOError:
                sent = 0
            except ConnectionError:
                return  # its end is seen where it is read from
            except OSError:
                self._give_up()
                return
            if sent == len(message):
                return
            # The caller may close its descriptors, so copies wait.
            self._left.append((message[sent:], [] if sent else [os.dup(fd) for fd in fds]))
        self._on_blocked()

    def flush(self) -> bool:
        """Sends what was left; whether all is gone."""
        with self._lock:
            while self._left and not self._closed:
                message, fds = self._left[0]
                try:
                    sent = _send(self.connection, message, fds)
                except BlockingIOError:
                    return False
                except ConnectionError:
                    self._forget()
                    return True
                except OSError:
                    self._give_up()
                    return True
                if sent:
                    _close_all(fds)
                    fds = []
                if sent < len(message):
                    self._left[0] = (message[sent:], fds)
                else:
                    self._left.popleft()
            return True

    def leave_to_parent(self) -> None:
        """In a forked child: closes its copy of the socket, whatever another thread was at."""
        self._lock = threading.Lock()
        self.close()

    def is_blocked(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._left)

    def _give_up(self) -> None:
        """A message cannot be sent (too many descriptors under way, no memory): nothing may follow it, so the worker is
        told that there is no more, and ends. What it has not begun is sent again.
        """
        self._forget()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def _forget(self) -> None:
        while self._left:
            _close_all(self._left.popleft()[1])

    def close(self) -> None:
        """Closes the socket; nothing is sent any more."""
        with self._lock:
            self._closed = True
            self._forget()
            self.inbox.close()
            self.connection.close()


class WorkerChannel:
    """The worker's end: sending may block, as the driver always goes on reading."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self.inbox = Inbox(connection)
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a message.

        Raises:
            OSError: the driver is gone.
        """
        message = memoryview(_HEADER.pack(len(body), kind, len(fds)) + body)
        with self._lock:
            sent = _send(self._connection, message, fds)
            while sent < len(message):
                sent += self._connection.send(message[sent:])

    def leave_to_parent(self) -> None:
        """In a forked child: closes its copy of the socket; to send anything ends the process."""
        self._connection.close()
        self.send = _leave  # type: ignore[method-assign]


def _leave(kind: int, body: bytes = b"", fds: Sequence[int] = ()) -> NoReturn:
    os._exit(1)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
