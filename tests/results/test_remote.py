"""Results behind URLs of fsspec, and the leases there."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import anyio
import fsspec
import pytest
from shoal.exceptions import InvalidOption, MissingExtraError, ResultStorageError
from shoal.results.storage import Record, leases, open_storage
from shoal.results.storage.folder import FolderStorage
from shoal.results.storage.remote import RemoteStorage

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4()}/results"


class Clock:
    """A clock for those who wait, moved on by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


def broken(*_: Any, **__: Any) -> Any:
    raise ConnectionError("the network is down")


# ---------------------------------------------------------------------- opening


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"shoal\[fsspec\]"):
        open_storage("memory://results")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_without_what_fsspec_needs(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'"{package}"'):
        open_storage(f"{scheme}://bucket/results")


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(InvalidOption, match="Protocol not known: nope"):
        open_storage("nope://results")


def test_nothing_is_connected_to_until_it_is_used() -> None:
    class Nowhere(fsspec.AbstractFileSystem):  # type: ignore[misc]
        __init__ = broken

    fsspec.register_implementation("nowhere", Nowhere, clobber=True)
    storage = open_storage("nowhere://results")
    for ask in (
        lambda: storage.read("key"),
        lambda: storage.peek("key"),
        lambda: storage.write(Record(key="key")),
        lambda: storage.lock("key"),
        lambda: storage.remove("key"),
        storage.list,
    ):
        with pytest.raises(ResultStorageError, match="ConnectionError: the network is down"):
            ask()


def test_which_is_which() -> None:
    assert isinstance(open_storage("memory://results"), RemoteStorage)
    assert isinstance(open_storage("file:///tmp/results"), FolderStorage)
    assert isinstance(open_storage("C:/results"), FolderStorage)


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage("memory://user:hush@host/results")
    assert "hush" not in f"{storage} {storage!r}"
    monkeypatch.setattr(type(storage._files()), "cat_file", broken)  # type: ignore[attr-defined]
    with pytest.raises(ResultStorageError, match="the network is down") as raised:
        storage.read("key")
    assert "hush" not in str(raised.value)


def test_a_store_that_goes_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(url)
    storage.write(Record(key="key"))
    for name in ("cat_file", "pipe_file", "rm_file", "info", "find"):
        monkeypatch.setattr(type(storage._files()), name, broken)  # type: ignore[attr-defined]
    uses: list[Callable[[], object]] = [
        lambda: storage.write(Record(key="key")),
        lambda: storage.read("key"),
        lambda: storage.peek("key"),
        lambda: storage.remove("key"),
        storage.list,
        storage.prune,
        storage.lock("key").try_acquire,
    ]
    for use in uses:
        with pytest.raises(ResultStorageError, match="ConnectionError: the network is down"):
            use()


# ---------------------------------------------------------------------- leases


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shoal-leases"]


def test_a_lease_whose_holder_is_dead_is_taken_over(url: str, clock: Clock) -> None:
    storage = open_storage(url)
    files: Any = storage._files()  # type: ignore[attr-defined]
    lock = storage.lock("key")
    path = lock._path  # type: ignore[attr-defined]
    files.pipe_file(path, b"another-process 7")
    assert not lock.try_acquire()
    clock.now += leases.LEASE - 1
    assert not lock.try_acquire()
    files.pipe_file(path, b"another-process 8")  # it lives
    clock.now += 2
    assert not lock.try_acquire()
    clock.now += leases.LEASE + 1
    assert not lock.try_acquire(), "it has written its own over it, and looks again"
    assert lock.try_acquire()
    lock.release()
    assert not files.exists(path)


def test_two_who_take_over(url: str, clock: Clock) -> None:
    storage = open_storage(url)
    first, second = storage.lock("key"), storage.lock("key")
    files: Any = storage._files()  # type: ignore[attr-defined]
    files.pipe_file(first._path, b"another-process 7")  # type: ignore[attr-defined]
    for lock in (first, second):
        assert not lock.try_acquire()
    clock.now += leases.LEASE + 1
    for lock in (first, second):
        assert not lock.try_acquire()
    taken = [first.try_acquire(), second.try_acquire()]
    assert sorted(taken) == [False, True]
    for lock in (first, second):
        lock.release()


def test_a_lease_is_renewed_while_it_is_held(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE", 0.03)
    storage = open_storage(url)
    lock = storage.lock("key")
    renewed = threading.Event()
    real = leases.Lease.renew

    def renew(lease: leases.Lease) -> None:
        real(lease)
        renewed.set()

    monkeypatch.setattr(leases.Lease, "renew", renew)
    with lock:
        before = lock._read()  # type: ignore[attr-defined]
        assert threads() == ["shoal-leases"]
        assert renewed.wait(10)
        assert lock._read() != before  # type: ignore[attr-defined]
    lock.renew()  # type: ignore[attr-defined]
    assert lock._read() is None, "who has given it back does not renew it"  # type: ignore[attr-defined]


def test_a_lease_that_cannot_be_given_back(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(url)
    lock = storage.lock("key")
    assert lock.try_acquire()
    monkeypatch.setattr(type(storage._files()), "rm_file", broken)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        lock.release()
    assert "ends in 30 s" in caplog.text


def test_a_store_that_needs_folders(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(url)
    kind: Any = type(storage._files())  # type: ignore[attr-defined]
    real, made = kind.pipe_file, set[str]()

    def pipe_file(files: Any, path: str, value: bytes, **how: Any) -> None:
        if path.rpartition("/")[0] not in made:
            raise FileNotFoundError(path)
        real(files, path, value, **how)

    monkeypatch.setattr(kind, "makedirs", lambda _, path, exist_ok: made.add(path))
    monkeypatch.setattr(kind, "pipe_file", pipe_file)
    with storage.lock("key"):
        storage.write(Record(key="key"))
    assert storage.read("key") is not None


def test_asking_a_store_does_not_hold_up_a_loop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(url)
    main = threading.get_ident()
    asked: list[int] = []
    real = leases.Lease.try_acquire

    def try_acquire(lease: leases.Lease) -> bool:
        asked.append(threading.get_ident())
        return real(lease)

    monkeypatch.setattr(leases.Lease, "try_acquire", try_acquire)

    async def main_task() -> None:
        async with storage.lock("key"):
            pass

    anyio.run(main_task)
    assert asked
    assert main not in asked
