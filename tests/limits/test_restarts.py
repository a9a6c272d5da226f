"""A database of limits that is ended and started again while many processes use it (SPEC 10.2, 10.3, 10.4)."""

from __future__ import annotations

import itertools
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from shoal.limits.postgres import PostgresStore

from tests.limits.tools import assert_no_more_in_a_second, eventually, go, line, next_line, slots

if TYPE_CHECKING:
    from subprocess import Popen

    from tests.limits.server import Server
    from tests.limits.tools import Python

LIMITS = {"tag:two": 2, "tag:three": 3, "db": 3, "api": 2}
PER_SECOND = 20

#: What each driver does in a round; it notes when it had asked for what, had it, and gave it back.
DRIVES = """
    import sys, threading, time
    from contextlib import contextmanager
    from shoal import flow, tags, task
    from shoal.concurrency.sync import concurrency, rate_limit
    from shoal.task_runners import ThreadPoolTaskRunner

    notes, asked, ended = [], threading.Semaphore(0), threading.Event()

    def listen():
        for line in sys.stdin:
            (ended.set if line == "end\\n" else asked.release)()

    @contextmanager
    def noted(what, occupy=1):
        begin = time.monotonic()
        time.sleep(0.005)
        yield
        notes.append((what, begin, time.monotonic(), occupy))

    @task
    def tagged(number):
        with noted("tag:two"):
            if number % 2:
                with noted("tag:three"):
                    pass

    @task
    def blocks(number):
        occupy = 1 + number % 2
        with concurrency("db", occupy=occupy), noted("db", occupy):
            pass
        with concurrency(["db", "api"]), noted("db"), noted("api"):
            pass

    @task
    def rated():
        asked = time.monotonic()
        rate_limit("calls", per_second=int(sys.argv[1]))
        notes.append(("calls", asked, time.monotonic(), 1))

    @flow(task_runner=ThreadPoolTaskRunner(4))
    def main():
        with tags("two"):
            runs = [tagged.submit(0)]
            with tags("three"):
                runs += [tagged.submit(1), tagged.submit(3)]
        runs += [*blocks.map(range(3)), rated.submit()]
        for run in runs:
            run.result()

    threading.Thread(target=listen, daemon=True).start()
    while not ended.is_set():
        is_asked = asked.acquire(blocking=False)
        main()
        if is_asked:
            print("one more round", flush=True)
    print(*(" ".join(map(str, note)) for note in notes), sep="\\n")
"""


def each_does_a_round(drivers: list[Popen[str]]) -> None:
    for driver in drivers:
        go(driver)
    for driver in drivers:
        assert next_line(driver) == "one more round"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.may_leave("processes", reason="the server of the session is started anew")
def test_a_server_that_is_started_anew_under_load(
    postgres: Server, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit is exceeded as the callers see it, nobody is lost, and nothing is left."""
    monkeypatch.setenv("SHOAL_LOGGING_LEVEL", "ERROR")  # nobody reads what they say before they end
    # A crash forgets what was given back last: that ends with its lease.
    monkeypatch.setenv("SHOAL_LIMITS_LEASE_SECONDS", "5")
    with closing(PostgresStore(postgres.url)) as store:
        for name, limit in LIMITS.items():
            store.upsert(name, limit)
    drivers = [python(DRIVES, str(PER_SECOND)) for _ in range(8)]
    each_does_a_round(drivers)
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        postgres.stop(how)
        postgres.start()
        each_does_a_round(drivers)
    for driver in drivers:
        go(driver, "end")
    ends = [driver.communicate(timeout=100) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * 8, ends
    notes = [line.split() for out, _ in ends for line in out.splitlines()]
    for name, limit in LIMITS.items():
        held = [(float(b), float(e), int(occupy)) for what, b, e, occupy in notes if what == name]
        changes = sorted([(e, -n) for _, e, n in held] + [(b, n) for b, _, n in held])
        assert max(itertools.accumulate(change for _, change in changes)) <= limit, name
    calls = [(float(asked), float(begun)) for what, asked, begun, _ in notes if what == "calls"]
    assert_no_more_in_a_second(PER_SECOND, calls)
    with closing(PostgresStore(postgres.url)) as store:
        for name in LIMITS:
            eventually(lambda name=name: (slots(store, name), line(store, name)) == ([], []))
