"""Results in a folder: files, permissions, the index, and what goes wrong with a disk."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal.exceptions import InvalidOption, ResultStorageError
from shoal.results.kept import keep, recall
from shoal.results.serializers import serializer_of
from shoal.results.settings import default_folder, home
from shoal.results.storage import Record, open_storage
from shoal.results.storage import folder as folder_module
from shoal.results.storage import locks as locks_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shoal.results.storage import Storage

PICKLE = serializer_of("pickle")
JSON = serializer_of("json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def storage(folder: Path) -> Storage:
    return open_storage(folder)


def keys(storage: Storage) -> list[str]:
    return sorted(entry.record.key for entry in storage.list())


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


# ---------------------------------------------------------------------- who may


def test_only_its_owner_may_enter(storage: Storage, folder: Path) -> None:
    before = os.umask(0)
    try:
        storage.write(Record(key="key"))
        with storage.lock("key"):
            modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert modes == {0o700, 0o600}


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o770, "the group")])
def test_pickles_where_others_may_write(
    storage: Storage, folder: Path, mode: int, who: str
) -> None:
    keep(storage, "key", 1, PICKLE)
    os.chown(folder, -1, 12345) if os.geteuid() == 0 else None
    folder.chmod(mode)
    if mode == 0o770 and os.geteuid() != 0:
        pytest.skip("the group may be this user's own")
    uses: list[Callable[[], object]] = [
        lambda: keep(storage, "key", 1, PICKLE),
        lambda: recall(storage, "key", PICKLE),
    ]
    for use in uses:
        with pytest.raises(ResultStorageError, match=f"may be written by {who}.*chmod go-w"):
            use()
    keep(storage, "shared", [1], JSON)
    kept = recall(storage, "shared", JSON)
    assert kept is not None
    assert kept.value == [1]
    assert keys(storage) == ["key", "shared"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("which", ["the folder", "a file in it"])
def test_pickles_of_another_user(storage: Storage, folder: Path, which: str) -> None:
    keep(storage, "pickle", 1, PICKLE)
    keep(storage, "json", 1, JSON)
    for path in [folder] if which == "the folder" else files(folder, "*.result"):
        os.chown(path, 12345, -1)
    with pytest.raises(ResultStorageError, match=f"{which} belongs to the user 12345"):
        recall(storage, "pickle", PICKLE)
    assert recall(storage, "json", JSON) is not None


def test_what_others_may_enter_they_may_read(storage: Storage, folder: Path) -> None:
    before = os.umask(0)
    try:
        folder.mkdir(mode=0o775)
        keep(storage, "key", 1, JSON)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in files(folder, "*.result")} == {0o664}


# ---------------------------------------------------------------------- disks


def test_a_disk_that_fails_at_each_write(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there stays, whole, and nothing is left."""
    storage.write(Record(key="key", value=b"before"))
    names = ("open", "write", "replace", "close")
    calls: list[str] = []

    def failing(name: str, at: int) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "close":
                real(*args, **kwargs)
            calls.append(name)
            if len(calls) == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return None if name == "close" else real(*args, **kwargs)

        return call

    for at in range(1, 10):
        calls.clear()
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(folder_module.os, name, failing(name, at))
            try:
                storage.write(Record(key="key", value=b"after"))
                break
            except ResultStorageError as error:
                problem = str(error)
        assert "No space left on device" in problem
        record = storage.read("key")
        assert record is not None
        assert bytes(record.value) == b"before"
        assert files(folder / "tmp", "*") == []
    assert at == len(("open", "write", "write", "close", "replace")) + 1
    record = storage.read("key")
    assert record is not None
    assert bytes(record.value) == b"after"


def test_a_value_is_written_in_pieces_where_the_system_takes_no_more(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(folder_module.os, "write", lambda file, data: real(file, data[:7]))
    storage.write(Record(key="key", value=bytes(range(100))))
    record = storage.read("key")
    assert record is not None
    assert bytes(record.value) == bytes(range(100))


def test_something_else_has_its_name(storage: Storage, folder: Path) -> None:
    folder.write_text("a file")
    uses: list[Callable[[], object]] = [
        lambda: storage.write(Record(key="key")),
        lambda: storage.read("key"),
        lambda: storage.remove("key"),
        storage.list,
        storage.prune,
        storage.lock("key").try_acquire,
    ]
    for use in uses:
        with pytest.raises(ResultStorageError, match=str(folder)):
            use()


def test_a_folder_that_goes_away_is_made_anew(storage: Storage, folder: Path) -> None:
    import shutil

    storage.write(Record(key="key"))
    shutil.rmtree(folder)
    assert storage.read("key") is None
    assert storage.list() == []
    lock = storage.lock("key")
    with lock:
        storage.write(Record(key="key"))
        shutil.rmtree(folder)
    assert not lock.try_acquire() or lock.release() is None
    storage.write(Record(key="key"))
    assert keys(storage) == ["key"]


def test_others_see_whether_who_has_a_lock_waits(storage: Storage, folder: Path) -> None:
    first, second = storage.lock("key"), storage.lock("key")
    assert first.try_acquire()
    for waits in (False, True, False, True):
        first.tell(waits=waits)
        assert not second.try_acquire()
        assert second.holder_waits == waits
    (file,) = (folder / "locks").iterdir()
    first.release()
    first.tell(waits=True)
    file.write_bytes(b"w")  # left by one that was killed
    assert second.try_acquire()
    assert not first.try_acquire()
    assert not first.holder_waits
    second.release()


def test_a_file_system_without_locks(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks_module, "_told", False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with storage.lock("key"):
                pass
    (warning,) = caplog.messages
    assert "knows no locks" in warning


# ---------------------------------------------------------------------- index


def test_lists_see_what_has_changed(storage: Storage) -> None:
    for key in "abc":
        storage.write(Record(key=key))
    assert keys(storage) == ["a", "b", "c"]
    storage.remove("a")
    storage.write(Record(key="b", run_name="again"))
    storage.write(Record(key="d"))
    assert keys(storage) == ["b", "c", "d"]
    assert {e.record.key: e.record.run_name for e in storage.list()}["b"] == "again"


def test_what_is_known_is_not_read_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in "abc":
        storage.write(Record(key=key))
    assert keys(storage) == ["a", "b", "c"]
    monkeypatch.setattr(type(storage), "_header", None)
    assert keys(storage) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["noise", "cut", "other", "older"])
def test_a_broken_index_is_set_aside_and_made_anew(
    storage: Storage, folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for key in "abc":
        storage.write(Record(key=key))
    storage.list()
    index = folder / "shoal-index.db"
    if kind == "noise":
        index.write_bytes(b"noise" * 1000)
    elif kind == "cut":
        index.write_bytes(index.read_bytes()[:4096])
    else:
        index.unlink()
        other = sqlite3.connect(index)
        other.execute("CREATE TABLE records (something TEXT)")
        other.execute(f"PRAGMA user_version = {1 if kind == 'other' else 0}")
        other.close()
    with caplog.at_level(logging.WARNING):
        assert keys(storage) == ["a", "b", "c"]
    if kind != "older":
        (warning,) = caplog.messages
        assert "index is broken" in warning
        assert len(list(folder.glob("shoal-index.db.broken-*"))) == 1
    caplog.clear()
    assert keys(storage) == ["a", "b", "c"]
    assert not caplog.messages


def test_without_an_index_lists_take_longer(
    storage: Storage, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage.write(Record(key="key"))
    (folder / "shoal-index.db").mkdir()
    with caplog.at_level(logging.WARNING):
        assert keys(storage) == ["key"]
    assert "takes longer" in caplog.text


# ---------------------------------------------------------------------- what is used, and pruning


def test_reading_a_record_says_that_it_is_used(storage: Storage, folder: Path) -> None:
    storage.write(Record(key="key"))
    (path,) = files(folder, "*.result")
    for past in (7200, -7200):  # the clock may have been ahead
        os.utime(path, times=(time.time() - past,) * 2)
        assert storage.read("key") is not None
        (entry,) = storage.list()
        assert abs(entry.used - time.time()) < 60


def test_pruning_sweeps_what_killed_processes_have_left(storage: Storage, folder: Path) -> None:
    """And nothing else: the folder may have been the user's before."""
    storage.write(Record(key="key"))
    held = storage.lock("held")
    (folder / "locks").mkdir()
    (folder / "ab").mkdir(exist_ok=True)
    gone = [folder / "tmp" / f"{'ab' * 20}-{'cd' * 8}", folder / "locks" / ("ab" * 20)]
    stay = [
        folder / "tmp" / "notes.txt",
        folder / "locks" / "front door",
        folder / "index.db",
        folder / "ab" / ("cd" * 19),  # as Git calls its objects
    ]
    new = folder / "tmp" / f"{'ef' * 20}-{'cd' * 8}"
    with held:
        for path in (*gone, *stay, new):
            path.write_bytes(b"")
        for path in (*gone, *stay, *files(folder / "locks", "*")):
            os.utime(path, times=(0, 0))
        storage.prune(max_bytes=1e9, max_age=1e9)
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in (*stay, new))
        assert not storage.lock("held").try_acquire()
    assert keys(storage) == ["key"]


def wait_for_pruning() -> None:
    for thread in threading.enumerate():
        if thread.name == "shoal-prune":
            thread.join()


def test_the_default_folder_prunes_itself(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(folder_module, "_looks", {})
    monkeypatch.setenv("SHOAL_RESULTS_MAX_GB", "0.000002")
    storage = open_storage()
    storage.write(Record(key="first", value=bytes(1500)))
    storage.write(Record(key="second", value=bytes(1500)))
    assert keys(storage) == ["first", "second"], "once an hour"
    stamp = home / "results" / "shoal-pruned"
    os.utime(stamp, times=(time.time() - 3601,) * 2)
    folder_module._looks.clear()
    storage.write(Record(key="third", value=bytes(1500)))
    wait_for_pruning()
    assert keys(storage) == ["third"]


def test_after_a_year_it_may_be_the_clock_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(folder_module, "_looks", {})
    storage = open_storage()
    storage.write(Record(key="old"))
    (path,) = files(home, "*.result")
    stamp = home / "results" / "shoal-pruned"
    for since, left in ((400, ["new", "old"]), (1, ["new"])):
        os.utime(path, times=(time.time() - 399 * 86400,) * 2)
        os.utime(stamp, times=(time.time() - since * 86400,) * 2)
        folder_module._looks.clear()
        storage.write(Record(key="new"))
        wait_for_pruning()
        assert keys(storage) == left


def test_a_folder_with_a_name_keeps_everything(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_looks", {})
    monkeypatch.setenv("SHOAL_RESULTS_MAX_GB", "0.000001")
    storage.write(Record(key="key", value=bytes(5000)))
    assert keys(storage) == ["key"]
    assert not (folder / "shoal-pruned").exists()


# ---------------------------------------------------------------------- settings


def test_where_results_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    assert open_storage().place == default_folder() == str(tmp_path / "home" / "results")
    monkeypatch.delenv("SHOAL_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home() == str(tmp_path / "cache" / "shoal")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == str(tmp_path / ".cache" / "shoal")
    monkeypatch.setenv("SHOAL_RESULTS_STORAGE", "~/kept")
    assert open_storage().place == str(tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    assert open_storage("here").place == str(tmp_path / "here")
    assert open_storage(f"file://{tmp_path}/url").place == str(tmp_path / "url")


def test_a_limit_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_RESULTS_MAX_GB", "SHOAL_RESULTS_MAX_DAYS"):
        for text in ("much", "-1", "inf", "nan"):
            monkeypatch.setenv(name, text)
            with pytest.raises(InvalidOption, match=name):
                open_storage()
        monkeypatch.delenv(name)
