"""What a message costs the driver, apart from what is decided about it: measured on this machine, with the real code.

    out   a batch is packed, described, and written to a socket
    in    a worker's word is read from a socket, and unpickled

What the system's own client does for a job comes on top of that: see `engines`.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from shoal import task
from shoal.calls import Batch, Report
from shoal.context import Scope
from shoal.futures.maps import MapRecord, Span
from shoal.names import reserve
from shoal.scheduling.capabilities import LedgerRules
from shoal.scheduling.dispatchers import LedgerDispatcher
from shoal.serialization import dumps, loads
from shoal.task_runners.remote.batch_serializer import BatchSerializer
from shoal.task_runners.remote.cluster_backend import ClusterBackend
from shoal.task_runners.remote.columns import KEPT, PICKLED, PLAIN

__all__ = [
    "FREE",
    "RULES",
    "DriverCosts",
    "Line",
    "dispatcher_of_nothing",
    "measure_costs",
    "played",
]

RULES = LedgerRules("the simulated cluster")
#: As on Dask: seconds that the driver spends on a message, by which it is decided how many are made; and seconds after
#: which a task whose first runs have not ended counts as slow, and an idle worker gets what others hold.
COST = 0.001
PATIENCE = 0.05

#: Runs in the larger of the two messages that a cost a run is worked out from.
MANY = 200
#: Messages of each kind, of which the median counts; and bytes that are read at once, more than any has.
MESSAGES = 500
BUFFER = 1 << 16


@dataclass(frozen=True)
class Line:
    """A cost that grows with the number of runs in a message.

    Attributes:
        message: seconds for the message.
        run: seconds for each run in it, besides.
    """

    message: float = 0.0
    run: float = 0.0

    def of(self, runs: int) -> float:
        """Seconds for a message about so many runs. Hot."""
        return self.message + self.run * runs

    @classmethod
    def through(cls, one: float, many: float) -> Line:
        """The line through what a message costs with one run in it, and with `MANY`."""
        run = max(many - one, 0.0) / (MANY - 1)
        return cls(max(one - run, 0.0), run)


@dataclass(frozen=True)
class DriverCosts:
    """What the driver's time is made of.

    Attributes:
        clock: tells the CPU time of this thread, in seconds, before and after each step of scheduler and ledger.
        batch: a batch is sent.
        report: the ends of runs are heard.
        word: anything else is heard or said.
        job: what the system's own client takes for a batch, besides; see `engines`.
    """

    clock: Callable[[], float] = time.thread_time
    batch: Line = Line()
    report: Line = Line()
    word: float = 0.0
    job: float = 0.0


#: A driver that takes no time: what comes out depends on nothing but the options.
FREE = DriverCosts(clock=lambda: 0.0)


@task
def played(x: int) -> int:
    """What every task of a simulation stands for; it is never called."""
    return x


class NeverStarted(ClusterBackend):
    """A cluster that is only asked what it can do."""

    def start(self, events: Any) -> None:
        """Is never called, as is all that follows."""
        raise NotImplementedError

    def stop(self, grace: float) -> None:
        """See `start`."""
        raise NotImplementedError

    def kill(self, worker: Any, job: Any, run: Any) -> None:
        """See `start`."""
        raise NotImplementedError

    def read_outcomes(self, worker: Any) -> None:
        """See `start`."""
        raise NotImplementedError

    def is_listening(self) -> bool:
        """See `start`."""
        raise NotImplementedError


def dispatcher_of_nothing() -> LedgerDispatcher:
    """A dispatcher for runs of a cluster that is never started: whose scheduler it is, and what maps belong to."""
    backend: Any = NeverStarted(RULES, cost=COST, patience=PATIENCE)
    return LedgerDispatcher(backend, RULES, RULES.name)


def measure_costs(job: float = 0.0) -> DriverCosts:
    """What messages cost here and now; takes about a tenth of a second.

    Args:
        job: seconds that the system's own client takes for a batch.
    """
    dispatcher = dispatcher_of_nothing()
    scope = Scope(dispatcher, None)
    record: MapRecord[int] = MapRecord(
        dispatcher,
        played,
        reserve(MANY),
        MANY,
        [(list(range(MANY)), None)],
        None,
        copy_context(),
        scope,
    )
    serializer = BatchSerializer(dispatcher, lambda value, packed: value)
    driver_end, worker_end = socket.socketpair()
    with closing(driver_end), closing(worker_end):

        def send(batch: Batch) -> None:
            content, tasks, tags, failed = serializer.of(batch)
            _, packed = serializer.pack(content, failed)
            assert packed is not None  # integers can be pickled
            pickles = {key: serializer.packed_tasks[key] for key in tasks}
            driver_end.sendall(dumps((len(batch), tasks, tags, packed.data, pickles)))

        def hear_report() -> None:
            number, where, kinds, values, ends, seconds, last = loads(driver_end.recv(BUFFER))
            if PICKLED in kinds or KEPT in kinds:
                raise ValueError("values here are plain")
            Report(number, range(*where), values, ends, seconds, last=last)

        def hear_word() -> None:
            loads(driver_end.recv(BUFFER))

        def cost_of_batch(runs: int) -> float:
            batch = Batch(1, 0, Span(record, 0, runs), None)
            return _median(lambda: send(batch), after=lambda: worker_end.recv(BUFFER))

        def cost_of_report(runs: int) -> float:
            ends = [time.time()] * runs
            body = dumps((1, (0, runs), bytes([PLAIN]) * runs, [*range(runs)], ends, 0.0, True))
            return _median(hear_report, before=lambda: worker_end.sendall(body))

        word = dumps(1)
        return DriverCosts(
            batch=Line.through(cost_of_batch(1), cost_of_batch(MANY)),
            report=Line.through(cost_of_report(1), cost_of_report(MANY)),
            word=_median(hear_word, before=lambda: worker_end.sendall(word)),
            job=job,
        )


def _median(
    action: Callable[[], None],
    before: Callable[[], Any] = lambda: None,
    after: Callable[[], Any] = lambda: None,
) -> float:
    """CPU seconds of an action, without what must be done before and after it."""
    taken = []
    for _ in range(MESSAGES):
        before()
        started = time.thread_time()
        action()
        taken.append(time.thread_time() - started)
        after()
    return statistics.median(taken)
