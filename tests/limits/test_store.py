"""What a store of limits does, whichever it is (SPEC 10.1, 10.2, 10.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shoal.limits.store import Refused

from tests.limits.tools import ask, full, got, slots

if TYPE_CHECKING:
    from shoal.limits.store import LimitStore

    from tests.limits.tools import FakeTime


# ---------------------------------------------------------------------- limits, and slots that are lent


def test_limits_are_created_read_listed_and_deleted(store: LimitStore, clock: FakeTime) -> None:
    made = store.upsert("db", 3)
    assert (made.name, made.limit, made.active, made.active_slots) == ("db", 3, True, 0)
    assert (made.slot_decay_per_second, made.rate, made.holders, made.waiters) == (0, None, (), ())
    assert made.created == made.updated
    assert made.created.utcoffset() is not None
    assert store.read("db") == made
    api = store.upsert("api", 0)
    assert store.read_all(None, 0) == [api, made]
    assert store.read_all(1, 0) == [api]
    assert store.read_all(None, 1) == [made]
    assert store.delete("db")
    assert not store.delete("db")
    assert store.read("db") is None
    assert store.read_all(None, 0) == [api]


def test_creating_again_changes_the_limit(store: LimitStore, clock: FakeTime) -> None:
    first = store.upsert("db", 2)
    ask(store, ["db"], "a", 60)
    clock.now += 5
    second = store.upsert("db", 7)
    assert second.id == first.id
    assert second.created == first.created
    assert second.updated > first.updated
    assert (second.limit, slots(store, "db")) == (7, ["a"])


def test_slots_are_taken_up_to_the_limit(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 2)
    assert got(ask(store, ["db"], "z", 60)) == {"db"}
    clock.now += 1
    assert got(ask(store, ["db"], "a", 60)) == {"db"}
    assert full(ask(store, ["db"], "b", 60)) == {"db"}
    assert slots(store, "db") == ["z", "a"]
    store.release(["z", "unknown"])
    clock.now += 1
    assert got(ask(store, ["db"], "b", 60)) == {"db"}
    assert slots(store, "db") == ["a", "b"]


def test_all_slots_or_none(store: LimitStore) -> None:
    """SPEC 10.2."""
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db"], "a", 60)
    assert full(ask(store, ["api", "db"], "b", 60)) == {"db"}
    assert slots(store, "api") == []
    store.release(["a"])
    assert got(ask(store, ["api", "db"], "b", 60)) == {"api", "db"}
    assert full(ask(store, ["api", "db", "free"], "c", 60)) == {"api", "db"}
    store.release(["b"])
    assert slots(store, "api") == slots(store, "db") == []


def test_tags_without_a_limit_are_free(store: LimitStore) -> None:
    """SPEC 10.2. Whatever text they are, and however many."""
    store.upsert("db", 1)
    tags = [
        "",
        "a\0b",
        "db\0",
        "\ud800",
        "'; DROP TABLE limits",
        "数据库",
        *map(str, range(40_000)),
    ]
    assert got(ask(store, tags, "a", 60)) == set()
    assert got(ask(store, [*tags, "db"], "b", 60)) == {"db"}


def test_a_limit_of_zero_comes_before_waiting(store: LimitStore) -> None:
    store.upsert("a", 1)
    store.upsert("b", 0)
    ask(store, ["a"], "run", 60)
    answer = ask(store, ["a", "b"], "other", 60)
    assert isinstance(answer, Refused)
    assert answer.name == "b"
    assert "is 0" in answer.problem


def test_asking_again_keeps_what_one_has(store: LimitStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    assert got(ask(store, ["db"], "a", 60)) == {"db"}
    assert got(ask(store, ["db", "api"], "a", 60)) == {"db", "api"}
    assert slots(store, "db") == slots(store, "api") == ["a"]


def test_lowering_a_limit_takes_no_slot_away(store: LimitStore) -> None:
    store.upsert("db", 3)
    for run in "abc":
        ask(store, ["db"], run, 60)
    store.upsert("db", 1)
    store.release(["a", "b"])
    assert full(ask(store, ["db"], "d", 60)) == {"db"}
    store.release(["c"])
    assert got(ask(store, ["db"], "d", 60)) == {"db"}


def test_a_lease_that_is_over_does_not_count(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    clock.now += 59.9
    assert full(ask(store, ["db"], "b", 60)) == {"db"}
    clock.now += 0.1
    assert slots(store, "db") == []
    assert got(ask(store, ["db"], "b", 60)) == {"db"}
    assert store.renew(["a", "b"], 60) == {"b": {"db"}}


def test_a_lease_is_renewed(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db", "api"], "a", 60)
    for _ in range(5):
        clock.now += 50
        assert store.renew(["a", "unknown"], 60) == {"a": {"api", "db"}}
    assert slots(store, "db") == slots(store, "api") == ["a"]


def test_a_late_renewal_counts_if_the_slot_is_still_free(
    store: LimitStore, clock: FakeTime
) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    clock.now += 100
    assert store.renew(["a"], 60) == {"a": {"db"}}
    assert slots(store, "db") == ["a"]


def test_resetting_drops_the_leases_of_one_tag(store: LimitStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db", "api"], "a", 60)
    assert store.reset("db")
    assert not store.reset("unknown")
    assert (slots(store, "db"), slots(store, "api")) == ([], ["a"])


def test_deleting_drops_the_leases_too(store: LimitStore) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 60)
    store.delete("db")
    store.upsert("db", 1)
    assert slots(store, "db") == []


def test_a_store_can_be_closed_at_any_time(store: LimitStore) -> None:
    store.close()
    store.upsert("db", 1)
    store.close()
    store.close()
    assert got(ask(store, ["db"], "a", 60)) == {"db"}


def test_a_transaction_that_fails_leaves_nothing(
    store: LimitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("db", 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_ring_all", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            store.upsert("db", 5)
    found = store.read("db")
    assert found is not None
    assert found.limit == 1
