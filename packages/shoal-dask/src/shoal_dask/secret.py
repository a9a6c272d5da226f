"""Who may connect to a temporary local cluster: who knows its secret.

    who connects ── greeting, challenge ────▶ who listens
                 ◀── proof, own challenge ──
                 ── proof ──────────────────▶ and Dask's own messages begin, the first that are unpickled

Dask's `tcp://` asks nobody who they are, so every user of the machine could run code as the cluster's owner. Its `tls://` does,
and encrypts: 100 MB take two to five times as long, though nobody can listen on the loopback interface who could not read
the processes' memory, too. So there is a transport between the two: Dask's TCP, but that each connection begins with a
proof, by HMAC-SHA256 over 32 random bytes, in both directions. A proof is for the two ports of its connection: who has
taken the port of a worker that died cannot hand it on to another one. It is one more backend of `distributed.comm`, which
Dask has others register.

The secret is made for one cluster, and reaches its workers in the pickled arguments of their processes: never by a file, a
variable or a command line. May import distributed.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from typing import TYPE_CHECKING, Any

from distributed.comm.core import CommClosedError, FatalCommClosedError
from distributed.comm.registry import backends
from distributed.comm.tcp import TCPBackend, TCPConnector, TCPListener
from distributed.security import Security

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed.comm.core import Comm

__all__ = ["PROTOCOL", "Secret"]

#: What such addresses begin with.
PROTOCOL = "shoal://"

_GREETING = b"shoal 1\n"
#: Bytes of the secret, of a challenge and of a proof.
_SIZE = 32
#: Seconds that who connects has for its proof.
_PROVES_WITHIN = 10.0


class Secret(Security):
    """What a temporary local cluster and its clients know, and nobody else."""

    # No `__slots__`: Dask goes through those of an object for those of `Security`.

    def __init__(self) -> None:
        secret = os.urandom(_SIZE)
        super().__init__(require_encryption=False, extra_conn_args={"secret": secret})  # type: ignore[no-untyped-call]

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """See `Security`: there, only who connects has `extra_conn_args`."""
        arguments = super().get_listen_args(role)  # type: ignore[no-untyped-call]
        return {**arguments, "extra_conn_args": self.extra_conn_args}


class _Connector(TCPConnector):
    """Connects, and finds out whether the right one listens there."""

    prefix = PROTOCOL

    async def connect(self, address: str, deserialize: bool = True, **arguments: Any) -> Comm:
        """See `Connector`."""
        secret = _secret(arguments)
        if secret is None:
            raise FatalCommClosedError(
                f"{PROTOCOL}{address} lets in only who knows the secret of its cluster: connect by Client(cluster), or "
                'start it with cluster_kwargs={"protocol": "tcp://"}, which lets in every user of its machine'
            )
        comm: Any = await super().connect(address, deserialize, **arguments)  # type: ignore[no-untyped-call]
        try:
            proven = await _introduced(comm.stream, secret)
        except BaseException as error:
            comm.abort()
            if isinstance(error, OSError):
                raise CommClosedError(f"{PROTOCOL}{address} has hung up") from error
            raise
        if not proven:
            comm.abort()
            raise FatalCommClosedError(f"who listens at {PROTOCOL}{address} has another secret")
        return comm  # type: ignore[no-any-return]


class _Listener(TCPListener):
    """Lets in who knows the secret."""

    prefix = PROTOCOL

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)  # type: ignore[no-untyped-call]
        secret = _secret(arguments)
        if secret is None:
            raise ValueError(f"nobody listens at {PROTOCOL} without a secret")
        self._secret = secret

    async def on_connection(
        self, comm: Any, handshake_overrides: dict[str, Any] | None = None
    ) -> None:
        """See `Listener`: who is not let in is hung up on, without a word."""
        proven = False
        try:
            async with asyncio.timeout(_PROVES_WITHIN):
                proven = await _let_in(comm.stream, self._secret)
        except (OSError, TimeoutError):
            pass
        finally:
            if not proven:
                comm.abort()
        if not proven:
            raise CommClosedError("it has not proved that it knows the secret")
        await super().on_connection(comm, handshake_overrides)


class _Backend(TCPBackend):
    _connector_class = _Connector
    _listener_class = _Listener


backends[PROTOCOL.removesuffix("://")] = _Backend()


def _secret(arguments: Mapping[str, Any]) -> bytes | None:
    """That of somebody's `Security`, if it has one."""
    secret = (arguments.get("extra_conn_args") or {}).get("secret")
    return secret if isinstance(secret, bytes) and len(secret) == _SIZE else None


async def _introduced(stream: Any, secret: bytes) -> bool:
    """The end that connects; whether the other one knows the secret."""
    ports = _port(stream.socket.getsockname()) + _port(stream.socket.getpeername())
    challenge = os.urandom(_SIZE)
    await stream.write(_GREETING + challenge)
    answer = await stream.read_bytes(2 * _SIZE)
    if not hmac.compare_digest(answer[:_SIZE], _proof(secret, b"listens", ports, challenge)):
        return False
    await stream.write(_proof(secret, b"connects", ports, answer[_SIZE:]))
    return True


async def _let_in(stream: Any, secret: bytes) -> bool:
    """The end that listens; whether the other one knows the secret."""
    ports = _port(stream.socket.getpeername()) + _port(stream.socket.getsockname())
    greeting = await stream.read_bytes(len(_GREETING) + _SIZE)
    if not greeting.startswith(_GREETING):
        return False
    challenge = os.urandom(_SIZE)
    theirs = greeting[len(_GREETING) :]
    await stream.write(_proof(secret, b"listens", ports, theirs) + challenge)
    answer = await stream.read_bytes(_SIZE)
    return hmac.compare_digest(answer, _proof(secret, b"connects", ports, challenge))


def _port(address: tuple[Any, ...]) -> bytes:
    return int(address[1]).to_bytes(2, "big")


def _proof(secret: bytes, who: bytes, ports: bytes, challenge: bytes) -> bytes:
    return hmac.digest(secret, who + ports + challenge, "sha256")
