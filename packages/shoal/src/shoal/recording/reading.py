"""Makes a `Record` of a record's file.

    chunks ──▶ spans and reports: whole ranges of a map at once ──┐
          └──▶ what was told of single attempts: one by one ──────┴──▶ columns, clocks corrected, one worker a thread

Of a run of a map nothing is told by itself unless it did something else than complete, so a million of them are a few
hundred slices.

May import `file` and what lies above it.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from bisect import bisect_left, bisect_right
from contextlib import closing
from itertools import repeat
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from shoal.exceptions import RecordError
from shoal.recording.chunks import unpacked
from shoal.recording.file import VERSION, open_file
from shoal.recording.record import (
    STATES,
    WITHOUT_RESULT,
    CapRow,
    Columns,
    ErrorRow,
    EventRow,
    FlowRunRow,
    LogRow,
    MapRow,
    Record,
    RunnerRow,
    TaskRow,
    WorkerRow,
)
from shoal.recording.reported import (
    Report,
    add_messages,
    correct_clocks,
    give_sizes,
    one_lane_a_thread,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read"]

#: Log lines that an error keeps of its run.
LINES_OF_A_RUN = 50

#: Kinds of events that are waits in the body of a run.
IN_BODY = ("wait", "slots")

_PENDING, _RUNNING, _COMPLETED, _NOT_READY = map(
    STATES.index, ("Pending", "Running", "Completed", "NotReady")
)


def read(path: str) -> Record:
    """The record in a file, also in one that is still written, or whose writer was killed.

    Raises:
        RecordError: there is none, it is damaged, or of another version.
    """
    try:
        with closing(open_file(path)) as connection:
            connection.execute("BEGIN")  # all of it as it is now
            return _Reading(connection).record
    except sqlite3.Error as error:
        raise RecordError(path=path, problem=f"it cannot be read: {error}") from error


class _Told:
    """What is known of one attempt that is told of by itself."""

    __slots__ = ("arrived", "begun", "ended", "sent", "size", "state", "worker")

    def __init__(self) -> None:
        self.size = -1
        self.worker = -1
        self.state = -1
        self.sent = self.arrived = self.begun = self.ended = nan


class _Reading:
    """One reading of a file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.record = record = Record(version=VERSION)
        self._facts()
        self._rows()
        self._single: dict[int, tuple[int, int, int, float]] = {}  # number: task, flow run, ...
        self._ready: dict[int, list[float]] = {}
        self._told: dict[tuple[int, int], _Told] = {}
        self._reports: list[Report] = []
        self._tasks_of: dict[tuple[int, int], int] = {}
        self._sizes: dict[int, int] = {}  # of results that stay on workers
        self._packed: dict[tuple[int, int], int] = {}
        self._maps = sorted(record.maps)
        self._firsts = [row.first for row in self._maps]
        self._chunks()
        correct_clocks(record, self._reports)
        one_lane_a_thread(record, self._reports)
        add_messages(record.messages, self._reports, self._packed, self._tasks_of)
        self._covered: dict[int, list[tuple[int, int]]] = {}  # of each map, by its place
        self._add_reports()
        self._add_told()
        self._add_open()
        self._add_sizes()
        self._waits_within_runs()
        self._errors()

    # ------------------------------------------------------------------ tables

    def _all(self, table: str) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute(f"SELECT * FROM {table} ORDER BY rowid")

    def _facts(self) -> None:
        record = self.record
        facts = dict(self._connection.execute("SELECT name, value FROM facts"))
        record.shoal, record.python = facts["shoal"], facts["python"]
        record.host, record.pid, record.command = facts["host"], facts["pid"], facts["command"]
        record.started, record.ended = facts["started"], facts.get("ended")
        record.logs_left_out = facts.get("logs_left_out", 0)
        record.events_left_out = facts.get("events_left_out", 0)
        record.errors_left_out = facts.get("errors_left_out", 0)
        if "states" in facts:
            record.states = json.loads(facts["states"])

    def _rows(self) -> None:
        record = self.record
        for row in self._all("flow_runs"):
            record.flow_runs.append(FlowRunRow._make((*row[:9], json.loads(row[9]), *row[10:])))
        record.flow_runs.sort(key=lambda run: run.began)
        record.tasks = [TaskRow(*row) for row in self._all("tasks")]
        for number, name, flow_run, entered, started, *more in self._all("runners"):
            known = nan if started is None else started
            record.runners.append(RunnerRow(number, name, flow_run, entered, known, *more))
        record.workers = [WorkerRow(*row) for row in self._all("workers")]
        record.maps = [MapRow(*row) for row in self._all("maps")]
        record.names = dict(self._all("names"))
        record.events = [
            EventRow(row[0], nan if row[1] is None else row[1], *row[2:])
            for row in self._all("events")
        ]
        record.caps = [CapRow._make(row) for row in self._all("caps")]
        record.logs = [LogRow(*row) for row in self._all("logs")]

    def _errors(self) -> None:
        lines: dict[int, list[str]] = {}
        for log in self.record.logs:
            if log.number:
                lines.setdefault(log.number, []).append(log.text)
        for number, attempt, *more, at in self._all("errors"):
            logs = tuple(lines.get(number, ())[-LINES_OF_A_RUN:])
            row = ErrorRow._make((attempt, *more, logs, at))
            self.record.errors.setdefault(number, []).append(row)

    # ------------------------------------------------------------------ chunks

    def _chunks(self) -> None:
        listed: list[array[Any]] = [array("q"), array("H")]
        submitters: dict[int, int] = {}
        spans: list[Report] = []
        reports: list[Report] = []
        # Of one transaction, in the order of `chunks.COLUMNS`: what has ends comes before these.
        for kind, data in self._connection.execute("SELECT kind, data FROM chunks ORDER BY rowid"):
            columns = unpacked(kind, data)
            if kind == "submitted":
                for number, *more in zip(*columns, strict=True):
                    self._single[number] = tuple(more)
            elif kind == "edges":
                for edge in zip(*columns, strict=True):
                    self.record.edges.append(*edge)
            elif kind == "ready":
                for number, when in zip(*columns, strict=True):
                    self._ready.setdefault(number, []).append(when)
            elif kind == "ran":
                for number, attempt, worker, began, ended in zip(*columns, strict=True):
                    if (number, attempt) not in self._told:  # else it was cancelled at that moment
                        self._tell(number, attempt, worker, _COMPLETED, began, ended)
            elif kind == "ended":
                for number, attempt, worker, state, began, ended in zip(*columns, strict=True):
                    self._tell(number, attempt, worker, state, began, ended)
            elif kind == "spans":
                spans = list(self._spans(columns))
            elif kind == "reports":
                reports = list(self._reported(columns))
            elif kind == "listed":
                listed = columns
            elif kind == "lost":
                for number, attempt, worker, sent, arrived, at in zip(*columns, strict=True):
                    told = self._told.setdefault((number, attempt), _Told())
                    told.worker, told.sent, told.arrived = worker, sent, arrived
                    told.ended = at
                    if isnan(told.begun):  # else the driver knew that it had begun, and when
                        told.begun = sent if isnan(arrived) else arrived
                    if told.state < 0:
                        told.state = STATES.index("Retrying")
            elif kind == "submitters":
                for first, count, submitter in zip(*columns, strict=True):
                    submitters.update(dict.fromkeys(range(first, first + count), submitter))
            elif kind == "sized":
                self._sizes.update(zip(*columns, strict=True))
            elif kind == "packed":
                for runner, batch, size in zip(*columns, strict=True):
                    self._packed[runner, batch] = size
            elif kind == "report_sizes":
                give_sizes(columns[0], reports)
            elif kind == "span_ends":
                self._give(columns[0], listed, spans)
            elif kind == "report_ends":
                self._give(columns[0], listed, reports)
        if submitters:
            self._submitted_by(submitters)

    def _submitted_by(self, submitters: dict[int, int]) -> None:
        """Fills in who submitted runs on a worker, which the driver was not told with the runs."""
        for number, submitter in submitters.items():
            known = self._single.get(number)
            if known is not None:
                self._single[number] = (*known[:2], submitter, known[3])
        self._maps = [
            row._replace(submitter=submitters.get(row.first, row.submitter)) for row in self._maps
        ]
        self.record.maps = list(self._maps)

    def _spans(self, columns: list[array[Any]]) -> Iterator[Report]:
        for first, count, worker, began in zip(*columns, strict=True):
            span = Report(first, worker, began, array("d", bytes(8 * count)))
            yield span

    def _reported(self, columns: list[array[Any]]) -> Iterator[Report]:
        for row in zip(*columns, strict=True):
            runner, batch, first, count, worker, sent, arrived, told, seconds, task, loop, size = (
                row
            )
            report = Report(first, worker, seconds, array("d", bytes(8 * count)))
            report.batch, report.sent, report.told = (runner, batch), sent, told
            report.size = size
            report.each = seconds / count if loop else 0.0
            self._tasks_of[runner, batch] = task
            if isnan(sent):
                report.sent = arrived
            yield report

    def _give(self, ends: array[float], listed: list[array[Any]], reports: list[Report]) -> None:
        """Gives the spans or reports of a transaction the ends of their runs."""
        place = names = 0
        for report in reports:
            count = len(report.ends)
            report.ends = ends[place : place + count]
            place += count
            if report.batch is not None:
                if report.first < 0:
                    report.numbers = listed[0][names : names + count]
                    report.attempts = listed[1][names : names + count]
                    names += count
                report.begin()
            self._reports.append(report)

    def _tell(
        self, number: int, attempt: int, worker: int, state: int, begun: float, ended: float
    ) -> None:
        told = self._told.get((number, attempt))
        if told is None:
            told = self._told[number, attempt] = _Told()
        told.state, told.ended = state, ended
        if worker >= 0:
            told.worker = worker
        if not isnan(begun):
            told.begun = begun

    # ------------------------------------------------------------------ columns

    def _add_reports(self) -> None:
        alone = sorted(number for number, _ in self._told if self._map_of(number) is not None)
        for report in sorted(self._reports, key=lambda report: report.ends[0]):
            if report.each:  # coroutines: each took as long as all did on average
                begun = array("d", [end - report.each for end in report.ends])
            else:
                begun = array("d", [report.began])
                begun.extend(report.ends[:-1])
            if report.numbers is not None:
                assert report.attempts is not None  # they come together
                for i, key in enumerate(zip(report.numbers, report.attempts, strict=True)):
                    self._join(key, report, i, begun[i])
                continue
            start, stop = report.first, report.first + len(report.ends)
            place = self._map_of(start)
            if place is None:
                continue
            self._covered.setdefault(place, []).append((start, stop))
            low, high = bisect_left(alone, start), bisect_left(alone, stop)
            if low == high:
                self._add_range(place, report, begun, 0, stop - start)
                continue
            last = start
            for number in sorted(set(alone[low:high])):
                i = number - start
                self._add_range(place, report, begun, last - start, i)
                self._join((number, 1), report, i, begun[i])
                known = self._told.get((number, 1))
                if known is not None and i + 1 < len(begun) and not isnan(known.ended):
                    begun[i + 1] = min(max(begun[i + 1], known.ended), report.ends[i + 1])
                last = number + 1
            self._add_range(place, report, begun, last - start, stop - start)

    def _map_of(self, number: int) -> int | None:
        """Which of the maps a run is of."""
        place = bisect_right(self._firsts, number) - 1
        if place < 0 or number >= self._firsts[place] + self._maps[place].size:
            return None
        return place

    def _join(self, key: tuple[int, int], report: Report, place: int, begun: float) -> None:
        """What a report says of an attempt that is told of by itself, or of a single run."""
        told = self._told.get(key)
        if told is None:
            told = self._told[key] = _Told()
            told.state = _COMPLETED
        if isnan(told.begun):
            told.begun, told.worker, told.sent = begun, report.worker, report.sent
            if report.batch is not None:
                told.ended = report.ends[place]  # by the corrected clock
                if self.record.states[told.state] not in WITHOUT_RESULT:  # else it was an error
                    told.size = report.size if report.sizes is None else report.sizes[place]

    def _add_range(
        self, place: int, report: Report, begun: array[float], start: int, stop: int
    ) -> None:
        count = stop - start
        if count <= 0:
            return
        row, c = self._maps[place], self.record.columns
        first = report.first + start
        c.number.extend(range(first, first + count))
        c.begun.extend(begun[start:stop])
        c.ended.extend(report.ends[start:stop])
        c.sent.extend(repeat(report.sent, count) if report.batch else begun[start:stop])
        if report.sizes is not None:
            c.bytes.extend(report.sizes[start:stop])
        else:
            c.bytes.extend(array("q", [report.size]) * count)
        self._add_same(c, row, report.worker, _COMPLETED, count)

    @staticmethod
    def _add_same(c: Columns, row: MapRow, worker: int, state: int, count: int) -> None:
        c.task.extend(array("i", [row.task]) * count)
        c.flow_run.extend(array("q", [row.flow_run]) * count)
        c.submitter.extend(array("q", [row.submitter]) * count)
        c.worker.extend(array("i", [worker]) * count)
        c.attempt.extend(array("H", [1]) * count)
        c.state.extend(array("B", [state]) * count)
        c.submitted.extend(array("d", [row.submitted]) * count)
        c.ready.extend(array("d", [row.submitted]) * count)

    def _add_told(self) -> None:
        c = self.record.columns
        ends = {number: told.ended for (number, _), told in self._told.items()}
        for (number, attempt), told in sorted(
            self._told.items(), key=lambda item: (item[1].ended, item[0])
        ):
            known = self._known(number)
            if known is None:
                continue
            task, flow_run, submitter, submitted = known
            ready = [when for when in self._ready.get(number, ()) if not when > told.ended]
            if not ready:
                ready = [self._ready_at(number, submitted, ends, told)]
            c.append(
                number,
                task,
                flow_run,
                submitter,
                told.worker,
                attempt,
                told.state if told.state >= 0 else _RUNNING,
                submitted,
                ready[-1],
                told.begun if isnan(told.sent) else told.sent,
                told.begun,
                told.ended,
                told.size,
            )

    def _known(self, number: int) -> tuple[int, int, int, float] | None:
        """Task, flow run, submitter and time of a run's submission."""
        known = self._single.get(number)
        if known is None:
            place = self._map_of(number)
            if place is not None:
                row = self._maps[place]
                self._covered.setdefault(place, []).append((number, number + 1))
                return row.task, row.flow_run, row.submitter, row.submitted
        return known

    def _ready_at(
        self, number: int, submitted: float, ends: dict[int, float], told: _Told
    ) -> float:
        """When a run was ready that was never said to be: when the last run had ended that it waited for in its batch. One that
        ended before that, and never began, never was.
        """
        waited = [ends.get(u, nan) for span in self.record.upstreams(number) for u in span]
        if isnan(told.begun) and (
            told.state == _NOT_READY or not all(end <= told.ended for end in waited)
        ):
            return nan
        return max(submitted, *waited) if waited else submitted

    def _add_sizes(self) -> None:
        """Of results that stay on their workers, the workers told."""
        if self._sizes:
            c = self.record.columns
            for place, number in enumerate(c.number):
                if number in self._sizes and c.state[place] == _COMPLETED:
                    c.bytes[place] = self._sizes[number]

    def _waits_within_runs(self) -> None:
        """What a run waited for in its body is told by message, which may come late: it was over when the attempt was."""
        events, c = self.record.events, self.record.columns
        wanted = {event.number for event in events if event.kind in IN_BODY}
        if not wanted:
            return
        attempts: dict[int, list[tuple[float, float]]] = {}
        for number, begun, ended in zip(c.number, c.begun, c.ended, strict=True):
            if number in wanted and begun <= ended:
                attempts.setdefault(number, []).append((begun, ended))
        for place, event in enumerate(events):
            if event.kind in IN_BODY:
                around = [one for one in attempts.get(event.number, ()) if one[0] <= event.until]
                if around:
                    begun, ended = max(around)
                    at, until = (min(max(time, begun), ended) for time in (event.at, event.until))
                    events[place] = event._replace(at=at, until=until)

    def _add_open(self) -> None:
        """Runs that have not ended: of a recording that goes on, or of a process that was killed."""
        told = {number for number, _ in self._told}
        c = self.record.columns
        for number, (task, flow_run, submitter, submitted) in self._single.items():
            if number not in told:
                ready = self._ready.get(number)
                waits = bool(self.record.upstreams(number))
                when = ready[-1] if ready else nan if waits else submitted
                c.append(
                    number,
                    task,
                    flow_run,
                    submitter,
                    -1,
                    1,
                    _PENDING,
                    submitted,
                    when,
                    nan,
                    nan,
                    nan,
                )
        for place, row in enumerate(self._maps):
            last = row.first
            stop = row.first + row.size
            for start, end in [*sorted(self._covered.get(place, ())), (stop, stop)]:
                count = start - last
                if count > 0:
                    c.number.extend(range(last, start))
                    for column in (c.sent, c.begun, c.ended):
                        column.extend(repeat(nan, count))
                    c.bytes.extend(array("q", [-1]) * count)
                    self._add_same(c, row, -1, _PENDING, count)
                last = max(last, end)
