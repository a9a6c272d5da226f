"""Values that an execution system keeps, and that are to stand in the journal: they are fetched while that is there."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from shoal.calls import Handle
from shoal.exceptions import ResultLost
from shoal.results.journal import contents
from shoal.results.journal.file import JournalFile
from shoal.results.journal.frames import frame
from shoal.results.journal.reading import read_contents
from shoal.results.journal.writer import LARGE, Writer, pickled

from tests.results.test_journal import HEADER


class Told:
    def counts(self) -> dict[int, int]:
        return {}

    def name_of(self, index: int) -> str:
        return "inc"


class System:
    """What keeps values, until it is left; each is fetched once `goes_on` is set."""

    def __init__(self) -> None:
        self.left = False
        self.fetched = 0
        self.goes_on = threading.Event()


class Kept(Handle):
    def __init__(self, system: System, value: Any) -> None:
        self._system = system
        self._value = value

    def value(self, run_name: str | None = None) -> Any:
        self._system.goes_on.wait()
        if self._system.left:
            raise ResultLost(run_name=run_name, holder="the system")
        self._system.fetched += 1
        return self._value


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def begun(folder: Path) -> Writer:
    file = JournalFile(folder, "run")
    file.open()
    file.write(frame(contents.HEADER, contents.to_json(HEADER)))
    return Writer(file, "run", Told())


@pytest.mark.parametrize("value", [5, [5], bytes(LARGE)], ids=["plain", "pickled", "large"])
def test_who_stops_the_system_waits_for_what_it_keeps(tmp_path: Path, value: Any) -> None:
    writer, system = begun(tmp_path), System()
    for number in range(5):
        writer.run(0, key(number), pickled(Kept(system, value)))
    leaving = threading.Thread(target=writer.wait)
    leaving.start()
    leaving.join(0.1)
    assert leaving.is_alive()
    system.goes_on.set()
    leaving.join()
    assert system.fetched == 5
    system.left = True
    writer.close()
    found = read_contents(tmp_path / "journal")
    assert [number for number in range(6) if key(number) in found] == [0, 1, 2, 3, 4]


def test_what_is_gone_is_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer, system = begun(tmp_path), System()
    system.left = True
    system.goes_on.set()
    for number in range(2):
        writer.run(0, key(number), pickled(Kept(system, 5)))
    writer.wait()
    writer.close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("Not every run of 'inc' is remembered: a value is gone (ResultLost: ")


def test_nobody_waits_for_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, system = begun(tmp_path), System()

    def full(key: bytes, data: bytes) -> str:
        raise OSError("full")

    monkeypatch.setattr(writer, "_store", full)
    for number in range(5):
        writer.run(0, key(number), pickled(Kept(system, bytes(LARGE))))
    leaving = threading.Thread(target=writer.wait)
    leaving.start()
    system.goes_on.set()
    leaving.join()
    assert writer.broken
    assert system.fetched == 1
    writer.wait()
    writer.close()


def test_nobody_waits_for_a_writer_that_is_closed(tmp_path: Path) -> None:
    writer, system = begun(tmp_path), System()
    system.goes_on.set()
    writer.run(0, key(1), pickled(Kept(system, 5)))
    writer.close()
    writer.wait()
    assert key(1) in read_contents(tmp_path / "journal")


LATE = """
import concurrent.futures.thread as executors, sys, threading, time
from pathlib import Path
from tests.results.test_journal_elsewhere import LARGE, begun, key

folder = Path(sys.argv[1])
writer = begun(folder)


def goes_on():
    while not executors._shutdown:  # as long as the main thread has not ended
        time.sleep(0.001)
    writer.run(0, key(1), bytes(LARGE))
    writer.run(0, key(2), 2)
    writer.close()


threading.Thread(target=goes_on).start()
"""


def test_large_values_are_written_when_the_main_thread_has_ended(tmp_path: Path) -> None:
    """A flow run in another thread goes on then, and executors take no more."""
    subprocess.run([sys.executable, "-c", LATE, str(tmp_path)], check=True, timeout=60)
    found = read_contents(tmp_path / "journal")
    assert key(1) in found
    assert key(2) in found
