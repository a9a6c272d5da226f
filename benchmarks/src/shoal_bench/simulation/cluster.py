"""The cluster: a queue, and workers behind it. Played, with the words that real ones use.

    driver ──job──▶ queue ──job──▶ worker ─ arrived ─▶ driver
                      ▲              │ runs, one after the other
                      └────free──────┴─ reported ────▶ driver

Each arrow takes one latency. The queue itself takes no time, and gives the job that came first to the worker that has
been free for longest. A worker that dies is missed after one latency; what it wrote down is read in two more.
"""

from __future__ import annotations

import itertools
import math
import random
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from shoal.calls import Report
from shoal.futures.maps import Span
from shoal.scheduling.in_flight import InFlight, Outcomes, WorkerState
from shoal.task_runners.remote.worker_thread import REPORTED_WITHIN

from shoal_bench.simulation.clock import VirtualTime
from shoal_bench.simulation.driver import Driver
from shoal_bench.simulation.model import BadSimulation, Cluster

__all__ = ["PlayedCluster"]

#: Seconds until another worker is there in the place of one that has died.
REPLACED_WITHIN = 10.0
HOUR = 3600.0
#: Jobs for each worker that meet its death one after the other, while no task ends, from which none is to be expected; and
#: some more for few workers.
FUTILE, FUTILE_OF_FEW = 10, 1000


class Execution:
    """A batch at a worker.

    Attributes:
        entry: the batch, as the driver's books have it.
        ends: when each of its runs ends, as far as it is going to run them.
        reported: how many were reported.
        since: when that was, or when it began.
        next_report: how many will be reported then.
    """

    __slots__ = ("ends", "entry", "next_report", "reported", "since")

    def __init__(self, entry: InFlight, ends: list[float], since: float) -> None:
        self.entry = entry
        self.ends = ends
        self.reported = 0
        self.since = since
        self.next_report = 0


class Worker:
    """A worker process with one thread.

    Attributes:
        state: the same, as the driver's ledger knows it.
        execution: what it is at, or was when it died.
        died: when it did; infinity while it lives.
        is_missed: whether the queue knows of that.
    """

    __slots__ = ("died", "execution", "is_missed", "state")

    def __init__(self, key: int) -> None:
        self.state = WorkerState(key)
        self.state.host = "elsewhere"
        self.execution: Execution | None = None
        self.died = math.inf
        self.is_missed = False


class PlayedCluster:
    """See the module. What the driver has to say comes in by the methods of `System`.

    Args:
        cluster: what it is like.
        durations: seconds that each task takes.
        time: virtual time.

    Attributes:
        driver: whom to tell; to be set before it begins.
        deaths: workers that have died.
    """

    driver: Driver

    def __init__(self, cluster: Cluster, durations: array[float], time: VirtualTime) -> None:
        self._cluster = cluster
        self._latency = cluster.latency
        self._durations = durations
        self._time = time
        self._keys = itertools.count(1)
        self._drawn = random.Random(f"deaths {cluster.seed}")
        self._queue: deque[InFlight] = deque()
        self._idle: deque[Worker] = deque()
        self._workers: dict[object, Worker] = {}  # also those that have died, until that is settled
        self._living = 0
        self._lost_in_a_row = 0
        self.deaths = 0

    # ------------------------------------------------------------------ workers come and go

    def begin(self) -> None:
        """All workers are there, or are about to come."""
        cluster = self._cluster
        if cluster.ramp:
            self.driver.begin([], 1, awaited=True)
            for number in range(1, cluster.workers + 1):
                self._time.at(cluster.ramp * number / cluster.workers, self._join)
            return
        self._idle.extend(self._new_worker() for _ in range(cluster.workers))
        states = [worker.state for worker in self._idle]
        self.driver.begin(states, len(states), awaited=False)

    def _new_worker(self) -> Worker:
        key = next(self._keys)
        worker = self._workers[key] = Worker(key)
        self._living += 1
        if self._cluster.deaths_per_hour:
            lives = self._drawn.expovariate(self._cluster.deaths_per_hour / HOUR)
            self._time.at(self._time.now + lives, self._die, worker)
        return worker

    def _join(self) -> None:
        worker = self._new_worker()
        self._in_a_latency(self.driver.joined, worker.state, self._living)
        self._in_a_latency(self._free, worker)

    def _die(self, worker: Worker) -> None:
        worker.died = self._time.now
        self.deaths += 1
        self._living -= 1
        if worker.execution is not None:
            self._lose()
        self._in_a_latency(self._miss, worker)
        self._in_a_latency(self.driver.left, worker.state, self._living)
        self._time.at(self._time.now + REPLACED_WITHIN, self._join)

    def _lose(self) -> None:
        """A job has met the death of its worker."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row > FUTILE * self._cluster.workers + FUTILE_OF_FEW:
            rate = self._cluster.deaths_per_hour
            raise BadSimulation("deaths_per_hour", rate, "workers die before they end a task")

    def _miss(self, worker: Worker) -> None:
        worker.is_missed = True

    def read_outcomes(self, state: WorkerState) -> None:
        """See `System`."""
        worker = self._workers.pop(state.key)
        outcomes = {}
        execution = worker.execution
        if execution is not None:
            ended = bisect_right(execution.ends, worker.died)
            if ended > execution.reported:
                self._lost_in_a_row = 0
            positions = range(execution.reported, ended)
            begun = [ended] if ended < len(execution.ends) else []
            ends = execution.ends[execution.reported : ended]
            written = Outcomes(positions, [None] * len(ends), ends, begun)
            outcomes[execution.entry.number] = written
        self._in_a_latency(self.driver.outcomes_read, state, outcomes)

    # ------------------------------------------------------------------ the queue

    def submit(self, entry: InFlight) -> None:
        """See `System`. Hot."""
        while self._idle:
            worker = self._idle.popleft()
            if not worker.is_missed:
                self._in_a_latency(self._take, worker, entry)
                return
        self._queue.append(entry)

    def _free(self, worker: Worker) -> None:
        """A worker can take the next job. Hot."""
        if worker.is_missed:
            return
        if self._queue:
            self._in_a_latency(self._take, worker, self._queue.popleft())
        else:
            self._idle.append(worker)

    # ------------------------------------------------------------------ workers

    def _take(self, worker: Worker, entry: InFlight) -> None:
        """A worker begins a job. Hot."""
        if worker.died < math.inf:
            self._lose()
            self._in_a_latency(self.submit, entry)  # the queue gives it to another
            return
        now = self._time.now
        runs = entry.batch.runs
        if type(runs) is Span:
            taken = self._durations[runs.start : runs.stop]
        else:
            base = self.driver.record.base
            taken = array("d", [self._durations[run._number - base] for run in runs])
        ends = list(accumulate(taken, initial=now))
        del ends[0]
        worker.execution = execution = Execution(entry, ends, now)
        self._in_a_latency(self.driver.arrived, worker.state, entry.number)
        self._plan_report(worker, execution)

    def _plan_report(self, worker: Worker, execution: Execution) -> None:
        """The next report comes with the first end after a while, or with the last. Hot."""
        ends = execution.ends
        place = bisect_left(ends, execution.since + REPORTED_WITHIN, execution.reported)
        execution.next_report = count = min(place + 1, len(ends))
        self._time.at(ends[count - 1], self._report, worker, execution, count)

    def _report(self, worker: Worker, execution: Execution, count: int) -> None:
        """Runs have ended, and are reported. Hot."""
        if worker.died < math.inf or execution.next_report != count:
            return  # it has died, or given back what it was about to run
        self._lost_in_a_row = 0
        now = self._time.now
        first, ends = execution.reported, execution.ends
        is_last = count == len(ends)
        values = [None] * (count - first)
        positions = range(first, count)
        seconds = now - execution.since
        number = execution.entry.number
        report = Report(number, positions, values, ends[first:count], seconds, last=is_last)
        self._in_a_latency(self.driver.reported, report)
        if is_last:
            worker.execution = None
            self._in_a_latency(self._free, worker)
        else:
            execution.reported, execution.since = count, now
            self._plan_report(worker, execution)

    def recall(self, state: WorkerState, number: int) -> None:
        """See `System`: all but what is being run is given back."""
        worker = self._workers[state.key]
        execution = worker.execution
        if worker.died < math.inf or execution is None or execution.entry.number != number:
            return
        ends = execution.ends
        kept = bisect_right(ends, self._time.now) + 1
        if kept < len(ends):
            back = list(range(kept, len(ends)))
            del ends[kept:]
            self._in_a_latency(self.driver.handed_back, number, back)
            if (
                execution.next_report > kept
            ):  # else it is still right, and planned twice it would come twice
                self._plan_report(worker, execution)

    def _in_a_latency(self, action: Callable[..., None], *arguments: Any) -> None:
        self._time.at(self._time.now + self._latency, action, *arguments)
