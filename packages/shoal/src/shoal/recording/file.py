"""The file of a record: an SQLite database to which one thread appends while the flow runs.

    recorder ──events──▶ thread, once a second: one transaction ──▶ file ──`reading`──▶ `Record`

What there is once a run is a column of packed numbers; the table `chunks` has one row for each column set and second.
The file is in SQLite's write-ahead mode while it is written, so that it opens whenever its writer was killed; it is one file
when that has closed it. A disk that is full ends the writing, with one warning, and nothing else.

May import `taking` and what lies above it.
"""

from __future__ import annotations

import os
import platform
import socket
import sqlite3
import threading
import time
from contextlib import closing
from importlib.metadata import version
from typing import TYPE_CHECKING

from shoal.exceptions import RecordError
from shoal.logs import library_logger, log_failure
from shoal.recording.command import command_line
from shoal.recording.taking import Taking
from shoal.recording.whole import written_whole
from shoal.safely import in_words

if TYPE_CHECKING:
    from shoal.recording.recorder import Recorder

__all__ = ["VERSION", "Writer", "copy", "open_file"]

#: The number in the file that says how its tables look.
VERSION = 1

#: Seconds between two transactions, unless there are many events: who tells of one does not look how many there are.
EVERY = 1.0
LOOK = 0.1
MANY = 10_000

SCHEMA = """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE flow_runs (
        number INTEGER PRIMARY KEY, name TEXT, flow TEXT, parent INTEGER, began REAL, ended REAL, state TEXT, message TEXT,
        runner TEXT, parameters TEXT, file TEXT, line INTEGER, attempts INTEGER
    );
    CREATE TABLE tasks (number INTEGER PRIMARY KEY, name TEXT, file TEXT, line INTEGER);
    CREATE TABLE runners (
        number INTEGER PRIMARY KEY, name TEXT, flow_run INTEGER, entered REAL, started REAL, left REAL, slots INTEGER
    );
    CREATE TABLE workers (
        number INTEGER PRIMARY KEY, runner INTEGER, host TEXT, pid INTEGER, thread TEXT, joined REAL, left REAL,
        ending TEXT
    );
    CREATE TABLE maps (
        first INTEGER, size INTEGER, task INTEGER, flow_run INTEGER, submitter INTEGER, submitted REAL
    );
    CREATE TABLE names (number INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE errors (
        number INTEGER, attempt INTEGER, state TEXT, kind TEXT, text TEXT, file TEXT, line INTEGER, traceback TEXT, at REAL
    );
    CREATE TABLE events (at REAL, until REAL, kind TEXT, number INTEGER, worker INTEGER, text TEXT);
    CREATE TABLE caps (task INTEGER, at REAL, until REAL);
    CREATE TABLE logs (at REAL, number INTEGER, level INTEGER, logger TEXT, text TEXT);
    CREATE TABLE chunks (kind TEXT, data BLOB);
"""


def open_file(path: str) -> sqlite3.Connection:
    """Opens the file of a record for reading.

    Raises:
        RecordError: there is none, it is no record, or it is of another version.
    """
    if not os.path.exists(path):
        raise RecordError(path=path, problem="there is no such file")
    if os.path.isdir(path):
        raise RecordError(path=path, problem="it is a folder")
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        known = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name IN ('facts', 'chunks')"
        ).fetchone()[0]
    except sqlite3.Error as error:
        connection.close()
        raise RecordError(path=path, problem=f"it is no record of a run ({error})") from error
    if known < 2 or version != VERSION:
        connection.close()
        problem = "it is no record of a run"
        if known == 2:
            problem = (
                f"it was written in version {version} of the format, and this Shoal reads version "
                f"{VERSION}; open it with the Shoal that wrote it"
            )
        raise RecordError(path=path, problem=problem)
    return connection


class Writer:
    """Writes what a recorder was told, from a thread of its own.

    Args:
        path: of a file that does not exist, or may be replaced.
        recorder: what is written.

    Raises:
        RecordError: the file cannot be made.
    """

    def __init__(self, path: str, recorder: Recorder) -> None:
        self.path = path
        self._recorder = recorder
        self._problem: BaseException | None = None
        self._taking = Taking(recorder)
        self._io = threading.Lock()
        self._stopping = threading.Event()
        try:
            self._connection = self._made(path)
        except (OSError, sqlite3.Error) as error:
            raise RecordError(path=path, problem=f"it cannot be written: {error}") from error
        self._thread = threading.Thread(target=self._serve, name="shoal-recording", daemon=True)
        self._thread.start()

    def _made(self, path: str) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.unlink(path + suffix)
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing by it; only a machine that loses power does.
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(SCHEMA)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            facts = {
                "shoal": version("shoal"),
                "python": platform.python_version(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "command": command_line(),
                "started": time.time(),
            }
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        except BaseException:
            connection.close()
            raise
        return connection

    # ------------------------------------------------------------------ when

    def _serve(self) -> None:
        written = time.monotonic()
        while not self._stopping.wait(LOOK):
            if len(self._recorder.events) >= MANY or time.monotonic() - written >= EVERY:
                self.flush()
                written = time.monotonic()

    def flush(self) -> None:
        """Writes all that was told so far."""
        with self._io:
            if self._problem is not None:
                self._recorder.events.clear()
                return
            try:
                self._recorder.look()
                self._write()
            except (OSError, sqlite3.Error) as error:
                self._give_up(error)
            except Exception as error:  # the flow goes on whatever is wrong here
                log_failure(error, "The recording failed")
                self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._problem = error
        self._recorder.events.clear()
        library_logger().warning(
            "The recording of this run stops here, as %s cannot be written: %s. The run goes on.",
            self.path,
            in_words(error),
        )

    def close(self) -> None:
        """Writes the rest, and makes it one file."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._taking.facts["ended"] = time.time()
        self.flush()
        with self._io:
            if self._problem is None:
                try:
                    self._connection.execute("PRAGMA journal_mode = DELETE")
                except sqlite3.Error as error:
                    self._give_up(error)
            self._connection.close()

    def abandon(self) -> None:
        """In a forked child: the file is the parent's."""
        self._problem = RuntimeError(
            "the recording is of the process that this one was forked from"
        )
        self._io = threading.Lock()

    def _write(self) -> None:
        rows, chunks = self._taking.take(closing=self._stopping.is_set())
        execute = self._connection.execute
        execute("BEGIN")
        try:
            for table, values in rows.items():
                places = ", ".join("?" * len(values[0]))
                self._connection.executemany(
                    f"INSERT OR REPLACE INTO {table} VALUES ({places})", values
                )
            for kind, chunk in chunks.items():
                if len(chunk.columns[0]):
                    execute("INSERT INTO chunks VALUES (?, ?)", (kind, chunk.packed()))
            for name, value in self._taking.facts.items():
                execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise


def copy(path: str, target: str) -> None:
    """Copies a record, also one that is still written.

    Raises:
        RecordError: it cannot be read, or the copy cannot be written.
    """
    try:
        with (
            closing(open_file(path)) as source,
            written_whole(target) as part,
            closing(sqlite3.connect(part)) as copied,
        ):
            source.backup(copied)
            copied.execute("PRAGMA journal_mode = DELETE")
    except (OSError, sqlite3.Error) as error:
        raise RecordError(path=target, problem=f"it cannot be written: {error}") from error
