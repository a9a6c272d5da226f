"""How often a worker reports while a batch goes on; here without a driver, and with a clock that is set."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from shoal import task
from shoal.engine.batch_run import Surroundings, pack_task
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages, worker_thread
from shoal.task_runners.remote.cluster_thread import ClusterThread
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.parcels import pack
from shoal.task_runners.remote.worker_thread import REPORTED_WITHIN

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds of a run; and by which a timer is late, while the runs hold the interpreter lock.
RUN, LATE = 0.01, 0.005


class Time:
    """Stands for `time`, and for the thread of timers."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        """See `time`."""
        return self.now

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """See `TIMERS`."""
        self._due.append((self.now + seconds + LATE, action))

    def goes_on(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        due = [entry for entry in self._due if entry[0] <= self.now]
        self._due = [entry for entry in self._due if entry not in due]
        for _, action in due:
            action()


@task
def same(x: int) -> int:
    return x


def reports_of(time: Time, runs: int, report_every: float) -> list[tuple[float, int]]:
    """When a batch was reported, in seconds after its start, and how many runs had ended since the last report."""
    reports: list[tuple[float, int]] = []
    began = time.now

    def hear(kind: int, body: bytes = b"") -> None:
        if kind == messages.ENDS:
            reports.append((time.now - began, len(loads(body)[3])))

    class Thread(ClusterThread):
        def _run(self, *args: Any) -> Any:
            time.goes_on(RUN)
            return super()._run(*args)

    channel: Any = SimpleNamespace(send=hear)
    worker = ClusterWorker(channel, report_every)
    worker.surround(dumps(Surroundings(0, 0, False, None, False, False, None, observed=False)))
    worker.learn(1, pack_task(same)[1])
    content = ("calls", 1, list(range(1000, 1000 + runs)), [(x,) for x in range(runs)])
    assert worker.begins(5)
    batch = worker.opened(5, dumps((runs, [1], [frozenset()], pack(content).data, {}, False)))
    assert batch is not None
    thread = batch.worker_thread = Thread(worker)
    thread.enter()
    thread.run_job(batch)
    thread.leave()
    return reports


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(worker_thread, "time", time)
    monkeypatch.setattr(worker_thread, "TIMERS", time)
    return time


@pytest.mark.parametrize("runs", [1, 2, 7, 40, 100])
@pytest.mark.parametrize("report_every", [0.003, 0.02, REPORTED_WITHIN])
def test_what_has_ended_is_reported_in_time_and_once_in_a_while(
    time: Time, runs: int, report_every: float
) -> None:
    """Each report is a message, which costs the driver as much as many runs."""
    reports = reports_of(time, runs, report_every)
    assert sum(count for _, count in reports) == runs
    assert reports[-1][0] == pytest.approx(runs * RUN)
    times = [0.0, *(seconds for seconds, _ in reports)]
    waited = [later - earlier for earlier, later in pairwise(times)]
    assert max(waited) < RUN + REPORTED_WITHIN + LATE + RUN
    every = report_every
    for seconds in waited[:-1]:  # the last report is that of the end
        assert seconds >= every
        every = min(2 * every, REPORTED_WITHIN)
