"""Locks of keys in a folder: a file each, locked by the kernel.

    try_acquire   open or make the file ─▶ lock it ─▶ is it still the file of that name? ─▶ taken
    release       remove the file ─▶ close it, which unlocks
    tell          a file that is not empty: who has locked it waits itself

The kernel's locks (`flock`) end with their process, however that ends. The file goes while it is locked; whoever has opened it
before finds that it is the file of no name any more, and begins anew. One that a killed process has left is taken by the
next, or swept.

A child that is forked has the open files of its parent, and would keep the locks: it closes them. May import `base`.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from contextlib import suppress

from shoal.exceptions import ResultStorageError
from shoal.results.storage.base import KeyLock, logger

__all__ = ["FileLock", "lock_file"]

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()
#: Whether it was said that there are no locks.
_told = False


class FileLock(KeyLock):
    """See `KeyLock`.

    Args:
        path: of its file.
        place: of the storage, for errors.
        mode: the permissions of the folder of locks, if it is to be made; the file has those of reading and writing.
        makes_folder: whether it may be; if not, what is locked is the folder's, and gone with it.
    """

    def __init__(
        self, path: str, place: str, mode: int = 0o700, *, makes_folder: bool = True
    ) -> None:
        self._mode = mode
        self._makes_folder = makes_folder
        self._path = path
        self._place = place
        self._changing = threading.Lock()
        self._file = -1

    def try_acquire(self) -> bool:
        """See `KeyLock`."""
        try:
            while True:
                file = self._open()
                try:
                    is_locked = lock_file(file)
                    self.holder_waits = os.fstat(file).st_size > 0
                    is_it = is_locked and _has_name(file, self._path)
                except BaseException:
                    os.close(file)
                    raise
                if is_it:
                    break
                os.close(file)
                if not is_locked:
                    return False
        except OSError as error:
            raise ResultStorageError(
                place=self._place, problem=f"a key cannot be locked: {error}"
            ) from error
        self._file = file
        _held.add(self)
        if self.holder_waits:  # one that was killed did
            self.tell(waits=False)
        return True

    def tell(self, *, waits: bool) -> None:
        """See `KeyLock`. It needs no space on the disk."""
        with self._changing:  # else another thread may give it back, and the file be another
            if self._file >= 0:
                with suppress(OSError):  # it can be written no more: it is as if it did not wait
                    os.ftruncate(self._file, int(waits))

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            return os.open(self._path, flags, self._mode & 0o666)
        except FileNotFoundError:
            if not self._makes_folder:
                raise
            os.makedirs(self._place, mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(self._path), mode=self._mode, exist_ok=True)
            return os.open(self._path, flags, self._mode & 0o666)

    def release(self) -> None:
        """See `KeyLock`."""
        with self._changing:
            file, self._file = self._file, -1
        if file >= 0:
            _held.discard(self)
            # Windows does not remove an open file; the next to come takes it.
            with suppress(OSError):
                os.unlink(self._path)
            os.close(file)

    def __del__(self) -> None:
        self.release()


def lock_file(file: int) -> bool:
    """Locks an open file for as long as it is open, unless it is locked already.

    Where the file system knows no locks, it counts as locked, and a warning says once that it is not.

    Args:
        file: its descriptor.

    Raises:
        OSError: it cannot be locked, for another reason.
    """
    global _told
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        if not _told:
            _told = True
            logger.warning(
                "Results: the file system knows no locks (%s), so two processes may compute the same.",
                error,
            )
    return True


def _has_name(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _after_fork_in_child() -> None:
    for lock in list(_held):
        file, lock._file = lock._file, -1
        lock._changing = threading.Lock()
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
