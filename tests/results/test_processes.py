"""Results that several processes keep, and processes that are killed."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from shoal.results.kept import keep, recall
from shoal.results.serializers import serializer_of
from shoal.results.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shoal.results.storage import Storage

PICKLE = serializer_of("pickle")

PREAMBLE = """
import os, sys, time
from shoal.results.kept import keep, recall
from shoal.results.serializers import serializer_of
from shoal.results.storage import open_storage
storage, pickle = open_storage(sys.argv[1]), serializer_of("pickle")
"""

Processes = Any


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts scripts in processes of their own, and sees that they end."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "results")


@pytest.mark.slow
def test_each_key_is_computed_once(storage: Storage, start: Any, tmp_path: Path) -> None:
    """Eight processes ask for 200 keys at once, in orders of their own."""
    script = """
        import random
        print("ready", flush=True)
        sys.stdin.read()
        keys = list(range(200))
        random.Random(int(sys.argv[3])).shuffle(keys)
        for key in keys:
            if recall(storage, str(key), pickle) is None:
                with storage.lock(str(key)):
                    if recall(storage, str(key), pickle) is None:
                        with open(sys.argv[2], "a") as log:
                            log.write(f"{key}\\n")
                        time.sleep(0.001)
                        keep(storage, str(key), key, pickle)
            assert recall(storage, str(key), pickle).value == key
    """
    log = tmp_path / "log"
    processes = [start(script, storage.place, log, number) for number in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
    assert [process.wait(50) for process in processes] == [0] * 8
    assert sorted(map(int, log.read_text().split())) == list(range(200))
    assert list((tmp_path / "results" / "locks").iterdir()) == []


@pytest.mark.slow
def test_who_waits_takes_over_from_who_is_killed(storage: Storage, start: Any) -> None:
    script = """
        storage.lock("another")
        lock = storage.lock("key")
        assert lock.try_acquire()
        print("taken", flush=True)
        sys.stdin.read()
    """
    process = start(script, storage.place)
    assert process.stdout.readline() == "taken\n"
    lock = storage.lock("key")
    assert not lock.acquire(timeout=0.05)
    process.kill()
    assert lock.acquire(timeout=20)
    lock.release()


@pytest.mark.slow
def test_a_forked_child_does_not_keep_its_parents_locks(storage: Storage, start: Any) -> None:
    script = """
        lock = storage.lock("key")
        assert lock.try_acquire()
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            assert not storage.lock("key").try_acquire()
            lock.release()
            sys.stdin.read()
            os._exit(0)
        sys.stdin.read()
    """
    process = start(script, storage.place)
    child = int(process.stdout.readline())
    try:
        lock = storage.lock("key")
        assert not lock.acquire(timeout=0.05)
        process.kill()
        assert lock.acquire(timeout=20)
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_records(
    storage: Storage, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """At 20 random moments; what is found is what was written, once before or now."""
    script = """
        print("ready", flush=True)
        size = 3_000_000
        for turn in range(10**9):
            for key in range(3):
                keep(storage, str(key), (key, turn, bytes([turn % 251]) * size), pickle)
    """
    luck = random.Random(7)
    found = 0
    for _ in range(20):
        process = start(script, storage.place)
        assert process.stdout.readline() == "ready\n"
        time.sleep(luck.random() * 0.05)
        process.kill()
        process.wait()
        with caplog.at_level(logging.WARNING):
            for key in range(3):
                kept = recall(storage, str(key), PICKLE)
                if kept is not None:
                    was, turn, data = kept.value
                    assert (was, data) == (key, bytes([turn % 251]) * 3_000_000)
                    found += 1
            assert len(storage.list()) <= 3
        assert caplog.messages == []
    assert found
    keep(storage, "0", "afterwards", PICKLE)


@pytest.mark.slow
def test_a_full_disk_in_the_middle(storage: Storage, start: Any) -> None:
    """A file system that takes no more than so many bytes of a file: the writer is told, and what was there is whole."""
    script = """
        import resource, signal
        from shoal.exceptions import ResultStorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        keep(storage, "key", "before", pickle)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            keep(storage, "key", bytes(1_000_000), pickle)
        except ResultStorageError as error:
            print("told", "File too large" in str(error))
        print(recall(storage, "key", pickle).value, os.listdir(f"{storage.place}/tmp"))
    """
    out, _ = start(script, storage.place).communicate(timeout=50)
    assert out == "told True\nbefore []\n"


@pytest.mark.slow
def test_many_write_while_others_list_and_prune(storage: Storage, start: Any) -> None:
    writing = """
        for number in range(300):
            keep(storage, f"{sys.argv[2]}-{number % 50}", number, pickle)
    """
    listing = """
        for number in range(15):
            storage.list()
            storage.prune(max_bytes=20_000)
    """
    processes = [start(writing, storage.place, number) for number in range(3)]
    processes += [start(listing, storage.place) for _ in range(2)]
    assert [process.wait(50) for process in processes] == [0] * 5
    storage.prune(max_bytes=20_000)
    assert sum(entry.size for entry in storage.list()) <= 20_000


SCRIPT = """
import os
from dataclasses import dataclass
from enum import Enum

import numpy
from shoal import flow, task
from shoal.results.kept import keep, recall
from shoal.results.serializers import serializer_of
from shoal.results.storage import open_storage
from shoal.task_runners import ProcessPoolTaskRunner

storage, pickle = open_storage(os.environ["WHERE"]), serializer_of("pickle")


class Kind(Enum):
    BOOK = 1


@dataclass
class Item:
    kind: Kind


@dataclass
class Order(Item):
    data: object


def is_as_it_was(key):
    kept = recall(storage, key, pickle)
    if kept is None:
        return None
    order = kept.value
    order.data[0] += 1
    return isinstance(order, Order) and order.kind is Kind.BOOK and order.data[0] == 1


@task(persist_result=True, result_storage=storage)
def work():
    found = is_as_it_was("worker")
    keep(storage, "worker", Order(Kind.BOOK, numpy.zeros(10_000)), pickle)
    return found


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def main():
    print(is_as_it_was("driver"), work.submit().result(), is_as_it_was("worker"))
    keep(storage, "driver", Order(Kind.BOOK, numpy.zeros(10_000)), pickle)


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_values_of_classes_that_a_script_defines(storage: Storage, tmp_path: Path) -> None:
    """They are of the script's classes in a later process, on a worker, and where the script is imported."""
    script = tmp_path / "orders.py"
    script.write_text(SCRIPT)
    run, imported = [str(script)], ["-m", "shoal", "run", f"{script}:main"]
    for tokens, printed in (
        (run, "None None True"),
        (run, "True True True"),
        (imported, "True True True"),
        (run, "True True True"),
    ):
        done = subprocess.run(
            [sys.executable, *tokens],
            env={**os.environ, "WHERE": storage.place},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert printed in done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_a_class_that_this_process_has_not(storage: Storage, start: Any) -> None:
    script = """
        class Order:
            def __init__(self, x):
                self.x = x
            def doubled(self):
                return 2 * self.x
        keep(storage, "key", Order(4), pickle)
    """
    assert start(script, storage.place).wait(50) == 0
    kept = recall(storage, "key", PICKLE)
    assert kept is not None
    assert type(kept.value).__name__ == "Order"
    assert kept.value.doubled() == 8
