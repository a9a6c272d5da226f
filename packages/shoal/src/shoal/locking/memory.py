"""Locks of one process: for runs on threads, in tests."""

from __future__ import annotations

from typing import Any

from shoal.locking.waiting import Shared, Waiting
from shoal.results.storage.base import KeyLock

__all__ = ["MemoryLockManager"]


class _Free(KeyLock):
    """The lock of a key that nobody in this process has."""

    def try_acquire(self) -> bool:
        return True

    def release(self) -> None:
        """There is nothing to give back."""


class MemoryLockManager(Waiting):
    """A `LockManager` whose locks hold in this process: all managers of this kind have the same ones."""

    _one = Shared()

    def __init__(self) -> None:
        super().__init__(self._one)

    def _lock(self, key: str) -> KeyLock:
        return _Free()

    def __reduce__(self) -> Any:
        return type(self), ()
