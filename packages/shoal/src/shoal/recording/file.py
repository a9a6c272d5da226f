"""The file of a record: an SQLite database to which one thread appends while the flow runs.

    recorder ──events──▶ thread, once a second: one transaction ──▶ file ──`reading`──▶ `Record`

What there is once a run is a column of packed numbers; the table `chunks` has one row for each column set and second.
The file is in SQLite's write-ahead mode while it is written, so that it opens whenever its writer was killed; it is one file
when that has closed it. A disk that is full ends the writing, with one warning, and nothing else.

May import `recorder` and what lies above it.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sqlite3
import sys
import threading
import time
from array import array
from contextlib import closing
from importlib.metadata import version
from math import nan
from typing import TYPE_CHECKING, Any

from shoal.calls import AWAITING_RETRY, CANCELLED, COMPLETED, CRASHED, FAILED, NOT_READY
from shoal.exceptions import RecordError
from shoal.logs import library_logger, log_failure
from shoal.recording import events as kinds
from shoal.recording.chunks import COLUMNS, Chunk, ranges
from shoal.recording.record import STATES
from shoal.recording.told import LONGEST_TEXT, Told
from shoal.safely import in_words, is_raisable, text_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.recording.events import Ended
    from shoal.recording.recorder import Recorder
    from shoal.specs import TaskSpec

__all__ = ["VERSION", "Writer", "copy", "open_file"]

#: The number in the file that says how its tables look.
VERSION = 1

#: Seconds between two transactions, unless there are many events: who tells of one does not look how many there are.
EVERY = 1.0
LOOK = 0.1
MANY = 10_000

#: Errors that are kept with their traceback, and those that are kept at all; the rest is counted.
MOST_TRACEBACKS = 500
MOST_ERRORS = 10_000
MOST_EVENTS = 20_000

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
    CREATE TABLE logs (at REAL, number INTEGER, level INTEGER, logger TEXT, text TEXT);
    CREATE TABLE chunks (kind TEXT, data BLOB);
"""

_STATE_OF_PHASE = {
    COMPLETED: "Completed",
    FAILED: "Failed",
    CANCELLED: "Cancelled",
    CRASHED: "Crashed",
    NOT_READY: "NotReady",
    AWAITING_RETRY: "Retrying",
}


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
        self._tasks: dict[tuple[str, str, int], int] = {}
        self._task_indices: dict[int, tuple[TaskSpec, int]] = {}
        self._states = {name: index for index, name in enumerate(STATES)}
        self._written: dict[int, Any] = {}
        self._errors = 0
        self._events = 0
        self._facts: dict[str, Any] = {}
        self._limits: dict[int, tuple[float, str]] = {}  # of runs that wait for slots
        self._flow_runs: dict[int, list[Any]] = {}  # those that have not ended
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
                "command": " ".join([os.path.basename(sys.argv[0] or ""), *sys.argv[1:]]),
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
        self._facts["ended"] = time.time()
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

    # ------------------------------------------------------------------ what

    def _write(self) -> None:
        events = self._recorder.events
        workers = self._recorder.workers
        chunks = {name: Chunk(types) for name, types in COLUMNS.items()}
        rows: dict[str, list[Any]] = {}
        for _ in range(len(events)):  # what comes meanwhile is for the next time
            event = events.popleft()
            _TAKE[event[0]](self, event, chunks, rows)
        if self._recorder.logs_left_out:
            self._facts["logs_left_out"] = self._recorder.logs_left_out
        for worker in workers:
            row = worker.row()
            if self._written.get(worker.index) != row:
                self._written[worker.index] = row
                rows.setdefault("workers", []).append(row)
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
            for name, value in self._facts.items():
                execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise

    def _task(self, task: TaskSpec, rows: dict[str, list[Any]]) -> int:
        known = self._task_indices.get(id(task))
        if known is not None and known[0] is task:
            return known[1]
        code = getattr(task.fn, "__code__", None)
        key = (
            task.name,
            code.co_filename if code is not None else "",
            code.co_firstlineno if code is not None else 0,
        )
        index = self._tasks.get(key)
        if index is None:
            index = self._tasks[key] = len(self._tasks)
            rows.setdefault("tasks", []).append((index, *key))
        if len(self._task_indices) > 10_000:  # tasks that are made anew for each run
            self._task_indices.clear()
        self._task_indices[id(task)] = task, index
        return index

    def _state(self, name: str) -> int:
        index = self._states.get(name)
        if index is None:
            index = self._states[name] = min(len(self._states), 255)
            self._facts["states"] = json.dumps(list(self._states))
        return index

    def _submitted(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, task, flow_run, submitter, when, edges = event
        chunks["submitted"].append(number, self._task(task, rows), flow_run, submitter, when)
        if edges:
            for first, stop in ranges(edges):
                chunks["edges"].append(number, first, stop)

    def _mapped(self, event: Any, chunks: Any, rows: Any) -> None:
        _, base, size, task, flow_run, submitter, when = event
        row = base, size, self._task(task, rows), flow_run, submitter, when
        rows.setdefault("maps", []).append(row)

    def _ready(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, when = event
        chunks["ready"].append(number, when)
        asked = self._limits.pop(number, None)
        if asked is not None:
            self._event(rows, asked[0], when, "limit", number, -1, f"slots of {asked[1]}")

    def _queued(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, when, limits = event
        self._limits[number] = when, limits

    def _ran(self, event: Any, chunks: Any, rows: Any) -> None:
        chunks["ran"].append(*event[1:])

    def _went(self, event: Any, chunks: Any, rows: Any) -> None:
        _, first, worker, began, ends = event
        chunks["spans"].append(first, len(ends), worker, began)
        chunks["span_ends"].columns[0].extend(ends)

    def _ended(self, event: Any, chunks: Any, rows: Any) -> None:
        ended: Ended = event[1]
        state = ended.state or _STATE_OF_PHASE[ended.phase]
        if ended.phase == AWAITING_RETRY:
            state = "Retrying"
        index = self._state(state)
        chunks["ended"].append(
            ended.number, ended.attempt, ended.worker, index, ended.began, ended.ended
        )
        if ended.name is not None:
            rows.setdefault("names", []).append((ended.number, ended.name))
        if ended.phase == AWAITING_RETRY:
            text = f"attempt {ended.attempt} did not complete; the next begins in {ended.delay:g} s"
            until = ended.ended + ended.delay
            self._event(rows, ended.ended, until, "retry", ended.number, ended.worker, text)
        if ended.phase != COMPLETED:
            self._error(ended, state, rows)

    def _error(self, ended: Ended, state: str, rows: Any) -> None:
        self._errors += 1
        if self._errors > MOST_ERRORS:
            self._facts["errors_left_out"] = self._errors - MOST_ERRORS
            return
        error = ended.error
        told = Told()
        if is_raisable(error):
            told = Told(
                error, ended.trace or traceback_of(error), traced=self._errors <= MOST_TRACEBACKS
            )
        elif error is not None:
            told.text = text_of(error)[:LONGEST_TEXT]
        rows.setdefault("errors", []).append(
            (
                ended.number,
                ended.attempt,
                state,
                told.kind,
                told.text,
                told.file,
                told.line,
                told.traceback,
                ended.ended,
            )
        )

    def _event(
        self, rows: Any, at: float, until: float, kind: str, number: int, worker: int, text: str
    ) -> None:
        self._events += 1
        if self._events > MOST_EVENTS:
            self._facts["events_left_out"] = self._events - MOST_EVENTS
            return
        rows.setdefault("events", []).append((at, until, kind, number, worker, text))

    def _reported(self, event: Any, chunks: Any, rows: Any) -> None:
        _, batch, worker, sent, arrived, told, seconds, first, numbers, attempts, ends, task = event
        chunks["reports"].append(
            *batch,
            -1 if numbers is not None else first,
            len(ends),
            worker,
            sent,
            arrived,
            told,
            seconds,
            self._task(task, rows),
            task.is_async,
        )
        chunks["report_ends"].columns[0].extend(ends)
        if numbers is not None:
            listed = chunks["listed"].columns
            listed[0].extend(numbers)
            listed[1].extend(attempts if attempts is not None else array("H", [1]) * len(numbers))

    def _lost(self, event: Any, chunks: Any, rows: Any) -> None:
        _, told, worker, sent, arrived, at = event
        for number, attempt in told:
            chunks["lost"].append(number, attempt, worker, sent, arrived, at)
        text = f"{len(told)} run{'' if len(told) == 1 else 's'} lost with their worker"
        self._event(rows, at, nan, "death", told[0][0] if told else 0, worker, text)

    def _closed(self, event: Any, chunks: Any, rows: Any) -> None:
        _, at, worker, back = event
        text = f"{back} run{'' if back == 1 else 's'} handed back before they began"
        self._event(rows, at, nan, "recall", 0, worker, text)

    def _flow(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, name, flow, parent, began, runner, parameters, file, line, attempts = event
        known = self._flow_runs.get(number)
        self._flow_runs[number] = [
            number,
            name,
            flow,
            parent,
            known[4] if known else began,
            None,
            "Running",
            "",
            runner,
            json.dumps(parameters),
            file,
            line,
            attempts,
        ]
        rows.setdefault("flow_runs", []).append(self._flow_runs[number])

    def _flow_ended(self, event: Any, chunks: Any, rows: Any) -> None:
        _, number, at, state, message, attempts = event
        row = self._flow_runs.pop(number)
        row[5:8] = at, state, message[:LONGEST_TEXT]
        row[12] = max(attempts, row[12])
        rows.setdefault("flow_runs", []).append(row)

    def _runner(self, event: Any, chunks: Any, rows: Any) -> None:
        rows.setdefault("runners", []).append(event[1:])

    def _log(self, event: Any, chunks: Any, rows: Any) -> None:
        _, at, number, level, logger, text = event
        rows.setdefault("logs", []).append((at, number, level, logger, text[:LONGEST_TEXT]))


_TAKE: dict[int, Callable[[Writer, Any, Any, Any], None]] = {
    kinds.SUBMITTED: Writer._submitted,
    kinds.MAPPED: Writer._mapped,
    kinds.READY: Writer._ready,
    kinds.QUEUED: Writer._queued,
    kinds.RAN: Writer._ran,
    kinds.WENT: Writer._went,
    kinds.ENDED: Writer._ended,
    kinds.REPORTED: Writer._reported,
    kinds.LOST: Writer._lost,
    kinds.CLOSED: Writer._closed,
    kinds.FLOW: Writer._flow,
    kinds.FLOW_ENDED: Writer._flow_ended,
    kinds.RUNNER: Writer._runner,
    kinds.LOG: Writer._log,
}


def copy(path: str, target: str) -> None:
    """Copies a record, also one that is still written.

    Raises:
        RecordError: it cannot be read, or the copy cannot be written.
    """
    try:
        with closing(open_file(path)) as source:
            if os.path.exists(target):
                os.unlink(target)
            with closing(sqlite3.connect(target)) as copied:
                source.backup(copied)
                copied.execute("PRAGMA journal_mode = DELETE")
    except (OSError, sqlite3.Error) as error:
        raise RecordError(path=target, problem=f"it cannot be written: {error}") from error
