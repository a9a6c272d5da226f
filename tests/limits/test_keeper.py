"""The keeper of slots (SPEC 10.2, 10.3)."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal.context import HERE, LOCK
from shoal.engine.interrupt import Interrupt, frames_of_this_thread, interruptible_block, shielded
from shoal.exceptions import AcquireConcurrencySlotTimeoutError, ConcurrencyLimitError
from shoal.limits import sqlite as limits_sqlite
from shoal.limits.holding import Slots
from shoal.limits.postgres import PostgresStore
from shoal.limits.slots import SlotKeeper
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Acquired, Rate
from shoal.limits.tables import SqlStore

from tests.limits.tools import FakeTime, acquire, ask, eventually, full, line, slots, wants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from shoal.exceptions import ShoalError
    from shoal.limits.store import Answer, LimitStore

TAGS = ("a", "b", "c")
# ---------------------------------------------------------------------- the keeper of slots


class Outcomes:
    """What the keeper told: run ids in order, and the errors of those refused."""

    def __init__(self) -> None:
        self.granted: list[str] = []
        self.refused: dict[str, ShoalError] = {}
        self.threads: set[str] = set()

    def of(self, run_id: str) -> Callable[[Acquired | ShoalError], None]:
        def outcome(outcome: Acquired | ShoalError) -> None:
            assert run_id not in self.granted
            assert run_id not in self.refused
            self.threads.add(threading.current_thread().name)
            if isinstance(outcome, Acquired):
                self.granted.append(run_id)
            else:
                self.refused[run_id] = outcome

        return outcome


class Desk:
    """A keeper with fake time, and what it told."""

    def __init__(self, make_store: Callable[[], LimitStore], clock: FakeTime) -> None:
        self.time = clock
        self.store = make_store()  # as another process would use it
        self.keeper = SlotKeeper(make_store, poll=0.5, timers=clock, clock=clock.time)
        self.outcomes = Outcomes()
        self._markers = itertools.count()

    def request(self, run_id: str, *tags: str) -> None:
        self.keeper.request(wants(tags, run_id), self.outcomes.of(run_id))

    def settle(self) -> None:
        """Waits until the keeper did all that it was asked for so far: a run without limited tags comes last."""
        reached = threading.Event()
        self.keeper.request(
            wants(["no limit"], f"marker {next(self._markers)}"), lambda _: reached.set()
        )
        assert reached.wait(10)

    def granted(self) -> list[str]:
        self.settle()
        return self.outcomes.granted

    def leave(self) -> None:
        self.keeper.close()
        self.store.close()


@pytest.fixture
def file_desk(file: Path, clock: FakeTime) -> Iterator[Desk]:
    """One whose limits are in a file."""
    desk = Desk(lambda: SqliteStore(file, clock.time), clock)
    yield desk
    desk.leave()
    assert clock.timers == []


@pytest.fixture
def desk(
    make_store: Callable[[], LimitStore], clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    monkeypatch.setattr(PostgresStore, "linger", SqliteStore.linger)
    desk = Desk(make_store, clock)
    yield desk
    desk.leave()
    assert desk.time.timers == []


@contextmanager
def unheard() -> Iterator[None]:
    """Others are not told of what is given back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits_sqlite, "_ring", lambda *_: None)
        patch.setattr(SqlStore, "_ring_first", lambda *_: None)
        yield


def ask_in_line(store: LimitStore, name: str, id: str) -> Answer:
    """One try of somebody of another process, in line."""
    return store.try_acquire(wants([name], id))


@contextmanager
def locked(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits_sqlite, "PATIENCE", 0.05)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shoal-limits"]


def test_slots_are_granted_in_order(desk: Desk) -> None:
    desk.store.upsert("db", 2)
    for run in "abcdef":
        desk.request(run, "db", "other")
    assert desk.granted() == ["a", "b"]
    assert slots(desk.store, "db") == ["a", "b"]
    desk.keeper.release("b")
    assert desk.granted() == ["a", "b", "c"]
    desk.keeper.release("a")
    desk.keeper.release("c")
    assert desk.granted() == ["a", "b", "c", "d", "e"]
    assert desk.outcomes.threads == {"shoal-limits"}


def test_a_run_without_tags_is_granted_at_once(desk: Desk) -> None:
    desk.request("a")
    assert desk.outcomes.granted == ["a"]
    assert threads() == []


def test_without_limits_all_is_free_and_nothing_opened(desk: Desk, file: Path) -> None:
    """SPEC 10.4."""
    for run in "abc":
        desk.request(run, "db")
    assert desk.granted() == ["a", "b", "c"]
    desk.keeper.release("a")
    desk.settle()
    assert not file.parent.exists()


def test_the_thread_ends_when_nothing_is_left(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    assert len(threads()) == 1
    assert len(desk.time.timers) == 2 + desk.store.poll
    desk.keeper.release("a")
    desk.settle()
    assert desk.keeper.withdraw("c") is False
    desk.keeper.release("b")
    eventually(lambda: not threads())
    assert desk.time.timers == []
    desk.request("c", "db")
    assert desk.granted() == ["a", "b", "c"]


def test_a_waiter_holds_up_none_that_could_run(desk: Desk) -> None:
    """It has a place in line where it had to wait, and nowhere else."""
    desk.store.upsert("db", 1)
    desk.store.upsert("api", 1)
    desk.request("db-1", "db")
    desk.request("both", "db", "api")
    desk.request("api-1", "api")
    assert desk.granted() == ["db-1", "api-1"]


def test_who_wants_several_is_not_passed_where_it_waited(desk: Desk) -> None:
    """Else it would starve."""
    desk.store.upsert("db", 1)
    desk.store.upsert("api", 1)
    desk.request("db-1", "db")
    desk.request("both", "db", "api")
    desk.request("api-1", "api")
    desk.settle()
    desk.keeper.release("db-1")
    desk.request("db-2", "db")
    assert desk.granted() == ["db-1", "api-1"]
    assert full(ask_in_line(desk.store, "db", "theirs")) == {"db"}
    desk.keeper.release("api-1")
    assert desk.granted() == ["db-1", "api-1", "both"]
    desk.keeper.release("both")
    assert desk.granted() == ["db-1", "api-1", "both", "db-2"]


def test_those_who_come_at_the_same_moment_are_served_in_the_order_in_which_they_came(
    desk: Desk,
) -> None:
    """Whatever their ids: who comes first there must not wait for who has come later, and could go on itself."""
    desk.store.upsert("db", 1)
    desk.store.upsert("api", 1)
    desk.request("x", "api")
    desk.request("b", "db", "api")  # stands in line at "api" only
    desk.request("c", "db")
    desk.request("a", "db")  # before "b" by its id, and in the store's line before "b" is
    desk.settle()
    desk.keeper.release("x")
    assert desk.granted() == ["x", "c"]
    desk.keeper.release("c")
    assert desk.granted() == ["x", "c", "b"]
    desk.keeper.release("b")
    assert desk.granted() == ["x", "c", "b", "a"]


def test_a_limit_of_zero_refuses(desk: Desk) -> None:
    """SPEC 10.2."""
    desk.store.upsert("off", 0)
    desk.request("a", "off", "other")
    assert desk.granted() == []
    error = desk.outcomes.refused["a"]
    assert error.tag == "off"
    assert "is 0" in str(error)


def test_who_waits_is_refused_when_the_limit_becomes_zero(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    for run in "abc":
        desk.request(run, "db")
    desk.settle()
    desk.store.upsert("db", 0)
    eventually(lambda: set(desk.outcomes.refused) == {"b", "c"})
    assert desk.outcomes.granted == ["a"]


def test_a_withdrawn_request_is_never_answered(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    for run in "abc":
        desk.request(run, "db")
    desk.settle()
    assert desk.keeper.withdraw("b") is True
    assert desk.keeper.withdraw("b") is False
    desk.keeper.release("a")
    assert desk.granted() == ["a", "c"]
    assert slots(desk.store, "db") == ["c"]


def test_withdrawing_after_the_grant_gives_the_slot_back(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    desk.request("a", "db")
    desk.request("b", "db")
    assert desk.granted() == ["a"]
    assert desk.keeper.withdraw("a") is False
    assert desk.granted() == ["a", "b"]


def test_withdrawing_while_the_slot_is_taken(file: Path, opened: ExitStack) -> None:
    """The slot goes back, and the next in line has it."""
    taking, go_on = threading.Event(), threading.Event()

    class SlowStore(SqliteStore):
        def try_acquire(self, request: Any, waited_seconds: float | None = None, **how: Any) -> Any:
            answer = super().try_acquire(request, waited_seconds, **how)
            if request.holder.id == "a":
                taking.set()
                assert go_on.wait(10)
            return answer

    store = opened.enter_context(closing(SqliteStore(file)))
    store.upsert("db", 1)
    keeper, outcomes = SlotKeeper(lambda: SlowStore(file), poll=1000), Outcomes()
    opened.enter_context(closing(keeper))
    keeper.request(wants(["db"], "a"), outcomes.of("a"))
    assert taking.wait(10)
    keeper.request(wants(["db"], "b"), outcomes.of("b"))
    assert keeper.withdraw("a") is True
    go_on.set()
    eventually(lambda: outcomes.granted == ["b"])
    assert slots(store, "db") == ["b"]


def test_a_run_asks_once(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    for run in "ab":
        with pytest.raises(ValueError, match="asked for its slots already"):
            desk.request(run, "db")
    desk.keeper.release("a")
    desk.request("a", "db")
    assert desk.granted() == ["a", "b"]


def test_slots_of_other_processes_are_looked_for_while_somebody_waits(file_desk: Desk) -> None:
    file_desk.store.upsert("db", 1)
    ask(file_desk.store, ["db"], "of another process", 60)
    file_desk.request("a", "db")
    file_desk.request("b", "db")
    assert file_desk.granted() == []
    with unheard():
        file_desk.store.release(["of another process"])
    assert file_desk.granted() == []
    file_desk.time.pass_by(0.4)
    assert file_desk.granted() == []
    file_desk.time.pass_by(0.1)
    assert file_desk.granted() == ["a"]
    file_desk.keeper.withdraw("b")
    eventually(lambda: len(file_desk.time.timers) == 1)  # what is left is the one that renews


def test_slots_of_other_processes_are_heard_of_at_once(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    ask(desk.store, ["db"], "of another process", 60)
    desk.request("a", "db")
    desk.settle()
    desk.store.release(["of another process"])
    eventually(lambda: desk.outcomes.granted == ["a"])


def test_a_newcomer_does_not_pass_who_waits(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    ask(desk.store, ["db"], "of another process", 60)
    desk.request("a", "db")
    desk.settle()
    with unheard():
        desk.store.release(["of another process"])
    desk.request("b", "db")
    assert desk.granted() == []
    desk.time.pass_by(1.5)  # it asks again at the latest, if it has heard nothing
    assert desk.granted() == ["a"]


def test_who_was_withdrawn_holds_up_no_newcomer(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    ask(desk.store, ["db"], "of another process", 60)
    desk.request("a", "db")
    desk.settle()
    desk.keeper.withdraw("a")
    desk.store.release(["of another process"])
    eventually(lambda: not threads())
    desk.request("b", "db")
    assert desk.granted() == ["b"]


def test_who_waits_has_a_slot_when_the_holder_died(desk: Desk) -> None:
    """SPEC 10.2."""
    desk.store.upsert("db", 1)
    ask(desk.store, ["db"], "of a process that died", 60)
    desk.request("a", "db")
    for _ in range(59):
        desk.time.pass_by(1)
    assert desk.granted() == []
    desk.time.pass_by(1)
    assert desk.granted() == ["a"]


def test_leases_are_renewed_while_runs_go_on(desk: Desk) -> None:
    desk.store.upsert("db", 2)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    for _ in range(6):
        desk.time.pass_by(20)
        desk.settle()
    assert slots(desk.store, "db") == ["a", "b"]
    desk.keeper.release("a")
    desk.keeper.release("b")
    eventually(lambda: desk.time.timers == [])


def test_lost_slots_are_told_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.store.upsert("db", 2)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    desk.store.reset("db")
    for other in ("theirs", "too"):
        ask(desk.store, ["db"], other, 600)
    for _ in range(2):
        desk.time.pass_by(20)
        desk.settle()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "2 holders go on without the slots" in record.message
    assert record.message.endswith("a, b")
    desk.keeper.release("a")
    desk.settle()
    assert slots(desk.store, "db") == ["theirs", "too"]


def test_lost_slots_are_taken_again_if_there_is_room(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.store.upsert("db", 2)
    desk.store.upsert("api", 1)
    desk.request("a", "db", "api")
    desk.request("b", "db")
    desk.settle()
    desk.store.reset("db")
    ask(desk.store, ["db"], "theirs", 600)
    desk.time.pass_by(20)
    desk.settle()
    assert slots(desk.store, "db") == ["theirs", "a"]
    assert slots(desk.store, "api") == ["a"]
    assert caplog.messages[0].endswith(": b")
    desk.keeper.release("a")
    desk.settle()
    assert (slots(desk.store, "db"), slots(desk.store, "api")) == (["theirs"], [])


def test_a_store_that_breaks_refuses(file_desk: Desk, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("no limits here" * 1000)
    file_desk.request("a", "db")
    eventually(lambda: file_desk.outcomes.refused)
    assert "not a database" in str(file_desk.outcomes.refused["a"])


def test_a_store_that_cannot_be_made_refuses(
    opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_POLL_SECONDS", "never")
    keeper, outcomes = opened.enter_context(closing(SlotKeeper())), Outcomes()
    keeper.request(wants(["db", "api"], "a"), outcomes.of("a"))
    eventually(lambda: outcomes.refused)
    assert outcomes.refused["a"].tag == "api"
    assert "SHOAL_LIMITS_POLL_SECONDS" in str(outcomes.refused["a"])
    monkeypatch.delenv("SHOAL_LIMITS_POLL_SECONDS")
    keeper.request(wants(["db"], "b"), outcomes.of("b"))
    eventually(lambda: outcomes.granted == ["b"])


def test_a_store_that_cannot_be_written_for_a_while_loses_nobody(
    file_desk: Desk, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file_desk.store.upsert("db", 1)
    file_desk.request("a", "db")
    file_desk.settle()
    file_desk.store.close()
    # The keeper's connection has the patience that it was opened with, so it is opened again.
    monkeypatch.setattr(limits_sqlite, "PATIENCE", 0.05)
    file_desk.keeper.release("a")
    eventually(lambda: not threads())
    file_desk.request("b", "db")
    assert file_desk.granted() == ["a", "b"]
    with locked(file, monkeypatch):
        file_desk.request("c", "db")
        file_desk.time.pass_by(20)  # to renew the lease of "b" fails
        eventually(lambda: len(caplog.records) == 1)
        file_desk.keeper.release("b")  # so does this, and the lease has to run out
        eventually(lambda: len(caplog.records) == 2)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    file_desk.time.pass_by(0.5)
    assert file_desk.granted() == ["a", "b"]
    file_desk.time.pass_by(60)
    assert file_desk.granted() == ["a", "b", "c"]


def test_an_outcome_that_raises_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.store.upsert("db", 2)

    def broken(outcome: Acquired | ShoalError) -> None:
        raise SystemExit("no")

    desk.keeper.request(wants(["db"], "a"), broken)
    desk.request("b", "db")
    assert desk.granted() == ["b"]
    assert "Telling a of" in caplog.text


def test_outcomes_may_ask_for_more(desk: Desk) -> None:
    """They are told with no lock held."""
    desk.store.upsert("db", 1)
    done: list[str] = []

    def next_one(run_id: str) -> Callable[[Acquired | ShoalError], None]:
        def outcome(outcome: Acquired | ShoalError) -> None:
            done.append(run_id)
            desk.keeper.release(run_id)
            if len(done) < 50:
                following = str(len(done))
                desk.keeper.request(wants(["db"], following), next_one(following))

        return outcome

    desk.keeper.request(wants(["db"], "0"), next_one("0"))
    eventually(lambda: len(done) == 50)
    assert done == [str(number) for number in range(50)]


def test_many_waiters_cost_a_try_for_each_slot(file: Path, opened: ExitStack) -> None:
    tries = 0

    class CountingStore(SqliteStore):
        def try_acquire(self, request: Any, waited_seconds: float | None = None, **how: Any) -> Any:
            nonlocal tries
            tries += 1
            return super().try_acquire(request, waited_seconds, **how)

    store = opened.enter_context(closing(SqliteStore(file)))
    store.upsert("db", 10)
    keeper, outcomes = SlotKeeper(lambda: CountingStore(file), poll=1000), Outcomes()
    opened.enter_context(closing(keeper))
    for number in range(1000):
        keeper.request(wants(["db"], str(number)), outcomes.of(str(number)))
    for number in range(1000):
        eventually(lambda needed=number: len(outcomes.granted) > needed)
        keeper.release(outcomes.granted[number])
    assert outcomes.granted == [str(number) for number in range(1000)]
    assert tries < 2100


@settings(max_examples=30, deadline=None)
@given(data=st.data(), limits=st.fixed_dictionaries(dict.fromkeys(TAGS, st.integers(0, 2))))
def test_slots_at_random(data: st.DataObject, limits: dict[str, int]) -> None:
    """Each has one outcome; limits hold; nobody waits for nothing; equals are served in order."""
    with tempfile.TemporaryDirectory() as folder:
        clock = FakeTime()
        desk = Desk(lambda: SqliteStore(f"{folder}/limits.db", clock.time), clock)
        try:
            for tag, limit in limits.items():
                desk.store.upsert(tag, limit)
            _requests_at_random(data, desk, limits)
        finally:
            desk.leave()


def _requests_at_random(data: st.DataObject, desk: Desk, limits: dict[str, int]) -> None:
    wanted: dict[str, frozenset[str]] = {}
    waiting: list[str] = []
    holding: list[str] = []
    told = 0
    for number in range(data.draw(st.integers(1, 25), "steps")):
        action = data.draw(st.sampled_from(("request", "request", "release", "withdraw")), "action")
        if action == "request":
            run = str(number)
            wanted[run] = data.draw(st.frozensets(st.sampled_from(TAGS), min_size=1), "tags")
            waiting.append(run)
            desk.request(run, *wanted[run])
        elif action == "release" and holding:
            run = data.draw(st.sampled_from(holding), "released")
            holding.remove(run)
            desk.keeper.release(run)
        elif action == "withdraw" and waiting:
            run = data.draw(st.sampled_from(waiting), "withdrawn")
            waiting.remove(run)
            assert desk.keeper.withdraw(run)
        desk.settle()

        granted, told = desk.outcomes.granted[told:], len(desk.outcomes.granted)
        holding += granted
        before = waiting
        waiting = [
            run for run in waiting if run not in granted and run not in desk.outcomes.refused
        ]
        free = {
            tag: limit - sum(tag in wanted[run] for run in holding) for tag, limit in limits.items()
        }
        assert min(free.values()) >= 0
        for tag in limits:
            assert set(slots(desk.store, tag)) == {run for run in holding if tag in wanted[run]}
        for place, run in enumerate(waiting):
            behind = any(wanted[other] & wanted[run] for other in waiting[:place])
            assert behind or any(free[tag] == 0 for tag in wanted[run])
        for run in desk.outcomes.refused:
            assert any(limits[tag] == 0 for tag in wanted[run])
        for run in granted:
            older = before[: before.index(run)]
            assert all(other in granted for other in older if wanted[other] == wanted[run])


# ---------------------------------------------------------------------- time is over


def test_who_has_waited_long_enough_is_told(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    desk.request("a", "db")
    desk.keeper.request(wants(["tag:x", "db"], "b"), desk.outcomes.of("b"), 5)
    desk.request("c", "db")
    desk.settle()
    desk.time.pass_by(4.9)
    desk.settle()
    assert desk.outcomes.refused == {}
    desk.time.pass_by(0.1)
    error = desk.outcomes.refused["b"]
    assert isinstance(error, AcquireConcurrencySlotTimeoutError)
    assert (error.names, error.timeout_seconds) == (("db", "x"), 5)
    eventually(lambda: line(desk.store, "db") == ["c"])
    desk.keeper.release("a")
    assert desk.granted() == ["a", "c"]


def test_without_time_it_is_tried_once(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    for run in "abc":
        desk.keeper.request(wants(["db"], run), desk.outcomes.of(run), 0)
    assert desk.granted() == ["a"]
    assert set(desk.outcomes.refused) == {"b", "c"}
    eventually(lambda: not line(desk.store, "db"))
    desk.keeper.release("a")
    desk.keeper.request(wants(["db"], "d"), desk.outcomes.of("d"), 0)
    assert desk.granted() == ["a", "d"]


def test_time_that_is_over_while_it_is_granted_changes_nothing(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    desk.keeper.request(wants(["db"], "a"), desk.outcomes.of("a"), 5)
    assert desk.granted() == ["a"]
    desk.time.pass_by(5)
    desk.settle()
    assert desk.outcomes.refused == {}
    assert slots(desk.store, "db") == ["a"]


# ---------------------------------------------------------------------- rates


def rated(desk: Desk, id: str, timeout: float | None = None) -> None:
    request = wants(["api"], id, None, rate=Rate(10, 1.0))
    desk.keeper.request(request, desk.outcomes.of(id), timeout)


def test_slots_of_a_rate_come_in_their_time_and_in_order(desk: Desk) -> None:
    for run in "abcde":
        rated(desk, run)
    assert desk.granted() == ["a", "b"]
    for number, run in enumerate("cde", 1):
        before = list(desk.outcomes.granted)
        while len(desk.outcomes.granted) == len(before):
            desk.time.pass_by(0.01)
            desk.settle()
            assert desk.time.now < 1_000_001
        assert desk.outcomes.granted == [*before, run]
        assert desk.time.now - 1_000_000 == pytest.approx(number / 11, abs=0.02)
    eventually(lambda: not threads())


def test_a_rate_that_comes_too_late_is_told(desk: Desk) -> None:
    for run in "ab":
        rated(desk, run)
    rated(desk, "c", 0.04)
    rated(desk, "d", 0.2)
    desk.settle()
    for _ in range(20):
        desk.time.pass_by(0.01)
        desk.settle()
    assert desk.outcomes.granted == ["a", "b", "d"]
    assert set(desk.outcomes.refused) == {"c"}


# ---------------------------------------------------------------------- waiting in one's own thread


def test_acquiring_blocks_until_there_is_a_slot(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    acquire(desk.keeper, wants(["db"], "a"))
    assert slots(desk.store, "db") == ["a"]
    thread = threading.Thread(
        target=acquire,
        args=(
            desk.keeper,
            wants(["db"], "b"),
        ),
    )
    thread.start()
    desk.settle()
    assert thread.is_alive()
    desk.keeper.release("a")
    thread.join(10)
    assert slots(desk.store, "db") == ["b"]


def test_acquiring_raises_if_the_limit_is_zero(desk: Desk) -> None:
    desk.store.upsert("off", 0)
    with pytest.raises(ConcurrencyLimitError, match="is 0"):
        acquire(desk.keeper, wants(["off"], "a"))


def test_acquiring_without_tags_is_immediate(desk: Desk) -> None:
    acquire(desk.keeper, wants([], "a"))
    assert threads() == []


def acquire_as_runs_do(desk: Desk, id: str) -> None:
    """As a block of code in a run takes slots of "db", which it keeps."""
    HERE.block = interruptible_block
    asked = Slots(id)
    try:
        with shielded():
            asked.ask(desk.keeper, lambda _: wants(["db"], id))
            asked.wait()
    except BaseException:
        asked.release()
        raise
    asked.forget()


def test_an_interrupt_ends_the_wait(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    acquire(desk.keeper, wants(["db"], "a"))
    token, begun, caught = object(), threading.Event(), []
    frames: list[Any] = []

    def wait() -> None:
        frames.append(frames_of_this_thread())
        frame = frames[0].begin(token)
        frames[0].leave_shield()
        begun.set()
        try:
            acquire_as_runs_do(desk, "b")
        except Interrupt as interrupt:
            caught.append(interrupt)
        finally:
            frames[0].end(frame)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(10)
    desk.settle()
    with LOCK:
        frames[0].fire(token)
    thread.join(10)
    assert len(caught) == 1
    desk.keeper.release("a")
    desk.settle()
    assert slots(desk.store, "db") == []


def test_an_interrupt_of_a_run_beneath_does_not_end_the_wait(desk: Desk) -> None:
    """It is raised when control returns to that run."""
    desk.store.upsert("db", 1)
    acquire(desk.keeper, wants(["db"], "a"))
    begun = threading.Event()

    def wait() -> None:
        frames, beneath = frames_of_this_thread(), object()
        outer = frames.begin(beneath)  # it waits for the run above, and was interrupted meanwhile
        inner = frames.begin(object())
        frames.leave_shield()
        with LOCK:
            frames.fire(beneath)
        begun.set()
        acquire_as_runs_do(desk, "b")
        frames.end(inner)
        frames.end(outer)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(10)
    desk.settle()
    assert thread.is_alive()
    desk.keeper.release("a")
    thread.join(10)
    assert slots(desk.store, "db") == ["b"]


# ---------------------------------------------------------------------- what must not be forgotten


def test_leases_are_renewed_by_who_always_has_something_to_do(desk: Desk) -> None:
    """The thread finds something new each time that it looks, for longer than a lease lasts."""
    desk.store.upsert("db", 1)
    acquire(desk.keeper, wants(["db"], "holder", 30))
    rounds = itertools.count()
    ended = threading.Event()

    def again(_: object) -> None:  # on the keeper's thread, which so never comes to rest
        desk.time.pass_by(4)
        number = next(rounds)
        if number == 20:
            ended.set()
        else:
            desk.keeper.request(wants(["no limit"], f"next {number}"), again)

    desk.keeper.request(wants(["no limit"], "first"), again)
    assert ended.wait(10)
    assert full(ask(desk.store, ["db"], "other")) == {"db"}
    desk.keeper.release("holder")


def test_a_ring_is_heard_by_who_always_has_something_to_do(desk: Desk) -> None:
    desk.store.upsert("db", 1)
    ask(desk.store, ["db"], "other")
    desk.request("waits", "db")
    desk.settle()
    served = threading.Event()

    def again(_: object) -> None:
        if desk.outcomes.granted or served.is_set():
            served.set()
        else:
            desk.keeper.request(wants(["no limit"], f"next {next(desk._markers)}"), again)

    desk.keeper.request(wants(["no limit"], "first"), again)
    desk.store.release(["other"])
    assert served.wait(10)
    assert desk.outcomes.granted == ["waits"]


def test_a_rate_that_is_granted_ahead_leaves_no_timer_of_the_time_limit(desk: Desk) -> None:
    granted = threading.Event()
    request = wants(["api"], "a", None, rate=Rate(1, 0.04))
    desk.keeper.request(request, lambda _: None)
    desk.settle()
    again = wants(["api"], "b", None, rate=Rate(1, 0.04))
    desk.keeper.request(again, lambda _: granted.set(), 3600)
    desk.settle()
    desk.time.pass_by(0.05)
    assert granted.wait(10)
    assert [timer for timer in desk.time.timers if timer.when > desk.time.now + 60] == []


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_who_asks_is_told_that_no_thread_can_be_had(desk: Desk, caplog: Any) -> None:
    desk.store.upsert("db", 1)
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch)
        desk.keeper.request(wants(["db"], "a"), desk.outcomes.of("a"))
        assert "can't start new thread" in str(desk.outcomes.refused["a"])
    desk.request("b", "db")
    assert desk.granted() == ["b"]


def broken(*_: Any, **__: Any) -> NoReturn:
    raise ValueError("broken")


def test_what_is_held_outlives_a_failure_of_the_thread(desk: Desk, caplog: Any) -> None:
    """Who waits then is told; what is held has a thread again that renews and gives back."""
    desk.store.upsert("db", 1)
    acquire(desk.keeper, wants(["db"], "holder", 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(desk.store), "try_acquire", broken)
        desk.request("b", "db")
        eventually(lambda: "b" in desk.outcomes.refused)
        eventually(lambda: threads() == [])
    assert "tried again" in caplog.text
    for _ in range(20):
        desk.time.pass_by(4)
        desk.settle()
    assert full(ask(desk.store, ["db"], "other")) == {"db"}
    desk.keeper.release("holder")
    desk.settle()
    assert slots(desk.store, "db") == []
