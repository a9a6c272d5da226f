"""The store beside a model of it, at random (SPEC 10.2, 10.3)."""

from __future__ import annotations

import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from shoal.limits.sqlite import SqliteStore
from shoal.limits.store import Refused

from tests.limits.tools import FakeTime, ask, full, got

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
        self.store.upsert(tag, limit)
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
        crowded = {tag for tag in limited if len(self.holders(tag) - {run}) >= self.limits[tag]}
        answer = ask(self.store, tags, run, LEASE)
        self.leases = {key: end for key, end in self.leases.items() if end > self.clock.now}
        if zeros:
            assert isinstance(answer, Refused)
            assert answer.name == zeros[0]
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
        mine = {key for key in self.leases if key[1] in runs}
        assert self.store.renew(runs, LEASE) == {
            run: {tag for tag, other in mine if other == run} for _, run in mine
        }
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
        shown = {limit.name: limit for limit in self.store.read_all(None, 0)}
        assert {tag: limit.limit for tag, limit in shown.items()} == self.limits
        for tag, limit in shown.items():
            assert {lease.holder.id for lease in limit.holders} == self.holders(tag)


Accounting.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAccounting = Accounting.TestCase
