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
        run: the name of a task run, the last one of this name; or of a flow run, for all in it; or a key, or its beginning.

    Returns:
        One for each result, the earliest first; empty if no result of such a run is kept.

    Raises:
        ResultStorageError: the storage cannot be read.
    """
    entries = sorted(storage.list(), key=lambda entry: entry.record.created)
    of_task = [entry for entry in entries if entry.record.run_name == run]
    found = (
        of_task[-1:]
        or [entry for entry in entries if entry.record.flow_run_name == run]
        or [entry for entry in entries if entry.record.key.startswith(run)]
    )
    return [_change(storage, entry.record, entries) for entry in found]


def _change(storage: Storage, computed: Record, entries: Sequence[Entry]) -> Change:
    """What has changed beside an earlier result of the task, not one of the same flow run: its other runs have other inputs."""
    record = storage.peek(computed.key) or computed
    candidates = []
    for other in (entry.record for entry in reversed(entries)):
        if (
            other.task_name == record.task_name
            and other.created < record.created
            and (not record.flow_run_name or other.flow_run_name != record.flow_run_name)
        ):
            found = storage.peek(other.key)  # lists leave out what keys are made of
            if found is not None and found.parts:
                candidates.append(found)
            if len(candidates) == _LOOKED_AT:
                break
    place = nearest(record.parts, [candidate.parts for candidate in candidates])
    if place is None:
        return Change(record, None, ())
    return Change(record, candidates[place], explain(record.parts, candidates[place].parts))
