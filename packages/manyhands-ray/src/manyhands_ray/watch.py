"""Watches over the connection: to Ray's control store (GCS) and the node's own raylet, or to the server of Ray Client.

Ray fails queued tasks never when its raylet has died, and a minute after its control store has it ends the driver
without running a `finally`. So a connection is held to each, which breaks when the process behind it dies. Where it can
be made again, that process only closed it; where it cannot, every open run is CRASHED and Ray is shut down.

May import `link`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from manyhands_ray.backend import RayBackend

__all__ = ["Watch"]

#: Seconds between two attempts to connect.
BETWEEN = 0.5
#: Seconds that a connection may be away. Ray's control store may be restarted.
LOST_AFTER = 5.0
#: Seconds that an attempt may take.
ANSWERS_WITHIN = 3.0


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

    def start(self) -> None:
        """Begins to watch."""
        connection = self._backend.connection
        watched = {
            "Ray's control store": connection.gcs_address,
            "the server of Ray Client": connection.client_address,
            "the raylet of this node": self._raylet(),
        }
        for what, address in watched.items():
            if address is not None:
                host, _, port = address.rpartition(":")
                self._backend.link.spawn(self._hold(what, host.strip("[]"), int(port)))

    def stop(self) -> None:
        """Watches no more."""
        self._stopped = True

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
                if now - away_since >= LOST_AFTER:
                    self._lost(f"the connection to {what} at {host}:{port} was lost: {error!r}")
                    return
                await asyncio.sleep(BETWEEN)
                continue
            away_since = None
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
        backend.events.close_for(text)
        backend.events.broken(lambda name: backend.died(name, text))
        # It may wait for what will not answer.
        threading.Thread(
            target=backend.connection.lost, name="manyhands-ray-lost", daemon=True
        ).start()
