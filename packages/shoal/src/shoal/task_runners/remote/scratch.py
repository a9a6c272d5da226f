"""Folders of a driver for what its workers leave on disk, and the end of those whose driver was killed.

    make ── sweep what nobody owns any more ── folder, with a file `owner` ── lock that, until `remove` or the driver's end

The lock is the kernel's (`flock`), so it ends with the driver however that ends, and no number of a process is mistaken for
another's. Whoever makes a folder first removes those of this user that nobody has locked:

- nothing of another user, of another machine that shares the disk, or of a driver that lives. A child that a driver has
  forked holds the lock, too;
- nothing that a link points to: all is removed by descriptors of folders that were looked at;
- in no more than `SWEEPS_FOR` seconds and a folder.

Between the making and the lock another driver may sweep the folder away; then it is made anew. May import the standard
library only: a driver makes one before it has loaded anything else.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from typing import Literal

__all__ = ["Scratch", "sweep"]

Kind = Literal["dask", "fork", "ray"]

#: Seconds after which the removal of no other folder is begun.
SWEEPS_FOR = 0.2

#: As `mkdtemp` makes them.
_NAME = re.compile(r"shoal-(dask|fork|ray)-[a-z0-9_]{8}")
_OWNER = "owner"
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Scratch:
    """A new folder, which only this user can enter.

    Args:
        kind: what it is for; a part of its name.
        within: where it is made; by default in the system's folder for temporary files.

    Attributes:
        path: where it is.

    Raises:
        OSError: there is no room for it, or no such place.
    """

    def __init__(self, kind: Kind, within: str | None = None) -> None:
        within = tempfile.gettempdir() if within is None else within
        os.makedirs(within, exist_ok=True)
        sweep(within)
        self._pid = os.getpid()
        while True:
            self.path = tempfile.mkdtemp(prefix=f"shoal-{kind}-", dir=within)
            with contextlib.suppress(FileNotFoundError):
                self._owner = os.open(
                    os.path.join(self.path, _OWNER),
                    os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS,
                    0o600,
                )
                if _lock(self._owner) is not False and os.fstat(self._owner).st_nlink:
                    os.write(self._owner, _here())
                    return
                os.close(self._owner)

    def remove(self) -> None:
        """Removes it with what is in it; more than once, or in a forked child, does nothing."""
        if self._owner < 0 or self._pid != os.getpid():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        owner, self._owner = self._owner, -1
        os.close(owner)


def sweep(within: str) -> None:
    """Removes what drivers of this user that were killed have left in a folder; in doubt it stays."""
    if sys.platform == "win32":
        return
    deadline = time.monotonic() + SWEEPS_FOR
    with contextlib.suppress(OSError), os.scandir(within) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _sweep_one(entry.path)
            if time.monotonic() > deadline:
                return


def _sweep_one(path: str) -> None:
    """Removes a folder, if it is of this user and nobody owns it.

    Raises:
        OSError: it is something else, or there is in it what cannot be removed.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS)
    try:
        if os.fstat(folder).st_uid == os.geteuid() and _emptied(folder):
            os.rmdir(path)
    finally:
        os.close(folder)


def _emptied(folder: int) -> bool:
    """Whether a folder is empty: it was made just now, or nobody owns it, and what is in it has been removed."""
    try:
        owner = os.open(_OWNER, os.O_RDWR | os.O_NONBLOCK | _NO_LINKS, dir_fd=folder)
    except FileNotFoundError:
        return True  # whoever has made it makes another
    try:
        if not _lock(owner) or os.read(owner, 1024) not in (b"", _here()):
            return False
        _empty(folder)
        return True
    finally:
        os.close(owner)


def _empty(folder: int) -> None:
    """Removes what is in a folder, the file `owner` last."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if is_folder:
            shutil.rmtree(name, dir_fd=folder)
        elif name != _OWNER:
            os.unlink(name, dir_fd=folder)
    os.unlink(_OWNER, dir_fd=folder)


def _lock(file: int) -> bool | None:
    """Locks a file for as long as this process has it; `None` where nothing can be locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; a file system that knows no locks
        return None
    return True


def _here() -> bytes:
    """This machine: on a disk that several share, locks of another need not be seen."""
    return platform.node().encode()
