"""A channel on which whoever sends never waits: a thread does that.

May import `messages` and what lies above task runners.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from shoal.engine.services import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.task_runners.remote.messages import Channel

__all__ = ["Outbox"]


class Outbox:
    """The driver's end of a channel that may block: it sends with locks held that all runs need.

    What cannot be sent any more is dropped: that the other side has gone is seen where it is read from.

    Args:
        channel: the channel.
        failed: told of anything else that goes wrong.
    """

    def __init__(self, channel: Channel, failed: Callable[[BaseException], object]) -> None:
        self._channel = channel
        self._calls = Calls("shoal-outbox", failed)

    def send(self, kind: int, body: bytes = b"") -> None:
        """See `Channel`."""
        self._calls.do(lambda: self._send(kind, body))

    def _send(self, kind: int, body: bytes) -> None:
        with suppress(OSError):
            self._channel.send(kind, body)

    def close(self, grace: float) -> None:
        """Ends the thread once all is sent, within so many seconds."""
        self._calls.close(grace)
