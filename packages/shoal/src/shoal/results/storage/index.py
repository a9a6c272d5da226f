"""The index of a folder: what the headers of its files say, so that a list need not open each of them.

    files in the folder ─┐
                         ├─▶ new or changed: read the header ─▶ update the index ─▶ entries
    rows of the index ───┘   gone: forget

Only lists use it. Files are the truth, so an index that is missing, old or broken costs time and nothing else: a broken one is set
aside, and made anew from the files. It keeps no write-ahead log, which network file systems have not, and nobody waits for
its writes. May import `format` and `record`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from shoal.results.storage.base import logger
from shoal.results.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["INDEX", "indexed"]

#: The name of its file.
INDEX = "shoal-index.db"

#: The number in the file that says how its table looks.
VERSION = 1

#: Seconds that it waits for other processes.
PATIENCE = 5.0

#: What may be wrong with a file, or with the time, while what is in it is right; the rest says that it is not.
_NOT_NOW = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM),
    }
)

_FACTS = (
    *("key", "serializer", "created", "expires"),
    *("task_name", "run_name", "flow_run_name"),
)


def indexed(
    folder: str, stamps: Mapping[str, str], header_of: Callable[[str], Record | None]
) -> dict[str, Record]:
    """The records of a folder by name, without values and parts.

    Args:
        folder: the folder.
        stamps: by name, what changes when a file changes: all files that there are.
        header_of: reads the header of a file; `None` if it is gone or does not verify.
    """
    path = os.path.join(folder, INDEX)
    try:
        with contextlib.closing(_opened(path)) as index:
            return _brought_up_to_date(index, stamps, header_of)
    except (sqlite3.Error, ValueError, TypeError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_NOW:
            logger.warning(
                "Results in %s: the index cannot be used, so that a list takes longer: %s",
                *(folder, error),
            )
            return _read(stamps, header_of)
        aside = f"{path}.broken-{time.time_ns()}"
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            pass  # another process has set it aside
        except OSError as problem:
            logger.warning(
                "Results in %s: the index is broken (%s), and cannot be set aside: %s",
                *(folder, error, problem),
            )
            return _read(stamps, header_of)
        logger.warning(
            "Results in %s: the index is broken (%s). It is set aside as %s, and made anew from the files.",
            *(folder, error, aside),
        )
    return indexed(folder, stamps, header_of)


def _opened(path: str) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        ((version,),) = index.execute("PRAGMA user_version").fetchall()
        if version != VERSION:
            index.execute("BEGIN IMMEDIATE")
            index.execute("DROP TABLE IF EXISTS records")
            index.execute(
                "CREATE TABLE records (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, facts TEXT NOT NULL)"
                " WITHOUT ROWID"
            )
            index.execute(f"PRAGMA user_version = {VERSION}")
            index.execute("COMMIT")
        # A power cut may break it, and it is made anew.
        index.execute("PRAGMA synchronous = OFF")
    except BaseException:
        index.close()
        raise
    return index


def _brought_up_to_date(
    index: sqlite3.Connection,
    stamps: Mapping[str, str],
    header_of: Callable[[str], Record | None],
) -> dict[str, Record]:
    known: dict[str, Record] = {}
    gone: list[tuple[str]] = []
    for name, stamp, facts in index.execute("SELECT name, stamp, facts FROM records"):
        if stamps.get(name) == stamp:
            known[name] = Record(**dict(zip(_FACTS, json.loads(facts), strict=True)))
        elif name not in stamps:
            gone.append((name,))
    new = _read((name for name in stamps if name not in known), header_of)
    if new or gone:
        index.execute("BEGIN IMMEDIATE")
        index.executemany("DELETE FROM records WHERE name = ?", gone)
        index.executemany(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?)",
            [(name, stamps[name], _facts_of(record)) for name, record in new.items()],
        )
        index.execute("COMMIT")
    return known | new


def _read(names: Iterable[str], header_of: Callable[[str], Record | None]) -> dict[str, Record]:
    found = ((name, header_of(name)) for name in names)
    return {name: record for name, record in found if record is not None}


def _facts_of(record: Record) -> str:
    facts: list[Any] = [getattr(record, name) for name in _FACTS]
    return json.dumps(facts, separators=(",", ":"))
