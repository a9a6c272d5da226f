"""Errors of the library's own, in service threads, loops and callbacks: the runs that depend on these end (SPEC 7.5, 7.7)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from shoal import flow, safely, task
from shoal.calls import Report
from shoal.engine.services import TIMERS, guarded
from shoal.exceptions import (
    BackendError,
    CrashedRun,
    RunnerStateError,
    SerializationError,
    WorkerDied,
)
from shoal.logs import log_failure
from shoal.scheduling import effects
from shoal.scheduling.capabilities import Capabilities
from shoal.scheduling.dispatchers import PullingDispatcher
from shoal.scheduling.ledger_events import LedgerEvents
from shoal.scheduling.pulling import PullingScheduler
from shoal.serialization import loads, pack_error
from shoal.task_runners import ExecutorTaskRunner, ProcessPoolTaskRunner, ThreadPoolTaskRunner
from shoal.task_runners.base import BaseTaskRunner
from shoal.task_runners.remote import messages
from shoal.task_runners.remote.batches import BEGUN
from shoal.task_runners.remote.record import ARGUMENTS, Record, outcomes_in
from shoal.task_runners.remote.worker import RemoteWorker
from shoal.task_runners.workers import Worker
from shoal.testing.samples import identity, inc
from shoal.testing.section_7_oddities import ODD, Hidden
from shoal.testing.tools import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.calls import Batch


class BugError(Exception):
    """What must not happen."""


def fails(*_: Any, **__: Any) -> Any:
    raise BugError("a bug")


@task
async def later(x: int) -> int:
    return x


def is_crashed_by_the_bug(run: Any) -> bool:
    error = run.exception(timeout=PATIENCE)
    return (
        run.state.is_crashed()
        and isinstance(error, CrashedRun)
        and isinstance(error.cause, BugError)
    )


# ---------------------------------------------------------------------- threads and loops of the driver


def test_a_loop_that_cannot_take_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolTaskRunner(2) as runner:
        monkeypatch.setattr(PullingScheduler, "take_async", fails)
        assert is_crashed_by_the_bug(runner.submit(later, {"x": 1}))
        with pytest.raises(RunnerStateError, match="a bug"):
            runner.submit(inc, {"x": 1})


def test_a_worker_that_cannot_take_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolTaskRunner(1) as runner:
        monkeypatch.setattr(PullingScheduler, "pop", fails)
        monkeypatch.setattr(PullingScheduler, "take", fails)
        assert is_crashed_by_the_bug(runner.submit(inc, {"x": 1}))


def test_a_run_whose_end_cannot_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolTaskRunner(1) as runner:
        with monkeypatch.context() as patched:
            patched.setattr(PullingScheduler, "complete", fails)
            assert is_crashed_by_the_bug(runner.submit(inc, {"x": 1}))
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


def test_an_element_whose_end_cannot_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    run_element = Worker._run_element

    def fails_once(self: Worker, record: Any, index: int) -> float:
        if index == 3:
            raise BugError("a bug")
        return run_element(self, record, index)

    monkeypatch.setattr(Worker, "_run_element", fails_once)
    with ThreadPoolTaskRunner(1) as runner:
        runs = runner.map(inc, {"x": range(6)})
        runs.wait(PATIENCE)
        assert is_crashed_by_the_bug(runs[3])
        assert [run.result() for run in runs if run.state.is_completed()] == [1, 2, 3, 5, 6]


def test_a_coroutine_whose_end_cannot_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolTaskRunner(1) as runner:
        with monkeypatch.context() as patched:
            patched.setattr(PullingDispatcher, "ended", fails)
            assert is_crashed_by_the_bug(runner.submit(later, {"x": 1}))
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


def test_a_retry_that_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolTaskRunner(1) as runner:
        monkeypatch.setattr(PullingScheduler, "due", fails)
        run = runner.submit(
            task(fails).with_options(retries=1, retry_delay_seconds=0.001, name="fails"), {}
        )
        assert is_crashed_by_the_bug(run)
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


def test_what_a_worker_says_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker is ended, and with it what it runs; the pool goes on."""
    told, failed = LedgerEvents.told, threading.Event()

    def fails_once(self: LedgerEvents, report: Any) -> bool:
        if not failed.is_set():
            failed.set()
            fails()
        return told(self, report)

    with ProcessPoolTaskRunner(1) as runner:
        assert runner.submit(inc, {"x": 0}).result(timeout=PATIENCE) == 1
        monkeypatch.setattr(LedgerEvents, "told", fails_once)
        run = runner.submit(inc, {"x": 1})
        run.wait(PATIENCE)
        assert failed.is_set()
        assert run.done()
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


def test_a_wait_that_cannot_be_told_of_an_end() -> None:
    """The others that wait for the same run are told all the same."""
    with ThreadPoolTaskRunner(1) as runner:
        go = threading.Event()
        run = runner.submit(task(go.wait).with_options(name="waits"), {"timeout": PATIENCE})
        told = threading.Event()
        assert run.watch(fails)
        assert run.watch(lambda ended: told.set())
        go.set()
        assert told.wait(PATIENCE)


def test_the_timer_thread_goes_on() -> None:
    done = threading.Event()

    def leave() -> None:
        raise SystemExit

    TIMERS.after(0, leave)
    TIMERS.after(0.001, done.set)
    assert done.wait(PATIENCE)


class LockOfMainThread:
    """Others, such as a worker that looks again after its run, find it taken."""

    def acquire(self, *, blocking: bool) -> bool:
        return threading.current_thread() is threading.main_thread()

    def release(self) -> None: ...


def test_ctrl_c_while_something_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the main thread, and what was to be done is done later (SPEC 7.6)."""
    with ThreadPoolTaskRunner(1) as runner:
        assert runner.submit(inc, {"x": 0}).result(timeout=PATIENCE) == 1
        runner.end().wait(PATIENCE)  # all that its end asked for is carried out
        dispatcher = runner.scope().dispatcher
        perform, interrupted, done = dispatcher._perform, [], threading.Event()

        def once(effect: Any) -> None:
            if not interrupted:
                interrupted.append(effect)
                raise KeyboardInterrupt
            perform(effect)

        with monkeypatch.context() as patch:
            patch.setattr(dispatcher, "_draining", LockOfMainThread())
            monkeypatch.setattr(dispatcher, "_perform", once)
            dispatcher.scheduler.effects.append((effects.OTHER, Mock(drain=done.set)))
            with pytest.raises(KeyboardInterrupt):
                dispatcher.drain()
        assert not done.is_set()
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2
        assert done.is_set()
        assert [effect[0] for effect in interrupted] == [effects.OTHER]
        assert not dispatcher.scheduler.effects


# ---------------------------------------------------------------------- backends that are mistaken


class InThisThread:
    """A backend that runs what it is given at once, and says things besides.

    Args:
        says: what it tells before it reports, given its events and the batch.
        values: makes the values that it reports of those that there are.
    """

    captures = False

    def __init__(self, says: Any = None, values: Any = list) -> None:
        self.capabilities = Capabilities(stops=False, recalls=False)
        self.says = says
        self.values = values

    def start(self, events: Any) -> None:
        self.events = events
        events.slots([0])

    def launch(self, batch: Batch) -> None:
        runs = batch.runs
        values = [run._call.task.fn(*run._call.args) for run in runs]
        if self.says is not None:
            self.says(self.events, batch.number)
        told = self.values(values)
        ends = [time.time()] * len(values)
        report = Report(batch.number, range(len(values)), told, ends, 0.001, last=True)
        self.events.reported(report)
        self.events.reported(report)  # twice

    def stop(self, grace: float) -> None: ...


class MistakenRunner(BaseTaskRunner):
    def __init__(self, says: Any = None, values: Any = list) -> None:
        super().__init__()
        self.given = {"says": says, "values": values}

    def settings(self) -> dict[str, Any]:
        return self.given

    def make_backend(self) -> tuple[Any, None]:
        return InThisThread(**self.given), None


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("reported", lambda e, n: e.reported(Report(n + 1000, [0], [1], [1.0], 0.0))),
        ("reported", lambda e, n: e.reported(Report(n, [99], [1], [1.0], 0.0))),
        ("started", lambda e, n: e.started(n, -1)),
        ("started", lambda e, n: e.started(0, 0)),
        ("returned", lambda e, n: e.returned(n, 1 << 40)),
        ("handed_back", lambda e, n: e.handed_back(n, [0, 5])),
        ("handed_back", lambda e, n: e.handed_back(n + 1, [0])),
        ("lost", lambda e, n: e.lost(n, WorkerDied, [17])),
        ("lost", lambda e, n: e.lost(n + 9, WorkerDied)),
        ("split", lambda e, n: e.split(-3)),
    ],
    ids=[str(number) for number in range(10)],
)
def test_what_a_backend_makes_up_is_logged_and_harms_no_run(
    event: str, says: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers that do not exist; what comes twice is nothing to speak of (SPEC 11.4)."""
    with MistakenRunner(says) as runner:
        runs = [runner.submit(inc, {"x": number}) for number in range(3)]
        assert [run.result(timeout=PATIENCE) for run in runs] == [1, 2, 3]
    told = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(error) for error in told] == [BackendError] * 3
    assert {error.event for error in told if isinstance(error, BackendError)} == {event}


def test_a_report_with_too_few_values(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows which runs it is about: those of the batch are CRASHED, and the runner goes on (SPEC 11.4)."""
    is_mistaken = [True]
    with MistakenRunner(values=lambda values: [] if is_mistaken.pop() else values) as runner:
        run = runner.submit(inc, {"x": 0})
        run.wait(PATIENCE)
        assert run.state.name == "Crashed"
        assert isinstance(run.state.data.cause, BackendError)
        is_mistaken.append(False)
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


def test_a_backend_that_cannot_launch_fails_the_runs_of_the_batch() -> None:
    """And not the runner (SPEC 11.4)."""

    def refuses(events: Any, number: int) -> None:
        if number == 1:
            raise OSError("the queue is full")

    with MistakenRunner(refuses) as runner:
        run = runner.submit(inc, {"x": 0})
        run.wait(PATIENCE)
        assert run.state.name == "Crashed"
        assert "the queue is full" in run.state.message
        assert runner.submit(inc, {"x": 1}).result(timeout=PATIENCE) == 2


# ---------------------------------------------------------------------- workers


class Heard:
    """A channel that remembers what was said."""

    def __init__(self, error: Exception | None = None) -> None:
        self.said: list[tuple[int, bytes]] = []
        self.error = error

    def send(self, kind: int, body: bytes = b"") -> None:
        if self.error is not None:
            raise self.error
        self.said.append((kind, body))


def test_a_worker_tells_what_went_wrong_with_it() -> None:
    channel = Heard()
    RemoteWorker(channel, 1.0).guarded(fails)()
    ((kind, body),) = channel.said
    assert kind == messages.FAILED
    assert isinstance(loads(body), BugError)


def test_a_worker_whose_driver_has_gone_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    channel = Heard(BrokenPipeError())
    worker = RemoteWorker(channel, 1.0)
    worker.guarded(lambda: channel.send(1))()
    assert caplog.records == []
    worker.guarded(fails)()


def outcomes_of(record: Record) -> Any:
    with open(record.path, "rb") as file:
        return outcomes_in(file.read(), lambda key: key, set())


def test_what_a_record_says_of_batches(tmp_path: Path) -> None:
    record = Record(str(tmp_path))
    begun, arguments, function, nothing, failed = (record.open(n, 3) for n in range(1, 6))
    record.unpickles(begun, ARGUMENTS)
    lane = record.begin(begun, 3)
    assert lane is not None
    lane.words[1] = BEGUN
    record.unpickles(arguments, ARGUMENTS)
    record.unpickles(function, 7 + 1)
    record.unpickles(failed, ARGUMENTS)
    record.close_lane(failed)
    assert nothing >= 0
    found = outcomes_of(record)
    assert {number: list(of.begun) for number, of in found.items()} == {1: [1], 2: [], 3: [], 4: []}
    assert {n: of.unpacking for n, of in found.items()} == {1: 0, 2: ARGUMENTS, 3: 7 + 1, 4: 0}
    record.remove()


def test_a_lane_is_of_its_last_batch(tmp_path: Path) -> None:
    record = Record(str(tmp_path))
    lane = record.open(1, 3)
    columns = record.begin(lane, 3)
    assert columns is not None
    columns.words[2] = BEGUN
    record.close_lane(lane)
    lanes = [record.open(number, 3) for number in range(2, 2000)]
    assert lane in lanes
    assert -1 in lanes, "there are not so many"
    assert 1 not in outcomes_of(record)
    record.remove()


def test_a_coroutine_that_cancels_itself_leaves_its_neighbours_alone() -> None:  # SPEC 7.4
    @task
    async def cancels(x: int) -> int:
        if x == 2:
            raise asyncio.CancelledError
        return x

    @flow(task_runner=ExecutorTaskRunner(ProcessPoolExecutor, max_workers=1))
    def main() -> list[str]:
        runs = cancels.map([1, 2, 3])
        runs.wait(PATIENCE)
        return [run.state.name for run in runs]

    assert main() == ["Completed", "Cancelled", "Completed"]


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize("kind", ODD)
def test_words_for_any_exception(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    error = kind()
    for words in (safely.text_of(error), safely.repr_of(error), safely.in_words(error)):
        assert type(words) is str
    assert safely.kind_of(error) == kind.__name__
    assert safely.is_error(error)
    assert safely.with_traceback(error, None) is error
    with caplog.at_level(logging.ERROR, "shoal"):
        log_failure(error, "It failed for %s", "a test")
    assert "It failed for a test" in caplog.text
    assert isinstance(loads(pack_error(error, "run-1")), (kind, SerializationError))


def test_a_guarded_action_tells_of_anything() -> None:
    told: list[BaseException] = []
    error = Hidden()

    def action(*given: Any) -> None:
        assert given == (1,)
        raise error

    guarded(action, told.append)(1)
    assert [each is error for each in told] == [True]


def test_arguments_that_cannot_be_put_together() -> None:
    class Leaves(list[Any]):
        """A list that cannot be copied."""

        def __copy__(self) -> Any:
            raise SystemExit

    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        for each in (identity, later):
            run = each.submit(Leaves([inc.submit(1)]))
            run.wait(PATIENCE)
            assert run.state.is_crashed()
        assert inc.submit(1).result(timeout=PATIENCE) == 2

    main()


def test_a_backend_that_is_interrupted_as_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC 7.6: what it left behind is given up all the same, and the runner can be entered again."""
    runner = ThreadPoolTaskRunner(max_workers=1)
    began, goes_on = threading.Event(), threading.Event()

    @task
    def stays() -> None:
        began.set()
        goes_on.wait(PATIENCE)

    def stop(grace: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), runner:  # noqa: PT012 - it is in leaving that it comes
        backend = runner._entered("be looked at").backend
        stays_behind = runner.submit(stays, {})
        assert began.wait(PATIENCE)
        really_stop = backend.stop
        monkeypatch.setattr(backend, "stop", stop)
        raise BugError
    assert stays_behind.done()
    goes_on.set()
    really_stop(PATIENCE)
    with runner:
        assert runner.submit(inc, {"x": 1}).result() == 2
