"""What every storage does: a record is found whole or not at all."""

from __future__ import annotations

import logging
import os
import pickle
import time
import uuid
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from shoal.exceptions import ResultStorageError
from shoal.results import telling
from shoal.results.kept import keep, recall
from shoal.results.serializers import serializer_of
from shoal.results.storage import Record, open_storage
from shoal.results.storage import base as storage_base
from shoal.results.storage.base import name_of
from shoal.results.storage.folder import FolderStorage
from shoal.results.storage.format import pack

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.results.storage import Storage

PICKLE = serializer_of("pickle")
NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW
        self.monotonic = time.monotonic
        self.sleep = time.sleep

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that says what has expired."""
    clock = Clock()
    monkeypatch.setattr(storage_base, "time", clock)
    return clock


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "results")
    return open_storage(f"memory://{uuid.uuid4()}/results")


def value_of(storage: Storage, key: str) -> bytes | None:
    record = storage.read(key)
    return None if record is None else bytes(record.value)


def bytes_of(record: Record) -> bytes:
    return b"".join(pack(record))


# ---------------------------------------------------------------------- there and back


def test_what_was_written_is_found(storage: Storage) -> None:
    assert storage.read("key") is None
    written = Record(
        key="key",
        value=b"value",
        serializer="json",
        created=NOW,
        expires=time.time() + 60,
        task_name="load",
        run_name="load-1",
        flow_run_name="swift-heron",
        parts={"inputs": {"x": "1"}},
    )
    ref = storage.write(written)
    assert (ref.place, ref.key, ref.size) == (storage.place, "key", 5)
    assert storage.read("another") is None
    assert storage.peek("another") is None
    created = {"created": time.time() - 1}
    storage.write(Record(**{**facts_of(written), **created}))
    found = storage.read("key")
    assert found is not None
    assert facts_of(found) == {**facts_of(written), **created}
    peeked = storage.peek("key")
    assert peeked is not None
    assert facts_of(peeked) == {**facts_of(written), **created, "value": b""}


def facts_of(record: Record) -> dict[str, Any]:
    facts = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    return {**facts, "value": bytes(record.value)}


def test_any_text_is_a_key(storage: Storage) -> None:
    odd = ("", "../../etc/passwd", "/absolute", "a\0b", "naïve 🐟", "\ud800", "x" * 100_000, "CON")
    for key in odd:
        storage.write(Record(key=key, value=b"1"))
        assert value_of(storage, key) == b"1"
        assert [entry.record.key for entry in storage.list()] == [key]
        assert storage.remove(key)
        assert not storage.remove(key)


def test_the_last_one_counts(storage: Storage) -> None:
    for value in (b"long" * 10_000, b"short"):
        storage.write(Record(key="key", value=value))
        assert value_of(storage, "key") == value
    assert len(storage.list()) == 1


def test_a_header_longer_than_is_read_at_once(storage: Storage) -> None:
    storage.write(Record(key="key", parts={"source": "x" * 50_000}))
    peeked = storage.peek("key")
    assert peeked is not None
    assert len(peeked.parts["source"]) == 50_000
    assert len(storage.list()) == 1


def test_a_storage_travels(storage: Storage) -> None:
    keep(storage, "key", 1, PICKLE)
    copy = pickle.loads(pickle.dumps(storage))
    assert recall(copy, "key", PICKLE) is not None


# ---------------------------------------------------------------------- what does not verify


RECORD = Record(key="key", value=b"value", created=NOW)
WHOLE = bytes_of(RECORD)
DAMAGED = {
    "empty": b"",
    "foreign": b"#!/bin/sh\necho this is something else, and longer than a head\n",
    "longer": WHOLE + b"\0",
    "another version": b"shoal-r9" + WHOLE[8:],
    "another key": bytes_of(Record(key="another", value=b"value")),
    **{f"cut at {end}": WHOLE[:end] for end in range(1, len(WHOLE), 9)},
    **{
        f"changed at {at}": WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]
        for at in range(0, len(WHOLE), 9)
    },
}


def test_what_does_not_verify_is_a_miss(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    for kind, data in DAMAGED.items():
        caplog.clear()
        telling.ONCE.told.clear()
        storage._put(name_of("key"), [data])
        with caplog.at_level(logging.WARNING):
            assert storage.read("key") is None, kind
        (warning,) = caplog.messages
        assert str(storage) in warning
        assert "computed again" in warning
    storage.write(RECORD)
    assert value_of(storage, "key") == b"value"


def test_lists_leave_out_what_does_not_verify_and_pruning_removes_it(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.write(Record(key="good"))
    for kind in ("empty", "foreign", "cut at 10", "another version"):
        storage._put(name_of("key"), [DAMAGED[kind]])
        with caplog.at_level(logging.WARNING):
            assert [entry.record.key for entry in storage.list()] == ["good"]
            assert storage.peek("key") is None
        assert "shoal cache prune" in caplog.messages[0]
        assert storage.prune().count == 1
        caplog.clear()
        assert [entry.record.key for entry in storage.list()] == ["good"]
        assert not caplog.messages


def test_a_class_that_is_gone(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import sys

    (tmp_path / "orders_of_yesterday.py").write_text("class Order:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import orders_of_yesterday  # type: ignore[import-not-found]

    keep(storage, "key", orders_of_yesterday.Order(), PICKLE, run_name="load-1")
    del orders_of_yesterday.Order
    with caplog.at_level(logging.WARNING):
        assert recall(storage, "key", PICKLE) is None
    assert "load-1" in caplog.text
    assert "computed again" in caplog.text
    del sys.modules["orders_of_yesterday"]


def test_a_serializer_that_is_gone(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    storage.write(Record(key="key", serializer="parquet"))
    with caplog.at_level(logging.WARNING):
        assert recall(storage, "key", PICKLE) is None
    assert "'parquet'" in caplog.text


def test_what_cannot_be_written_is_named(storage: Storage) -> None:
    import threading

    with pytest.raises(ResultStorageError, match=r"result\['lock'\] \(lock\)"):
        keep(storage, "key", {"lock": threading.Lock()}, PICKLE)
    with pytest.raises(ResultStorageError, match=r"the value\['lock'\] \(_thread.lock\)"):
        keep(storage, "key", {"lock": threading.Lock()}, serializer_of("json"))
    assert storage.read("key") is None


# ---------------------------------------------------------------------- time


def test_expiry(storage: Storage, clock: Clock) -> None:
    storage.write(Record(key="key", created=NOW, expires=NOW + 60))
    clock.now += 59
    assert storage.read("key") is not None
    clock.now += 1
    assert storage.read("key") is None
    assert storage.peek("key") is not None, "what it was made of can still be told"
    assert len(storage.list()) == 1
    assert storage.prune().count == 1
    assert storage.list() == []


def test_a_clock_that_jumps(storage: Storage, clock: Clock) -> None:
    """What was made in a future that has not come has no age; without an expiry it needs none."""
    decade = 10 * 365 * 86400.0
    storage.write(Record(key="expires", created=NOW + decade, expires=NOW + decade + 60))
    storage.write(Record(key="for ever", created=NOW + decade))
    storage.write(Record(key="clocks differ", created=NOW + 200, expires=NOW + 260))
    assert storage.read("expires") is None
    assert storage.read("for ever") is not None
    assert storage.read("clocks differ") is not None
    clock.now -= decade
    assert storage.read("for ever") is not None


# ---------------------------------------------------------------------- pruning


def test_pruning_by_size_keeps_what_was_used_last(storage: Storage) -> None:
    for number in range(5):
        storage.write(Record(key=str(number), value=bytes(1000)))
        if isinstance(storage, FolderStorage):  # a file system's clock is slow
            os.utime(storage._path(name_of(str(number))), times=(NOW + number,) * 2)
    size = max(entry.size for entry in storage.list())
    pruned = storage.prune(max_bytes=2 * size)
    assert pruned.count == 3
    assert pruned.size > 3000
    assert sorted(entry.record.key for entry in storage.list()) == ["3", "4"]


def test_pruning_by_age(storage: Storage, clock: Clock) -> None:
    clock.now = time.time()
    storage.write(Record(key="key"))
    clock.now += 100
    assert storage.prune(max_age=200).count == 0
    clock.now += 200
    assert storage.prune(max_age=200).count == 1


# ---------------------------------------------------------------------- locks


def test_one_at_a_time(storage: Storage) -> None:
    first, second = storage.lock("key"), storage.lock("key")
    assert first.try_acquire()
    assert not second.try_acquire()
    with storage.lock("another"):
        assert not second.acquire(timeout=0.02)
    first.release()
    first.release()
    with second:
        assert not first.try_acquire()
    assert first.acquire(timeout=0)
    first.release()


def test_a_coroutine_waits_and_its_loop_goes_on(storage: Storage) -> None:
    async def main() -> list[str]:
        happened: list[str] = []
        first, second = storage.lock("key"), storage.lock("key")
        assert await first.acquire_async()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                async with second:
                    happened.append("second")

            group.start_soon(wait)
            await anyio.sleep(0.02)
            happened.append("loop")
            first.release()
        assert await first.acquire_async(0)
        first.release()
        return happened

    assert anyio.run(main) == ["loop", "second"]


def test_a_lock_that_nobody_refers_to_is_free(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert storage.lock("key").try_acquire()
    assert storage.lock("key").acquire(timeout=5)
