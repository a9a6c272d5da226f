"""Where workers come in: a listening socket, and what holds of whoever knocks there.

    stranger ──(TLS)──▶ challenge ──▶ proof ──▶ `joined`, `heard`…, `gone`
        │ within PROVEN_WITHIN seconds, and while there are at most STRANGERS of them
        └──▶ cut

A machine has ports scanned, and others may mean worse. Until it has shown that it knows the secret, a connection costs a
descriptor and a few bytes, for some seconds. When there are too many, one of them goes, any: if it were the oldest, a
flood would leave all the same few milliseconds, which a worker on a busy machine may need more of. So a worker may be
cut among strangers, and knocks again (`wire.connect`); sooner or later it gets in.

Everything here happens on one event loop. Runs on Ray's side as well: may import `wire`, and of the core nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import TYPE_CHECKING, Any

from shoal_ray.wire import REFUSAL, Frames, Handshake, frame, tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["Door", "Guest"]

#: Connections at once that have not shown that they know the secret.
STRANGERS = 64
#: Connections that may wait to be accepted, where the system allows so many.
BACKLOG = 1024
#: Seconds until the next is accepted where none could be.
ACCEPTS_AFTER = 0.1
#: Seconds that they have to show it, TLS included.
PROVEN_WITHIN = 10.0


class Guest(asyncio.Protocol):
    """A connection: of a stranger at first, then of a worker.

    Subclasses say what a worker's coming, words and going mean.

    Args:
        door: at which it knocks.
    """

    def __init__(self, door: Door) -> None:
        self._transport: Any = None
        self._door = door
        self._handshake: Handshake | None = Handshake(door.secret)
        self._reply = b""
        self._frames = Frames()

    # ------------------------------------------------------------------ for subclasses

    def joined(self) -> None:
        """It knows the secret."""
        raise NotImplementedError

    def heard(self, kind: int, body: bytes) -> None:
        """It says something."""
        raise NotImplementedError

    def gone(self) -> None:
        """It has hung up, having joined."""
        raise NotImplementedError

    # ------------------------------------------------------------------ see `asyncio.Protocol`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport
        assert self._handshake is not None  # nobody has answered
        self._transport.write(self._handshake.challenge)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Hot."""
        if self._handshake is not None:
            self._reply += data
            size = self._handshake.size
            if len(self._reply) < size or not self._door.knows(self):
                return
            answer = self._handshake.answer(self._reply[:size])
            if answer is None:
                self._transport.write(REFUSAL)
                self._transport.close()
                return
            data, self._reply = self._reply[size:], b""
            self._handshake = None
            self._door.forget(self)
            self._transport.write(answer)
            self.joined()
        for kind, body in self._frames.feed(data):
            self.heard(kind, body)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._door.forget(self)
        if self._handshake is None:
            self.gone()

    # ------------------------------------------------------------------ what is said to it

    def write(self, kind: int, body: bytes) -> None:
        """Sends a message."""
        if not self._transport.is_closing():
            self._transport.write(frame(kind, body))

    def hang_up(self) -> None:
        """Ends the connection, when what is on its way has left."""
        self._transport.close()

    def cut(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()


class _Stranger:
    """A connection before it has shown that it knows the secret.

    Args:
        connection: its socket.
        loop: that it is on.

    Attributes:
        timer: cuts it in time.
        is_cut: whether it was cut, and is about to be gone.
        task: makes its transport, and shakes hands where there is TLS.
    """

    task: asyncio.Task[None]

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self.timer = loop.call_later(PROVEN_WITHIN, self.cut)
        self.is_cut = False

    def cut(self) -> None:
        """Ends it, whatever it is at: its transport sees that, and closes it."""
        self.is_cut = True
        self.timer.cancel()
        with contextlib.suppress(OSError):  # it has hung up
            self._connection.shutdown(socket.SHUT_RDWR)


class Door:
    """See the module.

    It accepts by itself: asyncio's server loses connections that it has accepted when it is closed.

    Args:
        secret: what workers know.
        guest: makes what stands for a connection.
        emptied: called when the last stranger has gone.
    """

    def __init__(
        self,
        secret: bytes,
        guest: Callable[[Door], Guest],
        emptied: Callable[[], object] = lambda: None,
    ) -> None:
        self.secret = secret
        self._guest = guest
        self._emptied = emptied
        self._loop: asyncio.AbstractEventLoop
        self._socket: socket.socket
        self._tls: ssl.SSLContext | None = None
        self._strangers: dict[Guest, _Stranger] = {}
        self._closed = False

    @property
    def has_strangers(self) -> bool:
        """Whether there are connections of whoever has not shown that it knows the secret."""
        return bool(self._strangers)

    def open(self, host: str) -> tuple[str, int]:
        """Lets workers connect; on the loop, which has to be one that looks at sockets.

        Args:
            host: where they can reach this process.

        Returns:
            Host and port.
        """
        self._tls = tls(serves=True)
        self._loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._listen()
        return host, self._socket.getsockname()[1]

    def close(self) -> None:
        """Lets nobody in any more, and cuts strangers."""
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for stranger in self._strangers.values():
            stranger.cut()

    # ------------------------------------------------------------------ who comes

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Somebody has come: one for each round of the loop, so that those before have their turn."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # it has hung up
        except OSError:  # most likely there are no descriptors left
            self._loop.remove_reader(self._socket)
            self._loop.call_later(ACCEPTS_AFTER, self._listen)
            self._cut_one()
            return
        if sum(not stranger.is_cut for stranger in self._strangers.values()) >= STRANGERS:
            self._cut_one()
        guest = self._guest(self)
        stranger = self._strangers[guest] = _Stranger(connection, self._loop)
        stranger.task = self._loop.create_task(self._let_in(guest, connection))

    def _cut_one(self) -> None:
        left = [stranger for stranger in self._strangers.values() if not stranger.is_cut]
        if left:
            random.choice(left).cut()

    async def _let_in(self, guest: Guest, connection: socket.socket) -> None:
        limit = PROVEN_WITHIN if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: guest, connection, ssl=self._tls, ssl_handshake_timeout=limit
            )
        except OSError:  # of TLS, or it has hung up
            self.forget(guest)

    # ------------------------------------------------------------------ for guests

    def knows(self, guest: Guest) -> bool:
        """Whether it may say what it knows: it was not cut."""
        stranger = self._strangers.get(guest)
        return stranger is not None and not stranger.is_cut

    def forget(self, guest: Guest) -> None:
        """It is no stranger, or has gone."""
        stranger = self._strangers.pop(guest, None)
        if stranger is not None:
            stranger.timer.cancel()
            if not self._strangers:
                self._emptied()
