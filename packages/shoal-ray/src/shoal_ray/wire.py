"""How a driver and its sessions on Ray's workers talk: frames over TCP, after each has shown that it knows the secret.

    frame    length of the body | kind | body

The secret is made for each use of a runner and reaches workers with Ray's own tasks. Where Ray is told to use TLS, so is
this, with the same certificates. Imports the standard library and `settings`.
"""

from __future__ import annotations

import hmac
import os
import random
import socket
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from shoal_ray.settings import uses_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

__all__ = ["REFUSAL", "Channel", "Contact", "Frames", "Handshake", "connect", "frame", "tls"]

_HEADER = struct.Struct("<QB")
#: Bytes of a nonce, and of what is made of one.
_NONCE = 32
#: Bytes that are joined to their header rather than sent after it.
_JOINED = 1 << 16
#: Bytes that are received, or encrypted, at once.
_CHUNK = 1 << 18
#: Ray's variables of a certificate, its key, and the authority that has signed all of them.
_FILES = ("SERVER_CERT", "SERVER_KEY", "CA_CERT")
#: What a driver answers to whoever does not know the secret.
REFUSAL = bytes(_NONCE)
#: Seconds that a worker tries to reach its driver.
CONNECTS_WITHIN = 20.0
#: Seconds that a worker knocks anew if it was cut before it was known, as strangers are where there are many.
KNOCKS_FOR = 5.0
#: Seconds between two such knocks, at most.
KNOCKS_AFTER = 0.1


class Contact(NamedTuple):
    """What a worker needs to know to talk with a driver.

    Attributes:
        session: identifies one use of a runner.
        host: where the driver, or its relay, listens.
        port: likewise.
        secret: see the module.
        entropy: of the driver (see `shoal.names`).
        relay: name of the relay, which is an actor.
        namespace: where it has that name.
        scratch: a folder of the driver's for records of workers, where these are on its machine for sure.
    """

    session: str
    host: str
    port: int
    secret: bytes
    entropy: int
    relay: str
    namespace: str
    scratch: str | None = None


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


def tls(*, serves: bool) -> ssl.SSLContext | None:
    """What encrypts connections where Ray encrypts its own, by the variables that it knows; `None` elsewhere.

    Both ends show a certificate that the cluster's authority has signed. What these are called is not compared: workers
    know a driver by its secret.

    Args:
        serves: whether it is for the end that listens.
    """
    if not uses_tls():
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key, authority = (os.environ.get(f"RAY_TLS_{name}") for name in _FILES)
    try:
        context.load_cert_chain(certificate or "", key)
        context.load_verify_locations(authority or "")
    except OSError as error:
        named = ", ".join(
            f"RAY_TLS_{name}={os.environ.get(f'RAY_TLS_{name}')!r}" for name in _FILES
        )
        raise OSError(f"the certificates for TLS cannot be used ({named}): {error}") from error
    return context


class _Encrypted:
    """A socket under TLS. Unlike an `SSLSocket`, one thread may read it while another writes.

    `_state` is held while the encryption's own state is looked at, and never while something is sent or received;
    `_sending`, taken before it, from encryption to the last byte.

    Args:
        plain: the socket.
        context: see `tls`.

    Raises:
        OSError: the other end has no certificate that would do.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        import ssl

        self._plain = plain
        self._wants_more = ssl.SSLWantReadError
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send)
        self._state = threading.Lock()
        self._sending = threading.Lock()
        self.settimeout, self.shutdown, self.close = plain.settimeout, plain.shutdown, plain.close
        while not self._has_shaken_hands():
            self._receive()

    def _has_shaken_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except self._wants_more:
            return False
        finally:
            self._flush()
        return True

    def _flush(self) -> None:
        """Sends what is encrypted; with `_sending` held, so that it leaves in order."""
        with self._state:
            data = self._to_send.read()
        if data:
            self._plain.sendall(data)

    def _receive(self) -> None:
        data = self._plain.recv(_CHUNK)
        with self._state:
            if data:
                self._received.write(data)
            else:
                self._received.write_eof()

    def sendall(self, data: bytes) -> None:
        """See `socket.socket`."""
        view = memoryview(data)
        with self._sending:
            for start in range(0, len(view), _CHUNK):
                with self._state:
                    self._tls.write(view[start : start + _CHUNK])
                    encrypted = self._to_send.read()
                self._plain.sendall(encrypted)

    def recv(self, size: int) -> bytes:
        """See `socket.socket`."""
        while True:
            with self._state:
                try:
                    return self._tls.read(size)
                except self._wants_more:
                    has_answer = self._to_send.pending > 0
            if has_answer:
                with self._sending:
                    self._flush()
            self._receive()


def connect(contact: Contact) -> socket.socket | _Encrypted:
    """A worker's connection to its driver.

    Raises:
        OSError: there is nobody, or somebody else.
    """
    until = time.monotonic() + KNOCKS_FOR
    while True:
        try:
            return _connected(contact)
        except OSError as error:
            if not _is_cut(error) or time.monotonic() > until:
                raise
        time.sleep(random.uniform(0, KNOCKS_AFTER))  # not in step with others that were cut too


def _connected(contact: Contact) -> socket.socket | _Encrypted:
    plain = socket.create_connection((contact.host, contact.port), CONNECTS_WITHIN)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = tls(serves=False)
        connection = plain if context is None else _Encrypted(plain, context)
        challenge = _exactly(connection, _NONCE)
        own = os.urandom(_NONCE)
        connection.sendall(_proof(contact.secret, b"worker", challenge) + own)
        answer = _exactly(connection, _NONCE)
        if answer == REFUSAL:
            raise OSError("the driver that listens there does not know this worker's secret")
        if not hmac.compare_digest(answer, _proof(contact.secret, b"driver", own)):
            raise OSError("whoever listens there is not the driver")
        connection.settimeout(None)
    except BaseException:
        plain.close()
        raise
    return connection


def _is_cut(error: OSError) -> bool:
    """Whether the other end has hung up, without a word, on a connection that it had accepted."""
    if isinstance(error, ConnectionRefusedError):
        return False
    eof = getattr(sys.modules.get("ssl"), "SSLEOFError", ConnectionError)
    return isinstance(error, (ConnectionError, eof))


def _exactly(connection: socket.socket | _Encrypted, size: int) -> bytes:
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

    def __init__(self, connection: socket.socket | _Encrypted) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `shoal`'s `Channel`.

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
                data = self._connection.recv(_CHUNK)
            except OSError:
                return
            if not data:
                return
            yield from frames.feed(data)

    def leave_to_parent(self) -> None:
        """In a forked child: closes its copy of the socket, whatever another thread was at. Nothing can be sent any more."""
        self._connection.close()
        self.send = _refuse  # type: ignore[method-assign]

    def close(self) -> None:
        """Hangs up."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was first
        self._connection.close()


def _refuse(kind: int, body: bytes = b"") -> NoReturn:
    raise ConnectionError("a process that a run has forked cannot talk with the driver")
