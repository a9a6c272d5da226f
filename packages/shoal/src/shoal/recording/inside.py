"""What happens inside runs on workers in other processes, on its way to the recorder of the driver.

    worker    `Inside`, with a recorder of its own ──events, in a form that travels──▶ a message, before each report
    driver    `adopting`: the driver's own indices of workers and runners ──▶ its recorder's events

Told are flow runs, the runs of the runners that these enter, direct calls, who submitted runs, and how large results were
that stay where they are. A worker is told to do so with what surrounds its runs, by a driver that is recorded, and by no
other: it then sends what there is before each report, so that no run has ended before what happened in it is known; while a
flow run is under way, every second, too.

May import `recorder` and what lies above it.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.context import CALL, LOCK, SCOPE
from shoal.engine.observing import add_observer
from shoal.engine.services import TIMERS
from shoal.logs import log_failure
from shoal.recording.events import (
    CAPPED,
    ENDED,
    MAPPED,
    REPORTED,
    SIZED,
    SUBMITTED,
    SUBMITTER,
    WAITS,
    Label,
)
from shoal.recording.recorder import Recorder
from shoal.recording.runner_recorder import in_words
from shoal.recording.told import LONGEST_TEXT, Told
from shoal.safely import is_raisable, text_of, traceback_of
from shoal.serialization import dumps

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.calls import Call, Outcome
    from shoal.context import FlowRun, Scope
    from shoal.futures.blocking import Wanted
    from shoal.states import State

__all__ = ["Inside", "observe_inside"]

#: Seconds after which a flow run that is under way is told of again.
EVERY = 1.0

#: Where in an event its task is.
_TASK = {SUBMITTED: 2, MAPPED: 3, REPORTED: 11}


class Bundle(NamedTuple):
    """What travels.

    Attributes:
        source: tells this worker from all others.
        workers: rows of workers that are new or have changed.
        events: as in a recorder, but with labels for tasks, and words for exceptions.
    """

    source: str
    workers: list[tuple[Any, ...]]
    events: list[tuple[Any, ...]]


class Inside:
    """An observer on a worker: of what happens inside the runs of one driver.

    Args:
        remote: the dispatcher of the driver, as runs here see it.
        send: sends what was told.
    """

    def __init__(self, remote: Any, send: Callable[[bytes], object]) -> None:
        self._remote = remote
        self._send = send
        self._source = f"{os.getpid()}-{id(self):x}-{os.urandom(4).hex()}"
        self._recorder = Recorder()
        self._flows: set[int] = set()  # flow runs inside these runs that have not ended
        self._told: dict[int, tuple[Any, ...]] = {}
        self._sending = threading.Lock()
        self._pid = os.getpid()

    def _is_ours(self, scope: Scope | None) -> bool:
        """Whether what is in a scope happens inside a run of the driver's: a process may work for several."""
        if scope is None or os.getpid() != self._pid:
            return False
        if scope.own_dispatcher is self._remote:
            return True
        run = scope.flow_run
        while run is not None:
            if run.number in self._flows:
                return True
            run = run.parent
        return False

    # ------------------------------------------------------------------ an observer

    def flow_run_began(self, run: FlowRun) -> None:
        """See `Observer`."""
        if self._is_ours(SCOPE.get()):
            with LOCK:
                self._flows.add(run.number)
            self._recorder.flow_run_began(run)
            self.flush()
            self._again(run.number)

    def flow_run_entered(self, run: FlowRun, runner: Any) -> None:
        """See `Observer`."""
        if run.number in self._flows:
            self._recorder.flow_run_entered(run, runner)

    def flow_run_ended(self, run: FlowRun, state: State[Any]) -> None:
        """See `Observer`."""
        if run.number in self._flows or self._is_ours(SCOPE.get()):
            self._recorder.flow_run_ended(run, state)
            with LOCK:
                self._flows.discard(run.number)

    def runner_entered(self, runner: Any) -> Any:
        """See `Observer`."""
        return self._recorder.runner_entered(runner) if self._is_ours(SCOPE.get()) else None

    def called(self, call: Call, outcome: Outcome, began: float, ended: float) -> None:
        """See `Observer`."""
        if self._is_ours(call.scope):
            self._recorder.called(call, outcome, began, ended)

    def submitted(self, first: int, size: int) -> None:
        """Runs were submitted to the driver, which knows all of them but who that was."""
        caller = CALL.get()
        if caller is not None:
            self._recorder.events.append((SUBMITTER, first, size, caller.number))

    def waits(self, number: int, wanted: Wanted) -> None:
        """A run is about to wait for runs of this process, of which the driver knows nothing; that it waits, it is told."""
        self._recorder.events.append((WAITS, number, time.time(), in_words(wanted)))
        self.flush()

    def kept(self, number: int, size: int) -> None:
        """A result of so many bytes stays here."""
        self._recorder.events.append((SIZED, number, size))

    # ------------------------------------------------------------------ on its way

    def _again(self, number: int) -> None:
        def look() -> None:
            if number in self._flows:
                self._recorder.look()
                self.flush()
                self._again(number)

        TIMERS.after(EVERY, look)

    def flush(self) -> None:
        """Sends what was told so far, if there is anything. It never raises: no run depends on it."""
        events = self._recorder.events
        if not events or os.getpid() != self._pid:
            return
        with self._sending:
            try:
                told = [_portable(events.popleft()) for _ in range(len(events))]
                workers = []
                for worker in self._recorder.workers:
                    row = worker.row()
                    if self._told.get(worker.index) != row:
                        self._told[worker.index] = row
                        workers.append(row)
                self._send(dumps(tuple(Bundle(self._source, workers, told))))
            except OSError:
                return  # the driver has gone, as the receiver sees too
            except Exception as error:
                log_failure(error, "What happened inside runs could not be told")


def _portable(event: tuple[Any, ...]) -> tuple[Any, ...]:
    kind = event[0]
    at = _TASK.get(kind)
    if at is not None:
        return (*event[:at], Label.of(event[at]), *event[at + 1 :])
    if kind == CAPPED:
        return (*event[:2], [Label.of(task) for task in event[2]], *event[3:])
    if kind == ENDED:
        ended = event[1]
        error = ended.error
        if is_raisable(error):
            error = Told(error, ended.trace or traceback_of(error), traced=True)
        elif error is not None and type(error) is not Told:
            error = text_of(error)[:LONGEST_TEXT]
        return kind, ended._replace(error=error, trace=None)
    return event


def observe_inside(worker: Any, send: Callable[[bytes], object]) -> Inside:
    """From now on a worker tells its driver what happens inside its runs.

    Args:
        worker: a `RemoteWorker`.
        send: sends what was told.

    Returns:
        The observer, which is to be removed in the end.
    """
    inside = Inside(worker.remote, send)
    add_observer(inside)
    remote, report, keep = worker.remote, worker.report, worker.keep
    submit, submit_map, tell_waiting = remote.submit, remote.submit_map, remote.tell_waiting

    def reported(*args: Any, **kwargs: Any) -> None:
        inside.flush()
        report(*args, **kwargs)

    def kept(batch: Any, position: int, call: Call, value: Any, packed: Any) -> Any:
        load = keep(batch, position, call, value, packed)
        if load is not None:
            inside.kept(call.number, packed.size)
        return load

    def submitted(*args: Any, **kwargs: Any) -> Any:
        future = submit(*args, **kwargs)
        inside.submitted(future._number, 1)
        return future

    def mapped(*args: Any, **kwargs: Any) -> Any:
        futures = submit_map(*args, **kwargs)
        if len(futures):
            inside.submitted(futures._items.base, len(futures))
        return futures

    def waiting(wait: int, run: int | None, wanted: Wanted, **kwargs: Any) -> None:
        at = kwargs.get("at")
        number = run if at is None else worker.number_at(*at)
        if number is not None and wanted and not any(remote.untold.knows(item) for item in wanted):
            inside.waits(number, wanted)
        tell_waiting(wait, run, wanted, **kwargs)

    worker.report, worker.keep = reported, kept
    remote.submit, remote.submit_map = submitted, mapped
    remote.tell_waiting = waiting
    return inside
