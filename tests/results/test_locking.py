"""Managers of locks, under Prefect's names."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from shoal.exceptions import ResultStorageError
from shoal.locking import waiting
from shoal.locking.filesystem import FileSystemLockManager
from shoal.locking.memory import MemoryLockManager
from shoal.results.storage.managed import ManagedLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shoal.locking.protocol import LockManager


@pytest.fixture(params=["memory", "filesystem"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LockManager]:
    if request.param == "filesystem":
        yield FileSystemLockManager(tmp_path / "locks")
        return
    yield MemoryLockManager()
    MemoryLockManager()._held.clear()


def test_one_holder_at_a_time(manager: LockManager) -> None:
    assert not manager.is_locked("key")
    assert manager.acquire_lock("key", "first")
    assert manager.acquire_lock("key", "first"), "who has it keeps it"
    assert not manager.acquire_lock("key", "second", acquire_timeout=0.01)
    assert manager.acquire_lock("another", "second")
    assert manager.is_locked("key")
    assert manager.is_lock_holder("key", "first")
    assert not manager.is_lock_holder("key", "second")
    assert not manager.wait_for_lock("key", timeout=0.01)
    with pytest.raises(ValueError, match="'second' does not have the lock of 'key'"):
        manager.release_lock("key", "second")
    manager.release_lock("key", "first")
    assert manager.wait_for_lock("key")
    assert manager.acquire_lock("key", "second", acquire_timeout=0)
    for key in ("key", "another"):
        manager.release_lock(key, "second")


def test_coroutines(manager: LockManager) -> None:
    async def main() -> None:
        assert await manager.aacquire_lock("key", "first")
        assert not await manager.aacquire_lock("key", "second", acquire_timeout=0.01)
        assert not await manager.await_for_lock("key", timeout=0.01)
        manager.release_lock("key", "first")
        assert await manager.await_for_lock("key")

    anyio.run(main)


def test_a_lock_for_a_time(manager: LockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    assert manager.acquire_lock("key", "first", hold_timeout=5)
    clock.now += 4
    assert manager.is_locked("key")
    clock.now += 2
    assert not manager.is_locked("key")
    assert manager.acquire_lock("key", "second", acquire_timeout=0)
    manager.release_lock("key", "second")


def test_managers_that_see_one_folder(tmp_path: Path) -> None:
    manager = FileSystemLockManager(tmp_path)
    other = pickle.loads(pickle.dumps(manager))
    assert manager.acquire_lock("key", "first")
    assert other.is_locked("key")
    assert not other.acquire_lock("key", "second", acquire_timeout=0)
    manager.release_lock("key", "first")
    assert other.acquire_lock("key", "second")
    other.release_lock("key", "second")


def test_all_in_memory_have_the_same_locks() -> None:
    first, second = MemoryLockManager(), pickle.loads(pickle.dumps(MemoryLockManager()))
    assert first.acquire_lock("key", "first")
    assert not second.acquire_lock("key", "second", acquire_timeout=0)
    second.release_lock("key", "first")


def test_in_the_place_of_a_storages_own_lock(manager: LockManager) -> None:
    first, second = ManagedLock(manager, "key"), ManagedLock(manager, "key")
    with first:
        assert not second.try_acquire()
    with second:
        assert not first.acquire(timeout=0.01)
    second.release()


def test_a_manager_that_fails() -> None:
    class Broken:
        def acquire_lock(self, *_: Any, **__: Any) -> bool:
            raise ConnectionError("it is away")

    with pytest.raises(ResultStorageError, match=r"Broken: .*ConnectionError: it is away"):
        ManagedLock(Broken(), "key").try_acquire()
