"""Settings: environment variables `SHOAL_*`, read when asked for.

A handful of plain values; pydantic would cost more at import than all of the library. May import `exceptions`.

    SHOAL_LOGGING_LEVEL   level of the `shoal` loggers                       INFO
    SHOAL_TASK_RUNNER     the runner of flows that name none                     threads
    SHOAL_LOG_BURST       runs of one task logged one by one before summing up   20
    SHOAL_MAX_THREADS     the most threads of a pool without `max_workers`       256
"""

from __future__ import annotations

import os

from shoal.exceptions import InvalidOption

__all__ = ["log_burst", "logging_level", "max_threads", "task_runner"]


def _whole_number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise InvalidOption(
            where="the environment",
            option=name,
            value=text,
            problem=f"a whole number from {least} up is needed",
        )
    return value


def logging_level() -> str:
    """The level of the library's loggers, by name or number."""
    return os.environ.get("SHOAL_LOGGING_LEVEL", "INFO").upper()


def task_runner() -> str:
    """The runner of flows that name none."""
    return os.environ.get("SHOAL_TASK_RUNNER", "threads")


def log_burst() -> int:
    """How many runs of one task are logged one by one before the rest is summed up."""
    return _whole_number("SHOAL_LOG_BURST", 20, 0)


def max_threads() -> int:
    """The most threads of a pool that was given no `max_workers`."""
    return _whole_number("SHOAL_MAX_THREADS", 256, 1)
