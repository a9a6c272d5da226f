"""Where results are kept, and how much of them: environment variables, read when asked for.

    SHOAL_HOME              folder of what is kept between runs                     the user's cache folder
    SHOAL_RESULTS_STORAGE   where results are kept: a folder, or a URL of fsspec    `results` in that
    SHOAL_RESULTS_MAX_GB    how much of the folder in SHOAL_HOME is kept, in 10⁹ bytes; 0: all      10
    SHOAL_RESULTS_MAX_DAYS  how long a result is kept there that nobody uses; 0: for ever           30
    SHOAL_JOURNALS_MAX_GB   how much of the journals of flow runs is kept, in 10⁹ bytes; 0: all     10
    SHOAL_JOURNALS_MAX_DAYS how long the journal of a flow run is kept after its end; 0: for ever   30

The user's cache folder is `~/.cache/shoal`, or `$XDG_CACHE_HOME/shoal` where that is set; `~/Library/Caches/shoal` on macOS.
May import `exceptions` and `shoal.settings`.
"""

from __future__ import annotations

import os

from shoal.exceptions import InvalidOption
from shoal.settings import home
from shoal.settings import results_storage as storage

__all__ = [
    "default_folder",
    "home",
    "journals",
    "max_age",
    "max_age_of_journals",
    "max_bytes",
    "max_bytes_of_journals",
    "refused",
    "storage",
]

DAY = 86400.0


def default_folder() -> str:
    """The absolute path of the folder of results of who names no other."""
    return os.path.join(home(), "results")


def max_bytes() -> float:
    """How many bytes of results are kept in the default folder."""
    return _number("SHOAL_RESULTS_MAX_GB", 10.0) * 1e9


def max_age() -> float:
    """How many seconds a result is kept in the default folder that nobody uses."""
    return _number("SHOAL_RESULTS_MAX_DAYS", 30.0) * DAY


def journals() -> str:
    """The absolute path of the folder of the journals of flow runs; it may not exist."""
    return os.path.join(home(), "journals")


def max_bytes_of_journals() -> float:
    """How many bytes of journals are kept."""
    return _number("SHOAL_JOURNALS_MAX_GB", 10.0) * 1e9


def max_age_of_journals() -> float:
    """How many seconds a journal is kept after it was written last."""
    return _number("SHOAL_JOURNALS_MAX_DAYS", 30.0) * DAY


def _number(name: str, default: float) -> float:
    """A number above 0; infinity for 0."""
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise refused(name, text, "a number from 0 up is needed; 0 for no limit")
    return value or float("inf")


def refused(name: str, value: str, problem: str) -> InvalidOption:
    """The error of a variable that cannot be what it is.

    Args:
        name: its name.
        value: what it is.
        problem: why it cannot.
    """
    return InvalidOption(where="the environment", option=name, value=value, problem=problem)
