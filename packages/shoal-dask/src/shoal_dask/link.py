"""The driver's end of the bus: a session's messages to and from Dask's scheduler, over the client's own stream.

    any thread ─▶ outbox ─▶ Dask's loop ─▶ stream          stream ─▶ Dask's loop ─▶ inbox ─▶ I/O thread

May import `bus`.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from shoal.engine.services import guarded

from shoal_dask.bus import NAME, SchedulerBus, WorkerBus, session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

__all__ = ["Link"]

#: Messages that Dask's loop sends before it sees to others.
POSTED_TOGETHER = 32


class Link:
    """A session's end of the bus.

    Args:
        client: Dask's client.
        session: the session.
        hear: takes what the bus brings, on the I/O thread.
        failed: told if that fails.
    """

    def __init__(
        self,
        client: Client,
        session: str,
        hear: Callable[[dict[str, Any]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._client: Any = client
        self._session = session
        self._hear = hear
        self._failed = failed
        self._lock = threading.Lock()
        self._outbox: deque[Callable[[], object]] = deque()
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_closed = False
        self.thread = threading.Thread(target=self._serve, name="shoal-dask", daemon=True)

    def open(self) -> None:
        """Joins the bus, setting it up if nobody has."""
        self.thread.start()
        client = self._client
        links: dict[str, Link] | None = getattr(client, "shoal_links", None)
        if links is None:
            links = client.shoal_links = {}
            handlers = client._stream_handlers
            handlers[NAME] = lambda session, **message: _hear(client, session, message)
            for op in ("key-in-memory", "task-erred", "cancelled-keys", "lost-data"):
                handlers[op] = _overhearing(client, handlers[op])
            client.register_plugin(SchedulerBus())
            if not client.run_on_scheduler(_has_worker_bus):
                client.register_plugin(WorkerBus())
        links[self._session] = self
        self.send("open")

    def close(self, grace: float) -> None:
        """Leaves the bus."""
        if self.thread.ident is None:
            return
        held = [key for key in list(self._client.futures) if session_of(key) == self._session]
        self.send("close", held=held)
        getattr(self._client, "shoal_links", {}).pop(self._session, None)
        with self._lock:
            self._is_closed = True
            self._inbox.put(None)
        if self.thread is not threading.current_thread():
            self.thread.join(grace)

    def send(self, op: str, **message: Any) -> None:
        """Sends a message to the scheduler's part of the bus."""
        message.update(op=f"{NAME}-{op}", session=self._session)
        self.post(lambda: self._client._send_to_scheduler(message))

    def post(self, action: Callable[[], object]) -> None:
        """Has Dask's loop send something, after what was posted before.

        All that is posted in one go leaves in one message: the client sends one every 10 ms at the most.
        """
        with self._lock:
            self._outbox.append(action)
            if len(self._outbox) > 1:
                return  # the loop has been told
        self._client.loop.add_callback(self._empty_outbox)

    def _empty_outbox(self) -> None:
        for _ in range(POSTED_TOGETHER):
            action = self._outbox[0]
            try:
                action()
            except BaseException as error:  # nobody would send what comes behind it
                self._failed(error)
            finally:
                with self._lock:
                    self._outbox.popleft()
                    is_empty = not self._outbox
            if is_empty:
                return
        self._client.loop.add_callback(self._empty_outbox)

    def do(self, action: Callable[[], None]) -> None:
        """Has the I/O thread do something, after what the bus brought before; nothing once the bus was left."""
        with self._lock:
            if not self._is_closed:
                self._inbox.put(action)

    def brought(self, message: dict[str, Any]) -> None:
        """The bus has brought something; on Dask's loop."""
        self.do(lambda: self._hear(message))

    def _serve(self) -> None:
        while True:
            action = self._inbox.get()
            if action is None:
                return
            guarded(action, self._failed)()


def _has_worker_bus(dask_scheduler: Any) -> bool:
    return NAME in dask_scheduler.worker_plugins


def _hear(client: Any, session: str, message: dict[str, Any]) -> None:
    """On Dask's loop."""
    link = client.shoal_links.get(session)
    if link is not None:
        link.brought(message)


def _overhearing(client: Any, handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of the client's that also tells sessions of ends of their Dask tasks."""

    def handle(**message: Any) -> Any:
        answer = handler(**message)
        for key in message.get("keys") or (message.get("key"),):
            session = session_of(key)
            if session is not None:
                _hear(client, session, {"ended": key})
        return answer

    return handle
