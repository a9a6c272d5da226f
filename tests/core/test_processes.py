"""The process pool: stopping, nesting, what surrounds runs, and large values, where the shared suite is too polite."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import logging
import os
import re
import time
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil
import pytest
from shoal import flow, get_run_logger, tags, task, unmapped
from shoal.context import SCOPE, current_scope
from shoal.exceptions import NestingTooDeep, SerializationError, WaitCycle
from shoal.futures import as_completed, wait
from shoal.runtime import flow_run, task_run
from shoal.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from shoal.task_runners.processes.spawning import default_method
from shoal.task_runners.processes.wire import DriverChannel, Inbox
from shoal.testing.tools import PATIENCE, Signals, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shoal.futures import TaskFuture

pytestmark = pytest.mark.skipif(default_method() != "forkserver", reason="there is no forking here")


@pytest.fixture
def signals(tmp_path: Path) -> Signals:
    return Signals(tmp_path)


def pool(workers: int = 1, **options: Any) -> ProcessPoolTaskRunner:
    return ProcessPoolTaskRunner(workers, **options)


def alive() -> list[Any]:
    """The workers, as the driver knows them."""
    return list(current_scope("").dispatcher.backend.pool.alive)


@task
def inc(x: int) -> int:
    return x + 1


@task
def pid(x: Any = None) -> int:
    return os.getpid()


@task
def counted(signals: Signals, x: int) -> int:
    signals.append("runs", x)
    return x


@task
def hold(signals: Signals) -> None:
    signals.wait("go")


class Unpicklable:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


@task
def slow(x: int) -> int:
    time.sleep(0.05)
    return x


# ------------------------------------------------------------------------ stopping

#: What returns to Python late or never, and whether it holds the interpreter's lock.
IN_C: dict[str, Callable[[], object]] = {
    "asleep": lambda: time.sleep(60),
    "summing": lambda: sum(range(10**11)),
    "matching": lambda: re.match(r"(a+)+$", "a" * 40 + "b"),
}


# SPEC 7.3
@pytest.mark.slow
@pytest.mark.parametrize("what", IN_C)
def test_a_time_limit_holds_in_c_code(signals: Signals, what: str) -> None:
    work = IN_C[what]

    @task(timeout_seconds=1)
    def stuck() -> None:
        signals.set("began")
        work()

    @flow(task_runner=pool())
    def main() -> None:
        run = stuck.submit()
        others = [counted.submit(signals, x) for x in range(20)]
        signals.wait("began")
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            run.result()
        assert run.state.name == "TimedOut"
        assert [other.result() for other in others] == list(range(20))
        assert time.monotonic() - before < 10, "2 s where the machine is not busy"

    main()
    assert sorted(map(int, signals.lines("runs"))) == list(range(20)), "each once"


# SPEC 7.3
@pytest.mark.slow
def test_attempts_that_are_stopped_by_force_do_not_overlap(signals: Signals) -> None:
    @task(timeout_seconds=1, retries=1)
    def stuck() -> str:
        with signals.inside("room") as inside:
            signals.append("inside", inside)
            if task_run.run_count == 1:
                sum(range(10**11))
        return "done"

    @task(timeout_seconds=1, retries=1)
    def stays(x: int) -> None:
        signals.append("attempts", os.getpid())
        sum(range(10**11))

    @flow(task_runner=pool(2))
    def main() -> None:
        first, second = stuck.submit(), stays.submit(1)
        assert first.result(timeout=PATIENCE) == "done"
        with pytest.raises(TimeoutError, match="exceeded"):
            second.result(timeout=PATIENCE)
        assert second.state.name == "TimedOut"

    main()
    attempts = signals.lines("attempts")
    assert len(attempts) == 2
    assert len(set(attempts)) == 2, "each attempt's worker was killed"


# SPEC 7.3
def test_a_time_limit_finds_a_run_that_was_handed_back(signals: Signals) -> None:
    """The worker that handed it back has not done with that batch yet, and is not where the run is."""

    @task
    def busy(name: str) -> None:
        signals.set(f"{name} is busy")
        signals.wait(f"{name} may end")

    @task(timeout_seconds=0.2, retries=1)
    def limited() -> str:
        if task_run.run_count == 1:
            signals.wait("never")
        return "done"

    @flow(task_runner=pool(2))
    def main() -> None:
        busy.submit("first")
        signals.wait("first is busy")
        busy.submit("second")
        signals.wait("second is busy")
        run = limited.submit()  # goes to the first worker
        signals.set("second may end")  # which hands it back to the one that is idle now
        assert run.result(timeout=PATIENCE / 2) == "done"
        signals.set("first may end")

    main()


def test_cleaning_up_when_interrupted(signals: Signals) -> None:
    @task
    def tidy(how: str) -> None:
        try:
            signals.set(f"{how} began")
            signals.wait("never")
        finally:
            signals.set(f"{how} cleaned up in {os.getpid()}")

    @task(timeout_seconds=1)
    def timed() -> None:
        tidy.fn("timeout")

    @flow(task_runner=pool())
    def main() -> None:
        worker = pid.submit().result()
        run = tidy.submit("cancel")
        signals.wait("cancel began")
        assert run.cancel()
        assert run.state.is_cancelled()
        signals.wait(f"cancel cleaned up in {worker}")
        with pytest.raises(TimeoutError):
            timed.submit().result()
        signals.wait(f"timeout cleaned up in {worker}")
        assert pid.submit().result() == worker, "nobody was killed"

    main()


# SPEC 7.4
def test_cancelling_what_is_about_to_begin() -> None:
    """Wherever a cancel hits a run, that run is cancelled, and the worker lives."""

    @task
    def spins() -> None:
        while True:
            time.sleep(0)

    @flow(task_runner=pool())
    def main() -> None:
        worker = pid.submit().result()
        for n in range(150):
            run = spins.submit()
            if n % 3:
                time.sleep(n / 300_000)
            assert run.cancel()
            assert inc.submit(n).result(timeout=PATIENCE) == n + 1
        assert pid.submit().result() == worker

    main()


@task(log_prints=True)
def prints(signals: Signals, name: str) -> None:
    while True:
        print("x" * 2000)
        signals.set(name)


@task
def submits(signals: Signals, name: str) -> None:
    while True:
        inc.submit(1)
        signals.set(name)


@task
def asks(signals: Signals, name: str) -> None:
    run = inc.submit(1)
    while True:
        assert run.state
        run.cancel()
        signals.set(name)


@task
def returns_large(signals: Signals, name: str) -> Any:
    while True:
        inc.map(range(10))
        signals.set(name)


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [prints, submits, asks, returns_large], ids=lambda t: t.name)
def test_cancelling_a_run_that_talks_to_the_driver(noisy: Any, signals: Signals) -> None:
    """An interrupt in the middle of a message would garble all that come after."""

    @flow(task_runner=pool())
    def main() -> None:
        worker = pid.submit().result()
        for n in range(15):
            run = noisy.submit(signals, f"began {n}")
            signals.wait(f"began {n}")
            time.sleep(n / 5000)
            assert run.cancel()
            assert pid.submit().result(timeout=PATIENCE) == worker
        current_scope("").dispatcher.cancel_all()

    logger = logging.getLogger("shoal")
    propagate, logger.propagate = logger.propagate, False
    try:
        main()
    finally:
        logger.propagate = propagate


# SPEC 7.4
def test_cancelling_a_run_that_waits_spares_what_runs_in_its_place(signals: Signals) -> None:
    @task
    def leaf(x: int) -> int:
        time.sleep(0.05)
        return x

    @task
    def middle() -> int:
        signals.set("middle began")
        time.sleep(0.6)  # longer than what an interrupted run is given
        return leaf.submit(1).result() + sum(leaf.map([2, 3]).result())

    @task
    def top() -> int:
        run = middle.submit()
        try:
            return run.result()
        finally:
            signals.set("top is over")

    @task
    def fetches(name: str) -> int:
        return 1

    @flow(task_runner=pool())
    def main() -> None:
        worker = pid.submit().result()
        run = top.submit()
        signals.wait("middle began")
        assert run.cancel()
        signals.wait("top is over")
        assert pid.submit().result() == worker

    states = States()
    with states:
        main()
    assert states.of("middle") == ["Completed()"]
    assert states.of("leaf") == ["Completed()"] * 3
    assert states.of("top") == ["Cancelled()"]


class States(logging.Handler):
    """Takes down how runs end, by the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Finished in state "):
            name = getattr(record, "run_name", "").rpartition("-")[0]
            self.lines.append((name, record.getMessage().removeprefix("Finished in state ")))

    def of(self, name: str) -> list[str]:
        return [state for run, state in self.lines if run == name]

    def __enter__(self) -> Self:
        self.logger = logging.getLogger("shoal.task_runs")
        self.level = self.logger.level
        self.logger.setLevel(logging.DEBUG)
        self.logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
        self.logger.removeHandler(self)


# SPEC 7.4
def test_cancel_all_of_everything_at_once(signals: Signals) -> None:
    @task
    def parent(x: int) -> int:
        signals.set(f"parent {x}")
        return sum(slow.map(range(100)).result())

    @task
    async def sleeps() -> None:
        signals.set("asleep")
        await asyncio.sleep(60)

    @flow(task_runner=pool(2))
    def main() -> None:
        runs: list[TaskFuture[Any]] = [parent.submit(1), parent.submit(2), sleeps.submit()]
        runs += [counted.submit(signals, x) for x in range(50)]
        runs.extend(counted.map([signals] * 50, range(50)))
        runs.append(inc.submit(runs[0]))
        for name in ("parent 1", "parent 2", "asleep"):
            signals.wait(name)
        scope = SCOPE.get()
        assert scope is not None
        scope.dispatcher.cancel_all()
        assert all(run.done() for run in runs)
        assert not any(run.state.is_crashed() for run in runs)
        assert runs[0].state.is_cancelled()
        assert inc.submit(1).result(timeout=PATIENCE) == 2, "it takes runs as before"

    main()


# ------------------------------------------------------------------------ nesting


# SPEC 9.1
def test_fifty_levels_on_one_worker() -> None:
    @task
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down.submit(n - 1).result()

    @task
    async def down_async(n: int) -> int:
        return 0 if n == 0 else 1 + await down_async.submit(n - 1)

    @task
    async def mixed(n: int) -> int:
        if n == 0:
            return 0
        sync = await inc.submit(0)
        return sync + (await mixed.submit(n - 1) if n % 2 else await asyncio.to_thread(int, n - 1))

    @flow(task_runner=pool())
    def main() -> None:
        before = time.monotonic()
        assert down.submit(50).result(timeout=PATIENCE) == 50
        assert down_async.submit(200).result(timeout=PATIENCE) == 200, "more than are sent at once"
        assert mixed.submit(20).result(timeout=PATIENCE) == 20
        assert time.monotonic() - before < 5
        assert len(alive()) == 1

    main()


# SPEC 9.1
def test_recursion_without_end() -> None:
    @task
    def down(n: int) -> int:
        return down.submit(n + 1).result()

    @flow(task_runner=pool())
    def main() -> None:
        assert isinstance(down.submit(0).exception(timeout=PATIENCE), NestingTooDeep)
        assert inc.submit(1).result() == 2

    main()


def test_coroutines_that_await_maps_of_coroutines() -> None:
    @task
    async def leaf(x: int) -> int:
        return await inc.submit(x)

    @task
    async def middle(x: int) -> int:
        return sum([await run for run in leaf.map(range(x))])

    @task
    def top() -> list[int]:
        return middle.map(range(6)).result()

    @flow(task_runner=pool())
    def main() -> None:
        expected = [sum(range(1, x + 1)) for x in range(6)]
        assert top.submit().result(timeout=PATIENCE) == expected
        assert middle.map(range(6)).result(timeout=PATIENCE) == expected

    main()


def test_coroutines_that_end_out_of_order() -> None:
    @task
    async def naps(x: int, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return x

    @flow(task_runner=pool())
    def main() -> None:
        for _ in range(5):
            # The first, last and third end together: no range, though as long as one from 0 to 2.
            runs = naps.map(range(6), [0.01, 0.1, 0.0102, 0.1, 0.1, 0.0101])
            assert runs.result() == list(range(6))

    main()


# SPEC 9.1
def test_a_nested_map_runs_on_both_workers(signals: Signals) -> None:
    @task
    def meets(x: int) -> int:
        signals.meet("both", 2)
        return os.getpid()

    @task
    def parent() -> list[int]:
        return meets.map([1, 2]).result()

    @flow(task_runner=pool(2))
    def main() -> None:
        assert len(set(parent.submit().result())) == 2

    main()


def test_single_elements_of_a_nested_map() -> None:
    @task
    def element(x: int) -> int:
        if x == 2:
            raise ValueError(x)
        return x

    @task
    def parent() -> list[Any]:
        runs = element.map(range(5))
        found = [runs[4].result(), runs[0].result(), repr(runs[2].exception())]
        done = next(iter(as_completed([runs[3]])))
        return [*found, done.result(), len(wait([runs[1]]).done)]

    @flow(task_runner=pool())
    def main() -> None:
        assert parent.submit().result(timeout=PATIENCE) == [4, 0, "ValueError(2)", 3, 1]

    main()


# SPEC 9.1
def test_timed_waits_inside_a_run() -> None:
    @task
    def parent() -> list[int]:
        runs = slow.map(range(4))
        first = slow.submit(9).result(timeout=PATIENCE)
        wait(list(runs), timeout=PATIENCE)
        return [first, *runs.result(timeout=PATIENCE)]

    @task
    def impatient() -> str:
        run = slow.submit(1)
        try:
            run.result(timeout=0.001)
        except TimeoutError:
            return f"{run.result()} in the end"
        return "at once"

    @task
    def deep(n: int) -> int:
        return 0 if n == 0 else 1 + deep.submit(n - 1).result(timeout=PATIENCE)

    @flow(task_runner=pool())
    def main() -> None:
        assert parent.submit().result(timeout=PATIENCE) == [9, 0, 1, 2, 3]
        assert impatient.submit().result(timeout=PATIENCE) == "1 in the end"
        assert deep.submit(4).result(timeout=PATIENCE) == 4
        eventually(lambda: len(alive()) == 1, "the spare workers are gone")

    main()


# SPEC 9.1
def test_a_run_that_waits_for_itself() -> None:
    @task
    def child() -> Any:
        return builtins.run_of_child.result()  # type: ignore[attr-defined]

    @task
    def parent() -> bool:
        run = builtins.run_of_child = child.submit()  # type: ignore[attr-defined]
        try:
            return bool(run.result())
        except WaitCycle as error:
            return error.run_name == run.name

    @flow(task_runner=pool())
    def main() -> None:
        assert parent.submit().result(timeout=PATIENCE)
        assert inc.submit(1).result() == 2

    main()


def test_returned_futures_of_children() -> None:
    @task
    def parent(x: int) -> Any:
        return inc.submit(x)

    @task
    def grand(x: int) -> Any:
        return {"runs": [parent.submit(x), *inc.map([x, x])]}

    @flow(task_runner=pool(2))
    def main() -> None:
        assert parent.map(range(200)).result(timeout=PATIENCE) == list(range(1, 201))
        runs = [grand.submit(x) for x in range(30)]
        assert [run.result(timeout=PATIENCE) for run in runs] == [
            {"runs": [x + 1] * 3} for x in range(30)
        ]

    main()


# SPEC 5.8, 9.1
@pytest.mark.slow
def test_flows_inside_runs_on_one_worker() -> None:
    @task
    def on_processes() -> int:
        @flow(task_runner=pool())
        def inner() -> int:
            return inc.submit(4).result() + sum(inc.map(range(5)).result())

        return inner()

    @task
    def hands_over(x: int) -> tuple[int, int, int]:
        run = slow.submit(x)

        @flow(task_runner=ThreadPoolTaskRunner(2))
        def inner() -> tuple[int, int, int]:
            first = inc.submit(run)
            return first.result(), inc.submit(first).result(), run.result()

        return inner()

    @task
    def waits_inside(x: int) -> list[int]:
        runs = slow.map([x] * 3)

        @task
        def waits(n: int) -> int:
            return runs[n].result()

        @flow(task_runner=ThreadPoolTaskRunner(2))
        def inner() -> list[int]:
            return waits.map(range(3)).result() + runs.result()

        return inner()

    @task
    def takes_back() -> list[Any]:
        with ThreadPoolTaskRunner(2) as threads:
            run = threads.submit(slow, {"x": 5})
            outer, cancelled = inc.submit(run), inc.submit(run)
            found = [outer.state.name, cancelled.cancel(), cancelled.state.name]
            return [*found, outer.result(), inc.map([run, run]).result()]

    @flow(task_runner=pool())
    def main() -> None:
        assert on_processes.submit().result(timeout=PATIENCE) == 20
        assert hands_over.submit(1).result(timeout=PATIENCE) == (2, 3, 1)
        assert waits_inside.submit(2).result(timeout=PATIENCE) == [2] * 6
        assert takes_back.submit().result(timeout=PATIENCE) == [
            "Pending",
            True,
            "Cancelled",
            6,
            [6, 6],
        ]

    main()


# ------------------------------------------------------------------------ what surrounds a run


# SPEC 8.4, 8.5
def test_what_a_nested_run_knows(signals: Signals, caplog: pytest.LogCaptureFixture) -> None:
    @task(tags={"own"}, log_prints=True)
    def child(x: int) -> tuple[Any, ...]:
        print("child prints", x)
        return task_run.name, sorted(task_run.tags), flow_run.name, task_run.run_count

    @task
    def parent() -> Any:
        get_run_logger().info("before")
        with tags("inner"):
            first = child.submit(1).result()
            second = child.map([2, 3]).result()
        get_run_logger().info("after")
        return first, second

    @flow(task_runner=pool(), flow_run_name="the-flow")
    def main() -> None:
        with tags("outer"):
            run = parent.submit()
        run.add_done_callback(lambda _: None)
        first, second = run.result()
        for name, run_tags, flow_name, count in [first, *second]:
            assert name.startswith("child-")
            assert run_tags == ["inner", "outer", "own"]
            assert flow_name == "the-flow"
            assert count == 1
        lines = [r.getMessage() for r in caplog.records if r.name == "shoal.task_runs"]
        told = [line for line in lines if not line.startswith("Finished")]
        assert [*told[:2], *sorted(told[2:4]), *told[4:]] == [
            "before",
            *[f"child prints {x}" for x in (1, 2, 3)],
            "after",
        ]

    with caplog.at_level(logging.INFO, logger="shoal"):
        main()


def test_records_that_do_not_come_home(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    @task
    def logs() -> int:
        get_run_logger().info("odd", extra={"odd": Odd()})
        get_run_logger().info("plain")
        return 1

    @flow(task_runner=pool())
    def main() -> None:
        worker = pid.submit().result()
        assert logs.submit().result(timeout=PATIENCE) == 1
        assert pid.submit().result() == worker

    with caplog.at_level(logging.INFO, logger="shoal"):
        main()
    assert "plain" in [record.getMessage() for record in caplog.records]


# ------------------------------------------------------------------------ large values

MEGABYTE = 1 << 20


@pytest.fixture
def through_sockets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each message to and from workers."""
    sizes: list[int] = []
    send, messages = DriverChannel.send, Inbox.messages

    def counting_send(self: Any, kind: int, body: bytes = b"", fds: Any = ()) -> None:
        sizes.append(len(body))
        send(self, kind, body, fds)

    def counting_messages(self: Any) -> Any:
        for message in messages(self):
            sizes.append(len(message.body))
            yield message

    monkeypatch.setattr(DriverChannel, "send", counting_send)
    monkeypatch.setattr(Inbox, "messages", counting_messages)
    return sizes


@task
def make(x: int, size: int = MEGABYTE) -> Any:
    return np.full(size // 8, x)


@task
def first_of(values: Any) -> tuple[int, bool]:
    return int(values[0]), bool(values.flags.writeable)


# SPEC 5.7
def test_large_values_do_not_pass_through_the_driver(through_sockets: list[int]) -> None:
    @task
    def nested(values: Any) -> tuple[int, bool]:
        more = make.submit(int(values[0]) + 1)
        return first_of.submit(more).result()

    @flow(task_runner=pool(2))
    def main() -> None:
        runs = [make.submit(x) for x in range(4)]
        assert [first_of.submit(run).result() for run in runs] == [(x, False) for x in range(4)]
        assert first_of.map(runs).result() == [(x, False) for x in range(4)]
        assert nested.submit(runs[1]).result() == (2, False)

    main()
    assert through_sockets
    assert sum(through_sockets) < MEGABYTE / 8


# DESIGN: chains travel together
def test_links_of_a_chain_share_nothing(signals: Signals) -> None:
    """What one run of a batch hands to the next is as if it had come from elsewhere."""

    @task
    def gives() -> list[int]:
        builtins.given = [1]  # type: ignore[attr-defined]
        return builtins.given  # type: ignore[attr-defined, no-any-return]

    @task
    def adds(values: list[int]) -> list[int]:
        values.append(len(values) + 1)
        return values

    @task
    def look() -> list[int]:
        return builtins.given  # type: ignore[attr-defined, no-any-return]

    @task
    def bad() -> Any:
        return signals, Unpicklable()

    @flow(task_runner=pool())
    def main() -> None:
        held = hold.submit(signals)
        first = gives.submit()
        third = adds.submit(adds.submit(first))
        large = first_of.submit(make.submit(5))
        failed = bad.submit()
        after = counted.submit(signals, failed)
        signals.set("go")
        held.result()
        assert (first.result(), third.result(), look.submit().result()) == ([1], [1, 2, 3], [1])
        assert large.result() == (5, False)
        assert failed.state.is_failed()
        after.wait()
        assert after.state.name == "NotReady"

    main()
    assert signals.lines("runs") == [], "it never began"


# SPEC 5.7
def test_a_large_argument_of_a_map_goes_once_to_each_worker(through_sockets: list[int]) -> None:
    big = np.arange(MEGABYTE // 8)

    @task
    def reads(values: Any, x: int) -> int:
        return int(values[x])

    @flow(task_runner=pool(2))
    def main() -> None:
        assert reads.map(unmapped(big), range(500)).result() == list(range(500))
        assert reads.submit(big, 3).result() == 3
        descriptors = [
            len([fd for fd in os.listdir(f"/proc/{m.process.pid}/fd") if is_segment(m, fd)])
            for m in alive()
        ]
        assert max(descriptors) < 50, "not one for each run"

    main()
    assert sum(through_sockets) < MEGABYTE / 4


def is_segment(member: Any, fd: str) -> bool:
    try:
        return "memfd:shoal" in os.readlink(f"/proc/{member.process.pid}/fd/{fd}")
    except OSError:
        return False


def segments_here() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "memfd:shoal" in os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    return found


# SPEC 4.6
@pytest.mark.slow
def test_values_are_freed_with_their_futures() -> None:
    @task
    def nests(x: int) -> int:
        return sum(int(run.result()[0]) for run in [make.submit(x), *make.map([x, x])])

    @flow(task_runner=pool(2))
    def main() -> None:
        for _ in range(3):
            runs = [make.submit(x) for x in range(10)]
            total = sum(int(run.result()[0]) for run in runs)
            assert total == sum(first_of.submit(run).result()[0] for run in runs)
            assert nests.map(range(10)).result() == [3 * x for x in range(10)]
        assert segments_here() >= 10
        del runs
        inc.submit(1).result()
        records = len(alive())  # mapped, each of which takes a descriptor before Python 3.13
        eventually(
            lambda: gc.collect() >= 0 and segments_here() <= records, "the driver has closed them"
        )

        def open_segments() -> int:
            return sum(
                is_segment(m, fd) for m in alive() for fd in os.listdir(f"/proc/{m.process.pid}/fd")
            )

        # What is left are recycled ones, at most what was alive at once, and a record's mapping each.
        eventually(lambda: open_segments() <= 45, f"workers closed theirs: {open_segments()}")
        memory = sum(psutil.Process(m.process.pid).memory_info().shared for m in alive())
        assert memory < 400 * MEGABYTE

    main()
    gc.collect()
    assert segments_here() == 0


@pytest.mark.slow
def test_a_value_that_is_kept_is_not_overwritten() -> None:
    """Whoever keeps a view of a freed value, its memory is not used again."""

    @task
    def keeps_argument(values: Any) -> int:
        builtins.kept_argument = values  # type: ignore[attr-defined]
        return int(values[0])

    @task
    def keeps_child() -> int:
        builtins.kept_child = make.submit(2).result()  # type: ignore[attr-defined]
        for x in range(5):
            inc.submit(x).result()  # which tells the driver that the child's future is gone
        return int(builtins.kept_child[0])  # type: ignore[attr-defined]

    @task
    def keeps_own() -> Any:
        builtins.kept_own = np.full(MEGABYTE // 8, 3)  # type: ignore[attr-defined]
        return builtins.kept_own  # type: ignore[attr-defined]

    @task
    def look() -> list[int]:
        kept: Any = builtins
        return [
            int(values.min()) + int(values.max())
            for values in (kept.kept_argument, kept.kept_child, kept.kept_own)
        ]

    @flow(task_runner=pool())
    def main() -> None:
        assert keeps_argument.submit(make.submit(1)).result() == 1
        assert keeps_child.submit().result() == 2
        assert int(keeps_own.submit().result()[0]) == 3
        mine = make.submit(4).result()
        for x in range(10, 16):
            gc.collect()
            assert int(make.submit(x).result()[0]) == x
            assert look.submit().result() == [2, 4, 6]
        assert int(mine.min()) == int(mine.max()) == 4

    main()


def test_values_in_exceptions_and_states() -> None:
    @task
    def fails(x: int) -> None:
        error = ValueError(x)
        error.values = np.full(MEGABYTE // 8, x)  # type: ignore[attr-defined]
        raise error

    @flow(task_runner=pool())
    def main() -> None:
        error: Any = fails.submit(3).exception(timeout=PATIENCE)
        assert not isinstance(error, SerializationError)
        assert int(error.values.max()) == 3

    main()


# ---------------------------------------------------------------------- what comes together


def test_a_link_of_a_chain_with_a_large_value_that_its_worker_does_not_have() -> None:  # SPEC 5.7
    @task
    def large() -> bytes:
        return bytes(200_000)

    @task
    def first(x: int) -> int:
        return x

    @task
    def second(x: int, data: bytes) -> tuple[int, int]:
        return x, len(data)

    @flow(task_runner=pool(2))
    def main() -> None:
        value = large.submit()
        value.wait()
        followers = [second.submit(first.submit(number), value) for number in range(8)]
        assert [run.result(PATIENCE) for run in followers] == [(n, 200_000) for n in range(8)]

    main()


@pytest.mark.slow
def test_a_repeat_after_a_crash_has_its_whole_time(signals: Signals) -> None:  # SPEC 7.3, 7.5
    @task(timeout_seconds=3, crash_retries=1)
    def dies_once() -> str:
        signals.append("tries", "x")
        time.sleep(1.8)
        if len(signals.lines("tries")) == 1:
            os._exit(1)
        return "done"

    @flow(task_runner=pool())
    def main() -> None:
        assert dies_once.submit().result(PATIENCE) == "done"

    main()


def test_runs_of_workers_of_workers_have_ids_of_their_own() -> None:  # SPEC 6.5, 9.1
    @task
    def own_id(x: int) -> str:
        return task_run.id or ""

    @flow(task_runner=pool())
    def inner() -> list[str]:
        return own_id.map(range(3)).result()

    @task
    def outer(x: int) -> list[str]:
        return [*inner(), *own_id.map(range(3)).result()]

    @flow(task_runner=pool(2))
    def main() -> list[list[str]]:
        return outer.map(range(2)).result(PATIENCE)

    ids = [one for part in main() for one in part]
    assert len(ids) == len(set(ids)) == 12


def test_a_coroutine_that_awaits_itself() -> None:  # SPEC 9.1
    @task
    async def circular() -> None:
        while not hasattr(builtins, "circular_run"):  # noqa: ASYNC110 - nothing to be woken by
            await asyncio.sleep(0.001)
        await builtins.circular_run

    @task
    def parent() -> None:
        run = builtins.circular_run = circular.submit()  # type: ignore[attr-defined]
        run.result(timeout=PATIENCE)

    @flow(task_runner=pool())
    def main() -> None:
        with pytest.raises(WaitCycle):
            parent.submit().result(PATIENCE)

    main()


def test_the_culprit_beside_a_large_value() -> None:  # SPEC 7.7
    @task
    def large() -> bytes:
        return bytes(200_000)

    @task
    def takes(data: bytes, other: Any) -> None: ...

    @flow(task_runner=pool())
    def main() -> None:
        with pytest.raises(SerializationError) as caught:
            takes.submit(large.submit(), Unpicklable()).result(PATIENCE)
        assert caught.value.path == "parameters['other']"

    main()


def test_a_worker_that_cannot_be_started(caplog: pytest.LogCaptureFixture) -> None:  # SPEC 7.5
    @flow(task_runner=pool(start_method="spawn", env={"A=B": "x"}))
    def main() -> None:
        run = inc.submit(1)
        assert "no worker process could be started" in str(run.exception(PATIENCE))
        assert run.state.is_crashed()

    main()


# SPEC 7.3
@pytest.mark.slow
def test_a_coroutine_that_goes_on_waiting_is_stopped_by_force() -> None:
    @task
    def slow() -> None:
        time.sleep(60)

    @task(timeout_seconds=0.5, retries=1)
    async def stubborn() -> None:
        future = slow.submit()
        while True:
            with contextlib.suppress(BaseException):
                await future
                return

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def main() -> str:
        run = stubborn.submit()
        run.wait(PATIENCE)
        name = run.state.name
        current_scope("").dispatcher.cancel_all()
        return name

    assert main() == "TimedOut"
