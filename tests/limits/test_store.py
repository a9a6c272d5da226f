"""What a store of limits does, whichever it is (SPEC 10.1, 10.2, 10.3)."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from shoal.exceptions import ConcurrencyLimitError
from shoal.limits.store import Acquired, Busy, Refused
from shoal.limits.tables import SqlStore

from tests.limits.tools import ask, full, got, line, slots, taken, wants

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from shoal.limits.store import Answer, LimitStore

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


# ---------------------------------------------------------------------- what else a limit can be


def test_a_limit_is_created_once(store: LimitStore) -> None:
    made = store.create("db", 2, decay=0.5, active=False, active_slots=1)
    assert made is not None
    assert (made.limit, made.slot_decay_per_second, made.active) == (2, 0.5, False)
    assert made.active_slots == 1
    assert store.create("db", 3) is None
    assert store.read("db") == made


def test_a_limit_is_changed_in_part(store: LimitStore, clock: FakeTime) -> None:
    made = store.upsert("db", 2)
    ask(store, ["db"], "a")
    clock.now += 1
    changed = store.update("db", limit=5, active=False)
    assert changed is not None
    assert (changed.id, changed.limit, changed.active) == (made.id, 5, False)
    assert slots(store, "db") == ["a"]
    assert store.update("unknown", limit=5) is None


def test_a_limit_is_renamed_with_all_that_is_its(store: LimitStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db"], "a")
    store.try_acquire(wants(["db"], "b"))
    renamed = store.update("db", new_name="warehouse")
    assert renamed is not None
    assert store.read("db") is None
    assert (slots(store, "warehouse"), line(store, "warehouse")) == (["a"], ["b"])
    with pytest.raises(ConcurrencyLimitError, match="a limit of the name 'api'"):
        store.update("warehouse", new_name="api")


def test_a_limit_that_is_off_does_not_limit(store: LimitStore) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a")
    store.update("db", active=False)
    assert got(ask(store, ["db"], "b")) == set()
    assert slots(store, "db") == ["a"]
    store.update("db", active=True)
    assert full(ask(store, ["db"], "c")) == {"db"}


def test_taken_slots_can_be_set(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 3)
    for run in "ab":
        ask(store, ["db"], run)
        clock.now += 1
    store.update("db", active_slots=3)
    assert (taken(store, "db"), slots(store, "db")) == (3, ["a", "b"])
    assert full(ask(store, ["db"], "c")) == {"db"}
    store.release(["a"])
    assert taken(store, "db") == 2
    store.update("db", active_slots=1)
    assert (taken(store, "db"), slots(store, "db")) == (1, ["b"])
    store.reset("db")
    assert (taken(store, "db"), slots(store, "db")) == (0, [])


def test_several_slots_at_once(store: LimitStore) -> None:
    store.upsert("db", 3)
    assert got(ask(store, ["db"], "a", occupy=2)) == {"db"}
    assert full(ask(store, ["db"], "b", occupy=2)) == {"db"}
    assert got(ask(store, ["db"], "c", occupy=1)) == {"db"}
    store.release(["a"])
    assert got(ask(store, ["db"], "b", occupy=2)) == {"db"}


def test_more_slots_than_there_are_is_refused(store: LimitStore) -> None:
    store.upsert("db", 3)
    answer = ask(store, ["db"], "a", occupy=4)
    assert isinstance(answer, Refused)
    assert "3 slots, fewer than the 4" in answer.problem


def test_a_missing_limit_is_told_or_refused(store: LimitStore) -> None:
    store.upsert("db", 1)
    answer = ask(store, ["db", "api"], "a")
    assert isinstance(answer, Acquired)
    assert answer.missing == {"api"}
    refused = ask(store, ["db", "api"], "b", strict=True)
    assert isinstance(refused, Refused)
    assert refused.name == "api"
    assert isinstance(ask(store, ["nothing"], "c", strict=True), Refused)


# ---------------------------------------------------------------------- lines


def stands(store: LimitStore, id: str, *names: str, waited: float | None = None) -> Answer:
    """One try of somebody who stays in line."""
    return store.try_acquire(wants(names, id), waited)


def test_nobody_passes_who_stands_in_line(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a")
    assert full(stands(store, "b", "db")) == {"db"}
    clock.now += 1
    assert full(stands(store, "c", "db")) == {"db"}
    assert line(store, "db") == ["b", "c"]
    store.release(["a"])
    assert full(stands(store, "d", "db")) == {"db"}
    assert full(stands(store, "c", "db", waited=0)) == {"db"}
    assert got(stands(store, "b", "db", waited=1)) == {"db"}
    assert line(store, "db") == ["c", "d"]


def test_who_has_waited_longest_is_first(store: LimitStore, clock: FakeTime) -> None:
    """Also if it told so last: only the first of each process stands there."""
    store.upsert("db", 1)
    ask(store, ["db"], "a")
    stands(store, "b", "db", waited=3)
    stands(store, "c", "db", waited=9)
    assert line(store, "db") == ["c", "b"]
    clock.now += 1
    stands(store, "b", "db", waited=100)  # it keeps the place that it had
    assert line(store, "db") == ["c", "b"]


def test_who_wants_several_has_its_turn(store: LimitStore) -> None:
    store.upsert("db", 2)
    for run in "ab":
        ask(store, ["db"], run)
    assert isinstance(store.try_acquire(wants(["db"], "both", occupy=2)), Busy)
    store.release(["a"])
    assert full(stands(store, "c", "db")) == {"db"}
    store.release(["b"])
    assert got(store.try_acquire(wants(["db"], "both", occupy=2), 1.0)) == {"db"}


def test_a_place_in_line_only_where_it_waited(store: LimitStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db"], "a")
    assert full(stands(store, "both", "db", "api")) == {"db"}
    assert got(stands(store, "b", "api")) == {"api"}
    assert full(stands(store, "both", "db", "api", waited=1)) == {"db", "api"}
    store.release(["b"])
    assert full(stands(store, "c", "api")) == {"api"}
    store.release(["a"])
    assert got(stands(store, "both", "db", "api", waited=2)) == {"db", "api"}
    assert (line(store, "db"), line(store, "api")) == ([], ["c"])


def test_who_does_not_ask_again_loses_its_place(store: LimitStore, clock: FakeTime) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a")
    stands(store, "dead", "db")
    clock.now += 4
    stands(store, "alive", "db")
    store.release(["a"])
    assert full(stands(store, "alive", "db", waited=0)) == {"db"}
    clock.now += 1
    assert got(stands(store, "alive", "db", waited=1)) == {"db"}


def test_who_withdraws_leaves_all_lines(store: LimitStore) -> None:
    store.upsert("db", 1)
    store.upsert("api", 1)
    ask(store, ["db", "api"], "a")
    stands(store, "b", "db", "api")
    stands(store, "c", "db", "api")
    store.withdraw(["b", "unknown"])
    store.release(["a"])
    assert got(stands(store, "c", "db", "api", waited=1)) == {"db", "api"}


def test_it_is_told_when_a_lease_is_over(store: LimitStore) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "a", 7)
    answer = ask(store, ["db"], "b")
    assert isinstance(answer, Busy)
    assert answer.retry_after == pytest.approx(7)


def test_a_name_that_looks_like_a_tags_is_none(store: LimitStore) -> None:
    store.upsert("Tag:db", 1)
    store.upsert("tag:db", 2)
    assert [limit.name for limit in store.read_all(None, 0, tags=True)] == ["tag:db"]
    assert [limit.name for limit in store.read_all(None, 0, tags=False)] == ["Tag:db"]


def test_a_limit_is_made_once(
    make_store: Callable[[], LimitStore], opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two make it at the same time: of these one sees no limit, and finds it when it comes to make it (SPEC 10.1)."""
    first, second = (opened.enter_context(closing(make_store())) for _ in range(2))
    first.upsert("db", 3, active_slots=1)
    locked = SqlStore._lock
    looks = iter([[]])

    def blind(self: SqlStore, *args: Any) -> Any:
        found = next(looks, None)
        return locked(self, *args) if found is None else found

    monkeypatch.setattr(SqlStore, "_lock", blind)
    assert second.create("db", 5, active_slots=4) is None
    limit = first.read("db")
    assert limit is not None
    assert (limit.limit, limit.active_slots) == (3, 1)
