"""The store of limits in a PostgreSQL database: what a server and a network may do to it (SPEC 10.4)."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from shoal.exceptions import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencyLimitError,
    MissingExtraError,
)
from shoal.limits import postgres as limits_postgres
from shoal.limits.opening import open_store
from shoal.limits.postgres import PostgresStore
from shoal.limits.settings import limits_in_use
from shoal.limits.slots import SlotKeeper
from shoal.limits.store import Rate

from tests.limits.tools import acquire, ask, eventually, full, got, output, slots, wants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from tests.limits.server import Server
    from tests.limits.tools import Python


@pytest.fixture
def store(postgres: Server) -> Iterator[PostgresStore]:
    store = PostgresStore(postgres.url)
    yield store
    store.close()


@pytest.fixture
def keeper(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlotKeeper]:
    monkeypatch.setattr(PostgresStore, "linger", 0.1)
    keeper = SlotKeeper()
    yield keeper
    keeper.close()


def test_with_a_database_limits_are_in_use_and_nothing_is_opened(
    python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", "postgresql://nobody@localhost:1/none")
    script = """
        import sys
        from shoal.limits.settings import limits_in_use
        print(limits_in_use(), *{"psycopg", "socket", "shoal.limits.postgres"} & sys.modules.keys())
        """
    assert output(python(script)).split() == ["True"]
    assert limits_in_use()


def test_without_psycopg_the_error_says_what_to_install(
    opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", "postgresql://me:geheim@localhost/limits")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"shoal\[postgres\]") as caught:
        open_store()
    assert "pip install" in caught.value.command
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    keeper = opened.enter_context(closing(SlotKeeper()))
    with pytest.raises(MissingExtraError):
        acquire(keeper, wants(["db"], "a"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:ge%40heim@localhost:1/limits",
        "postgres://me:ge:he@im@localhost:1/limits",
        "postgresql://me@localhost:1/limits?password=geheim",
        "postgresql://me:geheim@localhost:port/limits",
        "postgresql://me:geheim",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    store = PostgresStore(url)
    with pytest.raises(ConcurrencyLimitError, match="the database of limits") as caught:
        store.read("db")
    shown = "".join(traceback.format_exception(caught.value)) + repr(store)
    shown += str(pickle.loads(pickle.dumps(caught.value)))
    for secret in ("geheim", "ge%40heim", "ge@heim", "ge:he@im"):
        assert secret not in shown
    assert not store.may_pass(caught.value)  # it was never reached


def test_a_database_of_version_1_is_taken_over(store: PostgresStore, postgres: Server) -> None:
    """It has no table of what rates have given out."""
    store.upsert("db", 3)
    store.close()
    with psycopg.connect(postgres.url) as connection:
        connection.execute("DROP TABLE shoal.given_out; UPDATE shoal.version SET number = 1")
    for _ in range(2):
        assert got(ask(store, ["api"], "a", None, rate=Rate(10, 1.0))) == {"api"}
        store.close()
    assert [limit.name for limit in store.read_all(None, 0)] == ["api", "db"]


def test_a_newer_database_is_an_error_that_names_both_versions(
    store: PostgresStore, postgres: Server
) -> None:
    store.upsert("db", 1)
    store.close()
    with psycopg.connect(postgres.url) as connection:
        connection.execute("UPDATE shoal.version SET number = 7")
    with pytest.raises(ConcurrencyLimitError, match=r"version 7.*up to 2") as caught:
        store.upsert("db", 2)
    assert not store.may_pass(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("postgres")
def test_processes_that_begin_together_make_the_tables_once(python: Python) -> None:
    script = """
        from shoal.limits import ConcurrencyLimits
        print(ConcurrencyLimits().create_concurrency_limit("shared", 5))
        """
    processes = [python(script) for _ in range(4)]
    assert len({line for process in processes for line in output(process).split()}) == 1


def test_who_waits_hears_of_a_slot_that_another_gave_back(
    store: PostgresStore, keeper: SlotKeeper
) -> None:
    store.upsert("db", 1)
    ask(store, ["db"], "theirs", 600)
    granted = threading.Event()
    keeper.request(wants(["db"], "ours"), lambda _: granted.set())
    eventually(lambda: [waiter.holder.id for waiter in store.read("db").waiters])  # type: ignore[union-attr]
    store.release(["theirs"])
    assert granted.wait(10)


def test_transactions_that_want_the_same_limits_do_not_lock_each_other_out(
    postgres: Server, store: PostgresStore
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        store.upsert(name, 1)

    def work(number: int) -> None:
        with closing(PostgresStore(postgres.url)) as mine:
            for turn in range(15):
                id = f"{number}-{turn}"
                mine.try_acquire(wants(names[:: 1 if number % 2 else -1], id))
                mine.renew([id], 60)
                mine.withdraw([id])
                mine.release([id])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert [slots(store, name) for name in names] == [[], [], []]
    assert got(ask(store, names, "last")) == set(names)


@pytest.mark.may_leave("processes", reason="the server of the session is started anew")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
def test_a_server_that_goes_and_comes_back(
    postgres: Server, store: PostgresStore, keeper: SlotKeeper, how: signal.Signals
) -> None:
    """What holds slots goes on, who waits is served afterwards, and who has no time is told why."""
    store.upsert("db", 1)
    store.close()
    acquire(keeper, wants(["db"], "first"))
    granted = threading.Event()
    keeper.request(wants(["db"], "second"), lambda _: granted.set())
    postgres.stop(how)
    try:
        with pytest.raises(AcquireConcurrencySlotTimeoutError) as caught:
            acquire(keeper, wants(["db"], "impatient"), 0.5)
        assert "cannot be used" in "".join(caught.value.__notes__)
        keeper.release("first")
        assert not granted.wait(0.1)
    finally:
        postgres.start()
    assert granted.wait(20)
    assert slots(store, "db") == ["second"]


def test_a_store_that_was_never_reached_refuses(
    postgres: Server, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_LIMITS_URL", postgres.url.replace("shoal-pg", "nowhere"))
    keeper = opened.enter_context(closing(SlotKeeper()))
    with pytest.raises(ConcurrencyLimitError, match="cannot be used"):
        acquire(keeper, wants(["db"], "a"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.usefixtures("postgres")
def test_a_fork_leaves_the_parents_connection_alone(python: Python) -> None:
    script = """
        import os, sys, warnings
        sys.path.insert(0, ".")
        from shoal.limits.opening import open_store
        from shoal.limits.slots import KEEPER
        from tests.limits.tools import acquire, slots, wants
        warnings.simplefilter("ignore")
        store = open_store()
        store.upsert("db", 2)
        acquire(KEEPER, wants(["db"], "parent"))
        child = os.fork()
        if child == 0:
            KEEPER.release("parent")  # not its to release
            acquire(KEEPER, wants(["db"], "child"))
            assert slots(store, "db") == ["parent", "child"], slots(store, "db")
            KEEPER.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert slots(store, "db") == ["parent"], slots(store, "db")
        KEEPER.release("parent")
        acquire(KEEPER, wants(["db"], "again"))
        print(slots(store, "db"))
        """
    assert output(python(script)) == "['again']\n"


def test_who_stood_still_within_a_transaction_tries_again(
    postgres: Server, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has ended it, so that others can go on."""
    ours = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'shoal-limits'"

    def stand_still() -> None:
        with (
            psycopg.connect(postgres.url, autocommit=True) as watches,
            store._transaction("db") as t,
        ):
            eventually(lambda: not watches.execute(ours).fetchall())
            t.run("SELECT 1")

    store.upsert("db", 1)
    store.close()  # the next connection is one that must not stand still
    with (
        sessions(monkeypatch, "idle_in_transaction_session_timeout = '10ms'"),
        pytest.raises(ConcurrencyLimitError, match="idle-in-transaction") as caught,
    ):
        stand_still()
    assert store.may_pass(caught.value)
    assert got(ask(store, ["db"], "a")) == {"db"}


def test_a_database_that_can_only_be_read_is_tried_again(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such is a server that will take over from one that has gone, until it has."""
    store.upsert("db", 1)
    store.close()
    with sessions(monkeypatch, "default_transaction_read_only = on"):
        with pytest.raises(ConcurrencyLimitError, match="read-only") as caught:
            ask(store, ["db"], "a")
        assert store.may_pass(caught.value)
    assert got(ask(store, ["db"], "a")) == {"db"}


@contextmanager
def sessions(monkeypatch: pytest.MonkeyPatch, setting: str) -> Iterator[None]:
    """Has connections that are made meanwhile another setting."""
    with monkeypatch.context() as patch:
        patch.setattr(limits_postgres, "SESSION", f"{limits_postgres.SESSION}; SET {setting}")
        yield


def test_a_connection_that_the_server_ends_is_made_again(
    store: PostgresStore, postgres: Server
) -> None:
    store.upsert("db", 1)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shoal-limits'"
        )
    with pytest.raises(ConcurrencyLimitError) as caught:
        store.read("db")
    assert store.may_pass(caught.value)
    assert got(ask(store, ["db"], "a")) == {"db"}
    assert full(ask(store, ["db"], "b")) == {"db"}
