"""Ctrl-C, once: what it interrupts is ended, shown and written in peace."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupted_once"]

#: Seconds within which a further SIGINT is the same Ctrl-C: `uv run` passes on what the terminal has sent already.
DUPLICATES = 1.0


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Has each Ctrl-C raise KeyboardInterrupt once meanwhile, however often it arrives within `DUPLICATES`.

    The second arrival would hit the cleaning up after the first, and leave processes behind. A later one is raised again:
    Python swallows an exception where the first may have come, in a finalizer or a callback. For the main thread.
    """
    last = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= DUPLICATES:
            last = now
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
