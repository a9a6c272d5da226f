"""Locks of all processes that see a folder, kept by the kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.locking.waiting import Shared, Waiting
from shoal.results.storage.base import name_of
from shoal.results.storage.locks import FileLock

if TYPE_CHECKING:
    from shoal.results.storage.base import KeyLock

__all__ = ["FileSystemLockManager"]


class FileSystemLockManager(Waiting):
    """A `LockManager` whose locks are files in a folder; each ends with its process, however that ends.

    Args:
        lock_files_directory: the folder, which is made when it is needed.
    """

    def __init__(self, lock_files_directory: str | Path) -> None:
        super().__init__(Shared())
        self.lock_files_directory = Path(os.path.abspath(Path(lock_files_directory).expanduser()))

    def _lock(self, key: str) -> KeyLock:
        folder = str(self.lock_files_directory)
        return FileLock(f"{folder}/{name_of(key)}", folder)

    def __reduce__(self) -> Any:
        return type(self), (self.lock_files_directory,)
