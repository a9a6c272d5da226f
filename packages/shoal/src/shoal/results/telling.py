"""What is said once: here, and by all workers of a runner together, whose log records come to the driver.

Loaded by `options`, so it is in a driver before its workers can say anything. May import `storage`.
"""

from __future__ import annotations

import logging
import threading

from shoal.results.storage.base import logger

__all__ = ["ONCE", "warn_once"]


class _Once(logging.Filter):
    """Lets a record through that has no subject, or one of which nothing was said yet in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        subject = getattr(record, "subject", None)
        if subject is None:
            return True
        with self._lock:
            is_new = subject not in self.told
            self.told.add(subject)
        return is_new


#: Of the logger of results.
ONCE = _Once()
logger.addFilter(ONCE)


def warn_once(subject: str, text: str, *args: object) -> None:
    """Logs a warning, unless there was one about this subject.

    Args:
        subject: what it is about.
        text: as `logging` wants it.
        args: for `text`.
    """
    logger.warning(text, *args, extra={"subject": subject})
