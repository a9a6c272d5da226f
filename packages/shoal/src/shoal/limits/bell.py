"""What the keeper's thread sleeps on: rings from this process, and from others, by one look of the system."""

from __future__ import annotations

import contextlib
import selectors
import socket

__all__ = ["Bell"]


class Bell:
    """One thread waits, any thread rings; a ring is remembered until the next wait."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._hears, self._rings = socket.socketpair()
        self._hears.setblocking(False)
        self._rings.setblocking(False)
        self._selector.register(self._hears, selectors.EVENT_READ)

    def ring(self) -> None:
        """Ends the wait, or the next one. Does not block."""
        with contextlib.suppress(BlockingIOError):  # it has been rung often enough
            self._rings.send(b"!")

    def wait(self, other: int | None, timeout: float | None) -> bool:
        """Waits until it is rung, or `other`, a file descriptor, is readable; returns whether that was in time."""
        if other is not None:  # each time: the number may be that of another file by now
            self._selector.register(other, selectors.EVENT_READ)
        try:
            found = self._selector.select(timeout)
        finally:
            if other is not None:
                self._selector.unregister(other)
        with contextlib.suppress(BlockingIOError):
            self._hears.recv(4096)
        return bool(found)

    def close(self) -> None:
        """Closes what is open; also in a forked child, in which nobody waits."""
        self._selector.close()
        self._hears.close()
        self._rings.close()
