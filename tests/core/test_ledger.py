"""The ledger: what becomes of runs when jobs, workers and messages go astray (DESIGN: Ledger; SPEC 7.4, 7.5).

A machine that plays an engine with a queue of its own, and its workers: jobs wait, are taken by workers, run, and end;
workers die at any moment, with or without their file, with what they said last or without it; the engine speaks of it
before or after that, and sometimes twice. No process, no thread, no clock.
"""

from __future__ import annotations

import itertools
from collections import deque
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from shoal import task
from shoal.calls import CANCELLED, COMPLETED, CRASHED, DONE, Batch, Call, Outcome, Report
from shoal.engine.inputs import Input
from shoal.exceptions import WaitCycle, WorkerDied
from shoal.futures import TaskFuture, TaskFutureList
from shoal.futures.maps import MapRecord, Span
from shoal.names import next_number, reserve
from shoal.scheduling import effects
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.blocked_run import BlockedRun
from shoal.scheduling.capabilities import Capabilities, LedgerRules
from shoal.scheduling.dispatchers import dispatcher_for
from shoal.scheduling.in_flight import (
    Departure,
    InFlight,
    JobEnd,
    Outcomes,
    WorkerState,
)
from shoal.scheduling.ledger import Ledger
from shoal.scheduling.unpickling import DEADLY

from tests.core.test_scheduler import check_all_free, check_caps, check_lines


@task
def work(x: int) -> int:
    return x


@task(crash_retries=2)
def again(x: int) -> int:
    return x


#: Under no cap but that of the flow, and under caps of their own.
TASKS = (work, work.with_options(max_concurrency=1), work.with_options(max_concurrency=2))
REPEATS = again.with_options(max_concurrency=1)


class Held:
    """A batch at a worker."""

    def __init__(self, batch: Batch, wait: int = 0) -> None:
        self.batch = batch
        self.wait = wait
        self.left = deque(range(len(batch)))
        self.under_way = 0
        self.unreported: list[tuple[int, Any]] = []
        self.ended: dict[int, Any] = {}
        self.begun: set[int] = set()
        self.closed = False


class Frame:
    """A run on a worker's stack."""

    def __init__(self, held: Held, position: int, run: TaskFuture[Any]) -> None:
        self.held = held
        self.position = position
        self.run = run
        self.waits_for: TaskFuture[Any] | None = None
        self.wait = 0
        self.refused = False
        self.interrupted = False
        self.asks_for_place = False
        self.has_place = False


class FakeWorker:
    """What the machine plays of a worker process: one thread."""

    def __init__(self, key: int) -> None:
        self.state = WorkerState(key)
        self.state.killable = True
        self.state.host = "a machine"
        self.alive = True
        self.has_file = True
        self.job: Held | None = None  # of the engine's
        self.given: list[Held] = []
        self.stack: list[Frame] = []
        self.said: deque[tuple[Any, ...]] = deque()
        self.file: dict[int, Held] = {}
        self.unpacking = 0
        self.retires = False
        self.skipped: set[int] = set()


class FakeBackend:
    captures = False

    def __init__(self, queues: bool) -> None:
        seconds = 10.0 if queues else 0.0
        policy = BatchPolicy(target=1.0, alone=2.0, cap=4, window=2, seconds=seconds)
        self.capabilities = Capabilities(
            isolated=True, fuses=True, loops=True, queues=queues, policy=policy
        )

    def has_begun(self, run: TaskFuture[Any]) -> bool:
        return False


class LedgerMachine(RuleBasedStateMachine):
    """An engine, its workers, and what is said of them."""

    words_within = 0.0
    queues = True

    @initialize(workers=st.integers(1, 3), known=st.booleans(), whole=st.none() | st.integers(1, 2))
    def begin(self, workers: int, known: bool, whole: int | None = None) -> None:
        self.time = itertools.count(1)
        backend: Any = FakeBackend(self.queues)
        self.dispatcher = dispatcher_for(backend, None, "fake")
        self.scheduler: Any = self.dispatcher.scheduler
        self.ledger = Ledger(self.scheduler, LedgerRules("Fake", words_within=self.words_within))
        self.whole = whole
        if whole is not None:
            self.dispatcher.cap_all(whole)
        for one in (*TASKS, again, REPEATS) if known else ():
            self.scheduler.durations.observe(one, 0.1, 100)
        self.runs: list[TaskFuture[Any]] = []
        self.lists: list[TaskFutureList[Any]] = []
        self.upstreams: dict[TaskFuture[Any], list[TaskFuture[Any]]] = {}
        self.begun: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.ended: set[int] = set()
        self.forgotten: set[int] = set()
        self.refused: set[int] = set()
        self.queue: deque[InFlight] = deque()
        self.words: deque[tuple[Any, ...]] = deque()
        self.reads: list[FakeWorker] = []
        self.laters: list[Any] = []
        self.waits = itertools.count(1)
        self.workers: dict[int, FakeWorker] = {}
        self.keys = itertools.count(1)
        for _ in range(workers):
            self.new_worker()
        self.scheduler.slots_changed(range(workers))
        self.follow()

    @property
    def now(self) -> float:
        return float(next(self.time))

    def new_worker(self) -> None:
        worker = FakeWorker(next(self.keys))
        self.workers[worker.state.key] = worker  # type: ignore[index]
        self.ledger.joined(worker.state)

    # ------------------------------------------------------------------ what dispatcher and backend would do

    def follow(self) -> None:
        while self.scheduler.effects:
            kind, *rest = self.scheduler.effects.popleft()
            if kind == effects.LAUNCH:
                self.launch(rest[0])
            elif kind == effects.RECALL:
                self.ledger.recall(rest[0])
            elif kind == effects.INTERRUPT:
                self.ledger.stopping.interrupt(rest[0])
            elif kind == effects.HELP:
                self.help(rest[0])
            elif kind == effects.TELL:
                self.tell(*rest)
            elif kind == effects.GO_ON:
                state, wait = rest[0].tag
                self.tell(state, "place", wait)
            elif kind == effects.STOP:
                self.stop(rest[0], rest[2]._number)
            elif kind == effects.WITHDRAW:
                if rest[0] in self.queue:
                    self.queue.remove(rest[0])
                    self.words.append(("withdrawn", rest[0].number))
            elif kind == effects.READ:
                self.reads.append(self.workers[rest[0].key])
            elif kind == effects.LATER:
                self.laters.append(rest[1])
            elif kind == effects.KILL:
                worker = self.workers[rest[0].key]
                if worker.alive:
                    self.die(worker, readable=True)

    def launch(self, batch: Batch) -> None:
        if batch.blocked_run is None:
            entry = InFlight(batch, is_job=True)
            self.ledger.sent(entry)
            self.queue.append(entry)
            return
        state, wait = batch.blocked_run.tag
        if self.ledger.given(InFlight(batch, is_job=False), state):
            self.ledger.arrived(state, batch.number)
            worker = self.workers[state.key]
            if not worker.alive and not worker.has_file:  # for all that can be known, it came
                self.forget(batch)
            if worker.alive:
                held = Held(batch, wait)
                worker.given.append(held)
                worker.file[batch.number] = held

    def forget(self, batch: Batch) -> None:
        """What a worker had written down of a batch is lost."""
        positions = range(len(batch))
        self.forgotten.update(self.scheduler.run_at(batch, p)._number for p in positions)

    def help(self, blocked_run: BlockedRun) -> None:
        try:
            if not self.scheduler.worker_waits.help(blocked_run):
                self.ledger.stuck(blocked_run)
        except WaitCycle:
            self.refuse(blocked_run)

    def refuse(self, blocked_run: BlockedRun) -> None:
        for frame in self.workers[blocked_run.tag[0].key].stack:
            if frame.wait == blocked_run.tag[1]:
                frame.refused = True

    def tell(self, state: WorkerState, what: str, about: Any) -> None:
        worker = self.workers[state.key]  # type: ignore[index]
        if not worker.alive:
            return
        if what == "recall":
            for held in self.held_by(worker):
                if held.batch.number == about:
                    self.hand_back(worker, held)
        elif what == "place":
            for frame in worker.stack:
                if frame.wait == about and frame.asks_for_place:
                    frame.has_place = True
        elif what == "secede":
            self.new_worker()  # in whose place the engine may begin another job

    def stop(self, state: WorkerState, number: int) -> None:
        worker = self.workers[state.key]  # type: ignore[index]
        if worker.alive:
            worker.skipped.add(number)
            for frame in worker.stack:
                if frame.run._number == number:
                    frame.interrupted = True

    @staticmethod
    def held_by(worker: FakeWorker) -> list[Held]:
        return [*([worker.job] if worker.job is not None else []), *worker.given]

    def hand_back(self, worker: FakeWorker, held: Held) -> None:
        positions = list(held.left)
        held.left.clear()
        if positions:
            worker.said.append(("back", held.batch.number, positions))

    # ------------------------------------------------------------------ runs come in

    @rule(
        upstreams=st.lists(st.integers(0, 50), max_size=2),
        one=st.sampled_from([*TASKS, again, REPEATS]),
    )
    def submit(self, upstreams: list[int], one: Any = work) -> None:
        self.new_run([self.runs[i % len(self.runs)] for i in upstreams if self.runs], one)

    @rule(length=st.integers(2, 4), one=st.sampled_from(TASKS))
    def submit_a_chain(self, length: int, one: Any = work) -> None:
        last: list[TaskFuture[Any]] = []
        for _ in range(length):
            last = [self.new_run(last, one)]

    def new_run(self, upstreams: list[TaskFuture[Any]], one: Any) -> TaskFuture[Any]:
        number = next_number()
        call = Call(one, (number,), None, number, copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(self.dispatcher, one, number, call, next(self.time))
        self.runs.append(run)
        self.upstreams[run] = upstreams
        inputs = [Input(upstream, False) for upstream in dict.fromkeys(upstreams)]
        if inputs:
            self.scheduler.submit_after(run, inputs)
        else:
            self.scheduler.submit(run)
        self.follow()
        return run

    @rule(size=st.integers(1, 9), watched=st.booleans(), one=st.sampled_from(TASKS))
    def submit_map(self, size: int, watched: bool, one: Any = work) -> None:
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

    @rule(which=st.integers(0, 200))
    def cancel(self, which: int) -> None:
        if self.runs:
            self.scheduler.endings.cancel(self.runs[which % len(self.runs)], next(self.time))
            self.follow()

    @rule()
    def a_slot_has_been_idle(self) -> None:
        self.scheduler.recall()
        self.follow()

    # ------------------------------------------------------------------ the engine, and its workers

    def a_worker(self, which: int) -> FakeWorker | None:
        living = [worker for worker in self.workers.values() if worker.alive]
        return living[which % len(living)] if living else None

    @rule(which=st.integers(0, 3), steps=st.integers(1, 8), fails=st.booleans())
    def a_worker_goes_on(self, which: int, steps: int, fails: bool) -> None:
        """It does what comes next, and so on."""
        worker = self.a_worker(which)
        for _ in range(steps if worker is not None else 0):
            assert worker is not None
            if worker.unpacking:
                self.unpacks_it(worker)
            elif worker.stack and not worker.stack[-1].wait:
                self.ends_a_run(worker, fails)
            elif worker.stack or worker.job is not None or worker.given:
                self.goes_on(worker)
            else:
                self.takes_a_job(worker)

    def takes_a_job(self, worker: FakeWorker) -> None:
        if worker.job is not None or worker.stack or worker.retires or not self.queue:
            return
        entry = self.queue.popleft()
        worker.job = Held(entry.batch)
        worker.unpacking = entry.number

    def unpacks_it(self, worker: FakeWorker) -> None:
        worker.unpacking = 0
        assert worker.job is not None
        worker.file[worker.job.batch.number] = worker.job
        worker.said.append(("arrived", worker.job.batch.number))

    def goes_on(self, worker: FakeWorker) -> None:
        top = worker.stack[-1] if worker.stack else None
        if top is not None and not top.wait:
            return  # it is running something
        if top is not None and self.is_over(top) and self.has_its_place(worker, top):
            worker.said.append(("resumed", top.wait))
            top.waits_for, top.wait, top.refused = None, 0, False
            top.asks_for_place = top.has_place = False
            return
        for held in self.held_by(worker):
            if top is not None and (held.wait != top.wait or top.asks_for_place):
                self.hand_back(worker, held)
                self.close_if_over(worker, held)
                continue
            while held.left:
                position = held.left.popleft()
                run = self.scheduler.run_at(held.batch, position)
                if run._number in worker.skipped or not self.can_begin(held, run):
                    continue
                self.begins(worker, held, position, run)
                return
            self.close_if_over(worker, held)

    def has_its_place(self, worker: FakeWorker, frame: Frame) -> bool:
        """Whether who waits for no run any more has a place of its caps; if it is under any, it asks for one."""
        cap = frame.run._task.cap
        if cap is None and self.whole is None:
            return True
        if not frame.asks_for_place:
            frame.asks_for_place = True
            worker.said.append(("would go on", frame.wait, (cap,) if cap is not None else ()))
        return frame.has_place

    def is_over(self, frame: Frame) -> bool:
        """Whether a wait ends: what the driver knows, its worker is told in time."""
        assert frame.waits_for is not None
        over = frame.refused or frame.interrupted or frame.waits_for._phase >= DONE
        return over or frame.asks_for_place

    def can_begin(self, held: Held, run: TaskFuture[Any]) -> bool:
        if isinstance(held.batch.runs, Span):
            return True
        here = {other: place for place, other in enumerate(held.batch.runs)}
        return all(
            not isinstance(held.ended.get(here[upstream], Outcome(CANCELLED, None)), Outcome)
            for upstream in self.upstreams.get(run, ())
            if upstream in here
        )

    def begins(self, worker: FakeWorker, held: Held, position: int, run: TaskFuture[Any]) -> None:
        number = run._number
        for upstream in self.upstreams.get(run, ()):
            inside = not isinstance(held.batch.runs, Span) and upstream in held.batch.runs
            assert inside or upstream._phase == COMPLETED, "it began before what it waits for"
        for other in self.workers.values():
            assert all(frame.run is not run for frame in other.stack), "it runs twice at once"
        known = number in self.ended and number not in self.forgotten
        assert not known, "it had ended, and that was written down"
        self.begun[number] = self.begun.get(number, 0) + 1
        repeats = run._task.crash_retries
        assert self.begun[number] <= 1 + repeats, "it was begun again"
        held.under_way += 1
        held.begun.add(position)
        worker.stack.append(Frame(held, position, run))

    def ends_a_run(self, worker: FakeWorker, fails: bool) -> None:
        frame = worker.stack.pop()
        held = frame.held
        held.under_way -= 1
        value: Any = frame.run._number
        if frame.interrupted:
            value = Outcome(CANCELLED, None)
        elif fails:
            value = Outcome(9, ValueError("failed"))
        self.ended.add(frame.run._number)
        held.ended[frame.position] = value
        held.unreported.append((frame.position, value))
        self.close_if_over(worker, held)

    @rule(which=st.integers(0, 3))
    def reports(self, which: int) -> None:
        worker = self.a_worker(which)
        for held in self.held_by(worker) if worker is not None else ():
            self.report(worker, held)

    def report(self, worker: FakeWorker | None, held: Held, last: bool = False) -> None:
        told, held.unreported = held.unreported, []
        if worker is not None and (told or last):
            ends = [float(next(self.time))] * len(told)
            positions, values = [p for p, _ in told], [v for _, v in told]
            worker.said.append(
                ("report", Report(held.batch.number, positions, values, ends, 0.0, last=last))
            )

    def close_if_over(self, worker: FakeWorker, held: Held) -> None:
        if held.left or held.under_way or held.closed or worker.unpacking == held.batch.number:
            return
        held.closed = True
        self.report(worker, held, last=True)
        if held is worker.job:
            worker.job = None
            self.words.append(("ended", held.batch.number, JobEnd.RAN, None))
        else:
            worker.given.remove(held)

    @rule(which=st.integers(0, 3), awaited=st.integers(0, 200))
    def waits_for_a_run(self, which: int, awaited: int) -> None:
        worker = self.a_worker(which)
        if worker is None or not worker.stack or not self.runs:
            return
        frame = worker.stack[-1]
        wanted = self.runs[awaited % len(self.runs)]
        if frame.wait or wanted._phase >= DONE or wanted is frame.run:
            return
        frame.wait, frame.waits_for = next(self.waits), wanted
        for held in self.held_by(worker):
            self.report(worker, held)
            self.hand_back(worker, held)
        number = frame.held.batch.number
        worker.said.append(("waiting", number, frame.position, wanted, frame.wait))

    @rule(which=st.integers(0, 200))
    def a_run_is_stopped_by_force(self, which: int) -> None:
        """It was cancelled, or is past its limit, and did not stop."""
        run = self.runs[which % len(self.runs)] if self.runs else None
        stacks = [worker.stack for worker in self.workers.values()]
        if run is not None and any(s and s[-1].run is run and not s[-1].wait for s in stacks):
            self.scheduler.endings.cancel(run, next(self.time))
            self.follow()
            self.ledger.stopping.force(run, self.now)
            self.follow()

    @rule(which=st.integers(0, 3))
    def a_worker_retires(self, which: int) -> None:
        """It ends what it is at; what it has not begun the engine gives to others, who refuse it."""
        worker = self.a_worker(which)
        if worker is None or worker.retires:
            return
        worker.retires = True
        for held in self.held_by(worker):
            if not worker.unpacking:
                self.hand_back(worker, held)
        self.words.append(("retires", worker))
        if worker.job is not None and worker.job.wait == 0:
            number = worker.job.batch.number
            self.words.append(("ended", number, JobEnd.REFUSED, None))
            self.words.append(("ended", number, JobEnd.NOT_BEGUN, None))
        self.new_worker()

    def farewells(self) -> None:
        """Who retires ends, and says so."""
        for worker in [w for w in self.workers.values() if w.alive and w.retires]:
            if worker.unpacking or worker.stack:
                self.die(worker, readable=True)  # it took too long
                continue
            for held in self.held_by(worker):
                self.hand_back(worker, held)
                held.closed = True
                self.report(worker, held, last=True)
            worker.alive = False
            worker.said.append(("farewell",))

    @rule(
        which=st.integers(0, 3),
        readable=st.booleans(),
        unsaid=st.integers(0, 3),
        first=st.booleans(),
        blamed=st.booleans(),
    )
    def a_worker_dies(
        self, which: int, readable: bool, unsaid: int, first: bool, blamed: bool
    ) -> None:
        worker = self.a_worker(which)
        if worker is not None:
            self.die(worker, readable=readable, unsaid=unsaid, first=first, blamed=blamed)

    def die(
        self,
        worker: FakeWorker,
        *,
        readable: bool,
        unsaid: int = 0,
        first: bool = True,
        blamed: bool = True,
    ) -> None:
        worker.alive = False
        worker.has_file = readable
        for _ in range(min(unsaid, len(worker.said))):
            worker.said.pop()  # it was not sent yet
        for frame in worker.stack:
            self.lost[frame.run._number] = self.lost.get(frame.run._number, 0) + 1
        if worker.unpacking and worker.job is not None and len(worker.job.batch) == 1:
            number = self.scheduler.run_at(worker.job.batch, 0)._number
            self.lost[number] = 1  # it is to blame
        if not readable:
            for held in [*self.held_by(worker), *worker.file.values()]:
                self.forget(held.batch)
        worker.stack = []
        if worker.retires:
            return  # nobody looks whether it is still there
        if first:
            self.words.append(("left", worker))
        if worker.job is not None:
            key = worker.state.key if blamed else None
            # Where the file is gone, the machine is, and the engine says so.
            number = worker.job.batch.number
            self.words.append(("ended", number, JobEnd.DIED, key, not readable))
        if not first:
            self.words.append(("left", worker))
        self.new_worker()

    # ------------------------------------------------------------------ what is said arrives

    @rule(which=st.integers(0, 10), count=st.integers(1, 5), twice=st.booleans())
    def a_worker_is_heard(self, which: int, count: int, twice: bool) -> None:
        for _ in range(count):
            speakers = [worker for worker in self.workers.values() if worker.said]
            if not speakers:
                return
            worker = speakers[which % len(speakers)]
            said = worker.said.popleft()
            for _ in range(1 + twice):
                self.hear(worker, said)
            self.follow()

    def hear(self, worker: FakeWorker, said: tuple[Any, ...]) -> None:
        kind, *rest = said
        if kind == "arrived":
            self.ledger.arrived(worker.state, rest[0])
        elif kind == "report":
            self.ledger.reported(rest[0])
        elif kind == "back":
            self.scheduler.batch_handed_back(*rest)
        elif kind == "farewell":
            self.ledger.farewell(worker.state, self.now)
        elif kind == "would go on":
            self.ledger.would_go_on(worker.state, *rest)
        elif kind == "resumed":
            self.ledger.resumed(worker.state, rest[0])
        elif worker.state.seen_off or rest[3] in worker.state.waits:
            pass
        else:
            number, position, wanted, wait = rest
            try:
                blocked_run = self.scheduler.worker_waits.run_waits(
                    number, position, [wanted], blocks=True, tag=(worker.state, wait)
                )
            except WaitCycle:
                for frame in worker.stack:
                    frame.refused = frame.refused or frame.wait == wait
            else:
                if blocked_run is not None:
                    worker.state.waits[wait] = blocked_run

    @rule(twice=st.booleans())
    def the_engine_is_heard(self, twice: bool) -> None:
        if self.words:
            word = self.words.popleft()
            for _ in range(1 + twice):
                self.take(*word)
            self.follow()

    def take(self, kind: str, about: Any, *rest: Any) -> None:
        if kind == "withdrawn":
            self.ledger.withdrawn(about)
        elif kind == "left":
            self.ledger.worker_left(about.state, Departure(signal=9))
        elif kind == "retires":
            self.ledger.worker_left(about.state, orderly=True)
        else:
            end, key, *gone = rest
            if end is JobEnd.REFUSED:
                self.refused.add(about)
            entry = self.ledger.books.batches.get(about)
            if end is JobEnd.NOT_BEGUN and entry is not None and entry.worker is not None:
                end = JobEnd.RAN  # as far as the engine knows
            self.ledger.job_ended(about, end, self.now, worker=key, may_have_begun=any(gone))

    @rule()
    def a_file_is_read(self) -> None:
        if not self.reads:
            return
        worker = self.reads.pop(0)
        # Reading takes longer than what a worker that has gone had sent.
        while worker.said:
            self.hear(worker, worker.said.popleft())
        outcomes: dict[int, Outcomes] | None = None
        if worker.has_file:
            now = float(next(self.time))
            outcomes = {
                number: Outcomes(
                    list(held.ended),
                    list(held.ended.values()),
                    [now] * len(held.ended),
                    [p for p in held.begun if p not in held.ended],
                )
                for number, held in worker.file.items()
            }
            if worker.unpacking:
                outcomes[worker.unpacking] = Outcomes(unpacking=-1)
        else:
            # The engine does not say who had what was refused: that may have been this worker.
            for number in self.refused & self.ledger.books.batches.keys():
                if self.ledger.books.batches[number].worker is None:
                    self.forget(self.ledger.books.batches[number].batch)
        self.ledger.outcomes_read(worker.state, outcomes, self.now)
        self.follow()

    @rule()
    def time_passes(self) -> None:
        """What is on its way arrives; then whoever looks later looks."""
        self.farewells()
        laters, self.laters = self.laters, []
        for worker in list(self.workers.values()):
            while worker.said:
                self.hear(worker, worker.said.popleft())
        while self.words:
            self.take(*self.words.popleft())
        for look in laters:
            look(self.now)
        self.follow()

    # ------------------------------------------------------------------ what holds at every moment

    @invariant()
    def caps_hold(self) -> None:
        """Whatever was lost, refused, recalled or said twice; who waits executes nothing, and who has died."""
        if hasattr(self, "scheduler"):
            tops = [w.stack[-1] for w in self.workers.values() if w.alive and w.stack]
            at_work = [top.run._task for top in tops if not top.wait or top.has_place]
            check_caps(at_work, self.whole)
            check_lines(self.scheduler)

    # ------------------------------------------------------------------ the end

    def teardown(self) -> None:
        """Everything runs out; what was forgotten would be seen here."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            if self.scheduler.open == 0 and not self.ledger.books.batches:
                break
            for number in range(len(self.workers)):
                self.a_worker_goes_on(number, 4, fails=False)
            self.a_slot_has_been_idle()
            self.time_passes()
            while self.reads:
                self.a_file_is_read()
        assert self.scheduler.open == 0
        assert not self.ledger.books.batches
        assert not self.ledger.books.uncertain
        assert not self.scheduler.batches
        assert not self.scheduler.worker_waits.helping
        check_all_free(self.scheduler)
        for run in self.runs:
            assert run._phase >= DONE
            number = run._number
            if run._phase == CRASHED:
                assert isinstance(run._outcome, WorkerDied)
                # An innocent: it was neither executing when a worker died, nor is the file gone that would tell.
                assert number in self.lost or number in self.forgotten
            if number in self.ended and number not in self.forgotten and number not in self.lost:
                assert run._phase != CRASHED


def settings_of(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


class LateWords(LedgerMachine):
    """As on Ray: what the engine says and what a worker says come by different ways."""

    words_within = 3.0


class StandingWorkers(LateWords):
    """As `LateWords`, but who has ended a batch may be given the next by message, as part of the same job."""

    def __init__(self) -> None:
        super().__init__()
        self.standing: list[tuple[FakeWorker, bool]] = []

    @rule(which=st.integers(0, 3), in_time=st.booleans())
    def a_worker_stands_by(self, which: int, in_time: bool) -> None:
        """It is given what comes next, `in_time` or not; by then it may have gone, or have something else to do."""
        worker = self.a_worker(which)
        if worker is not None and not (worker.job or worker.stack or worker.given):
            self.standing.append((worker, in_time))

    def launch(self, batch: Batch) -> None:
        while self.standing and batch.blocked_run is None:
            worker, in_time = self.standing.pop()
            if worker.state.departure is not None or worker.state.seen_off:
                continue
            assert self.ledger.given(InFlight(batch, is_job=True), worker.state)
            self.ledger.arrived(worker.state, batch.number)
            is_idle = not (worker.job or worker.stack or worker.given or worker.retires)
            if not worker.alive:
                if not worker.has_file:  # for all that can be known, it came
                    self.forget(batch)
            elif in_time and is_idle:
                worker.job = worker.file[batch.number] = Held(batch)
            else:
                nothing = Report(batch.number, [], [], [], 0.0, last=True)
                worker.said.append(("report", nothing))
                worker.file[batch.number] = Held(batch)  # it might have begun, for all one knows
            return
        super().launch(batch)


class LocalWorkers(LedgerMachine):
    """As worker processes: each has a slot, and is given its batches itself. No engine speaks of them."""

    queues = False

    def __init__(self) -> None:
        super().__init__()
        self.at_slots: dict[int, FakeWorker] = {}

    def new_worker(self) -> None:
        """One starts when there is something for it."""

    def worker_at(self, slot: int) -> FakeWorker:
        worker = self.at_slots.get(slot)
        if worker is None or not worker.alive or worker.retires:
            super().new_worker()
            worker = self.at_slots[slot] = self.workers[max(self.workers)]
        return worker

    def launch(self, batch: Batch) -> None:
        worker = self.worker_at(batch.slot)
        assert self.ledger.given(InFlight(batch, is_job=True), worker.state)
        held = Held(batch, batch.blocked_run.tag[1] if batch.blocked_run is not None else 0)
        worker.given.append(held)
        worker.file[batch.number] = held

    @rule(which=st.integers(0, 3))
    def a_worker_retires(self, which: int) -> None:
        """Between two runs, as its slot has another worker from then on; what it has not begun it gives back, and what comes yet."""
        worker = self.a_worker(which)
        if worker is not None and not worker.stack:
            worker.retires = True
            for held in self.held_by(worker):
                self.hand_back(worker, held)
                self.close_if_over(worker, held)

    def farewells(self) -> None:
        """Who retires ends."""
        for worker in [w for w in self.workers.values() if w.alive and w.retires]:
            if not worker.stack and not worker.given:
                worker.alive = False
                self.words.append(("left", worker))

    def die(self, worker: FakeWorker, **how: Any) -> None:
        super().die(worker, **how)
        if worker.retires:
            self.words.append(("left", worker))


LedgerMachine.TestCase.settings = settings_of(60)
LateWords.TestCase.settings = settings_of(60)
LocalWorkers.TestCase.settings = settings_of(60)
TestLedger = pytest.mark.timeout(60)(LedgerMachine.TestCase)
TestLedgerWithLateWords = pytest.mark.timeout(60)(LateWords.TestCase)
StandingWorkers.TestCase.settings = settings_of(40)
TestLedgerWithWorkersThatStandBy = pytest.mark.timeout(60)(StandingWorkers.TestCase)
TestLedgerOfProcesses = pytest.mark.timeout(60)(LocalWorkers.TestCase)


@pytest.mark.slow
@pytest.mark.timeout(250)
@pytest.mark.parametrize(
    "machine", [LedgerMachine, LateWords, LocalWorkers], ids=["one way", "late words", "processes"]
)
def test_at_length(machine: type[LedgerMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings_of(1000))  # type: ignore[no-untyped-call]


def test_what_a_worker_that_retired_wrote_down_counts() -> None:
    """It was killed before it said anything; the engine says only that the job has run."""
    play = LateWords()
    play.begin(workers=2, known=False)
    play.submit_a_chain(length=2)
    play.a_worker_retires(which=0)
    play.a_worker_goes_on(which=2, steps=4, fails=False)
    play.a_worker_retires(which=2)
    play.a_worker_dies(which=2, readable=True, unsaid=2, first=False, blamed=False)
    play.teardown()


def test_what_a_lost_worker_that_retired_may_have_begun_is_not_begun_again() -> None:
    """Neither what it said nor its file arrives, and the engine says that the batch was refused."""
    play = LateWords()
    play.begin(workers=1, known=False)
    play.submit(upstreams=[])
    play.a_worker_goes_on(which=0, steps=3, fails=False)
    play.a_worker_retires(which=0)
    play.a_worker_dies(which=0, readable=False, unsaid=1, first=False, blamed=False)
    play.teardown()


def test_a_file_is_read_before_a_batch_goes_again_that_may_have_begun() -> None:
    """The engine says that it died, and not with whom; a worker has gone, and what it wrote down is being read."""
    play = LedgerMachine()
    play.begin(workers=1, known=True)
    play.submit_map(size=4, watched=False)
    play.a_worker_goes_on(which=0, steps=3, fails=False)
    play.a_worker_dies(which=0, readable=True, unsaid=1, first=False, blamed=False)
    play.time_passes()
    play.teardown()


def test_whoever_may_have_begun_a_batch_is_waited_for_without_end() -> None:
    """Looking again and again would keep whoever carries effects out from hearing what is waited for."""
    play = LedgerMachine()
    play.begin(workers=2, known=True)
    play.submit_map(size=4, watched=False)
    play.a_worker_goes_on(which=0, steps=3, fails=False)
    play.a_worker_retires(which=1)
    play.a_worker_dies(which=0, readable=True, unsaid=1, first=False, blamed=False)
    while play.words:
        play.the_engine_is_heard(twice=False)
    play.laters, looks = [], play.laters
    for look in looks:
        look(play.now)
    play.follow()
    assert play.laters == []
    play.teardown()


def test_a_run_that_came_back_is_no_more_of_its_batch() -> None:
    """Whoever looks at the batch afterwards does not take it for sent."""
    play = LedgerMachine()
    play.begin(workers=1, known=False)
    play.submit_map(size=1, watched=True)
    play.a_worker_goes_on(which=0, steps=2, fails=False)
    play.a_worker_retires(which=0)
    batch = play.ledger.books.batches[1].batch
    play.submit_map(size=1, watched=True)
    play.a_worker_is_heard(which=0, count=5, twice=False)
    play.scheduler.run_at(batch, 0)
    play.teardown()


# ---------------------------------------------------------------------- functions that are deadly


class Ledgers:
    """A ledger whose batches are of one run of one task each, beside a scheduler that only notes."""

    def __init__(self) -> None:
        self.scheduler = Mock(effects=[])
        self.ledger = Ledger(self.scheduler, LedgerRules("Fake"))
        self.numbers = itertools.count(1)

    def begins(self) -> tuple[int, WorkerState]:
        """A new worker has a new batch."""
        number = next(self.numbers)
        future: Any = SimpleNamespace(
            _task=work, _number=number, name=f"work-{number}", _detail=None
        )
        batch = Batch(number, 0, [future], None)
        entry = InFlight(batch, is_job=True, tasks={0: work})
        worker = WorkerState(number)
        self.ledger.sent(entry)
        self.ledger.joined(worker)
        self.ledger.arrived(worker, number)
        return number, worker

    def dies_unpickling(self) -> None:
        number, worker = self.begins()
        self.ledger.outcomes_read(worker, {number: Outcomes(unpacking=1)}, 1.0)

    def unpickles(self, dies_then: bool) -> None:
        number, worker = self.begins()
        if dies_then:
            self.ledger.outcomes_read(worker, {number: Outcomes([0], [7], [1.0])}, 1.0)
        else:
            report = Report(number, [0], [7], [1.0], 0.1)
            report.last = True
            self.ledger.reported(report)

    def is_deadly(self) -> bool:
        return any(effect[0] == effects.DEADLY for effect in self.scheduler.effects)


def test_a_function_is_deadly_when_worker_after_worker_dies_of_it() -> None:
    ledgers = Ledgers()
    for number in range(DEADLY):
        assert not ledgers.is_deadly(), number
        ledgers.dies_unpickling()
    assert ledgers.is_deadly()


@pytest.mark.parametrize("dies_then", [False, True])
def test_a_function_that_workers_unpickle_is_not_deadly(dies_then: bool) -> None:
    """Workers that are killed at random often are unpickling: they are young, and begin with that."""
    ledgers = Ledgers()
    for _ in range(5 * DEADLY):
        for _ in range(DEADLY - 1):
            ledgers.dies_unpickling()
        ledgers.unpickles(dies_then)
    assert not ledgers.is_deadly()


def test_what_a_dead_worker_wrote_down_is_passed_on() -> None:
    """A worker whose run has submitted a map is to hear of elements that had ended elsewhere (SPEC 9.1)."""
    ledgers = Ledgers()
    ledgers.unpickles(dies_then=True)
    told = [effect[2] for effect in ledgers.scheduler.effects if effect[0] == effects.PASSED_ON]
    assert [(report.positions, report.values) for report in told] == [([0], [7])]


@pytest.mark.parametrize("alone", [False, True])
def test_who_is_to_blame_for_a_death_while_unpickling(alone: bool) -> None:
    """A run that travelled alone by chance is sent once more, by itself; then it is to blame (SPEC 7.5, 7.7)."""
    ledgers = Ledgers()
    number, worker = ledgers.begins()
    if alone:
        ledgers.ledger.books.batches[number].batch.runs[0]._detail = SimpleNamespace(alone=True)
    ledgers.ledger.outcomes_read(worker, {number: Outcomes(unpacking=-1)}, 1.0)
    assert ledgers.scheduler.batch_split.called is not alone
    assert ledgers.scheduler.batch_lost.called is alone


def test_a_run_that_was_to_be_stopped_while_it_waited_is_stopped_when_it_goes_on() -> None:
    """SPEC 7.3."""
    play = LedgerMachine()
    play.begin(workers=1, known=False)
    play.submit(upstreams=[])
    play.a_worker_goes_on(which=0, steps=3, fails=False)
    play.submit(upstreams=[])
    play.waits_for_a_run(which=0, awaited=1)
    play.a_worker_is_heard(which=0, count=5, twice=False)
    worker, stubborn = play.workers[1], play.runs[0]
    play.scheduler.endings.cancel(stubborn, play.now)
    play.follow()
    play.ledger.stopping.force(stubborn, play.now)
    play.follow()
    assert worker.alive, "what it is at may be another run"
    play.a_worker_goes_on(which=0, steps=1, fails=False)
    play.time_passes()
    play.time_passes()
    assert not worker.alive
    play.teardown()


def test_a_report_of_nothing_does_not_say_that_a_function_was_unpickled() -> None:
    """As one comes that closes a batch which is to be sent anew."""
    ledgers = Ledgers()
    for _ in range(DEADLY):
        assert not ledgers.is_deadly()
        ledgers.dies_unpickling()
        number, _ = ledgers.begins()
        ledgers.ledger.reported(Report(number, [], [], [], 0.0, last=True))
    assert ledgers.is_deadly()


def test_what_has_the_place_of_a_run_that_keeps_its_worker_is_asked_back() -> None:
    """SPEC 10.3. A thread of the run waits, so nobody else comes to its worker; and there is no other."""
    play = LedgerMachine()
    play.begin(workers=1, known=False)
    play.new_run([], TASKS[1])
    play.a_worker_goes_on(which=0, steps=3, fails=False)
    play.time_passes()
    worker_waits = play.scheduler.worker_waits
    tag = play.workers[1].state, 1
    blocked_run = worker_waits.run_waits(1, 0, [], blocks=True, beside=True, tag=tag)
    play.follow()
    following = play.new_run([], TASKS[1])
    assert [entry.batch.runs for entry in play.queue] == [[following]]
    worker_waits.would_go_on(blocked_run, [TASKS[1].cap])
    play.follow()
    play.time_passes()
    assert not play.scheduler.caps.going_on
    assert not play.queue
    worker_waits.run_resumed(blocked_run)
    play.teardown()


@pytest.mark.parametrize("when", ["was sent", "is about to be sent"])
def test_an_element_that_is_sent_before_anybody_has_its_future_is_asked_back(when: str) -> None:
    """SPEC 9.1. A thread of a run waits for it that keeps its worker; and there is no other."""
    play = LedgerMachine()
    play.begin(workers=1, known=False)
    play.submit(upstreams=[])
    play.a_worker_goes_on(which=0, steps=3, fails=False)
    play.time_passes()
    follow, play.follow = play.follow, lambda: None  # type: ignore[method-assign]
    play.submit_map(size=2, watched=False)
    play.follow = follow  # type: ignore[method-assign]
    if when == "was sent":
        play.follow()
    element = play.lists[0][0]
    tag = play.workers[1].state, 1
    blocked_run = play.scheduler.worker_waits.run_waits(
        1, 0, [element], blocks=True, beside=True, tag=tag
    )
    if when != "was sent":
        assert [effect[0] for effect in play.scheduler.effects] == [effects.LAUNCH, effects.HELP]
        play.scheduler.effects.rotate()  # there was room only when the thread waited already
    play.follow()
    assert not play.queue
    play.time_passes()
    assert [held.batch.runs for held in play.workers[1].given] == [[element]]
    play.scheduler.worker_waits.run_resumed(blocked_run)
    play.teardown()
