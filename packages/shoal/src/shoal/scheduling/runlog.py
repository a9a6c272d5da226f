"""Log lines about task runs: one a run, or one for a burst.

May import futures and what lies above them.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from shoal import settings
from shoal.calls import COMPLETED, FAILED
from shoal.engine.services import TIMERS
from shoal.logs import _TASK_RUNS as LOGGER
from shoal.logs import burst_facts, task_run_logger
from shoal.names import task_run_name
from shoal.safely import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.context import FlowLabel
    from shoal.futures.maps import MapRecord
    from shoal.futures.run import TaskFuture
    from shoal.logs import RunLogger

__all__ = ["RunLog"]

#: Seconds without an end of a task's runs after which its burst is over.
QUIET = 1.0


class _Burst:
    __slots__ = ("latest", "logged", "summed")

    def __init__(self) -> None:
        self.latest = 0.0
        self.logged = 0
        self.summed: dict[str, int] = {}


class RunLog:
    """The lines of one runner's task runs.

    The first runs of a burst (20, a setting) have a line each; the rest is summed up in one line once no run of the
    task has ended for a second, or the runner is left. At DEBUG every run has its line.

    Attributes:
        flow_run: whose runs these are, for the records.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bursts: dict[Any, _Burst] = {}
        self._most = settings.log_burst()
        self._timing = False
        self.flow_run: FlowLabel | None = None

    def wanted(self) -> bool:
        """Whether there are lines about runs that complete."""
        return LOGGER.isEnabledFor(logging.INFO)

    def ended(self, future: TaskFuture[Any]) -> None:
        """A run has ended."""
        phase = future._phase
        level = (
            logging.INFO
            if phase == COMPLETED
            else logging.ERROR
            if phase == FAILED
            else logging.WARNING
        )
        if not LOGGER.isEnabledFor(level) or future._task.hidden:
            return
        if self._count(future._task, future.state.name, 1):
            self._line(future, level)

    def elements(self, record: MapRecord[Any], indices: Sequence[int], state: str) -> None:
        """Elements of a map have completed, or were cancelled."""
        level = logging.INFO if state == "Completed" else logging.WARNING
        if not LOGGER.isEnabledFor(level) or record.task.hidden:
            return
        for index in indices[: self._count(record.task, state, len(indices))]:
            number = record.base + index
            name = task_run_name(record.task.name, number)
            logger = task_run_logger(record.task.name, number, name, self.flow_run)
            _say(logger, level, "Finished in state %s", f"{state}()")

    def _line(self, future: TaskFuture[Any], level: int) -> None:
        logger = self._logger_of(future)
        # As text: a record that a handler keeps must not keep the run's value.
        _say(logger, level, "Finished in state %s", str(future.state))

    def _logger_of(self, future: TaskFuture[Any]) -> RunLogger:
        return task_run_logger(future._task.name, future._number, future.name, self.flow_run)

    def _count(self, task: Any, state: str, count: int) -> int:
        """How many of some runs have a line of their own; the others are counted."""
        now = time.monotonic()
        over = None
        start = False
        with self._lock:
            burst = self._bursts.get(task)
            if burst is None or now - burst.latest > QUIET:
                over, burst = burst, _Burst()
                self._bursts[task] = burst
            burst.latest = now
            alone = min(count, self._most - burst.logged)
            burst.logged += alone
            if alone < count:
                burst.summed[state] = burst.summed.get(state, 0) + count - alone
                start = not self._timing
                self._timing = True
        if over is not None:
            self._sum_up(task, over)
        if start:
            TIMERS.after(QUIET, self._look)
        return count if LOGGER.isEnabledFor(logging.DEBUG) else alone

    def _look(self) -> None:
        """Sums up the bursts that are over."""
        now = time.monotonic()
        with self._lock:
            over = [
                (task, self._bursts.pop(task))
                for task, burst in list(self._bursts.items())
                if now - burst.latest > QUIET
            ]
            again = self._timing = any(burst.summed for burst in self._bursts.values())
        for task, burst in over:
            self._sum_up(task, burst)
        if again:
            TIMERS.after(QUIET, self._look)

    def flush(self) -> None:
        """Sums up every burst."""
        with self._lock:
            bursts, self._bursts = self._bursts, {}
        for task, burst in bursts.items():
            self._sum_up(task, burst)

    def _sum_up(self, task: Any, burst: _Burst) -> None:
        total = sum(burst.summed.values())
        if not total:
            return
        parts = ", ".join(f"{count:,} {state}" for state, count in sorted(burst.summed.items()))
        level = logging.INFO if set(burst.summed) == {"Completed"} else logging.ERROR
        _say(
            LOGGER,
            level,
            "%s more run%s finished: %s",
            f"{total:,}",
            "" if total == 1 else "s",
            parts,
            extra=burst_facts(task.name, self.flow_run),
        )

    def retried(self, future: TaskFuture[Any], seconds: float) -> None:
        """An attempt has failed and there is to be another."""
        call = future._call
        if call is None or not LOGGER.isEnabledFor(logging.INFO):
            return
        error = future._outcome
        _say(
            self._logger_of(future),
            logging.INFO,
            "Attempt %d of %d did not complete (%s); the next begins in %g s",
            call.attempt - 1,
            future._task.retries + 1,
            in_words(error),
            round(seconds, 3),
        )


def _say(logger: Any, level: int, text: str, *args: Any, **options: Any) -> None:
    """Logs; a handler or filter of the user's that raises must not end what the line is about."""
    try:
        logger.log(level, text, *args, **options)
    except Exception:
        if logging.raiseExceptions:  # what `logging` itself does about a handler that fails
            traceback.print_exc()
