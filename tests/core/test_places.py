"""Places that threads and coroutines share, in simulation: who could begin is called, whatever comes between.

Only who was called looks for work here: a worker that was woken, or has ended a run; the loop, once it was told. So a call that is
forgotten is a run that stays.
"""

from __future__ import annotations

import itertools
from contextvars import copy_context
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from shoal import task
from shoal.calls import COMPLETED, DONE, READY, Call, Outcome
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord, Span
from shoal.names import next_number, reserve
from shoal.scheduling import effects
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities
from shoal.scheduling.dispatchers import dispatcher_for


@task
def work(x: int) -> int:
    return x


@task
async def work_async(x: int) -> int:
    return x


CAPPED = {"max_concurrency": 1}
TASKS = (work, work_async, work.with_options(**CAPPED), work_async.with_options(**CAPPED))


class Backend:
    captures = False
    capabilities = Capabilities(pulls=True, policy=BatchPolicy(target=1.0, alone=2.0, cap=4))


class Worker:
    """A thread, between two of its steps: at work, at the end of a run, about to look, or asleep."""

    line: Any = None

    def __init__(self) -> None:
        self.counted = False
        self.work: TaskFuture[Any] | Span | None = None
        self.counting: bool | None = None  # what it saw when its run ended
        self.asleep = False

    def is_asleep(self) -> bool:
        return self.asleep


class Coroutine:
    """A coroutine's run: at work, waiting, or in line for a place to go on."""

    def __init__(self, run: TaskFuture[Any]) -> None:
        self.run = run
        self.waits = False
        self.in_line = False

    def resume(self) -> None:
        self.in_line = False


class Places(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 3), whole=st.none() | st.integers(1, 2))
    def begin(self, limit: int, whole: int | None) -> None:
        self.time = itertools.count(1.0)
        backend: Any = Backend()
        self.dispatcher = dispatcher_for(backend, limit, "fake")
        if whole is not None:
            self.dispatcher.cap_all(whole)
        self.scheduler: Any = self.dispatcher.scheduler
        self.limit = limit
        self.workers = [Worker() for _ in range(limit)]
        self.scheduler.workers = self.workers
        self.coroutines: list[Coroutine] = []
        self.loop_is_called = False
        self.runs: list[TaskFuture[Any]] = []

    def follow(self) -> None:
        while self.scheduler.effects:
            effect = self.scheduler.effects.popleft()
            if effect[0] == effects.WAKE:
                effect[1].asleep = False
            elif effect[0] == effects.LOOP:
                self.loop_is_called = True

    @rule(one=st.sampled_from(TASKS))
    def submit(self, one: Any) -> None:
        number = next_number()
        call = Call(one, (number,), None, number, copy_context(), None)
        run: TaskFuture[Any] = TaskFuture(self.dispatcher, one, number, call, next(self.time))
        self.runs.append(run)
        self.scheduler.submit(run)
        self.follow()

    @rule(one=st.sampled_from(TASKS), size=st.integers(1, 5))
    def submit_map(self, one: Any, size: int) -> None:
        values: Any = [(list(range(size)), None)]
        parts: Any = (values, None, copy_context(), None)
        self.scheduler.submit_map(MapRecord(self.dispatcher, one, reserve(size), size, *parts))
        self.follow()

    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        if self.runs:
            self.scheduler.endings.cancel(self.runs[which % len(self.runs)], next(self.time))
            self.follow()

    @rule(which=st.integers(0, 2))
    def worker_steps(self, which: int) -> None:
        """As `Worker._take_all`: each step is one between which others may come."""
        worker = self.workers[which % len(self.workers)]
        scheduler = self.scheduler
        if worker.work is not None:
            work, worker.work = worker.work, None
            if isinstance(work, Span):
                for index in work.indices:
                    scheduler.element_completed(work.record, index, index, next(self.time))
                scheduler.span_ended(worker, work, len(work), 0.0, 0.0)
            else:
                scheduler.complete(work, 0, next(self.time))
                worker.counting = scheduler.counting
        elif worker.counting is not None:
            if worker.counting:
                scheduler.vacated(worker)
            worker.counting = None
        elif not worker.asleep:
            work = None if scheduler.counting else scheduler.pop()
            if work is None:
                work = scheduler.take(worker)
            worker.work = work
            worker.asleep = work is None
        self.follow()

    def all_workers_step(self) -> None:
        for which in range(len(self.workers)):
            self.worker_steps(which)

    @rule(most=st.integers(1, 3))
    def loop_steps(self, most: int) -> None:
        """As `AsyncLane._take`."""
        if not self.loop_is_called:
            return
        runs = self.scheduler.take_async(most)
        self.loop_is_called = len(runs) == most
        self.coroutines.extend(Coroutine(run) for run in runs)
        self.follow()

    @rule(which=st.integers(0, 9), waits=st.booleans())
    def coroutine_steps(self, which: int, waits: bool) -> None:
        """As `_Place`: it begins to wait, goes on, or ends."""
        if not self.coroutines:
            return
        coroutine = self.coroutines[which % len(self.coroutines)]
        scheduler, line = self.scheduler, self.scheduler.line_of(coroutine.run)
        if coroutine.in_line:
            return
        if coroutine.waits:
            coroutine.waits = False
            coroutine.in_line = not scheduler.occupy(coroutine, line)
        elif waits:
            coroutine.waits = True
            scheduler.vacate(line)
        else:
            self.coroutines.remove(coroutine)
            if coroutine.run._phase < DONE:
                scheduler.ended(coroutine.run, Outcome(COMPLETED, 0), next(self.time))
            scheduler.vacate(line)
        self.follow()

    @invariant()
    def no_more_than_there_are_places(self) -> None:
        if hasattr(self, "limit"):
            at_work = sum(worker.work is not None for worker in self.workers)
            coroutines = sum(not (one.waits or one.in_line) for one in self.coroutines)
            assert at_work + coroutines <= self.limit

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Where nobody is called and a place is free, there is nothing that could begin."""
        if not hasattr(self, "limit") or self.loop_is_called:
            return
        scheduler = self.scheduler
        if all(worker.asleep for worker in self.workers) and scheduler.busy < self.limit:
            begun = [coroutine.run for coroutine in self.coroutines]
            ready = [run for run in self.runs if run._phase == READY and run not in begun]
            lines = [scheduler.line_of(run) for run in ready]
            assert all(line is not None and not line.room() for line in lines)
            assert scheduler.open == 0 or scheduler.busy or self.coroutines

    def teardown(self) -> None:
        """All that was submitted ends, though only who was called does anything."""
        if not hasattr(self, "limit"):
            return
        for _ in range(1000):
            self.all_workers_step()
            self.loop_steps(3)
            for which in reversed(range(len(self.coroutines))):
                self.coroutine_steps(which, False)
        assert self.scheduler.open == 0
        assert self.scheduler.busy == 0 or not self.scheduler.counting


Places.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestPlaces = Places.TestCase


def test_who_is_counted_between_two_runs_gives_its_place_to_a_coroutine() -> None:
    """A worker that has ended a run, and does not know yet that places are counted, keeps none."""
    places = Places()
    places.begin(limit=1, whole=None)
    places.submit(work)
    for _ in ("begins", "ends"):
        places.all_workers_step()
    places.submit(work_async)
    places.loop_steps(2)
    for _ in ("goes on", "looks"):
        places.all_workers_step()
    places.nobody_is_forgotten()
    places.loop_steps(2)
    assert [coroutine.run for coroutine in places.coroutines] == places.runs[1:]


def test_a_place_that_a_cancelled_run_was_to_have_goes_to_a_coroutine() -> None:
    """The worker that was woken for the run finds nothing."""
    places = Places()
    places.begin(limit=2, whole=None)
    for submitted in ((work_async, work_async), (work, work_async)):
        for one in submitted:
            places.submit(one)
        places.all_workers_step()
        places.loop_steps(2)
    places.coroutine_steps(0, waits=False)
    places.cancel(2)
    places.all_workers_step()
    places.nobody_is_forgotten()
    places.loop_steps(2)
    assert [coroutine.run for coroutine in places.coroutines] == [places.runs[1], places.runs[3]]
