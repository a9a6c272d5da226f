"""Watches over the connection: to Ray's control store (GCS) and the node's own raylet, or to the server of Ray Client.

Ray fails queued tasks never when its raylet has died, and a minute after its control store has it ends the driver
without running a `finally`. So a connection is held to each, which breaks when the process behind it dies. Where it can
be made again, that process only closed it; where it cannot, every open run is CRASHED and Ray is shut down.

May import `link`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import ray
from shoal.engine.services import guarded

if TYPE_CHECKING:
    from shoal_ray.backend import RayBackend

__all__ = ["Watch"]

#: Seconds between two attempts to connect.
BETWEEN = 0.5
#: Seconds that a connection may be away. Ray's control store may be restarted.
LOST_AFTER = 5.0
#: Seconds that an attempt may take.
ANSWERS_WITHIN = 3.0
#: Seconds that runs have to end before Ray is let go of.
LETS_GO_AFTER = 0.3

RAYLET = "the raylet of this node"


class Watch:
    """See the module.

    Args:
        backend: of the runner.

    Attributes:
        has_lost: whether the connection is lost; Ray may be left in another thread then, at any moment.
    """

    def __init__(self, backend: RayBackend) -> None:
        self._backend = backend
        self._stopped = False
        self.has_lost = False
        self._watched: list[tuple[str, str, int]] = []
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event

    def start(self) -> None:
        """Begins to watch."""
        connection = self._backend.connection
        watched = {
            "Ray's control store": connection.gcs_address,
            "the server of Ray Client": connection.client_address,
            RAYLET: self._raylet(),
        }
        for what, address in watched.items():
            if address is not None:
                host, _, port = address.rpartition(":")
                self._watched.append((what, host.strip("[]"), int(port)))
        self._thread = threading.Thread(
            target=guarded(lambda: asyncio.run(self._watch()), self._backend.failed),
            name="shoal-ray-watch",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Watches no more."""
        self._stopped = True
        if self._thread is not None and self._ready.wait(ANSWERS_WITHIN):
            self._loop.call_soon_threadsafe(self._end.set)
            if self._thread is not threading.current_thread():
                self._thread.join(ANSWERS_WITHIN)

    async def _watch(self) -> None:
        """Holds all connections, on a thread that never asks Ray for anything."""
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        async with asyncio.TaskGroup() as holds:  # the error of one is that of all
            held = [holds.create_task(self._hold(*watched)) for watched in self._watched]
            await self._end.wait()
            for hold in held:
                hold.cancel()

    def _raylet(self) -> str | None:
        if self._backend.connection.is_client:
            return None
        own = ray.get_runtime_context().get_node_id()
        node = next((node for node in ray.nodes() if node["NodeID"] == own), None)
        if node is None:
            return None
        return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"

    async def _hold(self, what: str, host: str, port: int) -> None:
        """Holds a connection, and makes it again when it breaks."""
        away_since: float | None = None
        while not self._stopped:
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(host, port), ANSWERS_WITHIN
                )
            except (OSError, TimeoutError) as error:
                now = time.monotonic()
                away_since = away_since or now
                # A raylet is never started again, and what is left of it ends this process when it is asked.
                is_over = what == RAYLET and isinstance(error, ConnectionRefusedError)
                if is_over or now - away_since >= LOST_AFTER:
                    self._lost(f"the connection to {what} at {host}:{port} was lost: {error!r}")
                    return
                await asyncio.sleep(BETWEEN)
                continue
            away_since = None
            _keep_alive(writer.get_extra_info("socket"))
            try:
                while await reader.read(1 << 12):
                    pass
            except OSError:
                pass  # broken rather than closed: the next attempt tells more
            finally:
                writer.close()
            await asyncio.sleep(BETWEEN)

    def _lost(self, text: str) -> None:
        if self._stopped:
            return
        self._stopped = self.has_lost = True
        backend = self._backend

        def let_go() -> None:
            time.sleep(LETS_GO_AFTER)
            backend.connection.lost()

        # Whoever waits for Ray may be the one who would tell of the ends below: it is let go of in any case.
        threading.Thread(target=let_go, name="shoal-ray-lost", daemon=True).start()
        backend.events.close_for(text)
        backend.events.broken(lambda name: backend.died(name, text))


def _keep_alive(connection: Any) -> None:
    """Has the system notice within seconds that the other machine has gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
