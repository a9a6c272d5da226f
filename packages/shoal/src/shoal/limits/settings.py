"""Where limits are kept, and how often they are looked at: environment variables, read when asked for.

    SHOAL_LIMITS_URL             the SQLite file of limits, or a database     ~/.local/state/shoal/limits.db
    SHOAL_LIMITS_LEASE_SECONDS   how long a slot outlives its driver's death                      30
    SHOAL_LIMITS_POLL_SECONDS    how often who waits at a file looks for what it did not hear   0.05

The first is a path, `sqlite:///` and an absolute path, or `postgresql://user@host/database`. The default file is in
`$XDG_STATE_HOME/shoal` where that variable is set. May import `exceptions`; nothing heavy, because `limits_in_use` is
asked before anything else of this package is loaded.
"""

from __future__ import annotations

import os
import re

from shoal.exceptions import InvalidOption

__all__ = [
    "lease_seconds",
    "limits_in_use",
    "limits_path",
    "limits_place",
    "poll_seconds",
    "postgres_url",
    "secrets_in",
    "without_password",
]

_POSTGRES = ("postgresql://", "postgres://")


def postgres_url() -> str | None:
    """The address of the database of limits; `None` where they are in a file."""
    given = os.environ.get("SHOAL_LIMITS_URL", "")
    return given if given.startswith(_POSTGRES) else None


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
    elif given.startswith("sqlite:///"):
        from urllib.parse import unquote

        # With three slashes or, as others have it for an absolute path, with four.
        path = unquote(given.removeprefix("sqlite://")).lstrip("/")
        given = path if path.startswith("~") else f"/{path}"
        if path in ("", ":memory:"):
            raise _not_a_place()
    elif "://" in given:
        raise _not_a_place()
    return os.path.abspath(os.path.expanduser(given))


def limits_place() -> str:
    """Where limits are kept, to be shown.

    Raises:
        InvalidOption: SHOAL_LIMITS_URL is the address of something else.
    """
    url = postgres_url()
    return limits_path() if url is None else without_password(url)


def limits_in_use() -> bool:
    """Whether there may be limits: somebody once made one, or there is a database for them. Opens nothing.

    Raises:
        InvalidOption: SHOAL_LIMITS_URL is the address of something else.
    """
    return postgres_url() is not None or os.path.exists(limits_path())


def lease_seconds() -> float:
    """How long a slot stays taken without a sign of life from who took it."""
    return _seconds("SHOAL_LIMITS_LEASE_SECONDS", 30.0)


def poll_seconds() -> float:
    """How often a process in which somebody waits at a file looks what others gave back, in case it did not hear of it."""
    return _seconds("SHOAL_LIMITS_POLL_SECONDS", 0.05)


def without_password(url: str) -> str:
    """An address as it may be shown."""
    for secret in secrets_in(url):
        url = url.replace(secret, "***")
    return url


def secrets_in(url: str) -> list[str]:
    """The passwords in an address, also in one that is not understood: what stands where a port would, and is none."""
    found = [
        *re.findall(r"://[^:@/?#]*:(.*)@", url, flags=re.DOTALL),
        *re.findall(r"://[^:@/?#]*:(?!\d*(?:[/?#]|$))([^@]*)$", url, flags=re.DOTALL),
        *re.findall(r"[?&][^=&]*password=([^&]*)", url),
    ]
    return sorted(filter(None, found), key=len, reverse=True)


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


def _not_a_place() -> InvalidOption:
    url = without_password(os.environ["SHOAL_LIMITS_URL"])
    return _invalid(
        "SHOAL_LIMITS_URL",
        url,
        "the path of an SQLite file is needed, which may begin with sqlite:///, or a postgresql:// address",
    )


def _invalid(name: str, value: str, problem: str) -> InvalidOption:
    return InvalidOption(where="the environment", option=name, value=value, problem=problem)
