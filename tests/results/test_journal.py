"""The journal as a file: what is written can be read, whatever is cut off; and what is wrong with one is said."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal import flow
from shoal.exceptions import JournalBusy, JournalError
from shoal.results.journal import contents, find, journals, prune, remove_all
from shoal.results.journal.contents import Header, KnownTask
from shoal.results.journal.file import JournalFile
from shoal.results.journal.frames import MARK, frame
from shoal.results.journal.journal import Journal
from shoal.results.journal.places import Place, key_of_columns, key_of_inputs
from shoal.results.journal.reading import MISSING, read_contents, read_facts
from shoal.results.journal.values import Values
from shoal.results.journal.writer import LARGE, Writer, pickled
from shoal.results.storage import open_storage

plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)

HEADER = Header(
    run="0000",
    name="polite-magpie",
    flow="main",
    module="etl",
    qualname="main",
    path="",
    created=1.0,
    shoal="0",
    python="3",
)
SIGN = b"random.."
START = MARK + SIGN
TASK = KnownTask(index=0, name="inc", module="etl", qualname="inc", source="ab", takes=[])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# ---------------------------------------------------------------------- contents


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.binary(min_size=16, max_size=16), plain)))
def test_runs_come_back(task: int, runs: list[tuple[bytes, Any]]) -> None:
    keys = b"".join(key for key, _ in runs)
    body = contents.pack_runs(task, keys, [value for _, value in runs], None)
    some = contents.unpack_runs(memoryview(body))
    assert (some.task, bytes(some.keys), len(some)) == (task, keys, len(runs))
    values, kinds = contents.unpack_values(some.values)
    assert kinds is None
    assert values == [value for _, value in runs]
    assert list(map(type, values)) == [type(value) for _, value in runs]


# ---------------------------------------------------------------------- keys


@settings(max_examples=25)
@given(st.lists(st.tuples(plain, plain), min_size=1, max_size=5))
def test_a_map_has_the_keys_of_single_runs(rows: list[tuple[Any, Any]]) -> None:
    columns: Any = [([first for first, _ in rows], None), (None, 3)]
    keywords: Any = {"y": ([second for _, second in rows], None)}
    given_ = list(key_of_columns(("x", "z"), columns, keywords, len(rows)))
    singles = [
        key_of_inputs(("x", "z"), (first, 3), {"y": second}, None, lambda *_: b"")
        for first, second in rows
    ]
    assert given_ == singles
    one_by_one, together = Place(b"place"), Place(b"place")
    keys = [one_by_one.key_for(b"task", each) for each in singles]
    assert together.keys_for(b"task", given_) == b"".join(keys)


def test_equal_runs_are_told_apart_by_order() -> None:
    place = Place(b"")
    first = [place.key_for(b"task", b"i1;") for _ in range(3)]
    assert len(set(first)) == 3
    again = Place(b"")
    assert again.keys_for(b"task", [b"i1;"] * 3) == b"".join(first)
    assert place.key_for(b"task", b"i2;") not in first
    assert Place(b"other").key_for(b"task", b"i1;") != first[0]


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 300), max_size=60), max_size=12))
def test_runs_of_several_maps_are_told_apart_as_single_ones(maps: list[list[int]]) -> None:
    maps = [list(range(200, 300)), *maps]  # a large one, and small ones after it
    one_by_one, together = Place(b"place"), Place(b"place")
    for some in maps:
        given_ = [b"i%x;" % x for x in some]
        keys = [one_by_one.key_for(b"task", each) for each in given_]
        assert together.keys_for(b"task", given_) == b"".join(keys)


# ---------------------------------------------------------------------- written and read


class Told:
    """What a writer asks."""

    def counts(self) -> dict[int, int]:
        return {0: 7}

    def name_of(self, index: int) -> str:
        return "inc"


def begun(home: Path, run: str = "run", **header: Any) -> tuple[Path, JournalFile]:
    folder = home / "journals" / run
    folder.mkdir(parents=True)
    file = JournalFile(folder, run)
    file.open()
    facts = {field: getattr(HEADER, field) for field in Header.__slots__} | {"run": run, **header}
    file.write(frame(contents.HEADER, contents.to_json(Header(**facts))))
    file.write(frame(contents.TASK, contents.to_json(TASK)))
    return folder, file


def key(number: int) -> bytes:
    return number.to_bytes(16)


def test_values_of_all_kinds(home: Path) -> None:
    folder, file = begun(home)
    writer = Writer(file, "run", Told())
    values = {1: 5, 2: [1, 2], 3: bytes(LARGE), 4: "é" * 10, 5: {"x": bytes(LARGE + 1)}}
    for number, value in values.items():
        writer.run(0, key(number), pickled(value))
    writer.runs(0, key(6) + key(7), [None, 1.5])
    writer.close()
    found = read_contents(folder / "journal")
    known = Values(found, open_storage(folder / "values"), {}, "run")
    assert {number: known.get(key(number)) for number in values} == values
    assert [known.get(key(6)), known.get(key(7)), known.get(key(8))] == [None, 1.5, MISSING]
    assert found.facts.completed[0] == 7
    assert found.facts.submitted[0] == 7
    assert len(found) == 7


def test_what_a_killed_process_left_is_cut_off_and_the_rest_goes_on(home: Path) -> None:
    folder, file = begun(home)
    file.write(frame(contents.RUNS, contents.pack_runs(0, key(1), [1], None)))
    whole = file.size
    file.write(frame(contents.RUNS, contents.pack_runs(0, key(2), [2], None)))
    file.close()
    path = folder / "journal"
    os.truncate(path, file.size - 1)
    found = read_contents(path)
    assert found.facts.end == whole
    assert key(1) in found
    assert key(2) not in found
    again = JournalFile(folder, "run")
    again.go_on(found.facts.sign, found.facts.end)
    again.write(frame(contents.RUNS, contents.pack_runs(0, key(3), [3], None)))
    again.close()
    assert {number for number in range(5) if key(number) in read_contents(path)} == {1, 3}


def test_what_is_small_waits_for_nothing_that_takes_its_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = begun(home)
    writer = Writer(file, "run", Told())
    begins, goes_on = threading.Event(), threading.Event()
    store = writer._store

    def slow(key: bytes, data: bytes) -> str:
        begins.set()
        goes_on.wait()
        return store(key, data)

    monkeypatch.setattr(writer, "_store", slow)
    writer.run(0, key(1), bytes(LARGE))
    begins.wait()
    writer.afterwards(goes_on.wait)
    writer.run(0, key(2), 2)
    while key(2) not in read_contents(folder / "journal"):
        time.sleep(0.001)
    assert key(1) not in read_contents(folder / "journal")
    goes_on.set()
    writer.close()
    assert key(1) in read_contents(folder / "journal")


def test_what_is_written_does_not_wait_for_keys(home: Path) -> None:
    folder, file = begun(home)
    journal = Journal({}, None, {}, b"")
    writer = Writer(file, "run", journal)
    with journal._lock:  # as while those of a large map are made
        writer.run(0, key(1), 1)
        while key(1) not in read_contents(folder / "journal"):
            time.sleep(0.001)
    writer.close()


def test_a_class_that_is_gone_and_one_that_moved_from_main(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, file = begun(home)
    body = contents.pack_runs(
        0,
        key(1) + key(2),
        [b"c__main__\nMoved\n.", b"cgone_module\nThing\n."],
        bytes([contents.PICKLED] * 2),
    )
    file.write(frame(contents.RUNS, body))
    file.close()
    found = read_contents(folder / "journal")
    known = Values(found, open_storage(folder / "values"), {"Moved": Told}, "run")
    assert known.get(key(1)) is Told
    assert known.get(key(2)) is MISSING
    assert known.get(key(2)) is MISSING
    assert [r.getMessage() for r in caplog.records] == [
        "Not every run of flow run 'run' can be reused: a value cannot be read any more "
        "(ModuleNotFoundError: No module named 'gone_module'). Such runs run again"
    ]


def test_how_a_run_ended_has_room_on_a_full_disk(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = begun(home)
    writer = Writer(file, "run", Told())
    write = os.write

    def nearly_full(descriptor: int, data: Any) -> int:
        if descriptor == file._file and len(data) > 1000:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", nearly_full)
    writer.run(0, key(1), "x" * 2000)
    writer.ended(contents.to_json({"time": 1.0, "state": "Completed", "type": "COMPLETED"}))
    writer.close()
    assert writer.broken
    ended = read_facts(folder / "journal").ended
    assert ended is not None
    assert ended["state"] == "Completed"


def test_a_full_disk_ends_the_remembering_and_nothing_else(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = begun(home)
    writer = Writer(file, "run", Told())
    size, write = file.size, os.write

    def full(descriptor: int, data: Any) -> int:
        if descriptor == file._file:
            if file.size == size and len(data) > 10:
                return write(descriptor, data[:10])  # some of it has room
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    writer.run(0, key(1), 1)
    while not writer.broken:
        time.sleep(0.001)
    writer.run(0, key(2), 2)
    writer.close()
    assert (folder / "journal").stat().st_size == size
    assert [r.getMessage() for r in caplog.records] == [
        "Flow run 'run' is no longer remembered: its journal cannot be written "
        "(OSError: [Errno 28] No space left on device). The run goes on"
    ]


def test_one_at_a_time(home: Path) -> None:
    folder, file = begun(home)
    with pytest.raises(JournalBusy, match="'run' is under way"):
        JournalFile(folder, "run")
    found = find("polite-magpie")
    assert found.is_busy()
    with pytest.raises(JournalBusy):
        found.remove()
    file.close()
    assert not found.is_busy()
    found.remove()
    assert journals() == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"shoalj99 and so on", "no journal, or one of another version"),
        (MARK[:4], "cut off at its beginning"),
        (START[:-1], "cut off at its beginning"),
        (START + SIGN + frame(contents.HEADER, b"{}"), "another version of Shoal"),
        (START + SIGN + frame(contents.HEADER, b"[1]"), "another version of Shoal"),
    ],
)
def test_what_is_no_journal(home: Path, data: bytes, problem: str) -> None:
    folder = home / "journals" / "strange"
    folder.mkdir(parents=True)
    (folder / "journal").write_bytes(data)
    with pytest.raises(JournalError, match=problem):
        read_facts(folder / "journal")
    (found,) = journals()
    assert found.facts is None
    assert problem in found.problem


def test_names_and_last(home: Path) -> None:
    for number, name in enumerate(["old", "new", "other"]):
        called = "same" if name != "other" else "other"
        begun(home, name, name=called, created=float(-number if name == "other" else number))[
            1
        ].close()
    assert find("same").folder.name == "new"  # the newest of a name
    assert find("last").folder.name == "new"
    assert find("old").folder.name == "old"  # by its UUID
    assert [found.folder.name for found in journals()] == ["new", "old", "other"]


def test_old_ones_are_pruned_by_the_shortest_of_runs(home: Path) -> None:
    @flow(journal=True)
    def main() -> None: ...

    main()
    (first,) = journals()
    os.utime(first.folder / "journal", (1, 1))
    main()
    assert [found.folder for found in journals()] != [first.folder]
    assert not first.folder.exists()


def test_old_ones_are_pruned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    files = {}
    for name, days in (("today", 0), ("yesterday", 1), ("busy", 40), ("ancient", 31)):
        folder, files[name] = begun(home, name)
        os.utime(folder / "journal", (now - days * 86400,) * 2)
        if name != "busy":
            files[name].close()
    try:
        assert prune() == 1
        assert {found.folder.name for found in journals()} == {"today", "yesterday", "busy"}
        size = files["today"].size
        monkeypatch.setenv("SHOAL_JOURNALS_MAX_GB", f"{1.5 * size / 1e9:.12f}")
        assert prune() == 1
        assert {found.folder.name for found in journals()} == {"today", "busy"}
    finally:
        files["busy"].close()


def test_what_is_left_of_a_journal_is_pruned(home: Path) -> None:
    now = time.time()
    for name, hours in (("begins", 0.5), ("died", 2)):
        folder = home / "journals" / name
        (folder / "values").mkdir(parents=True)
        (folder / "values" / "large").write_bytes(b"x")
        os.utime(folder, (now - hours * 3600,) * 2)
    assert journals() == []
    assert prune() == 1
    assert [folder.name for folder in (home / "journals").iterdir()] == ["begins"]
    assert remove_all() == (1, 1)
    assert journals() == []


def test_what_begins_is_removed_by_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(home, "written")[1].close()
    made, locked = home / "journals" / "made", home / "journals" / "locked"
    for folder in (made, locked):
        folder.mkdir()
    (locked / "lock").touch()
    monkeypatch.setenv("SHOAL_JOURNALS_MAX_GB", "1e-9")
    prune()
    assert remove_all()[0] == 0
    assert sorted((home / "journals").iterdir()) == [locked, made]
    assert list(made.iterdir()) == []  # not even for a moment has somebody had its lock


def test_many_begin_while_others_remove_all(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOAL_JOURNALS_MAX_GB", "1e-9")
    is_over = threading.Event()

    @flow(journal=True)
    def main() -> int:
        return 1

    def remove() -> None:
        while not is_over.is_set():
            remove_all()

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(remove) for _ in range(2)]
        try:
            begun_here = [pool.submit(lambda: [main() for _ in range(100)]) for _ in range(2)]
            assert [one.result() for one in begun_here] == [[1] * 100] * 2
        finally:
            is_over.set()
        for other in others:
            other.result()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_several_prune_at_once_and_look(home: Path) -> None:
    for number in range(40):
        folder, file = begun(home, f"old{number}")
        file.close()
        os.utime(folder / "journal", (1, 1))
    _, busy = begun(home, "busy")
    os.utime(busy.path, (1, 1))
    all_of_them = journals()

    def look() -> int:
        return -sum(found.is_busy() for found in all_of_them)

    with ThreadPoolExecutor(6) as pool:
        told = [pool.submit(what) for what in (prune, look, prune, look, prune, prune)]
        assert sum(max(one.result(), 0) for one in told) >= 40  # two may share in one
    for folder in (home / "journals").iterdir():  # where somebody looked at that moment
        os.utime(folder, (1, 1))
    prune()
    assert [folder.name for folder in (home / "journals").iterdir()] == ["busy"]
    busy.close()


def test_what_was_written_meanwhile_is_not_pruned(home: Path) -> None:
    folder, file = begun(home)
    file.close()
    (found,) = journals()
    os.utime(folder / "journal", (found.written + 1,) * 2)
    assert not found.remove(unless_written=True)
    assert found.remove()
    assert not found.remove()
    assert not found.is_busy()
    assert not folder.exists()


def test_a_run_that_writes_is_not_pruned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_JOURNALS_MAX_GB", "1e-9")

    @flow(journal=True, flow_run_name="lives")
    def main() -> int:
        return prune() + remove_all()[0]

    assert main() == 0
    assert find("lives").remove()


def test_it_may_be_closed_while_it_begins_to_write(home: Path) -> None:
    folder, file = begun(home)
    writer = Writer(file, "run", Told())
    clear = writer._something.clear

    def closed_just_before() -> None:
        writer._closing.set()
        writer._something.set()
        clear()

    writer._something.clear = closed_just_before  # type: ignore[method-assign]
    writer.run(0, key(1), 1)
    writer._thread.join(10)
    assert not writer._thread.is_alive()
    writer.close()
    assert key(1) in read_contents(folder / "journal")
