"""Limits of tags: the settings, the store in a file, the keeper of slots (SPEC 10.1, 10.2, 10.4)."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from shoal.context import LOCK
from shoal.engine.interrupt import Interrupt, frames_of_this_thread
from shoal.exceptions import ConcurrencyLimitError, InvalidOption
from shoal.limits import settings as limits_settings
from shoal.limits import sqlite as limits_sqlite
from shoal.limits.settings import lease_seconds, limits_in_use, limits_path, poll_seconds
from shoal.limits.slots import SlotKeeper
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Acquired, Busy, ZeroLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shoal.limits.store import LimitStore

VARIABLES = (
    "SHOAL_LIMITS_URL",
    "SHOAL_LIMITS_LEASE_SECONDS",
    "SHOAL_LIMITS_POLL_SECONDS",
    "XDG_STATE_HOME",
)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where limits are kept in a test, also in the processes that it starts; there is no file yet."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "state" / "limits.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", str(path))
    return path


class FakeTime:
    """A clock for the store and timers for the keeper, moved on by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def after(self, seconds: float, action: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self, self.now + seconds, action)
        self.timers.append(timer)
        return timer

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.when <= self.now]:
            timer.cancel()
            timer.action()


class FakeTimer:
    def __init__(self, owner: FakeTime, when: float, action: Callable[[], None]) -> None:
        self.owner, self.when, self.action = owner, when, action

    def cancel(self) -> None:
        if self in self.owner.timers:
            self.owner.timers.remove(self)


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def store(file: Path, clock: FakeTime) -> Iterator[SqliteStore]:
    store = SqliteStore(file, clock.time)
    yield store
    store.close()


def slots(store: LimitStore, tag: str) -> list[str]:
    limit = store.read(tag)
    assert limit is not None
    return limit.active_slots


def acquired(*tags: str) -> Acquired:
    return Acquired(frozenset(tags))


def busy(*tags: str) -> Busy:
    return Busy(frozenset(tags))


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not come true"
        time.sleep(0.002)


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    assert not err
    return out


# ---------------------------------------------------------------------- settings


def test_the_file_is_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_LIMITS_URL")
    monkeypatch.setenv("HOME", "/home/me")
    assert limits_path() == "/home/me/.local/state/shoal/limits.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert limits_path() == "/var/state/shoal/limits.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert limits_path() == "/home/me/.local/state/shoal/limits.db"


def test_the_file_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHOAL_LIMITS_URL", "~/my limits.db")
    assert limits_path() == f"{tmp_path}/my limits.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_LIMITS_URL", "here.db")
    assert limits_path() == f"{tmp_path}/here.db"
    monkeypatch.setenv("SHOAL_LIMITS_URL", "")
    assert limits_path().endswith("/.local/state/shoal/limits.db")


def test_an_address_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", "mysql://host/limits")
    with pytest.raises(InvalidOption, match=r"SHOAL_LIMITS_URL.*path of an SQLite file"):
        limits_in_use()


@pytest.mark.parametrize("name", ["LEASE", "POLL"])
@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan", ""])
def test_seconds_have_to_be_seconds(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    variable = f"SHOAL_LIMITS_{name}_SECONDS"
    function: Callable[[], float] = getattr(limits_settings, f"{name.lower()}_seconds")
    monkeypatch.setenv(variable, "2.5")
    assert function() == 2.5
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidOption, match=variable):
        function()


def test_seconds_by_default() -> None:
    assert (lease_seconds(), poll_seconds()) == (60.0, 0.5)


# ---------------------------------------------------------------------- the store


def test_only_creating_makes_a_file(store: SqliteStore, file: Path) -> None:
    """SPEC 10.4."""
    assert not limits_in_use()
    assert store.read("db") is None
    assert store.read_all(None, 0) == []
    assert not store.delete("db")
    assert not store.reset("db")
    assert store.try_acquire(["db"], "run", 60) == acquired()
    assert store.renew(["run"], 60) == set()
    store.release(["run"])
    assert not file.parent.exists()

    store.create("db", 1)
    assert file.exists()
    assert limits_in_use()


def test_asking_whether_there_are_limits_loads_nothing() -> None:
    """SPEC 10.4."""
    loaded = """
        import sys
        import shoal.limits
        from shoal.limits.settings import limits_in_use
        print(limits_in_use(), *{"sqlite3", "anyio", "shoal.limits.sqlite"} & sys.modules.keys())
        """
    assert output(python(loaded)).split() == ["False"]


def test_limits_are_created_read_listed_and_deleted(store: SqliteStore, clock: FakeTime) -> None:
    made = store.create("db", 3)
    assert (made.tag, made.concurrency_limit, made.active_slots) == ("db", 3, [])
    assert made.created == made.updated
    assert made.created.timestamp() == clock.now
    assert made.created.utcoffset() is not None
    assert store.read("db") == made
    api = store.create("api", 0)
    assert store.read_all(None, 0) == [api, made]
    assert store.read_all(1, 0) == [api]
    assert store.read_all(None, 1) == [made]
    assert store.delete("db")
    assert not store.delete("db")
    assert store.read("db") is None
    assert store.read_all(None, 0) == [api]


def test_creating_again_changes_the_limit(store: SqliteStore, clock: FakeTime) -> None:
    first = store.create("db", 2)
    store.try_acquire(["db"], "a", 60)
    clock.now += 5
    second = store.create("db", 7)
    assert second.id == first.id
    assert second.created == first.created
    assert second.updated.timestamp() == clock.now
    assert (second.concurrency_limit, second.active_slots) == (7, ["a"])


def test_slots_are_taken_up_to_the_limit(store: SqliteStore) -> None:
    store.create("db", 2)
    assert store.try_acquire(["db"], "z", 60) == acquired("db")
    assert store.try_acquire(["db"], "a", 60) == acquired("db")
    assert store.try_acquire(["db"], "b", 60) == busy("db")
    assert slots(store, "db") == ["z", "a"]
    store.release(["z", "unknown"])
    assert store.try_acquire(["db"], "b", 60) == acquired("db")
    assert slots(store, "db") == ["a", "b"]


def test_all_slots_or_none(store: SqliteStore) -> None:
    """SPEC 10.2."""
    store.create("db", 1)
    store.create("api", 1)
    store.try_acquire(["db"], "a", 60)
    assert store.try_acquire(["api", "db"], "b", 60) == busy("db")
    assert slots(store, "api") == []
    store.release(["a"])
    assert store.try_acquire(["api", "db"], "b", 60) == acquired("api", "db")
    assert store.try_acquire(["api", "db", "free"], "c", 60) == busy("api", "db")
    store.release(["b"])
    assert slots(store, "api") == slots(store, "db") == []


def test_tags_without_a_limit_are_free(store: SqliteStore) -> None:
    """SPEC 10.2. Whatever text they are, and however many."""
    store.create("db", 1)
    tags = [
        "",
        "a\0b",
        "db\0",
        "\ud800",
        "'; DROP TABLE limits",
        "数据库",
        *map(str, range(40_000)),
    ]
    assert store.try_acquire(tags, "a", 60) == acquired()
    assert store.try_acquire([*tags, "db"], "b", 60) == acquired("db")


def test_a_limit_of_zero_comes_before_waiting(store: SqliteStore) -> None:
    store.create("a", 1)
    store.create("b", 0)
    store.try_acquire(["a"], "run", 60)
    assert store.try_acquire(["a", "b"], "other", 60) == ZeroLimit("b")


def test_asking_again_keeps_what_one_has(store: SqliteStore) -> None:
    store.create("db", 1)
    store.create("api", 1)
    assert store.try_acquire(["db"], "a", 60) == acquired("db")
    assert store.try_acquire(["db", "api"], "a", 60) == acquired("db", "api")
    assert slots(store, "db") == slots(store, "api") == ["a"]


def test_lowering_a_limit_takes_no_slot_away(store: SqliteStore) -> None:
    store.create("db", 3)
    for run in "abc":
        store.try_acquire(["db"], run, 60)
    store.create("db", 1)
    store.release(["a", "b"])
    assert store.try_acquire(["db"], "d", 60) == busy("db")
    store.release(["c"])
    assert store.try_acquire(["db"], "d", 60) == acquired("db")


def test_a_lease_that_is_over_does_not_count(store: SqliteStore, clock: FakeTime) -> None:
    store.create("db", 1)
    store.try_acquire(["db"], "a", 60)
    clock.now += 59.9
    assert store.try_acquire(["db"], "b", 60) == busy("db")
    clock.now += 0.1
    assert slots(store, "db") == []
    assert store.try_acquire(["db"], "b", 60) == acquired("db")
    assert store.renew(["a", "b"], 60) == {"b"}


def test_a_lease_is_renewed(store: SqliteStore, clock: FakeTime) -> None:
    store.create("db", 1)
    store.create("api", 1)
    store.try_acquire(["db", "api"], "a", 60)
    for _ in range(5):
        clock.now += 50
        assert store.renew(["a", "unknown"], 60) == {"a"}
    assert slots(store, "db") == slots(store, "api") == ["a"]


def test_a_late_renewal_counts_if_the_slot_is_still_free(
    store: SqliteStore, clock: FakeTime
) -> None:
    store.create("db", 1)
    store.try_acquire(["db"], "a", 60)
    clock.now += 100
    assert store.renew(["a"], 60) == {"a"}
    assert slots(store, "db") == ["a"]


def test_resetting_drops_the_leases_of_one_tag(store: SqliteStore) -> None:
    store.create("db", 1)
    store.create("api", 1)
    store.try_acquire(["db", "api"], "a", 60)
    assert store.reset("db")
    assert not store.reset("unknown")
    assert (slots(store, "db"), slots(store, "api")) == ([], ["a"])


def test_deleting_drops_the_leases_too(store: SqliteStore) -> None:
    store.create("db", 1)
    store.try_acquire(["db"], "a", 60)
    store.delete("db")
    store.create("db", 1)
    assert slots(store, "db") == []


def test_a_store_can_be_closed_at_any_time(store: SqliteStore) -> None:
    store.close()
    store.create("db", 1)
    store.close()
    store.close()
    assert store.try_acquire(["db"], "a", 60) == acquired("db")


def test_a_transaction_that_fails_leaves_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("db", 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_select", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            store.create("db", 5)
    found = store.read("db")
    assert found is not None
    assert found.concurrency_limit == 1


# ---------------------------------------------------------------------- a store in trouble


@contextmanager
def locked(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits_sqlite, "PATIENCE", 0.05)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.close()


def test_a_locked_file_makes_runs_wait(
    store: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("db", 1)
    store.close()
    with locked(file, monkeypatch):
        assert store.try_acquire(["db", "x"], "a", 60) == busy("db", "x")
        with pytest.raises(ConcurrencyLimitError, match="locked") as caught:
            store.create("db", 2)
    assert caught.value.tag == "db"
    assert str(file) in str(caught.value)
    assert store.try_acquire(["db"], "a", 60) == acquired("db")


def test_a_file_of_something_else_is_an_error(store: SqliteStore, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("These are not the limits you are looking for. " * 100)
    with pytest.raises(ConcurrencyLimitError, match="not a database"):
        store.try_acquire(["db"], "a", 60)


def test_a_file_of_another_version_is_an_error(store: SqliteStore, file: Path) -> None:
    store.create("db", 1)
    store.close()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConcurrencyLimitError, match="version 99"):
        store.read("db")


def test_opening_is_tried_again_if_others_are_at_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    prepare, troubles = limits_sqlite._prepare, [error, error]

    def prepare_at_last(connection: sqlite3.Connection) -> None:
        if troubles:
            raise troubles.pop()
        prepare(connection)

    monkeypatch.setattr(limits_sqlite, "_prepare", prepare_at_last)
    assert store.create("db", 1).tag == "db"
    assert not troubles


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(ConcurrencyLimitError, match="occupied"):
        SqliteStore(tmp_path / "occupied" / "limits.db").create("db", 1)


# ---------------------------------------------------------------------- accounting, at random

TAGS = ("a", "b", "c")
RUNS = tuple("123456")
LEASE = 10.0


class Accounting(RuleBasedStateMachine):
    """The store beside a model of it: limits by tag, ends of leases by tag and run."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeTime()
        self.store = SqliteStore(f"{self.folder.name}/limits.db", self.clock.time)
        self.limits: dict[str, int] = {}
        self.leases: dict[tuple[str, str], float] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def holders(self, tag: str) -> set[str]:
        return {
            run for (held, run), end in self.leases.items() if held == tag and end > self.clock.now
        }

    @rule(tag=st.sampled_from(TAGS), limit=st.integers(0, 3))
    def create(self, tag: str, limit: int) -> None:
        self.store.create(tag, limit)
        self.limits[tag] = limit

    @rule(tag=st.sampled_from(TAGS), forget_limit=st.booleans())
    def delete_or_reset(self, tag: str, forget_limit: bool) -> None:
        known = tag in self.limits
        assert (self.store.delete(tag) if forget_limit else self.store.reset(tag)) == known
        self.leases = {key: end for key, end in self.leases.items() if key[0] != tag}
        if forget_limit:
            self.limits.pop(tag, None)

    @rule(tags=st.frozensets(st.sampled_from((*TAGS, "free"))), run=st.sampled_from(RUNS))
    def acquire(self, tags: frozenset[str], run: str) -> None:
        limited = tags & self.limits.keys()
        zeros = sorted(tag for tag in limited if self.limits[tag] == 0)
        full = {tag for tag in limited if len(self.holders(tag) - {run}) >= self.limits[tag]}
        answer = self.store.try_acquire(tags, run, LEASE)
        self.leases = {key: end for key, end in self.leases.items() if end > self.clock.now}
        if zeros:
            assert answer == ZeroLimit(zeros[0])
        elif full:
            assert answer == busy(*full)
        else:
            assert answer == acquired(*limited)
            self.leases |= {(tag, run): self.clock.now + LEASE for tag in limited}

    @rule(runs=st.frozensets(st.sampled_from(RUNS)))
    def release(self, runs: frozenset[str]) -> None:
        self.store.release(runs)
        self.leases = {key: end for key, end in self.leases.items() if key[1] not in runs}

    @rule(runs=st.frozensets(st.sampled_from(RUNS)))
    def renew(self, runs: frozenset[str]) -> None:
        mine = {key for key in self.leases if key[1] in runs}
        assert self.store.renew(runs, LEASE) == {run for _, run in mine}
        self.leases |= dict.fromkeys(mine, self.clock.now + LEASE)

    @rule(seconds=st.sampled_from((1.0, 4.0, LEASE)))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.store._connection)
    @rule()
    def close(self) -> None:
        self.store.close()

    @invariant()
    def shows_what_is_held(self) -> None:
        shown = {limit.tag: limit for limit in self.store.read_all(None, 0)}
        assert {tag: limit.concurrency_limit for tag, limit in shown.items()} == self.limits
        for tag, limit in shown.items():
            assert set(limit.active_slots) == self.holders(tag)


Accounting.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAccounting = Accounting.TestCase


# ---------------------------------------------------------------------- the keeper of slots


class Outcomes:
    """What the keeper told: run ids in order, and the errors of those refused."""

    def __init__(self) -> None:
        self.granted: list[str] = []
        self.refused: dict[str, ConcurrencyLimitError] = {}
        self.threads: set[str] = set()

    def of(self, run_id: str) -> Callable[[ConcurrencyLimitError | None], None]:
        def outcome(refusal: ConcurrencyLimitError | None) -> None:
            assert run_id not in self.granted
            assert run_id not in self.refused
            self.threads.add(threading.current_thread().name)
            if refusal is None:
                self.granted.append(run_id)
            else:
                self.refused[run_id] = refusal

        return outcome


class Desk:
    """A keeper with fake time, and what it told."""

    def __init__(self, path: Path | str) -> None:
        self.time = FakeTime()
        self.store = SqliteStore(path, self.time.time)  # as another process would use it
        self.keeper = SlotKeeper(
            lambda: SqliteStore(path, self.time.time), lease=60, poll=0.5, timers=self.time
        )
        self.outcomes = Outcomes()
        self._markers = itertools.count()

    def request(self, run_id: str, *tags: str) -> None:
        self.keeper.request(frozenset(tags), run_id, self.outcomes.of(run_id))

    def settle(self) -> None:
        """Waits until the keeper did all that it was asked for so far: a run without limited tags comes last."""
        reached = threading.Event()
        self.keeper.request(
            frozenset({"no limit"}), f"marker {next(self._markers)}", lambda _: reached.set()
        )
        assert reached.wait(10)

    def granted(self) -> list[str]:
        self.settle()
        return self.outcomes.granted

    def leave(self) -> None:
        self.keeper.close()
        self.store.close()


@pytest.fixture
def desk(file: Path) -> Iterator[Desk]:
    desk = Desk(file)
    yield desk
    desk.leave()
    assert desk.time.timers == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shoal-limits"]


def test_slots_are_granted_in_order(desk: Desk) -> None:
    desk.store.create("db", 2)
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
    desk.store.create("db", 1)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    assert len(threads()) == 1
    assert len(desk.time.timers) == 2
    desk.keeper.release("a")
    desk.settle()
    assert desk.keeper.withdraw("c") is False
    desk.keeper.release("b")
    eventually(lambda: not threads())
    assert desk.time.timers == []
    desk.request("c", "db")
    assert desk.granted() == ["a", "b", "c"]


def test_a_waiter_holds_up_none_that_could_run(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.store.create("api", 1)
    desk.request("db-1", "db")
    desk.request("both", "db", "api")
    desk.request("api-1", "api")
    assert desk.granted() == ["db-1", "api-1"]
    desk.keeper.release("db-1")
    assert desk.granted() == ["db-1", "api-1"]  # it moved to the line for "api"
    desk.request("db-2", "db")
    assert desk.granted() == ["db-1", "api-1", "db-2"]
    desk.request("api-2", "api")
    desk.keeper.release("db-2")
    desk.keeper.release("api-1")
    assert desk.granted() == ["db-1", "api-1", "db-2", "both"]
    desk.keeper.release("both")
    assert desk.granted() == ["db-1", "api-1", "db-2", "both", "api-2"]


def test_a_limit_of_zero_refuses(desk: Desk) -> None:
    """SPEC 10.2."""
    desk.store.create("off", 0)
    desk.request("a", "off", "other")
    assert desk.granted() == []
    error = desk.outcomes.refused["a"]
    assert error.tag == "off"
    assert "is 0" in str(error)


def test_who_waits_is_refused_when_the_limit_becomes_zero(desk: Desk) -> None:
    desk.store.create("db", 1)
    for run in "abc":
        desk.request(run, "db")
    desk.settle()
    desk.store.create("db", 0)
    desk.time.pass_by(0.5)
    desk.settle()
    assert desk.outcomes.granted == ["a"]
    assert set(desk.outcomes.refused) == {"b", "c"}


def test_a_withdrawn_request_is_never_answered(desk: Desk) -> None:
    desk.store.create("db", 1)
    for run in "abc":
        desk.request(run, "db")
    desk.settle()
    assert desk.keeper.withdraw("b") is True
    assert desk.keeper.withdraw("b") is False
    desk.keeper.release("a")
    assert desk.granted() == ["a", "c"]
    assert slots(desk.store, "db") == ["c"]


def test_withdrawing_after_the_grant_gives_the_slot_back(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.request("a", "db")
    desk.request("b", "db")
    assert desk.granted() == ["a"]
    assert desk.keeper.withdraw("a") is False
    assert desk.granted() == ["a", "b"]


def test_withdrawing_while_the_slot_is_taken(file: Path) -> None:
    """The slot goes back, and the next in line has it."""
    taking, go_on = threading.Event(), threading.Event()

    class SlowStore(SqliteStore):
        def try_acquire(self, tags: Any, run_id: str, lease_seconds: float) -> Any:
            answer = super().try_acquire(tags, run_id, lease_seconds)
            if run_id == "a":
                taking.set()
                assert go_on.wait(10)
            return answer

    store = SqliteStore(file)
    store.create("db", 1)
    keeper, outcomes = SlotKeeper(lambda: SlowStore(file), poll=1000), Outcomes()
    keeper.request(frozenset({"db"}), "a", outcomes.of("a"))
    assert taking.wait(10)
    keeper.request(frozenset({"db"}), "b", outcomes.of("b"))
    assert keeper.withdraw("a") is True
    go_on.set()
    eventually(lambda: outcomes.granted == ["b"])
    assert slots(store, "db") == ["b"]
    keeper.close()
    store.close()


def test_a_run_asks_once(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    for run in "ab":
        with pytest.raises(ValueError, match="asked for its slots already"):
            desk.request(run, "db")
    desk.keeper.release("a")
    desk.request("a", "db")
    assert desk.granted() == ["a", "b"]


def test_slots_of_other_processes_are_looked_for_while_somebody_waits(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.store.try_acquire(["db"], "of another process", 60)
    desk.request("a", "db")
    desk.request("b", "db")
    assert desk.granted() == []
    desk.store.release(["of another process"])
    assert desk.granted() == []
    desk.time.pass_by(0.4)
    assert desk.granted() == []
    desk.time.pass_by(0.1)
    assert desk.granted() == ["a"]
    desk.keeper.withdraw("b")
    eventually(lambda: len(desk.time.timers) == 1)  # what is left is the one that renews


def test_a_newcomer_does_not_pass_who_waits(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.store.try_acquire(["db"], "of another process", 60)
    desk.request("a", "db")
    desk.settle()
    desk.store.release(["of another process"])
    desk.request("b", "db")
    assert desk.granted() == []
    desk.time.pass_by(0.5)
    assert desk.granted() == ["a"]


def test_who_was_withdrawn_holds_up_no_newcomer(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.store.try_acquire(["db"], "of another process", 60)
    desk.request("a", "db")
    desk.settle()
    desk.keeper.withdraw("a")
    desk.store.release(["of another process"])
    eventually(lambda: not threads())
    desk.request("b", "db")
    assert desk.granted() == ["b"]


def test_who_waits_has_a_slot_when_the_holder_died(desk: Desk) -> None:
    """SPEC 10.2."""
    desk.store.create("db", 1)
    desk.store.try_acquire(["db"], "of a process that died", 60)
    desk.request("a", "db")
    for _ in range(59):
        desk.time.pass_by(1)
    assert desk.granted() == []
    desk.time.pass_by(1)
    assert desk.granted() == ["a"]


def test_leases_are_renewed_while_runs_go_on(desk: Desk) -> None:
    desk.store.create("db", 2)
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
    desk.store.create("db", 2)
    desk.request("a", "db")
    desk.request("b", "db")
    desk.settle()
    desk.store.reset("db")
    for _ in range(2):
        desk.time.pass_by(20)
        desk.settle()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "2 runs go on without the slots" in record.message
    assert record.message.endswith("a, b")
    desk.keeper.release("a")
    desk.settle()
    assert slots(desk.store, "db") == []


def test_a_store_that_breaks_refuses(desk: Desk, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("no limits here" * 1000)
    desk.request("a", "db")
    eventually(lambda: desk.outcomes.refused)
    assert "not a database" in str(desk.outcomes.refused["a"])


def test_a_store_that_cannot_be_made_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_POLL_SECONDS", "never")
    keeper, outcomes = SlotKeeper(), Outcomes()
    keeper.request(frozenset({"db", "api"}), "a", outcomes.of("a"))
    eventually(lambda: outcomes.refused)
    assert outcomes.refused["a"].tag == "api"
    assert "SHOAL_LIMITS_POLL_SECONDS" in str(outcomes.refused["a"])
    monkeypatch.delenv("SHOAL_LIMITS_POLL_SECONDS")
    keeper.request(frozenset({"db"}), "b", outcomes.of("b"))
    eventually(lambda: outcomes.granted == ["b"])


def test_a_store_that_cannot_be_written_for_a_while_loses_nobody(
    desk: Desk, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk.store.create("db", 1)
    desk.request("a", "db")
    desk.settle()
    desk.store.close()
    # The keeper's connection has the patience that it was opened with, so it is opened again.
    monkeypatch.setattr(limits_sqlite, "PATIENCE", 0.05)
    desk.keeper.release("a")
    eventually(lambda: not threads())
    desk.request("b", "db")
    assert desk.granted() == ["a", "b"]
    with locked(file, monkeypatch):
        desk.request("c", "db")
        desk.time.pass_by(20)  # to renew the lease of "b" fails
        eventually(lambda: len(caplog.records) == 1)
        desk.keeper.release("b")  # so does this, and the lease has to run out
        eventually(lambda: len(caplog.records) == 2)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    desk.time.pass_by(0.5)
    assert desk.granted() == ["a", "b"]
    desk.time.pass_by(60)
    assert desk.granted() == ["a", "b", "c"]


def test_an_outcome_that_raises_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.store.create("db", 2)

    def broken(refusal: ConcurrencyLimitError | None) -> None:
        raise SystemExit("no")

    desk.keeper.request(frozenset({"db"}), "a", broken)
    desk.request("b", "db")
    assert desk.granted() == ["b"]
    assert "Telling run a" in caplog.text


def test_outcomes_may_ask_for_more(desk: Desk) -> None:
    """They are told with no lock held."""
    desk.store.create("db", 1)
    done: list[str] = []

    def next_one(run_id: str) -> Callable[[ConcurrencyLimitError | None], None]:
        def outcome(refusal: ConcurrencyLimitError | None) -> None:
            done.append(run_id)
            desk.keeper.release(run_id)
            if len(done) < 50:
                following = str(len(done))
                desk.keeper.request(frozenset({"db"}), following, next_one(following))

        return outcome

    desk.keeper.request(frozenset({"db"}), "0", next_one("0"))
    eventually(lambda: len(done) == 50)
    assert done == [str(number) for number in range(50)]


def test_many_waiters_cost_a_try_for_each_slot(file: Path) -> None:
    tries = 0

    class CountingStore(SqliteStore):
        def try_acquire(self, tags: Any, run_id: str, lease_seconds: float) -> Any:
            nonlocal tries
            tries += 1
            return super().try_acquire(tags, run_id, lease_seconds)

    store = SqliteStore(file)
    store.create("db", 10)
    keeper, outcomes = SlotKeeper(lambda: CountingStore(file), poll=1000), Outcomes()
    for number in range(1000):
        keeper.request(frozenset({"db"}), str(number), outcomes.of(str(number)))
    for number in range(1000):
        eventually(lambda needed=number: len(outcomes.granted) > needed)
        keeper.release(outcomes.granted[number])
    assert outcomes.granted == [str(number) for number in range(1000)]
    assert tries < 2100
    keeper.close()
    store.close()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), limits=st.fixed_dictionaries(dict.fromkeys(TAGS, st.integers(0, 2))))
def test_slots_at_random(data: st.DataObject, limits: dict[str, int]) -> None:
    """Each has one outcome; limits hold; nobody waits who could run; equals are served in order."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(f"{folder}/limits.db")
        try:
            for tag, limit in limits.items():
                desk.store.create(tag, limit)
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
        for run in waiting:
            assert any(free[tag] == 0 for tag in wanted[run])
        for run in desk.outcomes.refused:
            assert any(limits[tag] == 0 for tag in wanted[run])
        for run in granted:
            older = before[: before.index(run)]
            assert all(other in granted for other in older if wanted[other] == wanted[run])


# ---------------------------------------------------------------------- waiting in one's own thread


def test_acquiring_blocks_until_there_is_a_slot(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.keeper.acquire_blocking(frozenset({"db"}), "a")
    assert slots(desk.store, "db") == ["a"]
    thread = threading.Thread(target=desk.keeper.acquire_blocking, args=(frozenset({"db"}), "b"))
    thread.start()
    desk.settle()
    assert thread.is_alive()
    desk.keeper.release("a")
    thread.join(10)
    assert slots(desk.store, "db") == ["b"]


def test_acquiring_raises_if_the_limit_is_zero(desk: Desk) -> None:
    desk.store.create("off", 0)
    with pytest.raises(ConcurrencyLimitError, match="is 0"):
        desk.keeper.acquire_blocking(frozenset({"off"}), "a")


def test_acquiring_without_tags_is_immediate(desk: Desk) -> None:
    desk.keeper.acquire_blocking(frozenset(), "a")
    assert threads() == []


def test_an_interrupt_ends_the_wait(desk: Desk) -> None:
    desk.store.create("db", 1)
    desk.keeper.acquire_blocking(frozenset({"db"}), "a")
    token, begun, caught = object(), threading.Event(), []
    frames: list[Any] = []

    def wait() -> None:
        frames.append(frames_of_this_thread())
        frame = frames[0].begin(token)
        frames[0].leave_shield()
        begun.set()
        try:
            desk.keeper.acquire_blocking(frozenset({"db"}), "b")
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
    desk.store.create("db", 1)
    desk.keeper.acquire_blocking(frozenset({"db"}), "a")
    begun = threading.Event()

    def wait() -> None:
        frames, beneath = frames_of_this_thread(), object()
        outer = frames.begin(beneath)  # it waits for the run above, and was interrupted meanwhile
        inner = frames.begin(object())
        frames.leave_shield()
        with LOCK:
            frames.fire(beneath)
        begun.set()
        desk.keeper.acquire_blocking(frozenset({"db"}), "b")
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


# ---------------------------------------------------------------------- processes

HOLDS = """
    import sys, time
    from shoal.limits.slots import KEEPER
    KEEPER.acquire_blocking(frozenset({"db"}), "theirs")
    print("holds", flush=True)
    sys.stdin.read()
"""

CONTENDS = """
    import os, random, sys, threading, time
    from shoal.limits.slots import KEEPER

    held = []

    def work(name):
        for number in range(8):
            run_id = f"{os.getpid()}-{name}-{number}"
            tags = frozenset(random.choice((["db"], ["api"], ["db", "api"])))
            KEEPER.acquire_blocking(tags, run_id)
            begin = time.monotonic()
            time.sleep(0.003)
            held.append((begin, time.monotonic(), *tags))
            KEEPER.release(run_id)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for line in held: print(*line)
"""


def test_processes_share_a_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"db": 2, "api": 3}
    store = SqliteStore(file)
    for tag, limit in limits.items():
        store.create(tag, limit)
    monkeypatch.setenv("SHOAL_LIMITS_POLL_SECONDS", "0.02")
    processes = [python(CONTENDS) for _ in range(4)]
    lines = [line.split() for process in processes for line in output(process).splitlines()]
    assert len(lines) == 4 * 3 * 8
    most = dict.fromkeys(limits, 0)
    for tag in limits:
        moments = [
            moment
            for begin, end, *tags in lines
            if tag in tags
            for moment in ((float(begin), 1), (float(end), -1))
        ]
        for at_once in itertools.accumulate(change for _, change in sorted(moments)):
            most[tag] = max(most[tag], at_once)
    assert most == limits
    assert slots(store, "db") == slots(store, "api") == []
    store.close()


def test_processes_that_begin_together_make_one_file(file: Path) -> None:
    script = """
        import sys, time
        from shoal.limits import ConcurrencyLimits
        limits = ConcurrencyLimits()
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            print(limits.create_concurrency_limit("shared", 5))
            limits.create_concurrency_limit(f"{sys.argv[1]}-{number}", number)
        """
    processes = [python(script, str(number)) for number in range(5)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ids = {line for process in processes for line in output(process).split()}
    assert len(ids) == 1
    store = SqliteStore(file)
    assert len(store.read_all(None, 0)) == 51
    store.close()


@pytest.mark.slow
def test_a_killed_process_loses_its_slots_with_its_lease(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC 10.2."""
    store = SqliteStore(file)
    store.create("db", 1)
    monkeypatch.setenv("SHOAL_LIMITS_LEASE_SECONDS", "3")
    holder = python(HOLDS)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holds\n"
    time.sleep(4)  # it lives, so its lease is renewed
    keeper, granted = SlotKeeper(poll=0.05), threading.Event()
    keeper.request(frozenset({"db"}), "ours", lambda _: granted.set())
    assert not granted.wait(0.2)
    assert slots(store, "db") == ["theirs"]

    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    killed = time.monotonic()
    assert granted.wait(20)
    assert time.monotonic() - killed < 10
    assert slots(store, "db") == ["ours"]
    keeper.close()
    store.close()


def test_a_process_that_ends_gives_its_slots_back(file: Path) -> None:
    store = SqliteStore(file)
    store.create("db", 1)
    holder = python(HOLDS)
    output(holder)  # which closes its stdin
    assert slots(store, "db") == []
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_no_slots_of_its_parent(file: Path) -> None:
    script = """
        import os, warnings
        from pathlib import Path
        from shoal.limits.slots import KEEPER
        from shoal.limits.sqlite import SqliteStore
        warnings.simplefilter("ignore")

        def slots():
            store = SqliteStore()
            try:
                return store.read("db").active_slots
            finally:
                store.close()

        tags = frozenset({"db"})
        KEEPER.acquire_blocking(tags, "parent")
        for _ in range(3):
            child = os.fork()
            if child == 0:
                files = Path("/proc/self/fd").glob("*")
                assert not [file for file in files if "limits.db" in str(file.resolve())]
                KEEPER.release("parent")  # not its to release
                KEEPER.acquire_blocking(tags, "child")
                assert slots() == ["parent", "child"], slots()
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if slots() == ["parent", "child"] else 1)
                assert os.waitpid(grandchild, 0)[1] == 0
                KEEPER.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert slots() == ["parent"], slots()
        KEEPER.release("parent")
        KEEPER.acquire_blocking(tags, "again")
        print(slots())
        """
    store = SqliteStore(file)
    store.create("db", 2)
    store.close()
    assert output(python(script)) == "['again']\n"
