"""Workers that have ended a batch and stand by for the next (DESIGN 2); here without a cluster."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from shoal import task
from shoal.engine.batch_run import Surroundings, pack_task
from shoal.scheduling.in_flight import Departure
from shoal.serialization import dumps, loads
from shoal.task_runners.remote import messages, standby
from shoal.task_runners.remote.cluster_thread import ClusterThread
from shoal.task_runners.remote.cluster_worker import ClusterWorker
from shoal.task_runners.remote.members import ClusterMember
from shoal.task_runners.remote.messages import Message
from shoal.task_runners.remote.parcels import pack
from shoal.task_runners.remote.standby import COUNTED_ON, Next, Standby, StandingBy


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """See `time`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(standby, "time", clock)
    return clock


def member(number: int) -> ClusterMember:
    channel: Any = None
    return ClusterMember(number, channel, number)


def job(number: int) -> Any:
    return SimpleNamespace(number=number)


class TestWhoStandsBy:
    """As the driver knows it."""

    def test_who_has_for_longest_is_taken_once(self, clock: Clock) -> None:
        known = Standby()
        first, second = (member(1), job(10)), (member(2), job(20))
        assert known.stands_by(*first)
        assert known.stands_by(*second)
        assert [known.take() for _ in range(3)] == [first, second, None]

    def test_who_has_gone_or_must_have_given_up_is_not_taken(self, clock: Clock) -> None:
        known = Standby()
        dead, over, late, there = (member(number) for number in range(4))
        for number, who in enumerate((dead, over, late)):
            known.stands_by(who, job(number))
            clock.now += COUNTED_ON / 4
        dead.departure = Departure()
        assert known.ended(1) is not None
        assert known.ended(1) is None
        clock.now += COUNTED_ON
        known.stands_by(there, job(3))
        taken = known.take()
        assert taken is not None
        assert taken[0] is there

    def test_nobody_does_while_something_waits_in_the_queue_of_the_cluster(self) -> None:
        known = Standby()
        known.places = 2
        assert [known.sent(number) for number in (1, 2, 3)] == [True, True, False]
        known.begun(1)
        assert not known.stands_by(member(1), job(1))
        known.begun(2)
        known.begun(3)
        assert known.stands_by(member(1), job(1))

    def test_what_has_large_values_does_not_go_by_message(self) -> None:
        known = Standby()
        known.stands_by(member(1), job(1))
        assert known.take_for([7]) is None, "nothing is known of it"
        known.saw([7, 8], is_large=False)
        known.saw([8], is_large=True)
        assert known.take_for([8]) is None
        assert known.take_for([7, 8]) is None
        assert known.take_for([7]) is not None

    def test_a_runner_that_is_left_keeps_nothing(self) -> None:
        known = Standby()
        known.stands_by(member(1), job(1))
        known.clear()
        assert known.take() is None
        assert known.jobs == {}


class TestStandingBy:
    """As its thread does it."""

    def test_it_goes_on_with_what_it_is_given(self) -> None:
        standing, following = StandingBy(), Next(2, b"")
        standing.give(following)
        assert standing.wait({}, 1) is following

    def test_it_goes_when_nothing_comes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(standby, "STANDS_BY", 0.0)
        standing = StandingBy()
        others = StandingBy()
        all_standing = {1: standing, 5: others}
        assert standing.wait(all_standing, 1) is None
        assert all_standing == {5: others}

    def test_what_comes_just_then_is_not_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever gives it something has taken it out of those who stand by before."""
        monkeypatch.setattr(standby, "STANDS_BY", 0.0)
        standing, following, taken = StandingBy(), Next(2, b""), []
        thread = threading.Thread(target=lambda: taken.append(standing.wait({}, 1)))
        thread.start()
        standing.give(following)
        thread.join(10)
        assert taken == [following]

    def test_it_lets_others_have_their_turn(self, clock: Clock) -> None:
        standing = StandingBy()
        assert standing.may_go_on()
        clock.now += standby.LONGEST
        assert not standing.may_go_on()


@task
def double(x: int) -> int:
    return 2 * x


class Worker(ClusterWorker):
    """One whose driver is a queue of what was said to it."""

    def __init__(self) -> None:
        self.said: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        channel: Any = SimpleNamespace(
            send=lambda kind, body=b"": self.said.put((kind, loads(body)))
        )
        super().__init__(channel, 1.0)
        self.surround(dumps(Surroundings(0, 0, False, None, False, False, None, observed=False)))
        self.learn(1, pack_task(double)[1])

    def run_job(self, number: int, argument: int) -> threading.Thread:
        """Has a thread run a batch of one run that came as a task of the cluster's."""

        def run() -> None:
            assert self.begins(number)
            batch = self.opened(number, blob_of(number, argument))
            assert batch is not None
            thread = batch.worker_thread = ClusterThread(self)
            thread.enter()
            thread.run_job(batch)
            thread.leave()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def bring(self, kind: int, body: Any) -> None:
        """The driver says something."""
        self.hear(Message(kind, dumps(body), []))

    def heard(self, kind: int) -> Any:
        """What was said next to the driver, which is to be of this kind."""
        said = self.said.get(timeout=10)
        assert said[0] == kind
        return said[1]

    def ends(self) -> tuple[int, list[Any], bool, bool]:
        """Of what was reported next: the batch, values, whether that was all, and whether its thread stands by."""
        number, _, _, values, _, _, last, stands_by = self.heard(messages.ENDS)
        return number, values, last, stands_by


def blob_of(number: int, argument: int) -> bytes:
    """A batch as it travels."""
    content = ("calls", 1, [1000 + number], [(argument,)])
    return dumps((1, [1], [frozenset()], pack(content).data, {}, True))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(standby, "STANDS_BY", 10.0)
    return Worker()


class TestOnTheWorker:
    """What a worker makes of it."""

    def test_a_task_of_the_cluster_goes_on_until_its_thread_is_dismissed(
        self, worker: Worker
    ) -> None:
        thread = worker.run_job(5, 1)
        assert worker.heard(messages.ARRIVED) == 5
        assert worker.ends() == (5, [2], True, True)
        for number in (6, 7):
            worker.bring(messages.NEXT, (5, number, blob_of(number, number), {}))
            assert worker.ends() == (number, [2 * number], True, True)
        worker.bring(messages.DISMISSED, 5)
        thread.join(10)
        assert not thread.is_alive()
        assert worker.standing_by == {}

    def test_what_comes_too_late_has_not_begun(self, worker: Worker) -> None:
        worker.bring(messages.DISMISSED, 5)
        worker.bring(messages.NEXT, (5, 6, blob_of(6, 1), {}))
        assert worker.ends() == (6, [], True, False)

    def test_what_is_asked_back_before_it_is_unpacked_comes_back(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SPEC 7.5: nothing that was taken back begins."""
        asked_back, opened = threading.Event(), worker.opened

        def opened_late(number: int, blob: bytes, *more: Any, **named: Any) -> Any:
            assert number == 5 or asked_back.wait(10)
            return opened(number, blob, *more, **named)

        monkeypatch.setattr(worker, "opened", opened_late)
        thread = worker.run_job(5, 1)
        worker.heard(messages.ARRIVED)
        worker.ends()
        worker.bring(messages.NEXT, (5, 6, blob_of(6, 1), {}))
        worker.bring(messages.RECALL, 6)
        asked_back.set()
        assert worker.heard(messages.BACK)[:2] == (6, [0])
        assert worker.ends() == (6, [], True, True)
        worker.bring(messages.DISMISSED, 5)
        thread.join(10)

    def test_the_end_dismisses_all(self, worker: Worker) -> None:
        thread = worker.run_job(5, 1)
        worker.heard(messages.ARRIVED)
        worker.ends()
        worker.end()
        thread.join(10)
        assert not thread.is_alive()

    def test_who_is_about_to_leave_does_not_stand_by(self, worker: Worker) -> None:
        worker.stopping = True
        thread = worker.run_job(5, 1)
        worker.heard(messages.ARRIVED)
        assert worker.ends() == (5, [2], True, False)
        thread.join(10)
        assert not thread.is_alive()
