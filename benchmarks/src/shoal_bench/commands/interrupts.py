"""Ctrl-C, once: what it interrupts is ended, shown and written in peace."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupted_once"]


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Has the first SIGINT raise KeyboardInterrupt meanwhile, and ignores all others until the end.

    `uv run` passes on what the terminal has sent already, so that one Ctrl-C arrives twice; the second one would hit the
    cleaning up after the first, and leave processes behind. For the main thread.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
