"""What is kept, and what a list of it shows.

May import the standard library only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Damage", "Entry", "Pruned", "Record", "Ref"]

#: Seconds by which the clocks of machines that share a storage may differ.
CLOCKS_DIFFER = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A value that is kept, and what is known of it.

    Attributes:
        key: under which it is found: any text.
        value: as its serializer wrote it.
        serializer: that one's name, say `pickle`.
        created: when it was made, in seconds since the epoch.
        expires: from when on it counts no more; `None`: always.
        task_name: the task whose result it is.
        run_name: the run that made it.
        flow_run_name: and the flow run around that; empty if there was none.
        parts: what the key was made of, for `shoal cache explain`: anything that is JSON; digests, of bytes, come back as text.
    """

    key: str
    value: bytes | memoryview = field(default=b"", repr=False)
    serializer: str = "pickle"
    created: float = field(default_factory=time.time)
    expires: float | None = None
    task_name: str = ""
    run_name: str = ""
    flow_run_name: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def is_current(self, now: float) -> bool:
        """Whether it has not expired.

        What was made in the future, by a clock that was wrong then or is now, has an age that nobody knows: where it
        is to expire at all, it has.

        Args:
            now: the time, in seconds since the epoch.
        """
        return self.expires is None or self.created - CLOCKS_DIFFER < now < self.expires


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a record was written: what travels in the place of a large value.

    Attributes:
        place: of the storage: `open_storage` opens it, in any process that reaches it.
        key: of the record.
        size: of its value, in bytes.
    """

    place: str
    key: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record in a list.

    Attributes:
        record: without its value and its parts.
        size: what it takes in storage, in bytes.
        used: when it was last read or written, in seconds since the epoch, to within an hour.
        name: of its file or object.
    """

    record: Record
    size: int
    used: float
    name: str


@dataclass(frozen=True, slots=True)
class Damage:
    """What has the name of a record, and does not verify.

    Attributes:
        name: of its file or object.
        size: in bytes.
        problem: how that was found.
    """

    name: str
    size: int
    problem: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed.

    Attributes:
        count: how many records.
        size: how much they took, in bytes.
    """

    count: int = 0
    size: int = 0
