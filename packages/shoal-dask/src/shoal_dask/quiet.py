"""Silence while a cluster is shut down: what ends in an orderly way has nothing to report.

May import the standard library only.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]

_LOUD = ("distributed", "tornado.application", "tornado.general")
_SILENCE = logging.CRITICAL + 1

_lock = threading.Lock()
_depth = 0
_levels: dict[logging.Logger, int] = {}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Dask's loggers silent inside; several threads may be inside at once."""
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            for logger in _loggers():
                _levels[logger] = logger.level
                logger.setLevel(_SILENCE)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for logger, level in _levels.items():
                    logger.setLevel(level)
                _levels.clear()


def _loggers() -> list[logging.Logger]:
    # Each of them: a logger with a level of its own does not ask the one above it.
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    return [logging.getLogger(name) for name in (*_LOUD, *names)]
