"""Why a run had to compute what is kept of it: what its key is made of, beside an earlier one of its task.

May import `keys` and `storage`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.results.keys.explaining import Earlier, explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.results.storage import Entry, Record, Storage

__all__ = ["Change", "changes_of"]


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
    pools: dict[tuple[str, str], _Pool] = {}
    changes = []
    for entry in found:
        record = _whole(storage, entry.record)
        kind = record.task_name, record.flow_run_name
        if kind not in pools:
            pools[kind] = _Pool(storage, entries, *kind)
        before = pools[kind].before(record)
        said = () if before is None else explain(record.parts, before.parts)
        changes.append(Change(record, before, said))
    return changes


class _Pool:
    """The results of a task, the latest first; none of the same flow run, whose other runs have other inputs."""

    def __init__(
        self, storage: Storage, entries: Sequence[Entry], task: str, flow_run: str
    ) -> None:
        self._storage = storage
        records = (entry.record for entry in reversed(entries))
        known = [
            record
            for record in records
            if record.task_name == task and not (flow_run and record.flow_run_name == flow_run)
        ]
        parts = [_whole(storage, record).parts for record in known]
        self._known = [record for record, made_of in zip(known, parts, strict=True) if made_of]
        self._earlier = Earlier(filter(None, parts))

    def before(self, record: Record) -> Record | None:
        """The one, made before a record, that has most in common with it."""
        first = bisect_left(self._known, True, key=lambda other: other.created < record.created)
        place = self._earlier.nearest(record.parts, first)
        found = None if place is None else _whole(self._storage, self._known[place])
        return found if found is not None and found.parts else None  # it was removed just now


def _whole(storage: Storage, record: Record) -> Record:
    """A record with what its key is made of, which lists may leave out."""
    return record if record.parts else storage.peek(record.key) or record
