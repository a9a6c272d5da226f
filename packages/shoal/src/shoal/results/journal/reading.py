"""Reads a journal: what its frames say together, and the values that stand in it.

A value is unpickled when it is asked for, and not before: who lists journals runs no code of theirs.

May import `contents`, `frames`.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final

from shoal.exceptions import JournalError
from shoal.results.journal import contents
from shoal.results.journal.contents import PARAMETERS, Header, KnownTask, Runs
from shoal.results.journal.frames import MARK, Damage, frames, sign_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MISSING", "Contents", "Facts", "read_contents", "read_facts"]


class _Missing:
    def __repr__(self) -> str:
        return "<missing>"


#: In the place of a value that is not there.
MISSING: Final = _Missing()

#: How many frames' values are kept, once they were read: runs are asked for about in the order in which they ended.
_FRAMES_KEPT = 16


class Facts:
    """What a journal says, but for the runs that completed.

    Attributes:
        header: which run it is of.
        parameters: the flow's, pickled; empty if they could not be.
        runner: that it began on, likewise.
        tasks: by index, in the order in which they were spoken of last.
        begun: what each process that was at it said when it began.
        submitted: by the task's index, the most runs that one process submitted.
        completed: by the task's index, how many runs stand in it.
        ended: what was said at its end; `None` if nothing was since a process began.
        sign: of the file.
        end: how much of the file counts, in bytes.
        damaged: the size of each part of it that was skipped, in bytes.
        are_parameters_known: whether none of these can have been the flow's parameters.
    """

    def __init__(self, header: Header, sign: bytes) -> None:
        self.header = header
        self.sign = sign
        self.damaged: list[int] = []
        self.are_parameters_known = True
        self.parameters = b""
        self.runner = b""
        self.tasks: dict[int, KnownTask] = {}
        self.begun: list[dict[str, Any]] = []
        self.submitted: Counter[int] = Counter()
        self.completed: Counter[int] = Counter()
        self.ended: dict[str, Any] | None = None
        self.end = 0

    def progress(self) -> dict[str, tuple[int, int]]:
        """How many runs have completed of how many, by the task's name; of a task that was changed, as it is now."""
        return {
            task.name: (
                self.completed[index],
                max(self.submitted[index], self.completed[index]),
            )
            for index, task in self.tasks.items()
        }


class Contents:
    """A journal that is gone on with: what it says, and where in it each run's value stands.

    Attributes:
        facts: all but that.
        runs: the frames that they stand in.
    """

    def __init__(self, facts: Facts, runs: list[Runs], places: dict[bytes, int]) -> None:
        self.facts = facts
        self.runs = runs
        self._places = places
        self._values: OrderedDict[int, tuple[list[Any], bytes | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def find(self, key: bytes) -> tuple[int, Any] | None:
        """How a run's value stands here: of which kind, and the value, its pickle, or its name; `None` if it does not."""
        place = self._places.get(key)
        if place is None:
            return None
        number, index = place >> 32, place & 0xFFFFFFFF
        values, kinds = self._values_of(number)
        return contents.PLAIN if kinds is None else kinds[index], values[index]

    def _values_of(self, number: int) -> tuple[list[Any], bytes | None]:
        found = self._values.get(number)
        if found is None:
            found = self._values[number] = contents.unpack_values(self.runs[number].values)
            while len(self._values) > _FRAMES_KEPT:
                self._values.popitem(last=False)
        return found

    def forget(self, key: bytes) -> None:
        """What stands here under a key cannot be used."""
        self._places.pop(key, None)


def read_facts(path: Path) -> Facts:
    """What a journal says, without its runs.

    Raises:
        JournalError: it is no journal, or one of another version.
        OSError: it cannot be read.
    """
    return _read(path, None, None)


def read_contents(path: Path) -> Contents:
    """A journal to go on with.

    Raises:
        JournalError: it is no journal, or one of another version.
        OSError: it cannot be read.
    """
    runs: list[Runs] = []
    places: dict[bytes, int] = {}
    return Contents(_read(path, runs, places), runs, places)


def _read(path: Path, runs: list[Runs] | None, places: dict[bytes, int] | None) -> Facts:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise JournalError(path=str(path), problem="it is empty")
        data: bytes | mmap.mmap = (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if os.name == "posix"
            else file.read()  # Windows cuts nothing off a file that is mapped
        )
    facts: Facts | None = None
    unchecked = contents.RUNS if runs is None else None
    for found in frames(data, unchecked):
        if isinstance(found, Damage):
            if facts is None:
                raise JournalError(path=str(path), problem="it is damaged at its beginning")
            facts.damaged.append(found.size)
            facts.are_parameters_known &= found.kind not in (None, PARAMETERS)
            continue
        kind, body, end = found
        try:
            if facts is None:
                facts = Facts(Header(**contents.from_json(body)), sign_of(data))
            elif kind == contents.RUNS:
                some = contents.unpack_runs(body)
                if runs is not None and places is not None:
                    _note(some, runs, places)
                if some.task in facts.tasks:  # else what was said of it is damaged
                    facts.completed[some.task] += len(some)
            else:
                _take(facts, kind, body)
        except (ValueError, TypeError) as error:
            raise JournalError(
                path=str(path), problem=f"it is of another version of Shoal ({error})"
            ) from error
        facts.end = end
    if facts is None:
        mark = data[: len(MARK)]
        raise JournalError(
            path=str(path),
            problem="it is cut off at its beginning"
            if mark == MARK[: len(mark)]
            else "it is no journal, or one of another version of Shoal",
        )
    return facts


def _note(some: Runs, runs: list[Runs], places: dict[bytes, int]) -> None:
    place = len(runs) << 32
    runs.append(some)
    each = contents.split(bytes(some.keys))
    places.update(zip(each, range(place, place + len(each)), strict=True))


def _take(facts: Facts, kind: int, body: memoryview) -> None:
    if kind == contents.PARAMETERS:
        facts.parameters = bytes(body)
        facts.are_parameters_known = True
        return
    if kind == contents.RUNNER:
        facts.runner = bytes(body)
        return
    said = contents.from_json(body)
    if kind == contents.BEGUN:
        facts.begun.append(said)
        facts.ended = None
    elif kind == contents.TASK:
        task = KnownTask(**said)
        facts.tasks.pop(task.index, None)  # it was spoken of last
        facts.tasks[task.index] = task
    elif kind == contents.COUNTS:
        for index, count in said.items():
            if int(index) in facts.tasks:
                facts.submitted[int(index)] = max(facts.submitted[int(index)], count)
    elif kind == contents.ENDED:
        facts.ended = said
