"""The functions that travel to workers. Standard library only, and nothing that a worker would have to import besides."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["arrive", "increment", "same"]


def same(x: int) -> int:
    """A no-op, with an argument and a result to carry."""
    return x


def increment(x: int) -> int:
    """A link of a chain."""
    return x + 1


def arrive(_: int) -> tuple[int, int]:
    """Takes long enough for another worker to take the next one; says which worker it was."""
    time.sleep(0.02)
    return os.getpid(), threading.get_ident()
