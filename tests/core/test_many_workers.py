"""What the scheduler and the ledger do so that thousands of workers cost no more each than two (DESIGN: Scheduler, Ledger)."""

from __future__ import annotations

import itertools
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from shoal import task
from shoal.calls import Batch, Call, Report
from shoal.context import Scope
from shoal.futures import TaskFuture
from shoal.futures.maps import MapRecord, Span
from shoal.names import next_number, reserve
from shoal.scheduling import effects
from shoal.scheduling.batching import BatchPolicy
from shoal.scheduling.capabilities import Capabilities, LedgerRules
from shoal.scheduling.dispatchers import dispatcher_for
from shoal.scheduling.in_flight import LOOKED_THROUGH, InFlight, WorkerState
from shoal.scheduling.ledger import Ledger
from shoal.scheduling.pushing import PushingScheduler
from shoal.scheduling.sending import MADE_AT_ONCE
from shoal.scheduling.worker_slots import Slots


@task
def work(x: int) -> int:
    return x


class SlotsMachine(RuleBasedStateMachine):
    """Slots come, go, are lent and fill up, beside a book that is plain."""

    @initialize(most=st.integers(0, 70))
    def begin(self, most: int) -> None:
        self.slots = Slots(BatchPolicy(seconds=10.0))
        self.numbers = itertools.count(1)
        self.sent: list[Batch] = []
        self.on_loops: list[Batch] = []
        self.there: set[int] = set()
        self.most = most
        self.replace(most)

    @rule(most=st.integers(0, 70))
    def replace(self, most: int) -> None:
        """As many as that, besides those that are lent."""
        self.there = set(range(most)) | self.slots.spares | self.slots.lent
        self.slots.replace(range(most), awaited=False)

    @rule()
    def lend(self) -> None:
        self.there.add(self.slots.lend())

    @rule(again=st.booleans())
    def lend_to_all(self, again: bool) -> None:
        lent = len(self.slots.lent)
        own = len(self.there) - len(self.slots.spares) - lent
        leaving = set(self.slots.spares) if again else set()
        spare = self.slots.lend_to_all(leaving)
        assert (spare is not None) == (lent < own)
        assert spare is None or not leaving or spare in leaving
        if spare is not None:
            self.there.add(spare)

    @rule()
    def leave(self) -> None:
        """What was lent to all gets nothing more, and ends like any spare."""
        if self.slots.lent:
            spare = min(self.slots.lent)
            self.slots.leave(spare)
            assert spare in self.slots.spares

    @rule()
    def end(self) -> None:
        idle = self.slots.spares - {batch.slot for batch in self.sent}
        if idle:
            self.slots.end(min(idle))
            self.there.discard(min(idle))

    @rule(where=st.integers(0, 200))
    def send(self, where: int) -> None:
        if self.there:
            slot = sorted(self.there)[where % len(self.there)]
            batch = Batch(next(self.numbers), slot, [None], 1.0)
            self.sent.append(batch)
            self.slots.count(batch)

    @rule(which=st.integers(0, 200))
    def close(self, which: int) -> None:
        if self.sent:
            self.slots.closed(self.sent.pop(which % len(self.sent)))

    @rule()
    def send_to_a_loop(self) -> None:
        usable = sorted(self.there - self.slots.spares - self.slots.lent)
        expected = min(usable, key=lambda slot: (self.on_loop(slot), slot), default=None)
        slot = self.slots.roomiest_loop()
        assert slot == expected
        if slot is not None:
            batch = Batch(next(self.numbers), slot, [None], None)
            self.on_loops.append(batch)
            self.slots.count_on_loop(batch, under_way=False)

    @rule(which=st.integers(0, 200), waits=st.booleans())
    def a_loop_goes_on(self, which: int, waits: bool) -> None:
        if self.on_loops:
            batch = self.on_loops.pop(which % len(self.on_loops))
            if waits:
                self.slots.leave_loop(batch)
            self.slots.closed(batch)

    def on_loop(self, slot: int) -> int:
        return sum(batch.slot == slot for batch in self.on_loops)

    def load(self) -> dict[int, int]:
        return {slot: sum(batch.slot == slot for batch in self.sent) for slot in self.there}

    @invariant()
    def it_counts_what_was_sent(self) -> None:
        if hasattr(self, "slots"):
            assert self.slots.in_flight == self.load()
            for slot, batches in self.load().items():
                assert self.slots.seconds.get(slot, 0.0) == batches

    @rule(blocked=st.sets(st.integers(0, 70), max_size=5))
    def who_asks_is_told(self, blocked: set[int]) -> None:
        load = self.load()
        usable = sorted(self.there - blocked - self.slots.spares)
        expected = min(usable, key=lambda slot: (load[slot], slot), default=None)
        idle = sum(load[slot] == 0 for slot in usable)
        assert self.slots.roomiest(blocked) == (expected, idle)
        idle_ones = {slot for slot in self.there if load[slot] == 0 or slot in blocked}
        assert self.slots.has_idle(blocked) == bool(idle_ones - self.slots.spares)


TestSlots = SlotsMachine.TestCase


class Cluster:
    """A system with a queue of its own, as far as a scheduler and its ledger know it."""

    def __init__(self, workers: int, size: int, seconds: float) -> None:
        policy = BatchPolicy(target=4.0, alone=3.0, cap=4, window=1, seconds=4.0)
        capabilities = Capabilities(isolated=True, queues=True, policy=policy)
        self.scheduler = PushingScheduler(capabilities)
        self.ledger = Ledger(self.scheduler, LedgerRules("Made up"))
        self.scheduler.durations.observe(work, seconds, 100)
        self.scheduler.slots_changed(range(workers))
        column = list(range(size))
        dispatcher: Any = None  # who made the map has no part in this
        scope: Any = None
        self.record: MapRecord[int] = MapRecord(
            dispatcher, work, reserve(size), size, [(column, None)], None, copy_context(), scope
        )
        self.scheduler.submit_map(self.record)
        self.launched = [batch for kind, batch in self.asked() if kind == effects.LAUNCH]

    def asked(self) -> list[tuple[Any, Any]]:
        """What was asked for since, and about what."""
        asked = [
            (effect[0], effect[1] if len(effect) > 1 else None) for effect in self.scheduler.effects
        ]
        self.scheduler.effects.clear()
        return asked

    def arrives(self, batch: Batch) -> None:
        worker = WorkerState(batch.number)
        self.ledger.joined(worker)
        self.ledger.sent(InFlight(batch, is_job=True))
        self.ledger.arrived(worker, batch.number)

    def reports(self, batch: Batch, *positions: int, last: bool) -> None:
        count = len(positions)
        self.ledger.reported(
            Report(batch.number, positions, [0] * count, [1.0] * count, 0.0, last=last)
        )


def test_an_element_that_begins_alone_gets_no_future_that_nobody_holds() -> None:
    cluster = Cluster(workers=2, size=2, seconds=5.0)
    first, second = cluster.launched
    held = cluster.record.future(1)
    cluster.arrives(first)
    cluster.arrives(second)
    assert set(cluster.record.futures) == {1}
    assert held._is_running()


def test_an_idle_slot_looks_for_runs_that_others_have_not_begun() -> None:
    cluster = Cluster(workers=2, size=8, seconds=1.0)
    first, second = cluster.launched
    assert [len(first), len(second)] == [4, 4]
    for batch in (first, second):
        cluster.arrives(batch)
    cluster.reports(first, 0, 1, 2, 3, last=True)
    assert (effects.IDLE, None) in cluster.asked()
    cluster.scheduler.recall()
    assert (effects.RECALL, second) in cluster.asked()


def test_it_does_not_look_where_each_has_one_run_left() -> None:
    cluster = Cluster(workers=2, size=8, seconds=1.0)
    first, second = cluster.launched
    for batch in (first, second):
        cluster.arrives(batch)
    cluster.reports(second, 0, 1, 2, last=False)
    cluster.reports(first, 0, 1, 2, 3, last=True)
    assert (effects.IDLE, None) not in cluster.asked()
    cluster.scheduler.recall()
    assert effects.RECALL not in [kind for kind, _ in cluster.asked()]


def test_many_batches_are_not_made_before_the_first_is_sent() -> None:
    size = 2 * MADE_AT_ONCE + 100
    cluster = Cluster(workers=size, size=size, seconds=5.0)
    assert len(cluster.launched) == MADE_AT_ONCE
    for expected in (MADE_AT_ONCE, 100):
        cluster.scheduler.fill()
        asked = [kind for kind, _ in cluster.asked()]
        assert asked.count(effects.LAUNCH) == expected
        assert (asked[-1] == effects.FILL) == (expected == MADE_AT_ONCE)


def test_all_of_many_batches_are_sent() -> None:
    size = 2 * MADE_AT_ONCE + 100
    launched: list[Batch] = []
    backend: Any = SimpleNamespace(
        capabilities=Capabilities(isolated=True, policy=BatchPolicy(window=1)),
        captures=False,
        launch=launched.append,
    )
    dispatcher = dispatcher_for(backend, None, "made up")
    events: Any = dispatcher
    events.slots(list(range(size)))
    futures = dispatcher.submit_map(
        work, [(list(range(size)), None)], {}, size, None, Scope(dispatcher, None)
    )
    assert len(futures) == size
    assert sorted(batch.slot for batch in launched) == list(range(size))


def lists_and_spans(count: int) -> tuple[Cluster, list[InFlight]]:
    """A cluster that was sent more batches than that: pairs of elements of a map, and single runs."""
    cluster = Cluster(workers=2 * count, size=4 * count, seconds=1.0)
    for number in range(0, count, 3):
        call = Call(work, (number,), None, next_number(), copy_context(), None)
        dispatcher: Any = None
        run: TaskFuture[int] = TaskFuture(dispatcher, work, call.number, call, 0.0)
        cluster.scheduler.submit(run)
    cluster.launched += [batch for kind, batch in cluster.asked() if kind == effects.LAUNCH]
    entries = [InFlight(batch, is_job=True) for batch in cluster.launched]
    for entry in entries:
        cluster.ledger.sent(entry)
    return cluster, entries


def runs_of(cluster: Cluster, entry: InFlight) -> list[TaskFuture[Any]]:
    return [cluster.scheduler.run_at(entry.batch, p) for p in range(len(entry.batch))]


def test_a_run_is_found_in_its_batch_among_many() -> None:
    cluster, entries = lists_and_spans(3 * LOOKED_THROUGH)
    assert len(entries) > 3 * LOOKED_THROUGH
    for entry in entries:
        assert all(cluster.ledger.books.find(run) is entry for run in runs_of(cluster, entry))


def test_it_is_found_no_more_once_that_has_said_all() -> None:
    cluster, entries = lists_and_spans(3 * LOOKED_THROUGH)
    runs = [(entry, runs_of(cluster, entry)[0]) for entry in entries]
    closed = entries[:3]
    assert cluster.ledger.books.find(runs[0][1]) is entries[0]
    for entry in closed:
        cluster.ledger.books.close(entry)
    for entry, run in runs:
        assert cluster.ledger.books.find(run) is (None if entry in closed else entry)


def test_it_is_found_where_it_was_sent_last() -> None:
    cluster, entries = lists_and_spans(3 * LOOKED_THROUGH)
    first, second = entries[:2]
    run = runs_of(cluster, second)[1]
    again = InFlight(
        Batch(cluster.scheduler.latest + 1, 0, Span(cluster.record, 0, 4), None), is_job=True
    )
    # All that both had was given back, and travels together now; they have not said all yet.
    for entry in (first, second):
        cluster.scheduler.batches[entry.number][1].clear()
    cluster.scheduler.launch(again.batch)
    cluster.ledger.sent(again)
    for other in entries[-LOOKED_THROUGH:]:  # sent after it
        del cluster.ledger.books.batches[other.number]
        cluster.ledger.sent(other)
    assert cluster.ledger.books.find(run) is again


def test_to_cancel_all_that_many_workers_have_looks_at_each_batch_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, entries = lists_and_spans(6 * LOOKED_THROUGH)
    looks = itertools.count()
    position_of = InFlight.position_of

    def counted(entry: InFlight, run: TaskFuture[Any]) -> int | None:
        next(looks)
        return position_of(entry, run)

    monkeypatch.setattr(InFlight, "position_of", counted)
    runs = [run for entry in entries for run in runs_of(cluster, entry)]
    for run in runs:
        cluster.ledger.stopping.interrupt(run)
    assert next(looks) < len(runs) * (LOOKED_THROUGH + 5)
    assert all(entry.withdrawn for entry in entries)
