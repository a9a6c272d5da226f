"""The scheduler with workers that wait, hand back, travel with chains, lend their slots and die (DESIGN: Scheduler).

A machine that plays the workers of a pushing backend as `task_runners/processes/worker.py` does: one thread each, which
runs what it waits for, if the scheduler gives it that. No process, no thread, no clock.
"""

from __future__ import annotations

import itertools
from collections import deque
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from shoal import task
from shoal.calls import (
    AWAITING_RETRY,
    COMPLETED,
    DONE,
    FAILED,
    READY,
    SENT,
    WAITING,
    Batch,
    Call,
    Outcome,
)
from shoal.engine.inputs import Input, collect
from shoal.exceptions import WaitCycle, WorkerDied
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.blocking import ALL, SOME, TIMED
from shoal.futures.maps import MapRecord, Span
from shoal.names import next_number, reserve
from shoal.scheduling import effects
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.blocked_run import BlockedRun
from shoal.scheduling.capabilities import Capabilities
from shoal.scheduling.caps import Caps
from shoal.scheduling.dispatchers import dispatcher_for

from tests.core.test_scheduler import Slots, check_all_free, check_caps, check_lines

WINDOW = 2
#: Stand-ins have this and the number of the batch, one run of which they stand in for, in place of a slot.
STAND_INS = 1_000_000


@task
def work(x: int) -> int:
    return x


#: Under no cap but that of the flow, and under caps of their own.
TASKS = (work, work.with_options(max_concurrency=1), work.with_options(max_concurrency=2))


class Held:
    """A batch at a worker."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.left = deque(range(len(batch)))
        self.completed: set[int] = set()
        self.unreported: list[tuple[int, Any]] = []
        self.under_way = 0


class Frame:
    """A run on a worker's stack."""

    def __init__(self, held: Held, position: int, run: TaskFuture[Any]) -> None:
        self.held = held
        self.position = position
        self.run = run
        self.blocked_run: BlockedRun | None = None
        self.until = ALL
        self.refused = False
        self.asks_for_place = False
        self.has_place = False
        self.side_waits: list[SideWait] = []

    def wait_is_over(self) -> bool:
        """Whether what it waits for lets it go on; a wait with a time limit may end at any time."""
        if self.refused or self.asks_for_place or self.run._phase >= DONE or self.until == TIMED:
            return True
        assert self.blocked_run is not None  # it waits
        ended = [item._phase >= DONE for item in self.blocked_run.wanted]
        return any(ended) if self.until == SOME else all(ended)


class SideWait:
    """A thread that a run has started, and that waits."""

    def __init__(self, frame: Frame, *, certain: bool) -> None:
        self.frame = frame
        self.certain = certain
        self.blocked_run: BlockedRun | None = None
        self.refused = False
        self.asks_for_place = False
        self.has_place = False


class FakeWorker:
    """What the machine plays of a worker process, or of a stand-in in one."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.batches: list[Held] = []
        self.stack: list[Frame] = []


class FakeBackend:
    captures = False

    def __init__(self) -> None:
        policy = BatchPolicy(target=1.0, alone=2.0, cap=4, window=WINDOW)
        self.capabilities = Capabilities(isolated=True, fuses=True, loops=True, policy=policy)

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        return False


class WorkersMachine(RuleBasedStateMachine):
    """Runs, chains and maps on workers that wait for them."""

    @initialize(slots=st.integers(1, 3), known=st.booleans(), whole=st.none() | st.integers(1, 2))
    def begin(self, slots: int, known: bool, whole: int | None) -> None:
        self.time = itertools.count(1)
        backend: Any = FakeBackend()
        self.dispatcher = dispatcher_for(backend, None, "fake")
        self.scheduler: Any = self.dispatcher.scheduler
        self.whole = whole
        if whole is not None:
            self.dispatcher.cap_all(whole)
        for one in TASKS if known else ():
            self.scheduler.durations.observe(one, 0.1, 100)
        self.runs: list[TaskFuture[Any]] = []
        self.lists: list[TaskFutureList[Any]] = []
        self.upstreams: dict[TaskFuture[Any], list[TaskFuture[Any]]] = {}
        self.begun: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.workers = {slot: FakeWorker(slot) for slot in range(slots)}
        # Plenty, as those who hold one may wait for those who need one.
        self.slots = Slots(self.scheduler, 1000)
        self.looks_for_idle = False
        self.scheduler.slots_changed(range(slots))
        self.follow()

    # ------------------------------------------------------------------ what dispatcher and backend would do

    def follow(self) -> None:
        while self.scheduler.effects:
            kind, *rest = self.scheduler.effects.popleft()
            if kind == effects.LAUNCH:
                batch = rest[0]
                helped = self.scheduler.worker_waits.helping.get(batch.number)
                for waiting in self.waiting_by(helped) if helped is not None else ():
                    assert not waiting.asks_for_place, "it waits for no run any more"
                place = self.place_of(batch)
                worker = self.workers.setdefault(place, FakeWorker(place))
                held = Held(batch)
                worker.batches.append(held)
                if batch.blocked_run is None and any(frame.side_waits for frame in worker.stack):
                    self.hand_back(held)  # it was on its way when the first of them began to wait
            elif kind == effects.RECALL:
                for held in self.workers[self.place_of(rest[0])].batches:
                    if held.batch is rest[0]:
                        self.hand_back(held)
            elif kind == effects.IDLE:
                self.looks_for_idle = True
            elif kind == effects.HELP:
                try:
                    self.scheduler.worker_waits.help(rest[0])
                except WaitCycle:
                    self.refuse(rest[0])
            elif kind == effects.GO_ON:
                for waiting in self.waiting_by(rest[0]):
                    waiting.has_place = True
            elif kind == effects.GONE:
                gone = self.workers.pop(rest[0], None)  # it may not have been used
                assert gone is None or not (gone.stack or gone.batches)
            elif kind in (effects.LIMIT, effects.RELEASE):
                self.slots.perform(kind, rest[0])

    @staticmethod
    def place_of(batch: Batch) -> int:
        """The slot, or what stands in for a run of another batch."""
        while batch.blocked_run is not None:
            if batch.blocked_run.beside:
                return STAND_INS + batch.blocked_run.batch.number
            batch = batch.blocked_run.batch
        return batch.slot

    def waiting_by(self, blocked_run: BlockedRun) -> list[Frame | SideWait]:
        frames = [frame for worker in self.workers.values() for frame in worker.stack]
        waiting = [*frames, *(side for frame in frames for side in frame.side_waits)]
        return [one for one in waiting if one.blocked_run is blocked_run]

    def refuse(self, blocked_run: BlockedRun) -> None:
        for waiting in self.waiting_by(blocked_run):
            waiting.refused = True

    def hand_back(self, held: Held) -> None:
        positions = list(held.left)
        held.left.clear()
        if positions:
            self.scheduler.batch_handed_back(held.batch.number, positions)

    def run_at(self, held: Held, position: int) -> TaskFuture[Any]:
        run: TaskFuture[Any] = self.scheduler.run_at(held.batch, position)
        return run

    # ------------------------------------------------------------------ runs come in

    @rule(
        upstreams=st.lists(st.integers(0, 50), max_size=2),
        limited=st.booleans(),
        one=st.sampled_from(TASKS),
    )
    def submit(self, upstreams: list[int], limited: bool, one: Any) -> None:
        self.new_run([self.runs[i % len(self.runs)] for i in upstreams if self.runs], one, limited)

    @rule(links=st.lists(st.sampled_from(TASKS), min_size=2, max_size=6))
    def submit_a_chain(self, links: list[Any]) -> None:
        self.chain(links)

    @rule(length=st.integers(2, 6), one=st.sampled_from(TASKS))
    def submit_a_chain_of_one_task(self, length: int, one: Any) -> None:
        self.chain([one] * length)

    def chain(self, links: list[Any]) -> None:
        last: list[TaskFuture[Any]] = []
        for one in links:
            last = [self.new_run(last, one)]

    def new_run(
        self, upstreams: list[TaskFuture[Any]], one: Any, limited: bool = False
    ) -> TaskFuture[Any]:
        number = next_number()
        call = Call(one, (number,), None, number, copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(self.dispatcher, one, number, call, next(self.time))
        self.runs.append(run)
        self.upstreams[run] = upstreams
        inputs = [Input(upstream, False) for upstream in dict.fromkeys(upstreams)]
        if limited:
            run._details().limited = frozenset({"two"})
        if inputs or limited:
            self.scheduler.submit_after(run, inputs)
        else:
            self.scheduler.submit(run)
        self.follow()
        return run

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

    # ------------------------------------------------------------------ a worker's thread

    def a_worker(self, which: int) -> FakeWorker | None:
        slots = sorted(self.workers)
        return self.workers[slots[which % len(slots)]] if slots else None

    @rule(which=st.integers(0, 3))
    def begins_a_run(self, which: int) -> None:
        worker = self.a_worker(which)
        if worker is not None:
            self.go_on(worker)

    def go_on(self, worker: FakeWorker) -> None:
        top = worker.stack[-1] if worker.stack else None
        if top is not None and top.blocked_run is None:
            return  # it is running something
        for held in list(worker.batches):
            unrelated = top is not None and held.batch.blocked_run is not top.blocked_run
            if unrelated or (top is not None and top.asks_for_place):
                self.hand_back(held)
                self.close_if_over(worker, held)
                continue
            while held.left:
                position = held.left.popleft()
                run = self.run_at(held, position)
                if run._phase >= DONE or not self.can_begin(held, run):
                    continue
                self.begins(worker, held, position, run)
                self.follow()
                return
            self.close_if_over(worker, held)
        self.follow()

    def can_begin(self, held: Held, run: TaskFuture[Any]) -> bool:
        """As a worker knows it: what travels with the run, and before it, must have completed."""
        if isinstance(held.batch.runs, Span):
            return True
        here = {other: place for place, other in enumerate(held.batch.runs)}
        return all(
            here[upstream] in held.completed
            for upstream in self.upstreams.get(run, ())
            if upstream._phase < DONE and upstream in here
        )

    def begins(self, worker: FakeWorker, held: Held, position: int, run: TaskFuture[Any]) -> None:
        for upstream in self.upstreams.get(run, ()):
            if upstream._phase < DONE:
                assert upstream in held.batch.runs, "it began before what it waits for"
            else:
                assert upstream._phase == COMPLETED
        for other in self.workers.values():
            assert all(frame.run is not run for frame in other.stack), "it runs twice at once"
        self.begun[run._number] = self.begun.get(run._number, 0) + 1
        assert self.begun[run._number] <= 1 + self.lost.get(run._number, 0), "it ran again"
        held.under_way += 1
        worker.stack.append(Frame(held, position, run))

    @rule(
        which=st.integers(0, 3),
        how=st.sampled_from(["completes", "fails"]),
        leaves_threads=st.booleans(),
    )
    def ends_a_run(self, which: int, how: str, leaves_threads: bool) -> None:
        worker = self.a_worker(which)
        if worker is None or not worker.stack or worker.stack[-1].blocked_run is not None:
            return
        joins = [side for side in worker.stack[-1].side_waits if side.certain]
        if joins and not leaves_threads:
            return
        frame = worker.stack.pop()
        held = frame.held
        held.under_way -= 1
        if how == "completes":
            held.completed.add(frame.position)
            held.unreported.append((frame.position, frame.run._number))
        else:
            held.unreported.append((frame.position, Outcome(FAILED, ValueError("failed"))))
        self.close_if_over(worker, held)
        self.follow()

    @rule(which=st.integers(0, 3))
    def reports(self, which: int) -> None:
        worker = self.a_worker(which)
        for held in worker.batches if worker is not None else ():
            self.report(held)
        self.follow()

    def report(self, held: Held) -> None:
        told, held.unreported = held.unreported, []
        now = float(next(self.time))
        self.scheduler.batch_reported(
            held.batch.number, [p for p, _ in told], [v for _, v in told], [now] * len(told)
        )

    def close_if_over(self, worker: FakeWorker, held: Held) -> None:
        if not held.left and not held.under_way and held in worker.batches:
            worker.batches.remove(held)
            self.report(held)
            self.scheduler.batch_closed(held.batch.number)

    # ------------------------------------------------------------------ waits

    @rule(
        which=st.integers(0, 3),
        awaited=st.lists(st.integers(0, 200), min_size=1, max_size=3),
        until=st.sampled_from([ALL, SOME, TIMED]),
    )
    def waits(self, which: int, awaited: list[int], until: int) -> None:
        worker = self.a_worker(which)
        if worker is None or not worker.stack or not self.runs:
            return
        frame = worker.stack[-1]
        wanted = list(dict.fromkeys(self.runs[at % len(self.runs)] for at in awaited))
        if frame.blocked_run is not None or any(run._phase >= DONE for run in wanted):
            return
        for held in list(worker.batches):
            self.report(held)
            self.hand_back(held)
            self.close_if_over(worker, held)
        try:
            frame.blocked_run = self.scheduler.worker_waits.run_waits(
                frame.held.batch.number,
                frame.position,
                wanted,
                blocks=True,
                until=until,
            )
            frame.until = until
        except WaitCycle:
            frame.refused = True
        self.follow()

    @rule(which=st.integers(0, 3))
    def waits_for_slots_of_a_limit(self, which: int) -> None:
        """It waits for no run, and its worker is lent to whatever comes."""
        worker = self.a_worker(which)
        if worker is None or not worker.stack or worker.stack[-1].blocked_run is not None:
            return
        frame = worker.stack[-1]
        for held in list(worker.batches):
            self.report(held)
            self.hand_back(held)
            self.close_if_over(worker, held)
        frame.blocked_run = self.scheduler.worker_waits.run_waits(
            *(frame.held.batch.number, frame.position, []), blocks=True, lends=True
        )
        frame.until = ALL
        self.follow()

    @rule(which=st.integers(0, 3), awaited=st.integers(0, 200), certain=st.booleans())
    def a_thread_of_a_run_waits(self, which: int, awaited: int, certain: bool) -> None:
        """Whatever the run itself does."""
        worker = self.a_worker(which)
        if worker is None or not worker.stack or not self.runs:
            return
        frame = worker.stack[-1]
        wanted = self.runs[awaited % len(self.runs)]
        if frame.asks_for_place or frame.run._phase >= DONE or wanted._phase >= DONE:
            return
        for held in list(worker.batches):
            if held.batch.blocked_run is None or not worker.stack[-1].blocked_run:
                self.report(held)
                self.hand_back(held)
                self.close_if_over(worker, held)
        side = SideWait(frame, certain=certain)
        frame.side_waits.append(side)
        position = frame.position if certain else None
        try:
            side.blocked_run = self.scheduler.worker_waits.run_waits(
                *(frame.held.batch.number, position, [wanted]), blocks=True, beside=True
            )
        except WaitCycle:
            frame.side_waits.remove(side)
        self.follow()

    @rule(which=st.integers(0, 3))
    def a_thread_of_a_run_goes_on(self, which: int) -> None:
        worker = self.a_worker(which)
        for frame in worker.stack if worker is not None else ():
            for side in list(frame.side_waits):
                self.resume_side(side)

    def resume_side(self, side: SideWait) -> None:
        blocked_run = side.blocked_run
        assert blocked_run is not None
        task_of_run = side.frame.run._task
        over = side.refused or side.frame.run._phase >= DONE
        if not over and any(item._phase < DONE for item in blocked_run.wanted):
            return
        if self.whole is not None or task_of_run.cap is not None:
            if not side.asks_for_place:
                side.asks_for_place = True
                self.scheduler.worker_waits.would_go_on(
                    blocked_run, (task_of_run.cap,) if task_of_run.cap is not None else ()
                )
                self.follow()
            if not side.has_place:
                return
        side.frame.side_waits.remove(side)
        self.scheduler.worker_waits.run_resumed(blocked_run)
        self.follow()

    @rule(which=st.integers(0, 3))
    def goes_on_after_a_wait(self, which: int) -> None:
        worker = self.a_worker(which)
        if worker is not None:
            self.resume(worker)

    def resume(self, worker: FakeWorker) -> bool:
        if not worker.stack or worker.stack[-1].blocked_run is None:
            return False
        frame = worker.stack[-1]
        blocked_run = frame.blocked_run
        assert blocked_run is not None
        if not frame.wait_is_over():
            return False
        cap = frame.run._task.cap
        if self.whole is not None or cap is not None:
            if not frame.asks_for_place:
                frame.asks_for_place = True
                task_caps = (cap,) if cap is not None else ()
                self.scheduler.worker_waits.would_go_on(blocked_run, task_caps)
                self.follow()
            if not frame.has_place:
                return False
            frame.asks_for_place = frame.has_place = False
        frame.blocked_run = None
        self.scheduler.worker_waits.run_resumed(blocked_run)
        self.follow()
        return True

    # ------------------------------------------------------------------ from outside

    @rule(which=st.integers(0, 3))
    def a_worker_dies(self, which: int) -> None:
        worker = self.a_worker(which)
        if worker is None:
            return
        batches, stack = self.lose(worker)
        for held in batches:
            begun = [frame.position for frame in stack if frame.held is held]
            self.report(held)
            for frame in stack:
                if frame.held is held:
                    number = frame.run._number
                    self.lost[number] = self.lost.get(number, 0) + 1
            self.scheduler.batch_lost(held.batch.number, self.death, begun, float(next(self.time)))
        for frame in stack:
            for waiting in (frame, *frame.side_waits):
                if waiting.blocked_run is not None:
                    self.scheduler.worker_waits.run_resumed(waiting.blocked_run)
        self.follow()

    def lose(self, worker: FakeWorker) -> tuple[list[Held], list[Frame]]:
        """What a process had, with its stand-ins; one of these may be given."""
        if worker.slot >= STAND_INS:
            hosts = [
                other
                for other in self.workers.values()
                if any(STAND_INS + held.batch.number == worker.slot for held in other.batches)
            ]
            return self.lose(hosts[0]) if hosts else ([], [])  # what it stood in for has ended
        batches: list[Held] = []
        stack: list[Frame] = []
        dead = [worker]
        for one in dead:
            dead += [
                self.workers[STAND_INS + held.batch.number]
                for held in one.batches
                if STAND_INS + held.batch.number in self.workers
            ]
            batches += one.batches
            stack += one.stack
            one.batches, one.stack = [], []
        return batches, stack

    @staticmethod
    def death(run_name: str) -> BaseException:
        return WorkerDied(run_name=run_name, host="here")

    @rule(which=st.integers(0, 200))
    def cancel(self, which: int) -> None:
        if self.runs:
            self.scheduler.endings.cancel(self.runs[which % len(self.runs)], next(self.time))
            self.follow()

    @rule()
    def a_slot_has_been_idle(self) -> None:
        self.scheduler.recall()
        self.follow()

    # ------------------------------------------------------------------ what holds at every moment

    @invariant()
    def who_executes_holds_its_slot(self) -> None:
        """Also where the run has ended, by a cancel, and its code has not."""
        for worker in getattr(self, "workers", {}).values():
            for frame in worker.stack:
                if frame.run._details().limited:
                    assert frame.run in self.slots.held

    @invariant()
    def caps_hold(self) -> None:
        """Also where the run has ended, by a cancel, and its code has not; who waits executes nothing."""
        if hasattr(self, "workers"):
            tops = [worker.stack[-1] for worker in self.workers.values() if worker.stack]
            check_caps(
                [
                    top.run._task
                    for top in tops
                    if (top.blocked_run is None or top.has_place) and not top.side_waits
                ],
                self.whole,
            )
            check_lines(self.scheduler)

    @invariant()
    def no_more_are_lent_than_there_are(self) -> None:
        scheduler = getattr(self, "scheduler", None)
        if scheduler is not None:
            slots = scheduler.slots
            own = slots.in_flight.keys() - slots.spares - slots.lent
            assert len(slots.lent) <= len(own)

    @invariant()
    def windows_hold(self) -> None:
        scheduler = getattr(self, "scheduler", None)
        if scheduler is None:
            return
        for slot, in_flight in scheduler.slots.in_flight.items():
            assert 0 <= in_flight <= WINDOW
            held = self.workers[slot].batches if slot in self.workers else []
            assert in_flight == sum(1 for item in held if item.batch.blocked_run is None)

    @invariant()
    def what_is_sent_is_at_a_worker(self) -> None:
        for run in getattr(self, "runs", ()):
            if run._phase == SENT:
                assert any(
                    run in held.batch.runs
                    if not isinstance(held.batch.runs, Span)
                    else 0
                    <= run._number - held.batch.runs.record.base
                    < held.batch.runs.record.size
                    for worker in self.workers.values()
                    for held in worker.batches
                )
            elif run._phase == WAITING:
                assert any(upstream._phase < DONE for upstream in self.upstreams[run])

    def teardown(self) -> None:
        """Everything runs out; a wait that can never end would be seen here."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(2000):
            if self.scheduler.open == 0 and not any(w.batches for w in self.workers.values()):
                break
            for number in range(len(self.workers)):
                worker = self.a_worker(number)
                if worker is not None:
                    self.resume(worker)
                    self.a_thread_of_a_run_goes_on(number)
                    self.go_on(worker)
                    self.ends_a_run(number, "completes", leaves_threads=False)
            if self.looks_for_idle:
                self.looks_for_idle = False
                self.scheduler.recall()
            self.follow()
        assert self.scheduler.open == 0
        assert not self.scheduler.worker_waits.beside
        assert not self.scheduler.waiting
        assert not self.scheduler.worker_waits.blocked_runs
        assert not self.scheduler.batches
        assert not self.scheduler.worker_waits.helping
        assert all(run._phase >= DONE for run in self.runs)
        assert not any(self.scheduler.slots.in_flight.values())
        assert not self.scheduler.endings.lingering
        assert not self.slots.held
        check_all_free(self.scheduler)


WorkersMachine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWorkers = pytest.mark.timeout(60)(WorkersMachine.TestCase)


class QueuedBackend(FakeBackend):
    """An engine with a queue of its own."""

    def __init__(self) -> None:
        super().__init__()
        policy = BatchPolicy(target=1.0, alone=2.0, cap=4, window=WINDOW)
        self.capabilities = Capabilities(isolated=True, queues=True, policy=policy)


def effects_of_kind(scheduler: Any, kind: int) -> list[Any]:
    """What the scheduler asked for of a kind; the rest is forgotten."""
    found = [effect[1] for effect in scheduler.effects if effect[0] == kind]
    scheduler.effects.clear()
    return found


def test_who_asked_a_batch_back_in_vain_is_looked_at_again() -> None:
    """SPEC 9.1. A run waits for two others; one is asked back for it, and cancelled before it is there."""
    backend: Any = QueuedBackend()
    dispatcher = dispatcher_for(backend, None, "fake")
    scheduler: Any = dispatcher.scheduler
    scheduler.slots_changed(range(3))

    def submitted(number: int) -> tuple[TaskFuture[Any], Batch]:
        call = Call(work, (number,), None, next_number(), copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(dispatcher, work, call.number, call, 0.0)
        scheduler.submit(run)
        (batch,) = effects_of_kind(scheduler, effects.LAUNCH)
        return run, batch

    _, parents = submitted(0)
    first, one = submitted(1)
    second, _ = submitted(2)
    scheduler.batch_started(parents.number, 0)
    blocked_run = scheduler.worker_waits.run_waits(parents.number, 0, [first, second], blocks=True)
    assert effects_of_kind(scheduler, effects.HELP) == [blocked_run]
    assert not scheduler.worker_waits.help(blocked_run), (
        "both were sent: the backend asks one of them back"
    )
    scheduler.endings.cancel(first, 1.0)
    scheduler.effects.clear()
    scheduler.batch_closed(one.number, blocked_run)
    assert effects_of_kind(scheduler, effects.HELP) == [blocked_run], (
        "so that it asks for the other"
    )
    assert not scheduler.worker_waits.help(blocked_run)


@pytest.mark.parametrize("queues", [False, True], ids=["slots of workers", "a queue"])
def test_what_an_end_makes_ready_is_shared_with_slots_that_are_busy(queues: bool) -> None:
    """DESIGN 3. A layer of a graph: were all of it given to the first slot that is idle, others would wait for the next.

    In a queue it would be for no slot in particular: there the others' share waits for who has ended what it is at.
    """
    backend: Any = FakeBackend()
    backend.capabilities = Capabilities(
        isolated=True, queues=queues, policy=BatchPolicy(target=0.005)
    )
    dispatcher = dispatcher_for(backend, None, "fake")
    scheduler: Any = dispatcher.scheduler
    scheduler.slots_changed(range(2))
    scheduler.durations.observe(work, 0.001, 100)

    def submitted(*upstreams: TaskFuture[Any]) -> TaskFuture[Any]:
        call = Call(work, upstreams, None, next_number(), copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(dispatcher, work, call.number, call, 0.0)
        if upstreams:
            scheduler.submit_after(run, collect(upstreams, None))
        else:
            scheduler.submit(run)
        return run

    first = submitted()
    submitted()
    one, other = effects_of_kind(scheduler, effects.LAUNCH)
    layer = [submitted(first) for _ in range(4)]
    scheduler.batch_reported(one.number, [0], [0], [1.0])
    assert effects_of_kind(scheduler, effects.LAUNCH) == [], "its slot is not idle yet"
    scheduler.batch_closed(one.number)
    launched = effects_of_kind(scheduler, effects.LAUNCH)
    if not queues:
        assert [(batch.slot, batch.runs) for batch in launched] == [(0, layer[:2]), (1, layer[2:])]
        return
    assert [(batch.slot, batch.runs) for batch in launched] == [(0, layer[:2])]
    for ended, share in ((other, layer[2:3]), (launched[0], layer[3:])):
        done = range(len(ended))
        scheduler.batch_reported(ended.number, done, [0] * len(ended), [1.0] * len(ended))
        scheduler.batch_closed(ended.number)
        assert [batch.runs for batch in effects_of_kind(scheduler, effects.LAUNCH)] == [share]


@task
async def nap(x: int) -> int:
    return x


def test_coroutines_that_come_while_a_worker_is_awaited_travel_together() -> None:
    """SPEC 9.1, DESIGN 2. Each message may cost a cluster a process: the first goes at once, the others in one."""
    backend: Any = QueuedBackend()
    backend.capabilities.loops = True
    dispatcher = dispatcher_for(backend, None, "fake")
    scheduler: Any = dispatcher.scheduler
    scheduler.slots_changed([0])
    for number in range(4):
        call = Call(nap, (number,), None, next_number(), copy_context(), None)
        scheduler.submit(TaskFuture(dispatcher, nap, call.number, call, 0.0))
    (first,) = effects_of_kind(scheduler, effects.LAUNCH)
    assert len(first) == 1
    scheduler.batch_arrived(first.number)
    (rest,) = effects_of_kind(scheduler, effects.LAUNCH)
    assert len(rest) == 3
    scheduler.batch_arrived(rest.number)
    assert effects_of_kind(scheduler, effects.LAUNCH) == []


class Limited:
    """Runs of one limit that were sent to the one slot of a pool, and what the scheduler says of their slots."""

    def __init__(self) -> None:
        self.backend: Any = FakeBackend()
        self.dispatcher = dispatcher_for(self.backend, None, "fake")
        self.scheduler: Any = self.dispatcher.scheduler
        self.scheduler.slots_changed([0])

    def sent(self, count: int, retrying: Any = work) -> tuple[list[TaskFuture[Any]], Batch]:
        runs: list[TaskFuture[Any]] = []
        self.scheduler.slots.has_room = False  # so that they are sent together
        for number in range(count):
            call = Call(retrying, (number,), None, next_number(), copy_context(), None)
            run: TaskFuture[Any] = TaskFuture(self.dispatcher, retrying, call.number, call, 0.0)
            run._details().limited = frozenset({"two"})
            self.scheduler.submit_after(run, [])
            self.scheduler.admitted(run)
            runs.append(run)
        self.scheduler.durations.observe(retrying, 0.1, 100)
        self.scheduler.fill()
        (batch,) = effects_of_kind(self.scheduler, effects.LAUNCH)
        assert batch.runs == runs
        return runs, batch

    def released(self) -> list[Any]:
        return effects_of_kind(self.scheduler, effects.RELEASE)


def test_a_cancelled_run_that_has_not_begun_is_asked_back_for_its_slot() -> None:
    """SPEC 10.2. Its worker may be at another run for long, and only the worker knows whether it has begun."""
    limited = Limited()
    runs, batch = limited.sent(3)
    assert limited.scheduler.endings.cancel(runs[2], 1.0)
    recalled = [effect[1] for effect in limited.scheduler.effects if effect[0] == effects.RECALL]
    assert recalled == [batch]
    assert limited.released() == []
    limited.scheduler.batch_handed_back(batch.number, [1, 2])
    told = [effect[:2] for effect in limited.scheduler.effects]
    assert (effects.RELEASE, runs[2]) in told
    (again,) = effects_of_kind(limited.scheduler, effects.LAUNCH)
    assert again.runs == [runs[1]], "what came back with it goes again"


def test_a_slot_is_given_back_once_whatever_ends_its_batch() -> None:
    """SPEC 10.2."""
    for end in ("reported", "lost", "split", "closed"):
        limited = Limited()
        runs, batch = limited.sent(1)
        assert limited.scheduler.endings.cancel(runs[0], 1.0)
        assert limited.released() == [], end
        if end == "reported":
            limited.scheduler.batch_reported(batch.number, [0], ["late"], [2.0])
        elif end == "lost":
            limited.scheduler.batch_lost(batch.number, WorkersMachine.death, None, 2.0)
        elif end == "split":
            limited.scheduler.batch_split(batch.number)
        assert limited.released() == ([] if end == "closed" else [runs[0]]), end
        limited.scheduler.batch_closed(batch.number)
        assert limited.released() == ([runs[0]] if end == "closed" else []), end
        assert not limited.scheduler.endings.lingering


def test_a_run_past_its_limit_keeps_its_slot_until_it_has_stopped() -> None:
    """SPEC 7.3, 10.2. Through its retry as well, which begins when the first attempt has stopped."""
    again = work.with_options(retries=1)
    limited = Limited()
    (run,), batch = limited.sent(1, again)
    limited.scheduler.batch_started(batch.number, 0)
    assert limited.scheduler.endings.expired(run, 1, 0.5, 1.0)
    assert limited.released() == []
    limited.scheduler.batch_reported(
        batch.number, [0], [Outcome(AWAITING_RETRY, ValueError())], [2.0]
    )
    limited.scheduler.batch_closed(batch.number)
    limited.scheduler.due(run)
    (second,) = effects_of_kind(limited.scheduler, effects.LAUNCH)
    limited.scheduler.batch_started(second.number, 0)
    assert limited.scheduler.endings.expired(run, 2, 0.5, 3.0)
    assert run._phase == FAILED
    assert limited.released() == []
    limited.scheduler.batch_lost(second.number, WorkersMachine.death, [0], 4.0)
    assert limited.released() == [run]


def test_a_slot_does_not_wait_for_code_that_is_given_up_or_has_ended() -> None:
    """SPEC 10.2. A run whose code returned futures, or was stopped by force, has nothing left that executes."""
    limited = Limited()
    (run,), _ = limited.sent(1)
    assert limited.scheduler.endings.cancel(run, 1.0)
    limited.scheduler.endings.given_up(run, 2.0)
    assert limited.released() == [run]

    limited = Limited()
    (run,), batch = limited.sent(1)
    limited.scheduler.batch_reported(batch.number, [0], [Outcome(WAITING, [])], [1.0])
    assert limited.scheduler.endings.cancel(run, 2.0)
    assert limited.released() == [run]

    limited = Limited()
    (run,), batch = limited.sent(1, work.with_options(retries=1))
    limited.scheduler.batch_started(batch.number, 0)
    assert limited.scheduler.endings.expired(run, 1, 0.5, 1.0)
    limited.scheduler.batch_lost(batch.number, WorkersMachine.death, [0], 2.0)
    assert limited.scheduler.endings.cancel(run, 3.0)
    assert limited.released() == [run]


def test_what_is_left_behind_with_the_runner_holds_no_slot() -> None:
    """SPEC 10.2."""
    limited = Limited()
    runs, _ = limited.sent(2)
    for run in runs:
        limited.scheduler.endings.cancel(run, 1.0)
    assert limited.released() == []
    limited.scheduler.endings.all_stopped()
    assert set(limited.released()) == set(runs)


def test_a_slot_that_has_a_place_has_its_next_batch_ahead_until_its_run_waits() -> None:
    """SPEC 10.3, DESIGN 2. Both are one place; a run that waits lends it, so what is ahead is asked back."""
    capped = TASKS[1]
    backend: Any = FakeBackend()
    dispatcher = dispatcher_for(backend, None, "fake")
    scheduler: Any = dispatcher.scheduler
    scheduler.slots_changed(range(2))
    scheduler.durations.observe(capped, 0.5, 100)

    def submitted(one: Any) -> TaskFuture[Any]:
        call = Call(one, (), None, next_number(), copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(dispatcher, one, call.number, call, 0.0)
        scheduler.submit(run)
        return run

    runs = [submitted(capped) for _ in range(6)]
    batches = effects_of_kind(scheduler, effects.LAUNCH)
    assert [batch.slot for batch in batches] == [0, 0], "the other slot would need a place"
    (line,) = scheduler.caps.lines()
    assert line.room() == 0
    first, ahead = batches
    scheduler.batch_started(first.number, 0)
    wanted = submitted(work)
    blocked_run = scheduler.worker_waits.run_waits(
        first.number, 0, [wanted], blocks=True, until=TIMED
    )
    told = list(scheduler.effects)
    assert (effects.RECALL, ahead) in told
    assert line.room() == 0, "what was ready has the place that was lent"
    scheduler.effects.clear()
    scheduler.batch_handed_back(ahead.number, range(len(ahead)))
    scheduler.batch_closed(ahead.number)
    scheduler.worker_waits.would_go_on(blocked_run, [capped.cap])
    assert effects_of_kind(scheduler, effects.GO_ON) == [], "its place is another's now"
    assert scheduler.caps.going_on
    assert sum(run._phase == READY for run in runs) >= 1, "nor is anything sent ahead meanwhile"


def test_who_goes_on_under_several_caps_takes_places_of_all_at_once() -> None:
    """SPEC 10.3. So nobody keeps one while it waits for the other."""
    caps = Caps()
    task_caps = [one.cap for one in TASKS if one.cap is not None]
    one, two = (caps.line_under([cap], on_loop=False) for cap in task_caps)
    both = caps.line_under(task_caps, on_loop=False)
    assert one is not None
    assert two is not None
    assert both is not None
    told: list[str] = []

    class Who:
        def resume(self) -> None:
            told.append("both")

    caps.take(one)
    assert not caps.go_on(Who(), both)
    assert (one.room(), two.room()) == (0, 2)
    caps.free(one)
    caps.serve()
    assert told == ["both"]
    assert (one.room(), two.room()) == (0, 1)


def test_what_is_behind_a_run_takes_its_place_along_to_a_slot_that_is_idle() -> None:
    """SPEC 10.3. Else it would wait for whatever its slot is at."""
    capped = TASKS[1]
    backend: Any = FakeBackend()
    dispatcher = dispatcher_for(backend, None, "fake")
    scheduler: Any = dispatcher.scheduler
    scheduler.slots_changed(range(2))
    for one in (capped, work):
        scheduler.durations.observe(one, 0.001, 1)

    def submitted(one: Any) -> None:
        call = Call(one, (), None, next_number(), copy_context(), None)
        scheduler.submit(TaskFuture(dispatcher, one, call.number, call, 0.0))

    for _ in range(2):
        submitted(work)
    first, second = effects_of_kind(scheduler, effects.LAUNCH)
    for batch in (first, second):
        scheduler.batch_started(batch.number, 0)
    submitted(capped)
    (ahead,) = effects_of_kind(scheduler, effects.LAUNCH)
    other = first if ahead.slot == second.slot else second
    scheduler.batch_reported(other.number, [0], [Outcome(COMPLETED, None)], [0.001])
    scheduler.batch_closed(other.number)
    assert (effects.IDLE,) in scheduler.effects
    scheduler.effects.clear()
    scheduler.recall()
    assert ahead in effects_of_kind(scheduler, effects.RECALL)
    scheduler.batch_handed_back(ahead.number, [0])
    scheduler.batch_closed(ahead.number)
    (again,) = effects_of_kind(scheduler, effects.LAUNCH)
    assert again.slot == other.slot


def test_what_was_taken_out_of_its_turn_is_not_what_an_idle_slot_will_get() -> None:
    """SPEC 9.1. Else nobody would ask for what another has not begun, which a run there may wait for."""
    backend: Any = FakeBackend()
    policy = BatchPolicy(target=1.0, alone=2.0, cap=64, window=WINDOW)
    backend.capabilities = Capabilities(isolated=True, policy=policy)
    dispatcher = dispatcher_for(backend, None, "fake")
    scheduler: Any = dispatcher.scheduler
    scheduler.durations.observe(work, 0.001, 100)

    def submitted() -> TaskFuture[Any]:
        call = Call(work, (), None, next_number(), copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(dispatcher, work, call.number, call, 0.0)
        scheduler.submit(run)
        return run

    for _ in range(4):
        submitted()
    scheduler.slots_changed(range(2))
    first, second = effects_of_kind(scheduler, effects.LAUNCH)
    assert len(first) == 2
    last = submitted()
    assert not effects_of_kind(scheduler, effects.LAUNCH), "one alone is not worth a message"
    scheduler.endings.cancel(last, 0.001)
    scheduler.batch_reported(second.number, [0, 1], [1, 2], [0.001, 0.002])
    scheduler.batch_closed(second.number)
    assert (effects.IDLE,) in scheduler.effects
    scheduler.effects.clear()
    scheduler.recall()
    assert effects_of_kind(scheduler, effects.RECALL) == [first]


def test_what_is_on_its_way_when_a_thread_of_a_run_begins_to_wait() -> None:
    """SPEC 9.1. It was given back, and sent to the same slot again before the wait was told."""
    machine = WorkersMachine()
    machine.begin(slots=1, known=False, whole=None)  # type: ignore[call-arg]
    machine.new_run([], work)
    (worker,) = machine.workers.values()
    machine.go_on(worker)
    child, other = (machine.new_run([], work) for _ in range(2))
    machine.a_thread_of_a_run_waits(0, awaited=1, certain=True)  # type: ignore[call-arg]
    (stand_in,) = (w for w in machine.workers.values() if w is not worker)
    assert [held.batch.runs for held in stand_in.batches] == [[child]]
    assert other._phase < SENT, "it is nobody's here before its slot is free"
    machine.teardown()


def test_who_would_go_on_is_given_nothing_that_it_waited_for() -> None:
    """SPEC 10.3. One of two was enough: the other would be given to it, and handed back, again and again."""
    machine = WorkersMachine()
    machine.begin(slots=2, known=False, whole=None)  # type: ignore[call-arg]
    first, second = machine.workers[0], machine.workers[1]
    machine.new_run([], TASKS[1])
    machine.go_on(first)
    upstream = machine.new_run([], work)
    machine.go_on(second)
    other = machine.new_run([upstream], work)
    holder = machine.new_run([], TASKS[1])
    machine.waits(0, awaited=[1, 2], until=SOME)  # type: ignore[call-arg]
    last = machine.new_run([], work)
    machine.ends_a_run(1, "completes", leaves_threads=False)  # type: ignore[call-arg]
    assert [held.batch.runs for held in second.batches] == [[holder], [last]]
    assert [held.batch.runs for held in first.batches][1:] == [[other]], "there is room here only"
    assert not machine.resume(first), "the holder has the place that it has lent"
    machine.go_on(first)
    assert len(first.batches) == 1
    assert other._phase == READY
    machine.teardown()
