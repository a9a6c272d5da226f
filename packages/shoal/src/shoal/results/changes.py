"""Why a run had to compute what is kept of it: what its key is made of, beside an earlier one of its task.

May import `keys` and `storage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.results.keys.explaining import explain, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.results.storage import Entry, Record, Storage

__all__ = ["Change", "changes_of"]

#: Earlier results of a task that are looked at for the one that has most in common, the latest first.
_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Change:
    """What has changed from one result of a task to another.

    Attributes:
        record: the one that was computed.
        before: the earlier one that has most in common with it; `None` if none is kept.
        sentences: what has changed, a sentence each; none if nothing of the key has.
    """

    record: Record
    before: Record | None
    sentences: Sequence[str]


def changes_of(storage: Storage, run: str) -> list[Change]:
    """Why the results of a run were computed.

    Args:
        storage: where they are kept.
        run: the name of a task run, or of a flow run, for all in it; or a key, or its beginning.

    Returns:
        One for each result, the earliest first; empty if no result of such a run is kept.

    Raises:
        ResultStorageError: the storage cannot be read.
    """
    entries = sorted(storage.list(), key=lambda entry: entry.record.created)
    changes = [
        _change(storage, entry, entries[:place])
        for place, entry in enumerate(entries)
        if run in (entry.record.run_name, entry.record.flow_run_name, entry.record.key)
    ]
    if not changes and run:
        by_key = [e for e in enumerate(entries) if e[1].record.key.startswith(run)]
        changes = [_change(storage, entry, entries[:place]) for place, entry in by_key]
    return changes


def _change(storage: Storage, entry: Entry, earlier: Sequence[Entry]) -> Change:
    record = storage.peek(entry.record.key) or entry.record
    candidates = []
    for other in reversed(earlier):
        if other.record.task_name == record.task_name and other.record.key != record.key:
            found = storage.peek(other.record.key)  # lists leave out what keys are made of
            if found is not None and found.parts:
                candidates.append(found)
            if len(candidates) == _LOOKED_AT:
                break
    place = nearest(record.parts, [candidate.parts for candidate in candidates])
    if place is None:
        return Change(record, None, ())
    return Change(record, candidates[place], explain(record.parts, candidates[place].parts))
