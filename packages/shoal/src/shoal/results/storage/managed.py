"""The lock of a key that a lock manager keeps, in the place of the storage's own.

May import `base`.
"""

from __future__ import annotations

import uuid
from typing import Any

from shoal.exceptions import ResultStorageError
from shoal.results.storage.base import KeyLock

__all__ = ["ManagedLock"]


class ManagedLock(KeyLock):
    """See `KeyLock`.

    Args:
        manager: a lock manager of Prefect's shape: see `shoal.locking.protocol`.
        key: the key.
    """

    def __init__(self, manager: Any, key: str) -> None:
        self._manager = manager
        self._key = key
        self._holder = uuid.uuid4().hex
        self._is_held = False

    def try_acquire(self) -> bool:
        """See `KeyLock`."""
        try:
            if not self._manager.acquire_lock(self._key, self._holder, acquire_timeout=0):
                return False
        except Exception as error:
            raise self._failed("taken", error) from error
        self._is_held = True
        return True

    def release(self) -> None:
        """See `KeyLock`.

        Raises:
            ResultStorageError: the manager says that it was not held.
        """
        is_held, self._is_held = self._is_held, False
        if is_held:
            try:
                self._manager.release_lock(self._key, self._holder)
            except Exception as error:
                raise self._failed("given back", error) from error

    def _failed(self, what: str, error: Exception) -> ResultStorageError:
        return ResultStorageError(
            place=type(self._manager).__name__,
            problem=f"the lock of a key cannot be {what}: {type(error).__name__}: {error}",
        )
