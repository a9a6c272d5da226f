"""The store beside a model of it, at random (SPEC 10.2, 10.3)."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from shoal.limits import postgres as limits_postgres
from shoal.limits.deciding import AHEAD
from shoal.limits.postgres import PostgresStore
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Acquired, Busy, Refused

from tests.limits.tools import FakeTime, ask, full, got

if TYPE_CHECKING:
    from shoal.limits.store import LimitStore

    from tests.limits.server import Server

TAGS = ("a", "b", "c")
RUNS = tuple("123456")
LEASE = 10.0

#: Of the limit whose slots decay.
BURST, DECAY = 3, 0.5


def occupy(run: str) -> int:
    return 1 if run < "4" else 2


class Accounting(RuleBasedStateMachine):
    """Limits that may be off, by tag; ends of leases, by tag and run; and what is left of the one that decays.

    Processes that are killed are those that do not renew: time passes for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeTime()
        self.starts = 0
        self.store = self.open()
        self.limits: dict[str, tuple[int, bool]] = {}
        self.leases: dict[tuple[str, str], float] = {}
        self.level = self.spent = 0.0
        self.store.upsert("decays", BURST, decay=DECAY)

    def open(self) -> LimitStore:
        self.folder = tempfile.TemporaryDirectory()
        return self.open_again()

    def open_again(self) -> LimitStore:
        return SqliteStore(f"{self.folder.name}/limits.db", self.clock.time, str(self.starts))

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def held(self, tag: str, but: str = "") -> int:
        return sum(
            occupy(run)
            for (held, run), end in self.leases.items()
            if held == tag and run != but and end > self.clock.now
        )

    @rule(tag=st.sampled_from(TAGS), limit=st.integers(0, 4), active=st.sampled_from((None, True)))
    def set(self, tag: str, limit: int, active: bool | None) -> None:
        self.store.upsert(tag, limit, active=active)
        was = self.limits.get(tag, (0, True))[1]
        self.limits[tag] = (limit, was if active is None else active)

    @rule(tag=st.sampled_from(TAGS))
    def switch_off(self, tag: str) -> None:
        known = self.store.update(tag, active=False) is not None
        assert known == (tag in self.limits)
        if known:
            self.limits[tag] = (self.limits[tag][0], False)

    @rule(tag=st.sampled_from(TAGS), forget_limit=st.booleans())
    def delete_or_reset(self, tag: str, forget_limit: bool) -> None:
        known = tag in self.limits
        assert (self.store.delete(tag) if forget_limit else self.store.reset(tag)) == known
        self.leases = {key: end for key, end in self.leases.items() if key[0] != tag}
        if forget_limit:
            self.limits.pop(tag, None)

    @rule(tags=st.frozensets(st.sampled_from((*TAGS, "free"))), run=st.sampled_from(RUNS))
    def acquire(self, tags: frozenset[str], run: str) -> None:
        limited = {tag for tag in tags & self.limits.keys() if self.limits[tag][1]}
        too_small = sorted(tag for tag in limited if self.limits[tag][0] < occupy(run))
        crowded = {
            tag for tag in limited if self.held(tag, but=run) + occupy(run) > self.limits[tag][0]
        }
        answer = ask(self.store, tags, run, LEASE, occupy=occupy(run))
        self.leases = {
            key: end
            for key, end in self.leases.items()
            if end > self.clock.now or key[0] not in limited or key[1] == run
        }
        if too_small:
            assert isinstance(answer, Refused)
            assert answer.name == too_small[0]
        elif crowded:
            assert full(answer) == crowded
        else:
            assert got(answer) == limited
            self.leases |= {(tag, run): self.clock.now + LEASE for tag in limited}

    @rule(runs=st.frozensets(st.sampled_from(RUNS)))
    def release(self, runs: frozenset[str]) -> None:
        self.store.release(runs)
        self.leases = {key: end for key, end in self.leases.items() if key[1] not in runs}

    @rule(runs=st.frozensets(st.sampled_from(RUNS)))
    def renew(self, runs: frozenset[str]) -> None:
        """What is over may be kept as long as nobody has looked."""
        kept = {(tag, run) for run, tags in self.store.renew(runs, LEASE).items() for tag in tags}
        alive = {key for key, end in self.leases.items() if key[1] in runs and end > self.clock.now}
        assert alive <= kept <= {key for key in self.leases if key[1] in runs}
        self.leases |= dict.fromkeys(kept, self.clock.now + LEASE)

    @rule()
    def spend(self) -> None:
        answer = ask(self.store, ["decays"], "spender", None)
        after = max(0.0, (self.level + 1 - BURST) / DECAY)
        if after <= AHEAD:
            assert isinstance(answer, Acquired)
            assert answer.after == pytest.approx(after, abs=1e-4)
            self.level += 1
            self.spent = self.level
        else:
            assert isinstance(answer, Busy)
            assert answer.retry_after == pytest.approx(after - AHEAD, abs=1e-4)

    @rule(seconds=st.sampled_from((0.5, 1.0, 4.0, LEASE)))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.level = max(0.0, self.level - DECAY * seconds)

    @rule()
    def close(self) -> None:
        self.store.close()

    @precondition(lambda self: isinstance(self.store, SqliteStore))
    @rule(now=st.floats(0, 1e7))
    def machine_starts_anew(self, now: float) -> None:
        """The clock begins anywhere, and nobody of before is alive; what was spent last decays from now on."""
        self.store.close()
        self.starts += 1
        self.clock.now = now
        self.store = self.open_again()
        self.leases = {}
        self.level = self.spent

    @invariant()
    def shows_what_is_held(self) -> None:
        shown = {limit.name: limit for limit in self.store.read_all(None, 0)}
        assert shown.pop("decays").active_slots == pytest.approx(self.level, abs=1e-4)
        assert {tag: (limit.limit, limit.active) for tag, limit in shown.items()} == self.limits
        for tag, limit in shown.items():
            assert limit.active_slots == self.held(tag)


Accounting.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestAccounting = Accounting.TestCase


def test_accounting_in_a_database(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: list[FakeTime] = []

    class InADatabase(Accounting):
        def open(self) -> LimitStore:
            postgres.empty()
            clocks.append(self.clock)
            self.folder = tempfile.TemporaryDirectory()
            return PostgresStore(postgres.url)

    now: Any = property(lambda _: clocks[-1].now)
    monkeypatch.setattr(limits_postgres._Transaction, "now", now)
    run_state_machine_as_test(
        InADatabase, settings=settings(max_examples=5, stateful_step_count=20, deadline=None)
    )
