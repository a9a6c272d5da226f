"""How a driver and its sides on Ray's workers talk: frames over TCP, after each has shown that it knows the secret.

    frame    length of the body | kind | body

The secret is made for each use of a runner and reaches workers with Ray's own tasks. Imports the standard library only.
"""

from __future__ import annotations

import hmac
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Channel", "Contact", "Frames", "Handshake", "connect", "frame"]

_HEADER = struct.Struct("<QB")
#: Bytes of a nonce, and of what is made of one.
_NONCE = 32
#: Bytes that are joined to their header rather than sent after it.
_JOINED = 1 << 16
#: Seconds that a worker tries to reach its driver.
CONNECTS_WITHIN = 20.0


class Contact(NamedTuple):
    """What a worker needs to know to talk with a driver.

    Attributes:
        session: identifies one use of a runner.
        host: where the driver, or its relay, listens.
        port: likewise.
        secret: see the module.
        entropy: of the driver (see `manyhands.names`).
        relay: name of the relay, which is an actor.
        namespace: where it has that name.
    """

    session: str
    host: str
    port: int
    secret: bytes
    entropy: int
    relay: str
    namespace: str


def frame(kind: int, body: bytes) -> bytes:
    """One message as it travels."""
    return _HEADER.pack(len(body), kind) + body


class Frames:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Gives the messages that are whole with these bytes. Hot."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            size, kind = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + size
            if len(buffer) < end:
                break
            yield kind, bytes(memoryview(buffer)[start + _HEADER.size : end])
            start = end
        if start:
            del buffer[:start]


class Handshake:
    """The driver's half of the proof that both ends know the secret.

    Args:
        secret: what both know.
    """

    size = 2 * _NONCE

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.challenge = os.urandom(_NONCE)

    def answer(self, reply: bytes) -> bytes | None:
        """What to reply to a worker's reply of `size` bytes; `None` if it does not know the secret."""
        proof, challenge = reply[:_NONCE], reply[_NONCE:]
        if not hmac.compare_digest(proof, _proof(self._secret, b"worker", self.challenge)):
            return None
        return _proof(self._secret, b"driver", challenge)


def _proof(secret: bytes, who: bytes, challenge: bytes) -> bytes:
    return hmac.digest(secret, who + challenge, "sha256")


def connect(contact: Contact) -> socket.socket:
    """A worker's connection to its driver.

    Raises:
        OSError: there is nobody, or somebody else.
    """
    connection = socket.create_connection((contact.host, contact.port), CONNECTS_WITHIN)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        challenge = _exactly(connection, _NONCE)
        own = os.urandom(_NONCE)
        connection.sendall(_proof(contact.secret, b"worker", challenge) + own)
        answer = _exactly(connection, _NONCE)
        if not hmac.compare_digest(answer, _proof(contact.secret, b"driver", own)):
            raise ConnectionError("whoever listens there is not the driver")
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the driver has hung up")
        data += more
    return data


class Channel:
    """A worker's end.

    Args:
        connection: to the driver.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `manyhands`' `Channel`.

        Raises:
            OSError: the driver has gone.
        """
        with self._lock:
            if len(body) <= _JOINED:
                self._connection.sendall(frame(kind, body))
            else:
                self._connection.sendall(_HEADER.pack(len(body), kind))
                self._connection.sendall(body)

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """What the driver says, until it has gone."""
        frames = Frames()
        while True:
            try:
                data = self._connection.recv(1 << 18)
            except OSError:
                return
            if not data:
                return
            yield from frames.feed(data)

    def close(self) -> None:
        """Hangs up."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was first
        self._connection.close()
