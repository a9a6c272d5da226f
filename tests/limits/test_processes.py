"""Processes that share limits (SPEC 10.2, 10.4)."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pytest
from shoal.limits import ConcurrencyLimits
from shoal.limits.opening import open_store
from shoal.limits.slots import SlotKeeper
from shoal.limits.sqlite import SqliteStore

from tests.limits.killed import kill_holders
from tests.limits.tools import (
    ask,
    assert_no_more_in_a_second,
    eventually,
    go,
    got,
    line,
    next_line,
    output,
    slots,
    wants,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path
    from subprocess import Popen

    from shoal.limits.store import LimitStore

    from tests.limits.tools import Python


@pytest.fixture
def store(kind: str) -> Iterator[LimitStore]:
    """Where limits are kept, as this process looks there."""
    with closing(open_store()) as store:
        yield store


@pytest.fixture
def in_file(file: Path) -> Iterator[SqliteStore]:
    """The same, for what has nothing to do with the kind of store."""
    with closing(SqliteStore(file)) as store:
        yield store


# ---------------------------------------------------------------------- processes

HOLDS = """
    import sys
    from shoal.limits.settings import lease_seconds
    from shoal.limits.slots import KEEPER
    from tests.limits.tools import acquire, wants

    for id in sys.argv[1:]:
        acquire(KEEPER, wants(["db"], id, lease_seconds()))
        print(id, flush=True)
    sys.stdin.read()
"""

CONTENDS = """
    import os, random, sys, threading, time
    from shoal.limits.slots import KEEPER
    from tests.limits.tools import acquire, wants

    print("ready", flush=True)
    sys.stdin.readline()
    held = []

    def work(name):
        for number in range(8):
            run_id = f"{os.getpid()}-{name}-{number}"
            tags = frozenset(random.choice((["db"], ["api"], ["db", "api"])))
            acquire(KEEPER, wants(tags, run_id))
            begin = time.monotonic()
            time.sleep(0.003)
            held.append((begin, time.monotonic(), *tags))
            KEEPER.release(run_id)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for line in held: print(*line)
"""


@pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)
def test_processes_share_a_limit(store: LimitStore, python: Python) -> None:
    """Never do more hold slots than there are, as they see it themselves."""
    limits = {"db": 2, "api": 3}
    for tag, limit in limits.items():
        store.upsert(tag, limit)
    processes = begin_together(python, CONTENDS, number=4)
    lines = [line.split() for process in processes for line in output(process).splitlines()]
    assert len(lines) == 4 * 3 * 8
    for tag, limit in limits.items():
        moments = [
            moment
            for begin, end, *tags in lines
            if tag in tags
            for moment in ((float(begin), 1), (float(end), -1))
        ]
        assert max(itertools.accumulate(change for _, change in sorted(moments))) <= limit
    assert slots(store, "db") == slots(store, "api") == []


@pytest.mark.slow
def test_processes_fill_a_limit(store: LimitStore, python: Python) -> None:
    """All its slots can be held at once, and one more waits for one of them."""
    store.upsert("db", 3)
    one = python(HOLDS, "a", "b")
    assert [next_line(one), next_line(one)] == ["a", "b"]
    other = python(HOLDS, "c", "d")
    assert next_line(other) == "c"
    eventually(lambda: line(store, "db") == ["d"])
    assert slots(store, "db") == ["a", "b", "c"]
    output(one)  # which closes its stdin
    assert next_line(other) == "d"
    assert (slots(store, "db"), line(store, "db")) == (["c", "d"], [])


def test_processes_that_begin_together_make_one_file(file: Path, python: Python) -> None:
    script = """
        import sys
        from shoal.limits import ConcurrencyLimits
        limits = ConcurrencyLimits()
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            print(limits.create_concurrency_limit("shared", 5))
            limits.create_concurrency_limit(f"{sys.argv[1]}-{number}", number)
        """
    processes = begin_together(python, script, number=5)
    assert len({line for process in processes for line in output(process).splitlines()}) == 1
    with closing(SqliteStore(file)) as store:
        assert len(store.read_all(None, 0)) == 51


@pytest.mark.slow
def test_a_killed_process_loses_its_slots_with_its_lease(
    store: LimitStore, python: Python, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC 10.2."""
    store.upsert("db", 1)
    monkeypatch.setenv("SHOAL_LIMITS_LEASE_SECONDS", "3")
    holder = python(HOLDS, "theirs")
    assert next_line(holder) == "theirs"
    time.sleep(4)  # it lives, so its lease is renewed
    keeper, granted = opened.enter_context(closing(SlotKeeper())), threading.Event()
    keeper.request(wants(["db"], "ours"), lambda _: granted.set())
    assert not granted.wait(0.2)
    assert slots(store, "db") == ["theirs"]

    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert granted.wait(20), "its lease is one of 3 s, and not of 30 s as by default"
    assert slots(store, "db") == ["ours"]


def test_a_process_that_ends_gives_its_slots_back(store: LimitStore, python: Python) -> None:
    store.upsert("db", 1)
    holder = python(HOLDS, "theirs")
    assert output(holder) == "theirs\n"  # which closes its stdin
    assert slots(store, "db") == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_no_slots_of_its_parent(in_file: SqliteStore, python: Python) -> None:
    script = """
        import os, warnings
        from pathlib import Path
        from shoal.limits.slots import KEEPER
        from shoal.limits.sqlite import SqliteStore
        from tests.limits.tools import acquire, wants
        warnings.simplefilter("ignore")

        def slots():
            store = SqliteStore()
            try:
                return [lease.holder.id for lease in store.read("db").holders]
            finally:
                store.close()

        acquire(KEEPER, wants(["db"], "parent"))
        for _ in range(3):
            child = os.fork()
            if child == 0:
                files = Path("/proc/self/fd").glob("*")
                assert not [file for file in files if "limits.db" in str(file.resolve())]
                KEEPER.release("parent")  # not its to release
                acquire(KEEPER, wants(["db"], "child"))
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
        acquire(KEEPER, wants(["db"], "again"))
        print(slots())
        """
    in_file.upsert("db", 2)
    assert output(python(script)) == "['again']\n"


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_child_of_multiprocessing_gives_its_slots_back(
    in_file: SqliteStore, python: Python, method: str
) -> None:
    """It ends without what `atexit` has."""
    script = """
        import multiprocessing, sys
        from tests.limits.tools import hold_and_end

        child = multiprocessing.get_context(sys.argv[1]).Process(target=hold_and_end)
        child.start()
        child.join()
        print(child.exitcode)
    """
    in_file.upsert("db", 1)
    assert output(python(script, method)) == "0\n"
    assert slots(in_file, "db") == []


@pytest.mark.usefixtures("file")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_waits_for_what_its_parent_holds(python: Python) -> None:
    """Its parent is not itself: the slot may be free soon."""
    script = """
        import os, warnings
        from shoal.concurrency import concurrency
        warnings.simplefilter("ignore")

        with concurrency("db"):
            child = os.fork()
            if child == 0:
                try:
                    with concurrency("db", timeout_seconds=0):
                        pass
                except BaseException as error:
                    print(type(error).__name__, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """
    ConcurrencyLimits().upsert_global_concurrency_limit_by_name("db", 1)
    assert output(python(script)) == "AcquireConcurrencySlotTimeoutError\n"


#: Seconds after which a fight has not ended because it hangs, however busy the machine.
FIGHT_ENDS = 300

FIGHTS = """
    import sys, time
    from shoal.limits.slots import KEEPER
    from tests.limits.tools import acquire, wants

    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[2])):
        id = f"{sys.argv[1]}-{number}"
        acquire(KEEPER, wants(["one"], id))
        begin = time.monotonic()
        print(begin, time.monotonic(), flush=True)
        KEEPER.release(id)
"""


def begin_together(python: Python, script: str, *arguments: str, number: int) -> list[Popen[str]]:
    """Some processes that do the same at the same time."""
    processes = [python(script, str(place), *arguments) for place in range(number)]
    for process in processes:
        assert next_line(process) == "ready"
    for process in processes:
        go(process)
    return processes


class Turn(NamedTuple):
    """When a process had the slot: not before, and not after."""

    begin: float
    end: float
    process: int


def fight(store: LimitStore, python: Python, number: int, turns: int) -> list[Turn]:
    """Processes, each of which takes the one slot there is again and again, from when all of them stand in line. Never has
    more than one of them the slot, and all are served to the end.
    """
    store.upsert("one", 1)
    assert got(ask(store, ["one"], "ours")) == {"one"}
    processes = begin_together(python, FIGHTS, str(turns), number=number)
    eventually(lambda: len(line(store, "one")) == number, 30)
    waiting = line(store, "one")
    store.release(["ours"])
    held = sorted(
        Turn(float(begin), float(end), place)
        for place, process in enumerate(processes)
        for begin, end in map(str.split, output(process, FIGHT_ENDS).splitlines())
    )
    assert len(held) == number * turns
    assert all(one.end <= next.begin for one, next in itertools.pairwise(held))
    assert [f"{turn.process}-0" for turn in held[:number]] == waiting, "first come, first served"
    assert (slots(store, "one"), line(store, "one")) == ([], [])
    return held


@pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)
def test_processes_that_want_one_slot_are_served_in_turn(store: LimitStore, python: Python) -> None:
    """SPEC 10.2."""
    fight(store, python, number=3, turns=20)


@pytest.mark.slow
@pytest.mark.timeout(2 * FIGHT_ENDS)
def test_eight_processes_fight_for_one_slot_two_thousand_times(
    store: LimitStore, python: Python
) -> None:
    """SPEC 10.2. Until the first of them has had all its turns, none has had more than three times as many as another."""
    turns = 250
    held = fight(store, python, number=8, turns=turns)
    had: Counter[int] = Counter(dict.fromkeys(range(8), 0))
    for turn in held:
        had[turn.process] += 1
        if had[turn.process] == turns:
            break
    assert turns <= 3 * min(had.values()), had


@pytest.mark.slow
@pytest.mark.usefixtures("kind")
def test_slots_of_drivers_that_were_killed_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC 10.2. None is lost, and none is there twice."""
    monkeypatch.setenv("SHOAL_LIMITS_LEASE_SECONDS", "5")
    found = kill_holders(12)
    assert found.is_right(), found


RATED = """
    import sys, time
    from shoal.limits.slots import KEEPER
    from shoal.limits.store import Rate
    from tests.limits.tools import acquire, wants

    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + 5
    number = 0
    while (left := end - (asked := time.monotonic())) > 0:
        try:
            request = wants(["api"], f"{sys.argv[1]}-{number}", None, rate=Rate(100, 1.0))
            acquire(KEEPER, request, left)
        except TimeoutError:
            break
        print(asked, time.monotonic())
        number += 1
"""


@pytest.mark.slow
@pytest.mark.usefixtures("kind")
def test_processes_share_a_rate(python: Python) -> None:
    """SPEC 10.3. No more than it says, and each has some; how much of it is used, `test_rates` says without a machine that
    may be busy.
    """
    lines = [output(process).splitlines() for process in begin_together(python, RATED, number=4)]
    assert all(lines)
    calls = [tuple(map(float, line.split())) for part in lines for line in part]
    assert_no_more_in_a_second(100, [(asked, begun) for asked, begun in calls])
