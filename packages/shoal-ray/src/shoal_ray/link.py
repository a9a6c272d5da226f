"""The driver's end of what it says to workers and they to it: one thread, in order.

    any thread ─▶ outbox ─▶ I/O thread ─▶ worker            worker ─▶ I/O thread ─▶ `hear`

Workers connect to the driver where they can reach it; with Ray Client they connect to the relay, which the driver asks.

May import `door` and `relay`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from shoal.engine.services import guarded

from shoal_ray.door import Door, Guest
from shoal_ray.relay import GONE, JOINED

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Hearer", "Link", "Peer"]

#: Seconds that connections have to end, where the other end may have to agree, before they are cut.
HANGS_UP_WITHIN = 0.5


class Hearer(Protocol):
    """Who hears what workers say; on the I/O thread."""

    def joined(self, peer: Peer) -> None:
        """A worker has connected."""

    def heard(self, peer: Peer, kind: int, body: bytes) -> None:
        """It says something."""

    def gone(self, peer: Peer) -> None:
        """It has hung up."""

    def failed(self, error: BaseException) -> None:
        """What was heard could not be handled."""


class Peer:
    """A worker that has connected: the channel to it.

    Args:
        link: that it belongs to.

    Attributes:
        member: who it is, for the hearer's use.
    """

    member: Any = None

    def __init__(self, link: Link) -> None:
        self._link = link

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `shoal`'s `Channel`."""
        self._link.do(lambda: self.write(kind, body))

    def write(self, kind: int, body: bytes) -> None:
        """Sends at once; on the I/O thread."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Ends the connection, when what is on its way has left; on the I/O thread."""
        raise NotImplementedError

    def cut(self) -> None:
        """Ends the connection at once; on the I/O thread."""
        raise NotImplementedError


class _Connected(Guest, Peer):
    """A worker that has connected to this process."""

    def __init__(self, door: Door, link: Link) -> None:
        Guest.__init__(self, door)
        Peer.__init__(self, link)

    def joined(self) -> None:
        """See `Guest`."""
        self._link.joined(self)

    def heard(self, kind: int, body: bytes) -> None:
        """See `Guest`. Hot."""
        self._link.heard(self, kind, body)

    def gone(self) -> None:
        """See `Guest`."""
        self._link.gone(self)


class _Relayed(Peer):
    """A worker that has connected to the relay."""

    def __init__(self, link: Link, number: int) -> None:
        super().__init__(link)
        self._number = number

    def write(self, kind: int, body: bytes) -> None:
        """See `Peer`."""
        self._link.say(self._number, kind, body)

    def hang_up(self) -> None:
        """See `Peer`."""
        self._link.say(self._number, GONE, b"")
        self.cut()

    def cut(self) -> None:
        """See `Peer`."""
        self._link.gone(self)


class Link:
    """See the module.

    Args:
        hearer: hears what workers say.

    Attributes:
        peers: the workers that are connected.
        door: where they come in, unless they connect to the relay.
    """

    def __init__(self, hearer: Hearer) -> None:
        self._hearer = hearer
        self._outbox: deque[Callable[[], object]] = deque()
        self._is_told = False
        self._telling = threading.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._relay: Any = None
        self._session = ""
        self._relayed: dict[int, _Relayed] = {}
        self._sayings: list[tuple[int, int, bytes]] = []
        self._closed = False
        self._has_ended = False
        self.peers: set[Peer] = set()
        self.door: Door | None = None
        self.thread = threading.Thread(target=self._serve, name="shoal-ray", daemon=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._guarded(self._loop.run_forever)
        finally:
            with self._telling:
                self._has_ended = True
                left, self._outbox = self._outbox, deque()
            left.clear()  # they hold batches, and these their values
            self._loop.close()

    def start(self) -> None:
        """Starts the I/O thread."""
        self._loop = asyncio.SelectorEventLoop()
        self.thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the I/O thread, and waits for its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def listen(self, host: str, secret: bytes) -> tuple[str, int]:
        """Lets workers connect to this process.

        Args:
            host: where they can reach it.
            secret: see `wire`.

        Returns:
            Host and port.
        """

        async def begin() -> tuple[str, int]:
            self.door = Door(secret, lambda door: _Connected(door, self), self._stop_if_alone)
            return self.door.open(host)

        address: tuple[str, int] = self.run(begin())
        return address

    def ask(self, relay: Any, session: str) -> None:
        """Asks the relay for what workers of a session say, from now on."""
        self._relay, self._session = relay, session
        self._ask()

    def _ask(self) -> None:
        if not self._closed:
            future = self._relay.up.remote(self._session).future()
            future.add_done_callback(lambda done: self.do(lambda: self._answered(done)))

    def _answered(self, done: Any) -> None:
        if self._closed:
            return
        try:
            said = done.result()
        except Exception as error:  # whatever Ray Client raises for what it lost
            self._hearer.failed(error)
            return
        self._ask()
        for number, kind, body in said:
            if kind == JOINED:
                peer = self._relayed[number] = _Relayed(self, number)
                self.joined(peer)
            elif kind == GONE:
                self.gone(self._relayed.pop(number))
            else:
                self.heard(self._relayed[number], kind, body)

    def close(self, grace: float) -> None:
        """Hangs up, and ends the I/O thread."""
        if self.thread.ident is None:
            return

        self.do(self._hang_up)
        if not self.is_here():
            self.thread.join(grace)

    def _hang_up(self) -> None:
        self._closed = True
        if self.door is not None:
            self.door.close()
        for peer in list(self.peers):
            peer.hang_up()
        self._loop.call_later(HANGS_UP_WITHIN, self._cut)
        self._stop_if_alone()

    def _cut(self) -> None:
        """Ends connections whose other end takes no notice."""
        for peer in list(self.peers):
            peer.cut()

    def _stop_if_alone(self) -> None:
        strangers = self.door is not None and self.door.has_strangers
        if self._closed and not self.peers and not strangers:
            self._loop.call_soon(self._loop.stop)

    def is_here(self) -> bool:
        """Whether this is the I/O thread."""
        return threading.current_thread() is self.thread

    # ------------------------------------------------------------------ out

    def do(self, action: Callable[[], object]) -> None:
        """Has the I/O thread do something, after what it was told to do before; nothing once it has ended. Hot."""
        with self._telling:
            if self._has_ended:
                return
            self._outbox.append(action)
            told, self._is_told = self._is_told, True
        if not told:
            try:
                self._loop.call_soon_threadsafe(self._flush)
            except RuntimeError:
                if not self._has_ended:
                    raise

    def _flush(self) -> None:
        while True:
            with self._telling:
                if not self._outbox:
                    self._is_told = False
                    break
                action = self._outbox.popleft()
            self._guarded(action)
        if self._sayings:
            sayings, self._sayings = self._sayings, []
            self._guarded(lambda: self._relay.down.remote(self._session, sayings))

    def say(self, number: int, kind: int, body: bytes) -> None:
        """Has the relay send to a worker; on the I/O thread."""
        self._sayings.append((number, kind, body))
        if not self._is_told:
            self._is_told = True
            self._loop.call_soon(self._flush)

    # ------------------------------------------------------------------ in

    def joined(self, peer: Peer) -> None:
        """A worker has connected."""
        self.peers.add(peer)
        self._guarded(lambda: self._hearer.joined(peer))

    def heard(self, peer: Peer, kind: int, body: bytes) -> None:
        """It says something."""
        if not self._closed:
            self._guarded(lambda: self._hearer.heard(peer, kind, body))

    def gone(self, peer: Peer) -> None:
        """It has hung up."""
        self.peers.discard(peer)
        if self._closed:
            self._stop_if_alone()
        else:
            self._guarded(lambda: self._hearer.gone(peer))

    def _guarded(self, action: Callable[[], object]) -> None:
        guarded(action, self._hearer.failed)()
