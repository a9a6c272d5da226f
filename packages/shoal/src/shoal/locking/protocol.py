"""What a manager of locks does: any object that has these methods is one."""

from __future__ import annotations

from typing import Protocol

__all__ = ["LockManager"]


class LockManager(Protocol):
    """Locks of keys. Each has one holder at a time, which any text tells apart from others."""

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Takes the lock of a key, and waits for it.

        Args:
            key: the key.
            holder: who takes it; who has it already keeps it.
            acquire_timeout: for how many seconds to wait at most; `None`: however long it takes.
            hold_timeout: after how many seconds it ends by itself; `None`: never.

        Returns:
            Whether it is taken.
        """

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """The same for a coroutine."""

    def release_lock(self, key: str, holder: str) -> None:
        """Gives the lock of a key back.

        Raises:
            ValueError: this holder does not have it.
        """

    def is_locked(self, key: str) -> bool:
        """Whether anybody has the lock of a key."""

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this holder has it."""

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Waits until nobody has the lock of a key.

        Returns:
            Whether that came true within so many seconds.
        """

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """The same for a coroutine."""
