"""Where limits are kept, and how often they are looked at: environment variables, read when asked for.

    SHOAL_LIMITS_URL             the SQLite file of limits        ~/.local/state/shoal/limits.db
    SHOAL_LIMITS_LEASE_SECONDS   how long a slot outlives its driver's death                      30
    SHOAL_LIMITS_POLL_SECONDS    how often who waits at a file looks for what it did not hear   0.05

The default file is in `$XDG_STATE_HOME/shoal` where that variable is set. May import `exceptions`; nothing heavy,
because `limits_in_use` is asked before anything else of this package is loaded.
"""

from __future__ import annotations

import os

from shoal.exceptions import InvalidOption

__all__ = ["lease_seconds", "limits_in_use", "limits_path", "poll_seconds"]


def limits_path() -> str:
    """The absolute path of the file of limits, which may not exist.

    Raises:
        InvalidOption: SHOAL_LIMITS_URL is the address of something else.
    """
    given = os.environ.get("SHOAL_LIMITS_URL")
    if not given:
        state = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(state):  # the XDG specification wants a relative one ignored
            state = os.path.join("~", ".local", "state")
        given = os.path.join(state, "shoal", "limits.db")
    elif "://" in given:
        raise _invalid("SHOAL_LIMITS_URL", given, "the path of an SQLite file is needed")
    return os.path.abspath(os.path.expanduser(given))


def limits_in_use() -> bool:
    """Whether there may be limits: somebody once created one. Opens nothing."""
    return os.path.exists(limits_path())


def lease_seconds() -> float:
    """How long a slot stays taken without a sign of life from who took it."""
    return _seconds("SHOAL_LIMITS_LEASE_SECONDS", 30.0)


def poll_seconds() -> float:
    """How often a process in which runs wait for slots looks what other processes gave back."""
    return _seconds("SHOAL_LIMITS_POLL_SECONDS", 0.05)


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise _invalid(name, text, "a number of seconds above 0 is needed")
    return seconds


def _invalid(name: str, value: str, problem: str) -> InvalidOption:
    return InvalidOption(where="the environment", option=name, value=value, problem=problem)
