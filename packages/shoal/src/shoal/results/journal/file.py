"""The file of a journal that is being written.

    guarantees   What was written is in the hands of the system: it outlives this process, however that ends. A write that
                 fails leaves the file as it was before.
    assumes      One process writes it: `JournalFile` holds the lock of its folder.

A crash of the machine may lose what was written in its last seconds: nothing is flushed to the disk.

May import `contents`, `frames`, and locks of the storage.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shoal.exceptions import JournalBusy
from shoal.results.journal.frames import MARK, SIGN_BYTES
from shoal.results.storage.locks import FileLock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JOURNAL", "LOCK_FILE", "VALUES", "JournalFile", "lock_of"]

_FLAGS = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

#: In a journal's folder: the journal, what is locked while somebody writes it, and the folder of large values.
JOURNAL, LOCK_FILE, VALUES = "journal", "lock", "values"


def lock_of(folder: Path) -> FileLock:
    """The lock of a journal, not taken.

    Args:
        folder: the journal's own; it is not made.
    """
    return FileLock(str(folder / LOCK_FILE), str(folder), makes_folder=False)


class JournalFile:
    """A journal, open to be written at its end, and locked.

    Args:
        folder: the journal's own, which is there.
        name: of the run, for errors.

    Raises:
        JournalBusy: another process, or another flow run of this one, writes it.
        ResultStorageError: it cannot be locked.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / JOURNAL
        self.size = 0
        self._sign = b""
        self._file = -1
        self._lock = lock_of(folder)
        if not self._lock.try_acquire():
            raise JournalBusy(name=name)

    def open(self) -> None:
        """Makes a new one.

        Raises:
            OSError: it cannot be written; then it is closed.
        """
        self._sign = os.urandom(SIGN_BYTES)
        try:
            self._file = os.open(self.path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            self._write(MARK + self._sign)
        except BaseException:
            self.close()
            raise

    def go_on(self, sign: bytes, end: int) -> None:
        """Opens one that is there.

        Args:
            sign: its own.
            end: where to go on: what is behind it is cut off.

        Raises:
            OSError: it cannot be written.
        """
        self._file = os.open(self.path, _FLAGS)
        self._sign = sign
        self._back_to(end)

    def write(self, *frames: bytes) -> None:
        """Appends frames.

        Raises:
            OSError: they cannot be written; then nothing of them is.
        """
        self._write(self._sign + self._sign.join(frames))

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BaseException:
            self._back_to(self.size)
            raise
        self.size += len(data)

    def _back_to(self, size: int) -> None:
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        self.size = size

    def close(self) -> None:
        """Closes it, and lets others write it."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
        self._lock.release()
