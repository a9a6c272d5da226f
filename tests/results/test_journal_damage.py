"""Journals that are not what was written: what is intact counts, never anything else, and what was lost is said."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal import flow, task
from shoal.exceptions import JournalError
from shoal.results.journal import contents, find
from shoal.results.journal.contents import Header, KnownTask
from shoal.results.journal.file import JournalFile
from shoal.results.journal.frames import MARK, Damage, frame, frames
from shoal.results.journal.reading import MISSING, read_contents
from shoal.results.journal.values import Values
from shoal.results.storage import open_storage

Bodies = list[tuple[int, bytes]]

bodies = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=20)), min_size=1, max_size=6)
plain = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9)

SIGN = b"random.."
START = MARK + SIGN
#: Of a frame, what stands before its body.
HEAD_BYTES = len(SIGN) + len(frame(1, b""))


def written(some: Bodies) -> tuple[bytes, list[int]]:
    """A file of frames, and where each begins; the last of these is its end."""
    data, starts = START, [len(START)]
    for kind, body in some:
        data += SIGN + frame(kind, body)
        starts.append(len(data))
    return data, starts


def read(data: bytes) -> tuple[Bodies, list[Damage]]:
    found = list(frames(data))
    return (
        [(one.kind, bytes(one.body)) for one in found if not isinstance(one, Damage)],
        [one for one in found if isinstance(one, Damage)],
    )


# ---------------------------------------------------------------------- frames


@settings(max_examples=25)
@given(bodies)
def test_frames_come_back_whatever_is_cut_off(some: Bodies) -> None:
    data, starts = written(some)
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in starts) - 1
        assert read(data[:cut]) == (some[: max(whole, 0)], [])


@settings(max_examples=100)
@given(bodies, st.data())
def test_a_byte_that_changed_costs_its_frame_and_no_other(
    some: Bodies, data: st.DataObject
) -> None:
    whole, starts = written(some)
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[place] ^= data.draw(st.integers(1, 255))
    if place < len(MARK):
        assert read(bytes(broken)) == ([], [])
        return
    if place < len(START):  # no frame is known by its sign any more
        assert read(bytes(broken)) == ([], [Damage(None, len(whole) - len(START))])
        return
    hit = sum(start <= place for start in starts) - 1
    is_body = place >= starts[hit] + HEAD_BYTES
    damage = Damage(some[hit][0] if is_body else None, starts[hit + 1] - starts[hit])
    assert read(bytes(broken)) == (some[:hit] + some[hit + 1 :], [damage])


@settings(max_examples=100)
@given(bodies, st.data())
def test_a_part_that_was_overwritten_or_taken_out_costs_what_it_touches(
    some: Bodies, data: st.DataObject
) -> None:
    whole, starts = written(some)
    begin = data.draw(st.integers(len(START), len(whole) - 1))
    end = data.draw(st.integers(begin + 1, len(whole)))
    instead = data.draw(st.sampled_from([b"", bytes(end - begin), SIGN, whole[: end - begin]]))
    broken = whole[:begin] + instead + whole[end:]
    found, damages = read(broken)
    before = [one for one, stop in zip(some, starts[1:], strict=True) if stop <= begin]
    behind = [one for one, start in zip(some, starts, strict=False) if start >= end]
    assert found[: len(before)] == before
    if behind:
        assert found[-len(behind) :] == behind
    if len(found) < len(some) and behind and broken != whole:
        assert (
            damages or starts[len(before)] == begin
        )  # frames that were taken out whole leave no trace
    # What is found between was written, too.
    assert all(one in some for one in found)


def test_a_journal_within_a_value_is_no_part_of_the_one_around_it() -> None:
    other = MARK + b"another." + b"another." + frame(2, b"a value of another run")
    data, starts = written([(1, b"first"), (2, other), (1, b"last")])
    broken = bytearray(data)
    broken[starts[1]] ^= 1
    assert read(bytes(broken)) == (
        [(1, b"first"), (1, b"last")],
        [Damage(None, starts[2] - starts[1])],
    )


# ---------------------------------------------------------------------- values


def key(number: int) -> bytes:
    return number.to_bytes(16)


def journal_of(folder: Path, values: list[Any]) -> list[int]:
    """Writes a journal of runs that gave these values, and gives where each begins; the last of these is its end."""
    file = JournalFile(folder, "run")
    file.open()
    text = dict.fromkeys(
        ("run", "name", "flow", "module", "qualname", "path", "shoal", "python"), "x"
    )
    file.write(
        frame(contents.HEADER, contents.to_json(Header(**text, created=1.0))),
        frame(contents.BEGUN, b'{"time":1}'),
        frame(contents.PARAMETERS, b"some"),
        frame(
            contents.TASK,
            contents.to_json(
                KnownTask(index=0, name="t", module="m", qualname="t", source="", takes=[])
            ),
        ),
    )
    starts = [file.size]
    for number, value in enumerate(values):
        file.write(frame(contents.RUNS, contents.pack_runs(0, key(number), [value], None)))
        starts.append(file.size)
    file.close()
    return starts


@settings(max_examples=100, deadline=None)
@given(st.lists(plain, max_size=5), st.data())
def test_never_another_value_whatever_byte_changed_or_is_cut_off(
    values: list[Any], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        starts = journal_of(Path(folder), values)
        path = Path(folder) / "journal"
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        is_cut = data.draw(st.booleans())
        other = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
        path.write_bytes(whole[:place] + (b"" if is_cut else other + whole[place + 1 :]))
        try:
            found = read_contents(path)
        except JournalError:
            assert place < starts[0]  # without what stands first no value can be used
            return
        known = Values(found, open_storage(Path(folder) / "values"), {}, "run")
        for number, value in enumerate(values):
            begin, end = starts[number : number + 2]
            is_hit = place < end if is_cut else begin <= place < end
            assert repr(known.get(key(number))) == repr(MISSING if is_hit else value)
        assert bool(found.facts.damaged) is not is_cut
        if not found.facts.are_parameters_known:
            assert place < starts[0] or not is_cut
        # It goes on behind what is intact, and what follows can be read.
        file = JournalFile(Path(folder), "run")
        file.go_on(found.facts.sign, found.facts.end)
        file.write(frame(contents.RUNS, contents.pack_runs(0, key(99), ["new"], None)))
        file.close()
        again = Values(read_contents(path), open_storage(Path(folder) / "values"), {}, "run")
        assert again.get(key(99)) == "new"


# ---------------------------------------------------------------------- flow runs


def broken_at(name: str, kind: int, in_head: bool = False) -> Path:
    """Changes a byte of the last frame of a kind in a run's journal."""
    path = find(name).folder / "journal"
    data = bytearray(path.read_bytes())
    last = [one for one in frames(bytes(data)) if not isinstance(one, Damage) and one.kind == kind][
        -1
    ]
    data[last.end - 1 - (len(last.body) if in_head else 0)] ^= 1
    path.write_bytes(bytes(data))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))


def test_what_was_lost_is_said_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    executed: list[int] = []

    @task
    def first(x: int) -> int:
        executed.append(x)
        return x + 1

    @task
    def second(x: int) -> int:
        executed.append(x)
        return x * 10

    @flow(journal=True, flow_run_name="hurt")
    def main(x: int) -> int:
        return second(first(x))

    assert main(1) == 20
    assert executed == [1, 2]
    whole = find("hurt").folder / "journal"
    size = whole.stat().st_size
    path = broken_at("hurt", contents.RUNS)  # both completed within one frame, or each has its own
    caplog.clear()
    assert main.resume("hurt") == 20
    assert executed[2:] in ([2], [1, 2])
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    told, _, rest = warning.partition(" is damaged: ")
    assert told == f"The journal {path}"
    assert 0 < int(rest.split()[0]) < size
    assert rest.endswith("in 1 part of it. Runs that stood there run again")
    assert main.resume("hurt") == 20
    assert len(executed) <= 4  # what ran again is remembered


@pytest.mark.parametrize(("kind", "in_head"), [(contents.PARAMETERS, False), (contents.RUNS, True)])
def test_parameters_that_may_be_lost_are_given_anew(kind: int, in_head: bool) -> None:
    @task
    def inc(x: int) -> int:
        return x + 1

    @flow(journal=True, flow_run_name="hurt")
    def main(x: int = 1) -> int:
        return inc(x)

    @flow(journal=True, flow_run_name="bare")
    def bare() -> int:
        return inc(1)

    assert main(5) == 6
    broken_at("hurt", kind, in_head)
    with pytest.raises(JournalError, match="may have stood: give them anew"):
        main.resume("hurt")
    assert main.resume("hurt", x=7) == 8
    assert main.resume("hurt") == 8
    bare()
    broken_at("bare", kind, in_head)
    assert bare.resume("bare") == 2


def test_a_beginning_that_is_damaged_is_said() -> None:
    @flow(journal=True, flow_run_name="hurt")
    def main() -> None: ...

    main()
    broken_at("hurt", contents.HEADER)
    (folder,) = {path.parent.name for path in Path(os.environ["SHOAL_HOME"]).rglob("journal")}
    with pytest.raises(JournalError, match="it is damaged at its beginning"):
        main.resume(folder)
