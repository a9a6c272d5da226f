"""Where results are kept: records are found whole or not at all."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest
from shoal.exceptions import ResultStorageError
from shoal.results.kept import keep, recall
from shoal.results.serializers import serializer_of
from shoal.results.storage import Record, open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.results.storage import Storage

PICKLE = serializer_of("pickle")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "results")


def test_what_was_written_is_found(storage: Storage) -> None:
    assert storage.read("key") is None
    ref = storage.write(Record(key="key", value=b"value", parts={"x": "1"}))
    assert (ref.place, ref.key, ref.size) == (storage.place, "key", 5)
    record = storage.read("key")
    assert record is not None
    assert (bytes(record.value), record.parts) == (b"value", {"x": "1"})


def test_values(storage: Storage) -> None:
    keep(storage, "key", {"a": (1, 2)}, PICKLE, task_name="load")
    kept = recall(storage, "key", PICKLE)
    assert kept is not None
    assert (kept.value, kept.record.task_name) == ({"a": (1, 2)}, "load")


def test_only_its_owner_may_enter(storage: Storage) -> None:
    keep(storage, "key", 1, PICKLE)
    assert os.stat(storage.place).st_mode & 0o777 == 0o700


def test_pickles_where_others_may_write(storage: Storage) -> None:
    keep(storage, "key", 1, PICKLE)
    os.chmod(storage.place, 0o777)
    for use in (lambda: keep(storage, "key", 1, PICKLE), lambda: recall(storage, "key", PICKLE)):
        with pytest.raises(ResultStorageError, match="may be written by everybody"):
            use()


def test_one_at_a_time(storage: Storage) -> None:
    first, second = storage.lock("key"), storage.lock("key")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert storage.lock("another").acquire(0)
    first.release()
    assert second.try_acquire()
    second.release()


def test_a_storage_travels(storage: Storage) -> None:
    keep(storage, "key", 1, PICKLE)
    copy = pickle.loads(pickle.dumps(storage))
    assert recall(copy, "key", PICKLE) is not None
