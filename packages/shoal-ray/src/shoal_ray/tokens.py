"""The token of instances of Ray that are started here: a file that only its user can read.

Ray makes it as the umask has it, so that on most machines every user could read it, and run code with it. May import the
standard library only; Ray on use.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

__all__ = ["keep_private"]

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def keep_private() -> None:
    """Makes the token that Ray would make, or closes the file to others, before Ray looks for it.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    if not hasattr(os, "fchmod") or not _is_wanted():
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
    except FileExistsError:
        _close_to_others(path)
    except OSError as error:
        error.filename = str(path)  # and not the folder that could not be made
        raise
    else:
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def _is_wanted() -> bool:
    """Whether Ray will use the token in the user's home."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return False
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:
        return False  # an older version
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None:
        return hasattr(setup, "enable_token_auth_by_default")
    return mode.lower() == "token"


def _close_to_others(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_LINKS)
    except OSError:
        return  # a link, or not this user's: theirs to say who may read it
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o700)
    finally:
        os.close(descriptor)
