"""What is the same in all managers of ours: they try, and look again after a while."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from shoal.results.storage.base import KeyLock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Shared", "Waiting"]


class _Held(NamedTuple):
    holder: str
    lock: KeyLock
    ends: float


class Shared:
    """Who has which lock, and what guards that."""

    def __init__(self) -> None:
        self.held: dict[str, _Held] = {}
        self.changes = threading.RLock()


class Waiting(ABC):
    """A `LockManager` made of locks that are there already.

    Args:
        shared: what it shares with other managers.
    """

    def __init__(self, shared: Shared) -> None:
        self._held = shared.held
        self._changes = shared.changes

    @abstractmethod
    def _lock(self, key: str) -> KeyLock: ...

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """See `LockManager`."""
        return _Try(lambda: self._take(key, holder, hold_timeout)).acquire(acquire_timeout)

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """See `LockManager`."""
        tries = _Try(lambda: self._take(key, holder, hold_timeout))
        return await tries.acquire_async(acquire_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """See `LockManager`."""
        with self._changes:
            if not self.is_lock_holder(key, holder):
                raise ValueError(f"{holder!r} does not have the lock of {key!r}")
            self._held.pop(key).lock.release()

    def is_locked(self, key: str) -> bool:
        """See `LockManager`."""
        with self._changes:
            if self._of(key) is not None:
                return True
            lock = self._lock(key)
            if not lock.try_acquire():
                return True
            lock.release()
            return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """See `LockManager`."""
        with self._changes:
            held = self._of(key)
            return held is not None and held.holder == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """See `LockManager`."""
        return _Try(lambda: not self.is_locked(key)).acquire(timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """See `LockManager`."""
        return await _Try(lambda: not self.is_locked(key)).acquire_async(timeout)

    def _take(self, key: str, holder: str, hold_timeout: float | None) -> bool:
        with self._changes:
            held = self._of(key)
            if held is None:
                lock = self._lock(key)
                if not lock.try_acquire():
                    return False
            elif held.holder == holder:
                lock = held.lock
            else:
                return False
            ends = float("inf") if hold_timeout is None else time.monotonic() + hold_timeout
            self._held[key] = _Held(holder, lock, ends)
            return True

    def _of(self, key: str) -> _Held | None:
        """Who has the lock of a key, in this process; one whose time is over is given back."""
        held = self._held.get(key)
        if held is not None and held.ends < time.monotonic():
            del self._held[key]
            held.lock.release()
            return None
        return held


class _Try(KeyLock):
    """Waits for something as one waits for a lock."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def try_acquire(self) -> bool:
        return self._condition()

    def release(self) -> None:
        """There is nothing to give back."""
