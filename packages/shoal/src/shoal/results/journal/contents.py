"""What the frames of a journal hold. Pure.

    HEADER      JSON   which flow, which run, which versions; the first frame
    PARAMETERS  pickle the flow's parameters, by cloudpickle
    RUNNER      pickle the runner that it began on
    BEGUN       JSON   a process begins, or goes on: when
    TASK        JSON   a task that the frames behind it know by its index
    COUNTS      JSON   how many runs of each task this process has submitted so far
    RUNS               runs of one task that have completed: their keys, and their values
    ENDED       JSON   how the flow run ended

The body of RUNS is the task's index (4), how many (4), a key of 16 bytes each, and a marshalled pair: the values, and of which kind each is;
`None` where all are plain. Plain are numbers, strings and the like, the rest is pickled, or a name where large values are kept.
So no class is loaded, and no code runs, before a value is asked for.

May import `frames`.
"""

from __future__ import annotations

import json
import marshal
import struct
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BEGUN",
    "COUNTS",
    "ENDED",
    "HEADER",
    "KEY_BYTES",
    "PARAMETERS",
    "PICKLED",
    "PLAIN",
    "PLAIN_TYPES",
    "RUNNER",
    "RUNS",
    "STORED",
    "TASK",
    "Header",
    "KnownTask",
    "Runs",
    "from_json",
    "pack_runs",
    "split",
    "to_json",
    "unpack_runs",
    "unpack_values",
]

HEADER, PARAMETERS, BEGUN, TASK, COUNTS, RUNS, ENDED, RUNNER = range(1, 9)

#: Kinds of values.
PLAIN, PICKLED, STORED = range(3)

#: Exact types of values that are written as they are: they are immutable, and `marshal` gives back the same.
PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes})

KEY_BYTES = 16

#: The version of marshal's format, which all versions of Python read.
_MARSHAL = 4
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Which run it is the journal of.

    Attributes:
        run: the flow run's UUID.
        name: its name.
        flow: the flow's name.
        module, qualname: of its function.
        path: of the file that its function is in; empty if there is none.
        created: when, in seconds since the epoch.
        shoal, python: the versions that it was begun with.
    """

    run: str
    name: str
    flow: str
    module: str
    qualname: str
    path: str
    created: float
    shoal: str
    python: str

    @property
    def call(self) -> str:
        """How a program goes on with the run."""
        return f"{self.qualname.rpartition('<locals>.')[2]}.resume({self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """A task of which runs are in a journal, as it was then.

    Attributes:
        index: by which RUNS and COUNTS know it.
        name: its name.
        module, qualname: of its function.
        source: the digest of its code, in hexadecimal, and of the flow's parameters if it may read these; empty if it has none.
        takes: indices of tasks whose results it is given.
        kept: the source by which its runs are known, where that is what it was before and was to be kept; else empty.
        parts: the beginnings of the digests of what its code consists of, in hexadecimal, by name.
    """

    index: int
    name: str
    module: str
    qualname: str
    source: str
    takes: list[int]
    kept: str = ""
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def known_by(self) -> str:
        """The source by which its runs are known."""
        return self.kept or self.source


class Runs(NamedTuple):
    """What a RUNS frame says, without its values.

    Attributes:
        task: the task's index.
        keys: `KEY_BYTES` for each run.
        values: what `unpack_values` reads.
    """

    task: int
    keys: memoryview
    values: memoryview

    def __len__(self) -> int:
        return len(self.keys) // KEY_BYTES


def to_json(what: Any) -> bytes:
    """A dataclass or a dictionary as the body of a frame."""
    return json.dumps(
        what if isinstance(what, dict) else asdict(what), separators=(",", ":")
    ).encode()


def from_json(body: memoryview) -> dict[str, Any]:
    """What `to_json` made.

    Raises:
        ValueError: it is none.
    """
    found = json.loads(bytes(body))
    if not isinstance(found, dict):
        raise ValueError("an object is needed")  # noqa: TRY004  # of what was read
    return found


def split(keys: bytes) -> list[bytes]:
    """Each of several keys."""
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


def pack_runs(task: int, keys: bytes, values: Sequence[Any], kinds: bytes | None) -> bytes:
    """The body of a RUNS frame.

    Args:
        task: the task's index.
        keys: `KEY_BYTES` for each run.
        values: for each run what `kinds` says: a plain value, the bytes of a pickle, or the name under which it is stored.
        kinds: for each run; `None` where all are plain.
    """
    head = _HEAD.pack(task, len(keys) // KEY_BYTES)
    return b"".join((head, keys, marshal.dumps((list(values), kinds), _MARSHAL)))


def unpack_runs(body: memoryview) -> Runs:
    """What a RUNS frame says.

    Raises:
        ValueError: it is too short.
    """
    if len(body) < _HEAD.size:
        raise ValueError("it is too short")
    task, count = _HEAD.unpack_from(body)
    end = _HEAD.size + KEY_BYTES * count
    if len(body) < end:
        raise ValueError("it is too short")
    return Runs(task, body[_HEAD.size : end], body[end:])


def unpack_values(values: memoryview) -> tuple[list[Any], bytes | None]:
    """The values of a RUNS frame, and their kinds.

    Raises:
        ValueError, EOFError, TypeError: they cannot be read.
    """
    found, kinds = marshal.loads(values)
    return found, kinds
