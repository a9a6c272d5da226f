"""The driver's end of the bus: a session's messages to and from Dask's scheduler, over the client's own stream.

    any thread ─▶ outbox ─▶ Dask's loop ─▶ stream          stream ─▶ Dask's loop ─▶ inbox ─▶ I/O thread

May import `bus` and `pace`.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from shoal.engine.services import guarded

from shoal_dask.bus import NAME, SchedulerBus, WorkerBus, session_in
from shoal_dask.pace import hurry, take_time

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
        every: seconds between what is sent, on each stream that messages take.
        hear: takes what the bus brings, on the I/O thread.
        failed: told if that fails.
    """

    def __init__(
        self,
        client: Client,
        session: str,
        every: float,
        hear: Callable[[dict[str, Any]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._client: Any = client
        self._session = session
        self._every = every
        self._stream: Any = client.scheduler_comm
        self._hear = hear
        self._failed = failed
        self._lock = threading.Lock()
        self._outbox: deque[Callable[[], object]] = deque()
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_closed = False
        self._links: _Links | None = None
        self.thread = threading.Thread(target=self._serve, name="shoal-dask", daemon=True)

    def open(self) -> None:
        """Joins the bus, setting it up if nobody has."""
        self.thread.start()
        self._links = links = _Links.of(self._client)
        links.set_up(self._client)
        links.by_session[self._session] = self
        self.post(lambda: hurry(self._stream, self._session, self._every))
        self.send("open", every=self._every)

    def close(self, grace: float) -> None:
        """Leaves the bus."""
        if self.thread.ident is None:
            return
        held = [key for key in list(self._client.futures) if session_in(key) == self._session]
        self.send("close", held=held)
        self.post(lambda: take_time(self._stream, self._session))
        if self._links is not None:
            self._links.by_session.pop(self._session, None)
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

        All that is posted in one go leaves in one message.
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


def _is_in_use(dask_scheduler: Any) -> bool:
    return bool(dask_scheduler.plugins[NAME].is_in_use)


class _Links:
    """What the links of one client share. Flows of several threads may open theirs at once.

    Attributes:
        by_session: the links.
    """

    def __init__(self) -> None:
        self.by_session: dict[str, Link] = {}
        self._lock = threading.Lock()
        self._is_set_up = False

    @staticmethod
    def of(client: Any) -> _Links:
        """Those of a client."""
        links: _Links = vars(client).setdefault(
            "shoal_links", _Links()
        )  # one step: all get the same
        return links

    def set_up(self, client: Any) -> None:
        """Sets the bus up on the scheduler and on every worker, and has the client listen to it.

        Nobody goes on before that is complete: a worker that is sent a message which it does not know gives up.
        """
        with self._lock:
            if self._is_set_up:
                return
            client.register_plugin(SchedulerBus())
            if not client.run_on_scheduler(_is_in_use):
                # Another driver may be about to, and may not have reached all workers yet.
                client.register_plugin(WorkerBus())
            handlers = client._stream_handlers
            handlers[NAME] = self._hear
            for op in ("key-in-memory", "task-erred", "cancelled-keys", "lost-data"):
                handlers[op] = self._overhearing(handlers[op])
            self._is_set_up = True

    def _hear(self, session: str, **message: Any) -> None:
        """On Dask's loop."""
        link = self.by_session.get(session)
        if link is not None:
            link.brought(message)

    def _overhearing(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """A handler of the client's that also tells sessions of ends of their Dask tasks."""

        def handle(**message: Any) -> Any:
            answer = handler(**message)
            for key in message.get("keys") or (message.get("key"),):
                session = session_in(key)
                if session is not None:
                    self._hear(session, ended=key)
            return answer

        return handle
