"""The scheduler's rules, by themselves: events in any order, no threads, no clock (DESIGN: Scheduler).

One machine for both kinds of backends. It plays everyone else: who submits, the workers, the timers. After each step it
checks what must hold at every moment; at the end it lets everything run out and checks that nothing was forgotten.
"""

from __future__ import annotations

import itertools
from collections import Counter
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from shoal import task
from shoal.calls import (
    AWAITING_RETRY,
    CANCELLED,
    COMPLETED,
    DONE,
    FAILED,
    NOT_READY,
    READY,
    WAITING,
    Batch,
    Call,
    Outcome,
)
from shoal.engine.inputs import Input
from shoal.exceptions import WorkerDied
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.maps import MapRecord, Span
from shoal.names import next_number, reserve
from shoal.scheduling import effects
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities
from shoal.scheduling.dispatchers import dispatcher_for

if TYPE_CHECKING:
    from collections.abc import Iterable

WINDOW = 2


class Slots:
    """Plays the gate of one limit: who holds a slot of it, and who asked for one in vain so far."""

    def __init__(self, scheduler: Any, most: int) -> None:
        self.scheduler = scheduler
        self.most = most
        self.held: set[TaskFuture[Any]] = set()
        self.queued: list[TaskFuture[Any]] = []

    def perform(self, kind: int, run: TaskFuture[Any]) -> None:
        if kind == effects.LIMIT:
            self.queued.append(run)
        elif run in self.queued:
            self.queued.remove(run)
        else:
            self.held.discard(run)  # a run that never asked may be told of as well
        while self.queued and len(self.held) < self.most:
            run = self.queued.pop(0)
            self.held.add(run)
            self.scheduler.admitted(run)


@task(crash_retries=1)
def work(x: int) -> int:
    return x


#: Under no cap but that of the flow, and under caps of their own.
TASKS = (work, work.with_options(max_concurrency=1), work.with_options(max_concurrency=2))


def task_of(batch: Batch) -> Any:
    """The task of what a batch is under the caps of."""
    return batch.runs.record.task if isinstance(batch.runs, Span) else batch.runs[0]._task


def check_caps(at_work: Iterable[Any], whole: int | None) -> None:
    """SPEC 10.3. No more execute than the caps allow.

    Args:
        at_work: the task of each that executes, or may.
        whole: the cap of all.
    """
    count = Counter(one.cap for one in at_work)
    assert whole is None or count.total() <= whole
    for cap, places in count.items():
        assert cap is None or places <= cap.limit


def check_lines(scheduler: Any) -> None:
    """SPEC 10.3. What waits for a place has one that is taken before it, and is queued once there is one."""
    for line in scheduler.caps.lines() if scheduler.caps is not None else ():
        assert line.room() >= 0
        queued = line in scheduler.ready or line in scheduler.ready_async
        assert line.queued == queued
        assert queued or not line.prune() or line.room() == 0


def check_all_free(scheduler: Any) -> None:
    """SPEC 10.3. Who has ended, or been cancelled, has left no place taken, and waits for none."""
    if scheduler.caps is not None:
        assert not scheduler.caps.going_on
        for line in scheduler.caps.lines():
            assert not line.prune()
            assert all(cap.taken == 0 for cap in line.caps)


class Worker:
    """A worker of a pulling backend: holds what it took."""

    line: Any = None

    def __init__(self) -> None:
        self.counted = False
        self.work: TaskFuture[Any] | Span | None = None

    def is_asleep(self) -> bool:
        return self.work is None


class Backend:
    captures = False

    def __init__(self, pulls: bool) -> None:
        policy = BatchPolicy(target=1.0, alone=2.0, cap=4, window=WINDOW)
        self.capabilities = Capabilities(pulls=pulls, policy=policy)


class Machine(RuleBasedStateMachine):
    pulls = True

    @initialize(slots=st.integers(1, 3), known=st.booleans(), whole=st.none() | st.integers(1, 2))
    def begin(self, slots: int, known: bool, whole: int | None) -> None:
        self.time = itertools.count(1)
        backend: Any = Backend(self.pulls)
        self.dispatcher = dispatcher_for(backend, None, "fake")
        self.scheduler = self.dispatcher.scheduler
        self.whole = whole
        if whole is not None:
            self.dispatcher.cap_all(whole)
        for one in TASKS if known else ():  # runs are known to be short, so they travel together
            self.scheduler.durations.observe(one, 0.1, 100)
        self.runs: list[TaskFuture[Any]] = []
        self.lists: list[TaskFutureList[Any]] = []
        self.upstreams: dict[TaskFuture[Any], list[Input]] = {}
        self.started: dict[TaskFuture[Any], int] = {}
        self.ends: dict[TaskFuture[Any], tuple[int, Any]] = {}
        self.timers: list[TaskFuture[Any]] = []
        self.batches: dict[int, tuple[Batch, list[int]]] = {}
        self.workers = [Worker() for _ in range(slots)] if self.pulls else []
        self.slots = Slots(self.scheduler, 2)
        self.must_be_cancelled: set[TaskFuture[Any]] = set()
        if self.pulls:
            self.scheduler.workers = self.workers
        else:
            self.scheduler.slots_changed(range(slots))
        self.follow()

    # ------------------------------------------------------------------ what the dispatcher would do

    def follow(self) -> None:
        while self.scheduler.effects:
            effect = self.scheduler.effects.popleft()
            if effect[0] == effects.TIMER:
                self.timers.append(effect[1])
            elif effect[0] == effects.LAUNCH:
                batch = effect[1]
                assert batch.number not in self.batches
                self.batches[batch.number] = (batch, list(range(len(batch))))
            elif effect[0] in (effects.LIMIT, effects.RELEASE):
                self.slots.perform(effect[0], effect[1])

    def start(self, future: TaskFuture[Any]) -> None:
        """A worker begins a run: what must hold then."""
        assert future._phase < DONE
        for entry in self.upstreams.get(future, ()):
            upstream = entry.future
            assert isinstance(upstream, TaskFuture)
            assert upstream._phase >= DONE
            assert upstream._phase == COMPLETED or entry.allow_failure
        assert not future._details().limited or future in self.slots.held
        self.started[future] = self.started.get(future, 0) + 1

    def end(self, future: TaskFuture[Any], how: str) -> None:
        call = future._call
        if call is None:  # it was cancelled meanwhile
            self.scheduler.complete(future, "late", next(self.time))
            return
        if how == "completes":
            self.scheduler.ended(future, Outcome(COMPLETED, call.number), next(self.time))
        elif how == "retries" and call.attempt < 3:
            self.scheduler.ended(future, Outcome(AWAITING_RETRY, ValueError()), next(self.time))
        else:
            self.scheduler.ended(future, Outcome(FAILED, ValueError("failed")), next(self.time))

    # ------------------------------------------------------------------ runs come in

    @rule(
        choices=st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=3),
        limited=st.booleans(),
        one=st.sampled_from(TASKS),
    )
    def submit(self, choices: list[tuple[int, bool]], limited: bool, one: Any) -> None:
        number = next_number()
        call = Call(one, (number,), None, number, copy_context(), None)
        future: TaskFuture[Any] = TaskFuture(self.dispatcher, one, number, call, next(self.time))
        chosen = {self.runs[i % len(self.runs)]: allowed for i, allowed in choices if self.runs}
        inputs = [Input(upstream, allowed) for upstream, allowed in chosen.items()]
        self.runs.append(future)
        self.upstreams[future] = inputs
        if limited:
            future._details().limited = frozenset({"two"})
        if inputs or limited:
            self.scheduler.submit_after(future, inputs)
        else:
            self.scheduler.submit(future)
        self.follow()

    @rule(size=st.integers(1, 9), watched=st.booleans(), one=st.sampled_from(TASKS))
    def submit_map(self, size: int, watched: bool, one: Any) -> None:
        record: MapRecord[Any] = MapRecord(
            self.dispatcher,
            one,
            reserve(size),
            size,
            [(list(range(size)), None)],
            None,
            copy_context(),
            None,  # type: ignore[arg-type]
        )
        futures: TaskFutureList[Any] = TaskFutureList(record)
        self.lists.append(futures)
        if watched:
            self.runs.extend(futures)
        self.scheduler.submit_map(record)
        self.follow()

    @rule(which=st.integers(0, 200), index=st.integers(0, 8))
    def look_into_a_map(self, which: int, index: int) -> None:
        if self.lists:
            futures = self.lists[which % len(self.lists)]
            future = futures[index % len(futures)]
            if future not in self.runs:
                self.runs.append(future)

    # ------------------------------------------------------------------ workers that pull

    @rule(which=st.integers(0, 2), how=st.sampled_from(["completes", "fails", "retries"]))
    def worker_goes_on(self, which: int, how: str) -> None:
        if not self.pulls:
            return
        worker = self.workers[which % len(self.workers)]
        if worker.work is None:
            if worker in self.scheduler.idle:
                self.scheduler.idle.remove(worker)
            worker.work = self.scheduler.take(worker)
            if isinstance(worker.work, TaskFuture):
                self.start(worker.work)
        elif isinstance(worker.work, TaskFuture):
            self.end(worker.work, how)
            worker.work = None
            self.scheduler.vacated(worker)
        else:
            self.element_goes_on(worker, worker.work, how)
        self.follow()

    def element_goes_on(self, worker: Worker, span: Span, how: str) -> None:
        record = span.record
        index = next(span.indices, None)
        if index is None:
            worker.work = None
            self.scheduler.span_ended(worker, span, len(span), 0.0, 0.0)
            return
        record.since[index] = next(self.time)
        if index not in record.futures and how == "completes":
            self.scheduler.element_completed(record, index, index, next(self.time))
            return
        future = record.materialize(index)
        future._claim()
        if future._phase < DONE:
            self.start(future)
            future._call = future._call or record.call(index)
            self.end(future, how)

    @rule(which=st.integers(0, 2))
    def a_span_is_taken_back(self, which: int) -> None:
        if self.pulls:
            span = self.workers[which % len(self.workers)].work
            if isinstance(span, Span):
                self.scheduler.take_back(span)
            self.follow()

    # ------------------------------------------------------------------ batches that were pushed

    @rule(
        which=st.integers(0, 9),
        count=st.integers(1, 5),
        how=st.sampled_from(
            ["completes", "fails", "retries", "back", "late", "split", "dies", "closes"]
        ),
    )
    def batch_goes_on(self, which: int, count: int, how: str) -> None:
        if not self.batches:
            return
        number = sorted(self.batches)[which % len(self.batches)]
        batch, positions = self.batches[number]
        now = float(next(self.time))
        some, rest = positions[:count], positions[count:]
        if how in ("closes", "dies", "split"):
            del self.batches[number]
            if how == "closes":
                self.scheduler.batch_closed(number)
            elif how == "split":
                self.scheduler.batch_split(number)
            else:
                self.scheduler.batch_lost(number, self.death, some, now)
        elif how == "back":
            self.batches[number] = (batch, rest)
            self.scheduler.batch_handed_back(number, some)
        else:
            values: list[Any] = [self.report(batch, position, how) for position in some]
            self.batches[number] = (batch, rest)
            self.scheduler.batch_observed(number, 0.001 * len(some), len(some))
            self.scheduler.batch_reported(number, some, values, [now] * len(some))
            if how == "late":  # the same again, as a worker may say it twice
                self.scheduler.batch_reported(number, some, ["late"] * len(some), [now] * len(some))
        self.follow()

    def report(self, batch: Batch, position: int, how: str) -> Any:
        if isinstance(batch.runs, Span):
            future = batch.runs.record.futures.get(batch.runs.start + position)
        else:
            future = batch.runs[position]
        if future is not None and future._phase < DONE:
            self.start(future)
        attempt = future._call.attempt if future is not None and future._call is not None else 1
        if how == "fails" or (how == "retries" and attempt >= 3):
            return Outcome(FAILED, ValueError("failed"))
        return Outcome(AWAITING_RETRY, ValueError()) if how == "retries" else position

    @staticmethod
    def death(run_name: str) -> BaseException:
        return WorkerDied(run_name=run_name, host="here")

    # ------------------------------------------------------------------ from outside

    @rule(which=st.integers(0, 200))
    def cancel(self, which: int) -> None:
        if not self.runs:
            return
        future = self.runs[which % len(self.runs)]
        was_done = future._phase >= DONE
        assert self.scheduler.endings.cancel(future, next(self.time)) is not was_done
        if not was_done:
            assert future._phase == CANCELLED
        self.follow()

    @rule(which=st.integers(0, 20))
    def a_delay_is_over(self, which: int) -> None:
        if self.timers:
            self.scheduler.due(self.timers.pop(which % len(self.timers)))
            self.follow()

    @rule(which=st.integers(0, 200))
    def a_limit_is_over(self, which: int) -> None:
        future = self.runs[which % len(self.runs)] if self.runs else None
        if future is not None and future._call is not None:
            self.scheduler.endings.expired(future, future._call.attempt, 1.0, next(self.time))
            self.follow()

    @rule(most=st.integers(1, 5))
    def cancel_all(self, most: int) -> None:
        waiting = [future for future in self.runs if future._phase in (WAITING, AWAITING_RETRY)]
        while self.scheduler.cancel_some(most, next(self.time)):
            pass
        for future in waiting:
            assert future._phase == CANCELLED
        assert not self.scheduler.ready
        check_lines(self.scheduler)
        self.follow()

    # ------------------------------------------------------------------ what holds at every moment

    @invariant()
    def who_executes_holds_its_slot(self) -> None:
        """Also where the run has ended, by a cancel or its time limit, and its code has not."""
        if not hasattr(self, "slots"):
            return
        for worker in self.workers:
            if isinstance(worker.work, TaskFuture) and worker.work._details().limited:
                assert worker.work in self.slots.held
        for batch, positions in self.batches.values():
            for position in positions if not isinstance(batch.runs, Span) else ():
                if batch.runs[position]._details().limited:
                    assert batch.runs[position] in self.slots.held

    @invariant()
    def caps_hold(self) -> None:
        """Also where the run has ended, by a cancel or its time limit, and its code has not."""
        if not hasattr(self, "slots"):
            return
        taken = [worker.work for worker in self.workers if worker.work is not None]
        at_work = [
            work._task if isinstance(work, TaskFuture) else work.record.task for work in taken
        ]
        # What is in flight at a slot is executed one after another.
        at_slots = {(b.slot, task_of(b)) for b, positions in self.batches.values() if positions}
        check_caps([*at_work, *(one for _, one in at_slots)], self.whole)
        check_lines(self.scheduler)

    @invariant()
    def what_could_start_is_sent(self) -> None:
        """A slot that has nothing leaves nothing that is ready."""
        slots = getattr(getattr(self, "scheduler", None), "slots", None)
        if slots is not None and 0 in slots.in_flight.values():
            assert not self.scheduler.ready

    @invariant()
    def ends_are_for_ever(self) -> None:
        for future in getattr(self, "runs", ()):
            if future._phase >= DONE:
                end = (future._phase, future._outcome)
                assert self.ends.setdefault(future, end) == end
            else:
                assert future not in self.ends

    @invariant()
    def windows_hold(self) -> None:
        slots = getattr(getattr(self, "scheduler", None), "slots", None)
        for in_flight in slots.in_flight.values() if slots is not None else ():
            assert 0 <= in_flight <= WINDOW

    @invariant()
    def what_cannot_start_does_not_wait(self) -> None:
        for future, inputs in getattr(self, "upstreams", {}).items():
            if future._phase == WAITING:
                assert any(entry.future._phase < DONE for entry in inputs)  # type: ignore[union-attr]
                assert future in self.scheduler.waiting
            if future._phase == NOT_READY:
                assert any(
                    entry.future._phase > COMPLETED and not entry.allow_failure  # type: ignore[union-attr]
                    for entry in inputs
                )

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What is ready is where a worker finds it, or in a batch that somebody owns."""
        for future in getattr(self, "runs", ()):
            if future._phase == AWAITING_RETRY:
                assert future in self.timers
            elif future._phase == READY and hasattr(future, "_start"):
                origin = future._details().origin
                line = self.scheduler.caps.line_of(future._task) if self.scheduler.caps else None
                queue = self.scheduler.ready if line is None else line.items
                if origin is None or future._call is not None:
                    assert future in queue
                elif self.pulls:
                    record, index = origin
                    ranges = [
                        *record.unclaimed,
                        *((span.start, span.stop) for span in record.spans),
                    ]
                    assert any(start <= index < stop for start, stop in ranges)
                    assert record in queue or not record.unclaimed

    def teardown(self) -> None:
        """Everything runs out: each run ends, and the counts are true."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            at_work = any(worker.work is not None for worker in self.workers)
            if self.scheduler.open == 0 and not self.batches and not at_work:
                break
            for number in range(len(self.workers)):
                self.worker_goes_on(number, "completes")
            while self.timers:
                self.a_delay_is_over(0)
            for number in list(self.batches):
                _, positions = self.batches[number]
                which = sorted(self.batches).index(number)
                if positions:
                    self.batch_goes_on(which, len(positions), "completes")
                self.batch_goes_on(sorted(self.batches).index(number), 1, "closes")
        assert self.scheduler.open == 0
        assert not self.scheduler.waiting
        assert not self.scheduler.delayed
        assert not self.scheduler.endings.lingering
        assert not self.slots.held
        assert not self.slots.queued
        check_all_free(self.scheduler)
        for future in self.runs:
            assert future._phase >= DONE
        for futures in self.lists:
            record = futures._items
            assert isinstance(record, MapRecord)
            assert record.ended
            assert all(future._phase >= DONE for future in futures)


class PushingMachine(Machine):
    pulls = False


quick = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
Machine.TestCase.settings = quick
PushingMachine.TestCase.settings = quick
TestPulling = pytest.mark.timeout(60)(Machine.TestCase)
TestPushing = pytest.mark.timeout(60)(PushingMachine.TestCase)
